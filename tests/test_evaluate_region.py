"Evaluation of the region alone: what was made is judged by itself, whatever was copied around it"
import json, shutil
from pathlib import Path

import pytest
import numpy as np, torch
from shineon.core.media import read_picture, write_png, write_video
from shineon.core.ops import to_tensor
from shineon.evaluate.measure import MethodFigures, evaluate, find_videos, method_means, read_frames
from shineon.evaluate.metrics import METRICS, Metric, in_region, ssim_map
from shineon.evaluate.page import best_and_worst, compare_report
from shineon.evaluate.protocols import find_metrics
from shineon.evaluate.tables import difference_rows, differences, read_result, table_rows

H, W, N = 64, 48, 8 # of a frame; frames
videos = 'amy', 'ben'
quiet = dict(log=lambda *_: None, workers=0)
of_pairs = 'ssim', 'ssim_region', 'psnr', 'psnr_region', 'l1', 'l1_region'
in_parts = tuple(f'{m}{part}' for m in ('warping_error', 'flicker') for part in ('', '_region', '_outside'))

def scene(k, t): # true frame t of video k, (h w 3) uint8: waves that stand still, and a disc that moves
    y,x = np.mgrid[:H,:W].astype(float)
    back = np.stack([90 + 60*np.sin(x/5+k), 120 + 50*np.cos(y/7), 100 + 40*np.sin((x+y)/9)], -1)
    disc = ((x - 14 - 2*t)**2 + (y - 30)**2 < 81)[...,None]
    return np.where(disc, [200, 60, 40], back).round().astype(np.uint8)

def box(t): # the region of frame t, (h w) of 0 and 1; it moves
    mask = np.zeros((H, W), np.uint8)
    mask[18:42, 3+2*t:25+2*t] = 1
    return mask

def grain(k, t): return np.random.default_rng(100*k + t).integers(0, 256, (H, W, 3), np.uint8)

methods = dict(
    perfect=scene,
    pasted=lambda k,t: np.where(box(t)[...,None], grain(k, t), scene(k, t)), # outside all is copied
    soft=lambda k,t: (scene(k, t)*.85).astype(np.uint8), # a little wrong everywhere
    inverse=lambda k,t: np.where(box(t)[...,None], scene(k, t), grain(k, t))) # perfect inside, wrong outside

def write(folder, frame, name='{v}/{t:03}.png'):
    for k,v in enumerate(videos):
        for t in range(N): write_png(folder/name.format(v=v, t=t), frame(k, t))

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "The truth, a folder of masks, and a folder a method, without masks of its own"
    out = tmp_path_factory.mktemp('region')
    write(out/'truth', scene)
    write(out/'masks', lambda k, t: box(t)*255)
    for name,frame in methods.items(): write(out/'made'/name, frame)
    return out

@pytest.fixture
def pasted(home, tmp_path):
    "A copy of one method's results with masks beside them, to damage"
    shutil.copytree(home/'made'/'pasted', tmp_path/'results')
    shutil.copytree(home/'masks', tmp_path/'results'/'regions')
    return tmp_path/'results'

@pytest.fixture(scope='module')
def measured(home): # every method on the same regions
    how = quiet | dict(regions=home/'masks')
    named = {n: evaluate(home/'made'/n, home/'truth', of_pairs + in_parts, **how) for n in methods}
    assert not any(r['not_computed'] for r in named.values())
    return named

# what the figures say

def test_copied_pixels_are_no_skill(measured):
    "Noise in a region of a sixth of the frame: good as a whole, hopeless in the region"
    s = measured['pasted']['summary']
    assert s['ssim'] > .7 and s['ssim_region'] < .25
    assert s['l1_region'] > 4*s['l1'] and s['psnr'] > s['psnr_region'] + 5

def test_region_by_hand(home, measured):
    "Frame by frame, from the files and NumPy alone"
    d = measured['pasted']['videos']['ben']
    for i,name in enumerate(d['names']):
        pictures = (read_picture(home/f/'ben'/f'{name}.png') for f in ('made/pasted', 'truth'))
        made, true = (pic.astype(float)/127.5 - 1 for pic in pictures)
        inside = read_picture(home/'masks'/'ben'/f'{name}.png', 'L') == 255
        error = (made - true)[inside] # (pixels 3)
        assert d['per_frame']['l1_region'][i] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        assert d['per_frame']['psnr_region'][i] == pytest.approx(10*np.log10(4/np.square(error).mean()), rel=1e-5)
        assert d['per_frame']['l1'][i] == pytest.approx(d['per_frame']['l1_region'][i]*inside.mean(), rel=1e-4)

