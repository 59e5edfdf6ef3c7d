"A run that goes on: what cannot change is refused, what changes is recorded beside what the run was begun with"
import json, os, shutil
from pathlib import Path

import numpy as np, pytest, yaml
from conftest import short, small
from PIL import Image
from shineon.cli.main import main
from shineon.cli.run_table import read_run
from shineon.data.layouts import vvt_videos

def train(root, *more):
    "The command that made `warp_run`, with options that differ"
    command = ['train', '--model', 'warp', '--name', 'warp', '--vvt_dataroot', root, *small, *short, *more]
    return main([str(o) for o in command])

def record(folder): return (folder/'params.yaml').read_bytes()

def steps(folder): return json.loads((folder/'metrics.json').read_text())['steps']

@pytest.fixture
def begun(warp_run, in_process, monkeypatch, tmp_path):
    "A copy of a run of four steps"
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(warp_run, tmp_path/'experiments'/'warp'))

refused = {
    'another seed': (['--seed', 6], 'has seed 5, and this one 6'),
    'another batch size': (['--batch_size', 2], 'has batch_size 4, and this one 2'),
    'a wider network': (['--ngf', 8], 'has ngf 4, and this one 8'),
    'another size': (['--fine_width', 128], 'has fine_width 64, and this one 128'),
    'other inputs': (['--person_inputs', 'agnostic'], "has person_inputs ['agnostic', 'cocopose'], and this one"),
    'another order': (['--no_shuffle'], 'has no_shuffle False, and this one True'),
    'fewer samples': (['--val_fraction', .67], 'has other samples (val_fraction 0.34, now 0.67)'),
    'test videos': (['--datamode', 'test'], "has other samples (datamode 'train', now 'test')")}

@pytest.mark.parametrize('more, message', refused.values(), ids=refused)
@pytest.mark.parametrize('where', ['its own folder', 'another one'])
def test_what_cannot_change(where, more, message, begun, vvt, capsys):
    before = {p: p.read_bytes() for p in begun.rglob('*') if p.is_file()}
    own = where == 'its own folder'
    on = ['--checkpoint', 'last'] if own else ['--name', 'on', '--checkpoint', begun/'checkpoints'/'last.pt']
    assert train(vvt, *more, *on) == 2
    err = capsys.readouterr().err
    assert message in err and 'begin a new run from it with --weights' in err and err.count('\n') == 1
    kept = {p: p.read_bytes() for p in begun.rglob('*') if p.is_file() and 'failed' not in p.name}
    assert kept == before and not (begun.parent/'on'/'params.yaml').exists()

def test_what_changes_is_recorded(begun, vvt, capsys):
    "Twice: each change with its step; the record of the beginning stays as it was"
    before = record(begun)
    assert train(vvt, '--checkpoint', 'last', '--decay_epochs', 2, '--lr', 5e-5) == 0
    assert 'from step 4 on: lr 5e-05 instead of 0.0001' in capsys.readouterr().out
    assert train(vvt, '--checkpoint', 'last', '--decay_epochs', 3, '--lr', 5e-5, '--save_count', 1) == 0
    assert record(begun) == before and steps(begun) == 8
    first, second = yaml.safe_load((begun/'changes.yaml').read_text())
    assert (first['step'], second['step']) == (4, 6)
    assert first['options'] == dict(lr=dict(was=1e-4, now=5e-5), decay_epochs=dict(was=1, now=2))
    assert second['options'] == dict(decay_epochs=dict(was=2, now=3), save_count=dict(was=10000, now=1))
    run = read_run(begun)
    assert run['state'] == 'finished' and run['options']['lr'] == 1e-4
    assert run['note'] == 'from step 4 on: lr 5e-05, decay_epochs 2; from step 6 on: decay_epochs 3, save_count 1'
    assert train(vvt, '--overwrite') == 0 and not (begun/'changes.yaml').exists() # a new run has a new record

