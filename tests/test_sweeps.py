"Presets, runs side by side, repetitions, sweeps"
import csv, io, json, os, random, shutil, signal, subprocess, sys, time

import pytest, yaml
from conftest import repo, sams_command, unet_command, warp_command, words
from shineon.cli.main import main
from shineon.cli.run_table import list_runs, read_run, runs_table
from shineon.cli.notebooks import preset_files, read_options, read_preset, run_notebook
from shineon.cli import sweep as sweeps
from shineon.core.errors import OptionError
from test_runs import equal, weights

def defaults(notebook='train_warp'): return {o.name: o.default for o in read_options(run_notebook(notebook))}

@pytest.fixture
def asked(monkeypatch, tmp_path):
    "What would be executed: pairs of notebook and options"
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: calls.append((name, params)))
    return calls

# presets

@pytest.mark.parametrize('name,command,apart', [('warp', warp_command, []), ('unet', unet_command, ['warp_cloth_dir']),
                                                ('sams', sams_command, [])])
def test_presets_are_the_description_s_commands(name, command, apart, asked):
    assert main(['train', *words(command)]) == 0 and main(['train', '--preset', name]) == 0
    (notebook, by_hand), (other, by_preset) = asked
    differing = {k for k in by_hand if by_hand[k] != by_preset[k]}
    assert notebook == other and differing == set(apart) # a folder of one's own cannot lie in a preset

def test_small_presets_are_the_demo_s():
    from shineon.cli import demo
    for name,settings in dict(flow_cpu=demo.WARP, unet_cpu=demo.UNET, sams_cpu=demo.SAMS).items():
        values = read_preset(name)[1]
        plan = ('steps', 'epochs', 'grow') # which the demo works out from the size of the data
        assert {k: values[k] for k in settings if k not in plan} == {k: v for k,v in settings.items() if k not in plan}

