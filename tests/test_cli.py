"The command line: the description's two commands, what a run leaves, options"
import json, os, re, shutil, subprocess, sys

import pytest, yaml
from conftest import sams_command, short, small, unet_command, warp_command, words
from shineon.cli.main import main
from shineon.cli.notebooks import fill_names, read_options, run_notebook

def defaults(notebook): return {o.name: o.default for o in read_options(run_notebook(notebook))}

def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

def asked_params(folder):
    "Options that a run was asked for: what ran, but for what it was asked for instead"
    params = yaml.safe_load((folder/'params.yaml').read_text())
    return params | params.pop('asked', {})

# the description's commands

@pytest.mark.parametrize('command,given', [
    (warp_command, dict(name='train_warp', workers=4, batch_size=4)),
    (unet_command, dict(name='train_shineon', batch_size=4, person_inputs=['densepose','agnostic'],
                        cloth_inputs=['cloth'], val_check_interval=.05, self_attn=True, accumulated_batches=16,
                        activation='gelu', warp_cloth_dir='/path/to/output/warp/cloth/directory')),
    pytest.param(sams_command, dict(name='SAMS-GAN_train', ngf_pow_outer=6, ngf_pow_inner=10, n_frames_total=5,
                                    n_frames_now=1, batch_size=4, workers=8), marks=pytest.mark.long)],
    ids=['warp', 'unet', 'sams'])
def test_commands_run_as_they_stand(command, given, shineon_command, tmp_path):
    r = shineon_command('train', *words(command), cwd=tmp_path)
    assert r.status == 0, r.err
    args = words(command)
    folder, model = tmp_path/'experiments'/given['name'], args[args.index('--model')+1]
    assert asked_params(folder) == defaults(f'train_{model}') | given
    metrics = json.loads((folder/'metrics.json').read_text())
    assert metrics['parameters'] == dict(warp=19_057_650, unet=22_647_176, sams=184_794_947)[model] # full size
    assert metrics['steps'] == 1 and 'no vvt_dataroot' in r.out
    assert {p.name for p in tmp_path.iterdir()} == {'experiments'} # nothing is written elsewhere
    shutil.rmtree(folder/'checkpoints') # gigabytes

def test_unet_command_on_data(unet_run, vvt, warped_dir):
    params = yaml.safe_load((unet_run/'params.yaml').read_text())
    given = dict(batch_size=4, person_inputs=['densepose','agnostic'], val_check_interval=.05, self_attn=True,
                 accumulated_batches=16, activation='gelu', warp_cloth_dir=str(warped_dir), vvt_dataroot=str(vvt),
                 wt_vgg=0)
    for k,v in given.items(): assert params[k] == v, k
    from shineon.models.files import read_checkpoint
    checkpoint = read_checkpoint(unet_run/'checkpoints'/'last.pt')
    config = checkpoint['config']
    assert (config['activation'], config['self_attn']) == ('gelu', True)
    assert list(config['person_inputs']) == ['densepose','agnostic']
    options = dict(checkpoint['more']['options'])
    framing = options.pop('framing')
    assert options.pop('made_by') == {} # nobody is named in this sample set
    assert options == params
    assert 0 < framing['neck'][1] < framing['hips'][1] < 1 # where the training data has persons

# what a run leaves

def test_folder_of_a_run(warp_run, vvt):
    files = {'train_warp.ipynb', 'params.yaml', 'metrics.json', 'environment.json', 'checkpoints', 'tensorboard'}
    assert {p.name for p in warp_run.iterdir()} == files
    given = dict(name='warp', vvt_dataroot=str(vvt), fine_height=128, fine_width=64, ngf=4, batch_size=4, workers=0,
                 val_fraction=.34, val_check_interval=1., seed=5, gpu_ids='-1', keep_epochs=1, decay_epochs=1,
                 display_count=1)
    assert yaml.safe_load((warp_run/'params.yaml').read_text()) == defaults('train_warp') | given
    metrics = json.loads((warp_run/'metrics.json').read_text())
    assert metrics['steps'] == 4 and metrics['valid_loss'] > 0 # 2 videos of 4 frames, batches of 4, 2 epochs
    assert os.path.samefile(warp_run.parent.parent/metrics['checkpoint'], warp_run/'checkpoints'/'best.pt')
    e = json.loads((warp_run/'environment.json').read_text())
    assert e['seed'] == 5 and e['device'] == 'cpu' and e['threads'] > 0 and e['convolutions']
    assert set(e['git']) == {'commit', 'uncommitted'}
    assert all(e['packages'][p] for p in ('torch', 'fastai', 'numpy', 'papermill'))
    assert {'last.pt', 'best.pt'} <= {p.name for p in (warp_run/'checkpoints').iterdir()}

