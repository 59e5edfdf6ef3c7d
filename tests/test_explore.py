"The attention explorer on checkpoints and videos: events as the page sends them, and what it shows after each"
import json, re, threading, time
from functools import partial
from io import BytesIO

import numpy as np, pytest, torch
import shineon # noqa: F401, before torchvision
from conftest import repo
from PIL import Image
from shineon.core.run_folder import close_run, open_run
from shineon.data.layouts import vvt_videos
from shineon.core.ops import to_uint8
from shineon.explore.attention import attention_picture, pair_colours, pair_picture, shared_attention
from shineon.explore.attention_explorer import AttentionExplorer, attention_names, explore_attention
from shineon.explore.run_browser import RunBrowser
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

def plain(widget): return ' '.join(re.sub('<.*?>', ' ', widget.value).split())

def shown(explorer):
    "The picture, or both side by side"
    made = [np.array(Image.open(BytesIO(b))) for b in (explorer.picture.png, explorer.picture.beside) if b]
    return np.concatenate(made, 1)

def expected(explorer, frame):
    maps, places, how = explorer.maps, explorer.places, (explorer.opacity.value, 512)
    if len(maps) == 1: return attention_picture(frame, maps[0], places[0], *how)
    if explorer.pair.value == 'in colours': return pair_picture(frame, maps, places, *how)
    each = zip(maps, places, pair_colours)
    return np.concatenate([attention_picture(frame, m, p, *how, colour) for m,p,colour in each], 1)

def check(explorer, model, warp=None, cloth=None):
    "Maps and pictures are those of the pixels, layer, frame, video and opacity that were chosen"
    assert explorer.job.wait(600) and plain(explorer.job.words) == '', plain(explorer.job.words)
    video, i, layer = explorer.videos[explorer.video.value], explorer.player.slider.value, explorer.layer.value
    assert explorer.at == (explorer.network.value, video.id, i)
    n = model.n_frames if isinstance(model, UNetMask) else i+1 # SAMS remembers what it drew, from the start
    clip = {k: v[None] for k,v in explorer.reader(video, i, n=n, cloth=cloth).items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        if warp is not None: clip |= warp(clip)
        right = [attention_maps(model, clip, *p, layers=[layer])[layer] for p in explorer.places]
    assert explorer.places == [p for p in (explorer.picture.place, explorer.picture.second) if p]
    for map,known in zip(explorer.maps, right, strict=True):
        assert (map - known).abs().max() < 1e-4 and abs(map.sum() - 1) < 1e-4
    frame = to_uint8(explorer.shown[explorer.over.value][0,-1])
    if explorer.over.value == 'image': assert (frame == to_uint8(clip['image'][0,-1])).all()
    assert (shown(explorer) == expected(explorer, frame)).all()
    for y,x in explorer.places: assert f'row {y}, column {x}' in plain(explorer.words)
    return shown(explorer)

def play(explorer, *args, events):
    "Send events as the page does; the picture must change with each, and be right"
    before = check(explorer, *args)
    for part,state in events:
        (explorer.player.slider if part == 'frame' else getattr(explorer, part)).set_state(state)
        after = check(explorer, *args)
        assert after.shape != before.shape or (after != before).any(), (part, state)
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
              ('picture', dict(second=[10,5])), ('frame', dict(value=2)), ('pair', dict(index=1)),
              ('layer', dict(index=0)), ('video', dict(index=1)), ('picture', dict(second=[])),
              ('picture', dict(place=[0,31]))]
    play(explorer, load_model(checkpoints/f'{name}.pt'), events=events)
    assert (explorer.player.slider.value, explorer.player.slider.max) == (0, 3)

def test_another_garment(vvt, checkpoints):
    videos = vvt_videos(vvt, 'test')
    model, warp = load_model(checkpoints/'sams.pt'), load_model(checkpoints/'warp.pt')
    own = AttentionExplorer(model, videos, warp)
    other = AttentionExplorer(model, videos, warp, videos[1].cloth)
    assert other.picture.size == [128,64] # the warp's size
    play(other, model, warp, videos[1].cloth, events=[('frame', dict(value=2))])
    own.player.slider.value = 2
    check(own, model, warp)
    assert (own.maps[0] - other.maps[0]).abs().max() > 1e-3

def test_memory_is_bounded(vvt, checkpoints):
    from shineon.explore.attention import VideoAttention
    from shineon.tryon.dress import tryon_reader
    model, video = load_model(checkpoints/'sams.pt'), vvt_videos(vvt, 'test')[0]
    video.frames = video.frames[1:]*4 # twelve, each with its flow
    reader = tryon_reader(model, fine_height=64, fine_width=32, image_scale=.5)
    short = VideoAttention(model, video, reader, keep=4, room=1)
    long = VideoAttention(model, video, reader, keep=99)
    for i in (11, 3, 7):
        a, b = (o.frame(i)['result'] for o in (short, long))
        assert torch.allclose(a, b, atol=1e-5) and len(short.pasts) <= 4 and len(short.drawn.values) <= 2
        maps = zip(short.maps(i, 40, 16).values(), long.maps(i, 40, 16).values(), strict=True)
        for m,n in maps: assert torch.allclose(m, n, atol=1e-4)
    assert len(long.pasts) == 13 and len(long.drawn.values) == 12

