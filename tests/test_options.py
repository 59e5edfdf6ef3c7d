"""Every option of every run notebook changes what it says it changes, or is refused.

A notebook's cells are run up to where the work begins."""
import json, re, shutil, warnings
from pathlib import Path

import numpy as np, pytest, torch
from torch import nn
from shineon.cli.notebooks import read_options, run_notebook
from shineon.core.errors import ShineOnError
from shineon.core.media import write_png
from shineon.core.run_folder import open_run
from shineon.train.board import result_rows

class Enough(Exception): "All is set up; what comes now takes long"

class refused:
    "An outcome: the run does not start, and the message has this part"
    def __init__(self, part): self.part = part

# outcomes: what is seen without the option, and with it

def more(before, now): return now > before
def less(before, now): return now < before
def other(before, now): return now != before

@pytest.fixture(scope='module')
def files(vvt, tmp_path_factory):
    "Checkpoints of small networks, by name"
    from dataclasses import replace
    from shineon.data.layouts import LAYOUTS
    from shineon.models.files import save_model
    from shineon.models.sams import SamsGenerator
    from shineon.models.unetmask import UNetMask
    from shineon.models.warp import WarpModule
    LAYOUTS.add(replace(LAYOUTS['vvt'], name='plain', root_option='')) # a layout without an option of its own
    folder = tmp_path_factory.mktemp('files')
    sams = SamsGenerator(n_frames_total=3, ngf_pow_outer=2, ngf_pow_inner=3, num_middle=2, spade_hidden=4)
    nets = dict(warp=WarpModule(fine_height=128, fine_width=64, ngf=6), unet=UNetMask(ngf=6), sams=sams)
    for name,net in nets.items(): save_model(folder/f'{name}.pt', net)
    shutil.copytree(vvt, folder/'damaged') # a set with something wrong in one of its videos
    next((folder/'damaged'/'train'/'train_frames_parsing').rglob('*.png')).write_bytes(b'')
    return {name: str(folder/f'{name}.pt') for name in nets} | dict(vvt=str(vvt), damaged=str(folder/'damaged'))

class NoVGG(nn.Module):
    "Stands for the perceptual loss, whose weights are half a gigabyte"
    def __init__(self, weights): super().__init__()
    def forward(self, *args): return torch.zeros(())

def cells_of(notebook):
    "Source and tags of each code cell of a run notebook"
    for cell in json.loads(run_notebook(notebook).read_text(encoding='utf8'))['cells']:
        if cell['cell_type'] == 'code': yield ''.join(cell['source']), cell['metadata'].get('tags', [])

@pytest.fixture
def seen(monkeypatch):
    "Replaces what takes long; tells what it would have been given"
    from shineon.data.layouts import check_videos as true_check
    from shineon.data.loaders import ClipDL
    from shineon.train import losses
    from shineon.tryon.batching import BatchedNetworks
    seen, vgg19_weights = {}, losses.vgg19_weights
    def enough(*args, **kw): seen['given'] = args; raise Enough
    def check_videos(videos, kinds, workers, **how):
        seen['check_workers'] = workers
        true_check(videos, kinds, workers, **how)
    def together(n): seen['together'] = n; return BatchedNetworks(n)
    def compiled(f, **kw): seen.setdefault('compiled', []).append(f); return f # the true one takes minutes
    monkeypatch.setattr('shineon.data.layouts.check_videos', check_videos)
    for work in ('train.learner.fit_schedule', 'tryon.methods.save_result', 'prepare.dataset.Preparation.__call__'):
        monkeypatch.setattr(f'shineon.{work}', enough)
    monkeypatch.setattr('shineon.train.learner.go_on', lambda learn, start, *how: seen.update(went_on=str(start)) or {})
    monkeypatch.setattr('shineon.tryon.batching.BatchedNetworks', together)
    monkeypatch.setattr(torch, 'compile', compiled)
    monkeypatch.setattr(ClipDL, 'show_batch', lambda *args, **kw: None)
    monkeypatch.setattr(losses, 'VGGPerceptual', NoVGG)
    monkeypatch.setattr(losses, 'vgg19_weights', lambda path='': vgg19_weights(path) if path else {})
    return seen

