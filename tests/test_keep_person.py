"Only the garment changes: what is outside the region is the source, bit for bit; bad frames pass; videos are steady"
import json, shutil

import numpy as np, pytest, torch
from conftest import short, small
from PIL import Image
from shineon.cli.main import main
from shineon.core.media import read_picture, read_video, video_info, write_flo, write_video
from shineon.core.ops import identity_grid
from shineon.data.labels import LIP
from shineon.data.layouts import read_tryon_list, vvt_videos
from shineon.models.files import save_model
from shineon.models.networks import NETWORKS
from shineon.models.warp import warp
from shineon.sample.dataset import make_sample
from shineon.tryon.dress import bent_frames, draw_frame, dress, paste, tryon_reader
from shineon.tryon.full_size import full_size_frame
from shineon.tryon.methods import dress_methods
from shineon.tryon.own_size import OwnSize, read_framing
from shineon.tryon.steady import whereabouts

placed = dict(fine_height=128, fine_width=64)
sams = dict(encoder_input='masked', n_frames_total=1, ngf_pow_outer=2, ngf_pow_inner=3, num_middle=1)

@pytest.fixture(scope='module')
def networks():
    "Untrained networks: what they draw is noise, everywhere"
    torch.manual_seed(0)
    make = {n: NETWORKS[n].cls for n in NETWORKS}
    warp = make['warp'](['cocopose'], ngf=4, init_type='kaiming', **placed).eval()
    torch.nn.init.normal_(warp.regression[-1].weight, std=1) # it trembles
    return dict(warp=warp,
                plain=make['unet'](['densepose'], ngf=4).eval(),
                unet=make['unet'](['masked','cocopose'], ngf=4, keep_person=True).eval(),
                sams=make['sams'](['masked','cocopose'], keep_person=True, **sams).eval(),
                showing=make['sams'](['masked','cocopose'], keep_person=True, show_cloth=True, **sams).eval(),
                bare=make['unet'](['masked','cocopose'], ngf=4, keep_person=True, keep_skin=True).eval(),
                bare_sams=make['sams'](['masked','cocopose'], keep_person=True, keep_skin=True, **sams).eval())

@pytest.fixture(scope='module')
def files(networks, tmp_path_factory):
    "Their checkpoints"
    folder = tmp_path_factory.mktemp('networks')
    for n,m in networks.items(): save_model(folder/f'{n}.pt', m)
    return {n: folder/f'{n}.pt' for n in networks}

@pytest.fixture
def tryon(vvt, files, in_process, monkeypatch, tmp_path, capfd):
    "Dress the sample set's try-on list: exit status, figures, what was printed"
    monkeypatch.chdir(tmp_path)
    def run(network, *more, root=vvt, name='dressed'):
        capfd.readouterr()
        args = ['tryon', '--name', name, '--checkpoint', files[network], '--warp_checkpoint', files['warp'],
                '--vvt_dataroot', root, '--tryon_list', root/'tryon_list.csv', '--workers', 0, '--gpu_ids', -1, *more]
        status = main(list(map(str, args)))
        said = ''.join(capfd.readouterr())
        figures = tmp_path/'experiments'/name/'metrics.json'
        return status, json.loads(figures.read_text()) if figures.exists() else {}, said
    return run

def pairs_of(root): return read_tryon_list(root/'tryon_list.csv', vvt_videos(root, 'test'), root)

def untouched(folder, root, size=(128, 64)):
    "Compare each result with its source frame outside the region; the share of pixels inside that changed"
    changed = []
    for cloth,video in pairs_of(root):
        for f in video.frames:
            stem = f.name.rpartition('.')[0]
            region = read_picture(folder/'regions'/video.id/f'{stem}.png', 'L')
            assert set(np.unique(region)) <= {0, 255} and region.shape == size
            source, made = read_picture(f.files['image']), read_picture(folder/video.id/f'{cloth.name}.FOR.{stem}.png')
            differs = (made != source).any(-1)
            assert not differs[region == 0].any(), f.name
            if region.any(): changed.append(differs[region > 0].mean())
    return np.mean(changed) if changed else 0.

# outside the region

