"Masks of garments that have to be guessed: those that look wrong are counted before training begins"
import numpy as np, pytest
from conftest import short, small
from PIL import Image
from shineon.cli.main import main
from shineon.data.check import check_data
from shineon.data.layouts import vvt_videos

def train(root, *more):
    command = ['train', '--model', 'warp', '--name', 'masks', '--vvt_dataroot', root, *small, *short, '--fast_dev_run']
    return main([str(o) for o in [*command, *more]])

def white(photo): return np.where(photo < 240, 250, 255)

def studio(photo): return np.minimum(photo, 200)

def with_mask_file(path):
    folder = path.parent.with_name(f'{path.parent.name}-mask')
    folder.mkdir()
    mask = np.zeros((128,64), np.uint8)
    mask[20:100,10:50] = 255
    Image.fromarray(mask).save(folder/f'{path.stem}.png')

@pytest.mark.parametrize('spoil, doubt', [(white, 'nearly empty'), (studio, 'nearly full')])
def test_doubtful_masks_are_counted(spoil, doubt, broken, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    photos = [v.cloth for v in vvt_videos(broken)[:2]]
    for p in photos: Image.fromarray(spoil(np.array(Image.open(p))).astype(np.uint8)).save(p)
    with_mask_file(photos[1]) # its mask is not guessed
    assert train(broken) == 0
    lines = [l for l in capsys.readouterr().out.splitlines() if 'doubtful' in l]
    assert len(lines) == 1 and lines[0].startswith('1 of 2 guessed garment masks are doubtful')
    assert str(photos[0]) in lines[0] and doubt in lines[0] and 'Give a mask file' in lines[0]
    assert 'cloth_mask_way' in lines[0] and 'shineon check' in lines[0]
    found = [f for f in check_data(broken, workers=1).findings if f.problem == 'doubtful mask' and doubt in f.what]
    assert [f.path for f in found] == [str(photos[0])] # by the same rule

@pytest.mark.parametrize('more', [(), ('--cloth_mask_way', 'ground')], ids=['as they are', 'guessed by their ground'])
def test_sound_masks_are_not_mentioned(more, broken, in_process, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    photo = vvt_videos(broken)[0].cloth
    if more: Image.fromarray(studio(np.array(Image.open(photo)))).save(photo)
    assert train(broken, *more) == 0
    assert 'doubtful' not in capsys.readouterr().out