@pytest.fixture
def set_up(files, seen, monkeypatch, tmp_path):
    "Run a notebook up to its work: its variables, and what the work would have been given"
    import matplotlib.pyplot as plt
    monkeypatch.chdir(tmp_path)
    def run(notebook, **params):
        seen.clear()
        names = {'__name__': '__main__'}
        try:
            for source,tags in cells_of(notebook):
                exec(compile(source, notebook, 'exec'), names)
                if 'parameters' in tags: names.update(params)
        except Enough: pass
        plt.close('all')
        return names | seen | dict(drawn_from=torch.initial_seed())
    return run

# what to look at

def scheduled(n):
    "Epochs, and the share of the learning rate that is left at three quarters of them"
    rate = n['learn'].param_scheduler.scheds['lr'](.75)
    return n['learn'].n_epochs, round(rate/n['lr'], 3)

def clip(n): return n['dls'].train.dataset[0]
def size_of(n): return sum(p.numel() for p in n['model'].parameters())
def size_of_temporal(n): return sum(p.numel() for p in n['temporal'].parameters())
def spread(n): return next(p for p in n['model'].parameters() if p.ndim == 4).std().item()
def kinds_of(net): return {type(m).__name__ for m in net.modules()}
def norms(net): return sum(type(m).__name__ == 'InstanceNorm' for m in net.modules())
def attentions(n): return [type(m).__name__ for m in n['model'].modules()].count('SelfAttention')
def config(name): return lambda n: n['model'].config[name]
def weight(name): return lambda n: n['loss'].weights[name]
def pairs(n): return [cloth == video.cloth for cloth,video in n['pairs']]
def poses(n): return {'cocopose', 'densepose'} & set(clip(n))
def length_of_run(n): return n['learn'].n_epochs, len(n['dls'].train), len(n['dls'].valid)
def went_on(n): return n.get('went_on', '')[-len('warp.pt'):]

def callback(name, value):
    "Something of the callback of that name, if the Learner has it"
    return lambda n: next((value(cb) for cb in n['learn'].cbs if type(cb).__name__ == name), None)

def layers(n): return [r['layer'] for r in n['model'].layers_table(128, 64)]
def attentive(n): return [r['layer'] for r in n['model'].layers_table(128, 64) if r['attention']]
def flow_is_shown(n): batch = n['dls'].one_batch()[0]; return 'flow' in result_rows(batch, batch)[0]

def augmented(name): return lambda n: getattr(n['dls'].train.dataset.augment, name)

def kept_after_overwrite(n): return n['folder'].name, (n['folder']/'checkpoints'/'old.pt').exists()

def made(name): return lambda n: n['make'].settings[name]

masked = dict(person_inputs=['masked', 'densepose', 'flow'])
def reader_of(n): return n['reader'] if 'reader' in n else n['readers'][True, True]
def region(n): return clip(n)['masked'][:,0] > 0
def region_rows(n): return region(n).any(-1).nonzero()[:,-1].float().mean().item() # where its middle row lies
def lower(before, now): return now > before + 10

# option: (value, what to look at, what is then to be seen there, and not without it)
# a fourth value: options that go with it, in both runs

everywhere = dict(
    name=('taken_not', lambda n: n['folder'].name, 'taken_not'),
    experiments_dir=('elsewhere', lambda n: str(n['folder'].parent), 'elsewhere'),
    overwrite=(True, kept_after_overwrite, ('taken', False), dict(name='taken')),
    seed=(7, lambda n: n['drawn_from'], 7),
    loglevel=('loud', None, refused("loglevel is 'loud'")),
    dataset=('mpv', None, refused('no mpv_dataroot')),
    viton_dataroot=('nowhere', None, refused('no such folder: nowhere'), dict(dataset='viton')),
    mpv_dataroot=('nowhere', None, refused('no such folder: nowhere'), dict(dataset='mpv')),
    data_list=('mine.txt', None, refused('vvt has no lists of pairs')),
    fit=('crop', lambda n: reader_of(n).fit, 'crop'),
    cloth_mask_way=('ground', lambda n: reader_of(n).options['cloth_mask_way'], 'ground'),
    gpu_ids=('first', None, refused('gpu_ids is "first"')),
    vvt_dataroot=('nowhere', None, refused('no such folder: nowhere')),
    cloth_mask_threshold=(99, lambda n: reader_of(n).options['cloth_mask_threshold'], 99),
    image_scale=(1.5, lambda n: reader_of(n).scale, 1.5),
    radius=(2, lambda n: reader_of(n).options['radius'], 2))