@pytest.mark.parametrize('network', ['unet', 'sams'])
def test_outside_the_region_is_the_source(network, tryon, vvt, tmp_path):
    status, figures, said = tryon(network, '--out_fmt', 'png', 'mp4')
    assert status == 0, said
    assert untouched(tmp_path/'test_results'/'dressed', vvt) > .5
    assert figures['frames_unchanged'] == {} and figures['frames_with_others'] == 0

@pytest.mark.parametrize('network', ['bare', 'bare_sams'])
def test_bare_skin_is_the_source(network, networks, tryon, vvt, tmp_path):
    "Arms that were bare, and that the warped garment does not cover, are the source's, bit for bit, in the files, too"
    status, _, said = tryon(network, '--out_fmt', 'png')
    assert status == 0, said
    assert untouched(tmp_path/'test_results'/'dressed', vvt) > .1
    reader, kept = tryon_reader(networks['warp'], networks[network], fine_height=128, fine_width=64), 0
    for cloth,video in pairs_of(vvt):
        for frame,f in zip(dress(video, reader, networks[network], networks['warp'], cloth), video.frames):
            stays = (frame['skin']*(frame['masked'][:,:,:1] < 0))[0,0,0].numpy() > 0
            stem = f.name.rpartition('.')[0]
            made = read_picture(tmp_path/'test_results'/'dressed'/video.id/f'{cloth.name}.FOR.{stem}.png')
            assert np.array_equal(made[stays], read_picture(f.files['image'])[stays]), f.name
            region = read_picture(tmp_path/'test_results'/'dressed'/'regions'/video.id/f'{stem}.png', 'L') > 0
            kept += (stays & region).sum()
    assert kept > 100 # pixels that another network would have drawn

def test_a_network_that_was_trained_so(tryon, files, vvt, tmp_path):
    "Its checkpoint says that it keeps the person, and how its training data was framed: as the try-on's"
    args = ['train', '--model', 'unet', '--name', 'kept', '--vvt_dataroot', vvt, '--warp_checkpoint', files['warp'],
            '--person_inputs', 'masked', 'cocopose', '--keep_person', '--wt_vgg', 0, *small, *short]
    assert main(list(map(str, args))) == 0
    trained = tmp_path/'experiments'/'kept'/'checkpoints'/'last.pt'
    assert read_framing(trained)
    status, _, said = tryon('unet', '--checkpoint', trained, '--out_fmt', 'png')
    assert status == 0 and 'framed as in the training data' not in said, said
    assert untouched(tmp_path/'test_results'/'dressed', vvt) > .5

def test_a_network_that_was_not_trained_so(tryon, vvt, tmp_path):
    assert tryon('plain', '--out_fmt', 'png', '--keep_person', 'always')[0] == 0
    assert untouched(tmp_path/'test_results'/'dressed', vvt) > .5
    assert tryon('plain', '--out_fmt', 'png', name='auto')[0] == 0
    with pytest.raises(AssertionError): untouched(tmp_path/'test_results'/'auto', vvt)

def test_background_in_the_region(tryon, vvt, tmp_path):
    "It is the source's where neither the person nor the new garment is; for one's own garment only with known_outline"
    for name,more in (('on', ['--keep_background']), ('off', []), ('known', ['--keep_background', '--known_outline'])):
        assert tryon('unet', '--out_fmt', 'png', *more, name=name)[0] == 0
        untouched(tmp_path/'test_results'/name, vvt) # beside the region, which is the same for all garments
    changed = dict(on=0, off=0)
    for cloth,video in pairs_of(vvt):
        for f in video.frames:
            source, place = read_picture(f.files['image']), f'{video.id}/{cloth.name}.FOR.{f.name}'
            on, off, known = (read_picture(tmp_path/'test_results'/n/place).astype(int) for n in ('on', 'off', 'known'))
            changed['on'] += (on != source).any(-1).sum()
            changed['off'] += (off != source).any(-1).sum()
            own = cloth == video.cloth
            assert np.array_equal(on, off if own else known)
            if own: assert (known != source).any(-1).sum() < (off != source).any(-1).sum()
    assert 0 < changed['on'] < .98*changed['off']

def test_never(tryon, vvt, tmp_path):
    assert tryon('unet', '--out_fmt', 'png', '--keep_person', 'never')[0] == 0
    with pytest.raises(AssertionError): untouched(tmp_path/'test_results'/'dressed', vvt)
    status, _, said = tryon('unet', '--keep_person', 'sometimes', name='other')
    assert status == 2 and 'Choose from auto, always, never' in said