def test_the_same_again_changes_nothing(begun, vvt):
    before = record(begun)
    assert train(vvt, '--checkpoint', 'last') == 0
    assert record(begun) == before and not (begun/'changes.yaml').exists() and read_run(begun)['note'] == ''

def test_going_on_elsewhere_says_what_is_different(begun, vvt):
    assert train(vvt, '--name', 'on', '--checkpoint', begun/'checkpoints'/'last.pt', '--display_count', 5) == 0
    on = begun.parent/'on'
    assert yaml.safe_load(record(on))['display_count'] == 5
    assert yaml.safe_load((on/'changes.yaml').read_text())[0]['options'] == dict(display_count=dict(was=1, now=5))

def test_a_data_set_that_has_moved(begun, vvt, tmp_path):
    moved = shutil.copytree(vvt, tmp_path/'elsewhere')
    assert train(moved, '--checkpoint', 'last') == 0
    change, = yaml.safe_load((begun/'changes.yaml').read_text())
    assert change['options'] == dict(vvt_dataroot=dict(was=str(vvt), now=str(moved)))

def a_frame_less(video): video.frames[-1].files['image'].unlink()

def another_picture(video):
    path = video.frames[1].files['image']
    Image.fromarray(np.array(Image.open(path))[:,::-1]//2).save(path)

def another_photo(video): Image.new('RGB', (64,128), (200,0,0)).save(video.cloth)

def another_name(video):
    path = video.frames[-1].files['image']
    stem = path.stem
    for f in video.frames[-1].files.values(): f.rename(f.with_name(f.name.replace(stem, f'{stem}9')))

@pytest.mark.parametrize('change', [a_frame_less, another_picture, another_photo, another_name])
def test_a_data_set_that_has_changed(change, begun, broken, vvt, capsys):
    change(vvt_videos(broken)[0])
    assert train(broken, '--checkpoint', 'last') == 2
    assert f'has other samples (vvt_dataroot {str(vvt)!r}, now {str(broken)!r})' in capsys.readouterr().err

def test_options_of_a_file_of_weights(begun, warp_run, vvt):
    "A network's size comes from the file; the same command line goes on, and its `asked` stays"
    command = ['--weights', warp_run/'checkpoints'/'last.pt', '--ngf', 16, '--name', 'from']
    assert train(vvt, *command) == 0
    folder = begun.parent/'from'
    before = record(folder)
    assert yaml.safe_load(before)['asked'] == dict(ngf=16)
    assert train(vvt, *command, '--checkpoint', 'last') == 0
    assert train(vvt, *command, '--ngf', 4, '--checkpoint', 'last') == 0 # as it is
    assert record(folder) == before
    assert train(vvt, *command, '--ngf', 8, '--checkpoint', 'last') == 2

def test_a_damaged_record_is_written_anew(begun, vvt, capsys):
    (begun/'params.yaml').write_text('lr: [1')
    assert train(vvt, '--checkpoint', 'last') == 0
    assert 'params.yaml is damaged, and written anew' in capsys.readouterr().out
    assert yaml.safe_load(record(begun))['ngf'] == 4

damage = {'half a list': '- step: [', 'a list of numbers': '[1]', 'a text': 'lr', 'no step': '- {step: x, options: {}}'}

@pytest.mark.parametrize('text', damage.values(), ids=damage)
def test_changes_that_cannot_be_read(text, begun):
    (begun/'changes.yaml').write_text(text)
    run = read_run(begun)
    assert (run['state'], run['note'], run['step']) == ('damaged', 'changes.yaml is damaged', 4)

def test_a_pipe_in_place_of_changes(begun, vvt, capsys):
    os.mkfifo(begun/'changes.yaml')
    assert read_run(begun)['note'] == 'changes.yaml is damaged'
    assert train(vvt, '--checkpoint', 'last', '--lr', 1e-5) == 2
    assert 'this is a pipe' in capsys.readouterr().err
