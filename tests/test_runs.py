"Whole runs: the same weights again, try-on in all its ways, networks for several frames"
import json, os, signal
from pathlib import Path

import numpy as np, pytest, torch
from conftest import short, small
from shineon.cli.main import main
from shineon.core.media import read_picture
from shineon.models.files import read_checkpoint

def weights(folder): return read_checkpoint(folder/'checkpoints'/'last.pt')['state']

def equal(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def train(model, name, root, *more):
    return ['train', '--model', model, '--name', name, '--vvt_dataroot', str(root), *small, *short, *map(str, more)]

def test_same_seed_same_weights(warp_run, vvt, shineon_command, tmp_path):
    r = shineon_command(*train('warp', 'twin', vvt), cwd=tmp_path)
    assert r.status == 0, r.err
    assert equal(weights(warp_run), weights(tmp_path/'experiments'/'twin'))
    figures = [json.loads((f/'metrics.json').read_text()) for f in (warp_run, tmp_path/'experiments'/'twin')]
    assert figures[0]['valid_loss'] == figures[1]['valid_loss']

def test_workers_do_not_matter(warp_run, vvt, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(train('warp', 'workers', vvt, '--workers', 2)) == 0
    assert equal(weights(warp_run), weights(tmp_path/'experiments'/'workers'))
    frames = ['--n_frames_total', 2, '--flow_warp', '--self_attn', '--person_inputs', 'agnostic', 'flow', '--wt_vgg', 0]
    for n in (0, 2): # with the sample set's true warped garments
        assert main(train('unet', f'unet{n}', vvt, *frames, '--workers', n)) == 0
    assert equal(weights(tmp_path/'experiments'/'unet0'), weights(tmp_path/'experiments'/'unet2'))

def test_other_seed_other_weights(warp_run, vvt, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(train('warp', 'other', vvt, '--seed', 6)) == 0
    assert not equal(weights(warp_run), weights(tmp_path/'experiments'/'other'))

def test_beginning_with_a_network(unet_run, vvt, warped_dir, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    start = unet_run/'checkpoints'/'last.pt' # the network's options, such as self_attn and gelu, come from the file
    assert main(train('unet', 'on', vvt, '--weights', start, '--warp_cloth_dir', warped_dir, '--wt_vgg', 0,
                      '--lr', 1e-9, '--n_frames_total', 3, '--person_inputs', 'cocopose')) == 0
    on, before = weights(tmp_path/'experiments'/'on'), weights(unet_run)
    assert on.keys() == before.keys() and all(torch.allclose(on[k], before[k], atol=1e-6) for k in on)
    last = tmp_path/'experiments'/'on'/'checkpoints'/'last.pt'
    assert read_checkpoint(last)['config'] == read_checkpoint(start)['config']

@pytest.mark.parametrize('model', ['warp', 'unet'])
def test_going_on(model, warp_run, vvt, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    more = ['--save_count', 3, *(['--wt_vgg', 0] if model == 'unet' else [])]
    assert main(train(model, 'whole', vvt, *more)) == 0
    whole = tmp_path/'experiments'/'whole'
    middle = whole/'checkpoints'/'step_3.pt' # of the second epoch
    assert main(train(model, 'on', vvt, *more, '--checkpoint', middle)) == 0
    assert equal(weights(whole), weights(tmp_path/'experiments'/'on'))
    longer = '--checkpoint', 'last', '--decay_epochs', 2 # an epoch more, in the same folder
    assert main(train(model, 'whole', vvt, *more, *longer)) == 0
    assert json.loads((whole/'metrics.json').read_text())['steps'] == 6
    assert not equal(weights(whole), weights(tmp_path/'experiments'/'on'))

def test_one_step_to_try_everything_out(vvt, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(train('warp', 'fast', vvt, '--fast_dev_run', '--keep_epochs', 50)) == 0
    assert json.loads((tmp_path/'experiments'/'fast'/'metrics.json').read_text())['steps'] == 1

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_goes_on(number, vvt, begin, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = train('warp', 'stopped', vvt, '--keep_epochs', 300)
    with begin(*command, cwd=tmp_path) as p:
        assert any(line.startswith('epoch 3/') for line in p.stdout)
        os.kill(p.pid, number)
        _, err = p.communicate(timeout=60)
    assert p.returncode == 128 + number and f'stopped by {number.name} after step' in err
    assert err.endswith('Go on from there with --checkpoint last\n')
    folder = tmp_path/'experiments'/'stopped'
    step = read_checkpoint(folder/'checkpoints'/'last.pt')['more']['step']
    assert f'after step {step}:' in err and not (folder/'metrics.json').exists()
    to_the_end = '--keep_epochs', str((step + 1)//2), '--decay_epochs', '0' # of this epoch, of two steps
    assert main([*command, *to_the_end, '--checkpoint', 'last']) == 0
    assert json.loads((folder/'metrics.json').read_text())['steps'] == step + step % 2
    assert (folder/'train_warp.1.ipynb').exists() # that of the first start

def test_loss_that_is_no_number(vvt, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(train('warp', 'nan', vvt, '--lr', 1e30, '--save_count', 1)) == 2
    assert 'is no number at step 2' in (err := capsys.readouterr().err) and 'step_1.pt' in err and 'Lower lr' in err

def test_no_compiler(warp_run, vvt, shineon_command, tmp_path):
    "A run that cannot compile says so, and ends with the weights of one that never tried"
    r = shineon_command(*train('warp', 'compiled', vvt, '--compile'), cwd=tmp_path, CXX='no_such_compiler',
                        TORCHINDUCTOR_CACHE_DIR=str(tmp_path/'kernels'))
    assert r.status == 0, r.err
    assert r.err.count('not compiled: ') == 1 and 'The run goes on without' in r.err and 'blocks compiled' not in r.out
    assert equal(weights(warp_run), weights(tmp_path/'experiments'/'compiled'))

def test_bfloat16(vvt, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scores = []
    for precision in ('32', 'bf16'):
        assert main(train('warp', precision, vvt, '--precision', precision)) == 0
        scores.append(json.loads((tmp_path/'experiments'/precision/'metrics.json').read_text())['valid_loss'])
    assert scores[0] != scores[1] and scores[0] == pytest.approx(scores[1], rel=.05)

# try-on

def tryon(name, root, checkpoint, *more):
    return ['tryon', '--name', name, '--vvt_dataroot', str(root), '--checkpoint', str(checkpoint), '--workers', '0',
            '--gpu_ids', '-1', *map(str, more)]

def on_list(root, warp):
    "Options of a try-on list, with a warp"
    return '--warp_checkpoint', warp/'checkpoints'/'last.pt', '--tryon_list', root/'tryon_list.csv'

def check_results(folder, pairs, formats, fps=25., regions=True):
    "Every frame under its name, every video with its frames, and the region of each frame"
    from shineon.core.media import read_video, video_info
    for cloth,video in pairs:
        out, frames = folder/video.id, [f.name for f in video.frames]
        if 'png' in formats:
            for f in frames: assert read_picture(out/f'{cloth.name}.FOR.{f}').shape == (128,64,3)
        for fmt in set(formats) - {'png'}:
            file = out/f'{cloth.stem}.{fmt}'
            assert len(list(read_video(file))) == len(frames)
            assert (video_info(file)['height'], video_info(file)['width']) == (128,64)
            assert video_info(file)['fps'] == pytest.approx(fps, rel=.02)
    made = {p.name for p in folder.rglob('*') if p.is_file() and p.relative_to(folder).parts[0] != 'regions'}
    masks = {p.relative_to(folder/'regions').as_posix() for p in folder.glob('regions/**/*') if p.is_file()}
    assert masks == {f'{v.id}/{Path(f.name).stem}.png' for _,v in pairs for f in v.frames if regions}
    wanted = {'contact_sheet.png', 'contact_sheet.mp4', 'contact_sheet.gif', 'run.json'}
    wanted |= {f'{c.stem}.{o}' for c,_ in pairs for o in formats if o != 'png'}
    wanted |= {f'{c.name}.FOR.{f.name}' for c,v in pairs for f in v.frames if 'png' in formats}
    assert made == wanted # and nothing else, no temporary file either

@pytest.fixture(scope='session')
def list_run(vvt, workplace, warp_run, unet_run, shineon_command):
    "Folder of the results of a try-on list, with its pairs"
    from shineon.data.layouts import read_tryon_list, vvt_videos
    r = shineon_command(*tryon('list', vvt, unet_run/'checkpoints'/'last.pt', *on_list(vvt, warp_run),
                               '--out_fmt', 'png', 'mp4', 'gif', '--fps', 10), cwd=workplace)
    assert r.status == 0, r.err
    return workplace/'test_results'/'list', read_tryon_list(vvt/'tryon_list.csv', vvt_videos(vvt, 'test'), vvt)

def test_tryon_list(list_run, workplace):
    folder, pairs = list_run
    assert len(pairs) == 4 and all(c != v.cloth for c,v in pairs)
    check_results(folder, pairs, ['png','mp4','gif'], 10)
    metrics = json.loads((workplace/'experiments'/'list'/'metrics.json').read_text())
    assert (metrics['try_ons'], metrics['frames']) == (4, 16)
    measured = {'paste', 'UNetMask', 'untrained UNetMask', 'warp', 'untrained warp', 'their own video', 'truth'}
    assert set(metrics['table']) == measured # the sample set has true frames
    assert all((workplace/f).exists() for f in metrics['files'])
    assert (workplace/'experiments'/'list'/'tryon.ipynb').exists()

def test_tryon_again_gives_the_same_bytes(list_run, vvt, warp_run, unet_run, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    last = unet_run/'checkpoints'/'last.pt'
    assert main(tryon('again', vvt, last, *on_list(vvt, warp_run), '--out_fmt', 'png')) == 0
    first, again = list_run[0], tmp_path/'test_results'/'again'
    names = sorted(str(p.relative_to(again)) for p in again.rglob('*.png'))
    assert len(names) == 16 + 8 + 1 and all((first/n).read_bytes() == (again/n).read_bytes() for n in names)

def test_videos_side_by_side(list_run, vvt, workplace, warp_run, unet_run, in_process, monkeypatch, tmp_path):
    "The same pictures and figures as one after another, but for the rounding of a batch"
    monkeypatch.chdir(tmp_path)
    assert main(tryon('three', vvt, unet_run/'checkpoints'/'last.pt', *on_list(vvt, warp_run),
                      '--out_fmt', 'png', 'mp4', 'gif', '--fps', 10, '--side_by_side', 3)) == 0
    folder, pairs = list_run
    check_results(tmp_path/'test_results'/'three', pairs, ['png','mp4','gif'], 10)
    for f in [*folder.glob('*/*.png'), *folder.glob('regions/*/*.png')]:
        other = tmp_path/'test_results'/'three'/f.relative_to(folder)
        apart = np.abs(read_picture(f).astype(int) - read_picture(other))
        assert apart.max() <= 1 and apart.mean() < .01
    places = workplace/'experiments'/'list', tmp_path/'experiments'/'three'
    was, now = (json.loads((p/'metrics.json').read_text()) for p in places)
    assert now['try_ons'] == 4 and set(now['files']) == {f.replace('list', 'three') for f in was['files']}
    for method,figures in was['table'].items(): assert now['table'][method] == pytest.approx(figures, abs=2e-3)

def test_compared_networks_are_written(vvt, warp_run, unet_run, in_process, monkeypatch, tmp_path):
    "Frames of every method in a folder of its own, each as it would be alone, ready for `shineon evaluate`"
    from shineon.evaluate.measure import evaluate
    monkeypatch.chdir(tmp_path)
    last, best = (unet_run/'checkpoints'/f for f in ('last.pt', 'best.pt'))
    common = on_list(vvt, warp_run)
    assert main(tryon('both', vvt, last, *common, '--compare', best)) == 0
    assert main(tryon('alone', vvt, best, *common, '--out_fmt', 'png')) == 0
    said = json.loads((tmp_path/'experiments'/'both'/'metrics.json').read_text())
    other = 'UNetMask train_shineon'
    assert set(said['methods']) == {'paste', 'UNetMask', other, 'untrained UNetMask', f'untrained {other}'}
    frames = lambda d: {str(p.relative_to(d)): p.read_bytes() for p in d.glob('*/*.png')}
    made = {n: frames(tmp_path/d) for n,d in said['methods'].items()}
    assert all(len(m) == 16 and m.keys() == made['paste'].keys() for m in made.values())
    assert made[other] == frames(tmp_path/'test_results'/'alone') and made['paste'] != made[other]
    assert list((tmp_path/said['methods']['UNetMask']).rglob('*.mp4')) # the first network's videos, as out_fmt says
    r = evaluate(tmp_path/said['methods'][other], vvt, ('ssim','l1'), log=lambda *_: None)
    assert r['summary'].keys() == {'ssim','l1'} and not r['problems']
    # the try-on's own figures are those of frames that were not yet rounded
    assert r['summary']['l1'] == pytest.approx(said['table'][other]['L1'], rel=.02)
    assert 0 < said['table']['warp']['IoU'] < 1

def test_random_tryon(vvt, warp_run, unet_run, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    unet, warp = (run/'checkpoints'/'last.pt' for run in (unet_run, warp_run))
    assert main(tryon('random', vvt, unet, '--warp_checkpoint', warp,
                      '--random_tryon', '--result_dir', 'elsewhere')) == 0
    from shineon.data.layouts import random_pairs, vvt_videos
    pairs = random_pairs(vvt_videos(vvt, 'test'), 0)
    check_results(tmp_path/'elsewhere'/'random', pairs, ['mp4'])
    assert all(c != v.cloth for c,v in pairs) and not (tmp_path/'test_results').exists()

def test_reconstruction_from_warped_garments(unet_run, vvt, warped_dir, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(tryon('own', vvt, unet_run/'checkpoints'/'last.pt', '--datamode', 'train',
                      '--warp_cloth_dir', warped_dir, '--fine_height', 128, '--fine_width', 64,
                      '--out_fmt', 'gif')) == 0
    from shineon.data.layouts import vvt_videos
    check_results(tmp_path/'test_results'/'own', [(v.cloth, v) for v in vvt_videos(vvt, 'train')], ['gif'])

def test_warped_garments(warped_dir, warp_run, vvt):
    from shineon.data.layouts import check_videos, vvt_videos
    from shineon.models.files import load_model
    from shineon.tryon.dress import dress, tryon_reader
    from shineon.core.ops import to_uint8
    videos = vvt_videos(vvt, 'train', str(warped_dir))
    check_results(warped_dir, [(v.cloth, v) for v in videos], ['png'], regions=False)
    check_videos(videos, ['warped'], 1) # found as the layout's warped garments
    warp = load_model(warp_run/'checkpoints'/'last.pt', 'warp')
    frame = next(dress(videos[0], tryon_reader(warp, fine_height=128, fine_width=64), warp=warp))
    written = read_picture(videos[0].frames[0].files['warped']).astype(int)
    made = to_uint8(frame['warped_cloth'][0,0])
    assert np.abs(written - made).max() <= 1 # what is on the disk is what the warp makes

# several frames

def test_flow_warp_and_attention(vvt, warp_run, in_process, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    warp = warp_run/'checkpoints'/'last.pt'
    assert main(train('unet', 'frames', vvt, '--n_frames_total', 3, '--flow_warp', '--self_attn',
                      '--person_inputs', 'agnostic', 'densepose', 'flow',
                      '--activation', 'sine', '--warp_checkpoint', warp, '--wt_vgg', 0)) == 0
    folder = tmp_path/'experiments'/'frames'
    assert 'flow_mask' in json.loads((folder/'metrics.json').read_text())
    last = folder/'checkpoints'/'last.pt'
    assert main(tryon('frames_on', vvt, last, *on_list(vvt, warp_run), '--out_fmt', 'png', 'mp4')) == 0
    from shineon.data.layouts import read_tryon_list, vvt_videos
    pairs = read_tryon_list(vvt/'tryon_list.csv', vvt_videos(vvt, 'test'), vvt)
    check_results(tmp_path/'test_results'/'frames_on', pairs, ['png','mp4'])
    assert main(train('unet', 'on', vvt, '--weights', last, '--warp_checkpoint', warp, '--wt_vgg', 0)) == 0
    # clips of 3 frames, as the file says
    assert read_checkpoint(tmp_path/'experiments'/'on'/'checkpoints'/'last.pt')['config']['n_frames_total'] == 3
