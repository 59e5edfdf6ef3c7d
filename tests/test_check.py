"Damage of many kinds, planted in sound sets: `shineon check` finds each, names the sample, and says nothing else"
import json, os, re, shutil, sys
from hashlib import sha256
from pathlib import Path

import numpy as np, pytest
from PIL import Image
from shineon.core.errors import DataError
from shineon.core.media import read_flo, write_flo
from shineon.data import check
from shineon.data.check import PROBLEMS, check_data
from shineon.data.formats import LABEL_SETS, PARSE
from shineon.data.layouts import vvt_videos
from shineon.cli.main import main
from shineon.models.files import save_model
from shineon.models.warp import WarpModule

@pytest.fixture(scope='module')
def vvt(tmp_path_factory):
    "A set of its own, as small as can be: each case copies it"
    from shineon.sample.dataset import make_sample
    sizes = dict(n_train=3, n_test=1, n_frames=3, height=128, width=64, n_truth=0)
    return make_sample(tmp_path_factory.mktemp('whole')/'vvt', **sizes, seed=1)

def shineon(*args): return main([str(a) for a in args])

def picture(path): return np.array(Image.open(path))

def save(path, pixels, form='PNG', **how): Image.fromarray(pixels).save(path, form, **how)

def cut(path): path.write_bytes(path.read_bytes()[:path.stat().st_size*3//5])

def change(path, of_pixels): save(path, of_pixels(picture(path)))

def joints(path, of_numbers):
    "Change the joints of a file, `(18 3)`"
    said = json.loads(path.read_text())
    numbers = np.array(said['people'][0]['pose_keypoints']).reshape(-1, 3)
    said['people'][0]['pose_keypoints'] = of_numbers(numbers).ravel().tolist()
    path.write_text(json.dumps(said))

def joint_far(a):
    a[4] = 1, 1, .9 # a wrist in the corner
    return a

def flow(path, of_flow): write_flo(path, of_flow(read_flo(path)))

def to_atr(labels):
    "Numbers of ATR for those of LIP"
    numbers = {n: i for i,n in reversed(list(enumerate(LABEL_SETS['atr'].labels)))}
    return np.array([numbers.get(n, 0) for n in PARSE], np.uint8)[labels]

def smeared(path): save(path, picture(path)*1, 'JPEG', quality=60)

def dangling(path):
    path.unlink()
    path.symlink_to('nowhere')

def folder(path):
    path.unlink()
    path.mkdir()

def noise(f): return np.random.default_rng(0).normal(0, 12, f.shape).astype(np.float32)

def half(a): return a[::2,::2]

def backwards(a): return a[...,::-1].copy()

def of_another(a): return (a + [0,200,0])*[.1,.1,1]

def elsewhere(a): return np.roll(a, a.shape[1]//2, 1)

# kind of file, what is done to that of frame 2 -> the problem
of_frames = {
    'picture cut short': ('image', cut, 'truncated'),
    'picture of zeros': ('image', lambda p: p.write_bytes(bytes(p.stat().st_size)), 'truncated'),
    'empty picture': ('image', lambda p: p.write_bytes(b''), 'truncated'),
    'picture of noise': ('image', lambda p: p.write_bytes(b'\x07'*999), 'unreadable'),
    'page in place of a picture': ('image', lambda p: p.write_text('<html>404</html>'), 'unreadable'),
    'transparent picture': ('image', lambda p: save(p, np.zeros((128,64,4), np.uint8)), 'wrong mode'),
    'picture of another time': ('image', dangling, 'missing'),
    'folder in place of a picture': ('image', folder, 'unreadable'),
    'no parse': ('parse', os.remove, 'missing'),
    'parse cut short': ('parse', cut, 'truncated'),
    'parse of half the size': ('parse', lambda p: change(p, half), 'wrong size'),
    'stretched parse': ('parse', lambda p: change(p, lambda a: a*12), 'wrong labels'),
    'parse as JPEG': ('parse', smeared, 'wrong labels'),
    'mask in place of a parse': ('parse', lambda p: change(p, lambda a: (a > 0)*np.uint8(255)), 'wrong labels'),
    'void in a parse': ('parse', lambda p: change(p, lambda a: np.where(a, a, np.uint8(255))), 'wrong labels'),
    'parse of ATR': ('parse', lambda p: change(p, to_atr), 'wrong labels'),
    'parse of 16 bits': ('parse', lambda p: save(p, picture(p).astype(np.uint16)), 'wrong mode'),
    'empty parse': ('parse', lambda p: change(p, np.zeros_like), 'nobody'),
    'parse of another person': ('parse', lambda p: change(p, elsewhere), 'different people'),
    'no DensePose': ('densepose', os.remove, 'missing'),
    'DensePose as OpenCV writes it': ('densepose', lambda p: change(p, backwards), 'wrong densepose'),
    'photo in place of DensePose': ('densepose', lambda p: change(p, lambda a: 255 - a), 'wrong densepose'),
    'DensePose of half the size': ('densepose', lambda p: change(p, half), 'wrong size'),
    'empty DensePose': ('densepose', lambda p: change(p, np.zeros_like), 'nobody'),
    'DensePose of another person': ('densepose', lambda p: change(p, elsewhere), 'different people'),
    'no joints': ('keypoints', os.remove, 'missing'),
    'joints cut short': ('keypoints', cut, 'truncated'),
    'joints that are no JSON': ('keypoints', lambda p: p.write_text('hello'), 'unreadable'),
    'joints of nobody': ('keypoints', lambda p: p.write_text('{"people": []}'), 'nobody'),
    'sixteen joints': ('keypoints', lambda p: joints(p, lambda a: a[:16]), 'wrong joints'),
    'joints of a larger picture': ('keypoints', lambda p: joints(p, lambda a: a*[4,4,1]), 'wrong joints'),
    'joints of another person': ('keypoints', lambda p: joints(p, of_another), 'different people'),
    'a joint far away': ('keypoints', lambda p: joints(p, joint_far), 'far joints'),
    'no flow': ('flow', os.remove, 'missing'),
    'flow cut short': ('flow', cut, 'truncated'),
    'flow of half the size': ('flow', lambda p: flow(p, half), 'wrong size'),
    'unknown flow': ('flow', lambda p: flow(p, lambda f: f*np.nan), 'wrong flow'),
    'flow of other frames': ('flow', lambda p: flow(p, noise), 'wrong flow')}

@pytest.mark.parametrize('kind, spoil, problem', of_frames.values(), ids=of_frames)
def test_damage_of_a_frame(broken, kind, spoil, problem):
    video = vvt_videos(broken)[1]
    frame = video.frames[2]
    spoil(frame.files[kind])
    report = check_data(broken, workers=1)
    found = {(f.problem, f.mode, f.video, f.frame) for f in report.findings}
    assert found == {(problem, 'train', video.id, frame.name)}
    assert Path(frame.name).stem in report.findings[0].what
    good = [v.id for v in vvt_videos(broken) + vvt_videos(broken, 'test')]
    if PROBLEMS[problem].error: good.remove(video.id)
    assert report.good() == good

def two_photos(video): save(video.cloth.with_suffix('.jpg'), picture(video.cloth), 'JPEG')

def two_frames(video): shutil.copy(video.frames[0].files['image'], video.frames[0].files['image'].with_suffix('.jpg'))

def no_frames(video):
    for f in video.frames: f.files['image'].unlink()

def forward(video):
    for f in video.frames[1:]: flow(f.files['flow'], lambda a: -a)

of_videos = {
    'no garment': (lambda v: v.cloth.unlink(), 'missing'),
    'garment cut short': (lambda v: cut(v.cloth), 'truncated'),
    'white garment': (lambda v: save(v.cloth, np.full_like(picture(v.cloth), 250)), 'doubtful mask'),
    'garment on grey': (lambda v: change(v.cloth, lambda a: np.minimum(a, 200)), 'doubtful mask'),
    'two photos of one name': (two_photos, 'two of one name'),
    'two frames of one name': (two_frames, 'two of one name'),
    'no frames': (no_frames, 'missing'),
    'flow the other way': (forward, 'wrong flow')}

@pytest.mark.parametrize('spoil, problem', of_videos.values(), ids=of_videos)
def test_damage_of_a_video(broken, spoil, problem):
    video = vvt_videos(broken)[1]
    spoil(video)
    found = {(f.problem, f.mode, f.video, f.frame) for f in check_data(broken, workers=1).findings}
    assert found == {(problem, 'train', video.id, '')}

@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "A drawn video, prepared: its raw video and a file of crops are in the set"
    from shineon.core.media import write_video
    from shineon.prepare.dataset import prepare
    from shineon.prepare.drawn import drawn_video
    folder = tmp_path_factory.mktemp('prepared')
    write_video(folder/'amy-g1.mp4', drawn_video(4))
    by = {k: f'drawn-{k}' for k in ('pose', 'parse', 'densepose')}
    prepare([folder/'amy-g1.mp4'], folder/'set', say=lambda *_: None, height=128, width=96, **by)
    return folder/'set'

def lines(path, of_lines): path.write_text('\n'.join(of_lines(path.read_text().splitlines())) + '\n')

def moved(line, by): # a line of crops: x, y, scale
    x, rest = line.split(',', 1)
    return f'{float(x) + by},{rest}'

of_crops = {
    'a line is missing': (lambda a: a[:-1], '3 crops, and its video 4 frames'),
    'a line too many': (lambda a: [*a, a[-1]], '5 crops, and its video 4 frames'),
    'no scale': (lambda a: [l.rpartition(',')[0] for l in a], 'no columns x,y,scale'),
    'no number': (lambda a: [*a[:-1], 'a,b,c'], 'crop'),
    'scale of 0': (lambda a: [*a[:-1], '0,0,0'], 'a scale outside'),
    'beside the raw video': (lambda a: [*a[:-1], moved(a[-1], 9999)], 'lies beside its frame'),
    'half out of the raw video': (lambda a: [*a[:-1], moved(a[-1], 60)], '1 crops, .*003.* reach out'),
    'first frame from elsewhere': (lambda a: [a[0], moved(a[1], -40), *a[2:]], 'shows something else|reach out')}

@pytest.mark.parametrize('spoil, words', of_crops.values(), ids=of_crops)
def test_crops_of_a_prepared_set(prepared, tmp_path, spoil, words):
    assert 'wrong crops' not in check_data(prepared, workers=1).counts()
    root = Path(shutil.copytree(prepared, tmp_path/'set', symlinks=True))
    lines(vvt_videos(root, 'test')[0].crops, spoil)
    found = [f for f in check_data(root, workers=1).findings if f.problem == 'wrong crops']
    assert len(found) == 1 and not found[0].error and found[0].video == 'amy-g1' and re.search(words, found[0].what)

def test_whole_set_is_silent(vvt, capsys):
    before = sorted((str(p), p.stat().st_mtime_ns) for p in vvt.rglob('*'))
    assert shineon('check', vvt) == 0
    said = capsys.readouterr()
    assert '4 of 4 samples are good; 0 errors, 0 warnings' in said.out and said.err == ''
    assert sorted((str(p), p.stat().st_mtime_ns) for p in vvt.rglob('*')) == before

def test_short_videos(vvt):
    report = check_data(vvt, n_frames_total=4, workers=1)
    assert report.counts() == {'short video': (4, 4)} and len(report.good()) == 4 # 3 frames each; a warning
    assert not check_data(vvt, n_frames_total=3, workers=1).findings

def test_twins(broken):
    train, test = vvt_videos(broken)[0], vvt_videos(broken, 'test')[0]
    shutil.copy(train.frames[1].files['image'], test.frames[2].files['image'])
    shutil.copy(train.cloth, test.cloth)
    found = {f.problem: f for f in check_data(broken, workers=1).findings if not f.error}
    assert found.keys() == {'twins', 'twin garments'}
    assert [found['twins'].video, found['twins'].frame] == [test.id, test.frames[2].name]
    assert train.id in found['twins'].what and train.frames[1].name in found['twins'].what

def test_form_of_a_set_is_no_damage(broken):
    "All DensePose pictures in another order: converted, as training does; but the one that is not"
    videos = vvt_videos(broken) + vvt_videos(broken, 'test')
    paths = [f.files['densepose'] for v in videos for f in v.frames]
    for p in paths[1:]: change(p, backwards)
    report = check_data(broken, workers=1)
    assert report.forms['train']['densepose'] == 'vui' and 'densepose as vui' in report.table()
    assert [(f.problem, f.frame) for f in report.findings] == [('wrong densepose', videos[0].frames[0].name)]

@pytest.fixture
def viton(vvt, tmp_path):
    "The videos' first frames in VITON's layout, with mask files"
    root = tmp_path/'viton'
    for mode in ('train', 'test'):
        for kind in ('image', 'image-parse', 'pose', 'cloth', 'cloth-mask'): (root/mode/kind).mkdir(parents=True)
        lines = []
        videos = vvt_videos(vvt, 'train') + vvt_videos(vvt, 'test')
        for i,v in enumerate(videos[:2] if mode == 'train' else videos[2:]):
            files, photo, n = v.frames[0].files, picture(v.cloth), f'{i + 10*(mode == "test"):06d}'
            shutil.copy(files['image'], root/mode/'image'/f'{n}_0.png')
            shutil.copy(files['parse'], root/mode/'image-parse'/f'{n}_0.png')
            shutil.copy(files['keypoints'], root/mode/'pose'/f'{n}_0_keypoints.json')
            save(root/mode/'cloth'/f'{n}_1.png', photo)
            save(root/mode/'cloth-mask'/f'{n}_1.png', (photo.min(-1) < 240)*np.uint8(255))
            lines.append(f'{n}_0.png {n}_1.png\n')
        (root/f'{mode}_pairs.txt').write_text(''.join(lines))
    return root

def other_order(root):
    lines = (root/'test_pairs.txt').read_text().split()
    (root/'test_pairs.txt').write_text(f'{lines[0]} {lines[3]}\n{lines[2]} {lines[1]}\n')

def all_of_atr(root):
    for p in (root/'train'/'image-parse').iterdir(): change(p, to_atr)

def renamed_twin(root):
    for kind,end in (('image', '.png'), ('image-parse', '.png'), ('pose', '_keypoints.json')):
        shutil.copy(root/'train'/kind/f'000001_0{end}', root/'test'/kind/f'000011_0{end}')

def add_line(root, mode, line):
    with open(root/f'{mode}_pairs.txt', 'a') as f: f.write(f'{line}\n')

def mask_in(mode, spoil): return lambda root: spoil(root/mode/'cloth-mask'/f'00000{1 + 9*(mode == "test")}_1.png')

def mask_of(spoil): return lambda root: spoil(root/'train'/'cloth-mask'/'000001_1.png')

of_viton = {
    'nothing': (lambda root: None, []),
    'unpaired list': (other_order, []),
    'inverted mask': (mask_of(lambda p: change(p, lambda a: 255 - a)), [('doubtful mask', 'train', '000001_0')]),
    'empty mask': (mask_of(lambda p: change(p, np.zeros_like)), [('doubtful mask', 'train', '000001_0')]),
    'full mask': (mask_of(lambda p: change(p, lambda a: a*0 + 255)), [('doubtful mask', 'train', '000001_0')]),
    'mask elsewhere': (mask_of(lambda p: change(p, elsewhere)), [('doubtful mask', 'train', '000001_0')]),
    'no mask, as others have': (mask_of(os.remove), [('doubtful mask', 'train', '000001_0')]),
    'mask of half the size': (mask_of(lambda p: change(p, half)), [('wrong size', 'train', '000001_0')]),
    'mask cut short': (mask_of(cut), [('truncated', 'train', '000001_0')]),
    'photo in place of a mask': (mask_of(lambda p: save(p, np.dstack([picture(p), 0*picture(p), picture(p)]))),
                                 [('wrong mode', 'train', '000001_0')]),
    'a list names a picture that is not there': (lambda root: add_line(root, 'train', '000077_0.png 000077_1.png'),
                                                 [('missing', 'train', '000077_0')]),
    'a list names a garment that is not there': (lambda root: add_line(root, 'test', '000010_0.png 000077_1.png'),
                                                 [('wrong list', 'test', '')]),
    'a line with three values': (lambda root: add_line(root, 'test', 'a b c'), [('no videos', 'test', '')]),
    'all parses of ATR': (all_of_atr, [('wrong labels', 'train', id) for id in ('', '000000_0', '000001_0')]),
    'a test picture of training': (renamed_twin, [('twins', 'test', '000011_0')])}

@pytest.mark.parametrize('spoil, expected', of_viton.values(), ids=of_viton)
def test_viton(viton, spoil, expected):
    spoil(viton)
    report = check_data(viton, workers=1)
    assert report.dataset == 'viton'
    assert {(f.problem, f.mode, f.video) for f in report.findings} == set(expected)

def test_garments_that_are_tried_on(viton):
    "A test list names a garment that nobody wears: it is looked at; their own may be missing"
    (viton/'test'/'cloth'/'000011_1.png').rename(viton/'test'/'cloth'/'000099_1.png')
    (viton/'test'/'cloth-mask'/'000011_1.png').rename(viton/'test'/'cloth-mask'/'000099_1.png')
    (viton/'test_pairs.txt').write_text('000010_0.png 000099_1.png\n000011_0.png 000010_1.png\n')
    assert check_data(viton, workers=1).counts() == {'no own garment': (1, 1)}
    cut(viton/'test'/'cloth'/'000099_1.png')
    found = [(f.problem, f.video) for f in check_data(viton, workers=1).findings]
    assert found == [('truncated', '000010_0'), ('no own garment', '000011_0')]

def ids(path): return path.read_text().split()

def test_unseen(viton, in_process, monkeypatch, tmp_path, capsys):
    "Test samples that are none of training, for try-on and evaluation"
    monkeypatch.chdir(tmp_path)
    check = 'check', viton, '--dataset', 'viton', '--workers', 1, '--unseen_list', 'unseen.txt'
    assert shineon(*check) == 0
    assert ids(tmp_path/'unseen.txt') == ['000010_0', '000011_0']
    renamed_twin(viton)
    assert shineon(*check, '--fix_list', 'good.txt') == 0 and 'warning  twins' in capsys.readouterr().out
    assert ids(tmp_path/'unseen.txt') == ['000010_0'] and '000011_0' in ids(tmp_path/'good.txt')
    tryon = ['tryon', '--name', 'unseen', '--dataset', 'viton', '--viton_dataroot', viton, '--out_fmt', 'png',
             '--checkpoint', 'warp.pt', '--gpu_ids', -1, '--workers', 0]
    save_model(tmp_path/'warp.pt', WarpModule(fine_height=128, fine_width=64, ngf=4))
    assert shineon(*tryon, '--data_list', 'unseen.txt') == 0
    made = {p.parent.name for p in (tmp_path/'test_results'/'unseen').glob('*/*.png')}
    assert made == {'000010_0'}
    assert shineon(*tryon, '--name', 'all') == 0 # results on the whole test part can be measured so, too
    measure = ['evaluate', 'test_results/all', '--name', 'some', '--truth', viton, '--workers', 0, '--metrics', 'l1']
    assert shineon(*measure, '--video_list', 'unseen.txt') == 0
    said = json.loads((tmp_path/'experiments'/'some'/'metrics.json').read_text())
    assert list(said['videos']) == ['000010_0/000010_1']
    assert said['problems'][0].startswith('1 results are not in unseen')
    assert said['protocol']['name'] == 'shineon with video_list unseen.txt'
    assert said['protocol']['video_list'] == dict(file='unseen.txt', ids=1, sha256=sha256(b'000010_0').hexdigest())
    for wrong in ('nowhere.txt', viton/'test_pairs.txt'):
        assert shineon(*measure, '--overwrite', '--video_list', wrong) == 2
        assert 'no list of ids' in capsys.readouterr().err
    cut(viton/'test'/'image'/'000010_0.png')
    assert shineon(*check) == 1 and ids(tmp_path/'unseen.txt') == []

def test_unseen_by_a_training_part_that_is_not_there(viton, tmp_path, capsys):
    shutil.rmtree(viton/'train')
    (viton/'train_pairs.txt').unlink()
    assert shineon('check', viton, '--dataset', 'viton', '--unseen_list', tmp_path/'unseen.txt') == 2
    said = capsys.readouterr()
    assert 'samples are good' in said.out
    assert 'no train part to compare with' in said.err and not (tmp_path/'unseen.txt').exists()

def test_command(broken, tmp_path, capsys):
    train = vvt_videos(broken)
    cut(train[0].frames[1].files['image'])
    train[0].frames[2].files['parse'].unlink()
    save(train[2].cloth, np.full_like(picture(train[2].cloth), 250))
    names = dict(json='report.json', sheet='sheet.png', fix_list='good.txt')
    out = {k: tmp_path/'out'/name for k,name in names.items()}
    options = [o for k,path in out.items() for o in (f'--{k}', path)]
    assert shineon('check', broken, '--workers', 1, *options) == 1
    said = capsys.readouterr()
    assert 'error    truncated' in said.out and 'warning  doubtful mask' in said.out
    assert said.err.count('\n') == 1 and '3 of 4 samples are good; 2 errors, 1 warnings' in said.err
    report = json.loads(out['json'].read_text())
    assert report['counts']['missing'] == dict(samples=1, times=1, error=True)
    assert {(f['problem'], f['video'], f['error']) for f in report['findings']} == {
        ('truncated', train[0].id, True), ('missing', train[0].id, True), ('doubtful mask', train[2].id, False)}
    good = [v.id for v in train[1:] + vvt_videos(broken, 'test')]
    assert out['fix_list'].read_text().split() == good
    assert Image.open(out['sheet']).size[1] > 2*256 # two samples have problems

refused = {
    'no such folder': (lambda root: [root/'nowhere'], 'no such folder'),
    'a file': (lambda root: [root/'sample.json'], 'no such folder'),
    'a folder of something else': (lambda root: [root/'train'], 'no layout has this folder'),
    'an unknown layout': (lambda root: [root, '--dataset', 'vvvt'], "dataset is 'vvvt'"),
    'another layout': (lambda root: [root, '--dataset', 'viton'], 'no pictures of this data set'),
    'no frames in a clip': (lambda root: [root, '--n_frames_total', 0], 'n_frames_total is 0'),
    'an unknown way to guess': (lambda root: [root, '--cloth_mask_way', 'magic'], 'magic'),
    'a place that cannot be written': (lambda root: [root, '--json', root/'sample.json'/'x'], 'cannot be written')}

@pytest.mark.parametrize('args, words', refused.values(), ids=refused)
def test_refused_in_one_line(vvt, capsys, args, words):
    assert shineon('check', *args(vvt)) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count('\n') == 1 and said.out == ''

def test_all_cores_find_the_same(broken, monkeypatch):
    cut(vvt_videos(broken)[0].frames[1].files['image'])
    cut(vvt_videos(broken, 'test')[0].frames[1].files['parse'])
    parts = check._parts
    monkeypatch.setattr(check, '_parts', lambda scope, videos: parts(scope, videos, files=1))
    alone, together = (check_data(broken, workers=n) for n in (1, 2))
    assert len(alone.findings) == 2 and alone.findings == together.findings and alone.files == together.files

def _killed(part): os._exit(9)

def test_a_killed_process_names_the_sample(vvt, monkeypatch):
    parts = check._parts
    monkeypatch.setattr(check, '_parts', lambda scope, videos: parts(scope, videos, files=1))
    monkeypatch.setattr(check, '_look_at', _killed)
    monkeypatch.setattr(sys.modules[__name__], '_killed', _killed)
    with pytest.raises(DataError, match=vvt_videos(vvt)[0].id): check_data(vvt, workers=2)

# what is wrong in the real ones, as their README says or as one sees: problem -> samples
real_sets = {
    'vvt': ('vvt', {'nobody': 1}), # joints by MediaPipe, which found nobody while a clip begins
    'vitonhd': ('vitonhd', {}),
    'layouts/viton_plus': ('viton', {'far joints': 1}),
    'layouts/vitonhd': ('vitonhd', {}),
    'layouts/vitonhd_demo2021': ('vitonhd', {'no own garment': 4}), # only garments to try on are there
    'layouts/dresscode': ('dresscode', {}),
    'layouts/mpv/as_read_by_shineon': ('mpv', {'no own garment': 5})}

@pytest.mark.parametrize('name', real_sets)
def test_real_sets(real, name):
    report = check_data(real/name, workers=1)
    dataset, expected = real_sets[name]
    assert report.dataset == dataset and not report.errors(), report.table()
    assert {k: samples for k,(samples,_) in report.counts().items()} == expected

def test_real_viton(real, tmp_path):
    "300 test samples: some masks are nearly empty or full, as the README says, and nothing else is wrong"
    (tmp_path/'test').symlink_to(real/'viton'/'test')
    shutil.copy(real/'viton'/'test_pairs.txt', tmp_path)
    report = check_data(tmp_path, workers=1)
    assert report.files == 1500 and not report.errors(), report.table()
    assert report.counts().keys() <= {'doubtful mask', 'far joints'}
    assert 0 < report.counts()['doubtful mask'][0] < .1*300

def test_odd_files_are_found(real, tmp_path):
    "Wrong files from the wild: broken joints, RGB parses, JPEG labels"
    odd = Path(real/'layouts'/'odd'/'cachecake')
    for kind in ('image', 'image-parse', 'pose'): (tmp_path/'train'/kind).mkdir(parents=True)
    shutil.copy(odd/'image'/'000010_0.jpg', tmp_path/'train'/'image')
    shutil.copy(odd/'image-parse'/'000010_0.jpg', tmp_path/'train'/'image-parse')
    shutil.copy(odd/'pose'/'000010_0_keypoints.json', tmp_path/'train'/'pose')
    found = {f.problem for f in check_data(tmp_path, 'viton', workers=1).findings}
    assert {'wrong labels', 'wrong joints'} & found and 'missing' in found # it has no garment