training = everywhere | dict(
    plugins=(['nowhere.py'], None, refused('no such plugin: nowhere.py')),
    dataroot=('vvt.pt', lambda n: len(n['train'] + n['valid']), 3, dict(dataset='plain')),
    workers=(1, lambda n: n['dls'].train.fake_l.num_workers, 1),
    precision=(8, None, refused('precision')),
    compile=(True, lambda n: len(n.get('compiled', [])), more),
    loglevel=('debug', callback('TextLogger', lambda cb: cb.level), 10),
    datamode=('test', lambda n: len(n['train'] + n['valid']), 2),
    distributed_backend=('mpi', None, refused('distributed_backend is "mpi"')),
    fast_dev_run=(True, length_of_run, (1, 1, 1)),
    batch_size=(3, lambda n: n['dls'].train.bs, 3),
    cloth_inputs=(['cloth', 'cloth_mask'], config('cloth_inputs'), ['cloth', 'cloth_mask']),
    val_fraction=(0., lambda n: (len(n['train']), len(n['valid'])), (3, 0)),
    fine_height=(64, lambda n: tuple(clip(n)['image'].shape[-2:]), (64, 64)),
    fine_width=(128, lambda n: tuple(clip(n)['image'].shape[-2:]), (128, 128), dict(image_scale=2.)),
    image_scale=(1.5, lambda n: clip(n)['image'].mean().item(), other),
    no_shuffle=(True, lambda n: n['dls'].train.shuffle, False),
    limit_train_batches=(2, lambda n: len(n['dls'].train), 2),
    visualize_flow=(True, flow_is_shown, True),
    limit_val_batches=(1, lambda n: len(n['dls'].valid), 1),
    lr=(.5, lambda n: n['learn'].lr, .5),
    keep_epochs=(3, scheduled, (4, 1.)),
    decay_epochs=(3, scheduled, (4, .333)),
    accumulated_batches=(3, callback('GradientAccumulation', lambda cb: cb.n_acc), 3*2),
    val_check_interval=(2, callback('ValidateWithin', lambda cb: cb.interval), 2),
    display_count=(7, callback('Board', lambda cb: cb.every), 7),
    save_count=(7, callback('SaveCheckpoints', lambda cb: cb.save_count), 7),
    keep=(7, callback('SaveCheckpoints', lambda cb: cb.keep), 7),
    mix=([1., .5], None, refused('mix is 1.0 0.5. Leave it out: it is for a dataset of several sets')),
    skip_bad=(True, lambda n: len(n['train'] + n['valid']), 2, dict(vvt_dataroot='damaged.pt')),
    category=('lower', region_rows, lower, masked),
    region_margin=(.2, lambda n: region(n).sum().item(), more, masked),
    region_hem=(.4, lambda n: region(n).sum().item(), more, masked),
    cache_dir=('kept', lambda n: n['reader'].cache and n['reader'].cache.folder.name, 'kept'),
    augment_mirror=(.5, augmented('augment_mirror'), .5),
    augment_scale=(.2, augmented('augment_scale'), .2),
    augment_shift=(.1, augmented('augment_shift'), .1),
    augment_rotate=(10., augmented('augment_rotate'), 10.),
    augment_colour=(.3, augmented('augment_colour'), .3),
    augment_background=(1., augmented('augment_background'), 1.),
    augment_cut=(1., augmented('augment_cut'), 1.),
    augment_motion=(.5, augmented('augment_motion'), .5),
    background_dir=('nowhere', None, refused('nowhere')),
    init_type=('kaiming', spread, more),
    init_variance=(.2, spread, more))

