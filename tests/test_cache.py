"The cache: equal to the sources, never stale, never half, one writer, and no run is lost by it"
import multiprocessing, os, pickle, signal, subprocess, sys, threading, time
from pathlib import Path

import numpy as np, pytest
from shineon.core.errors import DataError
from shineon.data.cache import Arrays, Recent, Shards, VideoCache, mapped, write_shards
from shineon.data.frame_files import FILES, FrameFile, ResizeCrop
from shineon.data.layouts import Video, vvt_videos

size, kinds = (128,64), ['image', 'parse', 'densepose', 'keypoints', 'flow', 'cloth']
crop = ResizeCrop(size, *size)

class Reader:
    "Reads videos through a cache, and counts the files that it opens itself"
    def __init__(self, folder, kinds=kinds, **options):
        self.kinds, self.opened = kinds, []
        self.cache = VideoCache(folder, kinds, **dict(dict(size=size, scale=1.), **options))

    def load(self, kind, path):
        self.opened.append(path)
        return FILES[kind].load(path, crop)

    def frame(self, video, i):
        files = video.frames[i].files
        of_frames = [k for k in self.kinds if FILES[k].of == 'person']
        return {k: self.load(k, files[k]) if k in files else FILES[k].first(*size) for k in of_frames}

    def frames(self, video): return (self.frame(video, i) for i in range(len(video.frames)))

    def garment(self, video): return dict(cloth=self.load('cloth', video.cloth))

    def sources(self, video, first, end):
        frames = [self.frame(video, i) for i in range(first, end)]
        stacks = {k: np.stack([f[k] for f in frames]) for k in frames[0]}
        return stacks | {k: a[None] for k,a in self.garment(video).items()}

    def __call__(self, video, first=0, end=4):
        self.opened.clear()
        found = self.cache(video, first, end, lambda: self.frames(video), lambda: self.garment(video))
        return self.sources(video, first, end) if found is None else found

def hits(folder, video, first=0, end=4, **how):
    "Is a clip read from the file alone? It must be equal to the sources in any case"
    reader = Reader(folder, **how)
    found = reader(video, first, end)
    n, wanted = len(reader.opened), reader.sources(video, first, end)
    assert set(found) == set(wanted)
    for k,a in found.items(): assert a.dtype == wanted[k].dtype and (a == wanted[k]).all(), k
    return n == 0

def files_of(folder): return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

@pytest.fixture
def video(broken): return vvt_videos(broken)[0]

@pytest.fixture
def folder(tmp_path): return tmp_path/'cache of Zoë 服'

# never stale

def again(path): os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1))

def longer(path): path.write_bytes(path.read_bytes() + b'\0') # at the same time
def longer_at_its_time(path):
    before = os.stat(path).st_mtime_ns
    longer(path)
    os.utime(path, ns=(before, before))

changes = {
    'a frame of another time': lambda v: again(v.frames[1].files['image']),
    'a frame of another size': lambda v: longer_at_its_time(v.frames[3].files['image']),
    'a parse': lambda v: again(v.frames[0].files['parse']),
    'joints': lambda v: again(v.frames[2].files['keypoints']),
    'the product photo': lambda v: again(v.cloth),
}

@pytest.mark.parametrize('change', changes.values(), ids=changes)
def test_a_source_that_changes_makes_the_file_anew(video, folder, change):
    assert not hits(folder, video) and hits(folder, video)
    change(video)
    assert not hits(folder, video) and hits(folder, video)
    assert len(files_of(folder)) == 1 # in the place of the old one

def test_a_file_that_the_reader_does_not_need_changes_nothing(video, folder):
    few = ['image', 'parse', 'cloth']
    assert not hits(folder, video, kinds=few)
    again(video.frames[1].files['flow'])
    assert hits(folder, video, kinds=few)

others = {
    'another working size': dict(size=(256,128)),
    'another scale': dict(scale=.5),
    'fewer kinds': dict(kinds=['image', 'cloth']),
    'an option that comes later': dict(fit='pad'),
}

@pytest.mark.parametrize('how', others.values(), ids=others)
def test_what_other_options_made_is_never_read(video, folder, how):
    assert not hits(folder, video)
    assert not hits(folder, video, **how) and hits(folder, video, **how)
    assert hits(folder, video) and len(files_of(folder)) == 2