def test_ssim_of_a_region_is_the_mean_of_its_map(home, measured):
    made, true = (to_tensor(read_picture(home/f/'amy'/'003.png')[None]) for f in ('made/pasted', 'truth'))
    around = ssim_map(made, true)[0].mean(0)[torch.from_numpy(box(3)) > 0]
    values = measured['pasted']['videos']['amy']['per_frame']['ssim_region']
    assert values[3] == pytest.approx(around.mean().item(), rel=1e-5)

def test_a_perfect_region(measured):
    "Whatever is outside: pixels are perfect, and SSIM minds no more than its window reaches in"
    s = measured['inverse']['summary']
    assert s['l1_region'] == 0 and s['psnr_region'] == 100 and s['l1'] > .3
    assert s['ssim_region'] > s['ssim'] + .4 and s['ssim_region'] < .99 # its rim sees what is wrong outside
    whole = measured['perfect']['summary']
    assert (whole['ssim'], whole['ssim_region']) == pytest.approx((1, 1), abs=1e-5)

def test_time_in_parts(measured):
    "Where all is copied, a video is as steady as its source, though the region moves"
    pasted, source = (measured[n]['summary'] for n in ('pasted', 'perfect'))
    for m in ('flicker', 'warping_error'):
        assert pasted[f'{m}_outside'] == pytest.approx(source[f'{m}_outside'], abs=1e-6)
        assert pasted[f'{m}_region'] > 3*pasted[m] > 3*source[m]
    inverse = measured['inverse']['summary']
    assert inverse['flicker_outside'] > .1 # grain that boils

def test_share_of_the_frame_is_noted(measured):
    for r in measured.values():
        assert r['protocol']['regions'] == dict(share=pytest.approx(24*22/(H*W), abs=1e-5), frames=N*len(videos))
        assert r['protocol']['pixels']['ssim'] == 'whole frame' and r['protocol']['pixels']['ssim_region'] == 'region'
        assert r['protocol']['pixels']['flicker_outside'] == 'outside'
        assert r['videos']['amy']['region']['share'] == pytest.approx(24*22/(H*W), abs=1e-5)

@pytest.mark.parametrize('batch_size,workers', [(1, 0), (3, 2), (64, 1)])
def test_batches_and_workers_do_not_matter(home, measured, batch_size, workers):
    how = quiet | dict(batch_size=batch_size, workers=workers)
    r = evaluate(home/'made'/'pasted', home/'truth', of_pairs + in_parts, regions=home/'masks', **how)
    assert r['summary'] == pytest.approx(measured['pasted']['summary'], rel=1e-4)
    assert r['videos']['amy']['region'] == measured['pasted']['videos']['amy']['region']

def test_figures_while_dressing(home, measured):
    "The meter of a try-on run says the same as the files"
    figures = MethodFigures(find_metrics(of_pairs + in_parts))
    def tensor(folder, t): return to_tensor(read_picture(home/folder/'amy'/f'{t:03}.png')[None])
    for t in range(N):
        region = torch.from_numpy(box(t)).float()[None,None]
        figures.add(dict(pasted=tensor('made/pasted', t)), tensor('truth', t), tensor('truth', t), region=region)
    means = method_means(figures.values)
    assert means['pasted'] == pytest.approx(measured['pasted']['videos']['amy']['mean'], rel=1e-4)
    assert means['truth'].keys() == means['their own video'].keys() == set(in_parts)
    assert means['pasted']['flicker_outside'] == means['truth']['flicker_outside']

def test_dressing_without_regions_is_as_before(home):
    figures = MethodFigures()
    for t in range(3):
        frame = to_tensor(scene(0, t)[None])
        figures.add(dict(same=frame), frame, frame)
    assert list(method_means(figures.values)['same']) == ['ssim', 'psnr', 'l1', 'warping_error', 'flicker']

# where regions are found, and where not

def test_regions_are_no_videos(home, pasted, measured):
    assert list(find_videos(pasted)) == list(videos)
    r = evaluate(pasted, home/'truth', of_pairs, **quiet)
    assert r['problems'] == [] and list(r['videos']) == list(videos)
    assert r['summary'] == {m: measured['pasted']['summary'][m] for m in of_pairs} # those beside the results