dressing = dict( # networks that take a warped garment
    warp_checkpoint=('warp.pt', callback('WarpCloth', lambda cb: cb.warp.config['ngf']), 6),
    warp_cloth_dir=('nowhere', None, refused('no warped garment')),
    n_frames_total=(3, lambda n: len(clip(n)['image']), 3),
    flow_warp=(True, lambda n: (n['model'].config['flow_warp'], 'flow' in clip(n)), (True, True),
               dict(n_frames_total=2)),
    keep_person=(True, lambda n: (n['model'].keep_person, 'masked' in clip(n)), (True, True)),
    keep_skin=(True, lambda n: (n['model'].keep_skin, 'skin' in clip(n)), (True, True), dict(keep_person=True)),
    hide_skin=(.5, callback('HideSkin', lambda cb: cb.share), .5, dict(keep_person=True, keep_skin=True)),
    activation=('gelu', config('activation'), 'gelu'),
    wt_l1=(.5, weight('l1'), .5),
    wt_region=(.5, weight('region'), .5, dict(keep_person=True)),
    wt_ssim=(.5, weight('dissimilarity'), .5),
    l1_newest=(True, lambda n: n['loss'].l1_newest, True),
    wt_vgg=(.5, lambda n: (n['loss'].weights['vgg'], type(n['loss'].vgg).__name__), (.5, 'NoVGG')),
    vgg_weights=('nowhere.pth', None, refused("no such file of VGG19's weights: nowhere.pth"),
                 dict(wt_vgg=1.)))

