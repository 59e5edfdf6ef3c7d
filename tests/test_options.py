"Every option of every run notebook changes what it says it changes, or is refused: a notebook's cells are run up to where the work begins"
import json, re
from pathlib import Path

import pytest, torch
from torch import nn
from shineon.cli.notebooks import read_options, run_notebook
from shineon.core.run_folder import open_run
from shineon.core.errors import ShineOnError
from shineon.train.board import result_rows

class Enough(Exception): "All is set up; what comes now takes long"

class refused: # an outcome: the run does not start, and the message has this part
    def __init__(self, part): self.part = part

more, less, other = (lambda before, now: now > before), (lambda before, now: now < before), (lambda before, now: now != before)

@pytest.fixture(scope='module')
def files(vvt, tmp_path_factory):
    "Checkpoints of small networks, by name"
    from shineon.models.files import save_model
    from shineon.models.sams import SamsGenerator
    from shineon.models.unetmask import UNetMask
    from shineon.models.warp import WarpModule
    folder = tmp_path_factory.mktemp('files')
    nets = dict(warp=WarpModule(fine_height=128, fine_width=64, ngf=6), unet=UNetMask(ngf=6), sams=SamsGenerator(n_frames_total=3, ngf_pow_outer=2, ngf_pow_inner=3, num_middle=2, spade_hidden=4))
    for name,net in nets.items(): save_model(folder/f'{name}.pt', net)
    return {name: str(folder/f'{name}.pt') for name in nets} | dict(vvt=str(vvt))

@pytest.fixture
def set_up(files, monkeypatch, tmp_path):
    "Run a notebook up to its work: its variables, and what the work would have been given"
    import matplotlib.pyplot as plt
    from shineon.data.loaders import ClipDL
    from shineon.train import losses
    monkeypatch.chdir(tmp_path)
    from shineon.tryon.batching import BatchedNetworks
    seen, vgg19_weights = {}, losses.vgg19_weights
    def together(n): seen['together'] = n; return BatchedNetworks(n)
    monkeypatch.setattr('shineon.tryon.batching.BatchedNetworks', together)
    def enough(*args, **kw): seen['given'] = args; raise Enough
    def check_videos(videos, kinds, workers): seen['check_workers'] = workers; true_check(videos, kinds, workers)
    from shineon.data.layouts import check_videos as true_check
    monkeypatch.setattr('shineon.data.layouts.check_videos', check_videos)
    for work in ('train.learner.fit_schedule', 'tryon.methods.save_result'): monkeypatch.setattr(f'shineon.{work}', enough)
    monkeypatch.setattr('shineon.train.checkpoints.go_on', lambda learn, start: seen.update(went_on=str(start)))
    monkeypatch.setattr(torch, 'compile', lambda f, **kw: seen.setdefault('compiled', []).append(f) or f) # the true one takes minutes
    monkeypatch.setattr(ClipDL, 'show_batch', lambda *args, **kw: None)
    class NoVGG(nn.Module): # stands for the perceptual loss, whose weights are half a gigabyte
        def __init__(self, weights): super().__init__()
        def forward(self, *args): return torch.zeros(())
    monkeypatch.setattr(losses, 'VGGPerceptual', NoVGG)
    monkeypatch.setattr(losses, 'vgg19_weights', lambda path='': vgg19_weights(path) if path else {})
    def run(notebook, **params):
        names = {'__name__': '__main__'}
        try:
            for cell in json.loads(run_notebook(notebook).read_text(encoding='utf8'))['cells']:
                if cell['cell_type'] != 'code': continue
                exec(compile(''.join(cell['source']), notebook, 'exec'), names)
                if 'parameters' in cell['metadata'].get('tags', []): names.update(params)
        except Enough: pass
        plt.close('all')
        return names | seen | dict(drawn_from=torch.initial_seed())
    return run

# what to look at