@pytest.mark.parametrize('name', ['warp_cpu', 'flow_cpu', 'unet_cpu', 'sams_cpu'])
def test_small_presets_run(name, vvt, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sams = ['--image_scale', '.5', '--fine_height', '64', '--fine_width', '32', '--ngf_pow_inner', '4']
    size = sams if name == 'sams_cpu' else ['--fine_height', '128', '--fine_width', '64', '--ngf', '4']
    assert main(['train', '--preset', name, '--name', 'x', '--vvt_dataroot', str(vvt), '--fast_dev_run', *size]) == 0
    run = read_run(tmp_path/'experiments'/'x')
    notebook = dict(flow_cpu='train_warp').get(name) or 'train_' + name.removesuffix('_cpu')
    assert run['state'] == 'finished' and run['notebook'] == notebook
    asked = run['options'] | run['asked']
    assert all(asked[k] == v for k,v in read_preset(name)[1].items() if k not in ('model', 'ngf', 'ngf_pow_inner'))

def test_reference_presets(asked):
    "They ask for the reference's exact form, and otherwise for what is the default"
    form = dict(warp=dict(correlate_at='cloth', align_corners=False), unet=dict(last_norm=True, l1_newest=True),
                sams=dict(halve='nearest', last_layer='linear', leaky=True, encode_zeros=True, l1_newest=True,
                          no_ganFeat_loss=True, n_frames_now=1))
    for model in form: assert main(['train', '--preset', f'reference_{model}']) == 0
    for (notebook,params), (model,differs) in zip(asked, form.items()):
        assert notebook == f'train_{model}' and params == defaults(notebook) | differs | dict(name=params['name'])

def test_the_command_line_counts_more(asked, tmp_path):
    text = 'model: tom\nlr: 1e-3\nself_attn: true\nperson_inputs: [agnostic]\nbatch_size: 2\n'
    (tmp_path/'mine.yaml').write_text(text)
    assert main(['train', '--preset', 'mine.yaml', '--batch', '5', '--no_self_attn']) == 0
    assert main(['train', '--preset', 'mine.yaml', '--model', 'unet', '--person_inputs', 'densepose']) == 0
    wanted = defaults('train_unet') | dict(lr=1e-3, self_attn=True, person_inputs=['agnostic'], batch_size=2)
    for (notebook,params), more in zip(asked, (dict(batch_size=5, self_attn=False), dict(person_inputs=['densepose']))):
        assert notebook == 'train_unet' and params == wanted | more | dict(name=params['name'])

def test_one_s_own_presets_are_found_by_name(asked, tmp_path):
    (tmp_path/'experiments'/'presets').mkdir(parents=True)
    (tmp_path/'experiments'/'presets'/'mine.yaml').write_text('# my own\nmodel: warp\nngf: 7\n')
    assert main(['train', '--preset', 'mine']) == 0 and asked[0][1]['ngf'] == 7
    assert {'mine', 'warp', 'warp_cpu'} <= set(preset_files())
    (tmp_path/'list.yaml').write_text('out_fmt: [png]\n')
    assert main(['tryon', '--preset', 'list.yaml', '--fps', '5']) == 0
    assert asked[1][0] == 'tryon' and (asked[1][1]['out_fmt'], asked[1][1]['fps']) == (['png'], 5.)

@pytest.mark.parametrize('text,more,part', [
    ('model: warp\nbatchsize: 4', [], 'has no option batchsize: mine.yaml. Did you mean batch_size?'),
    ('model: warp\nself_attn: true', [], 'train_warp has no option self_attn'),
    ('model: warp\nngf: many', [], "ngf is 'many': mine.yaml. Give a value of type int"),
    ('model: warp\nngf: 8.5', [], 'ngf is 8.5'), ('model: warp\nno_shuffle: 1', [], 'no_shuffle is 1'),
    ('model: hat', [], 'no model is called "hat"'),
    ('model: warp', ['--model', 'unet'], 'for the model warp, not unet'),
    ('[', [], 'no YAML: mine.yaml, line'), ('just text', [], 'no names with values')])
def test_bad_presets(text, more, part, asked, tmp_path, capsys):
    (tmp_path/'mine.yaml').write_text(text)
    assert main(['train', '--preset', 'mine.yaml', *more]) == 2
    err = capsys.readouterr().err
    assert part in err and err.count('\n') == 1 and not asked and not (tmp_path/'experiments').exists()

def test_unknown_preset(asked, capsys):
    assert main(['train', '--preset', 'hat']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and all(n in err for n in ('"hat"', 'warp_cpu', 'sams'))
    assert main(['train', '--preset', 'nowhere/hat.yaml']) == 2
    assert 'no such file: nowhere/hat.yaml' in capsys.readouterr().err

def test_help_lists_presets(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '300')
    for args in (['train', '--help'], ['train', '--model', 'warp', '--help']):
        with pytest.raises(SystemExit) as e: main(args)
        text = capsys.readouterr().out
        assert e.value.code == 0 and all(f'  {n} ' in text for n in preset_files()) and 'UNet-Mask at full size' in text
    with pytest.raises(SystemExit): main(['train', '--preset', 'warp_cpu', '--help'])
    assert 'features of the first layer (int; default: 24)' in capsys.readouterr().out

def test_presets_travel_with_the_package(tmp_path):
    files = [p.name for p in (repo/'experiments'/'presets').glob('*.yaml')]
    assert {f'{n}{s}.yaml' for n in ('warp', 'unet', 'sams') for s in ('', '_cpu')} <= set(files)
    left_out = {'.git', '.venv', 'tests', 'data', 'demo', 'images', 'shineon.egg-info', 'build', 'dist'} # of the root
    source = shutil.copytree(repo, tmp_path/'source', ignore=lambda d, _: left_out if d == str(repo) else ())
    build = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path/'lib')]
    r = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert sorted(p.name for p in (tmp_path/'lib'/'shineon'/'presets').iterdir()) == sorted(files)
    (tmp_path/'away').mkdir()
    code = ('import shineon; from shineon.cli.notebooks import preset_files; '
            'print(shineon.__file__, *sorted(preset_files()))')
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path/'away', capture_output=True, text=True,
                       env=os.environ | dict(PYTHONPATH=str(tmp_path/'lib')))
    presets = sorted(f.removesuffix('.yaml') for f in files)
    assert r.stdout.split() == [str(tmp_path/'lib'/'shineon'/'__init__.py'), *presets], r.stderr

# runs side by side

@pytest.fixture
def copied(warp_run, tmp_path):
    "A folder of experiments with a copy of the warp's run"
    shutil.copytree(warp_run, tmp_path/'experiments'/'warp')
    return tmp_path/'experiments'

def test_a_run_as_it_is_listed(copied, warp_run):
    run = read_run(copied/'warp')
    about = [run[k] for k in ('name', 'notebook', 'state', 'step', 'note')]
    assert about == ['warp', 'train_warp', 'finished', 4, '']
    assert run['options'] == yaml.safe_load((warp_run/'params.yaml').read_text())
    assert run['metrics'] == json.loads((warp_run/'metrics.json').read_text())
    (copied/'warp'/'train_warp.ipynb').unlink(); (copied/'warp'/'metrics.json').unlink()
    run = read_run(copied/'warp')
    assert (run['notebook'], run['state'], run['step']) == ('train_warp', 'stopped', 4) # by its options and checkpoints

