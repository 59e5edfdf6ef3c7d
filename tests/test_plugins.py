"An input, a layout, a network and a metric of one's own, in files outside the package, from the command line"
import json, shutil
from pathlib import Path

import nbformat, pytest, yaml
from conftest import size, small
from shineon.core.media import read_picture
from shineon.data.layouts import vvt_videos
from shineon.models.files import read_checkpoint
from test_runs import equal, weights

plugin = '''
"Arms as an input, a folder for each kind of file as a layout, dilated convolutions as a network, edges as a metric"
from pathlib import Path

import torch
from torch import nn
from shineon.data.labels import INPUTS, Input, lip_ids
from shineon.data.layouts import LAYOUTS, Frame, Layout, Video
from shineon.evaluate.metrics import METRICS, Metric
from shineon.models.networks import NETWORKS, Network

Path(__file__).with_suffix('.loaded').touch()

# input: where the arms are, 1 or -1

def arms(files, **options):
    inside = torch.isin(files['parse'], torch.tensor(lip_ids('left-arm right-arm')))
    return inside.float()*2 - 1

INPUTS.add(Input('arms', 1, arms, ('parse',)))

# layout: MODE/KIND/VIDEO/FRAME, and MODE/garment/VIDEO.png

kinds = 'image', 'parse', 'keypoints', 'densepose', 'flow'

def video(mode, id, warp_cloth_dir):
    places = dict({k: mode/k for k in kinds}, warped=mode/warp_cloth_dir)
    frames = {}
    for kind,place in places.items():
        for path in sorted((place/id).glob('*')): frames.setdefault(path.stem, {})[kind] = path
    return Video(id, mode/'garment'/f'{id}.png', [Frame(f'{n}.png', files) for n,files in frames.items()])

def videos(root, datamode='train', warp_cloth_dir='warped'):
    mode = Path(root)/datamode
    return [video(mode, p.name, warp_cloth_dir) for p in sorted((mode/'image').iterdir())]

def true_folders(root):
    test = Path(root)/'test'
    return [test/'image'], test/'flow'

def recognises(root): return (Path(root)/'test'/'garment').is_dir()

LAYOUTS.add(Layout('folder', videos, recognises, true_folders=true_folders))

# network: what is dressed is drawn by dilated convolutions, in one size

class Dilated(nn.Module):
    n_frames, flow_warp = 1, False

    def __init__(self, person_inputs=('agnostic', 'arms'), cloth_inputs=('cloth',), width=8):
        super().__init__()
        self.config = dict(person_inputs=list(person_inputs), cloth_inputs=list(cloth_inputs), width=width)
        self.names = [*person_inputs, *(f'warped_{n}' for n in cloth_inputs)]
        channels = sum(INPUTS[n].channels for n in (*person_inputs, *cloth_inputs))
        layers = []
        for d in (1, 2, 4, 8):
            layers += [nn.Conv2d(channels, width, 3, padding=d, dilation=d), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 4, 1))

    def forward(self, clip, **kwargs):
        x = torch.cat([clip[n] for n in self.names], 2) # b n c h w
        out = self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        drawn, share = out[:,:,:3].tanh(), out[:,:,3:].sigmoid()
        return dict(result=share*clip['warped_cloth'] + (1 - share)*drawn)

    def step(self, frame, past=None): return self(frame), {}

NETWORKS.add(Network('mine', Dilated, 'tryon', synonyms=('dilated',),
                     notebook=str(Path(__file__).with_name('train_mine.ipynb'))))

# metric: how much the edges differ

def edges(frames, truth):
    across = lambda x: x[...,1:] - x[...,:-1]
    return (across(frames) - across(truth)).abs().mean((1,2,3))

METRICS.add(Metric('edges', 'edges', 'lower', edges, needs=('frames', 'truth')))
'''

options = '''
# experiment
name: str = "" # name of the run; its folder is experiments_dir/name
experiments_dir: str = "experiments" # where runs lie
overwrite: bool = False # throw away an earlier run of this name
checkpoint: str = "" # go on with a stopped run
plugins: list[str] = [] # modules, files or notebooks of your own to load first
seed: int = 0 # of every random choice
gpu_ids: str = "0" # number of the GPU
loglevel: str = "info" # how much the terminal shows
# data
dataset: str = "folder" # its layout
dataroot: str = "" # data set in a layout without an option of its own
person_inputs: list[str] = ["agnostic", "arms"] # what the network sees of the person
# network
width: int = 8 # features of a layer
'''