def test_a_part_of_a_video_and_a_video_of_the_same_name_are_others(video, folder, vvt):
    assert not hits(folder, video)
    assert not hits(folder, Video(video.id, video.cloth, video.frames[1:]), end=3)
    assert not hits(folder, vvt_videos(vvt)[0]) # of another data set
    assert not hits(folder, Video(video.id, vvt_videos(vvt)[1].cloth, video.frames)) # in another garment
    assert len(files_of(folder)) == 4

def test_other_code_reads_nothing_of_before(video, folder, monkeypatch, tmp_path):
    def key(text):
        path = tmp_path/'reads_depth.py'
        path.write_text(text)
        names = {'__name__': 'reads_depth'}
        exec(text, names)
        monkeypatch.setitem(sys.modules, 'reads_depth', type(sys)('reads_depth'))
        sys.modules['reads_depth'].__file__ = str(path)
        monkeypatch.setitem(FILES._entries, 'depth', FrameFile('depth', names['read'], ResizeCrop.picture))
        return VideoCache(folder, ['image', 'depth']).file_of(video)[0]
    first = key('def read(path): return 1\n')
    assert key('def read(path): return 1\n') == first != key('def read(path): return 2\n')

# never half

def cut(n): return lambda path: path.write_bytes(path.read_bytes()[:n])

def overwrite(at, text):
    def change(path):
        data = bytearray(path.read_bytes())
        data[at:at+len(text) if at + len(text) else None] = text
        path.write_bytes(data)
    return change

damages = {
    'cut in half': cut(200_000), 'without its last byte': cut(-1), 'empty': cut(0), 'a byte': cut(1),
    'zeros': lambda p: p.write_bytes(bytes(p.stat().st_size)),
    'of another program': lambda p: p.write_bytes(b'\x89PNG'*999),
    'a changed pixel': overwrite(5, b'\x01\x02'), 'a changed header': overwrite(-90, b'7'),
    'a changed length': overwrite(-20, b'\xff'*8), 'a page of zeros': overwrite(40_960, bytes(4096)),
    'longer': lambda p: p.write_bytes(p.read_bytes() + b'\n'),
}

@pytest.mark.parametrize('damage', damages.values(), ids=damages)
def test_a_damaged_file_is_made_anew(video, folder, damage):
    assert not hits(folder, video)
    path, = folder.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    assert not hits(folder, video) and hits(folder, video)
    assert path.read_bytes() == whole and files_of(folder) == [path.name]

def test_a_writer_that_is_killed_leaves_nothing_that_counts(video, folder):
    def write():
        reader = Reader(folder)
        def frames():
            yield from list(reader.frames(video))[:2]
            os.kill(os.getpid(), signal.SIGKILL)
        reader.cache(video, 0, 4, frames, lambda: reader.garment(video))
    child = multiprocessing.get_context('fork').Process(target=write)
    child.start(); child.join(60)
    assert child.exitcode == -signal.SIGKILL
    left = files_of(folder)
    assert left and all(n.startswith('.') for n in left) # a part and its lock
    assert not hits(folder, video) and hits(folder, video)
    part, = folder.glob('.*.part.arrays')
    os.utime(part, (1,1)) # days later
    assert hits(folder, video) and not part.exists() and len(files_of(folder)) == 1

# one writer

def test_processes_side_by_side_make_one_file(video, folder):
    context = multiprocessing.get_context('fork')
    made = context.Value('i', 0)
    def work():
        reader, equal = Reader(folder), True
        def frames():
            with made.get_lock(): made.value += 1
            for i in range(4):
                time.sleep(.05)
                yield reader.frame(video, i)
        found, end = None, time.monotonic() + 60
        while found is None and time.monotonic() < end: # from the sources, until the file is there
            found = reader.cache(video, 1, 4, frames, lambda: reader.garment(video))
            wanted = reader.sources(video, 1, 4)
            equal &= found is None or all((found[k] == wanted[k]).all() for k in wanted)
        os._exit(0 if equal and found is not None else 1)
    children = [context.Process(target=work) for _ in range(4)]
    for c in children: c.start()
    for c in children: c.join(120)
    assert [c.exitcode for c in children] == [0]*4
    assert made.value == 1 and len(files_of(folder)) == 1 # no lock, no part