cases = dict(
    train_warp=training | dict(
        network=('mine', None, refused("no network is called 'mine'")),
        checkpoint=('warp.pt', went_on, 'warp.pt'),
        weights=('warp.pt', config('ngf'), 6),
        person_inputs=(['densepose'], config('person_inputs'), ['densepose']),
        radius=(2, lambda n: (clip(n)['cocopose'] > 0).sum().item(), less),
        cloth_mask_threshold=(60, lambda n: clip(n)['cloth_mask'].sum().item(), other),
        ngf=(5, size_of, more),
        grid_size=(7, lambda n: n['model'].regression[-1].out_features, 2*7*7),
        grid_reg=(.3, weight('grid'), .3),
        finest=(8, config('finest'), 8, dict(network='appearance_flow')),
        wt_cloth_mask=(.3, weight('cloth_mask'), .3),
        wt_coarse=(.5, weight('coarse'), .5),
        correlate_at=('cloth', config('correlate_at'), 'cloth'),
        align_corners=(False, config('align_corners'), False)),
    train_unet=training | dressing | dict(
        network=('mine', None, refused("no network is called 'mine'")),
        checkpoint=('unet.pt', went_on, 'unet.pt'),
        weights=('unet.pt', config('ngf'), 6),
        person_inputs=(['cocopose', 'agnostic'], poses, {'cocopose'}),
        ngf=(5, size_of, more),
        self_attn=(True, size_of, more),
        num_attn=(1, attentions, 2, dict(self_attn=True)),
        wt_mask=(.5, weight('mask'), .5),
        pen_flow_mask=(.5, weight('flow_mask'), .5),
        last_norm=(True, lambda n: norms(n['model']), more)),
    train_sams=training | dressing | dict(
        checkpoint=('sams.pt', went_on, 'sams.pt'),
        weights=('sams.pt', config('num_middle'), 2),
        person_inputs=(['cocopose', 'flow'], poses, {'cocopose'}),
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
        visualize_flow=(True, lambda n: 'flow' in clip(n), True,
                        dict(person_inputs=['agnostic'], encoder_input='agnostic')),
        encoder_input=('agnostic', lambda n: n['model'].encoder_key, 'agnostic'),
        attention_middle_indices=([-1], attentive, ['middle 0']),
        attention_decoder_indices=([0], attentive, ['decoder 0']),
        norm_G=('spadeinstance3x3', lambda n: {'InstanceNorm', 'ParametrizedConv2d'} & kinds_of(n['model']),
                {'InstanceNorm'}),
        spade_hidden=(8, size_of, more),
        show_cloth=(True, lambda n: n['model'].masks, ['mask']),
        wt_mask=(.5, weight('mask'), .5),
        halve=('nearest', config('halve'), 'nearest'),
        last_layer=('linear', config('last_layer'), 'linear'),
        leaky=(True, lambda n: 'LeakyReLU' in kinds_of(n['model']), True),
        encode_zeros=(True, config('encode_zeros'), True),
        gan_mode=('ls', lambda n: n['learn'].gan.gan_mode, 'ls'),
        no_ganFeat_loss=(True, lambda n: n['learn'].gan.wt_feat, 0.),
        wt_feat=(3., lambda n: n['learn'].gan.wt_feat, 3.),
        wt_multiscale=(0., lambda n: set(n['learn'].gan.critics), {'temporal'}),
        wt_temporal=(0., lambda n: set(n['learn'].gan.critics), {'multiscale'}),
        r1=(.5, lambda n: n['learn'].gan.r1, .5),
        norm_D=('spectral', lambda n: 'InstanceNorm' in kinds_of(n['multiscale']), False),
        netD_subarch=('pixel', None, refused('n_layer')),
        num_D=(3, lambda n: len(n['multiscale'].scales), 3),
        n_layers_D=(3, size_of_temporal, more),
        ndf=(8, size_of_temporal, more)),
    tryon=everywhere | dict(
        workers=(1, lambda n: n['check_workers'], 1),
        plugins=(['nowhere.py'], None, refused('no such plugin: nowhere.py')),
        dataroot=('elsewhere', lambda n: n['ran']['dataroot'], 'elsewhere'), # a layout that reads it comes from outside
        side_by_side=(2, lambda n: n.get('together'), 2),
        checkpoint=('nowhere.pt', None, refused('no such checkpoint: nowhere.pt')),
        # one that cannot go on; those that can are in test_distributed
        resume=(True, None, refused('this run was begun with'), dict(name='taken')),
        compare=(['unet.pt'], lambda n: len(n['others']), 1),
        warp_checkpoint=('', lambda n: (n['warp'], 'warped' in reader_of(n).kinds), (None, True)),
        warp_cloth_dir=('nowhere', None, refused('no warped garment'), dict(warp_checkpoint='')),
        datamode=('train', lambda n: len(n['pairs']), 3),
        tryon_list=('tryon_list.csv', pairs, [False]*4),
        random_tryon=(True, pairs, [False]*2),
        fine_height=(64, lambda n: reader_of(n).size, (64, 64), dict(warp_checkpoint='')),
        fine_width=(128, lambda n: reader_of(n).size, (128, 128), dict(warp_checkpoint='', image_scale=2.)),
        category=('lower', lambda n: reader_of(n).options['category'], 'lower'),
        region_margin=(.2, lambda n: reader_of(n).options['region_margin'], .2),
        region_hem=(.4, lambda n: reader_of(n).options['region_hem'], .4),
        keep_person=('always', lambda n: n['keep'], True),
        keep_background=(True, lambda n: n['keep_background'], True),
        known_outline=(True, None, refused('known_outline needs keep_background')),
        steady=(0., lambda n: n['steady'], 0.),
        out_size=('source', lambda n: n['full'], True),
        framing=('somehow', None, refused("framing is 'somehow'")),
        result_dir=('there', lambda n: n['given'][1].parent, Path('there')),
        out_fmt=(['gif', 'mp4'], lambda n: n['given'][4], ['gif', 'mp4']),
        fps=(5., lambda n: n['given'][5], 5.)),
    prepare=dict(
        name=('taken_not', lambda n: n['folder'].name, 'taken_not'),
        experiments_dir=('elsewhere', lambda n: str(n['folder'].parent), 'elsewhere'),
        overwrite=(True, kept_after_overwrite, ('taken', False), dict(name='taken')),
        resume=(True, None, refused('this run was begun with'), dict(name='taken')),
        plugins=(['nowhere.py'], None, refused('no such plugin: nowhere.py')),
        gpu_ids=('first', None, refused('gpu_ids is "first"')),
        loglevel=('loud', None, refused("loglevel is 'loud'")),
        videos=(['nowhere.mp4'], None, refused('no such video: nowhere.mp4')),
        out_dir=('there', lambda n: str(n['make'].root), 'there'),
        garment=(['photos'], lambda n: [j.photo and j.photo.name for j in n['jobs']], ['amy-g1.png', None]),
        person=(2, made('person'), 2),
        test_fraction=(.5, lambda n: sorted(j.mode for j in n['jobs']), ['test', 'train']),
        seed=(5, lambda n: [j.mode for j in n['jobs']], ['train', 'test'], dict(test_fraction=.5)),
        pose=('schp', None, refused("pose is 'schp'")),
        parse=('dis', None, refused("parse is 'dis'")),
        densepose=('dis', None, refused("densepose is 'dis'")),
        flow=('bodypix', None, refused("flow is 'bodypix'")),
        cut_out=('dis', None, refused("garment is 'dis'")),
        models=('nowhere', None, refused('nowhere')),
        height=(128, lambda n: n['make'].size, (128, 192)),
        width=(128, lambda n: n['make'].size, (256, 128)),
        smooth=(3, made('smooth'), 3),
        workers=(1, lambda n: n['make'].workers, 1)))

