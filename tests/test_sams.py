"SAMS-GAN as a user meets it: training runs that grow, stop and go on; try-on of whole videos; networks that learn"
import json, os, re, signal, subprocess, sys, time
from functools import partial

import pytest, torch
from conftest import short
from shineon.cli.main import main
from shineon.models.files import load_model, read_checkpoint
from shineon.models.sams import SamsGenerator
from test_runs import check_results, equal, tryon, weights

tiny = '--ngf_pow_outer 3 --ngf_pow_inner 4 --num_middle 1 --spade_hidden 8 --ndf 4 --n_layers_D 2 --wt_vgg 0'.split()

def train(name, root, *more):
    return ['train', '--model', 'sams', '--name', name, '--vvt_dataroot', str(root), '--fine_height', '64', '--fine_width', '32', '--image_scale', '.5', '--workers', '0', '--gpu_ids', '-1',
            '--val_fraction', '.34', '--seed', '5', '--n_frames_total', '3', *tiny, *short, *map(str, more)]

growing = ['--batch_size', 2, '--keep_epochs', 2, '--decay_epochs', 1, '--val_check_interval', .5, '--ema', .9] # 3 epochs of 4 steps: one, two, three frames

@pytest.fixture(scope='module')
def sams_run(vvt, workplace, shineon_command):
    "Folder of a run of 12 steps, on true warped garments, with attention in two layers and a checkpoint after each third step"
    r = shineon_command(*train('sams', vvt, *growing, '--flow_warp', '--attention_decoder_indices', -1, '--attention_middle_indices', -1, '--save_count', 3), cwd=workplace)
    assert r.status == 0, r.err
    return workplace/'experiments'/'sams'

def everything(file): # all weights of a checkpoint: the generator that is used, the one that is trained, both critics
    ckpt = read_checkpoint(file)
    training = ckpt['more']['training']
    nets = dict(used=ckpt['state'], trained=training['generator'], **training['callbacks']['gan']['critics'])
    return {f'{n} {k}': v for n,state in nets.items() for k,v in state.items()}

def test_what_a_run_leaves(sams_run):
    metrics = json.loads((sams_run/'metrics.json').read_text())
    assert metrics['steps'] == 12 and {'l1', 'feat', 'multiscale', 'temporal', 'multiscale_real', 'multiscale_fake', 'temporal_real', 'temporal_fake'} <= metrics.keys()
    assert metrics['feat'] > 0 # feature matching is computed
    ckpt = read_checkpoint(sams_run/'checkpoints'/'last.pt')
    training = ckpt['more']['training']
    assert training['callbacks']['progressive_frames']['history'] == [(0,1), (1,2), (2,3)] # grown by itself
    assert training['opt']['state'] and all(o['state'] for o in training['callbacks']['gan']['opts'].values()) and training['random']
    assert not equal(ckpt['state'], training['generator']) # the moving average is what is used
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    tags = EventAccumulator(str(sams_run/'tensorboard')).Reload().Tags()['scalars']
    assert {'l1/train', 'l1/valid', 'feat/train', 'multiscale_fake/train', 'temporal/train'} <= set(tags)

def test_options_of_the_network(sams_run):
    config = read_checkpoint(sams_run/'checkpoints'/'last.pt')['config']
    assert config['flow_warp'] and config['attention_decoder_indices'] == [-1] and config['n_frames_total'] == 3
    attention = {r['layer'] for r in load_model(sams_run/'checkpoints'/'last.pt').layers_table() if r['attention']}
    assert attention == {'middle 0', 'decoder 0'}

def test_options_of_the_command(vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match='ngf is not used'):
        assert main(train('options', vvt, '--fast_dev_run', '--ngf_pow_inner', 5, '--attention_decoder_indices', -1, -2, '--no_ganFeat_loss', '--ngf', 64, '--n_frames_now', 2,
                          '--frame_checkpointing', '--grad_clip', 1, '--r1', 1, '--gan_mode', 'ls', '--accumulated_batches', 2)) == 0
    metrics = json.loads((tmp_path/'experiments'/'options'/'metrics.json').read_text())
    assert 'feat' not in metrics and metrics['multiscale_r1'] > 0
    assert sum(r['attention'] for r in load_model(tmp_path/'experiments'/'options'/'checkpoints'/'last.pt').layers_table()) == 2
    for bad,part in ((['--netD_subarch', 'pixel'], 'n_layer'), (['--attention_decoder_indices', 5], 'attention_decoder_indices has 5'), (['--n_frames_now', 9], 'n_frames_now is 9'),
                     (['--grow', 'fast'], 'grow'), (['--ema', 1], 'decay'), (['--norm_G', 'batch'], 'norm_G'), (['--encoder_input', 'hat'], 'encoder_input')):
        assert main(train('bad', vvt, '--fast_dev_run', *bad)) == 2
        err = capsys.readouterr().err
        assert part in err and err.count('\n') == 1
    assert not (tmp_path/'experiments'/'bad'/'params.yaml').exists()

# stop and go on

