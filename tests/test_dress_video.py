"One's own video: frames that were cut out of a raw video, results back in it; `shineon dress`"
from fractions import Fraction

import numpy as np, pytest, shineon, torch
from conftest import short, small
from PIL import Image
from shineon.cli.main import main
from shineon.core.errors import DataError
from shineon.core.media import frame_times, read_picture, read_video, video_info, write_png
from shineon.data.frame_files import ResizeCrop
from shineon.data.layouts import check_source, read_crops, vvt_videos
from shineon.models.files import read_checkpoint
from shineon.models.networks import NETWORKS
from shineon.prepare.drawn import drawn_truth, drawn_video
from shineon.sample.dataset import make_sample
from shineon.testing import shirt
from shineon.tryon.dress import tryon_reader
from shineon.tryon.methods import MethodFolders, dress_methods
from shineon.tryon.own_size import OwnSize, place_video
from test_own_size import sound_of, with_tone

placed = dict(fine_height=128, fine_width=64)
raw_size, corners = (480, 640), [(20 + 5*k, 30 + 60*k) for k in range(5)] # where the person is, of 384x288 pixels

# cut out of a raw video

@pytest.fixture(scope='module')
def followed(tmp_path_factory):
    "A set with frames of 192x256 that follow a person through a raw video of 640x480; irregular times, sound"
    root = make_sample(tmp_path_factory.mktemp('followed')/'vvt', n_train=1, n_test=1, n_frames=5, n_truth=0)
    video, = vvt_videos(root, 'test')
    rng, scenes = np.random.default_rng(0), []
    for f,(top,left) in zip(video.frames, corners):
        person = Image.fromarray(read_picture(f.files['image'])).resize((288,384), Image.BICUBIC)
        scenes.append(np.repeat(np.repeat(rng.integers(60, 200, (48,64,3)).astype(np.uint8), 10, 0), 10, 1))
        scenes[-1][top:top+384,left:left+288] = person
    source = root/'test'/'test_videos'/f'{video.id}.mp4'
    with_tone(source, scenes, [0, 33, 90, 123, 200], Fraction(1, 1000))
    lines = ['x,y,scale', *(f'{left/1.5},{top/1.5},{1/1.5}' for top,left in corners)]
    source.with_name(f'{video.id}_crop.csv').write_text('\n'.join(lines))
    video, = vvt_videos(root, 'test')
    crops = read_crops(video, raw_size, (256,192))
    for f,crop,scene in zip(video.frames, crops, read_video(source)): write_png(f.files['image'], crop.picture(scene))
    return video

@pytest.fixture(scope='module')
def networks():
    "Untrained ones: what they draw is noise, everywhere"
    torch.manual_seed(0)
    make = {n: NETWORKS[n].cls for n in ('warp', 'unet')}
    return make['warp'](['cocopose'], ngf=4, **placed).eval(), make['unet'](['masked'], ngf=4, keep_person=True).eval()

@pytest.mark.parametrize('framing', [None, dict(neck=[.5, .33], hips=[.5, .8]), dict(neck=[.5, .4], hips=[.5, .5])],
                         ids=['as it is', 'closer', 'farther'])
def test_results_go_into_the_raw_frames(followed, networks, framing, tmp_path):
    "Outside of the region, and beyond each crop, the raw frame stays; its size, times and sound do, too"
    assert check_source(followed) == raw_size
    reader = tryon_reader(*networks, **placed)
    places = place_video(followed, reader, framing)
    assert (places is None) == (framing is None)
    own = OwnSize(followed, reader, followed.cloth, places)
    dressed = dress_methods(followed, reader, dict(made=networks[1]), networks[0], places=places)
    folder, mp4 = MethodFolders(tmp_path, 'made').save(dressed, followed, followed.cloth, ['png', 'mp4'], own=own)
    sources = list(read_video(followed.source))
    written = [read_picture(p) for p in sorted(folder.glob('*.png'))]
    regions = [read_picture(p, 'L') > 0 for p in sorted((tmp_path/'regions'/followed.id).glob('*.png'))]
    assert len(written) == len(regions) == len(sources) == 5
    for now,before,region,(top,left) in zip(written, sources, regions, corners):
        assert .02 < region.mean() < .4
        assert (now[~region] == before[~region]).all() # pixel by pixel
        assert (now[region] != before[region]).any(-1).mean() > .5
        crop = np.zeros(raw_size, bool)
        crop[top:top+384,left:left+288] = True
        assert not (region & ~crop).any()
    assert frame_times(mp4) == frame_times(followed.source)
    assert sound_of(mp4) == sound_of(followed.source) != []
    assert {k: video_info(mp4)[k] for k in ('height', 'width', 'frames')} == dict(height=480, width=640, frames=5)

