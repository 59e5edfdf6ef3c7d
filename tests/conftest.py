"What the tests share: a small sample set, a trained warp and try-on network, ways to call the command line"
import json, os, shlex, shutil, signal, subprocess, sys, types
from pathlib import Path

import pytest
import shineon # before fastai and torchvision

repo = Path(__file__).resolve().parent.parent
signal.signal(signal.SIGINT, signal.default_int_handler) # tests in the background of a script ignore Ctrl-C, and so would what they start
small = '--fine_height 128 --fine_width 64 --ngf 4 --batch_size 4 --workers 0 --val_fraction 0.34 --val_check_interval 1.0 --seed 5 --gpu_ids -1'.split()
short = '--keep_epochs 1 --decay_epochs 1 --display_count 1'.split()

@pytest.fixture(scope='session')
def vvt(tmp_path_factory):
    "A sample set: three training videos and two test videos of four frames, 128 x 64"
    from shineon.sample.dataset import make_sample
    return make_sample(tmp_path_factory.mktemp('data')/'vvt', n_train=3, n_test=2, n_frames=4, height=128, width=64, seed=1)

@pytest.fixture
def broken(vvt, tmp_path):
    "A copy of the sample set, to damage"
    return Path(shutil.copytree(vvt, tmp_path/'vvt'))

@pytest.fixture(scope='session')
def shineon_command():
    "Run the command line in a process of its own: `status`, `out`, `err`"
    def run(*args, cwd, **env):
        env = {k: v for k,v in os.environ.items() if k != 'MPLBACKEND'} | env # kernels choose how to draw into notebooks
        p = subprocess.run([sys.executable, '-m', 'shineon.cli.main', *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
        return types.SimpleNamespace(status=p.returncode, out=p.stdout, err=p.stderr)
    return run

@pytest.fixture(scope='session')
def workplace(tmp_path_factory): return tmp_path_factory.mktemp('workplace')

@pytest.fixture(scope='session')
def warp_run(vvt, workplace, shineon_command):
    "Folder of a small warp's training run"
    r = shineon_command('train', '--model', 'warp', '--name', 'warp', '--vvt_dataroot', vvt, *small, *short, cwd=workplace)
    assert r.status == 0, r.err
    return workplace/'experiments'/'warp'

@pytest.fixture(scope='session')
def warped_dir(vvt, workplace, warp_run, shineon_command):
    "Folder of the training videos' garments, warped by that warp"
    r = shineon_command('tryon', '--name', 'warped', '--vvt_dataroot', vvt, '--datamode', 'train', '--checkpoint', warp_run/'checkpoints'/'last.pt', '--out_fmt', 'png', '--gpu_ids', '-1', cwd=workplace)
    assert r.status == 0, r.err
    return workplace/'test_results'/'warped'

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

def words(command): return shlex.split(command.replace('\\\n', ' ')) # as the shell does

@pytest.fixture(scope='session')
def unet_run(vvt, workplace, warped_dir, shineon_command):
    "Folder of a run of the description's UNet-Mask command, on the garments that the warp made"
    args = words(unet_command.replace('/path/to/output/warp/cloth/directory', str(warped_dir)))
    r = shineon_command('train', *args, '--vvt_dataroot', vvt, '--wt_vgg', '0', '--fine_height', '128', '--fine_width', '64', '--ngf', '4', '--workers', '0',
                        '--val_fraction', '0.34', '--gpu_ids', '-1', *short, cwd=workplace)
    assert r.status == 0, r.err
    return workplace/'experiments'/'train_shineon'

@pytest.fixture
def in_process(monkeypatch):
    "Let papermill run the code of a notebook in this process: starting a kernel takes seconds"
    import matplotlib, papermill
    import matplotlib.pyplot as plt
    matplotlib.use('agg')
    def execute(source, out, params, **kw):
        names = {'__name__': '__main__'}
        for cell in json.loads(Path(source).read_text(encoding='utf8'))['cells']:
            if cell['cell_type'] != 'code': continue
            try: exec(compile(''.join(cell['source']), str(source), 'exec'), names)
            except Exception as e:
                raise papermill.PapermillExecutionError(cell_index=0, exec_count=0, source='', ename=type(e).__name__, evalue=str(e), traceback=[]) from e
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
