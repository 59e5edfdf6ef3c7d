"""What only a GPU can show: `pytest -m cuda`

SHINEON_CUDA_DEVICE=cpu rehearses the same code, small, on the CPU."""
import json, os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest, torch
from shineon.benchmarks.bench import TF32, peak_mb
from shineon.benchmarks.gpu_cases import capture
from shineon.benchmarks.network_cases import streamed
from shineon.benchmarks.plain import random_clip
from shineon.core.errors import OptionError
from shineon.core.ops import to_uint8
from shineon.data.clips import ClipReader
from shineon.data.labels import inputs_of
from shineon.data.layouts import vvt_videos
from shineon.data.loaders import ClipDL, clip_loaders
from shineon.models.critics import MultiscaleCritic, TemporalCritic
from shineon.models.files import for_inference, load_model, save_model
from shineon.models.layers import SelfAttention
from shineon.models.sams import SamsGenerator
from shineon.models.unetmask import UNetMask
from shineon.models.warp import WarpModule
from shineon.testing import fit_quietly, flat_weights, toy_clips, toy_critics
from shineon.train.checkpoints import SaveCheckpoints, go_on
from shineon.train.compile import compile_blocks
from shineon.train.frames import FrameCheckpointing
from shineon.train.gan import EMACallback, GANCallback, SamsLoss
from shineon.train.learner import fit_schedule, tryon_learner
from shineon.train.losses import UNetMaskLoss, WarpLoss
from shineon.tryon.batching import BatchedNetworks
from shineon.tryon.dress import dress, tryon_reader
from shineon.tryon.results import save_result
from fastai.callback.core import Callback # fastai after shineon
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders

DEVICE = torch.device(os.environ.get('SHINEON_CUDA_DEVICE', 'cuda'))
rehearsal = DEVICE.type == 'cpu'
gpu_ids = '-1' if rehearsal else '0'
size = (64, 64) if rehearsal else (256, 192)
no_gpu = not rehearsal and not torch.cuda.is_available()
skip = pytest.mark.skipif(no_gpu, reason='no GPU here; SHINEON_CUDA_DEVICE=cpu rehearses these tests')
pytestmark = [pytest.mark.cuda, skip]
on_gpu = partial(pytest.mark.skipif, rehearsal)
if not rehearsal and not no_gpu: DEVICE = torch.device('cuda', 0)


@pytest.fixture(autouse=True)
def float32():
    "Float32 without TF32, and a GPU without what an earlier test left there"
    torch.manual_seed(0)
    with TF32(False): yield
    if not rehearsal: torch.cuda.empty_cache()


# networks, small

def shown(module): # attention that has an effect
    for m in module.modules():
        if isinstance(m, SelfAttention): torch.nn.init.constant_(m.gamma, .5)
    return module

def small_sams(n=3, ngf_pow_inner=4, **kw):
    return shown(SamsGenerator(n_frames_total=n, ngf_pow_outer=2, ngf_pow_inner=ngf_pow_inner, num_middle=1, **kw))

class Judged(torch.nn.Module):
    "A critic as a network of clips"
    def __init__(self, critic, inputs):
        super().__init__()
        self.critic, self.inputs = critic, inputs
    def forward(self, clip):
        x = torch.cat([clip[n] for n in self.inputs], 2).flatten(1, 2)
        return {f'{i}': scale[-1] for i, scale in enumerate(self.critic(x))}

NETWORKS = dict(
    warp=lambda: WarpModule(fine_height=64, fine_width=64, ngf=8),
    unet=lambda: shown(UNetMask(ngf=8, n_frames_total=3, self_attn=True, flow_warp=True)),
    sams=lambda: small_sams(attention_middle_indices=[0], attention_decoder_indices=[-1], flow_warp=True),
    sams_plain=lambda: small_sams(norm_G='spadeinstance3x3', activation='swish'),
    multiscale=lambda: Judged(MultiscaleCritic(9, ndf=8), ['image']),
    temporal=lambda: Judged(TemporalCritic(15, ndf=8), ['image', 'flow']))

def of_type(clip, device, dtype): return {k: x.to(device, dtype) for k, x in clip.items()}

