"""The widgets' notebooks in JupyterLab, and the app, in a real browser: clicks, drags and keys do what they should.

Needs the package playwright and a system's Chromium (`apt-get install chromium`); skipped where they are not there.
$SHINEON_SCREENSHOTS names a folder where a picture of each notebook is left."""
import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import forks, pytest
from conftest import repo
from shineon.core.media import video_info
from test_app import serving, until

sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not chromium, reason='no Chromium: apt-get install chromium')]

flags = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()
settings = {'notebook-extension/tracker': dict(windowingMode='none'), # cells outside of the window are there, too
            'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a copy of the notebooks, without anything of the user's settings; its address"
    folder, port = tmp_path_factory.mktemp('lab'), free_port()
    shutil.copytree(repo/'nbs'/'explore', folder/'nbs'/'explore', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    shutil.copytree(repo/'nbs'/'images', folder/'nbs'/'images')
    for name,values in settings.items():
        file = folder/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    own = dict(JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces', JUPYTER_CONFIG_DIR='config',
               JUPYTER_RUNTIME_DIR='runtime', IPYTHONDIR='ipython')
    env = os.environ | {k: str(folder/v) for k,v in own.items()} | dict(PYTHONPATH=str(repo), OMP_NUM_THREADS='1')
    env |= forks.kernels_of_servers(folder)
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--ServerApp.port={port}',
               '--ServerApp.ip=127.0.0.1', f'--ServerApp.root_dir={folder}', '--IdentityProvider.token=a-token',
               '--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly']
    with open(folder/'log', 'w') as log:
        server = subprocess.Popen(command, env={k: v for k,v in env.items() if k != 'MPLBACKEND'}, cwd=folder,
                                  stdout=log, stderr=subprocess.STDOUT)
    address = f'http://127.0.0.1:{port}'
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({})) # whatever proxies other tests have set
    try:
        for _ in range(240):
            try: direct.open(f'{address}/api?token=a-token', timeout=5).close()
            except OSError: time.sleep(.5)
            else: break
        else: pytest.fail((folder/'log').read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()

@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=flags)
        yield b
        b.close()

done = '''() => { const cells = [...document.querySelectorAll('.jp-CodeCell')];
  return cells.length && cells.every(c => /\\[\\d+\\]/.test(c.querySelector('.jp-InputPrompt').textContent)) }'''

run_all = """async () => { const w = jupyterapp.shell.currentWidget;
  await w.context.ready; await w.sessionContext.ready; await w.sessionContext.session.kernel.info;
  return jupyterapp.commands.execute('notebook:run-all-cells') }"""

class Notebook:
    "A notebook that was opened and run in a browser"
    def __init__(self, browser, address, name):
        self.name, self.errors = name, []
        self.page = browser.new_page(viewport=dict(width=1400, height=1100))
        self.page.set_default_timeout(30_000)
        self.page.on('console', self.note)
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self.page.goto(f'{address}/lab/tree/nbs/explore/{name}.ipynb?token=a-token&reset')
        self.page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=120_000)
        self.page.wait_for_function('() => window.jupyterapp?.shell.currentWidget?.sessionContext', timeout=120_000)
        self.page.evaluate(run_all) # which waits for the kernel, and until all cells have been run
        self.page.wait_for_function(done, timeout=120_000)
        failed = self.page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        assert failed.count() == 0, failed.first.inner_text()

    def note(self, message): # an error that the page has written into its console
        url = message.location.get('url', '')
        if message.type == 'error': self.errors.append(f'{message.text} {url}')

    def slider(self, name): # its handle
        label = self.page.locator(f'.widget-label:text-is("{name}")')
        return self.page.locator('.widget-hslider', has=label).last.locator('.noUi-handle')

    def press(self, name, *keys): # on a slider
        handle = self.slider(name)
        handle.scroll_into_view_if_needed()
        handle.focus()
        for k in keys: handle.press(k)

    def button(self, name): return self.page.get_by_role('button', name=name, exact=True).last

    def look(self): # leave a screenshot, for eyes
        folder = os.environ.get('SHINEON_SCREENSHOTS')
        if folder: self.page.locator('.jp-OutputArea-output .jupyter-widgets').last.scroll_into_view_if_needed()
        if folder: self.page.screenshot(path=Path(folder)/f'{self.name}.png')

    def changes(self, what, do, seconds=60): # an element's picture, or text, is another one afterwards
        before, end = seen(what), time.monotonic() + seconds
        do()
        while seen(what) == before:
            assert time.monotonic() < end, f'{self.name}: nothing has changed'
            self.page.wait_for_timeout(50)
        return before

