"""The command line, kernels and processes, met by what ought not to be: nothing is lost, nothing is run that was not
asked for, nothing hangs, and every fault is one line"""
import csv, errno, io, json, os, signal, subprocess, sys, time, zipfile
from pathlib import Path

import pytest, yaml
from conftest import short, small
from shineon.cli import sweep as sweeps
from shineon.cli.main import main
from shineon.cli.notebooks import default_options
from shineon.cli.run_table import list_runs
from shineon.core.errors import OptionError, ShineOnError
from shineon.core.plugins import python_command

shineon = python_command('from shineon.cli.main import main; sys.exit(main())')

def written(folder):
    "Every file in a folder, hidden ones too"
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*') if not p.is_dir())

@pytest.fixture
def place(monkeypatch, tmp_path):
    "An empty folder to work in"
    monkeypatch.chdir(tmp_path)
    return tmp_path

@pytest.fixture
def call(place, capfd):
    "Call the command line in this process: exit status, what it printed, what it said on stderr"
    def run(*args):
        capfd.readouterr()
        try: status = main(list(map(str, args)))
        except SystemExit as e: status = e.code # --help
        out, err = capfd.readouterr()
        assert 'Traceback' not in out + err
        return status, out, err
    return run

@pytest.fixture
def refused(call):
    "Call the command line, which must refuse in one line that holds some texts"
    def run(args, *texts):
        status, _, err = call(*args)
        assert status == 2 and err.startswith('shineon: ') and err.count('\n') == 1, (status, err)
        for text in texts: assert str(text) in err, (text, err)
        return err
    return run

class FakePapermill:
    "In place of papermill: writes a notebook where papermill would, and does what a test says"
    def __init__(self): self.act, self.seen = lambda: None, []
    def __call__(self, source, out, params, **kw):
        from papermill.parameterize import parameterize_path
        out = parameterize_path(out, params)
        self.seen.append((parameterize_path(source, params), out, params))
        Path(out).write_text(f'execution {len(self.seen)}')
        self.act()

@pytest.fixture
def papermill(monkeypatch, place):
    import papermill
    fake = FakePapermill()
    monkeypatch.setattr(papermill, 'execute_notebook', fake)
    return fake

def cell_error(ename, evalue):
    import papermill
    return papermill.PapermillExecutionError(cell_index=0, exec_count=0, source='', ename=ename, evalue=evalue,
                                             traceback=[])

def raising(e):
    def act(*args, **kw): raise e
    return act

train = 'train', '--model', 'warp'

# 1. Nothing is lost

names = ['ie{seed}', '{', '{}', '{pm}', '{{x}}', '%s', 'a%(prog)s', '-x', '--lr', "it's", 'a[1]', 'a*', 'Zoë', 'a b']

@pytest.mark.parametrize('name', names)
def test_a_name_is_data(name, papermill, call, place):
    status, _, err = call(*train, f'--name={name}', '--seed', 7)
    assert status == 0, err
    assert written(place) == [f'experiments/{name}/train_warp.ipynb']
    source, out, params = papermill.seen[0]
    assert source.endswith('nbs/runs/train_warp.ipynb') and (params['name'], params['seed']) == (name, 7)
    assert Path(out).parent == place/'experiments' # hidden, beside the folder, until it was over

@pytest.mark.parametrize('name', ['a[1]', 'a*', '?', '[!a]'])
def test_runs_by_names_that_look_like_patterns(name, call, place):
    for n in (name, 'a1', 'ab', 'b'):
        (place/'experiments'/n).mkdir(parents=True)
        (place/'experiments'/n/'params.yaml').write_text('lr: 0.1')
    assert [r['name'] for r in list_runs(names=[name])] == [name]
    assert [r['name'] for r in list_runs(names=['a?'])] == ['a*', 'a1', 'ab'] if name == 'a*' else True

busy = {
    'a second training': (),
    'going on': ('--checkpoint', 'last'),
    'overwriting': ('--overwrite',),
    'two processes': ('--gpu_ids=-1,-1',),
}

@pytest.mark.parametrize('more', busy.values(), ids=busy)
def test_a_run_that_is_running(more, held_by_another, papermill, refused, place):
    folder = place/'experiments'/'x'
    folder.mkdir(parents=True)
    (folder/'params.yaml').write_text('lr: 0.1')
    pid = held_by_another(folder.parent/'.x.lock').pid
    before = written(place)
    refused([*train, '--name', 'x', *more], 'x is being written by process', pid)
    assert written(place) == before and not papermill.seen

def test_a_tryon_that_is_running(held_by_another, papermill, refused, place):
    pid = held_by_another(place/'experiments'/'.x.lock').pid
    refused(['tryon', '--name', 'x', '--checkpoint', 'a.pt'], 'is being written by process', pid)
    assert written(place) == ['experiments/.x.lock'] and not papermill.seen

