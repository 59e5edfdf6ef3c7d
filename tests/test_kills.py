"Runs that are killed, and disks that are full: nothing is lost"
import contextlib, json, os, random, resource, signal, subprocess, sys, time

import psutil, pytest
from shineon.models.files import read_checkpoint
from test_runs import equal, train, weights

command = [sys.executable, '-m', 'shineon.cli.main']
long_run = ['--keep_epochs', 20, '--decay_epochs', 20, '--batch_size', 2, '--val_check_interval', .5,
            '--save_count', 7, '--keep', 2]
small_options = dict(ngf=4, batch_size=4, workers=0, val_fraction=.34, val_check_interval=1., fine_height=128,
                     fine_width=64, gpu_ids='-1', keep_epochs=2, decay_epochs=1, display_count=1)

def finished(args, cwd, **kwargs):
    "Run a command to its end"
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs)

def kill(process):
    "Kill a process and all that it has started, also what has a session of its own"
    running = psutil.Process(process.pid)
    for p in (*running.children(recursive=True), running):
        with contextlib.suppress(psutil.NoSuchProcess): p.kill()

def going_on(name, vvt, tmp_path, kills, seed):
    """Kill a run at random moments, go on with it each time, and let it end.

    Returns the step of its checkpoint after each kill."""
    args = [*command, *train('warp', name, vvt, *long_run, '--checkpoint', 'last')]
    rng, steps = random.Random(seed), []
    last = tmp_path/'experiments'/name/'checkpoints'/'last.pt'
    nowhere = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(kills):
        begun = last.stat().st_mtime_ns if last.exists() else 0
        with subprocess.Popen(args, cwd=tmp_path, start_new_session=True, **nowhere) as p:
            while p.poll() is None and (not last.exists() or last.stat().st_mtime_ns == begun):
                time.sleep(.01) # until it trains
            time.sleep(rng.random()*.5)
            if p.poll() is not None: break # it came to its end
            kill(p)
        steps.append(read_checkpoint(last)['more']['step']) # whole
    r = finished(args, tmp_path)
    assert r.returncode == 0, r.stderr
    return steps

def check_kills(vvt, tmp_path, kills):
    r = finished([*command, *train('warp', 'whole', vvt, *long_run)], tmp_path)
    assert r.returncode == 0, r.stderr
    steps = going_on('killed', vvt, tmp_path, kills, 0)
    print('killed at steps', steps)
    assert len(steps) >= min(kills, 2) and steps == sorted(steps)
    folders = [tmp_path/'experiments'/n for n in ('whole', 'killed')]
    assert equal(*map(weights, folders))
    whole, killed = (json.loads((f/'metrics.json').read_text()) for f in folders)
    assert all(whole[k] == killed[k] for k in whole if k not in ('seconds', 'checkpoint'))

@pytest.mark.long
def test_killed_three_times(vvt, tmp_path): check_kills(vvt, tmp_path, 3)

@pytest.mark.long
def test_killed_twenty_times(vvt, tmp_path): check_kills(vvt, tmp_path, 20)

def test_full_disk(vvt, shineon_command, tmp_path):
    "A limit on the size of files stands for a full disk: the next checkpoint does not fit, the one before it is whole"
    args = train('warp', 'full', vvt, '--save_count', 1)
    r = shineon_command(*args, '--decay_epochs', '0', cwd=tmp_path)
    assert r.status == 0, r.err
    last = tmp_path/'experiments'/'full'/'checkpoints'/'last.pt'
    before, size = last.read_bytes(), last.stat().st_size
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size//2, size//2))
    args = [*args, '--checkpoint', 'last']
    r = finished([*command, *args], tmp_path, preexec_fn=limit)
    says = 'this checkpoint could not be written', 'Make room on the disk'
    assert r.returncode == 2 and all(t in r.stderr for t in says), r.stderr
    assert last.read_bytes() == before and not [f for f in last.parent.iterdir() if '.part' in f.name] # and no litter
    r = shineon_command(*args, cwd=tmp_path) # with room again
    assert r.status == 0, r.err

# killed at random moments, then the same command again: what is there is whole, and in the end all is as without kills

def contents(folder):
    "Bytes of every visible file in a folder"
    files = {p.relative_to(folder): p for p in sorted(folder.rglob('*')) if p.is_file()}
    return {str(n): p.read_bytes() for n,p in files.items() if not any(part.startswith('.') for part in n.parts)}

def kill_often(args, cwd, kills, whole, seconds, seed=0):
    """Begin a command and kill it, `kills` times within its first `seconds`; `whole` is called after each.

    Returns how often it was killed before it came to its end."""
    rng, killed, nowhere = random.Random(seed), 0, dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(kills):
        with subprocess.Popen([*command, *map(str, args)], cwd=cwd, start_new_session=True, **nowhere) as p:
            try: p.wait(rng.random()*seconds)
            except subprocess.TimeoutExpired: kill(p); killed += 1
        whole()
    return killed

def ended(args, cwd):
    r = finished([*command, *map(str, args)], cwd)
    assert r.returncode == 0, r.stderr
    return time.time()

def duration(args, cwd):
    begun = time.time()
    return ended(args, cwd) - begun