def test_executed_notebook(warp_run):
    nb = json.loads((warp_run/'train_warp.ipynb').read_text())
    assert nb['metadata']['papermill']['exception'] is None and nb['metadata']['papermill']['parameters']['ngf'] == 4
    code = [c for c in nb['cells'] if c['cell_type'] == 'code']
    outputs = [o for c in code for o in c['outputs']]
    assert all(c['execution_count'] for c in code if c['source'])
    assert not [o for o in outputs if o['output_type'] == 'error']
    assert sum('image/png' in o.get('data', {}) for o in outputs) >= 3 # data, losses, results

def test_tensorboard(warp_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(warp_run/'tensorboard')).Reload()
    tags = events.Tags()
    assert {'loss/train', 'loss/valid', 'l1/train', 'l1/valid', 'lr'} <= set(tags['scalars'])
    assert tags['images'] == ['pictures']
    assert [e.step for e in events.Scalars('loss/train')] == [1,2,3,4] # display_count 1
    assert len(events.Images('pictures')) > 0 and events.Images('pictures')[0].encoded_image_string[1:4] == b'PNG'
    assert len(events.Scalars('loss/valid')) == 2

def test_last_rate_is_small(warp_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    rates = [e.value for e in EventAccumulator(str(warp_run/'tensorboard')).Reload().Scalars('lr')]
    assert rates[:3] == pytest.approx([1e-4]*3) and rates[3] < .6e-4 # an epoch of two steps constant, then linear to 0

# names

def test_name_that_is_taken(warp_run, vvt, in_process, monkeypatch, capsys):
    monkeypatch.chdir(warp_run.parent.parent)
    before = contents(warp_run)
    assert main(['train', '--model', 'warp', '--name', 'warp', '--vvt_dataroot', str(vvt), *small, *short]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'experiments/warp' in err and '--overwrite' in err
    assert contents(warp_run) == before

def test_overwrite(vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    command = ['train', '--model', 'warp', '--name', 'again', '--vvt_dataroot', str(vvt), *small, *short]
    assert main([*command, '--save_count', '1']) == 0
    folder = tmp_path/'experiments'/'again'
    assert (folder/'checkpoints'/'step_4.pt').exists()
    before, events = contents(folder), {f.name for f in (folder/'tensorboard').iterdir()}
    assert main([*command, '--overwrite', '--vvt_dataroot', 'nowhere']) == 2
    assert contents(folder) == before # what cannot start throws nothing away
    assert main([*command, '--overwrite']) == 0
    assert not (folder/'checkpoints'/'step_4.pt').exists() # nothing of the old run is left
    assert not events & {f.name for f in (folder/'tensorboard').iterdir()}

# options

@pytest.mark.parametrize('args', [
    ['train', '--model', 'warp', '--batchsize', '4'], ['train', '--model', 'warp', '--self_attn'],
    ['train', '--model', 'unet', '--fine', '64'], ['tryon', '--checkpont', 'x'], ['train'], [],
    ['train', '--model', 'unet', '--batch_size', 'four']])
def test_wrong_options(args, capsys):
    try: status = main(args)
    except SystemExit as e: status = e.code
    assert status == 2 and 'shineon' in capsys.readouterr().err

def test_log_levels(vvt, in_process, shineon_command, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    command = lambda level: ['train', '--model', 'warp', '--name', level, '--vvt_dataroot', str(vvt), *small, *short,
                             '--limit_train_batches', '1', '--loglevel', level]
    assert main(command('debug')) == 0
    said = capsys.readouterr().out.splitlines()
    assert [l.split(' |')[0] for l in said if l.startswith('step')] == ['step 1', 'step 2']
    assert any(l.startswith('epoch 2/2') for l in said)
    quiet = shineon_command(*command('warning'), cwd=tmp_path)
    assert (quiet.status, quiet.out) == (0, '') and (tmp_path/'experiments'/'warning'/'metrics.json').exists()

def test_unknown_model(capsys):
    assert main(['train', '--model', 'wrap']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and '"wrap"' in err and 'gmm' in err and 'unet_mask' in err

@pytest.mark.parametrize('model,notebook', [('warp', 'train_warp'), ('gmm', 'train_warp'), ('unet', 'train_unet'),
                                            ('unet_mask', 'train_unet'), ('tom', 'train_unet')])
@pytest.mark.parametrize('batch', ['--batch', '-b', '--batch_size'])
def test_synonyms(model, notebook, batch, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: asked.append((name, params, folder)))
    assert main(['train', '--model', model, '--name', 'x', batch, '3']) == 0
    name, params, folder = asked[0]
    assert (name, str(folder)) == (notebook, 'experiments/x')
    assert params == defaults(notebook) | dict(name='x', batch_size=3)

def test_flags_can_be_taken_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: asked.append(params))
    back = ['--self_attn', '--no_self_attn', '--no_shuffle', '--shuffle']
    for more in ([], ['--self_attn', '--no_shuffle'], back): main(['train', '--model', 'unet', *more])
    assert [(p['self_attn'], p['no_shuffle']) for p in asked] == [(False, False), (True, True), (False, False)]
    assert all(p['name'].startswith('train_unet_') for p in asked) # a name with the time

@pytest.mark.parametrize('value,type_', [('0.25', float), ('1.0', float), ('1', int), ('40', int)])
def test_shares_and_numbers(value, type_, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: asked.append(params))
    main(['train', '--model', 'warp', '--val_check_interval', value])
    assert type(asked[0]['val_check_interval']) is type_

@pytest.mark.parametrize('args,notebook', [(['train', '--model', 'warp'], 'train_warp'),
                                           (['train', '--model', 'unet'], 'train_unet'), (['tryon'], 'tryon')])
def test_help_lists_every_option(args, notebook, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '400')
    with pytest.raises(SystemExit) as e: main([*args, '--help'])
    assert e.value.code == 0
    text = capsys.readouterr().out
    for o in read_options(run_notebook(notebook)):
        o.help = fill_names(o.help)
        shown = ' '.join(map(str, o.default)) if isinstance(o.default, list) else o.default
        assert re.search(rf'--{o.name}\b', text) and o.help in text, o.name
        assert f'{o.help} ({o.type}; default: {"empty" if shown == "" else shown})' in text, o.name

def test_names_of_commands(capsys):
    with pytest.raises(SystemExit) as e: main(['--help'])
    text = capsys.readouterr().out
    assert e.value.code == 0 and all(f'    {c} ' in text for c in ('sample', 'train', 'tryon', 'demo'))
    for command in ('sample', 'demo'):
        with pytest.raises(SystemExit) as e: main([command, '--help'])
        assert e.value.code == 0 and '--seed' in capsys.readouterr().out

@pytest.mark.parametrize('read', [0, 20])
def test_nobody_reads_on(read, tmp_path):
    "`shineon ... | head` ends without a word"
    (tmp_path/'experiments'/'run').mkdir(parents=True)
    (tmp_path/'experiments'/'run'/'params.yaml').write_text(f'note: {"x"*200_000}')
    command = [sys.executable, '-m', 'shineon.cli.main', 'runs', '--json']
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        p.stdout.read(read); p.stdout.close()
        assert (p.stderr.read(), p.wait()) == (b'', 141)

def test_other_broken_pipes_are_told(monkeypatch, capfd):
    def broken(*args): raise BrokenPipeError(32, 'Broken pipe')
    monkeypatch.setattr('shineon.cli.main.print_runs', broken)
    assert main(['runs']) == 2
    assert capfd.readouterr().err == 'shineon: nobody reads on where this is written. Try again\n'

def test_beside_a_clone_called_shineon(tmp_path):
    "The package is found from a folder in which a folder of its name lies"
    (tmp_path/'shineon').mkdir()
    code = 'import shineon, torchvision; print(shineon.__file__)'
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout.strip().endswith('__init__.py'), r.stderr

# plugins

plugin = """
from torch import nn
from shineon.models.networks import NETWORKS, Network
class Painter(nn.Module): "Stands for a network of one's own"
NETWORKS.add(Network('painter', Painter, 'tryon', synonyms=('monet',), notebook='NOTEBOOK'))
"""

@pytest.fixture
def painter(tmp_path, monkeypatch):
    "A plugin, as typed, with a network and its run notebook"
    from shineon.models.networks import NETWORKS
    monkeypatch.chdir(tmp_path)
    nb = json.loads(run_notebook('train_warp').read_text(encoding='utf8'))
    cell = next(c for c in nb['cells'] if 'parameters' in c['metadata'].get('tags', []))
    source = [l for l in ''.join(cell['source']).splitlines() if not l.startswith('plugins:')]
    cell['source'] = '\n'.join([*source, 'plugins: list[str] = [] # what to load first'])
    (tmp_path/'train_painter.ipynb').write_text(json.dumps(nb))
    (tmp_path/'painter.py').write_text(plugin.replace('NOTEBOOK', str(tmp_path/'train_painter.ipynb')))
    yield 'painter.py'
    NETWORKS._entries.pop('painter', None); NETWORKS._origins.pop('painter', None)

def test_network_of_a_plugin(painter, monkeypatch, tmp_path, capsys):
    "Its notebook is executed, also by `rerun` and by a sweep, and with the options of a preset"
    from shineon.core.run_folder import open_run
    asked = []
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: asked.append((name, params)))
    assert main(['train', '--model', 'monet']) == 2 and 'no model is called "monet"' in capsys.readouterr().err
    assert main(['train', '--plugins', painter, '--model', 'monet', '--name', 'x', '--lr', '0.5']) == 0
    name, params = asked[0]
    assert (name, params['plugins'], params['lr']) == ('train_painter', [painter], .5)
    open_run(tmp_path/'experiments'/'x', params)
    (tmp_path/'experiments'/'x'/'train_painter.ipynb').write_text('{"metadata": {"papermill": {}}, "cells": []}')
    assert main(['rerun', 'x']) == 0 and asked[1] == ('train_painter', params | dict(name='x_2'))
    (tmp_path/'p.yaml').write_text('model: painter\nplugins: [painter.py]\nlr: 0.25\n')
    assert main(['train', '--preset', 'p.yaml']) == 0
    assert (asked[2][0], asked[2][1]['plugins'], asked[2][1]['lr']) == ('train_painter', [painter], .25)
    (tmp_path/'s.yaml').write_text('model: painter\ngrid: {lr: [1.0e-4]}\n')
    assert main(['sweep', 's.yaml', '--dry_run', '--plugins', painter]) == 0
    assert 's_lr=0.0001: new' in capsys.readouterr().out
    (tmp_path/'painter.py').unlink()
    assert main(['rerun', 'x']) == 2 and 'no such plugin: painter.py' in capsys.readouterr().err

def test_help_names_what_plugins_add(painter, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '400')
    with pytest.raises(SystemExit): main(['train', '--plugins', painter, '--help'])
    said = capsys.readouterr().out # in the order in which their modules were imported
    assert all(n in said for n in ('sams', 'unet (or unet_mask, tom)', 'warp (or gmm)', 'painter (or monet)'))

@pytest.mark.parametrize('command', ['export a b', 'bench none', 'demo', 'sweep s.yaml', 'train --model warp', 'tryon'])
def test_missing_plugin(command, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), '--plugins', 'none.py']) == 2
    assert capsys.readouterr().err.startswith('shineon: no such plugin: none.py')