cells = ['''
from shineon.core.plugins import load_plugins
from shineon.core.run_folder import collect_params
from shineon.data.clips import ClipReader
from shineon.data.layouts import LAYOUTS
from shineon.data.loaders import clip_loaders
from shineon.train.learner import (begin_run, find_data, finish_run, new_network, run_training, training_videos,
                                   tryon_learner)
from shineon.train.losses import UNetMaskLoss
load_plugins(plugins)
params = collect_params(globals())
''', '''
device, folder, start = begin_run('train_mine', name, experiments_dir, overwrite, checkpoint, seed, gpu_ids)
model = new_network('mine', person_inputs=person_inputs, width=width)
reader = ClipReader(person_inputs, fine_height=128, fine_width=64, warped=True)
root = find_data(LAYOUTS[dataset], params)
train, valid = training_videos(LAYOUTS[dataset], root, reader, warp_cloth_dir='warped', val_fraction=.34, workers=0)
dls = clip_loaders(train, valid, reader, batch_size=4, workers=0, device=device)
learn = tryon_learner(dls, model, UNetMaskLoss(wt_vgg=0), folder=folder, lr=1e-2, keep_epochs=1, decay_epochs=1,
                      val_check_interval=1., options=params, loglevel=loglevel)
finish_run(learn, folder, run_training(learn, folder, params, start=start))
''']

def as_notebook(*sources):
    "A notebook of these cells, the first one with the options"
    cells = [nbformat.v4.new_code_cell(s.strip()) for s in sources]
    cells[0].metadata['tags'] = ['parameters']
    kernel = dict(name='python3', display_name='python3', language='python')
    return nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel))

def copy_set(vvt, root):
    "The sample set in a layout of one's own"
    for mode in ('train', 'test'):
        for video in vvt_videos(vvt, mode):
            (root/mode/'garment').mkdir(parents=True, exist_ok=True)
            shutil.copy(video.cloth, root/mode/'garment'/f'{video.id}.png')
            for k,frame in enumerate(video.frames):
                for kind,path in frame.files.items():
                    place = root/mode/kind/video.id
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, place/f'{k:03}{path.suffix}')
    return root

@pytest.fixture(scope='module')
def home(vvt, tmp_path_factory):
    "A folder outside the package, with the plugin, its run notebook and a data set"
    home = tmp_path_factory.mktemp('home')
    (home/'mine.py').write_text(plugin)
    nbformat.write(as_notebook(options, *cells), home/'train_mine.ipynb')
    copy_set(vvt, home/'data')
    return home

@pytest.fixture(scope='module')
def run(home, shineon_command):
    "Run a command there; it must succeed"
    def run(*args):
        r = shineon_command(*args, cwd=home)
        assert r.status == 0, r.err
        return r.out
    return run

plugins = ['--plugins', 'mine.py']
data = ['--dataset', 'folder', '--dataroot', 'data']

def metrics_of(home, name): return json.loads((home/'experiments'/name/'metrics.json').read_text())

@pytest.fixture(scope='module')
def mine_run(home, run):
    "Folder of a training run of the plugin's network"
    run('train', '--model', 'mine', '--name', 'first', *plugins, *data, '--gpu_ids', -1)
    return home/'experiments'/'first'

def dress(run, name, checkpoint, warp_run):
    "Dress the test videos by a network, in their own garments"
    run('tryon', '--name', name, *plugins, *data, *size, '--checkpoint', checkpoint, '--gpu_ids', -1,
        '--out_fmt', 'png', '--warp_checkpoint', warp_run/'checkpoints'/'last.pt')

@pytest.fixture(scope='module')
def dressed(home, run, mine_run, unet_run, warp_run):
    "Folders of results of the plugin's network and of UNet-Mask"
    dress(run, 'mine', mine_run/'checkpoints'/'last.pt', warp_run)
    dress(run, 'unet', unet_run/'checkpoints'/'last.pt', warp_run)
    return [home/'test_results'/n for n in ('mine', 'unet')]

@pytest.fixture(scope='module')
def methods(home, dressed):
    "Folders of results: of the two networks, and the true frames themselves"
    exact = home/'test_results'/'exact'
    for made in dressed[0].glob('*/*.png'): # VIDEO/GARMENT.FOR.FRAME.png
        place = exact/made.parent.name/made.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home/'data'/'test'/'image'/made.parent.name/made.name.split('.FOR.')[-1], place)
    return [*dressed, exact]

def compare(home, run, name, methods, plugin):
    "Tables and decided differences of a comparison"
    run('compare', *methods, '--truth', 'data', '--name', name, '--plugins', plugin, '--metrics', 'l1', 'edges',
        '--n_videos', 1, '--n_cases', 1, '--gpu_ids', -1)
    metrics = metrics_of(home, name)
    return metrics, (home/Path(metrics['page']).parent/'summary.md').read_text()

@pytest.fixture(scope='module')
def compared(home, run, methods):
    "A comparison of all methods"
    return compare(home, run, 'all', methods, 'mine.py')

def test_trained(mine_run, home):
    params = yaml.safe_load((mine_run/'params.yaml').read_text())
    assert params['plugins'] == ['mine.py'] and params['dataroot'] == 'data'
    ckpt = read_checkpoint(mine_run/'checkpoints'/'last.pt')
    assert ckpt['model'] == 'mine' and ckpt['config']['person_inputs'] == ['agnostic', 'arms']
    assert ckpt['state']['layers.0.weight'].shape[1] == 4 + 1 + 3 # arms have one channel
    assert 0 < metrics_of(home, 'first')['l1'] < 2