def scheduled(n): f = n['learn'].param_scheduler.scheds['lr']; return n['learn'].n_epochs, round(f(.75)/n['lr'], 3)
def clip(n): return n['dls'].train.dataset[0]
def size_of(n): return sum(p.numel() for p in n['model'].parameters())
def spread(n): return next(p for p in n['model'].parameters() if p.ndim == 4).std().item()
def kinds_of(net): return {type(m).__name__ for m in net.modules()}
def config(name): return lambda n: n['model'].config[name]
def weight(name): return lambda n: n['loss'].weights[name]
def callback(name, value): return lambda n: next((value(cb) for cb in n['learn'].cbs if type(cb).__name__ == name), None)
def layers(n): return [r['layer'] for r in n['model'].layers_table(128, 64)]
def attentive(n): return [r['layer'] for r in n['model'].layers_table(128, 64) if r['attention']]

# option: (value, what to look at, what is then to be seen there, and not without it); fourth: options that go with it, in both runs

everywhere = dict(
    name=('taken_not', lambda n: n['folder'].name, 'taken_not'),
    experiments_dir=('elsewhere', lambda n: str(n['folder'].parent), 'elsewhere'),
    overwrite=(True, lambda n: (n['folder'].name, (n['folder']/'checkpoints'/'old.pt').exists()), ('taken', False), dict(name='taken')),
    seed=(7, lambda n: n['drawn_from'], 7),
    loglevel=('loud', None, refused("loglevel is 'loud'")),
    dataset=('viton', None, refused('VITON and MPV are not read yet')),
    gpu_ids=('first', None, refused('gpu_ids is "first"')),
    vvt_dataroot=('nowhere', None, refused('no such folder: nowhere')),
    cloth_mask_threshold=(99, lambda n: n['reader'].threshold, 99),
    image_scale=(1.5, lambda n: n['reader'].scale, 1.5),
    radius=(2, lambda n: n['reader'].radius, 2))

training = everywhere | dict(
    workers=(1, lambda n: n['dls'].train.fake_l.num_workers, 1),
    precision=(8, None, refused('precision')),
    compile=(True, lambda n: len(n.get('compiled', [])), more),
    loglevel=('debug', callback('Lines', lambda cb: cb.level), 10),
    datamode=('test', lambda n: len(n['train'] + n['valid']), 2),
    distributed_backend=('mpi', None, refused('distributed_backend is "mpi"')),
    fast_dev_run=(True, lambda n: (n['learn'].n_epochs, len(n['dls'].train), len(n['dls'].valid)), (1, 1, 1)),
    batch_size=(3, lambda n: n['dls'].train.bs, 3),
    cloth_inputs=(['cloth', 'cloth_mask'], config('cloth_inputs'), ['cloth', 'cloth_mask']),
    val_fraction=(0., lambda n: (len(n['train']), len(n['valid'])), (3, 0)),
    fine_height=(64, lambda n: tuple(clip(n)['image'].shape[-2:]), (64, 64)),
    fine_width=(128, lambda n: tuple(clip(n)['image'].shape[-2:]), (128, 128), dict(image_scale=2.)),
    image_scale=(1.5, lambda n: clip(n)['image'].mean().item(), other),
    no_shuffle=(True, lambda n: n['dls'].train.shuffle, False),
    limit_train_batches=(2, lambda n: len(n['dls'].train), 2),
    visualize_flow=(True, lambda n: 'flow' in result_rows(*[n['dls'].one_batch()[0]]*2)[0], True),
    limit_val_batches=(1, lambda n: len(n['dls'].valid), 1),
    lr=(.5, lambda n: n['learn'].lr, .5),
    keep_epochs=(3, scheduled, (4, 1.)),
    decay_epochs=(3, scheduled, (4, .333)),
    accumulated_batches=(3, callback('GradientAccumulation', lambda cb: cb.n_acc), 3*2),
    val_check_interval=(2, callback('ValidateWithin', lambda cb: cb.interval), 2),
    display_count=(7, callback('Board', lambda cb: cb.every), 7),
    save_count=(7, callback('SaveCheckpoints', lambda cb: cb.save_count), 7),
    keep=(7, callback('SaveCheckpoints', lambda cb: cb.keep), 7),
    init_type=('kaiming', spread, more),
    init_variance=(.2, spread, more))

