"What the tests share: a small sample set, a trained warp and try-on network, ways to call the command line"
import json, os, shlex, shutil, signal, subprocess, sys, tempfile, types
from pathlib import Path

import pytest
import shineon # noqa: F401 (before fastai and torchvision)
from filelock import FileLock

import forks

repo = Path(__file__).resolve().parent.parent
# tests in the background of a script ignore Ctrl-C, and so would what they start
signal.signal(signal.SIGINT, signal.default_int_handler)
size = ['--fine_height', '128', '--fine_width', '64']
small = [*size, *'--ngf 4 --batch_size 4 --workers 0 --val_fraction 0.34 --val_check_interval 1.0'.split(),
         *'--seed 5 --gpu_ids -1'.split()]
short = '--keep_epochs 1 --decay_epochs 1 --display_count 1'.split()

def pytest_configure(config):
    "Where commands come from, for all processes of this session"
    if not forks.possible or hasattr(config, 'workerinput'): return
    folder = tempfile.mkdtemp(prefix='shineon-tests-')
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    forks.announce(folder)

# first, so that none of them is left to one process at the end
longest = [f'test_{n}.py' for n in 'browser sams distributed cli runs sweeps widgets weights'.split()]

def pytest_collection_modifyitems(items): items.sort(key=lambda item: item.path.name not in longest)

# made once a session, also where several processes of pytest share the tests

@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    "Folder that all processes of this session share"
    base = tmp_path_factory.getbasetemp()
    return base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

def once(shared, name, make):
    "Let the first process that asks make something; the others wait until it is there"
    done = shared/f'{name}.done'
    with FileLock(shared/f'{name}.lock'):
        if not done.exists(): make()
        done.touch()

@pytest.fixture(scope='session')
def vvt(shared):
    "A sample set: three training videos and two test videos of four frames, 128 x 64"
    from shineon.sample.dataset import make_sample
    root = shared/'data'/'vvt'
    once(shared, 'vvt', lambda: make_sample(root, n_train=3, n_test=2, n_frames=4, height=128, width=64, seed=1))
    return root

@pytest.fixture
def broken(vvt, tmp_path):
    "A copy of the sample set, to damage"
    return Path(shutil.copytree(vvt, tmp_path/'vvt'))

@pytest.fixture(scope='session')
def shineon_command():
    "Run the command line in a process of its own: `status`, `out`, `err`; where `env` says more, Python begins anew"
    def run(*args, cwd, **env):
        kept = {k: v for k,v in os.environ.items() if k != 'MPLBACKEND'} # kernels choose how to draw into notebooks
        if forks.possible and not env:
            status, out, err = forks.run_command(args, cwd, kept, timeout=300)
            return types.SimpleNamespace(status=status, out=out, err=err)
        p = subprocess.run([sys.executable, '-m', 'shineon.cli.main', *map(str, args)], cwd=cwd, env=kept | env,
                           capture_output=True, text=True, timeout=300)
        return types.SimpleNamespace(status=p.returncode, out=p.stdout, err=p.stderr)
    return run

def begun(words, cwd, env, quiet):
    "A command in a process and a session of its own, like `Popen`; what it prints can be read, unless `quiet`"
    if forks.possible: return forks.begin(words, cwd, env, quiet)
    to = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen([sys.executable, '-m', 'shineon.cli.main', *words], cwd=cwd, env=env, text=True,
                            stdout=to, stderr=to, start_new_session=True)

@pytest.fixture(scope='session')
def begin():
    "Begin a command, to watch it or to tell it to stop"
    def run(*args, cwd, quiet=False):
        env = {k: v for k,v in os.environ.items() if k != 'MPLBACKEND'}
        return begun([*map(str, args)], cwd, env, quiet)
    return run

@pytest.fixture(scope='session')
def workplace(tmp_path_factory):
    "Folder of further runs of this process"
    return tmp_path_factory.mktemp('workplace')

@pytest.fixture(scope='session')
def trained(shared, shineon_command):
    "Run a command once in the folder of the shared runs; returns that folder"
    folder = shared/'trained'
    folder.mkdir(exist_ok=True)
    def run(name, *command):
        def make():
            r = shineon_command(*command, cwd=folder)
            assert r.status == 0, r.err
        once(shared, name, make)
        return folder
    return run

