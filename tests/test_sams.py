"SAMS-GAN as a user meets it: training runs that grow, stop and go on; try-on of whole videos; networks that learn"
import json, os, re, shutil, signal, subprocess, sys, time

import pytest, torch
from conftest import short
from shineon.cli.main import main
from shineon.models.files import load_model, read_checkpoint
from shineon.models.sams import SamsGenerator
from test_runs import check_results, equal, tryon

tiny = '--ngf_pow_outer 3 --ngf_pow_inner 4 --num_middle 1 --spade_hidden 8 --ndf 4 --n_layers_D 2 --wt_vgg 0'.split()

def train(name, root, *more):
    "Command line of a small training run of SAMS-GAN"
    fixed = ('--fine_height 32 --fine_width 16 --image_scale .25 --workers 0 --gpu_ids -1 '
             '--val_fraction .34 --seed 5 --n_frames_total 3').split()
    args = ['train', '--model', 'sams', '--name', name, '--vvt_dataroot', str(root)]
    return [*args, *fixed, *tiny, *short, *map(str, more)]

# 3 epochs of 4 steps: one, two, three frames
growing = ['--batch_size', 2, '--keep_epochs', 2, '--decay_epochs', 1, '--val_check_interval', .5, '--ema', .9]
attention = ['--attention_middle_indices', -1]

def last(folder): return folder/'checkpoints'/'last.pt'
def metrics_of(folder): return json.loads((folder/'metrics.json').read_text())

def events(folder):
    "TensorBoard's events of a run"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(folder/'tensorboard')).Reload()

@pytest.fixture(scope='module')
def sams_run(vvt, workplace, shineon_command):
    """Folder of a run of 12 steps, on true warped garments.

    It has attention, and leaves a checkpoint after each third step."""
    r = shineon_command(*train('sams', vvt, *growing, '--flow_warp', *attention, '--save_count', 3), cwd=workplace)
    assert r.status == 0, r.err
    return workplace/'experiments'/'sams'

def everything(file):
    "All weights of a checkpoint: the generator that is used, the one that is trained, both critics"
    ckpt = read_checkpoint(file)
    training = ckpt['more']['training']
    nets = dict(used=ckpt['state'], trained=training['generator'], **training['callbacks']['gan']['critics'])
    return {f'{n} {k}': v for n,state in nets.items() for k,v in state.items()}

terms = {'l1', 'feat', 'multiscale', 'temporal', 'multiscale_real', 'multiscale_fake', 'temporal_real', 'temporal_fake'}

def test_what_a_run_leaves(sams_run):
    metrics = metrics_of(sams_run)
    assert metrics['steps'] == 12 and terms <= metrics.keys()
    assert metrics['feat'] > 0 # feature matching is computed
    ckpt = read_checkpoint(last(sams_run))
    training = ckpt['more']['training']
    callbacks = training['callbacks']
    assert callbacks['progressive_frames']['history'] == [(0,1), (1,2), (2,3)] # grown by itself
    states = [o['state'] for o in (training['opt'], *callbacks['gan']['opts'].values())]
    assert all(states) and training['random']
    assert not equal(ckpt['state'], training['generator']) # the moving average is what is used
    tags = events(sams_run).Tags()['scalars']
    assert {'l1/train', 'l1/valid', 'feat/train', 'multiscale_fake/train', 'temporal/train'} <= set(tags)

def attentive(model):
    "Layers with attention"
    return {r['layer'] for r in model.layers_table() if r['attention']}

def test_options_of_the_network(sams_run):
    config = read_checkpoint(last(sams_run))['config']
    assert config['flow_warp'] and config['attention_middle_indices'] == [-1] and config['n_frames_total'] == 3
    assert attentive(load_model(last(sams_run))) == {'middle 0'}