dressing = dict( # networks that take a warped garment
    warp_checkpoint=('warp.pt', callback('WarpCloth', lambda cb: cb.warp.config['ngf']), 6),
    warp_cloth_dir=('nowhere', None, refused('no warped garment')),
    n_frames_total=(3, lambda n: len(clip(n)['image']), 3),
    flow_warp=(True, lambda n: (n['model'].config['flow_warp'], 'flow' in clip(n)), (True, True), dict(n_frames_total=2)),
    activation=('gelu', config('activation'), 'gelu'),
    wt_l1=(.5, weight('l1'), .5),
    wt_vgg=(.5, lambda n: (n['loss'].weights['vgg'], type(n['loss'].vgg).__name__), (.5, 'NoVGG')),
    vgg_weights=('nowhere.pth', None, refused("no such file of VGG19's weights: nowhere.pth"), dict(wt_vgg=1.)))

cases = dict(
    train_warp=training | dict(
        checkpoint=('warp.pt', lambda n: n.get('went_on', '')[-7:], 'warp.pt'),
        weights=('warp.pt', config('ngf'), 6),
        person_inputs=(['densepose'], config('person_inputs'), ['densepose']),
        radius=(2, lambda n: (clip(n)['cocopose'] > 0).sum().item(), less),
        cloth_mask_threshold=(60, lambda n: clip(n)['cloth_mask'].sum().item(), other),
        ngf=(5, size_of, more),
        grid_size=(7, lambda n: n['model'].regression[-1].out_features, 2*7*7),
        grid_reg=(.3, weight('grid'), .3)),
    train_unet=training | dressing | dict(
        checkpoint=('unet.pt', lambda n: n.get('went_on', '')[-7:], 'unet.pt'),
        weights=('unet.pt', config('ngf'), 6),
        person_inputs=(['cocopose', 'agnostic'], lambda n: {'cocopose', 'densepose'} & set(clip(n)), {'cocopose'}),
        ngf=(5, size_of, more),
        self_attn=(True, size_of, more),
        num_attn=(1, lambda n: [type(m).__name__ for m in n['model'].modules()].count('SelfAttention'), 2, dict(self_attn=True)),
        wt_mask=(.5, weight('mask'), .5),
        pen_flow_mask=(.5, weight('flow_mask'), .5)),
    train_sams=training | dressing | dict(
        checkpoint=('sams.pt', lambda n: n.get('went_on', '')[-7:], 'sams.pt'),
        weights=('sams.pt', config('num_middle'), 2),
        person_inputs=(['cocopose', 'flow'], lambda n: {'cocopose', 'densepose'} & set(clip(n)), {'cocopose'}),
        n_frames_now=(1, lambda n: n['learn'].progressive_frames.fixed, 1),
        grow=('double', lambda n: n['learn'].progressive_frames.grow, 'double'),
        patience=(5, lambda n: n['learn'].progressive_frames.patience, 5),
        frame_checkpointing=(True, callback('FrameCheckpointing', lambda cb: True), True),
        lr_D=(.5, lambda n: {o.param_groups[0]['lr'] for o in n['learn'].gan.opts.values()}, {.5}),
        grad_clip=(.5, callback('GradientClip', lambda cb: cb.max_norm), .5),
        ema=(.9, callback('EMACallback', lambda cb: cb.decay), .9),
        ngf=(8, lambda n: n['warned'], ['ngf is not used']),
        ngf_power_base=(3., size_of, more),
        ngf_pow_outer=(3, lambda n: n['model'].layers_table()[0]['channels'], other),
        ngf_pow_inner=(4, lambda n: len(layers(n)), more),
        ngf_pow_step=(2, lambda n: len(layers(n)), less, dict(ngf_pow_inner=4, num_middle=0)),
        num_middle=(2, lambda n: sum('middle' in l for l in layers(n)), 2),
        visualize_flow=(True, lambda n: 'flow' in clip(n), True, dict(person_inputs=['agnostic'], encoder_input='agnostic')),
        encoder_input=('agnostic', lambda n: n['model'].encoder_key, 'agnostic'),
        attention_middle_indices=([-1], attentive, ['middle 0']),
        attention_decoder_indices=([0], attentive, ['decoder 0']),
        norm_G=('spadeinstance3x3', lambda n: {'InstanceNorm', 'ParametrizedConv2d'} & kinds_of(n['model']), {'InstanceNorm'}),
        spade_hidden=(8, size_of, more),
        gan_mode=('ls', lambda n: n['learn'].gan.gan_mode, 'ls'),
        no_ganFeat_loss=(True, lambda n: n['learn'].gan.wt_feat, 0.),
        wt_feat=(3., lambda n: n['learn'].gan.wt_feat, 3.),
        wt_multiscale=(0., lambda n: set(n['learn'].gan.critics), {'temporal'}),
        wt_temporal=(0., lambda n: set(n['learn'].gan.critics), {'multiscale'}),
        r1=(.5, lambda n: n['learn'].gan.r1, .5),
        norm_D=('spectral', lambda n: 'InstanceNorm' in kinds_of(n['multiscale']), False),
        netD_subarch=('pixel', None, refused('n_layer')),
        num_D=(3, lambda n: len(n['multiscale'].scales), 3),
        n_layers_D=(3, lambda n: sum(p.numel() for p in n['temporal'].parameters()), more),
        ndf=(8, lambda n: sum(p.numel() for p in n['temporal'].parameters()), more)),
    tryon=everywhere | dict(
        workers=(1, lambda n: n['check_workers'], 1),
        plugins=(['nowhere.py'], None, refused('no such plugin: nowhere.py')),
        dataroot=('elsewhere', lambda n: n['ran']['dataroot'], 'elsewhere'), # a layout that reads it comes from outside
        side_by_side=(2, lambda n: n.get('together'), 2),
        checkpoint=('nowhere.pt', None, refused('no such checkpoint: nowhere.pt')),
        resume=(True, None, refused('this run was begun with'), dict(name='taken')), # one that cannot go on; those that can are in test_distributed
        compare=(['unet.pt'], lambda n: len(n['others']), 1),
        warp_checkpoint=('', lambda n: (n['warp'], 'warped' in n['reader'].kinds), (None, True)),
        warp_cloth_dir=('nowhere', None, refused('no warped garment'), dict(warp_checkpoint='')),
        datamode=('train', lambda n: len(n['pairs']), 3),
        tryon_list=('tryon_list.csv', lambda n: [c == v.cloth for c,v in n['pairs']], [False]*4),
        random_tryon=(True, lambda n: [c == v.cloth for c,v in n['pairs']], [False]*2),
        fine_height=(64, lambda n: n['reader'].size, (64, 64), dict(warp_checkpoint='')),
        fine_width=(128, lambda n: n['reader'].size, (128, 128), dict(warp_checkpoint='', image_scale=2.)),
        result_dir=('there', lambda n: n['given'][1].parent, Path('there')),
        out_fmt=(['gif', 'mp4'], lambda n: n['given'][4], ['gif', 'mp4']),
        fps=(5., lambda n: n['given'][5], 5.)))