def test_regions_of_several_methods(home, tmp_path, measured):
    "One folder up, as a try-on with several methods leaves them; the record of the try-on names no `regions`"
    both = Path(shutil.copytree(home/'made', tmp_path/'both'))
    shutil.copytree(home/'masks', both/'regions')
    (both/'run.json').write_text(json.dumps(dict(run='run', try_ons=[[v, 'HAT'] for v in videos])))
    r = evaluate(both/'pasted', home/'truth', of_pairs, **quiet)
    assert r['summary'] == {m: measured['pasted']['summary'][m] for m in of_pairs}
    assert 'regions' not in {k.partition('/')[0] for k in find_videos(both)}

def test_a_named_folder_counts_more(home, pasted):
    write(pasted.parent/'all', lambda k, t: np.full((H, W), 255, np.uint8))
    r = evaluate(pasted, home/'truth', of_pairs, regions=pasted.parent/'all', **quiet)
    assert r['protocol']['regions']['share'] == 1
    for m in ('ssim', 'psnr', 'l1'): assert r['summary'][f'{m}_region'] == pytest.approx(r['summary'][m], rel=1e-5)

def test_a_run_may_be_called_regions(home, tmp_path):
    "Results beside the results of another run of this name"
    shutil.copytree(home/'made'/'soft', tmp_path/'regions')
    (tmp_path/'regions'/'run.json').write_text(json.dumps(dict(run='run', try_ons=[])))
    shutil.copytree(home/'made'/'pasted', tmp_path/'mine')
    r = evaluate(tmp_path/'mine', home/'truth', ['l1', 'l1_region'], **quiet)
    assert list(r['summary']) == ['l1'] and r['failed'] == {}

def test_garments_share_their_persons_regions(home, tmp_path, measured):
    "CLOTH.FOR.FRAME.png of two garments, and a mask a frame"
    for cloth in ('HAT.jpg', 'COAT.jpg'): write(tmp_path/'made', methods['pasted'], '{v}/' + cloth + '.FOR.{t:03}.png')
    for g in ('HAT', 'COAT'): write(tmp_path/'truth', scene, '{v}/' + g + '/{t:03}.png')
    r = evaluate(tmp_path/'made', tmp_path/'truth', ['l1_region'], regions=home/'masks', **quiet)
    assert list(r['videos']) == ['amy/COAT', 'amy/HAT', 'ben/COAT', 'ben/HAT']
    assert r['summary']['l1_region'] == pytest.approx(measured['pasted']['summary']['l1_region'], rel=1e-5)

@pytest.mark.parametrize('true_names', [True, False])
def test_results_in_video_files(home, tmp_path, true_names):
    "Frames have numbers: masks are called like the true frames, or are counted where these have no names either"
    for k,v in enumerate(videos):
        write_video(tmp_path/'made'/f'{v}.mp4', (methods['pasted'](k, t) for t in range(N)), 12)
        write_video(tmp_path/'truth'/f'{v}.mp4', (scene(k, t) for t in range(N)), 12)
    truth = home/'truth' if true_names else tmp_path/'truth'
    r = evaluate(tmp_path/'made', truth, ['l1', 'l1_region'], regions=home/'masks', **quiet)
    d = r['videos']['ben']
    assert d['region']['missing'] == [] and d['names'] == [f'{t:03}' if true_names else str(t) for t in range(N)]
    made, true = (list(read_frames(find_videos(f)['ben'], workers=0)) for f in (tmp_path/'made', truth))
    by_hand = [np.abs(made[t]/127.5 - true[t]/127.5)[box(t) > 0].mean() for t in range(N)]
    assert d['per_frame']['l1_region'] == pytest.approx(by_hand, rel=1e-4)

def test_no_regions_no_noise(home, measured):
    "The usual metrics hold those of the region: without one, there is one reason and nothing else is different"
    said = []
    r = evaluate(home/'made'/'pasted', home/'truth', download=False, workers=0, log=said.append, metric_weights=home)
    assert {m: why for m,why in r['not_computed'].items() if 'lpips' not in m} == dict.fromkeys(
        ['ssim_region', 'l1_region'], 'no regions beside the results; name their folder with --regions')
    assert not any('region' in line for line in said) and r['problems'] == []
    of_whole = 'ssim', 'psnr', 'l1', 'warping_error', 'flicker'
    assert r['summary'] == {m: measured['pasted']['summary'][m] for m in of_whole}
    assert 'regions' not in r['protocol'] and 'region' not in r['videos']['amy']

# masks that are missing, empty or of no use

