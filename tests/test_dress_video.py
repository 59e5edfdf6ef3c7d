"One's own video: frames that were cut out of a raw video, results back in it; `shineon dress`"
from fractions import Fraction

import numpy as np, pytest, torch
from PIL import Image
from shineon.core.errors import DataError
from shineon.core.media import frame_times, read_picture, read_video, video_info, write_png
from shineon.data.frame_files import ResizeCrop
from shineon.data.layouts import check_source, read_crops, vvt_videos
from shineon.models.networks import NETWORKS
from shineon.sample.dataset import make_sample
from shineon.tryon.dress import tryon_reader
from shineon.tryon.methods import MethodFolders, dress_methods
from shineon.tryon.own_size import OwnSize, place_video
from test_own_size import sound_of, with_tone

placed = dict(fine_height=128, fine_width=96)
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
    both = ResizeCrop((256,192), 128, 96, .7, at=(30., 20.)).within(crop)
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