def test_one_sweep_twice(held_by_another, refused, place):
    (place/'rates.yaml').write_text('model: warp\ngrid: {lr: [0.1]}\n')
    pid = held_by_another(place/'experiments'/'.rates.sweep.lock').pid
    refused(['sweep', 'rates.yaml'], 'the sweep rates is being written by process', pid)
    assert written(place) == ['experiments/.rates.sweep.lock', 'rates.yaml']

@pytest.fixture
def finished(place):
    "A run that has ended, with its executed notebook"
    folder = place/'experiments'/'x'
    folder.mkdir(parents=True)
    for name,text in (('params.yaml', 'lr: 0.1'), ('environment.json', '{"process": {}}'), ('train_warp.ipynb', 'old')):
        (folder/name).write_text(text)
    return folder

def test_a_start_that_fails_keeps_the_old_notebook(finished, papermill, refused):
    papermill.act = raising(cell_error('OptionError', 'lr is -1'))
    for _ in range(2): refused([*train, '--name', 'x', '--overwrite'], 'lr is -1')
    assert (finished/'train_warp.ipynb').read_text() == 'old'
    assert (finished/'train_warp.failed.ipynb').read_text() == 'execution 2'
    assert written(finished.parent) == sorted(f'x/{f}' for f in written(finished)) # nothing hidden

def test_each_start_of_a_run_keeps_its_notebook(finished, papermill, call):
    def goes_on(): (finished/'environment.json').write_text(json.dumps(dict(start=len(papermill.seen))))
    papermill.act = goes_on
    (finished/'train_warp.2.ipynb').write_text('mine')
    for _ in range(3): assert call(*train, '--name', 'x', '--checkpoint', 'last')[0] == 0
    texts = {f.name: f.read_text() for f in finished.glob('*.ipynb')}
    assert texts == {'train_warp.1.ipynb': 'old', 'train_warp.2.ipynb': 'mine', 'train_warp.3.ipynb': 'execution 1',
                     'train_warp.4.ipynb': 'execution 2', 'train_warp.ipynb': 'execution 3'}

def test_what_a_killed_process_left_is_no_notebook_of_this_run(papermill, refused, place, monkeypatch):
    (place/'experiments').mkdir()
    (place/'experiments'/'.x.train_warp.ipynb').write_text('half')
    monkeypatch.setattr('papermill.execute_notebook', raising(cell_error('DataError', 'no videos')))
    refused([*train, '--name', 'x'], 'no videos')
    assert written(place) == []

def test_the_first_failure_counts(papermill, refused, monkeypatch, place):
    "The notebook cannot be put down either, since the disk is full"
    papermill.act = raising(cell_error('DataError', 'unreadable picture: a.png'))
    monkeypatch.setattr('shutil.move', raising(OSError(errno.ENOSPC, 'No space left on device')))
    refused([*train, '--name', 'x'], 'unreadable picture: a.png')

@pytest.mark.parametrize('name,advice', dict(train='--checkpoint last', tryon='--resume', evaluate='--resume',
                                             compare='').items())
def test_advice_is_right_for_the_command(name, advice, papermill, refused):
    papermill.act = raising(OSError(errno.ENOSPC, 'No space left on device', 'x'))
    args = dict(train=train, compare=('compare', 'a', 'b')).get(name, (name,))
    err = refused([*args, '--name', 'x'], 'the disk is full: x. Make room on it, and start again', advice)
    assert err.count('--') == bool(advice)

# signals

@pytest.mark.parametrize('number,status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('times', [1, 2, 5])
def test_signals_while_something_is_put_away(number, status, times, call, monkeypatch, place):
    "Every command is stopped once, and cleans up undisturbed"
    def work(*args):
        Path('half').touch()
        try: signal.raise_signal(number)
        finally:
            for _ in range(times - 1): signal.raise_signal(number)
            Path('half').unlink()
    monkeypatch.setattr('shineon.cli.main.print_runs', work)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert call('runs') == (status, '', 'shineon: stopped\n') and written(place) == []
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

@pytest.mark.parametrize('number,status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('e', [RuntimeError('Kernel died before replying to kernel_info'), OSError(5, 'odd'),
                               cell_error('KeyboardInterrupt', ''), None], ids=['start', 'odd', 'cell', 'at the end'])
def test_whatever_papermill_raises_after_a_signal(number, status, e, papermill, call, place):
    def act():
        try: signal.raise_signal(number)
        except KeyboardInterrupt: pass
        if e: raise e
    papermill.act = act
    assert call(*train, '--name', 'x')[::2] == (status, 'shineon: stopped\n')
    assert written(place) == ['experiments/x/train_warp.ipynb']

