"Data sets of the field: equal pictures give equal tensors in each layout, which serves for training and as truth"
import json
from pathlib import Path

import numpy as np, pytest, torch
from conftest import once
from shineon.cli.main import main
from shineon.core.media import read_picture, write_png
from shineon.data.clips import ClipReader
from shineon.data.formats import PARSE
from shineon.data.frame_files import FILES, ResizeCrop
from shineon.data.labels import DENSEPOSE
from shineon.data.layouts import LAYOUTS, find_layout, settle_forms
from shineon.sample.layouts import SAMPLE_LAYOUTS, layout_files, make_layout, sample_pictures

entries = {e.name: e for e in SAMPLE_LAYOUTS.values()}
height, width = 128, 96
numbers = dict(n_train=3, n_test=2, n_frames=2)

@pytest.fixture(scope='session')
def sets(shared):
    "The same drawings in each layout: name -> folder"
    roots = {n: shared/'layouts'/n for n in ('vvt', *entries)}
    def make():
        for n,root in roots.items(): make_layout(root, n, height=height, width=width, seed=3, **numbers)
    once(shared, 'layouts', make)
    return roots

def files_of(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob('*') if p.is_file()}

# equal pictures

def frames_of(layout, root, mode):
    "Each frame of a set with its video, in the order in which they were drawn"
    videos = layout.videos(root, mode)
    kinds = ['parse', 'keypoints', *{'densepose'} & set(videos[0].frames[0].files)]
    settle_forms(videos, kinds)
    by_frame = {Path(f.name).stem: (v, i) for v in videos for i,f in enumerate(v.frames)}
    return videos, by_frame

def frame_name(entry, names): # stem of a picture's file in that layout
    return Path(next(iter(entry.paths(names)))).stem

def read_all(layout, root, mode, inputs, name_of):
    "Clips by the names that the frames have as VVT has them"
    videos, by_frame = frames_of(layout, root, mode)
    reader = ClipReader(inputs, ['cloth', 'cloth_mask'], fine_height=height, fine_width=width, warped=True)
    names = [p for p in sample_pictures(**numbers) if p['mode'] == mode]
    return {p['frame']: (reader(*by_frame[name_of(p)]), by_frame[name_of(p)]) for p in names}

def joints_of(video, i):
    crop, files = ResizeCrop((height,width), height, width), video.frames[i].files
    return FILES['keypoints'].load(files['keypoints'], crop, video.forms.get('keypoints', ''), files)

def neck_of(files): # where CP-VTON+ has a label of its own
    parse, parts = read_picture(files['parse'], 'L'), read_picture(files['densepose'])[...,0]
    torso = np.isin(parts, [DENSEPOSE['torso-front'], DENSEPOSE['torso-back']])
    return torch.from_numpy(torso & (parse == PARSE['face']))

exact = {'viton': ['agnostic', 'cocopose'], 'viton_plus': ['cocopose'], 'mpv': ['agnostic', 'cocopose'],
         'vitonhd': ['agnostic', 'cocopose'], 'dresscode': ['agnostic'],
         'own': ['agnostic', 'cocopose', 'densepose', 'flow']} # inputs that are the same to the last bit
of_all = 'image', 'cloth', 'cloth_mask', 'im_cloth', 'im_cloth_mask', 'warped_cloth', 'warped_cloth_mask'
with_parts = 'vitonhd', 'dresscode'

