"Augmentation: what is refused, what stays as it was, the same for any number of workers, necks of real parses"
import numpy as np, pytest, torch
from shineon.core.errors import DataError, OptionError
from shineon.core.media import read_picture
from shineon.data.augment import Augment, Augmentation
from shineon.data.neck import neck, person_mask
from shineon.data.changes import Affine, mirror_picture
from shineon.data.frame_files import FILES, FrameFile, ResizeCrop
from shineon.data.labels import LIP
from shineon.data.layouts import vvt_videos

everything = dict(augment_mirror=.5, augment_scale=.3, augment_shift=.2, augment_rotate=20, augment_colour=.5,
                  augment_background=.5, augment_cut=.4)

# what is refused, before a run starts

refused = {
    'more than certain': (dict(augment_mirror=1.01), OptionError, 'augment_mirror is 1.01. Give a number from 0 to 1'),
    'less than never': (dict(augment_background=-.1), OptionError, 'augment_background is -0.1'),
    'no number': (dict(augment_shift=float('nan')), OptionError, 'augment_shift is nan. Give a number from 0 to 0.5'),
    'a frame of no size': (dict(augment_scale=1.), OptionError, 'augment_scale is 1.0'),
    'more than round': (dict(augment_rotate=360), OptionError, 'augment_rotate is 360. Give a number from 0 to 180'),
    'light that turns over': (dict(augment_colour=.6), OptionError, 'augment_colour is 0.6'),
    'no such folder': (dict(augment_background=1, background_dir='nowhere'), DataError, 'no pictures in background'),
    'no such folder, not needed': (dict(background_dir='nowhere'), DataError, 'nowhere'),
}

@pytest.mark.parametrize('options, error, message', refused.values(), ids=refused)
def test_options_that_cannot_work_are_refused(options, error, message):
    with pytest.raises(error) as e: Augment(**options)
    assert message in str(e.value) and '\n' not in str(e.value)

def test_a_broken_background_is_named(tmp_path):
    (tmp_path/'wall.jpg').write_bytes(b'\xff\xd8 no more')
    augment = Augment(augment_background=1, background_dir=str(tmp_path))
    frame = dict(image=np.zeros((1,32,24,3), np.uint8), parse=np.ones((1,32,24), np.uint8))
    with pytest.raises(DataError, match='wall.jpg'): augment(0, 0).apply(frame)

# a clip of the sample set

def read_clip(video, numbers, size=(128,64)):
    "Arrays of all kinds of file that the frames have; writing to them is an error"
    there = video.frames[numbers[0]].files
    crop, kinds = ResizeCrop(size, *size), [k for k in FILES.values() if k.name in there]
    arrays = {k.name: np.stack([k.load(video.frames[i].files[k.name], crop) for i in numbers]) for k in kinds}
    arrays['cloth'] = FILES['cloth'].load(video.cloth, crop)[None]
    for a in arrays.values(): a.flags.writeable = False
    return arrays

@pytest.fixture(scope='module')
def clip(vvt): return read_clip(vvt_videos(vvt)[0], [1,2,3])

def test_nothing_given_is_written_to_and_nothing_changes_its_form(clip):
    for i in range(20):
        changed = Augment(seed=i, **everything)(0, i).apply(clip)
        assert set(changed) == set(clip)
        for k,a in changed.items(): assert (a.shape, a.dtype) == (clip[k].shape, clip[k].dtype), k

def test_off_is_off(clip):
    same = Augment(seed=4)(2, 3).apply(clip)
    for k in clip: assert same[k] is clip[k]
    assert not Augment() and Augment(augment_shift=.1)

def test_the_garment_keeps_its_mask_whatever_the_light(clip):
    pale = np.random.default_rng(0).integers(200, 256, (1,64,48,3)).astype(np.uint8)
    for cloth in (clip['cloth'], pale):
        for i in range(200):
            change = Augment(augment_colour=.5)(0, i)
            lit = change.apply(dict(clip, cloth=cloth))['cloth']
            assert ((lit < 240).any(-1) == (cloth < 240).any(-1)).all()

def test_person_and_garment_get_the_same_light(clip):
    change = Augment(augment_colour=.5)(0, 1)
    one = np.full((1,128,64,3), (200,60,90), np.uint8)
    lit = change.apply(dict(clip, image=one, cloth=one, warped=one))
    assert (lit['image'] != one).any()
    assert (lit['image'] == lit['cloth']).all() and (lit['image'] == lit['warped']).all()

def test_another_background_leaves_the_person(clip):
    change = Augmentation(background='colour', seed=1)
    changed = change.apply(clip)
    for before, after, parse in zip(clip['image'], changed['image'], clip['parse']):
        inside = person_mask(before, parse) > .999
        assert inside.mean() > .05 and (before[inside] == after[inside]).all()
    outside = person_mask(clip['image'][-1], clip['parse'][-1], clip['densepose'][-1]) < .001
    assert np.ptp(changed['image'][-1][outside], axis=0).max() == 0 # one colour
    assert np.abs(changed['flow'][-1][outside]).max() == 0
    assert (changed['image'][0][outside] == changed['image'][-1][outside]).mean() > .9 # in all frames the same