def test_dressed(dressed, home):
    for folder in dressed:
        for video in sorted((home/'data'/'test'/'image').iterdir()):
            made = sorted((folder/video.name).glob('*.png'))
            assert len(made) == len(list(video.iterdir()))
            assert all(read_picture(p).shape == (128, 64, 3) for p in made)

def test_evaluated(dressed, home, run):
    out = run('evaluate', dressed[0], '--truth', 'data', '--name', 'figures', *plugins, '--metrics', 'l1', 'edges',
              '--gpu_ids', -1)
    assert 'edges' in out
    result = metrics_of(home, 'figures')
    assert result['summary'].keys() == {'l1', 'edges'} and not result['not_computed']

def test_compared(compared, home):
    metrics, table = compared
    assert list(metrics['summary']) == ['mine', 'unet', 'exact']
    assert all({'l1', 'edges'} == m.keys() for m in metrics['summary'].values())
    assert {d['metric'] for d in metrics['differences']} == {'l1', 'edges'}
    assert 'edges' in table and 'edges' in (home/metrics['page']).read_text()

def test_trained_by_the_notebook_of_another_network(home, run):
    "An entry that names a run notebook of the package; two plugins"
    (home/'borrowed.py').write_text("""
from shineon.models.networks import NETWORKS, Network
class Borrowed(NETWORKS['mine'].cls): "Another class"
NETWORKS.add(Network('borrowed', Borrowed, 'tryon', notebook='train_unet'))
""")
    run('train', '--model', 'borrowed', '--name', 'borrowed', '--plugins', 'mine.py', 'borrowed.py', *data, *small,
        '--warp_cloth_dir', 'warped', '--person_inputs', 'arms', '--wt_vgg', 0, '--fast_dev_run')
    folder = home/'experiments'/'borrowed'
    ckpt = read_checkpoint(folder/'checkpoints'/'last.pt')
    assert (ckpt['model'], ckpt['config']['person_inputs']) == ('borrowed', ['arms'])
    assert yaml.safe_load((folder/'params.yaml').read_text())['network'] == 'borrowed'

def test_rerun(mine_run, home, run):
    "With the plugins of the run, which the command line need not name"
    run('rerun', 'first', '--name', 'again')
    assert equal(weights(home/'experiments'/'again'), weights(mine_run))
    assert yaml.safe_load((home/'experiments'/'again'/'params.yaml').read_text())['plugins'] == ['mine.py']

def refused(shineon_command, home, *args):
    "The one line of a command that must be refused"
    r = shineon_command(*args, cwd=home)
    assert r.status == 2 and r.err.startswith('shineon: ') and r.err.count('\n') == 1, r.err
    return r.err

def test_checkpoint_without_its_plugin(mine_run, home, vvt, shineon_command):
    "It says which one it needs, and loads nothing by itself"
    mark = home/'mine.loaded'
    mark.unlink()
    checkpoint = mine_run/'checkpoints'/'last.pt'
    args = ['tryon', '--name', 'x', '--vvt_dataroot', vvt, *size, '--checkpoint', checkpoint]
    err = refused(shineon_command, home, *args)
    assert str(checkpoint) in err and "'mine'" in err and '--plugins mine.py' in err
    assert not mark.exists()

def test_plugins_that_fail(home, shineon_command):
    (home/'broken.py').write_text('import nothing_of_this_name')
    for name,says in (('nowhere.py', 'no such plugin'), ('broken.py', 'this plugin failed with ModuleNotFoundError')):
        err = refused(shineon_command, home, 'train', '--model', 'mine', '--name', 'x', '--plugins', name)
        assert says in err and name in err
    err = refused(shineon_command, home, 'train', '--model', 'mine', '--name', 'x')
    assert '"mine"' in err

def best(table, metric):
    "Method whose value of a metric is bold in a table in Markdown"
    head, _, *rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]
    column = next(i for i,name in enumerate(head) if name.startswith(metric))
    return [row[0] for row in rows if row[column].startswith('**')]

def better(metrics, metric):
    "Who is surely better, of each pair with the true frames"
    pairs = [d for d in metrics['differences'] if d['metric'] == metric and 'exact' in (d['a'], d['b'])]
    return [d['better'] for d in pairs]

def test_ranking_follows_the_direction(compared, home, run, methods):
    "Another plugin differs in nothing but one entry's `better`"
    metrics, table = compared
    assert best(table, 'edges') == best(table, 'L1') == ['exact']
    assert better(metrics, 'edges') == better(metrics, 'l1') == ['exact', 'exact']
    assert plugin.count("'lower'") == 1
    (home/'turned.py').write_text(plugin.replace("'lower'", "'higher'"))
    turned, table = compare(home, run, 'turned', methods, 'turned.py')
    assert turned['summary'] == metrics['summary']
    assert len(best(table, 'edges')) == 1 and best(table, 'edges') != ['exact'] and best(table, 'L1') == ['exact']
    assert better(turned, 'edges') == ['mine', 'unet'] and better(turned, 'l1') == ['exact', 'exact']
