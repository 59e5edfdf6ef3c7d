"""Who finds the person: drawn videos with known answers, annotators from outside, folders, real models and clips"""
import subprocess, sys

import cv2, numpy as np, pytest
from PIL import Image
from shineon.core.errors import DataError, OptionError
from shineon.core.media import read_picture
from shineon.core.plugins import load_plugins
from shineon.data.frame_files import FILES, ResizeCrop, read_keypoints
from shineon.prepare.annotators import ANNOTATORS, annotators_of, check_models
from shineon.prepare.drawn import drawn_truth, drawn_video
from shineon.prepare.person import PersonAnnotator, changed_labels

drawn = dict(pose='drawn-pose', parse='drawn-parse', densepose='drawn-densepose')


def agree(a, b):
    "Intersection over union of two masks"
    return (a & b).sum()/max((a | b).sum(), 1)


# drawn videos: the answer is known

def test_annotations_of_drawn_people_are_true():
    frames = drawn_video(9, 320, 240, walk=.1)
    found = list(PersonAnnotator(**drawn).annotate(frames))
    assert len(found) == 9 and all(f.doubts == () for f in found)
    assert found[0].flow is None and found[1].flow.shape == (320, 240, 2)
    for f,frame in zip(found, frames):
        truth = drawn_truth(frame)
        assert (f.parse == truth['parse']).mean() > .98 and (f.iuv[...,0] == truth['iuv'][...,0]).mean() > .98
        both = (f.joints[:,2] > 0) & (truth['people'][0][:,2] > 0)
        assert np.median(np.abs(f.joints - truth['people'][0])[both,:2]) < 3


def test_results_have_the_size_that_is_asked_for():
    f, = PersonAnnotator(**drawn).annotate(drawn_video(1, 320, 240), size=(256,192))
    assert f.image.shape == (256,192,3) and f.parse.shape == f.person.shape == (256,192) and f.iuv.shape == (256,192,3)
    assert (f.parse == drawn_truth(f.image)['parse']).mean() > .97


def test_memory_is_bounded_and_order_kept():
    "Few frames are asked for before the first result comes"
    asked = []
    def frames():
        for i,f in enumerate(drawn_video(30, 128, 96)): asked.append(i); yield f
    results = PersonAnnotator(**drawn).annotate(frames())
    next(results)
    assert len(asked) < 12
    assert len(list(results)) == 29


def test_doubts_are_said():
    found = list(PersonAnnotator(**drawn).annotate(drawn_video(10, 160, 120, empty=(7,8,9))))
    assert [f.doubts for f in found[:6]] == [()]*6
    assert found[9].doubts == ('nobody found',) and found[9].joints.max() == 0


def test_one_of_several_people_is_followed():
    frames = drawn_video(6, 240, 480, others=2, at=(.5,.5,.8))
    mine = PersonAnnotator(**drawn).locate(frames)
    truth = [drawn_truth(f)['people'] for f in frames]
    for m,people in zip(mine, truth):
        assert m.others == 2
        assert np.hypot(*(m.joints[1] - people[0][1])[:2]) < 3 # the largest
        x0,y0,x1,y1 = m.box
        assert x0 < people[0][1,0] < x1 and y0 < people[0][1,1] < y1
    for number,who in ((1,2), (2,0), (3,1)): # from the left
        located = PersonAnnotator(**drawn, person=number).locate(frames)
        assert np.hypot(*(located[3].joints[1] - truth[3][who][1])[:2]) < 40, number
    with pytest.raises(OptionError, match='person is 4.*3 are seen'): PersonAnnotator(**drawn, person=4).locate(frames)


def test_nobody_and_somebody_who_leaves():
    nobody = PersonAnnotator(**drawn).locate(drawn_video(3, 160, 120, empty=(0,1,2)))
    assert [l.box for l in nobody] == [None]*3 and nobody[0].joints.max() == 0
    leaves = PersonAnnotator(**drawn).locate(drawn_video(6, 160, 120, empty=(4,5)))
    assert [l.box is None for l in leaves] == [False]*4 + [True]*2
    assert PersonAnnotator(**drawn).locate([]) == []


# from outside

plugin = '''
import numpy as np
from shineon.data.labels import LIP
from shineon.prepare.annotators import ANNOTATORS, Annotator

def load(models='', device='cpu', threads=1):
    return lambda pictures: [np.full(p.shape[:2], LIP['dress'], np.uint8) for p in pictures]

ANNOTATORS.add(Annotator('all-dress', 'parse', 'Everything is a dress', 'CC0', (), load))
'''


def test_an_annotator_from_outside(tmp_path):
    (tmp_path/'mine.py').write_text(plugin)
    load_plugins([str(tmp_path/'mine.py')])
    assert 'all-dress' in annotators_of('parse')
    annotator = PersonAnnotator(**drawn | dict(parse='all-dress'))
    assert annotator.made_by == dict(keypoints='drawn-pose', parse='all-dress', densepose='drawn-densepose')
    f, = annotator.annotate(drawn_video(1, 160, 120))
    assert (f.parse == 6).all()


def test_names_are_checked():
    with pytest.raises(OptionError, match="parse is 'blazepose'. Choose from"): PersonAnnotator(parse='blazepose')
    with pytest.raises(OptionError, match='no such folder'): PersonAnnotator(parse='no/such/folder')
    with pytest.raises(OptionError, match='smooth'): PersonAnnotator(smooth=0)