@pytest.mark.parametrize('step', [3, 6, 12]) # within an epoch of one frame and of two frames; after the last step
def test_going_on_in_a_new_process(step, sams_run, vvt, shineon_command, tmp_path):
    r = shineon_command(*train('on', vvt, *growing, '--checkpoint', sams_run/'checkpoints'/f'step_{step}.pt'), cwd=tmp_path)
    assert r.status == 0, r.err
    whole, on = (everything(f/'checkpoints'/'last.pt') for f in (sams_run, tmp_path/'experiments'/'on'))
    assert equal(whole, on)
    before, after = (json.loads((f/'metrics.json').read_text()) for f in (sams_run, tmp_path/'experiments'/'on'))
    assert all(before[k] == after[k] for k in before if k not in ('seconds', 'checkpoint'))

def test_killed_and_going_on(sams_run, vvt, shineon_command, tmp_path):
    "SIGKILL in the middle, then `--checkpoint last`, until the run is whole"
    command = train('killed', vvt, *growing, '--flow_warp', '--attention_decoder_indices', -1, '--attention_middle_indices', -1, '--save_count', 1, '--checkpoint', 'last')
    folder = tmp_path/'experiments'/'killed'
    for step in (2, 7):
        with subprocess.Popen([sys.executable, '-m', 'shineon.cli.main', *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as p:
            while p.poll() is None and not (folder/'checkpoints'/f'step_{step}.pt').exists(): time.sleep(.01)
            os.killpg(p.pid, signal.SIGKILL)
    assert not (folder/'metrics.json').exists()
    r = shineon_command(*command, cwd=tmp_path)
    assert r.status == 0 and 'going on from' in r.out, r.err
    assert equal(everything(sams_run/'checkpoints'/'last.pt'), everything(folder/'checkpoints'/'last.pt'))
    assert len(json.loads((folder/'environment.json').read_text())['before']) == 2
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    steps = [e.step for e in EventAccumulator(str(folder/'tensorboard')).Reload().Scalars('l1/train')]
    assert steps == list(range(1, 13)) # nothing twice

def test_damaged_newest_checkpoint(sams_run, vvt, in_process, monkeypatch, tmp_path, capsys):
    import shutil
    monkeypatch.chdir(tmp_path)
    folder = tmp_path/'experiments'/'sams'
    shutil.copytree(sams_run, folder)
    for name in ('last.pt', 'best.pt', 'step_12.pt'):
        data = (folder/'checkpoints'/name).read_bytes()
        (folder/'checkpoints'/name).write_bytes(data[:len(data)//3])
    assert main(train('sams', vvt, *growing, '--checkpoint', 'last')) == 0
    out = capsys.readouterr().out
    assert out.count('left out: this file is damaged') == 3 and 'step_9.pt' in out
    assert equal(everything(sams_run/'checkpoints'/'last.pt'), everything(folder/'checkpoints'/'last.pt'))

def test_going_on_is_refused(sams_run, vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(train('other', vvt, *growing, '--batch_size', 4, '--checkpoint', sams_run/'checkpoints'/'step_3.pt')) == 2
    assert 'batches an epoch' in capsys.readouterr().err

# try-on

def test_tryon(sams_run, vvt, warp_run, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    from shineon.data.layouts import read_tryon_list, vvt_videos
    assert main(tryon('sams_on', vvt, sams_run/'checkpoints'/'last.pt', '--warp_checkpoint', warp_run/'checkpoints'/'last.pt', '--tryon_list', vvt/'tryon_list.csv', '--out_fmt', 'png', 'mp4')) == 0
    pairs = read_tryon_list(vvt/'tryon_list.csv', vvt_videos(vvt, 'test'), vvt)
    check_results(tmp_path/'test_results'/'sams_on', pairs, ['png', 'mp4'])
    metrics = json.loads((tmp_path/'experiments'/'sams_on'/'metrics.json').read_text())
    assert {'SamsGenerator', 'untrained SamsGenerator', 'paste'} <= set(metrics['table'])

def test_videos_begin_anew(sams_run, vvt):
    "A video's frames do not depend on the video before it"
    from shineon.data.layouts import vvt_videos
    from shineon.tryon.dress import dress, tryon_reader
    model = load_model(sams_run/'checkpoints'/'last.pt')
    first, second = vvt_videos(vvt, 'test')
    reader = tryon_reader(model, fine_height=128, fine_width=64)
    results = lambda *videos: [[f['result'] for f in dress(v, reader, model)] for v in videos]
    together, alone = results(first, second)[1], results(second)[0]
    assert all(torch.equal(a, b) for a,b in zip(together, alone))

def test_memory_does_not_grow(vvt):
    "What is kept of a video's past has one size, and old frames are let go"
    import gc, weakref
    model = SamsGenerator(ngf_pow_outer=2, ngf_pow_inner=3, num_middle=1, n_frames_total=3, spade_hidden=4).eval()
    frame = lambda: {k: torch.rand(1,1,c,16,16) for k,c in dict(agnostic=4, densepose=3, flow=2, warped_cloth=3).items()} | dict(valid=torch.ones(1,1,1,1,1))
    past, results, sizes = None, [], []
    with torch.no_grad():
        for _ in range(12):
            out, past = model.step(frame(), past)
            results.append(weakref.ref(out['result']))
            sizes.append(sum(v.untyped_storage().nbytes() for v in past.values()))
    del out; gc.collect()
    assert len(set(sizes[1:])) == 1 and all(r() is None for r in results)

@pytest.mark.parametrize('options', [dict(), dict(flow_warp=True, attention_decoder_indices=[-2])], ids=['plain', 'flow_warp'])
def test_real_video(options, real):
    from shineon.data.layouts import vvt_videos
    from shineon.tryon.dress import dress, tryon_reader
    video, = vvt_videos(real/'vvt', 'test')
    torch.manual_seed(0)
    model = SamsGenerator(ngf_pow_outer=2, ngf_pow_inner=4, num_middle=1, n_frames_total=3, spade_hidden=4, **options).eval()
    reader = tryon_reader(model)
    reader.kinds = [k for k in reader.kinds if k != 'warped'] # their warped garments are not there: the product photo stands for them
    def frames():
        for i in range(len(video.frames)):
            clip = reader(video, i)
            yield {k: v[None] for k,v in clip.items() if isinstance(v, torch.Tensor)} | dict(warped_cloth=clip['cloth'][None])
    past, n = None, 0
    with torch.no_grad():
        for frame in frames():
            out, past = model.step(frame, past)
            assert out['result'].shape == (1,1,3,256,192) and out['result'].isfinite().all()
            n += 1
    assert n == 24

# learning

def overfit(clip, steps=120):
    "L1 of a small SAMS-GAN on one clip, untrained and after some steps of the whole training, critics included"
    import random
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from shineon.data.loaders import ClipDL
    from shineon.models.critics import MultiscaleCritic, TemporalCritic
    from shineon.train.frames import ProgressiveFramesCallback
    from shineon.train.gan import GANCallback, SamsLoss
    from shineon.train.learner import fit_schedule, tryon_learner
    torch.manual_seed(0); random.seed(0)
    net = SamsGenerator(ngf_pow_outer=4, ngf_pow_inner=6, num_middle=1, n_frames_total=2, spade_hidden=16, init_type='kaiming', norm_G='spectralspadeinstance3x3')
    critics = MultiscaleCritic(15, ndf=8, n_layers_D=2), TemporalCritic(10, ndf=8, n_layers_D=2)
    n = clip['image'].shape[0]
    dls = DataLoaders(ClipDL([clip]*(steps//4), bs=1), ClipDL([], bs=1), device='cpu')
    learn = tryon_learner(dls, net, SamsLoss(wt_l1=10., wt_vgg=0), lr=2e-3, keep_epochs=2, decay_epochs=2, val_check_interval=1., cbs=[ProgressiveFramesCallback(n), GANCallback(*critics)])
    batch = {k: v[None] for k,v in clip.items()}
    def l1():
        with torch.no_grad(): return (net.eval()(batch)['result'] - batch['image'])[clip['valid'].flatten()[None] > 0].abs().mean().item()
    before = l1()
    fit_schedule(learn)
    return before, l1()

def one_clip(video):
    from shineon.data.clips import ClipReader
    clip = ClipReader(['agnostic', 'densepose', 'flow'], fine_height=64, fine_width=48, image_scale=64/256)(video, 8, n=2)
    return {k: v for k,v in clip.items() if isinstance(v, torch.Tensor)} | dict(warped_cloth=clip['im_cloth'])

def test_learns_a_real_clip(real):
    from shineon.data.layouts import vvt_videos
    before, after = overfit(one_clip(vvt_videos(real/'vvt', 'train')[0]))
    assert after < before/4, (before, after)

def test_learns_a_sample_clip(tmp_path):
    from shineon.data.layouts import vvt_videos
    from shineon.sample.dataset import make_sample
    root = make_sample(tmp_path/'vvt', n_train=2, n_test=2, n_frames=9)
    before, after = overfit(one_clip(vvt_videos(root)[0]))
    assert after < before/4, (before, after)

def test_attention_fits_into_memory():
    "A forward at 256x192 with attention in the last layer of the decoder: less than 6 GB for the whole process"
    code = '''
import torch
from shineon.models.sams import SamsGenerator
net = SamsGenerator(ngf_pow_outer=4, ngf_pow_inner=6, attention_decoder_indices=[-1]).eval().to(memory_format=torch.channels_last)
clip = {k: torch.randn(1,1,c,256,192) for k,c in dict(agnostic=4, densepose=3, flow=2, warped_cloth=3).items()} | dict(valid=torch.ones(1,1,1,1,1))
with torch.no_grad(): assert net(clip)['result'].isfinite().all()
print(open('/proc/self/status').read())
'''
    if not os.path.exists('/proc/self/status'): pytest.skip('the peak of memory is read from /proc')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=600, check=True).stdout
    assert int(re.search(r'VmHWM:\s+(\d+)', out)[1])/1e6 < 6
