"Bad input: one line that names the file and the remedy, status 2, and nothing half-written"
import json, pickle, re, shutil, struct, time, zlib
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from conftest import short, size, small
from shineon.cli.main import main

def train(model, root, *more):
    "Command line of a small training run"
    args = ['train', '--model', model, '--name', 'faulty', '--vvt_dataroot', str(root)]
    return [*args, *small, *short, *map(str, more)]

def last(run): return run/'checkpoints'/'last.pt'

def tryon(checkpoint, root, *more):
    "Command line of a try-on"
    return ['tryon', '--name', 'faulty', '--vvt_dataroot', root, '--checkpoint', checkpoint, *more]

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

def cut(path): path.write_bytes(path.read_bytes()[:path.stat().st_size//2])

def resized(path):
    with Image.open(path) as im: smaller = im.resize((32,64), Image.NEAREST)
    smaller.save(path)

def rewrite(text): return lambda path: path.write_text(text)

def other_flow(path):
    from shineon.core.media import write_flo
    write_flo(path, np.zeros((64,32,2)))

joints_19 = json.dumps(dict(people=[dict(pose_keypoints_2d=[0.]*57)]))

damages = { # where in the data set; what happens to the first such file; what the message says besides its name
    'frame without parse': ('train/train_frames_parsing/*/*001_label.png', Path.unlink, 'no parse file'),
    'frame without joints': ('train/train_frames_keypoint/*/*001*.json', Path.unlink, 'no keypoints file'),
    'frame without DensePose': ('train/densepose/*/*001_IUV.png', Path.unlink, 'no densepose file'),
    'frame without flow': ('train/optical_flow/*/*001.flo', Path.unlink, 'no flow file'),
    'JSON cut in half': ('train/train_frames_keypoint/*/*.json', cut, 'OpenPose'),
    'JSON of something else': ('train/train_frames_keypoint/*/*.json', rewrite('[1, 2]'), 'OpenPose'),
    'joints of another model': ('train/train_frames_keypoint/*/*.json', rewrite(joints_19), '57 numbers'),
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

def what_is_missing(damage, path):
    "What the message about a missing file names: the garment, or the frame"
    if 'product' in damage: return 'AMY01U'
    frame = re.split('_label|_IUV|_keypoints', path.name)[0]
    return frame.rsplit('.', 1)[0].split('.FOR.')[-1]

@pytest.mark.parametrize('damage', damages)
def test_broken_data(damage, broken, refused):
    pattern, harm, text = damages[damage]
    path = one(broken, pattern)
    harm(path)
    args = train('unet', broken, '--wt_vgg', 0, '--person_inputs', 'agnostic', 'cocopose', 'densepose', 'flow')
    refused(args, text, str(path) if path.exists() else what_is_missing(damage, path), '. ')

def test_missing_folders(broken, refused, tmp_path):
    refused(train('warp', tmp_path/'nowhere'), 'no such folder', tmp_path/'nowhere', 'shineon sample')
    refused(train('warp', tmp_path), 'no such folder', 'train_frames', 'shineon sample')
    refused(tryon(tmp_path/'none.pt', tmp_path/'nowhere'), 'none.pt')
    empty = one(broken, 'train/train_frames/*')
    for p in empty.iterdir(): p.unlink()
    refused(train('warp', broken), 'no frames', empty)
    shutil.rmtree(broken/'train'/'train_frames')
    (broken/'train'/'train_frames').mkdir()
    refused(train('warp', broken), 'no videos', broken/'train'/'train_frames')

# options

bad_warps = {
    '--person_inputs agnostic skeleton': 'skeleton', '--cloth_inputs shirt': 'shirt',
    '--image_scale 0.9': 'image_scale', '--val_fraction 1.5': 'val_fraction',
    '--batch_size 0': 'batch_size', '--batch_size -4': 'batch_size',
    '--workers -1': 'workers', '--fine_height 100': 'multiples of 16', '--fine_width 0': 'fine_width', '--ngf 0': 'ngf',
    '--grid_size 1': 'grid_size', '--radius -1': 'radius', '--keep_epochs 0 --decay_epochs 0': 'keep_epochs',
    '--decay_epochs -1': 'decay_epochs', '--accumulated_batches 0': 'accumulated_batches',
    '--display_count 0': 'display_count', '--save_count -1': 'save_count',
    '--val_check_interval 0': 'number of batches', '--val_check_interval 1.5': 'number of batches',
    '--limit_train_batches 0': 'number of batches', '--limit_val_batches 0.0': 'number of batches',
    '--lr 0': 'lr', '--lr nan': 'lr', '--init_type he': 'kaiming', '--init_variance -1': 'init_variance',
    '--precision 8': 'precision', '--gpu_ids 0,1': 'number of GPUs', '--gpu_ids 0,0': 'gpu_ids',
    '--gpu_ids cpu': 'gpu_ids'}
bad_unets = {
    '--flow_warp': 'n_frames_total > 1', '--n_frames_total 0': 'n_frames_total',
    '--n_frames_total -3': 'n_frames_total',
    '--activation tanh': 'swish', '--self_attn --num_attn 9': 'num_attn', '--fine_width 48': 'multiples of 64',
    '--warp_cloth_dir nowhere': 'warp_checkpoint', '--warp_checkpoint nowhere.pt': 'nowhere.pt',
    '--checkpoint nowhere.pt': 'nowhere.pt', '--wt_vgg 1 --vgg_weights nowhere.pth': '--wt_vgg 0'}
bad_options = [(model, options, text) for model,bad in dict(warp=bad_warps, unet=bad_unets).items()
               for options,text in bad.items()]

@pytest.mark.parametrize('model,options,text', bad_options, ids=lambda o: o if str(o).startswith('--') else '')
def test_bad_options(model, options, text, vvt, refused):
    without_vgg = ['--wt_vgg', 0] if model == 'unet' else []
    refused(train(model, vvt, *without_vgg, *options.split()), text)

def test_half_precision_needs_a_gpu(vvt, refused):
    refused(train('warp', vvt, '--precision', 16), 'precision', 'bf16')

@pytest.mark.parametrize('name', ['../x', '/elsewhere/x', '.', 'a/../../x'])
def test_names_that_lead_outside(name, vvt, refused):
    refused(train('warp', vvt, '--name', name), 'plain name')

def test_perceptual_loss_without_weights(vvt, refused, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    for v in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(v, 'http://127.0.0.1:9') # nobody listens there
    monkeypatch.setattr('urllib.request._opener', None) # which goes on with the proxies of its first request
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

bad_lists = { # its text, the line that the message names, and what it says
    'empty': ('', '', 'empty'),
    'blank': ('\n , \n', '', 'empty'),
    'unknown video': ('GARMENT,nobody-x1', ', line 1', 'no video nobody-x1'),
    'missing garment': ('GARMENT,VIDEO\nclothes/none.png,VIDEO', ', line 2', 'clothes/none.png'),
    'three columns': ('GARMENT,VIDEO,yes', ', line 1', '3 values'),
    'one column': ('GARMENT', ', line 1', '1 values'),
    'video outside': ('GARMENT,../../VIDEO', ', line 1', 'no video')}

@pytest.mark.parametrize('text,line,says', bad_lists.values(), ids=bad_lists)
def test_tryon_lists(text, line, says, vvt, warp_run, refused, tmp_path):
    garment, video = one(vvt, 'clothes_person/img/*/*.png'), one(vvt, 'test/test_frames/*').name
    file = tmp_path/'list.csv'
    file.write_text(text.replace('GARMENT', str(garment)).replace('VIDEO', video))
    refused(tryon(last(warp_run), vvt, '--tryon_list', file), f'{file}{line}', says)

def test_tryon_options(vvt, warp_run, unet_run, refused, tmp_path):
    warp, unet = last(warp_run), last(unet_run)
    refused(['tryon', '--name', 'faulty', '--vvt_dataroot', vvt], 'no checkpoint', '--checkpoint')
    refused(['tryon', '--name', 'faulty', '--checkpoint', warp], 'vvt_dataroot')
    refused(tryon(warp, vvt, '--out_fmt', 'avi'), 'avi', 'mp4')
    refused(tryon(warp, vvt, '--tryon_list', tmp_path/'none.csv'), tmp_path/'none.csv', 'CSV')
    refused(tryon(warp, vvt, '--datamode', 'validate'), 'validate_frames')
    refused(tryon(warp, vvt, '--fps', 0), 'fps')
    refused(tryon(unet, vvt, *size, '--tryon_list', vvt/'tryon_list.csv'), '--warp_checkpoint')
    refused(tryon(unet, vvt), 'image_scale') # frames are smaller than the default size
    binary = tmp_path/'binary.csv'
    binary.write_bytes(bytes(range(128, 256)))
    refused(tryon(warp, vvt, '--tryon_list', binary), binary)

def test_random_tryon_with_one_garment(broken, warp_run, refused):
    shutil.rmtree(one(broken, 'test/test_frames/*'))
    refused(tryon(last(warp_run), broken, '--random_tryon'), 'two garments')

# checkpoints

def test_checkpoint_of_another_model(vvt, warp_run, unet_run, refused):
    warp, unet = last(warp_run), last(unet_run)
    refused(train('unet', vvt, '--wt_vgg', 0, '--checkpoint', warp), warp, "'warp'", "'unet'")
    refused(train('unet', vvt, '--wt_vgg', 0, '--warp_checkpoint', unet), unet, "'unet'", "'warp'")
    refused(train('warp', vvt, '--checkpoint', unet), unet, "'unet'", "'warp'")
    refused(tryon(unet, vvt, '--warp_checkpoint', unet), unet, "'warp'")

def test_checkpoint_for_another_size(vvt, unet_run, refused, tmp_path):
    from shineon.models.files import save_model
    from shineon.models.warp import WarpModule
    wide, narrow = tmp_path/'wide.pt', tmp_path/'narrow.pt'
    save_model(wide, WarpModule(fine_height=64, fine_width=64, ngf=4))
    refused(train('unet', vvt, '--wt_vgg', 0, '--warp_checkpoint', wide), '64x64', 'fine_height')
    save_model(narrow, WarpModule(fine_height=80, fine_width=64, ngf=4))
    refused(tryon(last(unet_run), vvt, '--warp_checkpoint', narrow), 'multiples of 64')

def _run_me(path): Path(path).write_text('this must not run')

class Payload:
    "Something that writes a file when it is unpickled"
    def __init__(self, path): self.path = path
    def __reduce__(self): return _run_me, (str(self.path),)

def test_damaged_and_hostile_checkpoints(vvt, warp_run, refused, tmp_path):
    file = tmp_path/'x.pt'
    good = last(warp_run).read_bytes()
    state = torch.load(last(warp_run), weights_only=True)
    marks = [tmp_path/f'mark{i}' for i in range(3)]
    def other(**changes): torch.save(state | changes, file)
    writers = (
        lambda: file.write_bytes(good[:len(good)//2]),
        lambda: file.write_bytes(b''),
        lambda: file.write_text('<html>'),
        lambda: file.write_bytes(bytes(1000)),
        lambda: torch.save(state['state'], file),
        lambda: other(format='other'),
        lambda: other(config=state['config'] | dict(ngf=8)),
        lambda: other(config=state['config'] | dict(surprise=1)),
        lambda: other(more=Payload(marks[0])),
        lambda: file.write_bytes(pickle.dumps(Payload(marks[1]))),
        lambda: torch.save(Payload(marks[2]), file, _use_new_zipfile_serialization=False))
    for write in writers:
        write()
        for args in (train('warp', vvt, '--checkpoint', file), tryon(file, vvt)): refused(args, file)
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
    notebook = tmp_path/'experiments'/'faulty'/'train_warp.ipynb'
    assert written(tmp_path) == [str(notebook.relative_to(tmp_path))] # with the error in it; the name is still free
    assert 'DataError' in notebook.read_text()

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
    command = train('warp', broken, '--workers', 2, '--val_fraction', 0, '--no_shuffle')
    err = one_line(shineon_command(*command, cwd=tmp_path))
    assert 'unreadable picture' in err and str(path) in err and 'remove its frame' in err
    assert not [n for n in written(tmp_path) if 'checkpoints' in n or n.endswith(('metrics.json', '.part'))]