def test_what_is_measured_is_what_is_written(tryon, vvt, tmp_path):
    "The figures of a composed picture are far better than those of the network's own, whose frame is noise"
    kept, free = (tryon('plain', '--keep_person', k, name=k)[1]['table']['UNetMask']['L1'] for k in ('always', 'never'))
    assert kept < .5*free

def test_regions_beside_the_methods(tryon, files, vvt, tmp_path):
    "One folder for all methods, also where only videos are written; the same from a run that goes on"
    assert tryon('unet', '--compare', files['plain'])[0] == 0
    folder, other = (tmp_path/'test_results'/n for n in ('dressed', 'films'))
    def regions(results): return {p.relative_to(results): p.read_bytes() for p in results.glob('regions/*/*.png')}
    made = regions(folder)
    assert len(made) == 2*4 and not list(folder.glob('*/regions'))
    assert tryon('unet', name='films')[0] == 0
    assert regions(other) == made
    (other/next(iter(made))).unlink()
    for p in (tmp_path/'experiments'/'films').glob('parts/*.json'): p.unlink() # it was stopped, say
    status, _, said = tryon('unet', '--resume', name='films')
    assert status == 0, said
    assert regions(other) == made
    assert tryon('unet', '--overwrite', name='films')[0] == 0 # regions are the run's own
    assert regions(other) == made
    assert not other.with_name('films.earlier').exists()

def test_a_video_called_regions(tryon, broken, files):
    from shineon.core.errors import DataError
    from shineon.tryon.results import distinct_pairs
    cloth, video = pairs_of(broken)[0]
    video.id = 'Regions'
    with pytest.raises(DataError, match='results have a file of this name'): distinct_pairs([(cloth, video)])

# the video's own size

@pytest.fixture(scope='module')
def large(tmp_path_factory):
    "A sample set of frames twice as large as the networks'"
    root = tmp_path_factory.mktemp('large')/'vvt'
    return make_sample(root, n_train=1, n_test=2, n_frames=4, height=256, width=128, seed=1)

@pytest.mark.parametrize('network', ['unet', 'sams', 'showing', 'plain'])
def test_own_size(network, tryon, large, tmp_path):
    more = ['--out_size', 'source'] if network == 'plain' else [] # the others keep the person
    status, _, said = tryon(network, '--out_fmt', 'png', 'mp4', *more, root=large)
    assert status == 0, said
    assert untouched(tmp_path/'test_results'/'dressed', large, (256, 128)) > .5
    for film in (tmp_path/'test_results'/'dressed').glob('*/*.mp4'):
        assert (video_info(film)['height'], video_info(film)['width']) == (256, 128)

def test_the_garment_is_sharp_at_its_own_size(networks, large):
    "SAMS-GAN's mask shows the photo itself: what its picture has of the garment is taken out, as for UNet-Mask"
    net, (cloth, video) = networks['showing'], pairs_of(large)[0]
    reader = tryon_reader(net, networks['warp'], **placed)
    size, source = OwnSize(video, reader, cloth), read_picture(video.frames[0].files['image'])
    def picture(colour, mask, canvas): # of a network that draws one colour, under a mask of one value
        net.decode = lambda x, labels: (0*labels['cloth'] + colour, dict(mask=0*labels['cloth'][:,:1] + mask))
        try: frame = next(iter(dress(video, reader, net, networks['warp'], cloth)))
        finally: del net.decode
        return full_size_frame(source, size.places[0], frame, canvas, kept=True)[0].astype(int)
    def apart(a, b): return np.abs(a - b).max()
    sharp, soft = (picture(0., 1., canvas) for canvas in (size.canvas, None))
    assert apart(picture(-1., 1., size.canvas), sharp) <= 1 and apart(picture(-1., 0., size.canvas), sharp) > 100
    black = picture(0., 1., 0*size.canvas) # another photo at full size: all of the garment comes from it
    changed = (black != source).any(-1)
    assert (black[changed] == 0).mean() > .5 and (soft[changed] == 0).mean() < .1 and apart(sharp, soft) > 20