def test_what_was_cut_out_is_found_again(followed):
    "Points of a placed frame lie in the raw video where the person is"
    crop = read_crops(followed, raw_size, (256,192))[3]
    both = ResizeCrop((256,192), 128, 64, .7, at=(30., 20.)).within(crop)
    top, left = corners[3]
    y,x = 100.25, 60.5 # of the sample's frame
    there = both.back(np.array([(x + .5)*.7 - .5 - 20, (y + .5)*.7 - .5 - 30]))
    assert np.allclose(there, [left + (x + .5)*1.5 - .5, top + (y + .5)*1.5 - .5], atol=1e-6)

def test_without_the_file_nothing_changes(followed):
    "Frames that are a part of a video need the file that says which"
    followed.crops.rename(followed.crops.with_suffix('.away'))
    try:
        video, = vvt_videos(followed.source.parents[2], 'test')
        assert video.source == followed.source and video.crops is None
        with pytest.raises(DataError, match='of another shape'): OwnSize(video, tryon_reader(), video.cloth)
    finally: followed.crops.with_suffix('.away').rename(followed.crops)

# shineon dress, with annotators that know the answer for drawn videos

drawn = '--pose drawn-pose --parse drawn-parse --densepose drawn-densepose --gpu_ids -1'.split()

@pytest.fixture(scope='module')
def wardrobe(tmp_path_factory):
    "A folder with a video that has a tone and irregular times, a photo, a video of nobody, and two garments"
    folder = tmp_path_factory.mktemp('wardrobe')
    times = [0, 33, 90, 123, 200, 233, 290, 310]
    with_tone(folder/'walk.mp4', drawn_video(8, 360, 640, walk=.2), times, Fraction(1, 1000))
    with_tone(folder/'nobody.mp4', drawn_video(8, 240, 320, empty=tuple(range(8))), times, Fraction(1, 1000))
    write_png(folder/'portrait.png', drawn_video(2, 320, 240)[1])
    for name,size in (('a', (256,192)), ('b', (300,260))):
        write_png(folder/f'{name}.png', ((shirt(*size).permute(1,2,0).numpy() + 1)*127.5).round().astype(np.uint8))
    return folder

@pytest.fixture
def dress(wardrobe, monkeypatch, capfd):
    "Run `shineon dress` in that folder: exit status, what was printed"
    monkeypatch.chdir(wardrobe)
    def run(*args):
        capfd.readouterr()
        status = main(['dress', *map(str, args), '--cache', 'cache', *drawn])
        return status, ''.join(capfd.readouterr())
    return run

def test_a_video_in_two_garments(dress, wardrobe):
    "Size, times and sound are the video's; only near the person's garment anything has changed"
    status, said = dress('walk.mp4', 'a.png', 'b.png', '-o', 'dressed')
    assert status == 0 and 'prepared: 8 frames' in said, said
    assert sorted(p.name for p in (wardrobe/'dressed').iterdir()) == ['walk_a.mp4', 'walk_b.mp4', 'walk_sheet.png']
    raw = list(read_video(wardrobe/'walk.mp4'))
    for name in ('walk_a.mp4', 'walk_b.mp4'):
        path = wardrobe/'dressed'/name
        assert frame_times(path) == frame_times(wardrobe/'walk.mp4')
        assert sound_of(path) == sound_of(wardrobe/'walk.mp4') != []
        for before,now in zip(raw, read_video(path), strict=True):
            body = drawn_truth(before)['parse'] > 0
            rows, columns = (np.flatnonzero(body.any(axis)) for axis in (1, 0))
            away = np.ones_like(body)
            away[rows[0]:rows[-1],max(columns[0] - 20, 0):columns[-1] + 20] = False
            off = np.abs(now.astype(int) - before).mean(-1)
            assert off[away].mean() < 3 < off[body].mean() # what the encoder does; another garment

