"Bad input: one line that names the file and the remedy, status 2, and nothing half-written"
import json, pickle, shutil, struct, time, zlib
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from conftest import short, small
from shineon.cli.main import main

def train(model, root, *more): return ['train', '--model', model, '--name', 'faulty', '--vvt_dataroot', str(root), *small, *short, *map(str, more)]

def one(root, pattern): return sorted(Path(root).glob(pattern))[0]

def written(folder): return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*') if p.is_file())

@pytest.fixture
def refused(in_process, monkeypatch, tmp_path_factory, capfd):
    "Call the command line, which must refuse: returns its one line"
    place = tmp_path_factory.mktemp('refused')
    monkeypatch.chdir(place)
    def call(args, *contains):
        capfd.readouterr()
        assert main(list(map(str, args))) == 2
        err = capfd.readouterr().err
        assert err.startswith('shineon: ') and err.count('\n') == 1, err
        for text in contains: assert str(text) in err, (str(text), err)
        assert written(place) == [] # no parameters, no checkpoint, no events, no results
        return err
    return call

# files of a data set

def cut(path, share=.5): path.write_bytes(path.read_bytes()[:int(path.stat().st_size*share)])

def resized(path):
    with Image.open(path) as im: smaller = im.resize((32,64), Image.NEAREST)
    smaller.save(path)

def rewrite(text): return lambda path: path.write_text(text)

def other_flow(path):
    from shineon.core.media import write_flo
    write_flo(path, np.zeros((64,32,2)))

damages = { # where in the data set; what happens to the first such file; what the message says besides its name
    'frame without parse': ('train/train_frames_parsing/*/*001_label.png', Path.unlink, 'no parse file'),
    'frame without joints': ('train/train_frames_keypoint/*/*001*.json', Path.unlink, 'no keypoints file'),
    'frame without DensePose': ('train/densepose/*/*001_IUV.png', Path.unlink, 'no densepose file'),
    'frame without flow': ('train/optical_flow/*/*001.flo', Path.unlink, 'no flow file'),
    'JSON cut in half': ('train/train_frames_keypoint/*/*.json', cut, 'OpenPose'),
    'JSON of something else': ('train/train_frames_keypoint/*/*.json', rewrite('[1, 2]'), 'OpenPose'),
    'joints of another model': ('train/train_frames_keypoint/*/*.json', rewrite(json.dumps(dict(people=[dict(pose_keypoints_2d=[0.]*75)]))), '18 joints'),
    'frame cut short': ('train/train_frames/*/*.png', cut, 'unreadable picture'),
    'frame that is text': ('train/train_frames/*/*.png', rewrite('<html>not found</html>'), 'unreadable picture'),
    'parse cut short': ('train/train_frames_parsing/*/*.png', cut, 'unreadable picture'),
    'DensePose cut short': ('train/densepose/*/*.png', cut, 'unreadable picture'),
    'product photo cut short': ('clothes_person/img/AMY01U/*.png', cut, 'unreadable picture'),
    'no product photo': ('clothes_person/img/AMY01U/*.png', Path.unlink, 'product photo'),
    'flow cut short': ('train/optical_flow/*/*.flo', cut, '.flo'),
    'empty flow': ('train/optical_flow/*/*.flo', rewrite(''), '.flo'),
    'parse of another size': ('train/train_frames_parsing/*/*.png', resized, '32x64'),
    'DensePose of another size': ('train/densepose/*/*.png', resized, '32x64'),
    'flow of another size': ('train/optical_flow/*/*.flo', other_flow, '32x64'),
    'warped garment cut short': ('train/warp-cloth/*/*.png', cut, 'unreadable picture'),
    'no warped garment': ('train/warp-cloth/*/*.png', Path.unlink, 'warp_checkpoint'),
}

@pytest.mark.parametrize('damage', damages)
def test_broken_data(damage, broken, refused):
    pattern, harm, text = damages[damage]
    path = one(broken, pattern)
    harm(path)
    args = train('unet', broken, '--wt_vgg', 0, '--person_inputs', 'agnostic', 'cocopose', 'densepose', 'flow')
    frame = path.name.split('_label')[0].split('_IUV')[0].split('_keypoints')[0].rsplit('.', 1)[0].split('.FOR.')[-1]
    refused(args, text, str(path) if path.exists() else 'AMY01U' if 'product' in damage else frame, '. ')