drawn = dict(pose='drawn-pose', parse='drawn-parse', densepose='drawn-densepose') # they know the answer
small = dict(fine_height=128, fine_width=64, workers=0, gpu_ids='-1', seed=5)
trained = small | dict(batch_size=2, val_fraction=.34, keep_epochs=1, decay_epochs=1)
base = dict(train_warp=trained | dict(ngf=4), train_unet=trained | dict(ngf=4, wt_vgg=0.),
            train_sams=trained | dict(n_frames_total=2, ngf_pow_outer=2, ngf_pow_inner=3, num_middle=1, spade_hidden=4,
                                      ndf=4, n_layers_D=2, wt_vgg=0.),
            tryon=small | dict(checkpoint='unet.pt', warp_checkpoint='warp.pt', out_fmt=['png']),
            prepare=drawn | dict(gpu_ids='-1', videos=['clips'], out_dir='set'))
usual = {} # what is to be seen in a run of each notebook without the option: notebook -> its variables

@pytest.mark.parametrize('notebook', cases)
def test_every_option_has_a_case(notebook):
    assert {o.name for o in read_options(run_notebook(notebook))} == set(cases[notebook])

def an_earlier_run(folder):
    "Leave a folder as of a run with another seed"
    open_run(folder, dict(seed=0))
    (folder/'checkpoints').mkdir()
    (folder/'checkpoints'/'old.pt').touch()

def raw_videos(folder):
    "Pictures that stand for two videos, and a photo"
    for name in ('clips/amy-g1/1', 'clips/bea-g2/1', 'photos/amy-g1'):
        write_png(folder/f'{name}.png', np.full((96,72,3), 200, np.uint8))

@pytest.fixture
def run(set_up, files, tmp_path):
    "Run a notebook up to its work with its base options and some more; says, too, whether it warned of ngf"
    def path_of(value):
        if isinstance(value, list): return [path_of(v) for v in value]
        if value == 'tryon_list.csv': return f'{files["vvt"]}/{value}'
        if isinstance(value, str) and value.endswith('.pt'): return files.get(value[:-3], value)
        return value
    def run(notebook, **params):
        an_earlier_run(tmp_path/params.get('experiments_dir', 'experiments')/'taken')
        options = dict(vvt_dataroot=files['vvt'], name='x') | base[notebook] | params
        if notebook == 'prepare': raw_videos(tmp_path)
        if notebook == 'tryon': options.setdefault('result_dir', f'results_of_{options.get("experiments_dir", "x")}')
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            names = set_up(notebook, **{k: path_of(v) for k,v in options.items()})
        messages = [str(w.message) for w in caught]
        return names | dict(warned=[m[:len('ngf is not used')] for m in messages if m.startswith('ngf')])
    return run

def what_is_seen(look, run):
    "What is to be seen in a run; None for one that is refused"
    try: return look(run())
    except ShineOnError: return None

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('notebook,option', [(n, o) for n in cases for o in cases[n]])
def test_option(notebook, option, run, tmp_path):
    value, look, outcome, also = (*cases[notebook][option], {})[:4]
    if isinstance(outcome, refused):
        with pytest.raises(ShineOnError) as e: run(notebook, **also | {option: value})
        assert outcome.part in str(e.value) and '\n' not in str(e.value)
        assert not (tmp_path/'experiments'/'x').exists() # nothing has begun
        return
    if notebook not in usual: usual[notebook] = run(notebook, experiments_dir='usual')
    if also: before = what_is_seen(look, lambda: run(notebook, **dict(experiments_dir='before') | also))
    else: before = look(usual[notebook])
    now = look(run(notebook, **dict(experiments_dir='now') | also | {option: value}))
    if callable(outcome): assert outcome(before, now), (before, now)
    else: assert now == outcome and before != outcome, (before, now)