def test_a_missing_mask_is_named(home, pasted, measured):
    (pasted/'regions'/'amy'/'003.png').unlink()
    shutil.rmtree(pasted/'regions'/'ben')
    r = evaluate(pasted, home/'truth', of_pairs + in_parts, **quiet)
    assert r['videos']['amy']['region']['missing'] == ['003']
    assert 'amy: 1 frames without a region: 003' in r['problems']
    assert any(p.startswith('ben: 8 frames without a region: 000, 001') for p in r['problems'])
    amy, whole = r['videos']['amy']['per_frame'], measured['pasted']['videos']['amy']['per_frame']
    assert [t for t in range(N) if amy['l1_region'][t] is None] == [3]
    assert [t for t in range(N) if amy['flicker_outside'][t] is None] == [0, 3, 4] # it takes two frames
    assert amy['l1'] == whole['l1'] and amy['flicker'] == whole['flicker']
    assert amy['l1_region'][:3] == whole['l1_region'][:3]
    assert set(r['videos']['ben']['per_frame']['ssim_region']) == {None}
    assert r['protocol']['regions']['frames'] == N - 1

def test_an_empty_region_has_no_figure(home, pasted):
    write(pasted/'regions', lambda k, t: np.zeros((H, W), np.uint8))
    r = evaluate(pasted, home/'truth', of_pairs + in_parts, **quiet)
    assert set(r['not_computed']) == {f'{m}_region' for m in ('ssim', 'psnr', 'l1', 'warping_error', 'flicker')}
    assert r['summary']['flicker_outside'] == r['summary']['flicker'] and r['protocol']['regions']['share'] == 0
    assert any('frames with an empty region' in p for p in r['problems'])