@pytest.fixture(scope='session')
def warp_run(vvt, trained):
    "Folder of a small warp's training run"
    args = ['train', '--model', 'warp', '--name', 'warp', '--vvt_dataroot', vvt, *small, *short]
    return trained('warp', *args)/'experiments'/'warp'

@pytest.fixture(scope='session')
def warped_dir(vvt, trained, warp_run):
    "Folder of the training videos' garments, warped by that warp"
    args = ['tryon', '--name', 'warped', '--vvt_dataroot', vvt, '--datamode', 'train', '--out_fmt', 'png',
            '--checkpoint', warp_run/'checkpoints'/'last.pt', '--gpu_ids', '-1']
    return trained('warped', *args)/'test_results'/'warped'

# the three command lines of the project's description, but for their first words
warp_command = '''
--name train_warp \\
--model warp \\
--workers 4 \\
--batch 4
'''
unet_command = '''
--name train_shineon \\
--model unet \\
--batch 4 \\
--person_inputs densepose agnostic \\
--cloth_inputs cloth \\
--val_check_interval 0.05 \\
--self_attn \\
--accumulated_batches 16 \\
--activation gelu \\
--warp_cloth_dir /path/to/output/warp/cloth/directory
'''

sams_command = '''
--name "SAMS-GAN_train" \\
--model sams \\
--ngf_pow_outer 6 \\
--ngf_pow_inner 10 \\
--n_frames_total 5 \\
--n_frames_now 1 \\
--batch_size 4 \\
--workers 8
'''

def words(command):
    "Words of a command line, as the shell parts them"
    return shlex.split(command.replace('\\\n', ' '))

@pytest.fixture(scope='session')
def unet_run(vvt, trained, warped_dir):
    "Folder of a run of the description's UNet-Mask command, on the garments that the warp made"
    args = words(unet_command.replace('/path/to/output/warp/cloth/directory', str(warped_dir)))
    smaller = [*size, *'--wt_vgg 0 --ngf 4 --workers 0 --val_fraction 0.34 --gpu_ids -1'.split(), *short]
    return trained('unet', 'train', *args, '--vvt_dataroot', vvt, *smaller)/'experiments'/'train_shineon'

@pytest.fixture
def in_process(monkeypatch):
    "Let papermill run the code of a notebook in this process: starting a kernel takes seconds"
    import matplotlib, papermill
    import matplotlib.pyplot as plt
    matplotlib.use('agg')
    def failed(e):
        return papermill.PapermillExecutionError(cell_index=0, exec_count=0, source='', ename=type(e).__name__,
                                                 evalue=str(e), traceback=[])
    def execute(source, out, params, **kw):
        names = {'__name__': '__main__'}
        for cell in json.loads(Path(source).read_text(encoding='utf8'))['cells']:
            if cell['cell_type'] != 'code': continue
            try: exec(compile(''.join(cell['source']), str(source), 'exec'), names)
            except Exception as e: raise failed(e) from e
            if 'parameters' in cell['metadata'].get('tags', []): names.update(params)
    monkeypatch.setattr(papermill, 'execute_notebook', execute)
    yield
    plt.close('all')

@pytest.fixture(scope='session')
def real():
    "Folder of real clips: $SHINEON_REAL, or shared/real beside the project"
    folder = Path(os.environ.get('SHINEON_REAL', repo.parent/'shared'/'real'))
    if not (folder/'vvt').is_dir(): pytest.skip(f'no real clips in {folder}; name their folder with SHINEON_REAL')
    return folder

@pytest.fixture(scope='session')
def models():
    "Folder of the light level's model files: $SHINEON_MODELS, or shared/models beside the project"
    folder = Path(os.environ.get('SHINEON_MODELS', repo.parent/'shared'/'models'))
    if not (folder/'pose_landmark_heavy.tflite').is_file():
        pytest.skip(f'no model files in {folder}; name their folder with SHINEON_MODELS')
    pytest.importorskip('ai_edge_litert')
    return folder

holder = '''
import sys, time
from shineon.core.files import hold
hold(sys.argv[1], 'this run')
print('held', flush=True)
time.sleep(60)
'''

@pytest.fixture
def held_by_another():
    "Start a process that holds a lock: returns it"
    begun = []
    def start(path):
        begun.append(subprocess.Popen([sys.executable, '-c', holder, str(path)], stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout.readline() == 'held\n'
        return begun[-1]
    yield start
    for p in begun: p.kill(); p.wait()