def test_table_of_runs(copied, monkeypatch, capsys):
    params = yaml.safe_load((copied/'warp'/'params.yaml').read_text())
    metrics = json.loads((copied/'warp'/'metrics.json').read_text())
    for i,ngf in enumerate((8, 16)):
        shutil.copytree(copied/'warp', copied/f'copy_{i}')
        (copied/f'copy_{i}'/'params.yaml').write_text(yaml.safe_dump(params | dict(ngf=ngf, name=f'copy_{i}')))
        (copied/f'copy_{i}'/'metrics.json').write_text(json.dumps(metrics | dict(valid_loss=-i)))
    table = runs_table(copied, sort='valid_loss')
    assert list(table.index) == ['copy_1', 'copy_0', 'warp'] and list(table['ngf']) == [16, 8, 4] and 'lr' not in table
    monkeypatch.chdir(copied.parent)
    assert main(['runs', '--sort', 'ngf', '--csv']) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r['name'], r['ngf']) for r in rows] == [('warp', '4'), ('copy_0', '8'), ('copy_1', '16')]
    assert [r['state'] for r in rows] == ['finished']*3
    assert main(['runs', '--sort', 'ngf', '--descending', '--json', 'copy_*']) == 0
    said = json.loads(capsys.readouterr().out)
    assert [r['name'] for r in said] == ['copy_1', 'copy_0']
    assert said[0]['options']['fine_width'] == 64 and said[0]['metrics']['valid_loss'] == -1
    assert main(['runs']) == 0
    text = capsys.readouterr().out
    assert all(w in text for w in ('warp', 'copy_0', 'ngf', 'valid_loss'))
    assert main(['runs', '--sort', 'hat']) == 2 and 'valid_loss' in capsys.readouterr().err
    assert main(['runs', 'hat']) == 2 and 'no run is called hat' in capsys.readouterr().err
    assert main(['runs', '--experiments_dir', 'nowhere']) == 2

def test_listing_is_light(copied):
    code = ("import sys; from shineon.cli.main import main; main(['runs']); "
            "print([m for m in ('torch', 'fastai', 'papermill') if m in sys.modules])")
    r = subprocess.run([sys.executable, '-c', code], cwd=copied.parent, capture_output=True, text=True)
    assert r.stdout.endswith('[]\n') and 'finished' in r.stdout, r.stderr

def test_damaged_runs_are_listed(copied, capsys):
    rng, files = random.Random(0), ['params.yaml', 'environment.json', 'metrics.json', 'train_warp.ipynb',
                                    'checkpoints/last.pt', 'checkpoints/best.pt']
    for i in range(120):
        folder = shutil.copytree(copied/'warp', copied.parent/'damaged'/str(i))
        for f in rng.sample(files, rng.randint(1, 6)):
            data = (folder/f).read_bytes()
            how, at = rng.randrange(5), rng.randrange(len(data))
            if how == 0: (folder/f).unlink()
            elif how == 1: (folder/f).unlink(); (folder/f).mkdir()
            else:
                ways = data[:at], rng.randbytes(50), data[:at] + rng.randbytes(8) + data[at+8:]
                (folder/f).write_bytes(ways[how-2])
    assert len(list_runs(copied.parent/'damaged')) == 120
    assert main(['runs', '--experiments_dir', str(copied.parent/'damaged')]) == 0
    assert 'is damaged' in capsys.readouterr().out
    hostile = copied/'warp'/'params.yaml'
    hostile.write_text('!!python/object/apply:os.system ["touch owned"]')
    assert read_run(copied/'warp')['state'] == 'damaged' and not (copied.parent/'owned').exists()

def test_running_and_killed(tmp_path):
    code = ("import time; from shineon.core.run_folder import *; "
            f"open_run(run_folder('x', {str(tmp_path)!r}), {defaults() | dict(name='x')!r}); "
            "print('open', flush=True); time.sleep(100)")
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == 'open\n' and read_run(tmp_path/'x')['state'] == 'running'
        p.kill(); p.wait()
    assert read_run(tmp_path/'x')['state'] == 'stopped'

# once more