def apart(a, b): # as a share of the norm of `b`
    a, b = (x.detach().double().cpu().flatten() for x in (a, b))
    return ((a - b).norm()/b.norm()).item()

def outcome(name, device, dtype, autocast=False, layout=torch.contiguous_format):
    "Results and gradients of a network in training"
    torch.manual_seed(0)
    side = 32 if name.startswith('sams') else 64
    net = NETWORKS[name]().to(device, dtype, memory_format=layout)
    clip = of_type(random_clip(2, 3, side, side), device, dtype)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast): out = net(clip)
    sum(x.float().square().mean() for x in out.values()).backward()
    grads = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return torch.cat([x.flatten() for x in out.values()]), grads


# numbers

@pytest.mark.parametrize('name', NETWORKS)
def test_results_and_gradients_are_the_cpus(name):
    "In float32 as near to the CPU's float64 as 1e-4 (results) and 1e-2 (all gradients together)"
    truth = outcome(name, 'cpu', torch.float64)
    on_cpu, here = outcome(name, 'cpu', torch.float32), outcome(name, DEVICE, torch.float32)
    found = [(apart(x, t), apart(c, t)) for x, c, t in zip(here, on_cpu, truth)]
    print(*(f'{part} {a:.1e} (CPU {b:.1e})' for part, (a, b) in zip(('results', 'gradients'), found)))
    assert found[0][0] < 1e-4 and found[1][0] < 1e-2

@pytest.mark.parametrize('name', NETWORKS)
def test_memory_layout_does_not_matter(name):
    layouts = torch.contiguous_format, torch.channels_last
    one, other = (outcome(name, DEVICE, torch.float32, layout=l) for l in layouts)
    assert apart(other[0], one[0]) < 1e-4 and apart(other[1], one[1]) < 1e-2

@pytest.mark.parametrize('name', NETWORKS)
def test_bfloat16_is_near(name):
    "Mixed precision: within 5 % of float32"
    one, mixed = (outcome(name, DEVICE, torch.float32, autocast=on) for on in (False, True))
    assert torch.isfinite(mixed[1]).all()
    assert apart(mixed[0], one[0]) < .05 or name == 'warp' # whose pictures are noise, moved by less than a pixel

@pytest.mark.parametrize('name', ['unet', 'sams'])
def test_frames_in_bfloat16_weights(name):
    "Streamed as in a try-on, with all weights in bfloat16: pictures within 4 of 255 on average"
    torch.manual_seed(0)
    net, clip = NETWORKS[name]().eval(), random_clip(1, 3, 64, 64, DEVICE)
    net = for_inference(net, DEVICE)
    def frames(net, clip):
        past, out = None, []
        for i in range(3):
            made, past = net.step({k: x[:,i:i+1] for k, x in clip.items()}, past)
            out.append(made['result'].float())
        return torch.cat(out, 1)
    with torch.no_grad():
        whole = frames(net, clip)
        half = frames(net.bfloat16(), of_type(clip, DEVICE, torch.bfloat16))
    assert (whole - half).abs().mean()*127.5 < 4


# training

def loaders(clips, bs, device=DEVICE):
    load = lambda some: ClipDL(some, bs=bs, num_workers=0)
    return DataLoaders(load(clips[:-2]), load(clips[-2:]), device=torch.device(device))

def some_clips(n_clips, n=2, of=toy_clips, **kw):
    torch.manual_seed(1)
    batch = of(n_clips + 2, n, 64, 64, **kw)
    return [{k: x[i] for k, x in batch.items()} for i in range(n_clips + 2)]

def gan_learner(n_clips=8, bs=2, device=DEVICE, cbs=(), n=2, clips=None, ngf_pow_inner=4, **kw):
    "SAMS-GAN on toy clips, one epoch"
    torch.manual_seed(0)
    model, gan = small_sams(n, ngf_pow_inner), GANCallback(*toy_critics(n))
    dls = loaders(clips or some_clips(n_clips, n), bs, device)
    kw = dict(lr=1e-3, keep_epochs=1, decay_epochs=0, loglevel='warning') | kw
    return tryon_learner(dls, model, SamsLoss(wt_vgg=0.), cbs=[gan, *cbs], **kw)

def networks_of(learn): return [learn.model, *learn.gan.critics.values()]