bad_options = [(['--netD_subarch', 'pixel'], 'n_layer'),
               (['--attention_decoder_indices', 5], 'attention_decoder_indices has 5'),
               (['--n_frames_now', 9], 'n_frames_now is 9'), (['--grow', 'fast'], 'grow'), (['--ema', 1], 'decay'),
               (['--wt_region', 1], 'wt_region needs the input masked'), (['--halve', 'twice'], 'average, nearest'),
               (['--norm_G', 'batch'], 'norm_G'), (['--encoder_input', 'hat'], 'encoder_input')]

def test_options_of_the_command(vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    good = ['--fast_dev_run', '--ngf_pow_inner', 5, '--attention_decoder_indices', -1, -2, '--no_ganFeat_loss',
            '--ngf', 64, '--n_frames_now', 2, '--frame_checkpointing', '--grad_clip', 1, '--r1', 1, '--gan_mode', 'ls',
            '--accumulated_batches', 2]
    with pytest.warns(UserWarning, match='ngf is not used'):
        assert main(train('options', vvt, *good)) == 0
    folder = tmp_path/'experiments'/'options'
    metrics = metrics_of(folder)
    assert 'feat' not in metrics and metrics['multiscale_r1'] > 0
    assert len(attentive(load_model(last(folder)))) == 2
    for bad,part in bad_options:
        assert main(train('bad', vvt, '--fast_dev_run', *bad)) == 2
        err = capsys.readouterr().err
        assert part in err and err.count('\n') == 1
    assert not (tmp_path/'experiments'/'bad'/'params.yaml').exists()

def test_the_garment_shows(vvt, in_process, monkeypatch, tmp_path, capsys):
    "A run with `show_cloth`, frame by frame: the mask is learned, kept in the checkpoint, and shown among the pictures"
    monkeypatch.chdir(tmp_path)
    options = ['--show_cloth', '--keep_person', '--flow_warp', '--person_inputs', 'masked', 'flow']
    assert main(train('showing', vvt, '--fast_dev_run', *options, '--frame_checkpointing', '--display_count', 1)) == 0
    folder = tmp_path/'experiments'/'showing'
    assert metrics_of(folder)['mask'] > 0 and 'mask/train' in events(folder).Tags()['scalars']
    model = load_model(last(folder))
    assert model.masks == ['flow_mask', 'mask'] and model.keep_person
    mask = model.state_dict()['last.weight'][-1]
    assert mask.abs().max() > 0 # it began at 0: half everywhere
    assert main(train('bad', vvt, '--fast_dev_run', '--show_cloth', '--cloth_inputs', 'cloth_mask')) == 2
    assert 'Add cloth to cloth_inputs' in capsys.readouterr().err

# stop and go on

# within an epoch of one frame, and after the last step; killed runs, below, go on within one of two frames
@pytest.mark.parametrize('step', [3, 12])
def test_going_on_in_a_new_process(step, sams_run, vvt, shineon_command, tmp_path):
    start = sams_run/'checkpoints'/f'step_{step}.pt'
    r = shineon_command(*train('on', vvt, *growing, '--checkpoint', start), cwd=tmp_path)
    assert r.status == 0, r.err
    folder = tmp_path/'experiments'/'on'
    assert equal(everything(last(sams_run)), everything(last(folder)))
    before, after = metrics_of(sams_run), metrics_of(folder)
    assert all(before[k] == after[k] for k in before if k not in ('seconds', 'checkpoint'))

def test_killed_and_going_on(sams_run, vvt, shineon_command, begin, tmp_path):
    "SIGKILL in the middle, then `--checkpoint last`, until the run is whole"
    command = train('killed', vvt, *growing, '--flow_warp', *attention, '--save_count', 1, '--checkpoint', 'last')
    folder = tmp_path/'experiments'/'killed'
    for step in (2, 7):
        with begin(*command, cwd=tmp_path, quiet=True) as p:
            while p.poll() is None and not (folder/'checkpoints'/f'step_{step}.pt').exists(): time.sleep(.01)
            os.killpg(p.pid, signal.SIGKILL)
    assert not (folder/'metrics.json').exists()
    r = shineon_command(*command, cwd=tmp_path)
    assert r.status == 0 and 'going on from' in r.out, r.err
    assert equal(everything(last(sams_run)), everything(last(folder)))
    assert len(json.loads((folder/'environment.json').read_text())['before']) == 2
    steps = [e.step for e in events(folder).Scalars('l1/train')]
    assert steps == list(range(1, 13)) # nothing twice

def test_damaged_newest_checkpoint(sams_run, vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path/'experiments'/'sams'
    shutil.copytree(sams_run, folder)
    for name in ('last.pt', 'best.pt', 'step_12.pt'):
        data = (folder/'checkpoints'/name).read_bytes()
        (folder/'checkpoints'/name).write_bytes(data[:len(data)//3])
    assert main(train('sams', vvt, *growing, '--checkpoint', 'last')) == 0
    out = capsys.readouterr().out
    assert out.count('left out: this file is damaged') == 3 and 'step_9.pt' in out
    assert equal(everything(last(sams_run)), everything(last(folder)))

def test_going_on_is_refused(sams_run, vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    start = sams_run/'checkpoints'/'step_3.pt'
    assert main(train('other', vvt, *growing, '--batch_size', 4, '--checkpoint', start)) == 2
    err = capsys.readouterr().err
    assert 'has batch_size 2, and this one 4' in err and '--weights' in err

# try-on

def test_tryon(sams_run, vvt, warp_run, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    from shineon.data.layouts import read_tryon_list, vvt_videos
    listed = vvt/'tryon_list.csv'
    assert main(tryon('sams_on', vvt, last(sams_run), '--warp_checkpoint', last(warp_run), '--tryon_list', listed,
                      '--out_fmt', 'png', 'mp4')) == 0
    pairs = read_tryon_list(listed, vvt_videos(vvt, 'test'), vvt)
    check_results(tmp_path/'test_results'/'sams_on', pairs, ['png', 'mp4'])
    metrics = metrics_of(tmp_path/'experiments'/'sams_on')
    assert {'SamsGenerator', 'untrained SamsGenerator', 'paste'} <= set(metrics['table'])

def test_videos_begin_anew(sams_run, vvt):
    "A video's frames do not depend on the video before it"
    from shineon.data.layouts import vvt_videos
    from shineon.tryon.dress import dress, tryon_reader
    model = load_model(last(sams_run))
    first, second = vvt_videos(vvt, 'test')
    reader = tryon_reader(model, fine_height=128, fine_width=64)
    def results(*videos): return [[f['result'] for f in dress(v, reader, model)] for v in videos]
    together, alone = results(first, second)[1], results(second)[0]
    assert all(torch.equal(a, b) for a,b in zip(together, alone))

def one_frame():
    "A random frame of what a generator is given"
    channels = dict(agnostic=4, densepose=3, flow=2, warped_cloth=3)
    return {k: torch.rand(1,1,c,16,16) for k,c in channels.items()} | dict(valid=torch.ones(1,1,1,1,1))

def test_memory_does_not_grow(vvt):
    "What is kept of a video's past has one size, and old frames are let go"
    import gc, weakref
    model = SamsGenerator(ngf_pow_outer=2, ngf_pow_inner=3, num_middle=1, n_frames_total=3, spade_hidden=4).eval()
    past, results, sizes = None, [], []
    with torch.no_grad():
        for _ in range(12):
            out, past = model.step(one_frame(), past)
            results.append(weakref.ref(out['result']))
            sizes.append(sum(v.untyped_storage().nbytes() for v in past.values()))
    del out; gc.collect()
    assert len(set(sizes[1:])) == 1 and all(r() is None for r in results)

networks = dict(plain=dict(), flow_warp=dict(flow_warp=True, attention_decoder_indices=[-3]))

@pytest.mark.parametrize('options', networks.values(), ids=networks)
def test_real_video(options, real):
    from shineon.data.layouts import vvt_videos
    from shineon.tryon.dress import tryon_reader
    video, = vvt_videos(real/'vvt', 'test')
    torch.manual_seed(0)
    small = dict(ngf_pow_outer=2, ngf_pow_inner=5, num_middle=1, n_frames_total=3, spade_hidden=4)
    model = SamsGenerator(**small, **options).eval()
    reader = tryon_reader(model)
    # their warped garments are not there: the product photo stands for them
    reader.kinds = [k for k in reader.kinds if k != 'warped']
    def frames():
        for i in range(len(video.frames)):
            clip = reader(video, i)
            clip['warped_cloth'] = clip['cloth']
            yield {k: v[None] for k,v in clip.items() if isinstance(v, torch.Tensor)}
    past, n = None, 0
    with torch.no_grad():
        for frame in frames():
            out, past = model.step(frame, past)
            assert out['result'].shape == (1,1,3,256,192) and out['result'].isfinite().all()
            n += 1
    assert n == 24

# learning

def tiny_sams():
    "A small generator and its critics"
    from shineon.models.critics import MultiscaleCritic, TemporalCritic
    net = SamsGenerator(ngf_pow_outer=4, ngf_pow_inner=6, num_middle=1, n_frames_total=2, spade_hidden=16,
                        init_type='kaiming', norm_G='spectralspadeinstance3x3')
    return net, (MultiscaleCritic(15, ndf=8, n_layers_D=2), TemporalCritic(10, ndf=8, n_layers_D=2))

def overfit(clip, steps=80):
    "L1 of a small SAMS-GAN on one clip, untrained and after some steps of the whole training, critics included"
    import random
    from fastai.data.core import DataLoaders
    from shineon.data.loaders import ClipDL
    from shineon.train.frames import ProgressiveFramesCallback
    from shineon.train.gan import GANCallback, SamsLoss
    from shineon.train.learner import fit_schedule, tryon_learner
    torch.manual_seed(0)
    random.seed(0)
    net, critics = tiny_sams()
    dls = DataLoaders(ClipDL([clip]*(steps//4), bs=1), ClipDL([], bs=1), device='cpu')
    cbs = [ProgressiveFramesCallback(len(clip['image'])), GANCallback(*critics)]
    learn = tryon_learner(dls, net, SamsLoss(wt_l1=10., wt_vgg=0), lr=2e-3, keep_epochs=2, decay_epochs=2,
                          val_check_interval=1., cbs=cbs)
    batch = {k: v[None] for k,v in clip.items()}
    valid = clip['valid'].flatten()[None] > 0
    def l1():
        with torch.no_grad(): result = net.eval()(batch)['result']
        return (result - batch['image'])[valid].abs().mean().item()
    before = l1()
    fit_schedule(learn)
    return before, l1()

def one_clip(video):
    "Two frames of a video"
    from shineon.data.clips import ClipReader
    reader = ClipReader(['agnostic', 'densepose', 'flow'], fine_height=48, fine_width=36, image_scale=48/256)
    clip = {k: v for k,v in reader(video, 8, n=2).items() if isinstance(v, torch.Tensor)}
    return clip | dict(warped_cloth=clip['im_cloth'])

@pytest.mark.long
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

@pytest.mark.long
def test_attention_fits_into_memory():
    "A forward at 256x192 with attention in the last layer of the decoder: less than 6 GB for the whole process"
    code = '''
import torch
from shineon.models.sams import SamsGenerator
net = SamsGenerator(ngf_pow_outer=4, ngf_pow_inner=6, attention_decoder_indices=[-1])
net = net.eval().to(memory_format=torch.channels_last)
channels = dict(agnostic=4, densepose=3, flow=2, warped_cloth=3)
clip = {k: torch.randn(1,1,c,256,192) for k,c in channels.items()} | dict(valid=torch.ones(1,1,1,1,1))
with torch.no_grad(): assert net(clip)['result'].isfinite().all()
print(open('/proc/self/status').read())
'''
    if not os.path.exists('/proc/self/status'): pytest.skip('the peak of memory is read from /proc')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=600, check=True).stdout
    assert int(re.search(r'VmHWM:\s+(\d+)', out)[1])/1e6 < 6