def test_rerun(copied, warp_run, in_process, monkeypatch, capsys):
    monkeypatch.chdir(copied.parent)
    assert main(['rerun', 'warp']) == 0 and main(['rerun', 'warp', '--lr', '1e-3', '--name', 'fast']) == 0
    assert equal(weights(copied/'warp_2'), weights(warp_run)) and not equal(weights(copied/'fast'), weights(warp_run))
    table = runs_table()
    assert dict(table['lr']) == dict(warp=1e-4, warp_2=1e-4, fast=1e-3) and 'ngf' not in table
    assert main(['rerun', 'hat']) == 2 and 'no such run' in capsys.readouterr().err
    assert main(['rerun', 'warp', '--name', 'fast']) == 2 and '--overwrite' in capsys.readouterr().err
    assert main(['rerun', 'warp', '--self_attn']) == 2 and 'no option self_attn' in capsys.readouterr().err

def test_rerun_of_a_tryon(asked, tmp_path):
    from shineon.core.run_folder import open_run
    own = dict(checkpoint='best.pt', out_fmt=['png'])
    open_run(tmp_path/'experiments'/'dress', defaults('tryon') | dict(name='dress') | own)
    assert main(['rerun', 'dress', '--fps', '5']) == 0
    assert asked == [('tryon', defaults('tryon') | dict(name='dress_2', fps=5.) | own)]

def test_rerun_asks_for_the_same(asked, tmp_path):
    "A trial run, whose options became smaller, is repeated as it was asked for"
    from shineon.core.run_folder import open_run
    options = defaults() | dict(name='trial')
    open_run(tmp_path/'experiments'/'trial', options | dict(fine_width=64, asked=dict(fine_width=96)))
    assert read_run(tmp_path/'experiments'/'trial')['options']['fine_width'] == 64
    assert main(['rerun', 'trial']) == 0 and asked == [('train_warp', options | dict(name='trial_2', fine_width=96))]

# sweeps, with runs that only pretend

pretend = '''
import sys, time, yaml
from pathlib import Path
from shineon.core.run_folder import open_run, write_json
from shineon.cli.notebooks import read_options, run_notebook
params = yaml.safe_load(Path(sys.argv[1]).read_text())
folder, start = Path('experiments')/params['name'], time.time()
open_run(folder, {o.name: o.default for o in read_options(run_notebook('train_warp'))} | params)
with open('log', 'a') as f: f.write(f"{params['name']} {params.get('checkpoint', '')}\\n")
time.sleep(params.get('save_count', 0)) # stands for work, in seconds
if params['lr'] < 0: sys.exit('shineon: lr is -1')
write_json(folder/'metrics.json', dict(valid_loss=params['lr'], start=start, end=time.time()))
'''

@pytest.fixture
def pretending(monkeypatch, tmp_path):
    "Sweeps start small programs in place of runs"
    monkeypatch.chdir(tmp_path)
    (tmp_path/'pretend.py').write_text(pretend)
    command = lambda notebook, file: [sys.executable, str(tmp_path/'pretend.py'), str(file)]
    monkeypatch.setattr(sweeps, '_command', command)
    return lambda: (tmp_path/'log').read_text().splitlines() if (tmp_path/'log').exists() else []

def test_one_failure_stops_nothing(pretending, tmp_path, capsys):
    (tmp_path/'rate.yaml').write_text('model: warp\noptions: {ngf: 8}\ngrid:\n  lr: [0.1, -1.0, 0.2]\n')
    assert main(['sweep', 'rate.yaml', '--dry_run']) == 0 and not pretending() and not (tmp_path/'experiments').exists()
    assert 'rate_lr=0.1: new' in capsys.readouterr().out
    assert main(['sweep', 'rate.yaml']) == 1
    out, err = capsys.readouterr()
    assert 'rate_lr=-1: failed' in out and 'lr is -1 (status 1, experiments/rate_lr=-1/output.txt)' in out
    assert err.count('\n') == 1
    states = {r['name']: r['state'] for r in list_runs()}
    assert states == {'rate_lr=0.1': 'finished', 'rate_lr=-1': 'stopped', 'rate_lr=0.2': 'finished'}
    assert pretending() == ['rate_lr=0.1 ', 'rate_lr=-1 ', 'rate_lr=0.2 ']
    assert main(['sweep', 'rate.yaml']) == 1 and pretending()[3:] == ['rate_lr=-1 last'] # the others are left out
    text = (tmp_path/'rate.yaml').read_text().replace('-1.0', '0.3') # other values: only what is new is run
    (tmp_path/'rate.yaml').write_text(text)
    assert main(['sweep', 'rate.yaml']) == 0 and pretending()[4:] == ['rate_lr=0.3 ']
    (tmp_path/'rate.yaml').write_text(text.replace('ngf: 8', 'ngf: 9'))
    capsys.readouterr()
    assert main(['sweep', 'rate.yaml']) == 2 and 'ngf 8 instead of 9' in capsys.readouterr().err
    assert len(pretending()) == 5