def test_a_kind_of_file_of_ones_own_says_how_it_changes(clip, monkeypatch):
    def add(name='depth', **how): monkeypatch.setitem(FILES._entries, name, FrameFile(name, None, None, **how))
    arrays = dict(clip, depth=clip['image'][...,0])
    add(mirror=mirror_picture, move=Affine.picture)
    changed = Augmentation(mirror=True, scale=1.2).apply(arrays)
    moved = Affine((128,64), 1.2)
    assert (changed['depth'][1] == moved.picture(arrays['depth'][1][:,::-1])).all()
    add(mirror=mirror_picture, move=Affine.labels)
    labels = Augmentation(shift=(.2,0)).apply(arrays)['depth']
    assert (labels[:,:,:10] == 0).all()
    add(mirror=mirror_picture, move=Affine.picture, colour=lambda colours, a: 255 - a)
    lit = Augmentation(hue=.3).apply(arrays)['depth']
    assert (lit == 255 - arrays['depth']).all()
    add('fabric', of='cloth', mirror=mirror_picture) # of the garment nothing moves
    assert (Augmentation(scale=1.2).apply(dict(clip, fabric=clip['cloth']))['fabric'] == clip['cloth']).all()

silent = {'nothing': {}, 'no move': dict(mirror=mirror_picture), 'no mirror': dict(move=Affine.picture)}

@pytest.mark.parametrize('how', silent.values(), ids=silent)
def test_a_kind_that_does_not_say_how_it_changes_is_refused(clip, monkeypatch, how):
    "Also where a clip happens not to be mirrored or moved"
    monkeypatch.setitem(FILES._entries, 'depth', FrameFile('depth', None, None, **how))
    with pytest.raises(OptionError, match='of the kind depth do not say how they change. Give their entry'):
        Augmentation(hue=.1).apply(dict(clip, depth=clip['image'][...,0]))

def test_every_kind_of_this_package_says_how_it_changes():
    for kind in FILES.values(): assert kind.mirror and (kind.move or kind.of == 'cloth'), kind.name

def test_the_background_without_a_parse_is_refused(clip):
    with pytest.raises(OptionError, match='augment_background needs the parse'):
        Augmentation(background='noise').apply({k: clip[k] for k in ('image', 'densepose')})

def test_a_cut_without_the_parse_is_refused(clip):
    with pytest.raises(OptionError, match='augment_cut needs the parse'):
        Augmentation(cut='top').apply({k: clip[k] for k in ('image', 'densepose')})

def smeared(change, person):
    "Of the person that goes on beyond the frame, what a change would show: marked rows and columns beside the frame"
    h, w = person.shape[1:]
    far = np.pad(person, [(0,0), (h,h), (w,w)], mode='edge') & ~np.pad(person, [(0,0), (h,h), (w,w)])
    arrays = dict(image=np.zeros((len(person), h, w, 3), np.uint8), parse=person.view(np.uint8))
    moves = []
    def noted(affine, array): moves.append(affine); return affine.labels(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FILES._entries, 'parse', FrameFile('parse', None, None, mirror=mirror_picture, move=noted))
        change.apply(arrays)
    there = Affine((3*h,3*w)) # the same move, of a larger picture
    there.linear, there.offset = moves[-1].linear, moves[-1].offset + [w,h] - moves[-1].linear @ [w,h]
    return sum(there.labels(f.view(np.uint8))[h:2*h,w:2*w].sum() for f in far)

@pytest.mark.parametrize('side', ['bottom', 'left and bottom', 'all but the top'])
def test_nobody_is_drawn_out_into_stripes(side):
    person = np.zeros((1,128,96), bool)
    person[0,40:,30:60] = True
    if 'left' in side: person[0,70:90,:40] = True
    if 'all' in side: person[0,60:90] = True
    draws = Augment(augment_scale=.4, augment_shift=.3, augment_rotate=20)
    assert [i for i in range(40) if smeared(draws(0, i), person)] == []

# chance

class Drawn:
    "A data set that says what would happen to each clip"
    def __init__(self, augment, n): self.augment, self.n, self.epoch = augment, n, 0
    def __len__(self): return self.n
    def __getitem__(self, i):
        change = self.augment(self.epoch, i)
        values = torch.tensor([change.scale, change.rotate, *change.shift, change.hue])
        return dict(i=i, values=values, seed=change.seed)

def drawn(workers, bs=2, seed=3, epoch=0, skip=0):
    "Clip -> what happens to it, as a loader of so many workers gives it"
    from shineon.data.loaders import ClipDL
    import random
    random.seed(1)
    data = Drawn(Augment(seed=seed, **everything), 12)
    dl = ClipDL(data, bs=bs, shuffle=True, num_workers=workers)
    data.epoch, dl.skip = epoch, skip
    return {int(i): (*v.tolist(), int(s)) for b,_ in dl for i,v,s in zip(b['i'], b['values'], b['seed'])}