def trained(learn):
    "How much one epoch moves all weights"
    before = [flat_weights(m).cpu() for m in networks_of(learn)]
    fit_quietly(learn)
    return torch.cat([flat_weights(m).cpu() - b for m, b in zip(networks_of(learn), before)])

def cosine(a, b): return torch.nn.functional.cosine_similarity(a, b, 0).item()

fp16 = pytest.param('16', marks=on_gpu(reason='rehearsal: fp16 needs a GPU'))

@pytest.mark.parametrize('precision', ['bf16', fp16])
def test_thirty_steps_in_mixed_precision(precision):
    "No loss and no weight that is no number, critics included; nearly every step of fp16 counts"
    learn = gan_learner(60, precision=precision)
    moved = trained(learn)
    assert torch.isfinite(moved).all() and moved.abs().max() > 0
    losses = torch.stack(list(learn.recorder.losses))
    assert len(losses) == 30 and torch.isfinite(losses).all()
    if precision == '16': assert len(learn.precision.scales) >= 20 and learn.scaler.get_scale() > 1

def test_training_goes_where_the_cpu_goes():
    "GAN steps in float32: the same direction as on the CPU; in bfloat16 about"
    cpu = trained(gan_learner(device='cpu'))
    assert cosine(trained(gan_learner()), cpu) > .95
    assert cosine(trained(gan_learner(precision='bf16')), cpu) > .6

def test_everything_at_once():
    "Critics, moving average, clipped gradients and accumulated batches under autocast"
    seen = []
    class Norms(Callback):
        order = 20 # after the gradients are clipped
        def before_step(self):
            norms = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
            seen.append(torch.stack(norms).norm())
    ema = EMACallback(.5)
    learn = gan_learner(precision='bf16', accumulated_batches=2, cbs=[ema, GradientClip(.01), Norms()])
    moved = trained(learn)
    assert torch.isfinite(moved).all()
    assert len(seen) == 2 and max(seen) < .011
    average = flat_weights(ema.averaged.module)
    assert average.device.type == DEVICE.type and torch.isfinite(average).all()
    assert 0 < apart(average, flat_weights(learn.model)) < .5

ways = dict(here=(DEVICE, DEVICE), from_the_cpu=('cpu', DEVICE), to_the_cpu=(DEVICE, 'cpu'))

@pytest.mark.parametrize('first, then', ways.values(), ids=ways)
def test_stopped_and_resumed(first, then, tmp_path):
    "Two steps on one device, two on another: where four in one go end"
    clips = some_clips(8)
    whole = gan_learner(clips=clips, cbs=[SaveCheckpoints(tmp_path/'whole', 2)], device=first)
    trained(whole)
    other = gan_learner(clips=clips, device=then)
    go_on(other, tmp_path/'whole'/'step_2.pt')
    fit_quietly(other)
    assert len(other.recorder.losses) == 4
    for a, b in zip(networks_of(other), networks_of(whole)): assert apart(flat_weights(a), flat_weights(b)) < 1e-2
    start = flat_weights(load_model(tmp_path/'whole'/'step_2.pt'))
    assert cosine(*(flat_weights(learn.model).cpu() - start for learn in (other, whole))) > .9

def test_a_checkpoint_gives_the_same_frames_everywhere(tmp_path):
    net = small_sams().to(DEVICE).eval()
    save_model(tmp_path/'net.pt', net)
    clip = random_clip(1, 3, 64, 64)
    with torch.no_grad():
        here = net(of_type(clip, DEVICE, torch.float32))['result']
        there = load_model(tmp_path/'net.pt')(clip)['result']
    assert apart(here, there) < 1e-4

def plain_learners():
    noise = some_clips(2, 1, of=random_clip)
    warp = tryon_learner(loaders(noise, 2), NETWORKS['warp'](), WarpLoss(), loglevel='warning')
    unet = tryon_learner(loaders(some_clips(2, 1), 2), UNetMask(ngf=8), UNetMaskLoss(wt_vgg=0.), loglevel='warning')
    return dict(warp=warp, unet=unet, sams=gan_learner(2, ngf_pow_inner=3))