def start(*args, cwd, **env):
    kept = {k: v for k,v in os.environ.items() if k != 'MPLBACKEND'} | env
    return subprocess.Popen([*shineon, *map(str, args)], cwd=cwd, env=kept, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def ended(p, *numbers, apart=.05):
    "Send signals to a process, close together: exit status, output, what it says"
    for n in numbers: p.send_signal(n); time.sleep(apart)
    out, err = p.communicate(timeout=60)
    assert 'Traceback' not in out + err, err
    return p.returncode, out, err

def hidden(folder): return [f for f in written(folder) if any(n.startswith('.') for n in f.split('/'))]

def test_training_is_told_twice(vvt, tmp_path):
    "A supervisor sends two signals: the run saves once, and can be gone on with"
    from shineon.models.files import read_checkpoint
    command = [*train, '--name', 'x', '--vvt_dataroot', vvt, *small, *short, '--keep_epochs', 300]
    with start(*command, cwd=tmp_path) as p:
        assert any(line.startswith('epoch 2/') for line in p.stdout)
        status, _, err = ended(p, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    assert (status, err.count('\n')) == (143, 1) and err.startswith('shineon: stopped by SIGTERM after step'), err
    folder = tmp_path/'experiments'/'x'
    assert f'after step {read_checkpoint(folder/"checkpoints"/"last.pt")["more"]["step"]}:' in err
    assert hidden(tmp_path) == [] and (folder/'train_warp.ipynb').exists()

@pytest.mark.parametrize('after', [.1, .7])
def test_the_kernel_is_still_starting(after, vvt, tmp_path):
    with start(*train, '--name', 'x', '--vvt_dataroot', vvt, *small, cwd=tmp_path) as p:
        assert p.stdout.readline().startswith('train_warp -> ')
        time.sleep(after)
        status, out, err = ended(p, signal.SIGINT, signal.SIGINT)
    assert (status, out, err) == (130, '', 'shineon: stopped\n')
    assert hidden(tmp_path) == [] and not (tmp_path/'experiments'/'x'/'params.yaml').exists()

# 2. Nothing runs that was not asked for

waits = '''
import os, random, sys, tempfile, time
if 'ipykernel' in sys.modules: # in the kernel
    with tempfile.TemporaryDirectory(dir='.', prefix='own'):
        print('random is', random.__file__, 'and IPython', os.environ['IPYTHONDIR'], flush=True)
        time.sleep(60)
'''

def test_a_kernel_is_left_alone(tmp_path):
    """Modules in the current folder, start-up files and kernels of the user do not count; SIGTERM ends a run that does
    not train in order: its temporary folder goes"""
    mark = f'open({str(tmp_path/"imported")!r}, "w")'
    for name in ('random', 'torch', 'pathlib', 'contextlib', 'json', 'ipykernel_launcher', 'typing'):
        (tmp_path/f'{name}.py').write_text(mark)
    home = tmp_path/'home'
    (home/'.ipython'/'profile_default'/'startup').mkdir(parents=True)
    (home/'.ipython'/'profile_default'/'startup'/'0.py').write_text(mark)
    (home/'.ipython'/'profile_default'/'ipython_kernel_config.py').write_text(mark)
    (home/'startup.py').write_text(mark)
    (home/'jupyter'/'kernels'/'python3').mkdir(parents=True)
    (home/'jupyter'/'kernels'/'python3'/'kernel.json').write_text(
        json.dumps(dict(argv=['false', '{connection_file}'], display_name='broken', language='python')))
    (tmp_path/'waits.py').write_text(waits)
    env = dict(HOME=str(home), IPYTHONDIR=str(home/'.ipython'), PYTHONSTARTUP=str(home/'startup.py'),
               JUPYTER_DATA_DIR=str(home/'jupyter'), JUPYTER_PATH=str(home/'jupyter'),
               XDG_CACHE_HOME=os.environ.get('XDG_CACHE_HOME', str(Path.home()/'.cache'))) # of fonts
    before = written(tmp_path)
    with start('tryon', '--name', 'x', '--plugins', 'waits.py', '--checkpoint', 'a.pt', cwd=tmp_path, **env) as p:
        line = next(l for l in p.stdout if l.startswith('random is'))
        assert list(tmp_path.glob('own*'))
        status, _, err = ended(p, signal.SIGTERM, signal.SIGTERM)
    assert (status, err) == (143, 'shineon: stopped\n')
    assert str(tmp_path) not in line
    assert set(written(tmp_path)) - set(before) == {'experiments/x/tryon.ipynb'} # no mark, nothing temporary

def test_programs_of_ours_look_nowhere_else(tmp_path):
    for name in ('random', 'json', 'yaml', 'shineon'):
        (tmp_path/f'{name}.py').write_text('raise SystemExit("imported")')
    command = sweeps._command('train_warp', tmp_path/'none.yaml')
    r = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (r.returncode, r.stderr.count('\n')) == (2, 1) and 'none.yaml' in r.stderr, r.stderr

plugins = {
    'ends Python': ('import sys; sys.exit(0)', 'failed with SystemExit'),
    'no UTF-8': (b'\xff', 'failed with'),
    'no Python': ('def', 'failed with SyntaxError'),
    'lines': ('raise ValueError("a\\nb")', 'a b'),
}

@pytest.mark.parametrize('text,says', plugins.values(), ids=plugins)
def test_plugins_that_fail(text, says, refused, place):
    (place/'mine.py').write_bytes(text if isinstance(text, bytes) else text.encode())
    refused([*train, '--plugins', 'mine.py'], 'mine.py', says)

def test_a_plugin_and_its_neighbour(papermill, call, place):
    "By path, or by the name of a module of the current folder"
    (place/'beside').mkdir()
    for folder in (place, place/'beside'): (folder/'neighbour_of_mine.py').write_text('answer = 42')
    (place/'mine_by_name.py').write_text('from neighbour_of_mine import answer')
    (place/'beside'/'mine.py').write_text('from neighbour_of_mine import answer')
    for i,plugin in enumerate(('mine_by_name', 'beside/mine.py')):
        status, _, err = call(*train, '--name', i, '--plugins', plugin)
        assert status == 0, err
        del sys.modules['neighbour_of_mine']

def bomb(depth=9):
    "YAML of a hundred lines that stands for a thousand million values"
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i+1}: &a{i+1} [{", ".join([f"*a{i}"]*10)}]' for i in range(depth)]
    return '\n'.join(lines)

def make(path, what):
    "A file of a kind, or with a text"
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == 'pipe': os.mkfifo(path)
    elif what == 'folder': path.mkdir()
    elif what == 'device': path.symlink_to('/dev/zero')
    elif what == 'nothing': path.symlink_to('nowhere')
    else: path.write_bytes(what if isinstance(what, bytes) else what.encode())

bad_yaml = {
    'a pipe': 'pipe',
    'a folder': 'folder',
    'a device': 'device',
    'a link to nothing': 'nothing',
    'a bomb': bomb(),
    'a list in itself': 'a: &a [*a]',
    'brackets': '['*10**5,
    'stairs': '- '*10**5,
    'two megabytes': 'a: ' + ' '*2**21,
    'digits': 'lr: ' + '7'*5000,
    'sixtieths': 'lr: ' + '1:'*50_000 + '1',
    'a program': '!!python/name:os.system',
    'no UTF-8': b'lr: \xff',
    'a zero byte': 'lr: "a\0b"',
    'a list': '[1, 2]',
    'a date that is none': 'lr: 2026-99-99',
    'a mapping as a name': '{{a: 1}: 2}',
    'two documents': 'lr: 1\n---\nlr: 2',
}

@pytest.mark.parametrize('what', bad_yaml.values(), ids=bad_yaml)
def test_hostile_presets_and_sweeps(what, refused, papermill, place):
    make(place/'mine.yaml', what)
    refused([*train, '--preset', 'mine.yaml'], 'mine.yaml')
    refused(['sweep', 'mine.yaml'], 'mine.yaml')
    refused(['run', 'train_warp', 'mine.yaml'], 'mine.yaml')
    assert not papermill.seen and not (place/'experiments').exists()

def test_a_hostile_preset_that_nobody_asked_for(papermill, call, place):
    make(place/'experiments'/'presets'/'mine.yaml', 'pipe')
    (place/'experiments'/'presets'/'other.yaml').write_text('# 50 % of %(prog)s\nmodel: warp')
    assert call(*train, '--name', 'x')[0] == 0
    status, out, _ = call('train', '--help')
    assert status == 0 and '50 % of %(prog)s' in out

def test_anchors_that_do_no_harm(papermill, call, place):
    (place/'mine.yaml').write_text('model: warp\n<<: {ngf: 8}\nperson_inputs: &p [agnostic]\ncloth_inputs: [cloth]\n')
    assert call('train', '--preset', 'mine.yaml', '--name', 'x')[0] == 0
    assert (papermill.seen[0][2]['ngf'], papermill.seen[0][2]['person_inputs']) == (8, ['agnostic'])

def test_grids_that_multiply(refused, place):
    grid = {k: list(range(1, 200)) for k in ('ngf', 'seed', 'batch_size', 'keep_epochs', 'decay_epochs')}
    (place/'all.yaml').write_text(yaml.safe_dump(dict(model='warp', grid=grid)))
    refused(['sweep', 'all.yaml', '--dry_run'], '312,079,600,999 runs, and 10,000 are the most')
    many = dict(model='warp', runs=[dict(name=f'r{i}') for i in range(200)], grid=dict(seed=list(range(100))))
    (place/'all.yaml').write_text(yaml.safe_dump(many))
    refused(['sweep', 'all.yaml', '--dry_run'], '20,000 runs')

# 3. Nothing hangs or takes the machine: a table of runs, one of them hostile

def zip_bomb(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('x/data.pkl', bytes(10**8))

def claims(path):
    "An archive that says it has gigabytes"
    zip_bomb(path)
    data = bytearray(path.read_bytes())
    at = data.rfind(b'PK\1\2')
    data[at+24:at+28] = b'\xff\xff\xff\x7f' # size of the unpacked file
    path.write_bytes(data)

deep = '{"a": '*5000 + '1' + '}'*5000
damage = { # file -> what it is, or text
    'params': {**{f'params: {k}': ('params.yaml', v) for k,v in bad_yaml.items() if k != 'a link to nothing'}},
    'metrics': {'metrics: a list': ('metrics.json', '[]'), 'metrics: a number': ('metrics.json', '1e999'),
                'metrics: deep': ('metrics.json', deep), 'metrics: a pipe': ('metrics.json', 'pipe'),
                'metrics: a device': ('metrics.json', 'device'),
                'metrics: huge': ('metrics.json', '[' + '[],'*6_000_000),
                'metrics: digits': ('metrics.json', '{"valid_loss": ' + '9'*5000 + '}')},
    'environment': {'environment: a list': ('environment.json', '[1]'), 'environment: deep': ('environment.json', deep),
                    'environment: a pipe': ('environment.json', 'pipe')}}
damage = {k: v for group in damage.values() for k,v in group.items()}

figures = '{"valid_loss": NaN, "l1": -Infinity, "steps": "many", "table": {"a": []}}'
def process(**what): return json.dumps(dict(process=dict(host=os.uname().nodename) | what))

odd = { # file, text: odd, but no damage
    'figures that are none': ('metrics.json', figures),
    'large figures': ('metrics.json', '{"valid_loss": ' + '9'*4000 + ', "steps": ' + '9'*4000 + '}'),
    'many figures': ('metrics.json', json.dumps({f'f{i}': i for i in range(20_000)})),
    'a process that is none': ('environment.json', '{"process": {"host": [], "pid": "x", "born": {}}}'),
    'a process beyond numbers': ('environment.json', process(pid=10**30, born=1)),
    'a negative process': ('environment.json', process(pid=-1, born='a')),
    'a start that is none': ('environment.json', '{"started": {"a": [1]}, "notebook": 5}'),
    'a long start': ('environment.json', json.dumps(dict(started='x'*10**6))),
    'options that are columns': ('params.yaml', 'state: mine\nstep: 7\nnote: x\n1: 2\nnull: 3\n'),
    'a checkpoint that is a pipe': ('checkpoints/last.pt', 'pipe'),
    'a device': ('checkpoints/last.pt', 'device'),
    'a folder of that name': ('checkpoints/last.pt', 'folder'),
    'no folder': ('checkpoints', 'pipe'),
    'a bomb': ('checkpoints/last.pt', zip_bomb),
    'claims': ('checkpoints/last.pt', claims),
    'a notebook that is a pipe': ('train_warp.ipynb', 'pipe'),
    'a notebook of anything': ('train_warp.ipynb', '{"cells": "error"}'),
}

@pytest.fixture
def two_runs(place):
    "A run, and one to damage"
    for name,ngf in (('good', 8), ('bad', 9)):
        folder = place/'experiments'/name
        folder.mkdir(parents=True)
        (folder/'params.yaml').write_text(yaml.safe_dump(default_options('train_warp') | dict(name=name, ngf=ngf)))
        (folder/'environment.json').write_text('{"started": "2026-11-27T10:00:00", "notebook": "train_warp"}')
    (place/'experiments'/'good'/'metrics.json').write_text('{"valid_loss": 0.25, "steps": 4}')
    return place/'experiments'

def listed(call, *more):
    "A row for each run, in three forms"
    begun = time.process_time()
    status, out, err = call('runs', '--csv', *more)
    assert (status, err) == (0, ''), err
    rows = {r['name']: r for r in csv.DictReader(io.StringIO(out))}
    said = json.loads(call('runs', '--json', *more)[1])
    text = call('runs', *more)[1]
    assert {r['name'] for r in said} == set(rows) and all(n[:50] in text for n in rows)
    assert time.process_time() - begun < 3
    return rows

@pytest.mark.parametrize('file,what', damage.values(), ids=damage)
def test_a_damaged_run_is_one_line(file, what, two_runs, call):
    (two_runs/'bad'/file).unlink(missing_ok=True)
    make(two_runs/'bad'/file, what)
    rows = listed(call)
    assert rows['bad']['state'] == 'damaged' and rows['bad']['note'] == f'{file} is damaged'
    assert (rows['good']['state'], rows['good']['valid_loss'], rows['good']['step']) == ('finished', '0.25', '4')

@pytest.mark.parametrize('file,what', odd.values(), ids=odd)
def test_an_odd_run_is_one_line(file, what, two_runs, call):
    path = two_runs/'bad'/file
    path.unlink(missing_ok=True)
    if callable(what): what(path)
    else: make(path, what)
    rows = listed(call, '--sort', 'valid_loss') if 'metrics' in file else listed(call)
    assert set(rows) == {'good', 'bad'} and rows['bad']['state'] in ('finished', 'stopped', 'unknown')
    assert rows['good']['valid_loss'] == '0.25'

@pytest.mark.parametrize('name', [b'\xff\xfe', b'\x1b]0;mine\x07', b'a\nb', b'=1+1', b'@sum(a)', 'Zoë'.encode()])
def test_names_of_runs(name, two_runs, call):
    (two_runs/'bad').rename(two_runs/os.fsdecode(name))
    status, out, err = call('runs')
    assert status == 0 and '\x1b' not in out and len(out.strip().splitlines()) == 3, (out, err)
    rows = list(csv.reader(io.StringIO(call('runs', '--csv')[1])))
    assert len(rows) == 3 and not any(cell[:1] in ('=', '+', '-', '@') for row in rows for cell in row)
    assert len(json.loads(call('runs', '--json')[1])) == 2

def test_a_folder_that_may_not_be_read(two_runs, call, monkeypatch):
    true = os.listdir
    def listdir(path='.'):
        if Path(path).name == 'bad': raise PermissionError(errno.EACCES, 'Permission denied', path)
        return true(path)
    monkeypatch.setattr(os, 'listdir', listdir)
    rows = listed(call)
    assert rows['bad']['state'] == 'damaged' and 'Permission denied' in rows['bad']['note']

def test_hundreds_of_runs(place, call):
    text = yaml.safe_dump(default_options('train_sams'), sort_keys=False)
    for i in range(600):
        folder = place/'experiments'/f'run_{i}'
        folder.mkdir(parents=True)
        (folder/'params.yaml').write_text(text.replace('seed: 0', f'seed: {i}'))
        (folder/'metrics.json').write_text(json.dumps(dict(valid_loss=i, steps=700, l1=.5)))
        (folder/'environment.json').write_text(f'{{"notebook": "train_sams", "started": "2026-11-27T10:{i:04}"}}')
        (folder/'train_sams.ipynb').write_text('{"cells": []}')
    begun = time.process_time()
    for _ in range(600): yaml.load(text, yaml.CSafeLoader)
    parsed = time.process_time() - begun # what their options alone take, on this machine and under its load
    begun = time.process_time()
    status, out, _ = call('runs', '--sort', 'valid_loss')
    assert status == 0 and len(out.splitlines()) == 601 and out.splitlines()[-1].startswith('run_599 ')
    assert time.process_time() - begun < 4*parsed # twice as much here

# 4. One bad thing is one line

what_goes_wrong = {
    'ENOSPC': (OSError(errno.ENOSPC, 'No space left on device', 'a.pt'), 2, 'the disk is full: a.pt. Make room on it'),
    'EACCES': (PermissionError(errno.EACCES, 'Permission denied', 'a.pt'), 2, 'this may not be read or written: a.pt'),
    'EROFS': (OSError(errno.EROFS, 'Read-only file system', '/a'), 2, 'this place can only be read: /a. Choose'),
    'ENOENT': (FileNotFoundError(errno.ENOENT, 'No such file', 'a'), 2, 'there is no such file or folder: a. Check'),
    'ENAMETOOLONG': (OSError(errno.ENAMETOOLONG, 'File name too long', 'x'*300), 2, 'this name is too long: xxx'),
    'EMFILE': (OSError(errno.EMFILE, 'Too many open files', 'a'), 2, 'too many files are open at a time: a. Allow'),
    'sockets': (type('ZMQError', (Exception,), {})('Too many open files'), 2, 'too many files are open'),
    'EISDIR': (IsADirectoryError(errno.EISDIR, 'Is a directory', 'a'), 2, 'this is a folder: a'),
    'EIO': (OSError(errno.EIO, 'Input/output error', 'a'), 1, 'unexpected OSError: [Errno 5] Input/output error'),
    'memory': (MemoryError(), 2, 'not enough memory'),
    'bad_alloc': (RuntimeError('std::bad_alloc'), 2, 'not enough memory'),
    'library': (ImportError('a.so: failed to map segment from shared object'), 2, 'not enough memory'),
    'recursion': (RecursionError('maximum recursion depth exceeded'), 1, 'unexpected RecursionError: maximum'),
    'no UTF-8': (UnicodeDecodeError('utf8', b'\xff', 0, 1, 'invalid start byte'), 1, 'unexpected UnicodeDecodeError: '),
    'key': (KeyError('a'), 1, "unexpected KeyError: 'a'. SHINEON_TRACEBACK=1"),
    'empty': (ValueError(), 1, 'unexpected ValueError. '),
    'empty RuntimeError': (RuntimeError(), 1, 'unexpected RuntimeError. '),
    'empty of ours': (ShineOnError(''), 2, 'ShineOnError'),
    'lines': (ValueError('a\nb\r\nc'), 1, 'ValueError: a b c'),
    'escapes': (ShineOnError('a\x1b[2J\x9b\u202eb'), 2, r'a\x1b[2J\x9b\u202eb'),
    'a plain sentence': (RuntimeError('not every run'), 1, 'not every run'),
}

@pytest.mark.parametrize('e,status,says', what_goes_wrong.values(), ids=what_goes_wrong)
def test_one_line_for_everything(e, status, says, call, monkeypatch):
    monkeypatch.setattr('shineon.cli.main.print_runs', raising(e))
    got, out, err = call('runs')
    assert (got, out, err.count('\n')) == (status, '', 1) and err.startswith(f'shineon: {says}') or says in err, err
    assert got == status and err.count('\n') == 1

def test_where_it_comes_from(monkeypatch, capfd, place):
    monkeypatch.setattr('shineon.cli.main.print_runs', raising(KeyError('a')))
    monkeypatch.setenv('SHINEON_TRACEBACK', '1')
    assert main(['runs']) == 1
    err = capfd.readouterr().err
    assert 'Traceback' in err and err.strip().splitlines()[-1].startswith('shineon: unexpected KeyError')

in_a_worker = '''Caught DataError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File ...
shineon.core.errors.DataError: no garment a
b. Make it
'''
cells = {
    'of ours': ('OptionError', 'lr is -1', 2, 'lr is -1'),
    'empty': ('DataError', '', 2, 'DataError'),
    'a name of two lines': ('DataError', 'no garment a\nb. Make it', 2, 'no garment a b. Make it'),
    'in a worker': ('DataError', in_a_worker, 2, 'no garment a b. Make it'),
    'of the system': ('OSError', "[Errno 28] No space left on device: 'a.pt'", 2, 'the disk is full: a.pt'),
    'memory': ('MemoryError', '', 2, 'not enough memory'),
    'sockets': ('ZMQError', 'Too many open files', 2, 'too many files'),
    'another': ('ValueError', 'a\nb', 1, 'ValueError: a. The notebook with the error: experiments/x/train_warp.ipynb'),
    'another, empty': ('AssertionError', '', 1, 'AssertionError: no message. The notebook'),
}

@pytest.mark.parametrize('ename,evalue,status,says', cells.values(), ids=cells)
def test_one_line_for_an_error_in_a_notebook(ename, evalue, status, says, papermill, call):
    papermill.act = raising(cell_error(ename, evalue))
    got, _, err = call(*train, '--name', 'x')
    assert (got, err.count('\n')) == (status, 1) and err.startswith(f'shineon: {says}'), err

def test_a_kernel_that_dies(papermill, call):
    papermill.act = raising(RuntimeError('Kernel died before replying to kernel_info'))
    status, _, err = call(*train, '--name', 'x')
    assert (status, err.count('\n')) == (1, 1) and 'ended by itself' in err and 'perhaps for lack of memory' in err

numbers = {
    '--lr nan': 'lr is nan',
    '--lr inf': 'lr is inf',
    '--lr=-inf': 'lr is -inf',
    '--lr 1e999': 'lr is inf',
    '--batch_size 1000000000000000000000000000000': 'batch_size is 1000',
    '--seed -99999999999999999999': 'seed is',
    f'--batch_size {"7"*5000}': 'batch_size',
    '--batch_size 4.5': 'batch_size',
    '--batch_size four': "invalid int value: 'four'",
    '--val_check_interval nan': 'val_check_interval is nan',
    '--batch_size=': 'batch_size',
    '--gpu_ids=': 'gpu_ids is',
    '--experiments_dir=': 'experiments_dir is',
    '--dataset=': 'dataset is',
    '--person_inputs=': 'person_inputs is',
    '--person_inputs': 'expected at least one argument',
    '--nothing 3': 'no option nothing',
    '--plugins=': 'plugin',
}

@pytest.mark.parametrize('args,says', numbers.items(), ids=[k[:30] for k in numbers])
def test_values_that_cannot_work(args, says, papermill, refused, place):
    refused([*train, '--name', 'x', *args.split()], says)
    assert written(place) == [] and not papermill.seen

@pytest.mark.parametrize('args,says', {
    'sample out --n_frames 999999999999999999999': 'n_frames is',
    'sample out --seed nan': 'invalid int value',
    'bench --seconds nan': 'seconds is nan',
    'bench --seconds inf': 'seconds is inf',
    'bench --budget=-inf': 'budget is -inf',
    'sweep s.yaml --jobs 0': 'jobs is 0',
    'sweep s.yaml --jobs many': 'invalid int value',
    'demo --seed 99999999999999999999': 'seed is',
    'walk': "invalid choice: 'walk'",
    '': 'COMMAND',
    'runs --sort': 'expected one argument',
    'rerun': 'NAME',
    'rerun x': 'no such run',
    'export': 'checkpoint',
    'runs --json --csv': 'not allowed with',
}.items())
def test_other_commands(args, says, refused, place):
    (place/'experiments').mkdir()
    (place/'s.yaml').write_text('model: warp')
    refused(args.split(), says)
    assert written(place) == ['s.yaml']

@pytest.mark.parametrize('value', ['a\udcffb', '\udc80'])
def test_values_that_are_no_text(value, papermill, refused, place):
    refused([*train, '--name', 'x', '--vvt_dataroot', value], 'vvt_dataroot is', 'UTF-8')
    assert written(place) == []

# streams, and little of what a process needs: in processes of their own

def shell(line, cwd, **env):
    "Run a line of the shell in which `shineon` is ours"
    (cwd/'.run').write_text(f'shineon() {{ {" ".join(map(_quoted, shineon))} "$@"; }}\n{line}\n')
    r = subprocess.run(['bash', '.run'], cwd=cwd, env=os.environ | env, capture_output=True, timeout=60)
    assert b'Traceback' not in r.stdout + r.stderr, r.stderr
    return r.returncode, r.stdout, r.stderr

def _quoted(word): return "'" + word.replace("'", "'\\''") + "'"

streams = {
    'stdout closed': ('shineon runs >&-', 0, b''),
    'stderr closed': ('shineon runs hat 2>&-', 2, b''),
    'all closed': ('shineon runs hat <&- >&- 2>&-', 2, b''),
    'a full disk': ('shineon runs > /dev/full', 2, b'the disk is full'),
    'stderr full': ('shineon runs hat 2> /dev/full', 2, b''),
    'ascii': ('LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii ' 'shineon runs', 0, b''),
    'little memory': ('ulimit -v 1000000; shineon train --model warp --name x', 2, b'only 977 MB of memory'),
    'few files': ('ulimit -n 30; shineon train --model warp --name x', 2, b'only 30 files'),
}

@pytest.mark.parametrize('line,status,says', streams.values(), ids=streams)
def test_streams_and_limits(line, status, says, tmp_path):
    (tmp_path/'experiments'/'Zoë \udcff').mkdir(parents=True)
    (tmp_path/'experiments'/'Zoë \udcff'/'metrics.json').write_text('{}')
    got, out, err = shell(line, tmp_path)
    assert got == status and says in err and err.count(b'\n') == bool(says), (got, out, err)
    if 'ascii' in line: assert out.isascii() and br'Zo\udcc3\udcab \udcff' in out, out

def test_what_a_kernel_prints_is_escaped(papermill, monkeypatch, call):
    def execute(source, out, params, stdout_file, **kw): stdout_file.write('frame \x1b]0;mine\x07.png\n')
    monkeypatch.setattr('papermill.execute_notebook', execute)
    status, out, _ = call(*train, '--name', 'x')
    assert status == 0 and r'frame \x1b]0;mine\x07.png' in out

# several processes and sweeps

slow = '''
import signal, sys, time
from pathlib import Path
def save(*_): time.sleep(1); Path('saved').touch(); sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path('begun').touch()
time.sleep(60)
'''

def test_a_sweep_is_told_three_times(tmp_path):
    "The run takes its time to save; nobody kills it"
    (tmp_path/'slow.py').write_text(slow)
    (tmp_path/'s.yaml').write_text('model: warp\nruns: [{name: a}, {name: b}]\n')
    code = ('import sys; from shineon.cli import main, sweep; '
            'sweep._command = lambda n, f: [sys.executable, "slow.py"]; '
            'sys.argv[1:] = ["sweep", "s.yaml"]; sys.exit(main.main())')
    with subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as p:
        while p.poll() is None and not (tmp_path/'begun').exists(): time.sleep(.05)
        status, out, err = ended(p, signal.SIGINT, signal.SIGINT, signal.SIGTERM, apart=.2)
    assert (status, err) == (130, 'shineon: stopped\n') and 'the same command goes on' in out
    assert (tmp_path/'saved').exists() and hidden(tmp_path) == []
    assert not (tmp_path/'experiments'/'b').exists()

def test_a_run_of_a_sweep_that_cannot_start(monkeypatch, place, capfd):
    "It stops no other"
    monkeypatch.setattr(sweeps, '_command', lambda n, f: [sys.executable, '-c', ''])
    make(place/'experiments'/'a'/'output.txt', 'pipe')
    outcomes = sweeps.sweep('s', 'train_warp', runs=[dict(name='a'), dict(name='b')])
    assert [o['state'] for o in outcomes] == ['failed', 'finished'] and 'this is a pipe' in outcomes[0]['note']

def test_a_process_to_which_no_other_comes(capsys, monkeypatch):
    from datetime import timedelta
    from shineon.train import distributed
    monkeypatch.setattr(distributed, '_tell_after', .1)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '0')
    with pytest.raises(OptionError, match='all 2 processes .* did not meet in .* unset them'):
        distributed.meet(0, 2, timedelta(seconds=.3))
    assert capsys.readouterr().out.count('waiting for all 2 processes') == 1