def test_the_same_for_any_number_of_workers_and_any_batch():
    alone = drawn(0)
    assert len(set(alone.values())) == 12
    assert drawn(1) == drawn(2) == drawn(3, bs=3) == alone
    assert drawn(2, epoch=1) == drawn(0, epoch=1) != alone
    assert drawn(0, seed=4) != alone
    rest = drawn(2, skip=4) # going on within an epoch
    assert len(rest) == 4 and all(alone[i] == v for i,v in rest.items())

@pytest.mark.parametrize('seed', [-1, 0, 2**40])
def test_any_seed_of_a_run_will_do(seed): assert Augment(seed=seed, **everything)(0, 0).scale != 1

# real parses

def without_neck(parse, number): return np.where(parse == number, 0, parse).astype(np.uint8)

def test_necks_that_a_real_parse_lacks_are_found(real):
    folder = real/'layouts'/'viton_plus'/'test'
    shares, more, size = [], 0, 0
    for path in sorted((folder/'image-parse-new').glob('*.png')):
        parse, image = read_picture(path, 'L'), read_picture(folder/'image'/f'{path.stem}.jpg')
        if (parse == 20).sum() < 100: continue
        cut = without_neck(parse, 20)
        shares.append(neck(image, cut)[parse == 20].mean())
        more, size = more + neck(image, parse).sum(), size + (parse == 20).sum()
    assert more < .1*size # a parse that has the neck lacks nothing
    assert len(shares) >= 3 and min(shares) > .8 and np.mean(shares) > .9, shares

def test_all_of_a_real_person_stays(real):
    folder = real/'viton'/'train'
    grown = []
    for path in sorted((folder/'image').glob('*.jpg'))[::250]:
        image, parse = read_picture(path), read_picture(folder/'image-parse'/f'{path.stem}.png', 'L')
        mask = person_mask(image, parse)
        assert mask[parse == LIP['upper-clothes']].min(initial=1) > .2
        grown.append((mask > .5).sum()/max((parse > 0).sum(), 1))
    assert 1 < np.mean(grown) < 1.15 and max(grown) < 1.4, grown # a neck, not the wall

# training

def loaders(vvt, workers, cache_dir='', augment=None):
    import random
    from shineon.data.clips import ClipReader
    from shineon.data.loaders import clip_loaders
    random.seed(5)
    reader = ClipReader(['agnostic', 'densepose', 'flow'], fine_height=128, fine_width=64, cache_dir=cache_dir)
    videos = vvt_videos(vvt)
    return clip_loaders(videos[:2], videos[2:], reader, 2, 2, workers, device='cpu', augment=augment)

def by_clip(dl): # (video, frame) -> its tensors
    clips = {}
    for b,_ in dl:
        for j,clip in enumerate(zip(b['video'], b['frame'])):
            clips[clip] = {k: v[j] for k,v in b.items() if isinstance(v, torch.Tensor)}
    return clips

def same(a, b): return set(a) == set(b) and all(torch.equal(a[c][k], b[c][k]) for c in a for k in a[c])

def test_training_sees_the_same_for_any_number_of_workers_with_and_without_cache(vvt, tmp_path):
    augment = Augment(seed=3, **everything)
    alone = loaders(vvt, 0, augment=augment)
    seen = by_clip(alone.train)
    assert not same(seen, by_clip(loaders(vvt, 0).train))
    assert same(seen, by_clip(loaders(vvt, 2, augment=augment).train))
    for _ in range(2): assert same(seen, by_clip(loaders(vvt, 2, tmp_path, augment).train))
    assert same(by_clip(alone.valid), by_clip(loaders(vvt, 0).valid)) # validation is as it was filmed

def test_each_epoch_has_its_own_also_after_a_stop(vvt):
    from fastai.callback.core import Callback
    from shineon.models.warp import WarpModule
    from shineon.train.learner import tryon_learner
    from shineon.train.losses import WarpLoss
    epochs = []
    class Note(Callback):
        def before_batch(self):
            if self.training: epochs.append((self.epoch, self.dls.train.dataset.epoch))
    dls = loaders(vvt, 0, augment=Augment(augment_shift=.1))
    model = WarpModule(person_inputs=['agnostic', 'densepose'], fine_height=128, fine_width=64, ngf=4)
    learn = tryon_learner(dls, model, WarpLoss(), keep_epochs=2, decay_epochs=0, cbs=[Note()])
    learn.first_epoch = 1 # as after a stop
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert epochs and all(a == b for a,b in epochs) and {a for a,_ in epochs} == {1, 2}

def test_arrays_of_one_channel_keep_it():
    "Masks are `(h w 1)`; OpenCV leaves such an axis out"
    turned = Affine((5, 4), 1.1, 10, (0, 0))
    for shape in ((5, 4), (5, 4, 1), (5, 4, 3)):
        array = np.zeros(shape, np.uint8)
        changed = mirror_picture(array, 4), turned.picture(array), turned.labels(array)
        assert {a.shape for a in changed} == {shape}