@pytest.mark.parametrize('name', ['warp', 'unet', 'sams'])
def test_compiled_blocks_compute_the_same(name):
    "`--compile`, and one step after it; in a rehearsal without a code generator"
    learn = plain_learners()[name]
    batch = learn.dls.train.one_batch()[0]
    with torch.no_grad(): before = learn.model.to(DEVICE).eval()(batch)
    assert compile_blocks(learn, batch, 'aot_eager' if rehearsal else 'inductor') > 0
    with torch.no_grad(): after = learn.model.eval()(batch)
    key = 'warped_cloth' if name == 'warp' else 'result'
    assert apart(after[key], before[key]) < 1e-3
    weights = flat_weights(learn.model).clone()
    fit_quietly(learn)
    assert torch.isfinite(flat_weights(learn.model)).all() and not torch.equal(flat_weights(learn.model), weights)


# memory

@on_gpu(reason='rehearsal: memory statistics need a GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_attention_at_full_size(dtype):
    "The last decoder layer's 49,152 places, forward and backward, in 500 MB; two plain matrices alone take 19 GB"
    layer = shown(SelfAttention(64)).to(DEVICE, dtype)
    x = torch.randn(1, 64, 256, 192, device=DEVICE, dtype=dtype, requires_grad=True)
    assert peak_mb(lambda: layer(x).sum().backward(), DEVICE) < 500

@on_gpu(reason='rehearsal: memory statistics need a GPU')
def test_a_network_with_attention_at_full_size():
    "A clip of two frames, with attention in the last decoder layer, forward and backward in 6 GB"
    net = shown(SamsGenerator(n_frames_total=2, ngf_pow_outer=5, ngf_pow_inner=8, attention_decoder_indices=[-1]))
    net, clip = net.to(DEVICE, memory_format=torch.channels_last), random_clip(1, 2, 256, 192, DEVICE)
    def run():
        net.zero_grad()
        net(clip)['result'].sum().backward()
    assert peak_mb(run, DEVICE) < 6000

def one_step(checkpointing, n=5):
    from shineon.benchmarks.network_cases import gan_step
    options = dict(ngf_pow_outer=2, ngf_pow_inner=4) if rehearsal else dict(ngf_pow_outer=5, ngf_pow_inner=8)
    return gan_step(1, n, size, options, checkpointing, 'ours', str(DEVICE))

@on_gpu(reason='rehearsal: memory statistics need a GPU')
def test_frame_checkpointing_saves_memory():
    "A step of five frames takes less than half the memory with it"
    whole, by_frame = (peak_mb(one_step(c), str(DEVICE)) for c in (False, True))
    print(f'{whole:.0f} MB, with frame checkpointing {by_frame:.0f}')
    assert by_frame < .5*whole

def test_frame_checkpointing_takes_the_same_gradients():
    plain, by_frame = trained(gan_learner(n=3)), trained(gan_learner(n=3, cbs=[FrameCheckpointing()]))
    assert cosine(by_frame, plain) > .95

class Full(Callback):
    def before_backward(self): raise torch.OutOfMemoryError('no room')

def test_what_is_said_when_memory_runs_out():
    "One line with what was asked for; afterwards a smaller run works"
    if rehearsal: learn = gan_learner(cbs=[Full()])
    else:
        torch.cuda.set_per_process_memory_fraction(.005)
        learn = gan_learner(8, bs=8, clips=[{k: x[0] for k, x in random_clip(1, 2, 256, 192).items()}]*10)
    try:
        with pytest.raises(OptionError, match=r'not enough memory for batches of \d+ clips of 2 frames') as e:
            fit_schedule(learn)
    finally:
        if not rehearsal: torch.cuda.set_per_process_memory_fraction(1.)
    assert 'frame_checkpointing' in str(e.value) and '\n' not in str(e.value)
    del learn, e
    assert torch.isfinite(trained(gan_learner(4))).all()


# try-on

def test_clips_made_on_the_device(vvt):
    "Inputs made of bytes on the GPU are those of a CPU; only the blurred silhouette differs, in its last digits"
    reader = ClipReader(inputs_of('person'), parse=True, fine_height=128, fine_width=64)
    def batch(device, **kw):
        dls = clip_loaders(vvt_videos(vvt), [], reader, 3, 2, 0, no_shuffle=True, device=device, **kw)
        return dls.train.one_batch()[0]
    usual, late = batch(torch.device('cpu')), batch(DEVICE, **dict(late=True) if rehearsal else {})
    assert late['image'].device == DEVICE and set(late) == set(usual)
    for k in set(usual) - {'video', 'frame'}:
        assert torch.allclose(late[k].cpu(), usual[k], rtol=0, atol=1e-5 if k == 'agnostic' else 0), k


def test_videos_side_by_side(vvt):
    "Two videos as one batch: the frames of each alone"
    warp = for_inference(WarpModule(fine_height=128, fine_width=64, ngf=4), DEVICE)
    model = for_inference(small_sams(), DEVICE)
    reader, videos = tryon_reader(warp, model, fine_height=128, fine_width=64), vvt_videos(vvt)[:2]
    def frames(video, share):
        return torch.cat([f['result'] for f in dress(video, reader, share(model), share(warp), device=DEVICE)], 1)
    alone = [frames(v, lambda m: m) for v in videos]
    with ThreadPoolExecutor(2) as pool, BatchedNetworks(2) as both:
        def one(k):
            with both.place(k) as share: return frames(videos[k], share)
        together = list(pool.map(one, range(2)))
    for a, b in zip(together, alone): assert apart(a, b) < 1e-4

@on_gpu(reason='rehearsal: CUDA graphs need a GPU')
@pytest.mark.parametrize('name', ['unet', 'sams'])
def test_cuda_graph_of_a_frame(name):
    "A captured frame is the frame, also for new inputs in the same memory"
    net, clip = for_inference(NETWORKS[name](), DEVICE), random_clip(1, 3, 64, 64, DEVICE)
    unet, sams = (lambda: net(clip)['result']), (lambda: net.step(*streamed(clip))[0]['result'])
    run = unet if name == 'unet' else sams
    with torch.no_grad():
        graph, out = capture(run)
        for _ in range(2):
            graph.replay()
            assert apart(out, run()) < 1e-4
            for k in ('image', 'densepose', 'warped_cloth'): clip[k].copy_(torch.rand_like(clip[k])*2 - 1)


# metrics

def test_video_and_picture_networks():
    from shineon.evaluate.networks import I3D, ResNeXt3D
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 112, 112)*2 - 1
    for net in (I3D().eval(), ResNeXt3D((1, 1, 1, 1)).eval()):
        with torch.no_grad(): cpu, here = net(x)['pooled'], net.to(DEVICE)(x.to(DEVICE))['pooled']
        assert apart(here, cpu) < 1e-3

