"Trained networks by name: found, read, published, shipped; each shipped one has a whole card and loads"
import json, os, shutil, subprocess, sys, tarfile
from hashlib import sha256

import pytest, torch, yaml
from conftest import repo, short, small
from shineon.cli.main import main
from shineon.core.errors import CheckpointError, OptionError
from shineon.models.export import frame_inputs
from shineon.models.files import build_model, export_safetensors, load_model, read_checkpoint, save_model
from shineon.models.networks import NETWORKS
from shineon.models.publish import publish_weights, run_facts
from shineon.models.weights import RESEARCH, card_parts, read_card, weights_file, weights_folder, weights_names
from shineon.testing import flat_weights

options = dict(viton_dataroot='/home/me/viton', category='upper', region_hem=.1,
               framing=dict(neck=[.5, .2], hips=[.5, .6]))
sees = dict(person_inputs=['masked', 'cocopose'], init_type='kaiming')
networks = dict(warp_small=('warp', dict(sees, ngf=4, fine_height=128, fine_width=64)),
                unet_small=('unet', dict(sees, ngf=4, keep_person=True)),
                sams_small=('sams', dict(sees, encoder_input='cocopose', keep_person=True, n_frames_total=2,
                                         ngf_pow_outer=2, ngf_pow_inner=4, num_middle=1, spade_hidden=4)))
card = dict(about='Dresses nobody', data='nothing', command='shineon train --model unet', figures=dict(SSIM=.3),
            cannot=['anything'], licence=RESEARCH)
of_a_run = dict(seed=0, hours=.1, commit='0'*40)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Checkpoints of untrained networks, whose norms have seen numbers, with the options of a run"
    folder = tmp_path_factory.mktemp('files')
    for name,(network,config) in networks.items():
        torch.manual_seed(0)
        model = build_model(network, **config)
        for n,b in model.named_buffers():
            if n.endswith('running_mean'): b.normal_()
            if n.endswith('running_var'): b.uniform_(1e-9, 1e5) # no half precision holds these
        save_model(folder/f'{name}.pt', model, step=7, options=options)
    return folder

@pytest.fixture(scope='module')
def published(files, tmp_path_factory):
    "A folder of these networks, with cards"
    folder = tmp_path_factory.mktemp('networks')
    for name in networks: publish_weights(files/f'{name}.pt', name, folder, card | of_a_run)
    return folder

@pytest.fixture
def named(published, monkeypatch, tmp_path):
    "Their names are known, and a folder to work in"
    monkeypatch.setenv('SHINEON_NETWORKS', str(published))
    monkeypatch.chdir(tmp_path)
    return published

# names

def test_a_name_and_a_path(named, files, tmp_path):
    assert weights_names() == sorted(networks)
    assert read_checkpoint('unet_small')['model'] == 'unet'
    other = tmp_path/'unet_small' # a file without an ending
    other.write_bytes((files/'warp_small.pt').read_bytes())
    assert read_checkpoint('unet_small')['model'] == 'unet'
    assert read_checkpoint('./unet_small')['model'] == read_checkpoint(str(other))['model'] == 'warp'
    (tmp_path/'warp_small').mkdir() # nor does a folder
    assert read_checkpoint('warp_small')['model'] == 'warp'
    os.rename(other, 'bare')
    assert read_checkpoint('bare')['model'] == 'warp'

@pytest.mark.parametrize('name,says', [
    ('hat', 'hat. Choose from sams_small, unet_small, warp_small, or give the path of a checkpoint'),
    ('unet_small.pt', 'no such checkpoint: unet_small.pt'), ('experiments/unet_small', 'no such checkpoint'),
    ('unet_small.safetensors', 'no such checkpoint'), ('un*_small', 'Choose from'), ('a\0', 'Choose from')])