def test_a_file_that_another_process_has_just_made_is_not_made_again(video, folder):
    cache, none = Reader(folder).cache, (None, None) # the state of a file that is not there
    assert not hits(folder, video)
    def refuse(path): raise AssertionError('made again')
    assert cache._make(cache.file_of(video)[0], none, refuse)

# no run is lost by it

def warned(call):
    import warnings
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        call()
    return [str(w.message) for w in said]

def test_a_full_disk_is_one_warning(vvt, folder):
    code = '''
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_cache import *
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)) # no larger file can be written
reader, videos = Reader(Path(sys.argv[2])), vvt_videos(sys.argv[3])
def work():
    for v in videos*2: assert (reader(v)['image'] == reader.sources(v, 0, 4)['image']).all()
child = multiprocessing.get_context('fork').Process(target=work) # one of the workers
child.start(); child.join(60); assert child.exitcode == 0
work() # the main process, and the next epoch's workers
'''
    args = [sys.executable, '-c', code, Path(__file__).parent, folder, vvt]
    p = subprocess.run(args, capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    assert p.stderr.count('the cache is written no further: File too large') == 1, p.stderr
    assert str(folder) in p.stderr and 'choose another cache_dir' in p.stderr
    assert files_of(folder) == []

def test_a_folder_that_cannot_be_made_is_one_warning(vvt, tmp_path):
    (tmp_path/'file').touch()
    reader = Reader(tmp_path/'file'/'cache')
    said = warned(lambda: [reader(v) for v in vvt_videos(vvt)*2])
    assert len(said) == 1 and 'written no further' in said[0]

def test_a_write_protected_cache_is_read(video, folder, monkeypatch):
    hits(folder, video)
    def refuse(*a, **kw): raise AssertionError('written to')
    monkeypatch.setattr('shineon.data.cache.replacing', refuse)
    monkeypatch.setattr('shineon.data.cache.held', refuse)
    assert hits(folder, video)

def test_a_source_that_cannot_be_read_fails_where_it_is_read(video, folder):
    video.frames[3].files['image'].write_bytes(b'no picture')
    reader = Reader(folder)
    assert reader(video, 0, 3)['image'].shape == (3, *size, 3) # without that frame
    with pytest.raises(DataError, match=video.frames[3].name): reader(video, 1, 4)
    assert files_of(folder) == []

def test_a_process_that_is_spawned_gets_it(video, folder):
    hits(folder, video)
    cache = pickle.loads(pickle.dumps(Reader(folder).cache))
    assert cache(video, 0, 4, None, None) is not None
    cache._give_up(OSError(28, 'No space left')) # not shared: and no error

# product photos in memory

def test_recent_photos_from_several_threads():
    recent, wrong = Recent(most=400), []
    def make(path): return np.full(100, int(path.name), np.uint8)
    def work(seed):
        rng = np.random.default_rng(seed)
        for n in rng.integers(0, 8, 500).tolist():
            if (recent(Path(f'/nowhere/{n}'), make) != n).any(): wrong.append(n)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong and len(recent.arrays) <= 4 + 6

def test_a_photo_that_cannot_be_read_says_so_each_time(tmp_path):
    recent = Recent()
    for _ in range(2):
        with pytest.raises(DataError, match='gone.png'): recent(tmp_path/'gone.png', FILES['cloth'].read, 'cloth')
    assert not recent.arrays

# shards

def test_shards_need_no_sources(broken, tmp_path):
    import shutil
    videos, reader = vvt_videos(broken), Reader(tmp_path/'cache')
    make, options = lambda v: (reader.frames(v), reader.garment(v)), dict(size=list(size), scale=1., kinds=kinds)
    made = write_shards(tmp_path/'shards', videos, make, options, most=1)
    wanted = [reader.sources(v, 1, 3) for v in videos]
    assert [p.name for p in made] == ['00000.tar', '00001.tar', '00002.tar']
    shutil.rmtree(broken)
    shards = pickle.loads(pickle.dumps(Shards(tmp_path/'shards', kinds, size=size, scale=1.)))
    assert [v.id for v in shards.videos] == [v.id for v in videos]
    for v,w in zip(shards.videos, wanted):
        found = shards(v, 1, 3)
        assert set(found) == set(w) and all((found[k] == w[k]).all() for k in w)

def test_shards_are_made_whole_or_not_at_all(video, tmp_path):
    reader = Reader(tmp_path/'cache')
    make = lambda v: (reader.frames(v), reader.garment(v))
    write_shards(tmp_path/'shards', [video], make, dict(kinds=kinds))
    before = (tmp_path/'shards'/'00000.tar').read_bytes()
    video.frames[2].files['parse'].write_bytes(b'')
    with pytest.raises(DataError, match='label'): write_shards(tmp_path/'shards', [video]*2, make, dict(kinds=kinds))
    assert files_of(tmp_path/'shards') == ['00000.tar'] and (tmp_path/'shards'/'00000.tar').read_bytes() == before

def test_arrays_of_several_shapes_are_refused(tmp_path):
    from shineon.data.cache import write_arrays
    frames = [dict(a=np.zeros((2,2))), dict(a=np.zeros((2,3)))]
    with pytest.raises(DataError, match='those before it'): write_arrays(tmp_path/'x', 2, frames, {})
    with pytest.raises(DataError, match='not a whole file'): Arrays(mapped(tmp_path/'x'), tmp_path/'x')

# readers of clips

def read_clips(vvt, **how):
    from shineon.data.clips import ClipReader, Clips
    inputs = ['agnostic', 'cocopose', 'densepose', 'flow']
    reader = ClipReader(inputs, fine_height=128, fine_width=64, **how)
    return Clips(vvt_videos(vvt), reader, 3)

def equal(a, b): return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)

