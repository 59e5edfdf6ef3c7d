"The app: files of strangers, its server's token, a visitor's work from upload to result, nothing left behind"
import os, re, signal, subprocess, sys, time, urllib.error, urllib.parse, urllib.request, zlib
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import forks, numpy as np, pytest
from conftest import begun, repo
from shineon.cli.main import main
from shineon.core.media import video_info, write_png, write_video
from shineon.explore import uploads
from shineon.explore.app import DressApp
from shineon.explore.jobs import Child
from shineon.explore.uploads import Limits
from shineon.prepare.drawn import drawn_video

drawn = dict(pose='drawn-pose', parse='drawn-parse', densepose='drawn-densepose', gpu_ids='-1')

@contextmanager
def serving(folder, *args):
    "A server in a process of its own, with temporary files in a folder: address without and with its token, process"
    folder.mkdir(exist_ok=True)
    own = dict(TMPDIR=str(folder), PYTHONPATH=str(repo), OMP_NUM_THREADS='1', JUPYTER_RUNTIME_DIR=str(folder/'runtime'),
               IPYTHONDIR=str(folder/'ipython'))
    own |= forks.kernels_of_servers(folder)
    options = [w for k,v in drawn.items() for w in (f'--{k}', v)]
    words = ['app', '--port', '0', '--sample_frames', '2', *options, *args]
    server = begun(words, folder, os.environ | own | dict(PYTHONUNBUFFERED='1'), quiet=False)
    try:
        lines = iter(server.stdout.readline, '')
        address = next(found[0] for line in lines if (found := re.search(r'http://\S+', line)))
        yield address.partition('?')[0], address, server
    finally:
        server.terminate()
        try: server.wait(60)
        except subprocess.TimeoutExpired: server.kill()
        for stream in (server.stdout, server.stderr): stream.close()

def left(folder): return [p.name for p in folder.glob('shineon_app_*')]

def until(what, seconds=60):
    "Wait until something is so"
    end = time.monotonic() + seconds
    while not (so := what()) and time.monotonic() < end: time.sleep(.1)
    return so

# the server

class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args): return None

def ask(address, path, token='', method='GET', **headers):
    "Status and text of an answer"
    if token: headers['Authorization'] = f'token {token}'
    names = {k.replace('_', '-'): v for k,v in headers.items()}
    data = b'' if method == 'POST' else None
    request = urllib.request.Request(address + path, data, names, method=method)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=120) as answer:
            return answer.status, answer.read().decode() if answer.status == 200 else ''
    except urllib.error.HTTPError as e: return e.code, ''

socket = dict(Connection='Upgrade', Upgrade='websocket', Sec_WebSocket_Version='13',
              Sec_WebSocket_Key='dGhlIHNhbXBsZSBub25jZQ==')

def test_nobody_without_the_token(tmp_path):
    "Page, kernels and their channels ask for it; a visitor's folder goes with them, all of it with the server"
    with serving(tmp_path/'tmp', '--token', 'a-token-for-tests') as (address, whole, server):
        assert whole == f'{address}?token=a-token-for-tests' and address.startswith('http://127.0.0.1:')
        folder, = (tmp_path/'tmp').glob('shineon_app_*')
        assert ask(address, '')[0] in (302, 403) and ask(address, '', 'wrong')[0] in (302, 403)
        cookies = CookieJar()
        tab = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
        text = tab.open(whole, timeout=300).read().decode()
        kernel = re.search(r'"kernelId": ?"([\w-]+)"', text)[1]
        places = list((folder/'visitors').iterdir())
        assert len(places) == 1
        for path,method,how in ((f'api/kernels/{kernel}', 'GET', {}), (f'api/kernels/{kernel}', 'DELETE', {}),
                                (f'api/kernels/{kernel}/channels', 'GET', socket), ('voila/files/x.png', 'GET', {}),
                                (f'voila/api/shutdown/{kernel}', 'POST', {})):
            assert ask(address, path, method=method, **how)[0] in (302, 403), path
            assert ask(address, path, 'wrong', method, **how)[0] in (302, 403), path
        assert ask(address, f'api/kernels/{kernel}', 'a-token-for-tests')[0] == 200 # it is there
        assert ask(address, 'voila/files/x.png', 'a-token-for-tests')[0] == 403
        sent = {c.name: c.value.strip('"') for c in cookies if c.name == '_xsrf'} # as a tab that is closed does
        sent = urllib.parse.urlencode(sent).encode()
        assert tab.open(f'{address}voila/api/shutdown/{kernel}', sent, timeout=300).status == 204
        assert until(lambda: not list((folder/'visitors').iterdir()), 300)
        server.send_signal(signal.SIGINT)
        server.wait(60)
        assert left(tmp_path/'tmp') == []

