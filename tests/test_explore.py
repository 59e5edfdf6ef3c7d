"The attention explorer on checkpoints and videos: events as the page sends them, and what it shows after each"
import json
from functools import partial
from io import BytesIO

import numpy as np, pytest, torch
import shineon # noqa: F401, before torchvision
from conftest import repo
from PIL import Image
from shineon.data.layouts import vvt_videos
from shineon.core.ops import to_uint8
from shineon.explore.attention import attention_picture
from shineon.explore.attention_explorer import AttentionExplorer
from shineon.models.files import load_model, save_model
from shineon.models.layers import attention_maps
from shineon.models.sams import SamsGenerator
from shineon.models.unetmask import UNetMask
from shineon.models.warp import WarpModule
from shineon.core.errors import CheckpointError, DataError, OptionError

unet = partial(UNetMask, ngf=4, self_attn=True, init_type='kaiming')
sams = partial(SamsGenerator, ngf_pow_outer=2, ngf_pow_inner=4, init_type='kaiming')
networks = dict(unet=unet, unet_flow=partial(unet, n_frames_total=2, flow_warp=True),
                sams=partial(sams, n_frames_total=3, num_middle=1, flow_warp=True, attention_middle_indices=[0],
                             attention_decoder_indices=[0]),
                sams_outer=partial(sams, n_frames_total=2, num_middle=0, attention_decoder_indices=[-1]))

@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    "Folder with a checkpoint of each small network, and of warps"
    folder = tmp_path_factory.mktemp('networks')
    torch.manual_seed(0)
    for name,make in networks.items(): save_model(folder/f'{name}.pt', make())
    save_model(folder/'plain.pt', UNetMask(ngf=4))
    save_model(folder/'warp.pt', WarpModule(fine_height=128, fine_width=64, ngf=4))
    save_model(folder/'warp256.pt', WarpModule(ngf=4))
    return folder

def shown(explorer): return np.array(Image.open(BytesIO(explorer.picture.png)))