small = dict(fine_height=128, fine_width=64, workers=0, gpu_ids='-1', seed=5)
trained = small | dict(batch_size=2, val_fraction=.34, keep_epochs=1, decay_epochs=1)
base = dict(train_warp=trained | dict(ngf=4), train_unet=trained | dict(ngf=4, wt_vgg=0.),
            train_sams=trained | dict(n_frames_total=2, ngf_pow_outer=2, ngf_pow_inner=3, num_middle=1, spade_hidden=4, ndf=4, n_layers_D=2, wt_vgg=0.),
            tryon=small | dict(checkpoint='unet.pt', warp_checkpoint='warp.pt', out_fmt=['png']))
usual = {} # what is to be seen in a run of each notebook without the option: notebook -> its variables

@pytest.mark.parametrize('notebook', cases)
def test_every_option_has_a_case(notebook):
    assert {o.name for o in read_options(run_notebook(notebook))} == set(cases[notebook])

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('notebook,option', [(n, o) for n in cases for o in cases[n]])
def test_option(notebook, option, set_up, files, tmp_path):
    value, look, outcome, also = (*cases[notebook][option], {})[:4]
    at = lambda v: [at(o) for o in v] if isinstance(v, list) else files.get(v[:-3], v) if isinstance(v, str) and v.endswith('.pt') else f'{files["vvt"]}/{v}' if v == 'tryon_list.csv' else v
    def run(**params):
        import warnings
        open_run(taken := tmp_path/params.get('experiments_dir', 'experiments')/'taken', dict(seed=0)) # an earlier run
        (taken/'checkpoints').mkdir(); (taken/'checkpoints'/'old.pt').touch()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            n = set_up(notebook, **{k: at(v) for k,v in (dict(vvt_dataroot=files['vvt'], name='x') | base[notebook] | params).items()})
        return n | dict(warned=[str(w.message)[:15] for w in caught if str(w.message).startswith('ngf')])
    if isinstance(outcome, refused):
        with pytest.raises(ShineOnError) as e: run(**also | {option: value})
        assert outcome.part in str(e.value) and '\n' not in str(e.value)
        assert not (tmp_path/'experiments'/'x').exists() # nothing has begun
        return
    def without(**params):
        try: return look(run(**params))
        except ShineOnError: return None
    if notebook not in usual: usual[notebook] = run(experiments_dir='usual')
    before = without(**dict(experiments_dir='before') | also) if also else look(usual[notebook])
    now = look(run(**dict(experiments_dir='now') | also | {option: value}))
    if callable(outcome): assert outcome(before, now), (before, now)
    else: assert now == outcome and before != outcome, (before, now)