@pytest.mark.parametrize('jobs,most', [(1, 1), (3, 3)])
def test_several_at_a_time(jobs, most, pretending, tmp_path):
    outcomes = sweeps.sweep('s', 'train_warp', dict(lr=.1, save_count=1), dict(seed=list(range(3))), jobs=jobs)
    assert [o['state'] for o in outcomes] == ['finished']*3
    times = [read_run(tmp_path/'experiments'/o['name'])['metrics'] for o in outcomes]
    at_once = max(sum(o['start'] <= t['start'] < o['end'] for o in times) for t in times)
    assert at_once == 1 if most == 1 else 1 < at_once <= most

@pytest.mark.parametrize('text,part', [
    ('model: warp\ngrid: {lr: [0.1], batch: [4]}', 'no option batch'),
    ('model: warp\ngrid: {ngf: [8, big]}', "ngf is 'big'"),
    ('model: warp\nruns: [{ngf: 8}, {ngf: 8}]', 'two runs are called bad_ngf=8'),
    ('model: warp\nruns: [{name: ../x}]', 'cannot be that of a run'),
    ('model: warp\npreset: hat', 'no preset is called'),
    ('model: unet\npreset: warp_cpu', 'no option grid_reg'), ('nothing: 1', 'a sweep has no nothing')])
def test_nothing_starts_before_all_is_checked(text, part, pretending, tmp_path, capsys):
    (tmp_path/'bad.yaml').write_text(text)
    assert main(['sweep', 'bad.yaml']) == 2
    err = capsys.readouterr().err
    assert part in err and err.count('\n') == 1 and not pretending() and not (tmp_path/'experiments').exists()

def test_jobs_below_one(pretending):
    with pytest.raises(OptionError, match='jobs is 0'): sweeps.sweep('s', 'train_warp', jobs=0)

@pytest.mark.parametrize('number,status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop(number, status, pretending, tmp_path):
    (tmp_path/'s.yaml').write_text('model: warp\noptions: {lr: 0.1, save_count: 60}\ngrid: {seed: [1, 2, 3]}\n')
    code = ("import sys; from shineon.cli import main, sweep; "
            f"sweep._command = lambda n, f: [sys.executable, {str(tmp_path/'pretend.py')!r}, str(f)]; "
            "sys.exit(main.main(['sweep', 's.yaml', '--jobs', '2']))")
    with subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as p:
        for _ in range(300):
            if len(pretending()) == 2: break
            time.sleep(.1)
        p.send_signal(number)
        out, err = p.communicate(timeout=30)
    assert p.returncode == status and 'the same command goes on' in out and 'Traceback' not in err
    assert [r['state'] for r in list_runs()] == ['stopped']*2 # none is left behind, the third never began
    planned = sweeps.plan('s', 'train_warp', dict(lr=.1, save_count=60), dict(seed=[1, 2, 3]))
    assert [sweeps.to_do('train_warp', q)[0] for q in planned] == ['stopped', 'stopped', 'new']

# a true one

def test_stopped_and_gone_on(vvt, tmp_path, shineon_command, begin, in_process, monkeypatch):
    "Ctrl-C in the middle of training; the sweep goes on, with the weights of a run that was never stopped"
    monkeypatch.chdir(tmp_path)
    shared = dict(vvt_dataroot=str(vvt), fine_height=128, fine_width=64, ngf=4, batch_size=2, workers=0,
                  val_fraction=.34, val_check_interval=1., seed=5, gpu_ids='-1', keep_epochs=7, decay_epochs=1,
                  save_count=1, keep=5)
    (tmp_path/'two.yaml').write_text(yaml.safe_dump(dict(model='warp', options=shared, grid=dict(lr=[1e-4]))))
    with begin('sweep', 'two.yaml', cwd=tmp_path, quiet=True) as p:
        folder = tmp_path/'experiments'/'two_lr=0.0001'
        while p.poll() is None and not list((folder/'checkpoints').glob('step_*.pt')): time.sleep(.02)
        os.kill(p.pid, signal.SIGINT); p.wait(timeout=60)
    assert p.returncode == 130 and read_run(folder)['state'] == 'stopped' and 1 <= read_run(folder)['step'] < 32
    r = shineon_command('sweep', 'two.yaml', cwd=tmp_path)
    assert r.status == 0 and 'goes on' in r.out, r.out + r.err
    assert read_run(folder)['state'] == 'finished' and read_run(folder)['metrics']['steps'] == 32
    assert main(['rerun', 'two_lr=0.0001', '--name', 'whole', '--save_count', '0']) == 0
    assert equal(weights(folder), weights(tmp_path/'experiments'/'whole'))