def test_a_second_pixel(vvt, checkpoints):
    explorer = AttentionExplorer(checkpoints/'unet.pt', vvt_videos(vvt, 'test'), fine_height=128, fine_width=64)
    explorer.layer.value = 'net.ups.4.4'
    explorer.picture.set_state(dict(place=[60,32]))
    assert explorer.picture.beside == b'' and 'share' not in plain(explorer.words)
    explorer.picture.set_state(dict(second=[20,32]))
    common = shared_attention(*explorer.maps)
    assert 0 <= common < 1 and f'share {common:.0%} of their weight' in plain(explorer.words)
    explorer.picture.set_state(dict(second=[60,32]))
    assert 'share 100% of their weight' in plain(explorer.words)
    explorer.sets.set_state(dict(index=1))
    assert explorer.picture.sets == 1 # what the page asks at a click
    explorer.alone.click()
    assert explorer.picture.second == [] and explorer.picture.beside == b'' and 'share' not in plain(explorer.words)

def until(true, seconds=600):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(.02)

def test_played_with_a_slow_network(vvt, checkpoints):
    "The picture follows at the network's pace; work can be stopped; what was drawn is not drawn again"
    explorer = AttentionExplorer(checkpoints/'sams.pt', vvt_videos(vvt, 'test'), fine_height=64, fine_width=32,
                                 image_scale=.5)
    draw, gate, runs = explorer.stream.draw, threading.Semaphore(0), []
    def slow(i, past):
        gate.acquire()
        runs.append(i)
        return draw(i, past=past)
    explorer.stream.draw = slow
    for i in (1, 2, 3): explorer.player.slider.set_state(dict(value=i)) # faster than it draws
    gate.release()
    until(lambda: 'Shown: frame 1 of' in plain(explorer.words))
    explorer.picture.set_state(dict(place=[10,10])) # meanwhile, a click is answered
    assert 'row 10, column 10' in plain(explorer.words) and explorer.job.busy
    until(lambda: explorer.job.row.layout.display == '')
    explorer.job.button.click()
    gate.release(3)
    assert explorer.job.wait(600) and 'stopped after' in plain(explorer.job.words)
    explorer.player.slider.set_state(dict(value=2))
    explorer.player.slider.set_state(dict(value=3))
    check(explorer, load_model(checkpoints/'sams.pt'))
    assert runs == [1,2,3] # each once, in order
    for i in range(4): explorer.player.slider.set_state(dict(value=i))
    assert runs == [1,2,3] and explorer.at[2] == 3 and not explorer.job.busy

@pytest.fixture(scope='module')
def experiments(vvt, checkpoints, tmp_path_factory):
    "Runs, untrained: two networks with self-attention, one without, a warp"
    folder, size = tmp_path_factory.mktemp('runs')/'experiments', dict(fine_height=128, fine_width=64)
    for name in ('unet', 'unet_flow', 'plain', 'warp'):
        options = dict(name=name, dataset='vvt', vvt_dataroot=str(vvt), **size)
        open_run(folder/name, options, notebook='train_warp' if name == 'warp' else 'train_unet')
        save_model(folder/name/'checkpoints'/'best.pt', load_model(checkpoints/f'{name}.pt'), options=options)
        close_run(folder/name, dict(steps=1))
    return folder

def test_networks_to_choose_from(vvt, checkpoints, experiments):
    explorer = explore_attention(vvt, experiments_dir=experiments)
    assert explorer.network.options == ('unet', 'unet_flow') and 'plain' in plain(explorer.note)
    assert explorer.picture.size == [128,64] # at which they were trained
    events = [('frame', dict(value=2)), ('picture', dict(place=[30,20], second=[90,40])), ('layer', dict(index=2))]
    play(explorer, load_model(checkpoints/'unet.pt'), events=events)
    explorer.network.set_state(dict(index=1))
    check(explorer, load_model(checkpoints/'unet_flow.pt'))
    assert explorer.at[2] == 2 and explorer.places == [[30,20], [90,40]] # they stay

def test_a_network_that_is_gone(vvt, checkpoints, experiments, tmp_path):
    gone = tmp_path/'gone.pt'
    gone.write_bytes((checkpoints/'unet.pt').read_bytes())
    explorer = AttentionExplorer(checkpoints/'unet.pt', vvt_videos(vvt, 'test'), networks=dict(gone=gone),
                                 fine_height=128, fine_width=64)
    gone.unlink()
    explorer.network.set_state(dict(index=1))
    assert explorer.job.wait(600) and 'no such checkpoint' in plain(explorer.job.words)
    assert 'Shown: frame 0' in plain(explorer.words) # that of the network before
    explorer.network.set_state(dict(index=0))
    check(explorer, load_model(checkpoints/'unet.pt'))

@pytest.mark.parametrize('name', [*networks, 'plain', 'warp'])
def test_who_has_attention(name, checkpoints):
    "A checkpoint's names tell, without the network"
    found = set(attention_names(checkpoints/f'{name}.pt'))
    model = load_model(checkpoints/f'{name}.pt')
    assert found == {n for n,m in model.named_modules() if type(m).__name__ == 'SelfAttention'}
    assert bool(found) == (name in networks)

def test_from_a_run(vvt, checkpoints, experiments):
    browser = RunBrowser(experiments)
    for name in ('plain', 'warp'):
        browser.table.set_state(dict(chosen=name))
        assert 'attention' not in browser.views
    browser.table.set_state(dict(chosen='unet_flow'))
    browser.buttons.children[list(browser.views).index('attention')].click()
    explorer = browser.view.children[0]
    assert explorer.network.value == 'unet_flow', plain(browser.words)
    check(explorer, load_model(checkpoints/'unet_flow.pt'))

def test_no_network_with_attention(vvt, tmp_path):
    with pytest.raises(OptionError, match='--self_attn'): explore_attention(vvt, experiments_dir=tmp_path)

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
    explorer.player.slider.set_state(dict(value=3)) # the way there leads through the broken one
    assert explorer.job.wait(600)
    assert '002_IUV.png' in plain(explorer.job.words) and 'unreadable' in plain(explorer.job.words)
    explorer.player.slider.set_state(dict(value=1))
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