def test_missing_folders(broken, refused, tmp_path):
    refused(train('warp', tmp_path/'nowhere'), 'no such folder', tmp_path/'nowhere', 'shineon sample')
    refused(train('warp', tmp_path), 'no such folder', 'train_frames', 'shineon sample')
    refused(['tryon', '--name', 'faulty', '--vvt_dataroot', tmp_path/'nowhere', '--checkpoint', tmp_path/'none.pt'], 'none.pt')
    empty = one(broken, 'train/train_frames/*')
    for p in empty.iterdir(): p.unlink()
    refused(train('warp', broken), 'no frames', empty)
    shutil.rmtree(broken/'train'/'train_frames')
    (broken/'train'/'train_frames').mkdir()
    refused(train('warp', broken), 'no videos', broken/'train'/'train_frames')

# options

bad_options = [
    ('warp', '--person_inputs agnostic skeleton', 'skeleton'), ('warp', '--cloth_inputs shirt', 'shirt'), ('warp', '--image_scale 0.9', 'image_scale'),
    ('warp', '--val_fraction 1.5', 'val_fraction'), ('warp', '--batch_size 0', 'batch_size'), ('warp', '--batch_size -4', 'batch_size'), ('warp', '--workers -1', 'workers'),
    ('warp', '--fine_height 100', 'multiples of 16'), ('warp', '--fine_width 0', 'fine_width'), ('warp', '--ngf 0', 'ngf'), ('warp', '--grid_size 1', 'grid_size'),
    ('warp', '--radius -1', 'radius'), ('warp', '--keep_epochs 0 --decay_epochs 0', 'keep_epochs'), ('warp', '--decay_epochs -1', 'decay_epochs'),
    ('warp', '--accumulated_batches 0', 'accumulated_batches'), ('warp', '--display_count 0', 'display_count'), ('warp', '--save_count -1', 'save_count'),
    ('warp', '--val_check_interval 0', 'number of batches'), ('warp', '--val_check_interval 1.5', 'number of batches'), ('warp', '--limit_train_batches 0', 'number of batches'),
    ('warp', '--limit_val_batches 0.0', 'number of batches'), ('warp', '--lr 0', 'lr'), ('warp', '--lr nan', 'lr'), ('warp', '--init_type he', 'kaiming'),
    ('warp', '--init_variance -1', 'init_variance'), ('warp', '--precision 8', 'precision'), ('warp', '--gpu_ids 0,1', 'number of GPUs'), ('warp', '--gpu_ids 0,0', 'gpu_ids'), ('warp', '--gpu_ids cpu', 'gpu_ids'),
    ('unet', '--flow_warp', 'n_frames_total > 1'), ('unet', '--n_frames_total 0', 'n_frames_total'), ('unet', '--n_frames_total -3', 'n_frames_total'),
    ('unet', '--activation tanh', 'swish'), ('unet', '--self_attn --num_attn 9', 'num_attn'), ('unet', '--fine_width 48', 'multiples of 64'),
    ('unet', '--warp_cloth_dir nowhere', 'warp_checkpoint'), ('unet', '--warp_checkpoint nowhere.pt', 'nowhere.pt'), ('unet', '--checkpoint nowhere.pt', 'nowhere.pt'),
    ('unet', '--wt_vgg 1 --vgg_weights nowhere.pth', '--wt_vgg 0'),
]

@pytest.mark.parametrize('model,options,text', bad_options, ids=lambda o: o if str(o).startswith('--') else '')
def test_bad_options(model, options, text, vvt, refused):
    refused(train(model, vvt, *(['--wt_vgg', 0] if model == 'unet' else []), *options.split()), text)

def test_half_precision_needs_a_gpu(vvt, refused): refused(train('warp', vvt, '--precision', 16), 'precision', 'bf16')

@pytest.mark.parametrize('name', ['../x', '/elsewhere/x', '.', 'a/../../x'])
def test_names_that_lead_outside(name, vvt, refused): refused(train('warp', vvt, '--name', name), 'plain name')

