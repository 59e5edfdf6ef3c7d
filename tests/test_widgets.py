"The widgets of nbs/explore on data sets, runs and networks: events as a page sends them, and what is shown then"
import re, time
from io import BytesIO

import numpy as np, pytest, torch
import shineon # noqa: F401, before torchvision
from conftest import repo, short, small
from PIL import Image
from shineon.core.errors import DataError, OptionError
from shineon.core.ops import to_uint8
from shineon.data.labels import INPUTS, Input
from shineon.data.layouts import vvt_videos
from shineon.explore.dashboard import Dashboard
from shineon.explore.data_browser import DataBrowser, frame_joints, frame_layers
from shineon.explore.panel import enlarged, overlay, times_as_large
from shineon.explore.run_browser import RunBrowser
from shineon.explore.tryon_browser import TryOnBrowser, looks
from shineon.explore.warp_explorer import WarpExplorer, fit_offsets
from shineon.core.run_folder import close_run, open_run
from shineon.models.files import for_inference, load_model, save_model
from shineon.models.tps import TPS
from shineon.models.unetmask import UNetMask
from shineon.models.warp import WarpModule
from shineon.sample.layouts import make_layout
from shineon.tryon.dress import dress, tryon_reader
from torch.utils.tensorboard import SummaryWriter

size = dict(fine_height=128, fine_width=64)

@pytest.fixture(scope='module')
def experiments(vvt, tmp_path_factory):
    "Runs with small networks, untrained, and with a few entries for TensorBoard"
    folder = tmp_path_factory.mktemp('runs')/'experiments'
    torch.manual_seed(0)
    warp = WarpModule(ngf=4, **size)
    torch.nn.init.normal_(warp.regression[-1].weight, 0, .02) # not straight
    networks = dict(my_warp=(warp, 'train_warp'), my_unet=(UNetMask(ngf=4, init_type='kaiming'), 'train_unet'))
    for name,(network,notebook) in networks.items():
        run = folder/name
        open_run(run, dict(name=name, dataset='vvt', vvt_dataroot=str(vvt), ngf=4, **size), notebook=notebook)
        save_model(run/'checkpoints'/'best.pt', network)
        with SummaryWriter(run/'tensorboard') as writer:
            for step in range(1, 9):
                for k,v in {'loss/train': 1/step, 'lr': 1e-4, 'progress': step/8, 'n_frames_now': 1}.items():
                    writer.add_scalar(k, v, step)
                writer.add_image('pictures', np.full((8,12,3), 9*step, np.uint8), step, dataformats='HWC')
        close_run(run, dict(steps=8, valid_loss=.1))
    return folder

def plain(widget): return ' '.join(re.sub('<.*?>', ' ', widget.value).split())

def picture(data): return np.array(Image.open(BytesIO(data)))

def until(true, seconds=600):
    "Wait for a thread"
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end: time.sleep(.05)
    return true()

# data browser

def expected(browser):
    "The frame with just the layers that are switched on"
    i = browser.player.slider.value
    clip, joints = browser.reader(browser.shown, i), frame_joints(browser.shown, i, browser.reader)
    k = times_as_large(clip['image'].shape[-2], browser.height)
    shown = enlarged(to_uint8(clip['image'][-1]), k)
    for n,make in reversed(frame_layers(clip, joints, k).items()):
        switch = browser.switches[n]
        if switch.on.value: shown = overlay(shown, *make(), switch.opacity.value)
    return shown

def test_data_events(vvt):
    browser = DataBrowser(vvt, **size)
    frame = browser.player.slider
    events = [(frame, dict(value=2)), (browser.video, dict(index=1)), (frame, dict(value=3)),
              *((s.on, dict(value=True)) for n,s in browser.switches.items() if n != 'joints'),
              (browser.switches['parse'].opacity, dict(value=.1)), (browser.mode, dict(index=0))]
    for widget,state in events:
        widget.set_state(state)
        assert (picture(browser.picture.value) == expected(browser)).all(), (widget, state)
    assert len(browser.videos) == 3 and browser.job.wait()

@pytest.mark.parametrize('layout', ['viton', 'vitonhd', 'mpv', 'dresscode'])
def test_data_of_any_layout(layout, tmp_path):
    root = make_layout(tmp_path/'set', layout, n_train=2, n_test=2, n_frames=2, height=128, width=96)
    browser = DataBrowser(root, fine_height=64, fine_width=48)
    assert {'parse','joints','region','masked','cloth'} <= set(browser.switches), plain(browser.words)
    for i in range(len(browser.videos)):
        browser.video.set_state(dict(index=i))
        assert (picture(browser.picture.value) == expected(browser)).all()
        assert browser.job.wait() and 'nothing is wrong' in plain(browser.check), plain(browser.check)