@pytest.mark.parametrize('mode', ('train', 'test'))
@pytest.mark.parametrize('name', entries)
def test_equal_pictures_give_equal_tensors(sets, name, mode):
    entry, vvt = entries[name], LAYOUTS['vvt']
    inputs = list(dict.fromkeys(['agnostic', 'cocopose', *exact[name], *['densepose']*(name in with_parts)]))
    found = read_all(LAYOUTS[entry.dataset], sets[name], mode, inputs, lambda p: frame_name(entry, p))
    true = read_all(vvt, sets['vvt'], mode, [*inputs, 'densepose'], lambda p: p['frame'])
    assert len(found) == len(true) == numbers[f'n_{mode}']*numbers['n_frames']
    for frame,(clip,place) in found.items():
        as_vvt, vvt_place = true[frame]
        for k in (*of_all, *exact[name]): assert torch.equal(clip[k], as_vvt[k]), (frame, k)
        assert clip['image'].std() > .1 and (clip['cocopose'] > 0).any() and clip['im_cloth_mask'].any()
        off = np.abs(joints_of(*place) - joints_of(*vvt_place)).max()
        assert off < (.01 if name == 'dresscode' else 1e-5), (frame, off) # its numbers are rounded
        if name in with_parts: # no U and V there
            assert torch.equal(clip['densepose'][:,0], as_vvt['densepose'][:,0]) and clip['densepose'][:,0].max() > -1
        if name == 'viton_plus': # the neck is no face there, and so is not kept
            neck = neck_of(vvt_place[0].frames[vvt_place[1]].files)
            differ = (clip['agnostic'] != as_vvt['agnostic'])[0].any(0)
            assert neck.any() and not (differ & ~neck).any()

def test_each_layout_has_its_own_numbers(sets):
    "A reader that took all labels for LIP's would fail above: the files do differ"
    def labels(pattern): return set(np.unique(read_picture(sorted(pattern)[0], 'L')).tolist())
    lip = labels(sets['viton'].glob('train/image-parse/*'))
    assert labels(sets['viton_plus'].glob('train/image-parse-new/*')) - lip == {20}
    assert labels(sets['dresscode'].glob('upper_body/label_maps/*')) != lip
    length = lambda path: np.size(json.loads(path.read_text())['people'][0]['pose_keypoints_2d'])
    assert {length(p) for p in sets['vitonhd'].glob('*/openpose_json/*')} == {75}
    rows = json.loads(next(sets['dresscode'].glob('upper_body/keypoints/*')).read_text())['keypoints']
    assert np.shape(rows) == (18,4) and np.max(rows) > height

# lists

@pytest.mark.parametrize('name', entries)
def test_paired_and_unpaired_lists_are_apart(sets, name):
    entry, root = entries[name], sets[name]
    layout = find_layout(root)
    assert layout.name == entry.dataset
    for file,mode,worn in entry.lists:
        videos = layout.videos(root, mode, data_list=file)
        assert not [v for v in videos if v.fault or v.cloth_fault]
        pairs = layout.pairs(root, videos, mode, data_list=file)
        assert {c.stem == v.cloth.stem for c,v in pairs} == {worn}, file
        n = numbers[f'n_{mode}']*numbers['n_frames']
        assert len(pairs) == sum(len(v.frames) for v in videos) == n
    assert {(mode, worn) for _,mode,worn in entry.lists} >= {('test', True), ('test', False)}

def test_a_list_does_not_change_what_is_worn(sets):
    layout, root = LAYOUTS['vitonhd'], sets['vitonhd'] # its list for training is unpaired
    of = {l: {v.id: v.cloth for v in layout.videos(root, 'train', data_list=l)} for l in ('', 'train_pairs_same.txt')}
    assert of[''] == of['train_pairs_same.txt'] and all(Path(c).stem == k for k,c in of[''].items())

# the command

def test_same_seed_same_bytes(sets, tmp_path, capsys):
    size = ['--height', height, '--width', width, '--n_train', 3, '--n_test', 2, '--n_frames', 2]
    command = ['sample', tmp_path/'a b', '--layout', 'mpv', *size, '--seed']
    assert main([*map(str, command), '3']) == 0
    assert f"--dataset mpv --mpv_dataroot '{tmp_path/'a b'}'" in capsys.readouterr().out
    assert files_of(tmp_path/'a b') == files_of(sets['mpv'])
    assert set(files_of(sets['mpv'])) == layout_files('mpv', **numbers)
    assert main([*map(str, command), '4']) == 0 # in place of the older one
    assert files_of(tmp_path/'a b').keys() == files_of(sets['mpv']).keys()
    assert files_of(tmp_path/'a b') != files_of(sets['mpv'])