@pytest.mark.parametrize('mask,says', [
    (np.full((H//2, W//2), 255, np.uint8), 'this region is 24x32 and its frame is 48x64'),
    (np.full((H, W), 127, np.uint8), 'black or white'), (np.ones((H, W), np.uint8), 'black or white')])
def test_masks_that_are_refused(home, pasted, mask, says):
    "Of another size, of greys, of 0 and 1: the video is named, the others are measured"
    bad = pasted/'regions'/'ben'/'005.png'
    write_png(bad, mask)
    r = evaluate(pasted, home/'truth', of_pairs, **quiet)
    assert list(r['failed']) == ['ben'] and says in r['failed']['ben'] and str(bad) in r['failed']['ben']
    assert list(r['videos']) == ['amy'] and 'l1_region' in r['summary']
    only_whole = evaluate(pasted, home/'truth', ['l1'], **quiet)
    assert only_whole['failed'] == {} # nobody asked for it

def test_masks_of_resized_frames(home, tmp_path):
    "Results of half the size with masks of half the size: both are resized, the masks to 0 and 1"
    write(tmp_path/'half', lambda k, t: methods['pasted'](k, t)[::2,::2])
    write(tmp_path/'half'/'regions', lambda k, t: box(t)[::2,::2]*255)
    r = evaluate(tmp_path/'half', home/'truth', ['l1', 'l1_region'], **quiet)
    assert r['failed'] == {} and r['protocol']['resized_frames'] == N*len(videos)
    assert r['protocol']['regions']['share'] == pytest.approx(24*22/(H*W), rel=.1)
    assert r['summary']['l1_region'] > 2*r['summary']['l1']
    # masks of the true frames' size
    full = evaluate(tmp_path/'half', home/'truth', ['l1_region'], regions=home/'masks', **quiet)
    assert full['failed'] == {} and full['summary']['l1_region'] == pytest.approx(r['summary']['l1_region'], rel=.1)

# comparisons

def test_ranking_by_a_region(home, tmp_path, measured):
    "On the whole frame the one that copies wins, in the region the other one: tables, intervals, the page agree"
    named = {n: measured[n] for n in ('pasted', 'soft')}
    better = {d['metric']: d['better'] for d in differences(named)}
    assert better['l1'] == 'pasted' and better['l1_region'] == 'soft' and better['ssim_region'] == 'soft'
    assert better['flicker_outside'] != better['flicker_region'] == 'soft'
    head, *rows = table_rows(named, '[{}]')
    def best(title): return [row[0] for row in rows if row[head.index(title)][0] == '[']
    assert best('L1 ↓') == ['pasted'] and best('L1 (region) ↓') == ['soft']
    assert head.index('SSIM (region) ↑') == head.index('SSIM ↑') + 1
    assert 'flicker (outside)' in difference_rows(differences(named))[0]
    worst, finest = (v for *_,v in best_and_worst(named, 1, 'ssim_region'))
    assert worst < finest
    folders = {n: home/'made'/n for n in named}
    few = dict(n_videos=0, n_cases=1, log=lambda *_: None)
    text = compare_report(folders, home/'truth', named, tmp_path/'report', **few).read_text()
    best_value = f'<b>{named["soft"]["summary"]["l1_region"]:.4g}</b>'
    assert '<th>L1 (region) ↓</th>' in text and best_value in text
    assert '(region): pixels that were made, 17.2% of the frame' in text and 'regions of their own' not in text

def test_regions_of_their_own_are_said(home, tmp_path, measured):
    "Two methods, each with its own masks: their figures of the region answer two questions"
    soft = Path(shutil.copytree(home/'made'/'soft', tmp_path/'soft'))
    write(soft/'regions', lambda k, t: np.roll(box(t), 1, 0)*255)
    named = dict(pasted=measured['pasted'], soft=evaluate(soft, home/'truth', of_pairs + in_parts, **quiet))
    folders = dict(pasted=home/'made'/'pasted', soft=soft)
    few = dict(n_videos=0, n_cases=0, log=lambda *_: None)
    text = compare_report(folders, home/'truth', named, tmp_path/'report', **few).read_text()
    assert 'measured on regions of their own' in text

# the command line

def test_evaluate_command(home, tmp_path, in_process, capsys, monkeypatch, measured):
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    args = ['evaluate', str(home/'made'/'pasted'), '--truth', str(home/'truth'), '--name', 'e', '--gpu_ids', '-1',
            '--workers', '0', '--out', 'figures.json', '--metrics', 'ssim', 'ssim_region', 'l1_region']
    status, (out, err) = main([*args, '--regions', str(home/'masks')]), capsys.readouterr()
    assert status == 0, err
    assert '(region): pixels that were made, 17.2% of the frame' in out
    f = read_result(tmp_path/'figures.json')
    assert f['summary'] == {m: measured['pasted']['summary'][m] for m in ('ssim', 'ssim_region', 'l1_region')}
    assert f['protocol']['regions']['share'] == pytest.approx(.171875)
    assert f['protocol']['pixels']['l1_region'] == 'region'
    assert 'SSIM (region)' in (tmp_path/'experiments'/'e'/'tables'/'summary.md').read_text()
    before = (tmp_path/'experiments'/'e'/'metrics.json').read_bytes()
    assert main([*args, '--overwrite', '--regions', 'nowhere']) == 2
    err = capsys.readouterr().err
    assert 'no such folder' in err and len(err.splitlines()) == 1
    assert (tmp_path/'experiments'/'e'/'metrics.json').read_bytes() == before # refused before it is replaced

def test_compare_command(home, tmp_path, in_process, capsys, monkeypatch):
    from shineon.cli.main import main
    monkeypatch.chdir(tmp_path)
    both = [str(home/'made'/n) for n in ('pasted', 'soft')]
    args = ['compare', *both, '--truth', str(home/'truth'), '--regions', str(home/'masks'), '--name', 'c',
            '--metrics', 'l1', 'l1_region', '--n_videos', '0', '--n_cases', '1', '--gpu_ids', '-1', '--workers', '0']
    assert main(args) == 0, capsys.readouterr().err
    m = json.loads((tmp_path/'experiments'/'c'/'metrics.json').read_text())
    assert {d['metric']: d['better'] for d in m['differences']} == dict(l1='pasted', l1_region='soft')
    assert {n: r['share'] for n,r in m['regions'].items()} == dict.fromkeys(('pasted', 'soft'), pytest.approx(.171875))
    assert 'L1 (region)' in (tmp_path/'experiments'/'c'/'report'/'index.html').read_text()

# metrics from outside

def test_a_metric_of_ones_own_in_parts(home, monkeypatch):
    "A function that takes `region` is measured in the region by one call"
    monkeypatch.setattr(METRICS, '_entries', dict(METRICS._entries)) # it is forgotten after this test
    monkeypatch.setattr(METRICS, '_origins', dict(METRICS._origins))
    def largest(frames, truth, region=1): return ((frames - truth).abs()*region).amax((1,2,3))
    METRICS.add(Metric('largest', 'largest error', 'lower', largest))
    METRICS.add(in_region(METRICS['largest'], 'outside'))
    r = evaluate(home/'made'/'pasted', home/'truth', ['largest', 'largest_outside'], regions=home/'masks', **quiet)
    assert r['summary']['largest'] > 1 and r['summary']['largest_outside'] == 0

def test_whole_sets_have_no_region():
    assert {m.kind for m in METRICS.values() if m.part} == {'pairs', 'time'}
    assert not any(m.part for m in METRICS.values() if m.kind == 'sets')