def test_neither(name, says, named):
    with pytest.raises(CheckpointError) as e: load_model(name)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_nothing_is_shipped(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('SHINEON_NETWORKS', str(tmp_path/'none'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as e: load_model('unet_viton')
    assert 'Give the path of a checkpoint' in str(e.value)
    assert main(['weights']) == 0 and 'no trained networks' in capsys.readouterr().out
    assert main(['demo']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and '--train' in err and not (tmp_path/'demo').exists()

# half precision

def clip(model):
    "A random clip of all that a network reads"
    n = model.n_frames
    torch.manual_seed(1)
    channels = dict(masked=4, cocopose=18, cloth=3, cloth_mask=1, warped_cloth=3, image=3, valid=1)
    made = {k: torch.rand(1, n, channels[k], 128, 64)*2 - 1 for k in (*frame_inputs(model), 'image')}
    if 'valid' in made: made['valid'] = torch.ones(1, n, 1, 1, 1)
    return made

@pytest.mark.parametrize('name', networks)
def test_half_precision(name, files, named):
    whole, half = load_model(files/f'{name}.pt'), load_model(name)
    assert {t.dtype for t in half.state_dict().values()} == {t.dtype for t in whole.state_dict().values()}
    assert half.config == whole.config and not half.training
    for n,t in whole.state_dict().items(): # statistics, biases, vectors of spectral norms: as they were
        if t.dim() < 2: assert torch.equal(t, half.state_dict()[n]), n
    stored = read_checkpoint(name)['state']
    assert sum(t.numel() for t in stored.values() if t.dtype == torch.float16) > .9*len(flat_weights(whole))
    with torch.no_grad(): a, b = (m(clip(m)) for m in (whole, half))
    for k in ('result', 'grid', 'warped_cloth'):
        if k in a: assert b[k].isfinite().all() and (a[k] - b[k]).abs().max() < 4e-3, k
    limit = .6 if name != 'warp_small' else .7 # narrow networks have many vectors
    assert weights_file(name).stat().st_size < limit*(files/f'{name}.pt').stat().st_size

def test_weights_that_half_precision_cannot_hold(tmp_path):
    model = build_model('unet', ngf=4)
    weights = [p for p in model.parameters() if p.dim() > 1]
    with torch.no_grad():
        weights[0].mul_(1e9)
        weights[1].mul_(1e-9)
    save_model(tmp_path/'a.pt', model)
    export_safetensors(tmp_path/'a.pt', tmp_path/'a.safetensors', half=True)
    again = [p for p in load_model(tmp_path/'a.safetensors').parameters() if p.dim() > 1]
    assert all(torch.equal(a, b) for a,b in zip(weights[:2], again)) and not torch.equal(weights[2], again[2])

def test_export_half(files, named, tmp_path, capsys):
    out = tmp_path/'out.safetensors'
    assert main(['export', 'unet_small', str(out), '--half']) == 0
    assert flat_weights(load_model(out)).equal(flat_weights(load_model('unet_small')))
    assert main(['export', 'unet_small', 'out.torchscript']) == 0 and (tmp_path/'out.torchscript').exists()
    assert main(['export', 'unet_small', 'half.torchscript', '--half']) == 2
    assert 'only weights' in capsys.readouterr().err and not (tmp_path/'half.torchscript').exists()

# cards

def test_what_a_card_gets_from_the_run(warp_run, tmp_path):
    checkpoint = warp_run/'checkpoints'/'last.pt'
    unsaid = without(of_a_run, *run_facts(checkpoint)) # an installed package has no git commit
    assert set(unsaid) <= {'commit'}
    file = publish_weights(checkpoint, 'warp', tmp_path, card | unsaid)
    text, metrics = file.with_suffix('.yaml').read_text(), json.loads((warp_run/'metrics.json').read_text())
    said = yaml.safe_load(text)
    assert (said['network'], said['seed'], said['steps']) == ('warp', 5, metrics['steps'])
    assert said['hours'] == round(metrics['seconds']/3600, 2) and said['parameters'] == metrics['parameters']
    ran = yaml.safe_load((warp_run/'params.yaml').read_text())
    assert all(said['options'][k] == ran[k] for k in ('ngf', 'lr', 'person_inputs'))
    assert said['options']['vvt_dataroot'] == 'vvt' and str(tmp_path.parent) not in text
    assert read_checkpoint(file)['more']['options'] == said['options']

def without(card, *parts): return {k: v for k,v in card.items() if k not in parts}

typed = [k for k in card_parts if k in card | of_a_run]

@pytest.mark.parametrize('part', typed)
def test_a_card_that_lacks_something(part, files, tmp_path):
    lacking = without(card | of_a_run, part)
    with pytest.raises(OptionError) as e: publish_weights(files/'unet_small.pt', 'x', tmp_path, lacking)
    assert f'does not say {part}' in str(e.value) and list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('part,value', [('steps', 8), ('network', 'warp'), ('parameters', 3), ('options', dict(lr=1))])
def test_a_card_that_contradicts(part, value, files, tmp_path):
    wrong = card | of_a_run | {part: value}
    with pytest.raises(OptionError) as e: publish_weights(files/'unet_small.pt', 'x', tmp_path, wrong)
    assert f'the card says that {part} is' in str(e.value) and list(tmp_path.iterdir()) == []

def test_weights_in_a_table(named, capsys):
    assert main(['weights']) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ['name', 'network', 'inputs'] and [r.split()[0] for r in rows] == sorted(networks)
    assert all('masked cocopose cloth' in r and 'SSIM 0.3' in r and r.endswith('research only') for r in rows)
    assert main(['weights', 'unet_small']) == 0
    assert yaml.safe_load(capsys.readouterr().out) == read_card('unet_small')
    assert main(['weights', 'hat']) == 2 and 'Choose from sams_small' in capsys.readouterr().err

def test_the_table_needs_no_torch(named):
    code = "import sys; from shineon.cli.main import main; main(['weights']); print('torch' in sys.modules)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                       env=os.environ | dict(PYTHONPATH=str(repo)))
    assert r.stdout.splitlines()[-1] == 'False', r.stderr

# runs

def frames(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*.png'))}

def test_try_on_by_name(named, vvt, in_process, tmp_path):
    "The record keeps the names; frames are those of the files by their paths"
    of = dict(name=dict.fromkeys(networks), path={n: str(named/f'{n}.safetensors') for n in networks})
    for way,paths in of.items():
        warp, unet, sams = (paths[n] or n for n in networks)
        assert main(['tryon', '--name', way, '--vvt_dataroot', str(vvt), '--tryon_list', str(vvt/'tryon_list.csv'),
                     '--checkpoint', unet, '--warp_checkpoint', warp, '--compare', sams, '--out_fmt', 'png',
                     '--gpu_ids', '-1', '--workers', '0']) == 0
    ran = yaml.safe_load((tmp_path/'experiments'/'name'/'params.yaml').read_text())
    assert (ran['checkpoint'], ran['warp_checkpoint'], ran['compare']) == ('unet_small', 'warp_small', ['sams_small'])
    a, b = (frames(tmp_path/'test_results'/way) for way in of)
    assert len(a) > 8 and a == b

def test_training_by_name(named, vvt, in_process, tmp_path, capsys):
    start = ['train', '--model', 'unet', '--vvt_dataroot', str(vvt), '--wt_vgg', '0', *small, *short,
             '--warp_checkpoint', 'warp_small']
    assert main([*start, '--name', 'on', '--weights', 'unet_small', '--fast_dev_run']) == 0
    ckpt = read_checkpoint('experiments/on/checkpoints/last.pt')
    assert ckpt['config'] == load_model('unet_small').config and ckpt['more']['options']['weights'] == 'unet_small'
    assert {t.dtype for t in ckpt['state'].values() if t.is_floating_point()} == {torch.float32}
    capsys.readouterr()
    assert main([*start, '--name', 'go', '--checkpoint', 'unet_small']) == 2 # it has no state of a training
    assert '--weights' in capsys.readouterr().err
    assert main([*start, '--name', 'no', '--weights', 'warp_small']) == 2
    assert "holds the model 'warp', not 'unet': warp_small" in capsys.readouterr().err

def test_the_short_demo(named, in_process, monkeypatch, tmp_path, capsys):
    "Test videos are made, nothing is trained, every method is written, and those of interest are compared"
    from shineon.cli import demo
    monkeypatch.setattr(demo, 'SHIPPED', list(networks))
    tiny = dict(n_test=2, n_frames=2, height=128, width=64)
    results = demo.demo(out='short', sample=demo.TEST_VIDEOS | tiny)
    assert {p.name for p in (tmp_path/'short').iterdir()} == {'experiments', 'report', 'results', 'test_videos'}
    assert {p.name for p in (tmp_path/'short'/'experiments').iterdir()} == {'tryon', 'compare'}
    for method in ('paste', 'UNetMask', 'SamsGenerator', 'untrained_UNetMask'):
        assert len(list((results/method).glob('*/*.png'))) == 2*2, method # two people, each in the other one's garment
    compared = json.loads((tmp_path/'short'/'experiments'/'compare'/'metrics.json').read_text())
    assert list(compared['summary']) == ['paste', 'UNetMask', 'SamsGenerator']
    said = capsys.readouterr().out
    assert all(w in said for w in ('1/3', '3/3', 'SSIM', 'index.html', 'contact_sheet'))

def test_the_demo_on_one_s_own_data(named, broken, in_process, monkeypatch, tmp_path, capsys):
    "Test videos are enough, without a list and without truth; a file that is missing is named"
    monkeypatch.setattr('shineon.cli.demo.SHIPPED', list(networks))
    for place in ('truth', 'train', 'test/densepose', 'test/warp-cloth'): shutil.rmtree(broken/place)
    for file in ('sample.json', 'tryon_list.csv'): (broken/file).unlink()
    demo = ['demo', '--data', str(broken), '--out', 'out']
    assert main(demo) == 0
    assert {p.name for p in (tmp_path/'out'/'experiments').iterdir()} == {'tryon', 'compare'}
    ran = yaml.safe_load((tmp_path/'out'/'experiments'/'tryon'/'params.yaml').read_text())
    assert (ran['warp_checkpoint'], ran['checkpoint'], ran['random_tryon']) == ('warp_small', 'sams_small', True)
    assert (tmp_path/'out'/'report'/'index.html').exists() and 'flicker' in capsys.readouterr().out
    for p in broken.glob('test/*keypoint*/*/*.json'): p.unlink()
    assert main(demo) == 2
    err = capsys.readouterr().err
    assert 'keypoints' in err and err.count('\n') == 1

def test_the_explorer_by_name(files, vvt, monkeypatch, tmp_path):
    from shineon.data.layouts import vvt_videos
    from shineon.explore.attention_explorer import AttentionExplorer
    save_model(tmp_path/'a.pt', build_model('unet', ngf=4, self_attn=True, **sees))
    export_safetensors(tmp_path/'a.pt', tmp_path/'attentive.safetensors', half=True)
    export_safetensors(files/'warp_small.pt', tmp_path/'bends.safetensors', half=True)
    monkeypatch.setenv('SHINEON_NETWORKS', str(tmp_path))
    assert AttentionExplorer('attentive', vvt_videos(vvt, 'test'), warp='bends').reader.size == (128, 64)

# the package

def built(tmp_path, *command):
    "Carry out a command of setup.py in a small copy of the project that ships two files"
    source = tmp_path/'source'
    for place in ('shineon', 'nbs/runs', 'experiments/presets'): (source/place).mkdir(parents=True)
    for name in (*'setup.py settings.ini MANIFEST.in pyproject.toml constraints.txt LICENSE'.split(), 'README.md',
                 'CHANGELOG.md'):
        (source/name).write_bytes((repo/name).read_bytes())
    (source/'shineon'/'__init__.py').write_text('__version__ = "0"')
    (source/'shineon'/'weights').mkdir()
    for end in ('safetensors', 'yaml'): (source/'shineon'/'weights'/f'a.{end}').write_text('x')
    r = subprocess.run([sys.executable, 'setup.py', '-q', *command], cwd=source, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr

def test_weights_travel_with_the_package(tmp_path):
    built(tmp_path, 'build_py', '--build-lib', str(tmp_path/'lib'))
    assert {p.name for p in (tmp_path/'lib'/'shineon'/'weights').iterdir()} == {'a.safetensors', 'a.yaml'}

def test_weights_travel_with_the_source(tmp_path):
    built(tmp_path, 'sdist', '--dist-dir', str(tmp_path/'dist'))
    archive, = (tmp_path/'dist').iterdir()
    with tarfile.open(archive) as f: names = {n.partition('/')[2] for n in f.getnames()}
    assert {'shineon/weights/a.safetensors', 'shineon/weights/a.yaml'} <= names

# what is shipped

@pytest.fixture
def shipped(monkeypatch):
    "The package's own folder"
    monkeypatch.delenv('SHINEON_NETWORKS', raising=False)
    return weights_folder()

def test_shipped_networks(shipped):
    "Each has a whole card that tells the truth, loads, and draws finite numbers"
    for name in weights_names():
        said, file = read_card(name), shipped/f'{name}.safetensors'
        assert said['sha256'] == sha256(file.read_bytes()).hexdigest(), name
        assert said['megabytes'] == round(file.stat().st_size/1e6, 2), name
        model = load_model(name, said['network'])
        inputs = dict.fromkeys([*model.config['person_inputs'], *model.config['cloth_inputs']])
        assert said['parameters'] == len(flat_weights(model)) and said['inputs'] == list(inputs), name
        assert said['command'].startswith('shineon train') and said['network'] in NETWORKS, name
        assert read_checkpoint(name)['more']['options'] == said['options'], name
        assert all(t.isfinite().all() for t in model.state_dict().values()), name

def test_shipped_files(shipped):
    "Nothing else is there, no path of somebody's machine is told, and all is at most 30 MB"
    files = list(shipped.glob('*')) if shipped.is_dir() else []
    assert {f.name for f in files} == {f'{n}.{end}' for n in weights_names() for end in ('safetensors', 'yaml')}
    assert sum(f.stat().st_size for f in files) <= 30e6
    for f in files:
        if f.suffix == '.yaml': assert not any(p in f.read_text() for p in ('/home/', '/work/', '/root/', '/tmp/')), f