# the options of the reference system, by name; where a notebook has not got one, it says why

of_the_reference = [n for n in cases if n != 'prepare'] # that system starts from prepared files
inputs = dict(train_warp=['agnostic', 'cocopose'], train_unet=['agnostic', 'densepose'],
              train_sams=['agnostic', 'densepose', 'flow'])
table = dict(
    name='', experiments_dir='experiments', gpu_ids='0', workers=4, precision='32', loglevel='info',
    distributed_backend='', fast_dev_run=False, checkpoint='',
    dataset='vvt', vvt_dataroot='', viton_dataroot='', data_list='', mpv_dataroot='', warp_cloth_dir='warp-cloth',
    batch_size=dict(train_sams=4, train_warp=8, train_unet=8), person_inputs=inputs, cloth_inputs=['cloth'],
    datamode=dict(tryon='test', train_warp='train', train_unet='train', train_sams='train'), val_fraction=.01,
    cloth_mask_threshold=240, image_scale=1., fine_width=192, fine_height=256, radius=5, no_shuffle=False,
    limit_train_batches=1., limit_val_batches=1., visualize_flow=False,
    n_frames_total=dict(train_unet=1, train_sams=5), n_frames_now=0, lr=1e-4, keep_epochs=5, decay_epochs=5,
    accumulated_batches=1, val_check_interval=.125, display_count=200, save_count=10000,
    ngf=dict(train_warp=64, train_unet=64, train_sams=0), self_attn=False, no_self_attn=None, num_attn=2,
    flow_warp=False, activation='relu', init_type='xavier', init_variance=.02, grid_size=5, pen_flow_mask=1.,
    encoder_input='flow', norm_G='spectralspadesyncbatch3x3', ngf_power_base=2., ngf_base=None, ngf_pow_outer=6,
    ngf_pow_inner=10, ngf_pow_step=1, num_middle=3, attention_middle_indices=[], attention_decoder_indices=[],
    wt_l1=1., wt_vgg=1., wt_multiscale=1., wt_temporal=1.,
    gan_mode='hinge', lr_D=3e-4, no_ganFeat_loss=False, norm_D='spectralinstance', netD_subarch='n_layer', num_D=2,
    n_layers_D=4, ndf=64, result_dir='test_results', tryon_list='', random_tryon=False)
synonyms = dict(no_self_attn='self_attn', ngf_base='ngf_power_base')

def words_of(option, default):
    "An option as it is typed"
    if option == 'no_self_attn' or isinstance(default, bool): return [f'--{option}']
    return [f'--{option}', (default or 'x') if isinstance(default, str) else '3']

@pytest.mark.parametrize('notebook', of_the_reference)
def test_options_of_the_reference(notebook, monkeypatch, tmp_path, capsys):
    "Each is taken, with its default, or refused in one line with the reason"
    from shineon.cli.main import main
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('shineon.cli.main.execute', lambda name, params, folder: asked.append(params))
    command = ['tryon'] if notebook == 'tryon' else ['train', '--model', notebook[6:]]
    options = {o.name: o for o in read_options(run_notebook(notebook))}
    for option,entry in table.items():
        default = entry.get(notebook) if isinstance(entry, dict) else entry
        proper = synonyms.get(option, option)
        o = options.get(proper)
        assert main([*command, '--name', 'x', *words_of(option, default)]) == (0 if o else 2), option
        if o:
            assert default is None or o.default == default, option
            continue
        said, named = capsys.readouterr().err, option if option == 'no_self_attn' else proper
        reason = rf'{notebook} has no option {named}\. (The |It is |Where |UNet-Mask draws )'
        assert said.count('\n') == 1 and re.search(reason, said), said
    assert len(asked) > 15 and not list(tmp_path.iterdir())