def test_network_size(tryon, large, tmp_path):
    assert tryon('unet', '--out_fmt', 'png', '--out_size', 'network', root=large)[0] == 0
    assert {read_picture(p).shape[:2] for p in (tmp_path/'test_results'/'dressed').glob('*/*.png')} == {(128, 64)}
    for more in (['--keep_person', 'never'], ['--out_size', 'huge']):
        status, _, said = tryon('unet', '--out_size', 'source', *more, root=large, name='refused')
        assert status == 2 and '--out_size' in said or 'Choose from auto, source, network' in said

def test_every_method_at_its_own_size(tryon, files, large, tmp_path):
    assert tryon('unet', '--compare', files['sams'], root=large)[0] == 0
    folder = tmp_path/'test_results'/'dressed'
    for method in ('paste', 'UNetMask', 'SamsGenerator'):
        (folder/method/'regions').symlink_to(folder/'regions')
        assert untouched(folder/method, large, (256, 128)) > .05

def test_framed_as_in_training(networks, tryon, files, large, tmp_path):
    "A network of close views sees close views, and its results lie where the person is"
    close = dict(neck=[.5, .3], hips=[.5, .75])
    save_model(files['unet'].with_name('framed.pt'), networks['unet'], options=dict(framing=close))
    files = files | dict(framed=files['unet'].with_name('framed.pt'))
    def dressed(name, *more): # -> what was said, and a region
        more = ['--checkpoint', files['framed'], '--out_fmt', 'png', *more]
        status, figures, said = tryon('unet', *more, root=large, name=name)
        assert status == 0, said
        assert untouched(tmp_path/'test_results'/name, large, (256, 128)) > .5
        return said, read_picture(next((tmp_path/'test_results'/name/'regions').rglob('*.png')), 'L')
    said, region = dressed('close')
    assert 'videos framed as in the training data: 2 of 2' in said
    assert 'framed' not in dressed('usual', '--framing', 'off')[0]
    dressed('background', '--keep_background')
    assert region[0].max() == 0 and region.any() # the region lies in the frame, at its size

def test_a_raw_video(tryon, large, tmp_path):
    "Its times, its size, its frames: the set's own are half as large"
    root = tmp_path/'vvt'
    shutil.copytree(large, root)
    cloth, video = pairs_of(root)[0]
    pictures = [np.array(Image.open(f.files['image']).resize((256, 512), Image.BICUBIC)) for f in video.frames]
    write_video(root/'test'/'test_videos'/f'{video.id}.mp4', pictures, fps=10)
    (root/'tryon_list.csv').write_text(f'{cloth},{video.id}\n')
    status, figures, said = tryon('unet', '--out_fmt', 'png', 'mp4', root=root)
    assert status == 0, said
    folder = tmp_path/'test_results'/'dressed'
    film, = folder.glob('*/*.mp4')
    info = video_info(film)
    assert (info['height'], info['width'], info['fps']) == (512, 256, pytest.approx(10))
    sources = read_video(root/'test'/'test_videos'/f'{video.id}.mp4')
    for f,source in zip(video.frames, sources, strict=True):
        stem = f.name.rpartition('.')[0]
        region = read_picture(folder/'regions'/video.id/f'{stem}.png', 'L')
        made = read_picture(folder/video.id/f'{cloth.name}.FOR.{stem}.png')
        assert region.shape == (512, 256) and np.array_equal(made[region == 0], source[region == 0])
        assert (made != source)[region > 0].mean() > .5

# the plainest try-on