def test_missing_files_are_said_before_work_starts(tmp_path, monkeypatch):
    "Without a network: every file with its address, in one error"
    monkeypatch.setenv('SHINEON_MODELS', str(tmp_path/'cache'))
    monkeypatch.setattr('urllib.request.urlopen', lambda *a, **k: (_ for _ in ()).throw(OSError('no network')))
    with pytest.raises(DataError) as e: check_models(['blazepose', 'light-parse', 'schp'])
    for name in ('blazepose', 'light-parse', 'schp'):
        for file in ANNOTATORS[name].files: assert file.name in str(e.value) and file.url in str(e.value)
    assert '--models' in str(e.value)


def test_entries_know_their_files():
    for a in ANNOTATORS.values():
        assert a.about and a.licence and a.level in ('light', 'full', 'drawn')
        for f in a.files:
            assert f.name and f.megabytes and (not f.url or f.url.startswith('https://')) and len(f.sha256) in (0, 64)


def test_importing_the_registry_is_light():
    code = 'import sys; from shineon.prepare.annotators import annotators_of; print(annotators_of("parse"), '
    code += '[m for m in ' '("torchvision", "onnxruntime", "ai_edge_litert") if m in sys.modules])'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'light-parse' in r.stdout and r.stdout.strip().endswith('[]'), r.stdout + r.stderr


# folders

def test_a_folder_stands_for_an_annotator(tmp_path):
    "Its files belong to the raw frames, and are cropped as those were"
    frames = drawn_video(3, 320, 240)
    (tmp_path/'masks').mkdir()
    for i,f in enumerate(frames): Image.fromarray(drawn_truth(f)['parse']).save(tmp_path/'masks'/f'{i:03d}.png')
    crop = ResizeCrop((320,240), 128, 96, .6, at=(40,20))
    annotator = PersonAnnotator(**drawn | dict(parse=str(tmp_path/'masks')))
    assert annotator.made_by['parse'] == 'files of masks' and 'masks' not in annotator.names
    found = list(annotator.annotate([crop.picture(f) for f in frames], placements=[crop]*3))
    for f,frame in zip(found, frames): assert (f.parse == crop.labels(drawn_truth(frame)['parse'])).mean() > .98
    with pytest.raises(DataError, match='3 files for more frames'):
        list(annotator.annotate([crop.picture(f) for f in [*frames, frames[0]]], placements=[crop]*4))
    (tmp_path/'empty').mkdir()
    with pytest.raises(DataError, match='no parse file'): list(
        PersonAnnotator(**drawn | dict(parse=str(tmp_path/'empty'))).annotate(frames))


# the light level, where its files are

def test_light_level_on_drawn_people(models):
    "Small networks that have only seen photos: they still find drawn people, roughly"
    frames = drawn_video(6, 256, 192, seed=1, at=(.5,.5,.95))
    found = list(PersonAnnotator(models=models).annotate(frames))
    for f,frame in zip(found, frames):
        truth = drawn_truth(frame)
        both = (f.joints[:,2] > 0) & (truth['people'][0][:,2] > 0)
        assert both.sum() >= 8 and np.median(np.hypot(*(f.joints - truth['people'][0])[both,:2].T)) < .05*256
        assert f.parse.max() <= 20 and f.iuv[...,0].max() <= 24


def test_light_level_on_real_pictures(models, real):
    "Median distance from OpenPose's joints: at most 2 % of the height"
    annotator, apart = PersonAnnotator(models=models), []
    for folder in (real/'layouts'/'vitonhd'/'test', real/'vitonhd'/'test'):
        for path in sorted((folder/'openpose_json').glob('*.json')):
            picture = read_picture(folder/'image'/f'{path.stem.replace("_keypoints", "")}.jpg')
            h,w = picture.shape[:2]
            truth, f = read_keypoints(path, h, w), next(annotator.annotate([picture], size=(256,192)))
            ours = f.joints*[w/192, h/256, 1]
            both = (truth[:,2] > 0) & (ours[:,2] > 0)
            apart += (np.hypot(*(truth - ours)[both,:2].T)/h).tolist()
    assert len(apart) > 50 and np.median(apart) < .02


@pytest.mark.parametrize('mode,video,most', [('train','magic92u-a11',.04), ('test','magic92u-b11',.09)])
def test_light_level_on_real_clips(models, real, mode, video, most): # in the second one the person turns round
    "The person as the clips' DensePose has it; labels that hold still when the motion is taken out"
    root = real/'vvt'/mode
    frames = [read_picture(p) for p in sorted((root/f'{mode}_frames'/video).iterdir())]
    parts = [FILES['densepose'].read(p) for p in sorted((root/'densepose'/video).iterdir())]
    found = list(PersonAnnotator(models=models).annotate(frames))
    ious = [agree(f.iuv[...,0] > 0, (p if p.ndim == 2 else p[...,0]) > 0) for f,p in zip(found, parts)]
    changes = [changed_labels(b.parse, a.parse, b.flow) for a,b in zip(found, found[1:])]
    assert np.mean(ious) > .85 and np.mean(changes) < most


def test_a_fade_and_a_picture_without_anybody(models):
    "No error, but a doubt"
    frame = drawn_video(1, 256, 192, at=(.5,.5,.95))[0]
    white = np.full_like(frame, 255)
    faded = [cv2.addWeighted(frame, k/4, white, 1 - k/4, 0) for k in range(5)]
    found = list(PersonAnnotator(models=models).annotate([white]*3 + faded))
    assert len(found) == 8 and 'nobody found' in found[0].doubts and found[0].parse.max() == 0
    located = PersonAnnotator(models=models).locate([white])
    assert located[0].box is None