def test_perceptual_loss_without_weights(vvt, refused, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    for v in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'): monkeypatch.setenv(v, 'http://127.0.0.1:9') # nobody listens there
    start = time.time()
    refused(train('unet', vvt), '--wt_vgg 0', '--vgg_weights')
    assert time.time() - start < 30
    junk = tmp_path/'vgg.pth'
    junk.write_bytes(b'junk')
    refused(train('unet', vvt, '--vgg_weights', junk), junk, '--wt_vgg 0')

def test_other_commands(refused, tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('years of work')
    refused(['sample', tmp_path/'mine'], 'not a sample set', tmp_path/'mine')
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'years of work'
    refused(['sample', 'set', '--n_frames', 0], 'frame')
    refused(['sample', 'set', '--height', 8], 'too small')
    refused(['demo', '--data', tmp_path/'nowhere'], tmp_path/'nowhere', 'VVT')

# try-on lists

@pytest.mark.parametrize('text,line,says', [
    ('', '', 'empty'), ('\n , \n', '', 'empty'), ('GARMENT,nobody-x1', ', line 1', 'no video nobody-x1'), ('GARMENT,VIDEO\nclothes/none.png,VIDEO', ', line 2', 'clothes/none.png'),
    ('GARMENT,VIDEO,yes', ', line 1', '3 values'), ('GARMENT', ', line 1', '1 values'), ('GARMENT,../../VIDEO', ', line 1', 'no video')],
    ids=['empty', 'blank', 'unknown video', 'missing garment', 'three columns', 'one column', 'video outside'])
def test_tryon_lists(text, line, says, vvt, warp_run, refused, tmp_path):
    garment, video = one(vvt, 'clothes_person/img/*/*.png'), one(vvt, 'test/test_frames/*').name
    file = tmp_path/'list.csv'
    file.write_text(text.replace('GARMENT', str(garment)).replace('VIDEO', video))
    refused(['tryon', '--name', 'faulty', '--vvt_dataroot', vvt, '--checkpoint', warp_run/'checkpoints'/'last.pt', '--tryon_list', file], f'{file}{line}', says)

def test_tryon_options(vvt, warp_run, unet_run, refused, tmp_path):
    warp, unet = warp_run/'checkpoints'/'last.pt', unet_run/'checkpoints'/'last.pt'
    on = ['tryon', '--name', 'faulty', '--vvt_dataroot', vvt]
    refused(on, 'no checkpoint', '--checkpoint')
    refused(['tryon', '--name', 'faulty', '--checkpoint', warp], 'vvt_dataroot')
    refused([*on, '--checkpoint', warp, '--out_fmt', 'avi'], 'avi', 'mp4')
    refused([*on, '--checkpoint', warp, '--tryon_list', tmp_path/'none.csv'], tmp_path/'none.csv', 'CSV')
    refused([*on, '--checkpoint', warp, '--datamode', 'validate'], 'validate_frames')
    refused([*on, '--checkpoint', warp, '--fps', 0], 'fps')
    refused([*on, '--checkpoint', unet, '--fine_height', 128, '--fine_width', 64, '--tryon_list', vvt/'tryon_list.csv'], '--warp_checkpoint')
    refused([*on, '--checkpoint', unet], 'image_scale') # frames are smaller than the default size
    binary = tmp_path/'binary.csv'
    binary.write_bytes(bytes(range(128, 256)))
    refused([*on, '--checkpoint', warp, '--tryon_list', binary], binary)

def test_random_tryon_with_one_garment(broken, warp_run, refused):
    shutil.rmtree(one(broken, 'test/test_frames/*'))
    refused(['tryon', '--name', 'faulty', '--vvt_dataroot', broken, '--checkpoint', warp_run/'checkpoints'/'last.pt', '--random_tryon'], 'two garments')

# checkpoints

def test_checkpoint_of_another_model(vvt, warp_run, unet_run, refused):
    warp, unet = warp_run/'checkpoints'/'last.pt', unet_run/'checkpoints'/'last.pt'
    refused(train('unet', vvt, '--wt_vgg', 0, '--checkpoint', warp), warp, "'warp'", "'unet'")
    refused(train('unet', vvt, '--wt_vgg', 0, '--warp_checkpoint', unet), unet, "'unet'", "'warp'")
    refused(train('warp', vvt, '--checkpoint', unet), unet, "'unet'", "'warp'")
    refused(['tryon', '--name', 'faulty', '--vvt_dataroot', vvt, '--checkpoint', unet, '--warp_checkpoint', unet], unet, "'warp'")

def test_checkpoint_for_another_size(vvt, unet_run, refused, tmp_path):
    from shineon.models.files import save_model
    from shineon.models.warp import WarpModule
    save_model(tmp_path/'wide.pt', WarpModule(fine_height=64, fine_width=64, ngf=4))
    refused(train('unet', vvt, '--wt_vgg', 0, '--warp_checkpoint', tmp_path/'wide.pt'), '64x64', 'fine_height')
    save_model(tmp_path/'narrow.pt', WarpModule(fine_height=80, fine_width=64, ngf=4))
    refused(['tryon', '--name', 'faulty', '--vvt_dataroot', vvt, '--checkpoint', unet_run/'checkpoints'/'last.pt', '--warp_checkpoint', tmp_path/'narrow.pt'], 'multiples of 64')

def _run_me(path): Path(path).write_text('this must not run')

class Payload:
    "Something that writes a file when it is unpickled"
    def __init__(self, path): self.path = path
    def __reduce__(self): return _run_me, (str(self.path),)

def test_damaged_and_hostile_checkpoints(vvt, warp_run, refused, tmp_path):
    file = tmp_path/'x.pt'
    good = (warp_run/'checkpoints'/'last.pt').read_bytes()
    state = torch.load(warp_run/'checkpoints'/'last.pt', weights_only=True)
    marks = [tmp_path/f'mark{i}' for i in range(3)]
    def saved(x): torch.save(x, file)
    for write in (lambda: file.write_bytes(good[:len(good)//2]), lambda: file.write_bytes(b''), lambda: file.write_text('<html>'), lambda: file.write_bytes(bytes(1000)),
                  lambda: saved(state['state']), lambda: saved(state | dict(format='other')), lambda: saved(state | dict(config=state['config'] | dict(ngf=8))),
                  lambda: saved(state | dict(config=state['config'] | dict(surprise=1))), lambda: saved(state | dict(more=Payload(marks[0]))),
                  lambda: file.write_bytes(pickle.dumps(Payload(marks[1]))), lambda: torch.save(Payload(marks[2]), file, _use_new_zipfile_serialization=False)):
        write()
        for args in (train('warp', vvt, '--checkpoint', file), ['tryon', '--name', 'faulty', '--vvt_dataroot', vvt, '--checkpoint', file]): refused(args, file)
    assert not any(m.exists() for m in marks)
    torch.load(file, weights_only=False) # the test's own payload would run
    assert marks[2].exists()

# through a kernel

def one_line(r):
    assert r.status == 2 and r.err.startswith('shineon: ') and r.err.count('\n') == 1, r.err
    assert 'Traceback' not in r.err + r.out
    return r.err

def test_fault_through_a_kernel(vvt, shineon_command, tmp_path):
    command = train('warp', tmp_path/'nowhere')
    err = one_line(shineon_command(*command, cwd=tmp_path))
    assert str(tmp_path/'nowhere') in err and 'shineon sample' in err
    assert written(tmp_path) == ['experiments/faulty/train_warp.ipynb'] # kept, with the error in it; the name is still free
    assert 'DataError' in (tmp_path/'experiments'/'faulty'/'train_warp.ipynb').read_text()

def hollow(path):
    "Keep a PNG's structure and checksums whole, and half of its pixels"
    data = path.read_bytes()
    at, kept = 8, data[:8]
    while at < len(data):
        n, = struct.unpack('>I', data[at:at+4])
        kind, body = data[at+4:at+8], data[at+8:at+8+n]
        if kind == b'IDAT': body = body[:len(body)//2]
        kept += struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        at += 12 + n
    path.write_bytes(kept)

def test_fault_in_a_worker(broken, shineon_command, tmp_path):
    "A frame that only turns out to be broken when a worker process reads it, in the middle of an epoch"
    path = sorted((broken/'train'/'train_frames').glob('*/*.png'))[-1]
    hollow(path)
    err = one_line(shineon_command(*train('warp', broken, '--workers', 2, '--val_fraction', 0, '--no_shuffle'), cwd=tmp_path))
    assert 'unreadable picture' in err and str(path) in err and 'remove its frame' in err
    assert not [n for n in written(tmp_path) if 'checkpoints' in n or n.endswith(('metrics.json', '.part'))]