def test_paste_of_a_hand_made_frame():
    "A red shirt on a green ground; a blue one is laid over it, under an arm and a head"
    h,w = 32, 24
    parse = torch.zeros(1, 1, 1, h, w, dtype=torch.long)
    parse[...,8:24,6:18] = LIP['upper-clothes']
    parse[...,12:16,8:16] = LIP['left-arm']
    parse[...,2:8,9:15] = LIP['face']
    colour = dict(green=(-1., 1., -1.), red=(1., -1., -1.), skin=(.8, .4, .2), blue=(-1., -1., 1.))
    def paint(name): return torch.tensor(colour[name])[:,None,None].expand(1, 1, 3, h, w)
    def at(label): return (parse == LIP[label]).float()
    image = paint('green')
    for label,name in (('upper-clothes', 'red'), ('left-arm', 'skin'), ('face', 'skin')):
        image = image.lerp(paint(name), at(label))
    region = torch.zeros(1, 1, 1, h, w)
    region[...,6:28,3:21] = 1
    region = region*(1 - at('face'))
    masked = torch.cat([2*region - 1, image*(1 - region)], 2)
    sleeve = torch.zeros(1, 1, 1, h, w)
    sleeve[...,8:20,2:14] = 1 # it covers the shirt's left half, and reaches beyond the region
    frame = dict(image=image, masked=masked, parse=parse, warped_cloth=paint('blue'), warped_cloth_mask=sleeve)
    made = paste(frame)
    def is_(name, y, x): return torch.allclose(made[0,0,:,y,x], torch.tensor(colour[name]), atol=1e-5)
    assert is_('blue', 10, 7) and is_('blue', 10, 4) and is_('green', 10, 2) # within the region only
    assert is_('skin', 13, 10) and is_('skin', 4, 12) # arm and head are in front
    assert not is_('red', 22, 10) and made[0,0,1,22,10] > .5 # where the new one does not reach: the ground's green
    assert torch.equal(made[(region == 0).expand_as(made)], image[(region == 0).expand_as(made)])
    bare = paste(frame | dict(warped_cloth_mask=0*sleeve))
    assert (bare[0,0,0] <= .81).all() # nothing of the red shirt is left

# steady

class Attached(torch.nn.Module):
    "A warp whose garment moves with the person, but for a slip of its own in each frame"
    config = dict(person_inputs=['masked'], cloth_inputs=['cloth'], **placed)
    n_frames, flow_warp = 1, False
    def __init__(self, slips):
        super().__init__()
        self.slips = iter(slips)
    def forward(self, clip):
        centre, spread = whereabouts((clip['masked'][:,:,:1] + 1)/2)[...,None,None,:].unbind(-4)
        grid = (identity_grid(128, 64) - centre)/spread*.3 + next(self.slips)
        mask = warp(clip['cloth_mask'], grid, 'zeros')
        return dict(grid=grid, warped_cloth=warp(clip['cloth'], grid), warped_cloth_mask=mask)

@pytest.fixture
def bent(networks, vvt):
    "Frames of a video with a garment that slips: each a dict"
    cloth, video = pairs_of(vvt)[0]
    reader = tryon_reader(networks['plain'], **placed)
    reader.kinds.remove('warped')
    return lambda slips, steady: list(bent_frames(video, reader, Attached(slips), cloth, steady=steady))

def test_steady(bent):
    "A garment that trembles on its person is calmed, and the person moves as before"
    slips = [.05, -.05, .04, -.06]
    firm, raw, calm = bent([0]*4, 0), bent(slips, 0), bent(slips, 1.5)
    for a,b in zip(raw, calm, strict=True):
        assert torch.equal(a['image'], b['image']) and not torch.equal(a['grid'], b['grid'])
        region = (b['masked'][:,:,:1] + 1)/2 # the networks see the steady region, in all channels
        assert torch.equal(b['masked'][:,:,1:], b['image']*(1 - region))
        assert torch.equal(b['warped_cloth'], warp(b['cloth'], b['grid']))
    slip = [torch.stack([a['grid'] - b['grid'] for a,b in zip(f, firm)]) for f in (raw, calm)]
    assert slip[1].diff(dim=0).abs().mean() < .5*slip[0].diff(dim=0).abs().mean()

def test_a_steady_motion_passes(bent):
    "A garment that slides on its person at constant speed: no lag, at a video's ends neither"
    slips = [.01*t for t in range(4)]
    raw, calm = ([f['grid'][:,:,16:-16,8:-8] for f in bent(slips, s)] for s in (0, 2.)) # edges come from outside
    assert torch.stack(raw).diff(n=2, dim=0).abs().mean() > 1e-3 # the person moves otherwise
    assert len(raw) == 4 and all(torch.allclose(a, b, atol=1e-4) for a,b in zip(raw, calm, strict=True))