def check_sample(tmp_path, kills):
    args = 'sample', 'set', '--n_train', 3, '--n_test', 1, '--n_frames', 6
    reference, place = tmp_path/'reference', tmp_path/'killed'
    for d in (reference, place): d.mkdir()
    seconds = duration(args, reference)
    true = contents(reference)
    def whole(): assert contents(place) in ({}, true)
    assert kill_often(args, place, kills, whole, seconds)
    ended(args, place)
    assert contents(place) == true and os.listdir(place) == ['set'] # and no litter

def test_sample_killed(tmp_path): check_sample(tmp_path, 3)

@pytest.mark.long
def test_sample_killed_often(tmp_path): check_sample(tmp_path, 20)

@pytest.fixture
def dressing(vvt, warp_run, unet_run):
    last = lambda run: run/'checkpoints'/'last.pt'
    return ['tryon', '--name', 'dress', '--vvt_dataroot', vvt, '--checkpoint', last(unet_run), '--warp_checkpoint',
            last(warp_run), '--tryon_list', vvt/'tryon_list.csv', '--gpu_ids', '-1', '--resume',
            '--out_fmt', 'mp4', 'png']

def results_of(place): return {k: v for k,v in contents(place/'test_results').items() if k.endswith(('.mp4', '.png'))}

@pytest.mark.long
def test_tryon_killed_often(dressing, tmp_path):
    reference, place = tmp_path/'reference', tmp_path/'killed'
    for d in (reference, place): d.mkdir()
    seconds = duration(dressing, reference)
    true = {k: v for k,v in results_of(reference).items() if 'contact_sheet' not in k} # of what the last start dressed
    def whole():
        assert all(true[k] == v for k,v in results_of(place).items() if 'contact_sheet' not in k)
    assert kill_often(dressing, place, 20, whole, seconds) > 5
    ended(dressing, place)
    made = {k: v for k,v in results_of(place).items() if 'contact_sheet' not in k}
    assert made == true
    figures = [json.loads((d/'experiments'/'dress'/'metrics.json').read_text()) for d in (reference, place)]
    assert all(a == b for a,b in zip(*(map(f.get, ('table', 'try_ons', 'files', 'failed')) for f in figures)))

def overwriting(args, name, file, tmp_path, figures):
    "Kill a command that replaces an older run: the older figures stay until there are new ones"
    seconds = duration(args, tmp_path)
    true = figures(tmp_path/'experiments'/name/file)
    def whole():
        places = tmp_path/'experiments'/name/file, tmp_path/'experiments'/f'{name}.earlier'/file
        assert true in [figures(p) for p in places if p.exists()]
    assert kill_often([*args, '--overwrite'], tmp_path, 20, whole, seconds) > 5
    ended([*args, '--overwrite'], tmp_path)
    assert figures(tmp_path/'experiments'/name/file) == true
    assert not (tmp_path/'experiments'/f'{name}.earlier').exists()

def summary(path): return json.loads(path.read_text())['summary']

@pytest.mark.long
def test_evaluate_killed_often(dressing, vvt, tmp_path):
    ended(dressing, tmp_path)
    args = ['evaluate', 'test_results/dress', '--truth', vvt, '--name', 'figures', '--metrics', 'ssim', 'l1',
            '--gpu_ids', '-1']
    overwriting(args, 'figures', 'metrics.json', tmp_path, summary)
    shown = tmp_path/'experiments'/'figures'/'metrics.json'
    true = summary(shown)
    kill_often([*args, '--resume'], tmp_path, 20, lambda: None, 8)
    ended([*args, '--resume'], tmp_path)
    assert summary(shown) == true

@pytest.mark.long
def test_compare_killed_often(dressing, vvt, tmp_path):
    ended(dressing, tmp_path)
    args = ['compare', *['test_results/dress']*2, '--labels', 'a', 'b', '--truth', vvt, '--name', 'both',
            '--metrics', 'ssim', '--gpu_ids', '-1', '--report_dir', 'page']
    page = tmp_path/'page'/'index.html'
    overwriting(args, 'both', 'metrics.json', tmp_path, summary)
    assert page.read_text().endswith('</html>\n') and len(list((tmp_path/'page'/'videos').iterdir())) > 0

@pytest.mark.long
def test_export_killed_often(unet_run, tmp_path):
    args = 'export', unet_run/'checkpoints'/'last.pt', 'net.onnx'
    seconds = duration(args, tmp_path)
    true = (tmp_path/'net.onnx').read_bytes()
    (tmp_path/'net.onnx').unlink()
    def whole(): assert contents(tmp_path) in ({}, {'net.onnx': true})
    assert kill_often(args, tmp_path, 20, whole, seconds) > 5
    ended(args, tmp_path)
    assert (tmp_path/'net.onnx').read_bytes() == true

@pytest.mark.long
def test_sweep_killed_often(vvt, tmp_path):
    options = small_options | dict(vvt_dataroot=str(vvt), keep_epochs=60, val_check_interval=.5)
    grid = dict(model='warp', options=options, grid=dict(seed=[1, 2]))
    reference, place = tmp_path/'reference', tmp_path/'killed'
    for d in (reference, place):
        d.mkdir()
        (d/'two.yaml').write_text(json.dumps(grid))
    seconds = duration(['sweep', 'two.yaml'], reference)
    assert kill_often(['sweep', 'two.yaml'], place, 20, lambda: None, seconds/4) > 5
    ended(['sweep', 'two.yaml'], place)
    for n in ('two_seed=1', 'two_seed=2'):
        assert equal(*(weights(d/'experiments'/n) for d in (reference, place)))
