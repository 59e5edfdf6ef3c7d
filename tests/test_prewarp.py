"Warped garments as files: read back in every layout, gone on with, refused; the same training as with the warp itself"
import shutil

import pytest, torch
from PIL import Image
from conftest import once
from shineon.cli.main import main
from shineon.core.errors import OptionError
from shineon.core.files import lock_beside
from shineon.data.clips import ClipReader
from shineon.data.layouts import LAYOUTS, settle_forms
from shineon.models.files import load_model, read_checkpoint, save_model
from shineon.models.unetmask import UNetMask
from shineon.models.warp import WarpModule
from shineon.sample.layouts import SAMPLE_LAYOUTS, make_layout
from shineon.train.callback import WarpCloth
from shineon.tryon.prewarp import prewarp

height, width = 128, 96

@pytest.fixture(scope='session')
def made(shared):
    "A sample set of each layout, and warps"
    folder = shared/'prewarp'
    def make():
        for n in ('vvt', *SAMPLE_LAYOUTS):
            make_layout(folder/n, n, n_train=2, n_test=2, n_frames=2, height=height, width=width, seed=3)
        make_layout(folder/'narrow', 'viton', n_train=3, n_test=2, n_frames=2, height=height, width=64, seed=3)
        for seed,columns in ((0, width), (1, width), (2, 64)):
            torch.manual_seed(seed)
            warp = WarpModule(fine_height=height, fine_width=columns, ngf=4)
            torch.nn.init.normal_(warp.regression[-1].bias, 0, .08)
            save_model(folder/f'warp{seed}.pt', warp)
        save_model(folder/'unet.pt', UNetMask(person_inputs=['masked'], ngf=4, keep_person=True))
    once(shared, 'prewarp', make)
    return folder

def files_in(folder): return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob('*.png')}

def videos_of(name, root, mode, where):
    layout = LAYOUTS['vvt' if name == 'vvt' else SAMPLE_LAYOUTS[name].dataset]
    videos = layout.videos(root, mode, str(where))
    settle_forms(videos, ['parse', 'keypoints'])
    return videos

def bent(warp, clip):
    with torch.no_grad(): return warp.eval()({k: x[None] for k,x in clip.items() if isinstance(x, torch.Tensor)})

@pytest.mark.parametrize('mode', ['train', 'test'])
@pytest.mark.parametrize('name', ['vvt', *SAMPLE_LAYOUTS])
def test_files_are_read_back(made, name, mode, tmp_path):
    "In each layout each frame has the garment and the mask that the warp gives, rounded to 8 bits"
    made_files = prewarp(made/name, made/'warp0.pt', datamode=mode, warp_cloth_dir=str(tmp_path/'w'), workers=2)
    videos, warp = videos_of(name, made/name, mode, tmp_path/'w'), load_model(made/'warp0.pt')
    reader = ClipReader(warp.config['person_inputs'], fine_height=height, fine_width=width, warped=True)
    assert made_files == sum(len(v.frames) for v in videos) == 4
    for v in videos:
        for i in range(len(v.frames)):
            clip = reader(v, i)
            true = bent(warp, clip)
            assert (clip['warped_cloth'] - true['warped_cloth'][0]).abs().max() < 1.02/255
            assert (clip['warped_cloth_mask'] - true['warped_cloth_mask'][0]).abs().max() < .52/255
    assert (clip['warped_cloth_mask'] % 1).any() # a soft edge

def test_a_white_garment_is_no_hole(made, tmp_path):
    shutil.copytree(made/'viton', tmp_path/'viton')
    for photo in (tmp_path/'viton'/'train'/'cloth').iterdir(): Image.new('RGB', (width, height), 'white').save(photo)
    prewarp(tmp_path/'viton', made/'warp0.pt', warp_cloth_dir='w')
    video = videos_of('viton', tmp_path/'viton', 'train', 'w')[0]
    reader = ClipReader(fine_height=height, fine_width=width, person_inputs=['cocopose'], warped=True)
    clip = reader(video, 0)
    assert clip['warped_cloth'].min() == 1 and clip['warped_cloth_mask'].mean() > .1
    del video.frames[0].files['warped_mask'] # as files were before they had a mask
    assert reader(video, 0)['warped_cloth_mask'].max() == 0

def test_what_is_there_stays(made, tmp_path, capsys):
    where = tmp_path/'w'
    how = dict(warp_cloth_dir=str(where), workers=2)
    prewarp(made/'vvt', made/'warp0.pt', **how)
    whole = files_in(where)
    gone, damaged, unmasked = sorted(whole)[0], sorted(whole)[2], sorted(whole)[5]
    (where/gone).unlink()
    (where/damaged).write_bytes((where/damaged).read_bytes()[:60])
    (where/unmasked).write_bytes(b'')
    assert prewarp(made/'vvt', made/'warp0.pt', **how) == 3
    assert '3 warped garments made, 1 were there' in capsys.readouterr().out
    now = files_in(where)
    assert now.keys() == whole.keys() and sum(now[f] == whole[f] for f in now) == 2
    with pytest.raises(OptionError, match='4 warped garments there were not made by this warp') as e:
        prewarp(made/'vvt', made/'warp1.pt', **how)
    assert '--overwrite' in str(e.value) and files_in(where) == now
    assert prewarp(made/'vvt', made/'warp1.pt', overwrite=True, **how) == 4
    assert prewarp(made/'vvt', made/'warp1.pt', **how) == 0