def test_steady_frames_are_dressed(networks, bent, vvt):
    cloth, video = pairs_of(vvt)[0]
    reader = tryon_reader(networks['warp'], networks['unet'], **placed)
    calm = list(bent_frames(video, reader, networks['warp'], cloth))
    drawn = list(dress(video, reader, networks['unet'], networks['warp'], cloth))
    assert len(drawn) == 4 and all(torch.equal(a['grid'], b['grid']) for a,b in zip(drawn, calm, strict=True))

def test_steady_runs(tryon, vvt, tmp_path):
    frames = {}
    for name,more in (('off', ['--steady', 0]), ('on', []), ('side', ['--side_by_side', 3])):
        assert tryon('unet', '--out_fmt', 'png', *more, name=name)[0] == 0
        folder = tmp_path/'test_results'/name
        frames[name] = {p.relative_to(folder).as_posix(): read_picture(p).astype(int) for p in folder.glob('*/*.png')}
    assert any((frames['off'][n] != frames['on'][n]).any() for n in frames['off'])
    assert max(np.abs(frames['side'][n] - frames['on'][n]).max() for n in frames['on']) <= 1 # a batch rounds otherwise

# bad input

kinds = dict(image='test_frames', parse='test_frames_parsing', densepose='densepose')

def change(root, video, i, f):
    "Replace the arrays of a frame by what a function makes of each"
    for kind,path in video.frames[i].files.items():
        if kind in ('image', 'parse', 'densepose'): Image.fromarray(f(kind, np.array(Image.open(path)))).save(path)

def no_joints(video, i):
    video.frames[i].files['keypoints'].write_text(json.dumps(dict(people=[])))

def nobody(root, video, i):
    change(root, video, i, lambda kind, a: a if kind == 'image' else 0*a)
    no_joints(video, i)

def all_garment(root, video, i):
    change(root, video, i, lambda kind, a: 0*a + LIP['upper-clothes'] if kind == 'parse' else a)

def only_head(root, video, i):
    "A parse with nothing but a head, and no body"
    change(root, video, i, lambda kind, a: dict(image=a, densepose=0*a, parse=a*(a == LIP['face']))[kind])
    no_joints(video, i)

def two_persons(root, video, i):
    "Side by side, half as large"
    def side_by_side(kind, a):
        half = a[::2,::2]
        both, below = np.concatenate([half, half], 1), 0*a[:64]
        return np.concatenate([both, below + (255 if kind == 'image' else 0)])
    change(root, video, i, side_by_side)
    no_joints(video, i)

def other_size(root, video, i):
    change(root, video, i, lambda kind, a: a.repeat(2, 0).repeat(2, 1))
    video.frames[i].files['keypoints'].write_text(json.dumps(dict(people=[])))
    write_flo(video.frames[i].files['flow'], np.zeros((256, 128, 2), np.float32))

@pytest.mark.parametrize('network,damage,frames,reason', [
    ('unet', nobody, [1], 'no person is seen'), ('unet', nobody, [2, 3], 'no person is seen'),
    ('sams', nobody, [2, 3], 'no person is seen'), ('plain', nobody, [2, 3], 'no person is seen'),
    ('unet', nobody, [0, 1, 2, 3], 'no person is seen'), ('unet', only_head, [0], 'nothing can change'),
    ('unet', all_garment, [2], 'the region covers the frame')],
    ids=['one frame', 'leaves', 'leaves SAMS', 'leaves plain', 'nobody at all', 'empty region', 'region covers'])
def test_frames_pass_unchanged(network, damage, frames, reason, tryon, broken, tmp_path):
    pairs = pairs_of(broken)
    video = pairs[0][1]
    for i in frames: damage(broken, video, i)
    status, figures, said = tryon(network, '--out_fmt', 'png', 'mp4', '--keep_person', 'always', root=broken)
    assert status == 0, said
    tries = sum(v.id == video.id for _,v in pairs)
    assert figures['frames_unchanged'] == {reason: len(frames)*tries} and figures['try_ons'] == len(pairs)
    assert f'frames unchanged: {len(frames)} ({reason})' in said
    folder = tmp_path/'test_results'/'dressed'
    untouched(folder, broken) # all of these videos
    for i in frames:
        f = video.frames[i]
        made = read_picture(folder/video.id/f'{pairs[0][0].name}.FOR.{f.name}')
        assert np.array_equal(made, read_picture(f.files['image']))

