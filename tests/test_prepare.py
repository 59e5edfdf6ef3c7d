"""From raw videos to a data set: the command, what it leaves, and all sorts of bad input.

Most tests draw their videos and use annotators that know the answer. `test_light_level` runs the small networks where
their files are (SHINEON_MODELS, or the cache), and is skipped with a message where they are not."""
import csv, errno, json, tracemalloc
from pathlib import Path

import av, numpy as np, pytest, torch
from PIL import Image
from shineon.core.errors import DataError, OptionError
from shineon.core.media import read_picture, read_video, write_png, write_video
from shineon.data.check import check_data
from shineon.data.frame_files import ResizeCrop
from shineon.data.layouts import check_source, vvt_videos
from shineon.data.represent import draw_flow
from shineon.prepare import dataset
from shineon.prepare.annotators import ANNOTATORS, check_models, models_folder
from shineon.prepare.dataset import Preparation, plan_jobs, prepare, read_record
from shineon.prepare.drawn import drawn_video
from shineon.testing import shirt

drawn = dict(pose='drawn-pose', parse='drawn-parse', densepose='drawn-densepose', height=128, width=96)
as_options = [w for k,v in drawn.items() for w in (f'--{k}', str(v))]
photo = ((shirt(256, 192).permute(1,2,0).numpy() + 1)*127.5).round().astype(np.uint8)

def ids(root, mode='test'): return [v.id for v in vvt_videos(root, mode)]

@pytest.fixture
def raw(tmp_path):
    "Two videos in a folder, and the photo of a garment"
    for k,name in enumerate(('amy-g1', 'bea-g2')): write_video(tmp_path/'raw'/f'{name}.mp4', drawn_video(4, seed=k))
    write_png(tmp_path/'shirt.png', photo)
    write_video(tmp_path/'other'/'Bea-G2.mp4', drawn_video(2))
    return tmp_path/'raw'

# the command

def test_command(raw, tmp_path, shineon_command):
    "A data set that the checks find sound, a list to try on; the second time nothing is made again"
    words = 'prepare', 'raw', 'set', '--garment', 'shirt.png', *as_options, '--gpu_ids', '-1'
    def run(): return shineon_command(*words, cwd=tmp_path)
    r = run()
    assert r.status == 0, r.err
    assert 'frames a second' in r.out and 'places in all' in r.out
    assert ids(tmp_path/'set') == ['amy-g1', 'bea-g2']
    there = {'clothes_person', 'test', 'sheets', 'doubtful_frames.csv', 'tryon_list.csv'}
    assert {p.name for p in (tmp_path/'set').iterdir()} == there
    checked = shineon_command('check', 'set', cwd=tmp_path)
    assert checked.status == 0, checked.out
    def listed(): return list(csv.reader((tmp_path/'set'/'tryon_list.csv').read_text().splitlines()))
    rows, name = listed(), 'TRYON-SHIRT@10=cloth_front.png'
    assert [(Path(p).name, id) for p,id in rows] == [(name, id) for id in ids(tmp_path/'set')]
    again = run()
    assert again.status == 0 and again.out.count('was there already') == 2
    assert listed() == rows

