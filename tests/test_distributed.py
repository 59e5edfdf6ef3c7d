"""Several processes train as one would: gradients, whole runs, stops; try-on and evaluation share their videos.
Two gloo processes on the CPU"""
import json, os, signal, socket, subprocess, sys, time

import pytest
import shineon # noqa: F401, before fastai
import torch
from shineon.core.run_folder import process_number
from shineon.core.errors import TrainingError

# run by each process: `python test_distributed.py DATA OUT`

def one_step(name, vvt):
    "Gradients of a network, and of its critics, in the first step of a run with four clips a step in all"
    from fastai.callback.core import Callback, CancelFitException
    from shineon.data.clips import ClipReader
    from shineon.data.layouts import vvt_videos
    from shineon.data.loaders import clip_loaders
    from shineon.models.critics import MultiscaleCritic, TemporalCritic
    from shineon.models.sams import SamsGenerator
    from shineon.models.unetmask import UNetMask
    from shineon.models.warp import WarpModule
    from shineon.train.callback import trained_networks
    from shineon.train.frames import ProgressiveFramesCallback
    from shineon.train.gan import GANCallback, SamsLoss
    from shineon.train.learner import seed_everything, tryon_learner
    from shineon.train.losses import UNetMaskLoss, WarpLoss
    class Double(Callback):
        "In float64 the order of a sum does not show"
        order = -6 # before all that looks at the clip
        def before_batch(self):
            clip = {k: v.double() if isinstance(v, torch.Tensor) else v for k,v in self.x.items()}
            self.learn.xb = self.learn.yb = (clip,)
    class Note(Callback):
        order = 8.5 # when gradients are averaged, before any step is taken
        def before_step(self):
            modules = trained_networks(self.learn).items()
            self.grads = {f'{k} {n}': p.grad.clone() for k,m in modules for n,p in m.named_parameters()
                          if p.grad is not None}
            self.running = {n: b.clone() for n,b in self.model.named_buffers() if 'running' in n}
            raise CancelFitException
    seed_everything(3)
    number, n = process_number()
    size = dict(fine_height=128, fine_width=64)
    inputs = dict(warp=['agnostic','cocopose'], unet=['agnostic','densepose'], sams=['agnostic','densepose','flow'])
    reader = ClipReader(inputs[name], flow_warp=False, warped=name != 'warp', **size)
    frames = 2 if name == 'sams' else 1
    dls = clip_loaders(vvt_videos(vvt), [], reader, frames, 4//n, 0, no_shuffle=True, device='cpu')
    def sams():
        model = SamsGenerator(n_frames_total=2, ngf_pow_outer=2, ngf_pow_inner=4, num_middle=1, spade_hidden=8)
        gan = GANCallback(MultiscaleCritic(15, ndf=4).double(), TemporalCritic(10, ndf=4).double())
        return model, SamsLoss(wt_vgg=0), [gan, ProgressiveFramesCallback(2, n_frames_now=1)]
    make = dict(warp=lambda: (WarpModule(ngf=4, **size), WarpLoss(), []),
                unet=lambda: (UNetMask(ngf=4, self_attn=True), UNetMaskLoss(wt_vgg=0), []),
                sams=sams)
    model, loss, cbs = make[name]()
    if number: torch.nn.init.constant_(next(model.parameters()), .5) # the first process's weights are to count
    note = Note()
    learn = tryon_learner(dls, model.double(), loss, cbs=[*cbs, note, Double()])
    with learn.no_bar(): learn.fit(1)
    return note.grads | note.running

def nan_in_one():
    "A loss that is no number in one process stops both at that step"
    from types import SimpleNamespace
    from shineon.train.guards import StopAtNaN
    guard = StopAtNaN()
    guard.learn = SimpleNamespace(pred=dict(result=torch.ones(2)), loss_func=None, train_iter=4, _grab_cbs=lambda c: [],
                                  loss_grad=torch.tensor(1.))
    guard.before_fit()
    guard.after_loss()
    if process_number()[0]: guard.learn.loss_grad = torch.tensor(float('nan'))
    try: guard.after_loss()
    except TrainingError as e: return str(e)

def plateau():
    "Frames of each epoch where the processes' own losses disagree: their mean decides"
    from fastai.callback.core import Callback
    from shineon.testing import fit_quietly, synth_learner
    from shineon.train.distributed import SumMetrics
    from shineon.train.frames import ProgressiveFramesCallback
    class OwnLoss(Callback):
        order = -90 # before losses are summed
        def after_validate(self):
            loss = self.recorder._valid_mets[0]
            own = ([1., 2., 2., 2.], [5., 1., 1., 1.])[process_number()[0]]
            loss.total, loss.count = torch.tensor(own[self.epoch]), 1
    cbs = [ProgressiveFramesCallback(2, grow='plateau', patience=2), SumMetrics(), OwnLoss()]
    learn = fit_quietly(synth_learner(n_clips=2, cbs=cbs), 4)
    return learn.progressive_frames.history, [v[1] for v in learn.recorder.values]

networks = ('warp', 'unet', 'sams')

if __name__ == '__main__':
    from shineon.train.distributed import join
    torch.set_num_threads(1)
    join(cpu=True)
    vvt, out = sys.argv[1:]
    torch.save(dict(nets={n: one_step(n, vvt) for n in networks}, nan=nan_in_one(), grown=plateau()),
               f'{out}/{process_number()[0]}.pt')
    sys.exit()

@pytest.fixture(scope='module')
def two(vvt, tmp_path_factory):
    "What two processes noted"
    out = tmp_path_factory.mktemp('two')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {k: v for k,v in os.environ.items() if k != 'MPLBACKEND'}
    env |= dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1')
    command = [sys.executable, __file__, str(vvt), str(out)]
    start = lambda i: subprocess.Popen(command, env=env | dict(RANK=str(i), LOCAL_RANK=str(i)), stderr=subprocess.PIPE,
                                       text=True)
    processes = [start(i) for i in range(2)]
    for p in processes: assert not p.wait(timeout=300), p.stderr.read()
    return [torch.load(out/f'{i}.pt') for i in range(2)]

@pytest.mark.parametrize('name', networks)
def test_gradients(name, vvt, two):
    "The mean of two processes' gradients, with two clips each, is that of one with four"
    alone, (first, second) = one_step(name, vvt), (t['nets'][name] for t in two)
    assert alone.keys() == first.keys() == second.keys() and len(alone) > 10
    assert name != 'sams' or {k.split()[0] for k in alone if ' ' in k} == {'generator', 'multiscale', 'temporal'}
    parts = {k: k.split()[0] if ' ' in k else k for k in alone} # a network, or one batch norm's statistics
    largest = {part: max(alone[k].norm() for k in alone if parts[k] == part) for part in parts.values()}
    for k,v in alone.items():
        assert torch.equal(first[k], second[k]), k
        # means of losses are float32; some slopes are 0 but for rounding
        assert (first[k] - v).norm() <= 1e-5*v.norm() + 1e-6*largest[parts[k]], k
    assert any('running' in k for k in alone) == (name != 'unet') # batch norms saw all four clips

def test_nan_in_one_process(two):
    for t in two: assert 'no number at step 5' in t['nan']

def test_a_plateau_of_all(two):
    "The mean falls once; the first one's own loss does not, and by it two frames would come in the last epoch"
    for t in two: assert t['grown'] == ([(0, 1)], [3., 1.5, 1.5, 1.5])

# whole runs

from shineon.cli.main import main
from test_runs import equal, train, weights

both = '--gpu_ids=-1,-1'

@pytest.fixture(scope='module')
def two_run(vvt, shineon_command, tmp_path_factory):
    "Folder of a run of two processes with two clips each, beside `warp_run`'s one with four"
    place = tmp_path_factory.mktemp('two_run')
    r = shineon_command(*train('warp', 'two', vvt, both, '--batch_size', 2), cwd=place)
    assert r.status == 0, r.err
    assert r.out.count('epoch 1/2 |') == 1 and 'two, 2 processes' in r.out # the first process prints
    return place/'experiments'/'two'

def test_a_run_of_two(two_run, warp_run):
    one, two = (json.loads((f/'metrics.json').read_text()) for f in (warp_run, two_run))
    assert one['steps'] == two['steps'] == 4
    for k in ('train_loss', 'valid_loss', 'l1'): assert abs(one[k] - two[k]) < 1e-3*one[k], k
    names = lambda f: sorted(p.relative_to(f).parts[0] for p in f.rglob('*') if p.is_file())
    assert names(two_run) == names(warp_run)

def test_stopped_together(vvt, shineon_command, begin, tmp_path):
    "A signal stops both after the same step; going on gives the weights of a run that was not stopped"
    long = ['--batch_size', 2, '--keep_epochs', 9] # so long that the signal comes before its end on a busy machine
    args = [*train('warp', 'two', vvt, both, *long, '--save_count', 1)]
    whole = shineon_command(*train('warp', 'whole', vvt, both, *long), cwd=tmp_path)
    assert whole.status == 0, whole.err
    step = tmp_path/'experiments'/'two'/'checkpoints'/'step_1.pt'
    with begin(*args, cwd=tmp_path) as p:
        while p.poll() is None and not step.exists(): time.sleep(.02)
        p.send_signal(signal.SIGTERM)
        err = p.communicate(timeout=300)[1]
    assert p.returncode == 143 and err.startswith('shineon: stopped by SIGTERM') and err.count('\n') == 1, err
    r = shineon_command(*args, '--checkpoint', 'last', cwd=tmp_path)
    assert r.status == 0, r.err
    assert equal(*(weights(tmp_path/'experiments'/name) for name in ('whole', 'two')))

def test_refused(vvt, in_process, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    nccl = train('warp', 'x', vvt, '--distributed_backend', 'nccl', '--gpu_ids', '-1')
    for args,text in ((nccl, 'GPUs only'), (['compare', 'a', 'b', '--truth', vvt, both], 'one device')):
        assert main(list(map(str, args))) == 2
        assert text in capfd.readouterr().err
    first_of_two = dict(RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT='29511')
    for k,v in first_of_two.items(): monkeypatch.setenv(k, v)
    assert main(['train', '--model', 'warp', '--vvt_dataroot', str(vvt)]) == 2
    assert '--name NAME' in capfd.readouterr().err

def test_the_fault_that_counts(vvt, shineon_command, tmp_path):
    "A run that cannot start ends with one line and its status, though two processes found the fault"
    r = shineon_command(*train('warp', 'bad', vvt, both, '--lr', -1), cwd=tmp_path)
    assert (r.status, r.err.count('\n')) == (2, 1) and r.err.startswith('shineon: lr is -1'), r.err

# try-on

def test_tryon_shared(broken, warp_run, shineon_command, tmp_path):
    "Two processes dress a list; a broken video is named at the end, and dressed when it is whole again"
    bad = sorted((broken/'test'/'test_frames_parsing').glob('*/*003_label.png'))[0]
    whole, garments = bad.read_bytes(), sorted((broken/'clothes_person'/'img').glob('*/*.png'))[:2]
    bad.write_bytes(whole[:99])
    videos = sorted(p.name for p in (broken/'test'/'test_frames').iterdir())
    (tmp_path/'list.csv').write_text(''.join(f'{g},{v}\n' for v in videos for g in garments))
    args = ['tryon', '--name', 'shared', '--vvt_dataroot', broken, '--checkpoint', warp_run/'checkpoints'/'last.pt',
            '--tryon_list', tmp_path/'list.csv', '--out_fmt', 'png', both]
    r = shineon_command(*args, cwd=tmp_path)
    assert r.status == 2 and '2 of 4 try-ons failed' in r.err and str(bad) in r.err, r.err
    assert '--resume' in r.err and r.err.count('\n') == 1, r.err
    made = lambda: {p: p.stat().st_mtime_ns for p in (tmp_path/'test_results'/'shared').glob('*/*.png')}
    first = made()
    assert {p.parent.name for p in first} == {videos[1]} and len(first) == 2*4
    bad.write_bytes(whole)
    r = shineon_command(*args, '--resume', cwd=tmp_path)
    assert r.status == 0, r.err
    assert len(made()) == 4*4 and all(made()[p] == t for p,t in first.items()) # what was done stayed
    metrics = json.loads((tmp_path/'experiments'/'shared'/'metrics.json').read_text())
    assert metrics['try_ons'] == 4 and metrics['frames'] == 16 and not metrics['failed']

    # and two processes measure what was made
    results = tmp_path/'test_results'/'shared'
    bad = sorted(results.glob(f'{videos[0]}/*.png'))[0]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:99])
    args = ['evaluate', results, '--truth', broken, '--name', 'measured', '--metrics', 'ssim', 'l1', both]
    r = shineon_command(*args, cwd=tmp_path)
    assert r.status == 2 and 'videos failed' in r.err and bad.name in r.err, r.err
    assert '--resume' in r.err and r.err.count('\n') == 1, r.err
    bad.write_bytes(whole)
    parts = (tmp_path/'experiments'/'measured'/'parts').rglob('*.json')
    noted = {p: p.stat().st_mtime_ns for p in parts if 'error' not in p.read_text()}
    r = shineon_command(*args, '--resume', cwd=tmp_path)
    assert r.status == 0 and noted and all(p.stat().st_mtime_ns == t for p,t in noted.items()), r.err
    shared = json.loads((tmp_path/'experiments'/'measured'/'metrics.json').read_text())
    assert len(shared['videos']) > len(noted) and not shared['failed']
    from shineon.evaluate.measure import evaluate
    alone = evaluate(results, broken, ('ssim','l1'), log=lambda *_: None)
    assert shared['summary'] == alone['summary'] and shared['videos'] == alone['videos']
