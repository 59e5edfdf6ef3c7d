"""A raw video to a result at its own size: stored frames, a network's crop, the source frame, the file with sound"""
from fractions import Fraction

import av, numpy as np, pytest, torch
from PIL import Image
from shineon.core.media import frame_times, read_picture, read_video, video_info
from shineon.core.ops import to_tensor
from shineon.data.frame_files import FILES, read_keypoints
from shineon.data.framing import frame_person
from shineon.data.layouts import check_source, vvt_videos
from shineon.data.region import change_region
from shineon.data.represent import masked
from shineon.sample.dataset import make_sample
from shineon.tryon.full_size import full_size_frame, full_size_region, garment_canvas
from shineon.tryon.results import save_result

out, framing = (128, 96), dict(neck=[.5, .33], hips=[.5, .8])


def with_tone(path, frames, times, base):
    "A video with frames at given times, and a tone of 330 Hz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as file:
        video, sound = file.add_stream('libx264', rate=30), file.add_stream('aac', rate=44100, layout='mono')
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], 'yuv420p'
        video.codec_context.time_base = base
        for pic,t in zip(frames, times):
            f = av.VideoFrame.from_ndarray(pic, format='rgb24')
            f.pts, f.time_base = t, base
            file.mux(video.encode(f))
        file.mux(video.encode(None))
        n = round(44100*float((times[-1] + times[1])*base))
        tone = (9000*np.sin(2*np.pi*330*np.arange(n)/44100)).astype(np.int16)[None]
        f = av.AudioFrame.from_ndarray(tone, format='s16', layout='mono')
        f.sample_rate, f.pts = 44100, 0
        for packet in [*sound.encode(f), *sound.encode(None)]: file.mux(packet)


def sound_of(path):
    with av.open(str(path)) as file: return [bytes(p) for p in file.demux(audio=0) if p.size]


@pytest.fixture(scope='module')
def video(tmp_path_factory): # frames of 192x256, made from a raw video of 432x576
    root = make_sample(tmp_path_factory.mktemp('own_size')/'vvt', n_train=1, n_test=1, n_frames=5, n_truth=0)
    found, = vvt_videos(root, 'test')
    small = [Image.fromarray(read_picture(f.files['image'])) for f in found.frames]
    large = [np.array(p.resize((432,576), Image.BICUBIC)) for p in small]
    with_tone(root/'test'/'test_videos'/f'{found.id}.mp4', large, [0, 33, 90, 123, 200], Fraction(1, 1000))
    return vvt_videos(root, 'test')[0]


def placed(video): # of each frame: how it is placed, and what a network would give
    load = lambda i, kind, crop: FILES[kind].load(video.frames[i].files[kind], crop, '', video.frames[i].files)
    stored = read_picture(video.frames[0].files['image']).shape[:2]
    whole, _ = frame_person(np.zeros((len(video.frames),18,3)), stored, stored, None)
    joints = np.stack([load(i, 'keypoints', whole[i]) for i in range(len(video.frames))])
    crops, said = frame_person(joints, stored, out, framing)
    assert said == dict(frames=5, without=0, limited=0)
    for i,crop in enumerate(crops):
        image, joints = (FILES[k].stack(load(i, k, crop)[None]) for k in ('image','keypoints'))
        region = change_region(FILES['parse'].stack(load(i, 'parse', crop)[None]), joints)
        noise = torch.rand(1, 1, 3, *out)*2 - 1
        yield crop, dict(image=image[None], masked=masked(image, region)[None], result=noise, warped_cloth=noise,
                         mask=torch.rand(1, 1, 1, *out), grid=torch.rand(1, 1, *out, 2)*2 - 1)


def test_own_size(video, tmp_path):
    "Outside of the region the written frame is the source frame; size, times and sound are the source's"
    size = check_source(video)
    assert size == (576, 432)
    torch.manual_seed(0)
    frames = list(placed(video))
    canvas = garment_canvas(read_picture(video.cloth), [crop.on(size) for crop,_ in frames])
    sources, regions, results = list(read_video(video.source)), [], []
    for (crop,frame),source in zip(frames, sources):
        results.append(full_size_frame(source, crop.on(size), frame, canvas)[0])
        regions.append(full_size_region(frame, crop.on(size)) > 0)
    folder, mp4 = save_result(results, tmp_path, video, video.cloth, ['png', 'mp4'], source=video.source)
    written = [read_picture(p) for p in sorted(folder.glob('*.png'))]
    assert len(written) == len(sources) == 5
    for now,before,region in zip(written, sources, regions):
        assert .05 < region.mean() < .8
        assert (now[~region] == before[~region]).all() # pixel by pixel
        assert (now[region] != before[region]).mean() > .5
    assert frame_times(mp4) == frame_times(video.source)
    assert sound_of(mp4) == sound_of(video.source) != []
    assert {k: video_info(mp4)[k] for k in ('height','width','frames')} == dict(height=576, width=432, frames=5)
    for back,now,region in zip(read_video(mp4), written, regions):
        assert np.abs(back.astype(int) - now)[~region].mean() < 4 # what the encoder does


def test_flow_follows_the_crop(video):
    "Where the placement changes from frame to frame, flow still leads to the previous placed frame"
    from shineon.core.ops import resample
    stored = read_picture(video.frames[0].files['image']).shape[:2]
    joints = np.stack([read_keypoints(f.files['keypoints'], *stored) for f in video.frames])
    joints[...,:2] *= np.linspace(1, 1.15, 5)[:,None,None] # the joints drift, and the crop with them
    crops, _ = frame_person(joints, stored, (256,192), dict(neck=[.5,.3], hips=[.5,.6]))
    errors = []
    for i in range(1, 5):
        files, before = video.frames[i].files, video.frames[i-1].files
        now = to_tensor(crops[i].picture(read_picture(files['image'])))[None]
        past = to_tensor(crops[i-1].picture(read_picture(before['image'])))[None]
        flow = torch.from_numpy(FILES['flow'].load(files['flow'], crops[i])).movedim(-1, 0)[None]
        alone = crops[i].on(stored) # does not know the one before
        naive = torch.from_numpy(FILES['flow'].load(files['flow'], alone)).movedim(-1, 0)[None]
        errors.append([(resample(past, f) - now).abs().mean().item() for f in (flow, naive)])
    right, wrong = np.mean(errors, 0)
    assert right < .6*wrong, (right, wrong)