def test_one_that_is_broken_stops_no_other(raw, tmp_path, monkeypatch, in_process, capsys):
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    (raw/'aaa-g0.mp4').write_bytes(b'no video at all'*99)
    assert main(['prepare', 'raw', 'set', *as_options, '--gpu_ids', '-1']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'aaa-g0' in err and '1 of 3' in err, err
    assert ids(tmp_path/'set') == ['amy-g1', 'bea-g2']

def test_several_processes(raw, tmp_path, shineon_command):
    r = shineon_command('prepare', 'raw', 'set', *as_options, '--gpu_ids=-1,-1', '--name', 'both', cwd=tmp_path)
    assert r.status == 0, r.err
    assert ids(tmp_path/'set') == ['amy-g1', 'bea-g2']
    assert json.loads((tmp_path/'experiments'/'both'/'metrics.json').read_text())['videos'] == 2

def test_trial(tmp_path, monkeypatch, in_process):
    "Without videos a drawn one is prepared"
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    assert main(['prepare', '--name', 'trial', '--gpu_ids', '-1']) == 0
    assert ids(tmp_path/'experiments'/'trial'/'sample'/'set') == ['amy-g11']

@pytest.mark.parametrize('args,words', [
    (['raw'], 'raw alone is named'), (['nowhere.mp4', 'set'], 'no such video'),
    (['raw', 'shirt.png'], 'this is no folder'),
    (['raw', 'raw'], 'holds something else'), (['raw', 'set', '--garment', 'none.jpg'], 'no such garment photo'),
    (['raw', 'set', '--test_fraction', '2'], 'test_fraction is 2'), (['raw', 'set', '--smooth', '0'], 'smooth is 0'),
    (['raw', 'set', '--parse', 'nobody'], "parse is 'nobody'"),
    (['raw', 'other/Bea-G2.mp4', 'set'], 'two videos')])
def test_refused_in_one_line(args, words, raw, tmp_path, monkeypatch, in_process, capsys):
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    assert main(['prepare', *args, *([] if '--parse' in args else as_options), '--gpu_ids', '-1']) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1, err
    assert not (tmp_path/'set').exists()

def test_missing_models_are_said_before_work(raw, tmp_path, monkeypatch):
    def no_network(file, path): raise DataError(f'{file.name} cannot be downloaded', file.url)
    monkeypatch.setattr('shineon.prepare.annotators._fetch', no_network)
    monkeypatch.setenv('SHINEON_MODELS', str(tmp_path/'none'))
    with pytest.raises(DataError, match='are missing') as e: prepare([raw], tmp_path/'set')
    assert str(e.value).count('\n') == 0 and not (tmp_path/'set').exists()
    for entry in (ANNOTATORS[n] for n in ('blazepose', 'light-parse', 'bodypix')):
        for file in entry.files: assert file.name in str(e.value)

# bad input

def made(tmp_path, *videos, **how):
    "Record of a prepared video, and the video as it is read"
    records = prepare(videos, tmp_path/'set', say=lambda *_: None, **drawn | how)
    id, record = next(iter(records.items()))
    return record, next(v for v in vvt_videos(tmp_path/'set', 'test') if v.id == id)

def refused(words, tmp_path, *videos, **how):
    with pytest.raises((DataError, OptionError), match=words) as e: made(tmp_path, *videos, **how)
    assert '\n' not in str(e.value)
    assert not list(tmp_path.glob('set/*/.*')) # nothing half-made

def test_no_person(tmp_path):
    write_video(tmp_path/'a.mp4', drawn_video(6, empty=range(6)))
    refused('no person was found', tmp_path, tmp_path/'a.mp4')

def test_several_people(tmp_path):
    "The largest is taken, and it is said; `person` names another one"
    write_video(tmp_path/'a.mp4', drawn_video(6, 240, 480, others=2, at=(.5, .5, .8)))
    record, _ = made(tmp_path, tmp_path/'a.mp4')
    assert any('several people' in n for n in record['notes'])
    first, _ = made(tmp_path, tmp_path/'a.mp4', person=1)
    assert first['crop'] != record['crop'] or first['frames'] == 6
    refused('person is 7', tmp_path, tmp_path/'a.mp4', person=7)

def test_one_frame_and_none(tmp_path):
    write_video(tmp_path/'a.mp4', drawn_video(1))
    record, video = made(tmp_path, tmp_path/'a.mp4')
    assert record['frames'] == len(video.frames) == 1 and 'flow' not in video.frames[0].files
    with av.open(str(tmp_path/'none.mkv'), 'w') as out: # a track without a picture
        s = out.add_stream('ffv1', rate=25)
        s.height, s.width, s.pix_fmt = 96, 72, 'yuv420p'
        out.start_encoding()
    refused('none', tmp_path, tmp_path/'none.mkv')

def test_cut_off_in_the_middle(tmp_path):
    "What was read is kept, and said; the raw video is not linked, since it has no such frames"
    write_video(tmp_path/'whole.mp4', drawn_video(6)*12)
    data = (tmp_path/'whole.mp4').read_bytes()
    (tmp_path/'cut.mp4').write_bytes(data[:len(data)*2//3])
    record, video = made(tmp_path, tmp_path/'cut.mp4')
    assert 0 < len(video.frames) == record['frames'] < 72 and 'breaks off' in record['raw']['broken']
    assert video.source is None

def test_large(tmp_path):
    write_video(tmp_path/'a.mp4', drawn_video(2, 2160, 3840, at=(.3, .5, .8)))
    record, video = made(tmp_path, tmp_path/'a.mp4')
    assert record['raw']['height'] == 2160 and read_picture(video.frames[0].files['image']).shape == (128,96,3)

def test_turned_by_a_telephone(tmp_path):
    upright = drawn_video(4)
    write_video(tmp_path/'flat.mp4', [np.rot90(f, 3).copy() for f in upright])
    data = bytearray((tmp_path/'flat.mp4').read_bytes())
    at = data.index(b'tkhd') + 44 # a display matrix
    for k,v in {0: 0, 4: -1, 12: 1, 16: 0}.items(): data[at+k:at+k+4] = int(v*2**16).to_bytes(4, 'big', signed=True)
    (tmp_path/'a.mp4').write_bytes(data)
    record, video = made(tmp_path, tmp_path/'a.mp4')
    assert (record['raw']['height'], record['raw']['width']) == (320, 240)
    assert check_source(video) == (320, 240)

def coded(path, frames, codec, pix):
    "Write a video in some coding"
    with av.open(str(path), 'w') as out:
        s = out.add_stream(codec, rate=25)
        s.height, s.width, s.pix_fmt = *frames[0].shape[:2], pix
        for f in frames:
            f = np.dstack([f, np.full(f.shape[:2], 255, np.uint8)]) if pix == 'rgba' else f
            f = av.VideoFrame.from_ndarray(f, format='rgba' if pix == 'rgba' else 'rgb24')
            for packet in s.encode(f.reformat(format=pix)): out.mux(packet)
        for packet in s.encode(None): out.mux(packet)
    return path

@pytest.mark.parametrize('codec,pix,end', [('libx264', 'yuv420p10le', 'mp4'), ('png', 'rgba', 'mov'),
                                           ('libvpx-vp9', 'yuv420p', 'webm')])
def test_other_codings(codec, pix, end, tmp_path):
    record, video = made(tmp_path, coded(tmp_path/f'a.{end}', drawn_video(4), codec, pix))
    assert record['frames'] == 4 and video.source.suffix == f'.{end}'

def test_photos_and_frames(tmp_path):
    "Photos are videos of one frame, a folder of pictures is one video"
    for k,f in enumerate(drawn_video(3)): write_png(tmp_path/'walk'/f'{k}.png', f)
    records = prepare([tmp_path/'walk', tmp_path/'walk'/'1.png', tmp_path/'walk'/'2.png'], tmp_path/'set', **drawn)
    assert {k: r['frames'] for k,r in records.items()} == {'walk-own': 3, '1-own': 1, '2-own': 1}
    assert not check_data(tmp_path/'set').errors()

def test_a_full_disk(raw, tmp_path, monkeypatch):
    "It stops all; what was done stays, and nothing half-made"
    write, made = dataset.write_annotations, []
    def full(*args):
        made.append(args)
        if len(made) > 6: raise OSError(errno.ENOSPC, 'No space left on device')
        write(*args)
    monkeypatch.setattr(dataset, 'write_annotations', full)
    with pytest.raises(OSError, match='No space left'): prepare([raw], tmp_path/'set', **drawn)
    monkeypatch.undo()
    assert ids(tmp_path/'set') == ['amy-g1'] and not list(tmp_path.glob('set/test/.*.part'))
    records = prepare([raw], tmp_path/'set', **drawn)
    assert [r['skipped'] for r in records.values()] == [True, False]

def test_what_others_have_put_there_stays(raw, tmp_path):
    place = tmp_path/'set'/'test'/'test_frames'/'amy-g1'
    write_png(place/'mine.png', photo)
    with pytest.raises(DataError, match='was not prepared'): prepare([raw], tmp_path/'set', **drawn)
    assert [p.name for p in place.iterdir()] == ['mine.png'] and 'bea-g2' in ids(tmp_path/'set')

def test_stopped_between_two_folders(raw, tmp_path, monkeypatch):
    "An unfinished video is known as such, and made anew"
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(Preparation, '_place_raw', stop)
    with pytest.raises(KeyboardInterrupt): prepare([raw/'amy-g1.mp4'], tmp_path/'set', **drawn)
    assert read_record(tmp_path/'set', 'test', 'amy-g1') == dict(whole=False)
    monkeypatch.undo()
    assert not prepare([raw/'amy-g1.mp4'], tmp_path/'set', **drawn)['amy-g1']['skipped']

# garments

def garment_of(tmp_path, picture, name='amy-g1.png', **save):
    write_video(tmp_path/'amy-g1.mp4', drawn_video(3))
    Image.fromarray(picture).save(tmp_path/name, **save)
    record = prepare([tmp_path/'amy-g1.mp4'], tmp_path/'set', [tmp_path/name], **drawn)['amy-g1']
    return record['garment'], read_picture(vvt_videos(tmp_path/'set', 'test')[0].cloth)

def test_a_garment_on_a_busy_ground(tmp_path):
    "A floor of planks: doubtful where they are alike, refused where nothing can be told from them"
    y,x = np.mgrid[:256,:192]
    def on_planks(much):
        planks = ((x//9*83 + y//31*57) % much + 190 - much)[...,None]*np.array([1.,.8,.6])
        return np.where((photo < 255).any(-1)[...,None], photo, planks).astype(np.uint8)
    said, _ = garment_of(tmp_path, on_planks(40))
    assert any('busy ground' in d for d in said['doubts'])
    with pytest.raises(DataError, match='no garment is seen in this photo; a busy ground'):
        garment_of(tmp_path, on_planks(130))

def test_a_garment_cut_out_with_transparency(tmp_path):
    on = (photo < 255).any(-1)
    red = np.where(on[...,None], photo, [200,0,0]).astype(np.uint8)
    said, picture = garment_of(tmp_path, np.dstack([red, on*np.uint8(255)]))
    assert said['way'] == 'transparency' and not said['doubts']
    assert (picture[:20] == 255).all() # not red

def test_a_garment_that_lies_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    said, picture = garment_of(tmp_path, np.rot90(photo).copy(), 'amy-g1.jpg', exif=exif, quality=95)
    rows, columns = (np.ptp(np.flatnonzero((picture < 240).any(-1).any(k))) for k in (1, 0))
    assert rows > .8*columns*.7/.85 and said['doubts'] == []

def test_a_garment_that_somebody_wears(tmp_path):
    said, picture = garment_of(tmp_path, drawn_video(1, seed=3)[0])
    assert said['way'] == 'parse' and 'wears it' in said['doubts'][0]
    assert (picture[0] == 255).all()

def test_two_photos_of_one_video(tmp_path):
    write_video(tmp_path/'amy-g1.mp4', drawn_video(3))
    for n in ('amy-g1_a.png', 'amy-g1_b.png'): write_png(tmp_path/n, photo)
    refused_with = dict(garment=[tmp_path/'amy-g1_a.png', tmp_path/'amy-g1_b.png'])
    with pytest.raises(DataError, match='2 photos could be its garment'):
        prepare([tmp_path/'amy-g1.mp4'], tmp_path/'set', **refused_with, **drawn)

# crops and memory

def test_someone_who_walks(tmp_path):
    "The crop follows, and its file says where"
    walking = drawn_video(18, 240, 640, at=(.5, .5, .95), walk=.3)
    record, video = made(tmp_path, coded(tmp_path/'a.mov', walking, 'png', 'rgb24'))
    assert record['crop']['follows']
    crops = np.loadtxt(tmp_path/'set'/'test'/'test_videos'/'a-own_crop.csv', delimiter=',', skiprows=1)
    assert len(crops) == 18 and (np.diff(crops[:,0]) >= 0).all() and crops[-1,0] > crops[0,0] + 40
    assert np.abs(np.diff(crops[:,2], 2)).max() < .01
    (x,y,scale), frame = crops[9], read_picture(video.frames[9].files['image'])
    cut = ResizeCrop((240,640), 128, 96, scale, at=(y, x)).picture(walking[9])
    assert video.source and np.abs(cut.astype(int) - frame).mean() < 4

def test_memory_does_not_grow_with_the_video(tmp_path):
    def peak(n):
        write_video(tmp_path/'a.mp4', drawn_video(6)*n)
        tracemalloc.start()
        try:
            made(tmp_path, tmp_path/'a.mp4')
            return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    peak(1) # drawn people are kept
    short, long = peak(3), peak(9)
    assert (long - short)/(6*6) < 320*240*3/4, (short, long) # far less than a frame for each frame

# several sets, and who is where

def test_a_set_that_grows(raw, tmp_path):
    "Who is in one part of a set stays there"
    prepare([raw], tmp_path/'set', test_fraction=.5, **drawn)
    before = {mode: ids(tmp_path/'set', mode) for mode in ('train', 'test')}
    for k,name in enumerate(('cleo-g1', 'dan-g1'), 2): write_video(raw/f'{name}.mp4', drawn_video(4, seed=k))
    jobs, _ = plan_jobs(tmp_path/'set', [raw], test_fraction=.5)
    now = {j.id: j.mode for j in jobs if j.id in ('amy-g1', 'bea-g2')}
    assert now == {i: mode for mode,some in before.items() for i in some}

# the light level

@pytest.fixture
def light_models():
    "Folder of the light level's files"
    folder = models_folder()
    names = 'blazepose', 'light-parse', 'bodypix'
    there = all((folder/f.name).is_file() for n in names for f in ANNOTATORS[n].files)
    if not there: pytest.skip(f'no files of the light level in {folder} (SHINEON_MODELS); drawn ones were tested')
    check_models(names)
    return str(folder)

def test_light_level(light_models, real, tmp_path):
    "Real people: found in all frames, and a data set that the checks find sound"
    source = next((real/'videos').glob('*upper1.mp4'))
    frames = [f for k,f in zip(range(12), read_video(source))]
    write_video(tmp_path/'a.mp4', frames)
    garment = sorted((real/'garments').iterdir())[:1]
    record = prepare([tmp_path/'a.mp4'], tmp_path/'set', garment, models=light_models)['a-own']
    assert record['frames'] == 12 and 'nobody found' not in record['doubts']
    assert not check_data(tmp_path/'set').errors()

# its pictures

def test_colours_of_flow():
    "They are torchvision's, which takes seconds to load, to the last bit"
    from torchvision.utils import flow_to_image
    flow = 10*torch.randn(3, 2, 64, 48, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(draw_flow(flow), flow_to_image(flow).permute(0, 2, 3, 1))