def test_a_jpeg_in_its_place(made, tmp_path):
    "It is refused, and with --overwrite it goes: two files of one name would be refused"
    where = tmp_path/'w'
    prewarp(made/'vvt', made/'warp0.pt', warp_cloth_dir=str(where))
    for p in list(where.rglob('*.png')):
        if 'mask' not in p.name: Image.open(p).save(p.with_suffix('.jpg'))
        p.unlink()
    again = lambda **how: prewarp(made/'vvt', made/'warp0.pt', warp_cloth_dir=str(where), **how)
    with pytest.raises(OptionError, match='4 warped garments there'): again()
    assert again(overwrite=True) == 4
    assert not list(where.rglob('*.jpg')) and len(list(where.rglob('*.png'))) == 8

wrong = {
    'no such set': (['nowhere'], 'no layout knows this folder: nowhere'),
    'no layout of this name': (['{vvt}', '--dataset', 'hat'], "dataset is 'hat'"),
    'several sets': (['{vvt}', '--dataset', 'viton_vvt'], 'a dataset of several sets has no folder of its own'),
    'no warp': (['{vvt}', '--warp_checkpoint', 'nowhere.pt'], 'no such checkpoint: nowhere.pt'),
    'no such videos': (['{vvt}', '--datamode', 'valid'], 'no such folder'),
    'a file where the folder should be': (['{vvt}', '--warp_cloth_dir', '{file}'], 'this folder cannot be made'),
    'no batch': (['{vvt}', '--batch_size', '0'], 'batch_size is 0'),
    'no file of a frame': (['{broken}'], 'no keypoints file for this frame'),
}

@pytest.mark.parametrize('args, message', wrong.values(), ids=wrong)
def test_what_cannot_be_is_said_in_one_line(made, args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'file').touch()
    shutil.copytree(made/'vvt', tmp_path/'broken')
    next((tmp_path/'broken'/'train'/'train_frames_keypoint').rglob('*.json')).unlink()
    places = dict(vvt=made/'vvt', file=tmp_path/'file', broken=tmp_path/'broken')
    usual = '--warp_checkpoint', str(made/'warp0.pt'), '--warp_cloth_dir', str(tmp_path/'w')
    assert main(['prewarp', *usual, *(a.format(**places) for a in args)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1
    assert not (tmp_path/'w').exists()

def test_the_same_training_as_with_the_warp(made, tmp_path, monkeypatch, in_process, capsys):
    "The losses of the first steps are equal but for the rounding of garments to 8 bits"
    root, warp = made/'narrow', made/'warp2.pt'
    assert main(['prewarp', str(root), '--warp_checkpoint', str(warp), '--warp_cloth_dir', str(tmp_path/'w')]) == 0
    small = '--batch_size 2 --workers 0 --val_fraction 0 --keep_epochs 1 --decay_epochs 0 --seed 5 --wt_vgg 0'
    inputs = ['--weights', made/'unet.pt', '--fine_height', height, '--fine_width', 64, '--gpu_ids', -1]
    common = ['train', '--model', 'unet', '--dataset', 'viton', '--viton_dataroot', root, '--experiments_dir', tmp_path]
    as_it_is = WarpCloth.prepare
    def rounded(self, clip):
        made = as_it_is(self, clip)
        in_bytes = {k: ((made[k] + 1)*127.5).round()/127.5 - 1 for k in made if k == 'warped_cloth'}
        return made | in_bytes | dict(warped_cloth_mask=(made['warped_cloth_mask']*255).round()/255)
    def losses(name, *how):
        args = list(map(str, [*common, '--name', name, *small.split(), *inputs, *how]))
        assert main(args) == 0, capsys.readouterr().err
        file = tmp_path/name/'checkpoints'/'last.pt'
        return read_checkpoint(file)['more']['training']['recorder']['losses'].tolist()
    files, warped = losses('files', '--warp_cloth_dir', tmp_path/'w'), losses('warp', '--warp_checkpoint', warp)
    assert len(files) == 3 and files == pytest.approx(warped, rel=5e-4) and files != warped
    monkeypatch.setattr(WarpCloth, 'prepare', rounded)
    again = losses('rounded', '--warp_checkpoint', warp)
    assert files == pytest.approx(again, rel=1e-5)

def test_one_at_a_time(made, held_by_another, tmp_path):
    "Two warps in one folder would mix their garments"
    folder = tmp_path/'w'
    pid = held_by_another(lock_beside(folder)).pid
    with pytest.raises(OptionError, match=str(pid)): prewarp(made/'vvt', made/'warp0.pt', warp_cloth_dir=str(folder))
    assert not files_in(folder)