def test_two_persons(tryon, broken, tmp_path):
    pairs = pairs_of(broken)
    video = pairs[0][1]
    for i in range(4): two_persons(broken, video, i)
    status, figures, said = tryon('unet', '--out_fmt', 'png', root=broken)
    assert status == 0 and figures['frames_with_others'] == 4*sum(v.id == video.id for _,v in pairs), said
    assert 'with other persons, left as they are: 4' in said
    untouched(tmp_path/'test_results'/'dressed', broken)
    found = sorted((tmp_path/'test_results'/'dressed'/'regions'/video.id).glob('*.png'))
    region = [read_picture(p, 'L') > 0 for p in found]
    halves = np.array([[r[:,:32].sum(), r[:,32:].sum()] for r in region])
    dressed = halves.sum(0).argmax()
    assert (halves[:,1-dressed] < .05*halves[:,dressed]).all() # one of them, and the same one all along

def test_frames_of_another_size(tryon, broken, tmp_path):
    "At its own size the video is refused in one line, the others are dressed; at the network's each frame is fitted"
    pairs = pairs_of(broken)
    video = pairs[0][1]
    other_size(broken, video, 2)
    status, figures, said = tryon('unet', '--out_fmt', 'png', 'mp4', root=broken)
    assert status == 2 and 'frames of several sizes in one video, 64x128 and 128x256' in said
    assert figures['try_ons'] == sum(v.id != video.id for _,v in pairs) > 0
    status, figures, said = tryon('unet', '--out_size', 'network', root=broken, name='fitted')
    assert status == 0 and figures['try_ons'] == len(pairs), said

def test_without_parse(tryon, broken, files, tmp_path):
    "Networks that need no parse go on without; nothing is composed or pasted, and this is said"
    shutil.rmtree(broken/'test'/'test_frames_parsing')
    status, figures, said = tryon('plain', '--out_fmt', 'png', root=broken)
    assert status == 0 and 'videos without parse labels: 2; no region is known' in said, said
    assert 'paste' not in figures['table'] and 'UNetMask' in figures['table']
    assert not (tmp_path/'test_results'/'dressed'/'regions').exists()
    assert tryon('plain', '--compare', files['plain'], root=broken, name='both')[0] == 0
    for network,more in (('plain', ['--keep_person', 'always']), ('unet', [])):
        status, _, said = tryon(network, *more, root=broken, name=f'needs_{network}')
        assert status == 2 and 'no parse file for this frame' in said

def test_methods_without_parse(networks, vvt):
    cloth, video = pairs_of(vvt)[0]
    reader = tryon_reader(networks['warp'], networks['plain'], region=False, **placed)
    made = list(dress_methods(video, reader, dict(plain=networks['plain']), networks['warp'], cloth))
    assert [list(d.made) for d in made] == [['plain']]*4 and {d.region for d in made} == {None}

def test_an_arm_in_front_stays(networks, vvt):
    "In the result, too: a bare arm between clothes, on which the trunk of the new garment would lie"
    cloth, video = pairs_of(vvt)[0]
    reader = tryon_reader(networks['warp'], networks['bare'], **placed)
    frame = next(bent_frames(video, reader, networks['warp'], cloth, steady=0))
    arm = torch.zeros(1,1,1,128,64)
    arm[...,60:72,26:38] = 1
    rows = torch.arange(128)[:,None].expand_as(arm)
    region = torch.zeros_like(arm)
    region[...,20:110,10:54] = 1
    parse = torch.where(rows < 80, LIP['upper-clothes'], LIP['pants'])
    frame |= dict(parse=torch.where(arm > 0, LIP['left-arm'], parse).to(frame['parse'].dtype), skin=arm,
                  masked=torch.cat([2*region - 1, frame['image']*(1 - region)], 2),
                  grid=identity_grid(128, 64)[None,None], cloth_mask=((rows > 8) & (rows < 100)).float(),
                  warped_cloth_mask=((rows > 8) & (rows < 100)).float())
    there = (arm > 0).expand_as(frame['image'])
    made = {n: draw_frame(frame, networks[n])[0]['result'] for n in ('bare', 'unet')}
    stays = {n: bool((x == frame['image'])[there].all()) for n,x in made.items()}
    assert stays == dict(bare=True, unet=False)