def check(explorer, model, warp=None, cloth=None):
    "The map and the picture are those of the pixel, layer, frame, video and opacity that were chosen"
    video, i, (y,x) = explorer.videos[explorer.video.value], explorer.frame.value, explorer.picture.place
    n = model.n_frames if isinstance(model, UNetMask) else i+1 # SAMS remembers what it drew, from the start
    clip = {k: v[None] for k,v in explorer.reader(video, i, n=n, cloth=cloth).items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        if warp is not None: clip |= warp(clip)
        expected = attention_maps(model, clip, y, x, layers=[explorer.layer.value])[explorer.layer.value]
    assert (explorer.map - expected).abs().max() < 1e-4 and abs(explorer.map.sum() - 1) < 1e-4
    frame = to_uint8(explorer.shown[explorer.over.value][0,-1])
    if explorer.over.value == 'image': assert (frame == to_uint8(clip['image'][0,-1])).all()
    assert (shown(explorer) == attention_picture(frame, explorer.map, (y,x), explorer.opacity.value, 512)).all()
    assert str(y) in explorer.words.value
    return shown(explorer)

def play(explorer, *args, events):
    "Send events as the page does; the picture must change with each, and be right"
    before = check(explorer, *args)
    for part,state in events:
        getattr(explorer, part).set_state(state)
        after = check(explorer, *args)
        assert (after != before).any(), (part, state)
        before = after

@pytest.mark.parametrize('name', networks)
def test_events(name, vvt, checkpoints):
    half = dict(fine_height=64, fine_width=32, image_scale=.5)
    size = half if name.startswith('sams') else dict(fine_height=128, fine_width=64)
    explorer = AttentionExplorer(checkpoints/f'{name}.pt', vvt_videos(vvt, 'test'), **size)
    layers = len(explorer.layer.options)
    assert layers == dict(unet=4, unet_flow=4, sams=5, sams_outer=3)[name]
    events = [('picture', dict(place=[40,20])), ('layer', dict(index=layers-1)), ('opacity', dict(value=.9)),
              ('frame', dict(value=3)), ('frame', dict(value=1)), ('over', dict(index=1)), ('over', dict(index=0)),
              ('video', dict(index=1)), ('picture', dict(place=[0,31]))]
    play(explorer, load_model(checkpoints/f'{name}.pt'), events=events)
    assert (explorer.frame.value, explorer.frame.max) == (0, 3)

def test_another_garment(vvt, checkpoints):
    videos = vvt_videos(vvt, 'test')
    model, warp = load_model(checkpoints/'sams.pt'), load_model(checkpoints/'warp.pt')
    own = AttentionExplorer(model, videos, warp)
    other = AttentionExplorer(model, videos, warp, videos[1].cloth)
    assert other.picture.size == [128,64] # the warp's size
    play(other, model, warp, videos[1].cloth, events=[('frame', dict(value=2))])
    own.frame.value = 2
    assert (own.map - other.map).abs().max() > 1e-3

def test_memory_is_bounded(vvt, checkpoints):
    from shineon.explore.attention import VideoAttention
    from shineon.tryon.dress import tryon_reader
    model, video = load_model(checkpoints/'sams.pt'), vvt_videos(vvt, 'test')[0]
    video.frames = video.frames[1:]*4 # twelve, each with its flow
    reader = tryon_reader(model, fine_height=64, fine_width=32, image_scale=.5)
    short, long = VideoAttention(model, video, reader, keep=4), VideoAttention(model, video, reader, keep=99)
    for i in (11, 3, 7):
        a, b = (o.frame(i)['result'] for o in (short, long))
        assert torch.allclose(a, b, atol=1e-5) and len(short.pasts) <= 4
        for m,n in zip(short.maps(40, 16).values(), long.maps(40, 16).values()): assert torch.allclose(m, n, atol=1e-4)
    assert len(long.pasts) == 13

@pytest.mark.parametrize('args, error, words', [
    (dict(model='plain.pt'), OptionError, 'has no self-attention'),
    (dict(model='warp.pt'), OptionError, 'has no self-attention'),
    (dict(model='none.pt'), CheckpointError, 'no such checkpoint'),
    (dict(model='unet.pt', warp='plain.pt'), CheckpointError, 'not \'warp\''),
    (dict(model='unet.pt', warp_cloth_dir='none'), DataError, 'no warped garment'),
    (dict(model='unet.pt', fine_height=512), DataError, 'image_scale')],
    ids=lambda o: str(o) if isinstance(o, dict) else '')
def test_bad_arguments(args, error, words, vvt, checkpoints):
    args = dict(fine_height=128, fine_width=64, warp_cloth_dir='warp-cloth') | args
    paths = {k: checkpoints/args.pop(k) for k in ('model','warp') if k in args}
    videos = vvt_videos(vvt, 'test', args.pop('warp_cloth_dir'))
    with pytest.raises(error, match=words) as e: AttentionExplorer(videos=videos, **paths, **args)
    assert '\n' not in str(e.value)

def test_a_later_frame_is_broken(broken, checkpoints):
    next((broken/'test').glob('densepose/*/*002_IUV.png')).write_bytes(b'no picture')
    explorer = AttentionExplorer(checkpoints/'sams.pt', vvt_videos(broken, 'test'), fine_height=128, fine_width=64)
    explorer.frame.set_state(dict(value=3)) # the way there leads through the broken one
    assert '002_IUV.png' in explorer.words.value and 'unreadable' in explorer.words.value
    explorer.frame.set_state(dict(value=1))
    check(explorer, load_model(checkpoints/'sams.pt'))

@pytest.mark.parametrize('name', ['unet', 'sams'])
def test_real_clips(name, real, checkpoints):
    videos = vvt_videos(real/'vvt', 'test')
    explorer = AttentionExplorer(checkpoints/f'{name}.pt', videos, checkpoints/'warp256.pt')
    assert explorer.picture.size == [256,192]
    model, warp = (load_model(checkpoints/f) for f in (f'{name}.pt', 'warp256.pt'))
    play(explorer, model, warp, events=[('picture', dict(place=[100,90])), ('frame', dict(value=1))])

@pytest.mark.parametrize('notebook', sorted((repo/'nbs'/'explore').glob('*.ipynb')), ids=lambda p: p.stem)
def test_notebooks_hold_no_widgets(notebook):
    "Pictures only: a widget without a kernel is an empty box, and its state is large"
    nb = json.loads(notebook.read_text(encoding='utf8'))
    kinds = {k for c in nb['cells'] for o in c.get('outputs', []) for k in o.get('data', {})}
    assert 'widgets' not in nb['metadata'] and not [k for k in kinds if 'widget' in k] and 'image/jpeg' in kinds
    assert notebook.stat().st_size < 400_000