no_sample = { # options, message
    'no such layout': (['--layout', 'hat'], "layout is 'hat'. Choose from vvt, viton,"),
    'another shape than its joints': (['--layout', 'dresscode', '--width', '128'], 'pictures of the shape of 384x512'),
    'nobody else for an unpaired list': (['--layout', 'vitonhd', '--n_train', '1'], 'there is one train video'),
    'none of its frames': (['--layout', 'own', '--every', '0'], 'every is 0'),
    'parts of videos': (['--every', '2'], 'the layout of VVT holds whole videos'),
    'no videos': (['--layout', 'mpv', '--n_train', '0', '--n_test', '0'], 'at least one video'),
}

taken = {'thesis': 'not a sample set and will not be overwritten', 'ours': 'mine.txt'} # folder, message

few = '--n_train 2 --n_test 0 --n_frames 1 --height 128 --width 96'.split()

def refused_sample(folder, args, message, capsys):
    "The command says so in one line, and leaves everything as it was"
    before = files_of(folder)
    assert main(['sample', *args]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1
    assert files_of(folder) == before

@pytest.mark.parametrize('options, message', no_sample.values(), ids=no_sample)
def test_samples_that_cannot_be_made(options, message, tmp_path, capsys):
    refused_sample(tmp_path, [str(tmp_path/'new'), *few, *options], message, capsys)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('name, message', taken.items(), ids=taken)
def test_what_is_not_a_sample_set_stays(name, message, tmp_path, capsys):
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis'/'chapter1.txt').write_text('dear reader')
    make_layout(tmp_path/'ours', 'own', n_train=1, n_test=0, n_frames=1, height=64, width=48)
    (tmp_path/'ours'/'mine.txt').touch()
    refused_sample(tmp_path, [str(tmp_path/name), *few, '--layout', 'viton'], message, capsys)

# training

def train_warp(dataset, root, out, *more):
    "Exit status of two steps of the warp"
    option = LAYOUTS[dataset].root_option
    small = '--ngf 4 --batch_size 2 --workers 0 --val_fraction 0 --keep_epochs 1 --decay_epochs 0 --seed 5 --gpu_ids -1'
    size = ['--fine_height', str(height), '--fine_width', str(width), '--limit_train_batches', '2']
    return main(['train', '--model', 'warp', '--name', 'w', '--experiments_dir', str(out), '--dataset', dataset,
                 f'--{option}', str(root), *small.split(), *size, *more])

def check_trained(out):
    "Two steps were made and saved"
    said = json.loads((out/'w'/'metrics.json').read_text())
    assert said['steps'] == 2 and 0 < said['train_loss'] < 2 and Path(said['checkpoint']).is_file()

@pytest.mark.parametrize('name', ('vvt', *entries))
def test_the_warp_trains_on_each_sample(sets, name, tmp_path, in_process, capsys):
    dataset = 'vvt' if name == 'vvt' else entries[name].dataset
    assert train_warp(dataset, sets[name], tmp_path) == 0, capsys.readouterr().err
    check_trained(tmp_path)

# several sets

def mixed(sets, out, *more):
    "Exit status of a warp that is trained on two sets"
    small = '--ngf 4 --batch_size 2 --workers 0 --val_fraction 0 --keep_epochs 2 --decay_epochs 0 --seed 5 --gpu_ids -1'
    size = ['--fine_height', height, '--fine_width', width]
    roots = ['--dataset', 'viton_vvt', '--viton_dataroot', sets['viton'], '--vvt_dataroot', sets['vvt']]
    words = ['train', '--model', 'warp', '--experiments_dir', out, *roots, *small.split(), *size, *more]
    return main(list(map(str, words)))

def weights_of(path):
    from shineon.models.files import load_model
    return torch.cat([p.detach().flatten() for p in load_model(path).parameters()])

def test_a_mixed_run_goes_on_exactly(sets, tmp_path, in_process, capsys):
    "Six clips of pictures and three of videos an epoch; stopped within the first epoch, and at its end"
    more = '--mix', 1, .5, '--person_inputs', 'masked', 'cocopose', '--augment_cut', .5, '--save_count', 1
    assert mixed(sets, tmp_path, '--name', 'w', *more) == 0, capsys.readouterr().err
    assert json.loads((tmp_path/'w'/'metrics.json').read_text())['steps'] == 2*(9//2)
    saved = tmp_path/'w'/'checkpoints'
    for step in (3, 4):
        name = f'from{step}'
        on = '--name', name, '--checkpoint', saved/f'step_{step}.pt'
        assert mixed(sets, tmp_path, *more, *on) == 0, capsys.readouterr().err
        assert torch.equal(weights_of(tmp_path/name/'checkpoints'/'last.pt'), weights_of(saved/'last.pt'))
    other = '--mix', 1, .6, *more[3:], '--name', 'other', '--checkpoint', saved/'step_3.pt'
    assert mixed(sets, tmp_path, *other) == 2
    assert 'has mix [1.0, 0.5], and this one [1.0, 0.6]' in capsys.readouterr().err

unmixed = {
    'too few numbers': (['--mix', 1], 'mix is 1.0. Give a number from 0 to 100 for each of viton, vvt'),
    'nothing at all': (['--mix', 0, 0], 'mix is 0.0 0.0. Give a number'),
    'less than nothing': (['--mix', '1', '-1'], 'mix is 1.0 -1.0. Give a number'),
    'an input that one set lacks': (
        ['--mix', 1, 1, '--person_inputs', 'densepose'], 'no densepose file for this frame'),
    'no folder of one set': (['--viton_dataroot', ''], 'no viton_dataroot. viton_vvt takes viton, vvt'),
}

@pytest.mark.parametrize('more, message', unmixed.values(), ids=unmixed)
def test_mixtures_that_cannot_be(sets, more, message, tmp_path, in_process, capsys):
    assert mixed(sets, tmp_path, '--name', 'w', *more) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1
    assert not (tmp_path/'w'/'checkpoints').exists()

def few_of(root, name, n=4): # the first lines of a list, as a list of one's own
    return ''.join((root/name).read_text().splitlines(True)[:n])

on_real = {
    'viton': ('viton', 'viton', 'train', 'train_pairs.txt'),
    'viton, test': ('viton', 'viton', 'test', 'test_pairs_unpaired.txt'),
    'viton_plus': ('viton', 'layouts/viton_plus', 'test', 'test_pairs_same.txt'),
    'vitonhd': ('vitonhd', 'layouts/vitonhd', 'test', 'test_pairs.txt'),
    'dresscode': ('dresscode', 'layouts/dresscode', 'train', 'train_pairs.txt'),
}

@pytest.mark.parametrize('dataset, folder, mode, pairs', on_real.values(), ids=on_real)
def test_the_warp_trains_on_real_samples(real, dataset, folder, mode, pairs, tmp_path, in_process, capsys):
    root = real/folder
    if not root.is_dir(): pytest.skip(f'no {root}')
    assert find_layout(root).name == dataset
    (tmp_path/'few.txt').write_text(few_of(root, pairs))
    listed = '--datamode', mode, '--data_list', str(tmp_path/'few.txt')
    assert train_warp(dataset, root, tmp_path/'runs', *listed) == 0, capsys.readouterr().err
    check_trained(tmp_path/'runs')

def test_real_people_without_their_garments_are_refused(real, tmp_path, in_process, capsys):
    root = real/'layouts'/'vitonhd_demo2021' # it holds the garments that are tried on, and none that is worn
    if not root.is_dir(): pytest.skip(f'no {root}')
    assert find_layout(root).name == 'vitonhd'
    assert train_warp('vitonhd', root, tmp_path, '--datamode', 'test') == 2
    err = capsys.readouterr().err
    assert 'no photo of the garment that this person wears' in err and '00891_00' in err
    assert not (tmp_path/'w'/'checkpoints').exists()

# as truth

def write_results(layout, root, out, garment_of, change=lambda a: a):
    "Each test picture as its own result, under the name of a garment"
    for v in layout.videos(root, 'test'):
        for f in v.frames:
            name = f'{garment_of(v)}.png.FOR.{Path(f.name).stem}.png'
            write_png(out/v.id/name, change(read_picture(f.files['image'])))

def evaluated(results, root, tmp_path, capsys):
    "Figures of the command, and what it said"
    out = tmp_path/'figures.json'
    args = ['--metrics', 'l1', 'ssim', '--out', out, '--experiments_dir', tmp_path/'runs', '--name', 'e', '--overwrite']
    status = main(list(map(str, ['evaluate', results, '--truth', root, *args, '--gpu_ids', -1, '--workers', 0])))
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(out.read_text()), said.out

@pytest.mark.parametrize('name', entries)
def test_a_data_set_is_a_truth(sets, name, tmp_path, in_process, capsys):
    layout, root = LAYOUTS[entries[name].dataset], sets[name]
    stems = {v.id: v.cloth.stem for v in layout.videos(root, 'test')}
    other = {k: next(s for s in reversed(stems.values()) if s != own) for k,own in stems.items()}
    write_results(layout, root, tmp_path/'own', lambda v: stems[v.id])
    write_results(layout, root, tmp_path/'other', lambda v: other[v.id])
    r, _ = evaluated(tmp_path/'own', root, tmp_path, capsys)
    n = numbers['n_test']*numbers['n_frames']
    assert (r['summary']['l1'], r['protocol']['frames'], r['problems']) == (0, n, [])
    assert all(v['paired'] for v in r['videos'].values())
    r, _ = evaluated(tmp_path/'other', root, tmp_path, capsys)
    assert r['summary'] == {} and 'only distributions' in r['not_computed']['l1']
    assert not any(v['paired'] for v in r['videos'].values())

sizes = {'half the size': (lambda a: a[::2,::2], '4 frames are 48x64 and the truth is 96x128: resized'),
         'cropped': (lambda a: a[:,16:-16], '4 frames are 64x128 and the truth is 96x128, of another shape: resized')}

@pytest.mark.parametrize('change, message', sizes.values(), ids=sizes)
def test_other_sizes_are_said_on_the_screen(sets, change, message, tmp_path, in_process, capsys):
    write_results(LAYOUTS['viton'], sets['viton'], tmp_path/'own', lambda v: v.cloth.stem, change)
    r, said = evaluated(tmp_path/'own', sets['viton'], tmp_path, capsys)
    assert f'note: {message}' in said and r['protocol']['resized_frames'] == 4
    assert 0 < r['summary']['l1'] < .5

def test_the_preset_of_viton_trains_and_repeats(sets, tmp_path, in_process, capsys):
    "Appearance flow on two sets by its preset, small: all terms of its loss, and the same weights a second time"
    roots = ['--viton_dataroot', sets['viton'], '--vvt_dataroot', sets['vvt'], '--fine_height', height]
    small = '--ngf 4 --batch_size 2 --limit_train_batches 1 --keep_epochs 1 --decay_epochs 1 --workers 0'.split()
    small += ['--val_fraction', .3]
    words = ['train', '--preset', 'warp_viton', *roots, '--fine_width', width, *small]
    made = []
    for name in ('one', 'two'):
        out = tmp_path/name
        asked = [*words, '--name', 'w', '--experiments_dir', out]
        assert main(list(map(str, asked))) == 0, capsys.readouterr().err
        said = json.loads((out/'w'/'metrics.json').read_text())
        assert said['steps'] == 2 and {'l1', 'cloth_mask', 'grid'} <= said.keys()
        made.append(weights_of(said['checkpoint']))
    assert torch.equal(*made)