# the options of the reference system, by name; where a notebook has not got one, it says why

table = dict(name='', experiments_dir='experiments', gpu_ids='0', workers=4, precision='32', loglevel='info', distributed_backend='', fast_dev_run=False, checkpoint='',
    dataset='vvt', vvt_dataroot='', viton_dataroot=None, data_list=None, mpv_dataroot=None, warp_cloth_dir='warp-cloth', batch_size=dict(train_sams=4, train_warp=8, train_unet=8),
    person_inputs=dict(train_warp=['agnostic', 'cocopose'], train_unet=['agnostic', 'densepose'], train_sams=['agnostic', 'densepose', 'flow']), cloth_inputs=['cloth'], datamode=dict(tryon='test', train_warp='train', train_unet='train', train_sams='train'),
    val_fraction=.01, cloth_mask_threshold=240, image_scale=1., fine_width=192, fine_height=256, radius=5, no_shuffle=False, limit_train_batches=1., limit_val_batches=1., visualize_flow=False,
    n_frames_total=dict(train_unet=1, train_sams=5), n_frames_now=0, lr=1e-4, keep_epochs=5, decay_epochs=5, accumulated_batches=1, val_check_interval=.125, display_count=200, save_count=10000,
    ngf=dict(train_warp=64, train_unet=64, train_sams=0), self_attn=False, no_self_attn=None, num_attn=2, flow_warp=False, activation='relu', init_type='xavier', init_variance=.02, grid_size=5, pen_flow_mask=1.,
    encoder_input='flow', norm_G='spectralspadesyncbatch3x3', ngf_power_base=2., ngf_base=None, ngf_pow_outer=6, ngf_pow_inner=10, ngf_pow_step=1, num_middle=3,
    attention_middle_indices=[], attention_decoder_indices=[], wt_l1=1., wt_vgg=1., wt_multiscale=1., wt_temporal=1.,
    gan_mode='hinge', lr_D=3e-4, no_ganFeat_loss=False, norm_D='spectralinstance', netD_subarch='n_layer', num_D=2, n_layers_D=4, ndf=64,
    result_dir='test_results', tryon_list='', random_tryon=False)

@pytest.mark.parametrize('notebook', cases)
def test_options_of_the_reference(notebook, monkeypatch, tmp_path, capsys):
    "Each is taken, with its default, or refused in one line with the reason"
    from shineon.cli.main import main
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: asked.append(params))
    command = ['tryon'] if notebook == 'tryon' else ['train', '--model', notebook[6:]]
    synonyms = dict(no_self_attn='self_attn', ngf_base='ngf_power_base')
    options = {o.name: o for o in read_options(run_notebook(notebook))}
    for option,default in table.items():
        default = default.get(notebook) if isinstance(default, dict) else default
        o = options.get(synonyms.get(option, option))
        flag = [] if option == 'no_self_attn' or isinstance(default, bool) else [default or 'x'] if isinstance(default, str) else ['3']
        assert main([*command, '--name', 'x', f'--{option}', *flag]) == (0 if o else 2), option
        if o: assert default is None or o.default == default, option
        else:
            said = capsys.readouterr().err
            assert said.count('\n') == 1 and re.search(rf'{notebook} has no option {option if option == "no_self_attn" else synonyms.get(option, option)}\. (The |It is |Where |UNet-Mask draws )', said), said
    assert len(asked) > 15 and not list(tmp_path.iterdir())