def test_pixel_metrics():
    from shineon.evaluate.metrics import ssim, warping_error
    a, b, flow = torch.rand(1, 3, 64, 48)*2 - 1, torch.rand(1, 3, 64, 48)*2 - 1, torch.randn(1, 2, 64, 48)
    here = [x.to(DEVICE) for x in (a, b, flow)]
    assert abs(ssim(*here[:2]).item() - ssim(a, b).item()) < 1e-4
    assert abs(warping_error(*here).item() - warping_error(a, b, flow).item()) < 1e-4


# whole runs

def options(text, **paths): # of a command line, common ones first
    common = f'--fine_height 128 --fine_width 64 --gpu_ids {gpu_ids} --seed 5 '
    return [paths.get(word, word) for word in (common + text).split()]

short = '--workers 2 --val_fraction .34 --keep_epochs 1 --decay_epochs 1 --precision bf16 --vvt_dataroot VVT '

@pytest.fixture(scope='module')
def cuda_warp(vvt, tmp_path_factory, shineon_command):
    "Folder of a small warp's run"
    home = tmp_path_factory.mktemp('cuda')
    args = options(short + '--name warp --ngf 4 --batch_size 4', VVT=vvt)
    r = shineon_command('train', '--model', 'warp', *args, cwd=home)
    assert r.status == 0, r.err
    return home/'experiments'/'warp'

def test_a_run_records_its_gpu(cuda_warp):
    env = json.loads((cuda_warp/'environment.json').read_text())
    assert env['device'].startswith(DEVICE.type)
    if rehearsal: return
    gpu = torch.cuda.get_device_properties(0)
    assert (env['gpu'], env['cuda'], env['cudnn']) == (gpu.name, torch.version.cuda, torch.backends.cudnn.version())
    assert env['memory_gb'] == pytest.approx(gpu.total_memory/2**30, abs=.1)