def test_without_a_token_only_this_machine(tmp_path):
    "A page of elsewhere that is called by a name of its own gets nothing; SIGTERM leaves nothing"
    with serving(tmp_path/'tmp', '--token', 'none') as (address, whole, server):
        assert whole == address
        assert ask(address, 'api/kernels/x', Host='elsewhere.example')[0] in (403, 404)
        assert ask(address, '', Host='elsewhere.example')[0] == 403
        server.terminate()
        server.wait(60)
        assert left(tmp_path/'tmp') == []

@pytest.mark.parametrize('args, words', [
    (['--ip', '300.1.1.1'], 'cannot listen there'), (['--port', '-1'], 'port is -1'),
    (['--token', 'short'], 'less than 8'), (['--models', 'nowhere'], 'no such folder of models'),
    (['--frames', '0'], 'frames is 0'), (['--jobs', '0'], 'jobs is 0'),
    (['--sample_frames', '99'], 'sample_frames is 99'), (['--seconds', 'nan'], 'seconds is nan')])
def test_what_cannot_be_is_one_line(args, words, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    assert main(['app', *args]) == 2
    said = capfd.readouterr().err
    assert words in said and said.count('\n') == 1 and not list(tmp_path.iterdir())

def test_without_voila(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, 'voila', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert main(['app']) == 2
    assert "pip install 'voila" in capfd.readouterr().err

# files of a visitor

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "A video of a drawn person, a photo, and what is none"
    folder = tmp_path_factory.mktemp('files')
    write_video(folder/'walk.mp4', drawn_video(6, 192, 144, seed=1), 12)
    write_png(folder/'shirt.png', np.full((64,48,3), 200, np.uint8))
    walk, shirt = ((folder/n).read_bytes() for n in ('walk.mp4', 'shirt.png'))
    number = lambda n: n.to_bytes(4, 'big')
    chunk = lambda kind, data: number(len(data)) + kind + data + number(zlib.crc32(kind + data))
    size = chunk(b'IHDR', number(8000)*2 + bytes([8,0,0,0,0]))
    bomb = b'\x89PNG\r\n\x1a\n' + size + chunk(b'IDAT', zlib.compress(bytes(10**6))) + chunk(b'IEND', b'')
    return dict(walk=walk, shirt=shirt, text=b'Dear diary', half=walk[:len(walk)//2], bomb=bomb)

def plain(bar): return re.sub('<.*?>', '', bar.words.value)

def give(app, kind, name, data):
    "An upload, in the pieces that a page sends; what is said of it"
    upload = app.uploads[kind]
    upload._handle_custom_msg(dict(kind='begin', name=name, size=len(data)), [])
    for at in range(0, len(data), 2**20):
        upload._handle_custom_msg({'kind': 'piece', 'from': at}, [memoryview(data[at:at + 2**20])])
    assert app.readings[kind].wait(120)
    return plain(app.readings[kind])

@pytest.fixture
def visitor(tmp_path):
    "Pages with limits; afterwards nothing of them may be there"
    apps = []
    def come(user='', **limits):
        apps.append(DressApp(tmp_path/'app', user, Limits(**limits), sample_frames=2, **drawn))
        return apps[-1]
    yield come
    for a in apps: a.leave()
    assert list((tmp_path/'app'/'visitors').iterdir()) == []

@pytest.mark.parametrize('kind, what, name, limits, words', [
    ('video', 'text', 'diary.mp4', {}, 'this video is broken'), ('video', 'half', 'half.mp4', {}, 'half.mp4'),
    ('video', 'walk', 'long.mp4', dict(seconds=.3), '0.5 seconds, and 0.3 are the most here: long.mp4'),
    ('video', 'walk', 'many.mp4', dict(frames=5), '6 frames, and 5 are the most here: many.mp4'),
    ('video', 'walk', '../../large.mp4', dict(megapixels=.02), '144x192 pixels'),
    ('video', 'walk', 'heavy.mp4', dict(megabytes=.001), 'are the most here: heavy.mp4'),
    ('photo', 'bomb', 'bomb.png', {}, '8000x8000 pixels, 64 million, and 16 million are the most here: bomb.png'),
    ('photo', 'walk', '<i>walk</i>.jpg', {}, '&lt;i&gt;walk')])
def test_refused(kind, what, name, limits, words, visitor, files):
    "By contents and limits, in one line that names the file and no path of ours; nothing new to choose, no file left"
    app = visitor(**limits)
    n = len(app.people), len(app.garments)
    said = give(app, kind, name, files[what])
    assert words in said and str(app.place) not in said and '\n' not in said, said
    assert (len(app.people), len(app.garments)) == n
    assert not [p for p in app.place.rglob('*') if p.is_file() and p.name != '.lock']

def test_too_many(visitor, files):
    app = visitor(garments=1)
    assert give(app, 'photo', 'a.png', files['shirt']) == ''
    assert '1 photos are the most here' in give(app, 'photo', 'b.png', files['shirt'])
    app.forget.click()
    assert give(app, 'photo', 'c.png', files['shirt']) == '' and app.garments[-1].title == 'c'

@pytest.mark.parametrize('code, words', [('import os; os.abort()', 'broke down (SIGABRT)'),
                                         ('import time; time.sleep(1000)', 'took more than 0.5 seconds')])
def test_a_decoder_that_crashes_or_hangs(code, words, visitor, files, monkeypatch):
    "It is said, and the next file is read"
    app = visitor()
    broken = lambda *args, **kw: Child(code, patience=.5, what='reading this file')
    with monkeypatch.context() as m:
        m.setattr(uploads, 'Child', broken)
        assert words in give(app, 'photo', 'evil.png', files['shirt'])
    assert give(app, 'photo', 'good.png', files['shirt']) == ''

def test_without_the_networks(visitor, files, monkeypatch, tmp_path):
    "A video of one's own is refused before it comes; it is said what to do"
    monkeypatch.setenv('SHINEON_MODELS', str(tmp_path/'none'))
    app = visitor()
    app.options = {}
    said = give(app, 'video', 'walk.mp4', files['walk'])
    assert 'shineon app --models FOLDER' in said and not list(app.place.glob('incoming/*'))

# the whole way

def test_a_video_of_ones_own(visitor, files, tmp_path):
    "Uploaded, dressed, there to be taken home; while it is dressed the user's other tab waits"
    app, other = visitor('ann'), visitor('ann')
    assert give(app, 'video', 'walk.mp4', files['walk']) == ''
    app.button.click()
    assert until(lambda: list((tmp_path/'app'/'queue').glob('*-ann')))
    other.button.click()
    assert other.job.wait(60) and 'a video of yours is being dressed already' in plain(other.job)
    assert 'is being dressed' in give(app, 'photo', 'a.png', files['shirt'])
    assert app.job.wait(900) and plain(app.job) == ''
    cards, words = app.results.children
    result = cards.children[1].children[2]
    assert video_info(result.path)['frames'] == 6 and result.name == 'walk_letters.mp4'
    assert '6 frames of 144x192' in words.value and str(tmp_path) not in words.value
    assert not list((tmp_path/'app'/'queue').glob('*-ann'))

def test_who_leaves_ends_their_work(visitor, tmp_path):
    app = visitor('ben')
    app.button.click()
    assert until(lambda: app.child)
    app.leave()
    assert app.child.process.poll() is not None and not app.place.exists()
    assert not list((tmp_path/'app'/'queue').glob('*-ben'))
    assert Path(tmp_path/'app'/'samples').is_dir() # which all share
