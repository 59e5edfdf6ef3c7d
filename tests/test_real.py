"Real clips: people, joints and flow as they come, with joints missing and edges rough"
from pathlib import Path

import numpy as np, pytest, torch
from shineon.data.clips import ClipReader, Clips
from shineon.data.labels import inputs_of
from shineon.data.layouts import check_videos, needed_files, read_tryon_list, split_videos, vvt_videos

@pytest.fixture(scope='module')
def videos(real): return vvt_videos(real/'vvt', 'train') + vvt_videos(real/'vvt', 'test')

@pytest.fixture(autouse=True)
def untouched(real):
    "Tests read that folder and leave it as it is"
    state = lambda: sorted((str(p), p.stat().st_mtime_ns) for p in real.rglob('*'))
    before = state()
    yield
    assert state() == before

def test_every_file_is_sound(videos):
    assert len(videos) == 3
    check_videos(videos, needed_files(inputs_of('person'), flow_warp=True), workers=2)

sizes = {'256x192': dict(), '128x96': dict(fine_height=128, fine_width=96, image_scale=.5)}
channels = dict(image=3, agnostic=4, cocopose=18, densepose=3, flow=2, cloth=3, cloth_mask=1, im_cloth=3,
                im_cloth_mask=1)

@pytest.mark.parametrize('options', sizes.values(), ids=sizes)
def test_all_inputs(videos, options):
    clips = Clips(videos, ClipReader(inputs_of('person'), ['cloth', 'cloth_mask'], **options), n_frames_total=2)
    assert len(clips) == sum(len(v.frames) for v in videos)
    h,w = options.get('fine_height', 256), options.get('fine_width', 192)
    seen = 0
    for i in range(0, len(clips), 3):
        clip = clips[i]
        for k,c in channels.items():
            assert clip[k].shape == (2,c,h,w) and clip[k].isfinite().all(), k
            if k != 'flow': assert -1 <= clip[k].min() and clip[k].max() <= 1, k
        seen += (clip['cocopose'][-1] > 0).flatten(1).any(1).sum().item()
        assert .02 < clip['cloth_mask'][-1].mean() < .98 and .02 < clip['im_cloth_mask'][-1].mean() < .9
    assert seen > 100 # joints are drawn

def person_of(video, frames):
    "Joints, silhouettes of parse and DensePose, and flow of some frames, from the files"
    from shineon.core.media import read_picture
    from shineon.data.frame_files import read_keypoints
    files = [video.frames[i].files for i in frames]
    joints = np.stack([read_keypoints(f['keypoints'], 256, 192) for f in files])
    parse = np.stack([read_picture(f['parse'], 'L') for f in files])
    dense = np.stack([read_picture(f['densepose']) for f in files])
    return joints, parse > 0, dense[...,0] > 0

def test_annotations_agree(videos):
    from shineon.data.represent import pose_maps
    on, found, overlap = 0, 0, []
    for v in videos:
        joints, parse, dense = person_of(v, range(0, len(v.frames), 4))
        maps = pose_maps(torch.from_numpy(joints), *parse.shape[1:], 5) > 0 # f 18 h w
        touch = (maps & torch.from_numpy(parse)[:,None]).flatten(2).any(2) # f 18: the joint's square touches the person
        drawn = maps.flatten(2).any(2)
        on, found = on + (touch & drawn).sum().item(), found + drawn.sum().item()
        overlap += ((parse & dense).sum((1,2)) / np.maximum(dense.sum((1,2)), 1)).tolist()
    assert found > 50 and on/found > .9
    assert np.median(overlap) > .9 # DensePose's body lies within the parsed person, who also has hair and clothes

def test_flow_leads_to_the_previous_frame(videos):
    from shineon.core.ops import resample
    better = []
    for v in videos:
        clips = Clips([v], ClipReader(['flow'], training=False), n_frames_total=2)
        for i in range(1, len(clips), 4):
            clip = clips[i]
            previous, now = clip['image']
            moved = resample(previous[None], clip['flow'][-1:])[0]
            better.append([(x - now).abs().mean().item() for x in (moved, previous)])
    warped, still = np.array(better).T
    assert warped.mean() < .8*still.mean() and (warped < still).mean() > .8

@pytest.fixture
def loaders(real):
    from shineon.data.loaders import clip_loaders
    def make(**kw):
        train, valid = split_videos(vvt_videos(real/'vvt', 'train'), .5)
        inputs = ['agnostic', 'cocopose', 'densepose', 'flow']
        reader = ClipReader(inputs, fine_height=128, fine_width=64, image_scale=.5)
        for v in train + valid: v.frames = v.frames[:4]
        return clip_loaders(train, valid, reader, batch_size=2, workers=0, limit_train_batches=2, limit_val_batches=1,
                            **kw)
    return make

def test_training_steps(loaders):
    from shineon.models.unetmask import UNetMask
    from shineon.models.warp import WarpModule
    from shineon.train.learner import fit_schedule, seed_everything, tryon_learner
    from shineon.train.losses import UNetMaskLoss, WarpLoss
    seed_everything(0)
    once = dict(keep_epochs=1, decay_epochs=0, val_check_interval=1.)
    warp = WarpModule(fine_height=128, fine_width=64, ngf=4)
    scores = fit_schedule(tryon_learner(loaders(), warp, WarpLoss(), **once))
    assert np.isfinite(list(scores.values())).all()
    unet = UNetMask(n_frames_total=2, ngf=4, flow_warp=True)
    learn = tryon_learner(loaders(n_frames_total=2), unet, UNetMaskLoss(wt_vgg=0), warp=warp, **once)
    assert np.isfinite(list(fit_schedule(learn).values())).all() and len(learn.recorder.losses) == 2

def test_tryon_list(real, tmp_path):
    from shineon.core.media import read_picture
    from shineon.core.ops import to_uint8
    from shineon.models.unetmask import UNetMask
    from shineon.models.warp import WarpModule
    from shineon.tryon.dress import dress, tryon_reader
    from shineon.tryon.results import save_result
    rows = [r.split(',') for r in (real/'tryon_list.csv').read_text().splitlines() if r.strip()]
    listed = tmp_path/'list.csv' # its paths start from one folder; here they start from wherever the clips are
    listed.write_text(''.join(f"{real/'garments'/Path(cloth).name},{video}\n" for cloth,video in rows))
    pairs = read_tryon_list(listed, vvt_videos(real/'vvt', 'test'))
    warp, unet = WarpModule(fine_height=128, fine_width=64, ngf=4).eval(), UNetMask(ngf=4).eval()
    reader = tryon_reader(warp, unet, fine_height=128, fine_width=64, image_scale=.5)
    for cloth,video in pairs:
        pictures = (to_uint8(f['result'][0,-1]) for f in dress(video, reader, unet, warp, cloth))
        files = save_result(pictures, tmp_path, video, cloth, ['png', 'mp4'], 25)
        names = {f'{cloth.name}.FOR.{f.name}' for f in video.frames}
        assert names <= {p.name for p in (tmp_path/video.id).iterdir()} and all(f.exists() for f in files)
        assert all(read_picture(tmp_path/video.id/n).shape == (128,64,3) for n in names)