def test_the_next_garment_takes_only_the_tryon(dress, wardrobe):
    status, said = dress('walk.mp4', 'a.png', '-o', 'first.mp4')
    assert status == 0, said
    status, said = dress('walk.mp4', 'b.png', '-o', 'second.mp4')
    assert status == 0 and 'prepared:' not in said and 'second.mp4: ' in said and 'kept for further garments' in said

@pytest.mark.parametrize('args, words', [
    (['walk.mp4', 'a.png', '-o', 'walk.mp4', '--overwrite'], 'would replace what it is made from'),
    (['walk.mp4', 'a.png', '-o', 'taken.mp4'], 'there is such a file: taken.mp4'),
    (['walk.mp4', 'a.png', 'b.png', '-o', 'one.mp4'], 'one file for 2 garments'),
    (['none.mp4', 'a.png'], 'no such video'), (['walk.mp4', 'none.png'], 'no such garment photo'),
    (['nobody.mp4', 'a.png'], 'no person'), (['.', 'a.png'], 'this is a folder'),
    (['walk.mp4', 'walk.mp4', '-o', 'x.mp4'], 'walk.mp4'),
    (['walk.mp4', 'a.png', '-o', 'x.mp4', '--person', '7'], 'person is 7'),
    (['walk.mp4', 'a.png', '-o', 'x.mp4', '--checkpoint', 'nowhere'], 'no such checkpoint'),
    (['walk.mp4', 'a.png', '-o', 'x.mp4', '--category', 'hat'], 'hat'),
    (['walk.mp4', 'a.png', '-o', 'x.mp4', '--framing', 'near'], "framing is 'near'"),
    (['walk.mp4', 'a.png', '-o', 'x.mp4', '--models', 'nowhere'], 'nowhere')])
def test_what_cannot_be_is_one_line(args, words, dress, wardrobe):
    (wardrobe/'taken.mp4').touch()
    status, said = dress(*args)
    assert status == 2 and words in said and said.count('shineon: ') == 1 and 'Traceback' not in said, said
    assert not (wardrobe/'x.mp4').exists() and (wardrobe/'taken.mp4').stat().st_size == 0

def test_a_photo(dress, wardrobe):
    status, said = dress('portrait.png', 'a.png', '-o', 'dressed_portrait.png')
    assert status == 0, said
    before, now = (read_picture(wardrobe/n) for n in ('portrait.png', 'dressed_portrait.png'))
    differs = (now != before).any(-1)
    assert now.shape == (320,240,3) and .03 < differs.mean() < .4
    assert not differs[:40].any() # above the head: bit for bit

def test_from_python(wardrobe, tmp_path):
    who = dict(pose='drawn-pose', parse='drawn-parse', densepose='drawn-densepose')
    said = []
    made = shineon.dress(wardrobe/'walk.mp4', wardrobe/'a.png', tmp_path/'made.mp4', say=said.append, gpu_ids='-1',
                         cache=tmp_path/'cache', **who)
    assert made.files == [tmp_path/'made.mp4'] and video_info(made.files[0])['frames'] == 8
    assert made.record['made_by']['parse'] == 'drawn-parse' and set(made.seconds) == {'garments', 'prepare', 'tryon'}
    assert not hasattr(shineon, 'undress')

# who made the annotations

def record(root, mode, parse): # of every video
    folder = root/mode/'made_by'
    folder.mkdir()
    for v in vvt_videos(root, mode):
        (folder/f'{v.id}.yaml').write_text(f'whole: true\nmade_by: {{parse: {parse}, keypoints: blazepose}}\n')

def test_makers_are_kept_and_compared(broken, in_process, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    record(broken, 'train', 'schp')
    data = ['--vvt_dataroot', str(broken)]
    assert main(['train', '--model', 'warp', '--name', 'w', *data, *small, *short, '--fast_dev_run']) == 0
    checkpoint = tmp_path/'experiments'/'w'/'checkpoints'/'last.pt'
    assert read_checkpoint(checkpoint)['more']['options']['made_by']['parse'] == ['schp']
    def tried(name):
        capfd.readouterr()
        args = ['--checkpoint', str(checkpoint), *data, '--gpu_ids', '-1', '--workers', '0']
        assert main(['tryon', '--name', name, *args]) == 0
        return ''.join(capfd.readouterr())
    assert 'in training' not in tried('plain') # the test videos have no record
    record(broken, 'test', 'light-parse')
    assert 'parse by schp in training, by light-parse here' in tried('other')