@pytest.fixture
def decoded(monkeypatch):
    "Names of the picture files that were decoded"
    from shineon.core import media
    names, decode = [], media._decode_fast
    def counted(data, mode):
        names.append(len(data))
        return decode(data, mode)
    monkeypatch.setattr(media, '_decode_fast', counted)
    return names

def test_clips_from_the_cache_equal_those_from_files(vvt, tmp_path, decoded):
    plain, cached = read_clips(vvt), read_clips(vvt, cache_dir=tmp_path)
    assert all(equal(plain[i], cached[i]) for i in range(len(plain)))
    decoded.clear()
    again = read_clips(vvt, cache_dir=tmp_path)
    clips = [again[i] for i in range(len(again))]
    assert not decoded and equal(clips[5], plain[5])

def test_a_product_photo_is_decoded_once_a_video(vvt, decoded):
    clips = read_clips(vvt)
    clips[0]; n = len(decoded); decoded.clear() # one frame: picture, parse, DensePose; photo
    clips[0]
    assert n == 4 and len(decoded) == 3
    photos = [os.stat(v.cloth).st_size for v in clips.videos]
    decoded.clear()
    for i in range(len(clips)): clips[i]
    assert sum(size in photos for size in decoded) == len(clips.videos) - 1

def test_another_garment_is_not_that_of_the_cache(vvt, tmp_path):
    plain, cached = read_clips(vvt), read_clips(vvt, cache_dir=tmp_path)
    a, b = plain.videos[:2]
    for _ in range(2): assert equal(plain.reader(a, 2, 2, cloth=b.cloth), cached.reader(a, 2, 2, cloth=b.cloth))

def test_clips_from_shards(vvt, tmp_path):
    from shineon.data.clips import Clips
    plain = read_clips(vvt)
    reader = plain.reader
    kinds = reader._kinds_of(plain.videos[0])
    make = lambda v: ((reader._frame(v, i, kinds) for i in range(len(v.frames))), reader._photos(v.cloth))
    all_kinds = list(dict.fromkeys([*reader.kinds, *reader.cloth_kinds]))
    how = dict(size=reader.size, scale=reader.scale)
    write_shards(tmp_path/'shards', plain.videos, make, dict(how, kinds=all_kinds))
    packed = read_clips(vvt).reader
    packed.cache = Shards(tmp_path/'shards', all_kinds, **how)
    clips = Clips(packed.cache.videos, packed, 3)
    assert all(equal(plain[i], clips[i]) for i in range(len(plain)))