pixels = '''e => { if (e.tagName !== 'IMG') return e.outerHTML;
  if (!e.complete || !e.naturalWidth) return '';
  const c = document.createElement('canvas'); c.width = e.naturalWidth; c.height = e.naturalHeight;
  c.getContext('2d').drawImage(e, 0, 0); return c.toDataURL(); }'''

def seen(what):
    for _ in range(100):
        if text := what.evaluate(pixels): return text
        time.sleep(.05)
    pytest.fail('this picture is not drawn')

@pytest.fixture
def notebook(browser, lab):
    "Open a notebook and run it; afterwards nothing may have gone wrong in the page"
    opened = []
    def run(name):
        opened.append(Notebook(browser, lab, name))
        return opened[-1]
    yield run
    for n in opened:
        n.look()
        n.page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
        n.page.close()
        assert n.errors == [], n.errors

def drag(page, circle, right, down):
    "With the mouse, in pixels of the page"
    box = circle.bounding_box()
    x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
    page.mouse.move(x, y)
    page.mouse.down()
    for i in range(1, 6): page.mouse.move(x + right*i/5, y + down*i/5)
    page.mouse.up()

def test_attention_explorer(notebook):
    n = notebook('71_attention_explorer')
    names = 'where the pixel looks', 'where the second pixel looks'
    picture, beside = (n.page.get_by_alt_text(name, exact=True).last for name in names)
    picture.scroll_into_view_if_needed()
    n.button('one pixel only').click()
    n.button('beside').click()
    beside.wait_for(state='hidden')
    n.changes(picture, lambda: picture.click(position=dict(x=60, y=200)))
    n.changes(picture, lambda: n.press('opacity', 'ArrowRight'))
    picture.click(position=dict(x=200, y=150), modifiers=['Shift'])
    n.page.get_by_text('The two maps share').last.wait_for()
    n.changes(beside, lambda: beside.click(position=dict(x=30, y=150)))
    n.button('second').click() # now any click sets the second one
    n.changes(beside, lambda: picture.click(position=dict(x=150, y=60)))
    n.changes(picture, lambda: n.page.locator('.widget-play').last.locator('button').first.click()) # it plays

def test_data_browser(notebook):
    n = notebook('72_data_browser')
    picture = n.page.locator('img.widget-image').last
    for layer in ('parse', 'region', 'densepose'):
        box = n.page.locator('.widget-checkbox', has_text=layer).last.locator('input')
        n.changes(picture, lambda: box.set_checked(not box.is_checked()))
    n.changes(picture, lambda: n.press('frame', 'ArrowRight'))
    label = n.page.locator('.widget-label:text-is("video")')
    videos = n.page.locator('.widget-dropdown', has=label).last.locator('select')
    n.changes(picture, lambda: videos.select_option(index=1))
    n.page.get_by_text('nothing is wrong with this sample').last.wait_for()
    n.changes(picture, lambda: n.page.locator('.widget-play').last.locator('button').first.click()) # it plays

def test_warp_explorer(notebook):
    n = notebook('73_warp_explorer')
    svg = n.page.locator('svg[style*="touch-action"]').last
    garment = n.page.locator('div:has(> svg[style*="touch-action"]) > img').last
    worn = n.page.locator('img.widget-image').last
    svg.scroll_into_view_if_needed()
    before = seen(worn)
    n.changes(garment, lambda: drag(n.page, svg.locator('circle').nth(12), 40, -25))
    n.changes(worn, lambda: drag(n.page, svg.locator('circle').nth(6), -20, 30))
    assert seen(worn) != before
    other = 'ArrowLeft' if n.slider('frame').get_attribute('aria-valuenow') != '0.0' else 'ArrowRight'
    n.changes(worn, lambda: n.press('frame', other))
    n.changes(garment, lambda: n.button('straight').click())