@pytest.fixture(scope='module')
def cuda_sams(vvt, cuda_warp, shineon_command):
    "Checkpoint of a small SAMS-GAN, trained on that warp's garments"
    home, paths = cuda_warp.parent.parent, dict(VVT=vvt, WARP=cuda_warp/'checkpoints'/'last.pt')
    small = '--name sams --n_frames_total 2 --ngf_pow_outer 2 --ngf_pow_inner 4 --batch_size 2 --wt_vgg 0 '
    args = options(short + small + '--warp_checkpoint WARP --ema .9 --frame_checkpointing', **paths)
    r = shineon_command('train', '--model', 'sams', *args, cwd=home)
    assert r.status == 0, r.err
    return home/'experiments'/'sams'/'checkpoints'/'last.pt'

def test_a_try_on_with_trained_networks(vvt, cuda_warp, cuda_sams, tmp_path):
    warp, model = (for_inference(load_model(p), DEVICE) for p in (cuda_warp/'checkpoints'/'last.pt', cuda_sams))
    reader, video = tryon_reader(warp, model, fine_height=128, fine_width=64), vvt_videos(vvt, 'test')[0]
    pictures = (to_uint8(f['result'][0,-1]) for f in dress(video, reader, model, warp, device=DEVICE))
    save_result(pictures, tmp_path, video, video.cloth, ['png'])
    assert len(list(tmp_path.rglob('*.png'))) == len(video.frames)

def test_the_notebook_of_a_try_on(vvt, cuda_warp, cuda_sams, shineon_command):
    "Two videos side by side"
    pytest.importorskip('av', reason='the notebook shows videos, and PyAV is not here')
    home, paths = cuda_warp.parent.parent, dict(VVT=vvt, WARP=cuda_warp/'checkpoints'/'last.pt', SAMS=cuda_sams)
    text = '--name dressed --vvt_dataroot VVT --warp_checkpoint WARP --checkpoint SAMS --side_by_side 2 --out_fmt png'
    r = shineon_command('tryon', *options(text, **paths), cwd=home)
    assert r.status == 0, r.err
    assert len(list((home/'test_results'/'dressed').rglob('*.png'))) >= 8

# several processes, as far as one GPU can show them

exchange = '''
import shineon, torch, torch.distributed as dist
from torch import nn
from shineon.models.layers import SyncNorm
from shineon.train.distributed import all_reduce_max, all_reduce_mean, all_reduce_sum
from shineon.train.distributed import average_gradients, broadcast_weights, join
device = join()
assert dist.get_backend() == 'nccl' and device.type == 'cuda', (dist.get_backend(), device)
net = nn.Sequential(nn.Conv2d(3, 4, 3), SyncNorm(4)).to(device)
broadcast_weights([net])
x = torch.randn(2, 3, 8, 8, device=device)
net(x).square().sum().backward()
before = net[0].weight.grad.clone()
average_gradients([net])
assert torch.equal(before, net[0].weight.grad)
assert all_reduce_max(3) == 3 and all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
assert float(all_reduce_mean(dict(a=2.))['a']) == 2
dist.destroy_process_group()
print('exchanged')
'''

@on_gpu(reason='rehearsal: NCCL needs a GPU')
def test_nccl_with_one_process():
    place = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', LOCAL_WORLD_SIZE='1')
    env = os.environ | place | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT='29533')
    done = subprocess.run([sys.executable, '-c', exchange], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == ['exchanged'], done.stderr

def test_the_launcher_with_one_process(tmp_path, monkeypatch):
    "A trial run, started as one of several devices would be"
    from shineon.cli.processes import launch
    monkeypatch.chdir(tmp_path)
    try: launch('train_warp', dict(name='launched', gpu_ids=gpu_ids, overwrite=True), [int(gpu_ids)])
    except OptionError as e: pytest.fail(str(e))
    env = json.loads((tmp_path/'experiments'/'launched'/'environment.json').read_text())
    assert env['device'].startswith(DEVICE.type)