def test_an_input_from_outside_is_a_layer(vvt):
    def grey(files, **_): return files['image'].mean(1, keepdim=True)/2 + .5
    INPUTS.add(Input('grey', 1, grey, ('image',)))
    try:
        browser = DataBrowser(vvt, **size)
        browser.switches['grey'].on.set_state(dict(value=True))
        assert (picture(browser.picture.value) == expected(browser)).all()
    finally: del INPUTS._entries['grey']

@pytest.mark.parametrize('kind, says', [('parse', '_label.png'), ('keypoints', '_keypoints'), ('flow', '.flo')])
def test_data_with_a_broken_file(kind, says, broken):
    video = vvt_videos(broken, 'test')[0]
    video.frames[2].files[kind].write_bytes(b'no file of that kind')
    browser = DataBrowser(broken, **size)
    browser.player.slider.set_state(dict(value=2))
    assert says in plain(browser.words) and browser.picture.value # the frame alone
    assert browser.job.wait() and 'this frame' in plain(browser.check)
    browser.player.slider.set_state(dict(value=1))
    assert (picture(browser.picture.value) == expected(browser)).all()

def test_data_that_lacks_files(broken):
    for p in (broken/'test'/'densepose').rglob('*.png'): p.unlink()
    vvt_videos(broken, 'test')[0].cloth.unlink()
    browser = DataBrowser(broken, **size)
    assert 'densepose' not in browser.switches and not {'cloth', 'cloth_mask'} & set(browser.switches)
    assert browser.picture.value and browser.job.wait() and 'missing' in plain(browser.check)

def test_real_data(real):
    browser = DataBrowser(real/'vvt')
    for s in browser.switches.values(): s.on.value = True
    for i in range(len(browser.videos)):
        browser.video.set_state(dict(index=i))
        assert (picture(browser.picture.value) == expected(browser)).all(), plain(browser.words)
    assert browser.job.wait()

# warp explorer

def best(experiments, name): return experiments/name/'checkpoints'/'best.pt'

def test_the_networks_points(vvt, experiments):
    warp = load_model(best(experiments, 'my_warp'), 'warp')
    explorer = WarpExplorer(vvt_videos(vvt, 'test'), warp)
    for i in (0, 2):
        explorer.same.set_state(dict(value=False))
        explorer.player.slider.set_state(dict(value=i))
        clip = {k: x[None] for k,x in explorer.clip().items() if isinstance(x, torch.Tensor)}
        with torch.no_grad(): grid, offsets = warp(clip)['grid'][0,0], warp.offsets(clip)[0,0]
        assert torch.allclose(explorer.grid, grid, atol=1e-4) and torch.allclose(explorer.offsets, offsets, atol=1e-4)

@pytest.mark.parametrize('align_corners', [True, False])
def test_any_spline_is_found_again(align_corners):
    torch.manual_seed(0)
    tps, offsets = TPS(64, 48, 4), torch.randn(32)*.2
    grid = tps(offsets)[0]
    if not align_corners: grid = grid*torch.tensor([48/47, 64/63])
    assert torch.allclose(tps(fit_offsets(tps, grid))[0], grid, atol=1e-5)

def test_a_drag(vvt, experiments):
    explorer = WarpExplorer(vvt_videos(vvt, 'test'), best(experiments, 'my_warp'))
    before = [picture(b) for b in (explorer.garment.png, explorer.worn.value)]
    points = [list(p) for p in explorer.garment.points]
    points[7] = [points[7][0] + 9, points[7][1] - 6]
    explorer.garment.set_state(dict(points=points, moved=[7, *points[7]]))
    assert np.allclose(explorer.garment.points, points, atol=1e-3) # no other point moves
    after = [picture(b) for b in (explorer.garment.png, explorer.worn.value)]
    assert all((a != b).any() for a,b in zip(before, after))
    explorer.player.slider.set_state(dict(value=3))
    assert np.allclose(explorer.garment.points, points, atol=1e-3) # the same points in all frames

# run browser

def test_runs_that_there_are(experiments):
    browser = RunBrowser(experiments)
    browser.table.set_state(dict(sort='name', descending=True))
    assert [r[0] for r in browser.table.rows] == ['my_warp', 'my_unet']
    browser.table.set_state(dict(chosen='my_warp'))
    assert 'train_warp' in browser.view.children[0].value and set(browser.views) == {'details', 'dashboard'}
    browser.table.set_state(dict(chosen='my_unet'))
    assert set(browser.views) == {'details', 'dashboard', 'try-on'}
    for b in browser.buttons.children: b.click()
    assert plain(browser.words) == f'2 of 2 runs in {experiments}', plain(browser.words)

def test_a_run_called_like_a_script(tmp_path):
    run = tmp_path/'<script>alert(1)<'
    run.mkdir()
    (run/'params.yaml').write_text('name: "<img src=x>"\n')
    browser = RunBrowser(tmp_path)
    browser.table.set_state(dict(chosen=run.name))
    assert '<script>' not in browser.view.children[0].value and '<img' not in browser.view.children[0].value