def test_run_browser(notebook):
    n = notebook('74_run_browser')
    table = n.page.locator('.jp-OutputArea-output table', has=n.page.locator('th', has_text='valid_loss')).last
    n.changes(table, lambda: table.locator('th', has_text='valid_loss').click())
    first = table.locator('tr').nth(1).inner_text()
    n.changes(table, lambda: table.locator('th', has_text='valid_loss').click())
    assert table.locator('tr').nth(1).inner_text() != first
    table.locator('tr', has_text='fast').click()
    n.page.get_by_text('person_inputs').last.wait_for()

def test_dashboard(notebook):
    n = notebook('75_dashboard')
    charts = n.page.locator('.widget-html:has(svg) .widget-html-content').last
    picture = n.page.locator('img.widget-image').last
    n.changes(charts, lambda: n.press('smooth', 'ArrowLeft'))
    n.changes(picture, lambda: n.press('step', 'ArrowLeft'))

def test_tryon_browser(notebook):
    n = notebook('76_tryon_browser')
    picture = n.page.locator('img.widget-image').last
    n.changes(picture, lambda: n.press('source', *['ArrowLeft']*20))
    n.changes(picture, lambda: n.button('difference').click())
    n.changes(picture, lambda: n.press('frame', 'ArrowRight'))

# the app

@pytest.fixture(scope='module')
def app(tmp_path_factory):
    "A server of the page, with drawn videos of two frames; its address with the token, its folder"
    folder = tmp_path_factory.mktemp('app')/'tmp'
    with serving(folder) as (_, address, _): yield address, next(folder.glob('shineon_app_*'))

@pytest.fixture
def visit(browser, app):
    "Open the page in a browser of its own; afterwards nothing went wrong in it, and nothing of the visitor is left"
    context, errors = browser.new_context(viewport=dict(width=1100, height=1300)), []
    page = context.new_page()
    page.set_default_timeout(600_000)
    page.on('console', lambda m: errors.append(f'{m.text} {m.location.get("url", "")}') if m.type == 'error' else None)
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(app[0])
    page.wait_for_selector('.shineon-choice img')
    yield page
    if folder := os.environ.get('SHINEON_SCREENSHOTS'): page.screenshot(path=Path(folder)/'app.png', full_page=True)
    page.close(run_before_unload=True)
    assert until(lambda: not list((app[1]/'visitors').iterdir()), 300)
    context.close()
    assert errors == []

plays = """async v => { await v.play(); await new Promise(r => v.requestVideoFrameCallback(r));
  return [v.videoWidth, v.videoHeight] }"""

def test_app_dresses(visit, tmp_path):
    "A drawn person in a drawn garment: both videos play, the result can be taken home"
    visit.get_by_role('button', name='dots').click()
    visit.get_by_role('button', name='letters').click() # which was chosen
    visit.get_by_role('button', name='Dress', exact=True).click()
    visit.wait_for_selector('.shineon-download')
    videos = visit.locator('video')
    assert [videos.nth(i).evaluate(plays) for i in range(videos.count())] == [[360,480]]*2
    with visit.expect_download() as got: visit.locator('.shineon-download').click()
    got.value.save_as(tmp_path/'got.mp4')
    assert got.value.suggested_filename == 'Ada_dots.mp4' and video_info(tmp_path/'got.mp4')['frames'] == 2

def test_app_refuses(visit):
    "What is no video is refused in words; a photo is taken"
    video, photo = (visit.locator('.shineon-upload input').nth(i) for i in (0, 1))
    video.set_input_files(dict(name='diary.mp4', mimeType='video/mp4', buffer=b'Dear diary'))
    visit.get_by_text('this video is broken').wait_for()
    assert 'diary.mp4' in visit.get_by_text('this video is broken').inner_text()
    png = visit.locator('.shineon-choice').nth(1).locator('img').first.screenshot()
    photo.set_input_files(dict(name='shirt.png', mimeType='image/png', buffer=png))
    shirt = visit.locator('.shineon-choice button', has_text='shirt')
    shirt.wait_for()
    assert shirt.get_attribute('aria-pressed') == 'true'