# dashboard

def snapshot(folder): return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob('*')}

def test_a_finished_run(experiments):
    before = snapshot(experiments/'my_warp')
    board = Dashboard('my_warp', experiments, seconds=.1)
    assert until(lambda: not board._thread.is_alive())
    assert 'finished' in plain(board.about) and '100% of training' in plain(board.about), plain(board.about)
    assert board.charts.value.count('<svg') == 3 and (picture(board.picture.value)[0,0] == 72).all()
    board.step.set_state(dict(index=0))
    assert (picture(board.picture.value)[0,0] == 9).all()
    assert snapshot(experiments/'my_warp') == before

def test_a_run_in_another_process(vvt, begin, tmp_path):
    "It is attached to while papermill executes it, and followed to its end"
    args = ['train', '--model', 'warp', '--name', 'live', '--vvt_dataroot', vvt, *small, *short, '--keep_epochs', 12]
    process = begin(*args, cwd=tmp_path, quiet=True)
    try:
        assert until(lambda: (tmp_path/'experiments'/'live'/'environment.json').exists() or process.poll() is not None)
        board, seen = Dashboard('live', tmp_path/'experiments', seconds=.1), set()
        def ended():
            seen.add((board.run.get('state'), len(board.scalars.get('loss/train', ()))))
            return not board._thread.is_alive()
        assert until(ended), plain(board.about)
        assert process.wait(300) == 0
    finally: process.kill()
    states = {s for s,_ in seen}
    assert {'running', 'finished'} <= states and len({n for s,n in seen if s == 'running'}) > 2, seen
    board.refresh()
    assert '100% of training' in plain(board.about) and '1 frames' in plain(board.about)

def test_no_such_run(tmp_path):
    with pytest.raises(OptionError, match='no such run'): Dashboard('none', tmp_path)
    with pytest.raises(OptionError, match='name'): Dashboard('../none', tmp_path)

# try-on browser

@pytest.fixture
def tryon(vvt, experiments):
    "A try-on browser that has dressed its first video"
    browser = TryOnBrowser(vvt, checkpoints=[best(experiments, 'my_unet')], warp=best(experiments, 'my_warp'),
                           experiments_dir=experiments)
    assert browser.job.wait(600) and plain(browser.job.words) == '', plain(browser.job.words)
    return browser

def test_results_are_those_of_a_tryon(tryon, vvt, experiments):
    assert 'SSIM' in plain(tryon.figures) # in their own garment the frame is the truth
    net, bend = (for_inference(load_model(best(experiments, n))) for n in ('my_unet', 'my_warp'))
    for cloth in ('own', vvt_videos(vvt, 'test')[1].cloth.name):
        tryon.cloth.value = cloth
        assert tryon.job.wait(600) and plain(tryon.job.words) == '', plain(tryon.job.words)
        photo = tryon.photos[cloth] or tryon.shown.cloth
        for i,frame in enumerate(dress(tryon.shown, tryon_reader(bend, net, **size), net, bend, photo)):
            tryon.player.slider.value = i
            shown = tryon.frames['my_unet']
            assert np.abs(shown['result'].astype(int) - to_uint8(frame['result'][0,-1])).max() <= 1
            assert (shown['source'] == to_uint8(frame['image'][0,-1])).all()

def test_looks(tryon):
    seen = []
    for look in looks:
        tryon.look.set_state(dict(index=looks.index(look)))
        assert plain(tryon.words) == ''
        seen.append(tryon.picture.value)
    assert len(set(seen)) >= len(looks) - 1 # of an own garment the truth is the source

def test_a_garment_without_a_warp(tryon, vvt):
    tryon.warp.value = 'warped garments of the data set'
    tryon.options = size # no warp says it
    tryon.cloth.value = vvt_videos(vvt, 'test')[1].cloth.name
    assert tryon.job.wait(600) and 'a warp is needed' in plain(tryon.job.words)
    tryon.cloth.value = 'own'
    assert tryon.job.wait(600) and plain(tryon.job.words) == '', plain(tryon.job.words)

def test_broken_frame_of_a_tryon(broken, experiments):
    vvt_videos(broken, 'test')[0].frames[2].files['parse'].write_bytes(b'no picture')
    browser = TryOnBrowser(broken, checkpoints=[best(experiments, 'my_unet')], warp=best(experiments, 'my_warp'),
                           experiments_dir=experiments, steady=0)
    assert browser.job.wait(600) and '_label.png' in plain(browser.job.words)
    with pytest.raises(DataError): TryOnBrowser(broken/'none')

# what a reader without a kernel sees

@pytest.mark.parametrize('name', ['data_browser', 'warp_explorer', 'run_browser', 'dashboard', 'tryon_browser'])
def test_screenshots(name):
    with Image.open(repo/'nbs'/'images'/f'{name}.png') as im: assert im.width > 500
