"Nothing is lost: folders of runs, results and sample sets that hold somebody's work"
import json, os, shutil, subprocess, sys, time
from pathlib import Path

import pytest
from conftest import short, small
from shineon.cli.main import main
from shineon.core.files import hold, lock_beside, release
from shineon.core.run_folder import open_run

def contents(folder):
    "Bytes of every file in a folder, by path"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file()}

def train(root, name, *more):
    args = ['train', '--model', 'warp', '--name', name, '--vvt_dataroot', str(root), *small, *short]
    return [*args, *map(str, more)]

@pytest.fixture
def place(in_process, monkeypatch, tmp_path):
    "An empty folder to work in, with the code of notebooks in this process"
    monkeypatch.chdir(tmp_path)
    return tmp_path

@pytest.fixture
def call(place, capfd):
    "Call the command line: exit status, what it says on stderr"
    def run(*args):
        capfd.readouterr()
        status = main(list(map(str, args)))
        err = capfd.readouterr().err
        assert 'Traceback' not in err
        return status, err
    return run

def refused(answer, *texts):
    status, err = answer
    assert status == 2 and err.startswith('shineon: ') and err.count('\n') == 1, err
    for text in texts: assert str(text) in err, err

# names of runs

names = {'a slash': 'new/wa', 'a way out': '../wa', 'the folder itself': '.', 'the folder above': '..', 'hidden': '.wa',
         'a dot at the end': 'wa.', 'a blank at the end': 'wa ', 'a new line': 'w\na',
         'an escape sequence': 'w\x1b[31ma',
         'no UTF-8': 'w\udc80a', 'too long': 'w'*151, 'a name for old runs': 'wa.earlier', 'absolute': '/tmp/wa'}

@pytest.mark.parametrize('name', names.values(), ids=names)
@pytest.mark.parametrize('overwrite', [[], ['--overwrite']], ids=['new', 'overwrite'])
def test_names(name, overwrite, vvt, call, place):
    kept = place/'experiments'/'wa'/'checkpoints'
    kept.mkdir(parents=True)
    (kept/'last.pt').write_bytes(b'a week of work')
    refused(call(*train(vvt, name, *overwrite)), 'name ')
    assert contents(place) == {'experiments/wa/checkpoints/last.pt': b'a week of work'}

# what lies in the folder of a run

def as_run(folder, run, **more):
    "A copy of a trained run, and files beside it"
    shutil.copytree(run, folder)
    for name,text in more.get('files', {}).items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(text)
    for name in more.get('without', ()): (folder/name).unlink()

others = {'notes': dict(files={'notes.txt': 'mine'}),
          'weights for others': dict(files={'checkpoints/best.safetensors': 'x'}),
          'own notebook': dict(files={'analysis.ipynb': '{}'}), 'deep': dict(files={'checkpoints/old/a/b.pt': 'x'})}

@pytest.mark.parametrize('more', others.values(), ids=others)
def test_strangers_are_named(more, warp_run, vvt, call, place):
    as_run(folder := place/'experiments'/'wa', warp_run, **more)
    before = contents(place)
    refused(call(*train(vvt, 'wa', '--overwrite')), 'also holds', next(iter(more['files'])))
    assert contents(place) == before and folder.is_dir()

records = 'params.yaml', 'environment.json', 'metrics.json', 'train_warp.ipynb'

@pytest.mark.parametrize('without', [records[:1], records], ids=['options', 'all'])
def test_checkpoints_without_a_record(without, warp_run, vvt, call, place):
    as_run(place/'experiments'/'wa', warp_run, without=without)
    before = contents(place)
    refused(call(*train(vvt, 'wa')), 'there is a run of this name')
    assert contents(place) == before

def test_folder_of_somebody(vvt, call, place):
    (place/'experiments'/'wa').mkdir(parents=True)
    (place/'experiments'/'wa'/'thesis.tex').write_text('x')
    for overwrite in ([], ['--overwrite']): refused(call(*train(vvt, 'wa', *overwrite)), 'also holds thesis.tex')
    assert contents(place) == {'experiments/wa/thesis.tex': b'x'}

def test_file_in_place_of_a_folder(vvt, call, place):
    (place/'experiments').mkdir()
    (place/'experiments'/'wa').write_text('x')
    refused(call(*train(vvt, 'wa', '--overwrite')), 'this is no folder')
    assert contents(place) == {'experiments/wa': b'x'}

def other_kinds(vvt, warp_run):
    ckpt = warp_run/'checkpoints'/'last.pt'
    yield 'evaluate', ['evaluate', 'results', '--truth', vvt]
    yield 'compare', ['compare', 'results', '--truth', vvt]
    yield 'tryon', ['tryon', '--checkpoint', ckpt, '--vvt_dataroot', vvt, '--gpu_ids', '-1']
    yield 'train_unet', ['train', '--model', 'unet', '--vvt_dataroot', vvt, *small]

@pytest.mark.parametrize('kind', ['evaluate', 'compare', 'tryon', 'train_unet'])
def test_runs_of_another_kind(kind, warp_run, vvt, call, place):
    as_run(place/'experiments'/'wa', warp_run)
    before = contents(place)
    args = dict(other_kinds(vvt, warp_run))[kind]
    for more in (['--overwrite'], []): refused(call(*args, '--name', 'wa', *more), 'this is a run of train_warp')
    assert contents(place) == before

@pytest.mark.parametrize('args,text', [
    (['--lr', 'nan'], 'lr is nan'), (['--vvt_dataroot', 'nowhere'], 'nowhere'), (['--lr', '1e30'], 'is no number')])
def test_old_run_stays_until_the_new_one_is_whole(args, text, warp_run, vvt, call, place):
    as_run(folder := place/'experiments'/'wa', warp_run)
    before = contents(folder)
    refused(call(*train(vvt, 'wa', '--overwrite', *args)), text)
    earlier = folder.with_name('wa.earlier')
    kept = contents(earlier if earlier.exists() else folder)
    assert {k: kept.get(k) for k in before} == before

def test_a_second_failure_keeps_it_too(warp_run, vvt, call, place):
    as_run(folder := place/'experiments'/'wa', warp_run)
    before = contents(folder)
    for _ in range(2): refused(call(*train(vvt, 'wa', '--overwrite', '--lr', '1e30')), 'is no number')
    assert contents(folder.with_name('wa.earlier')) == before
    status, err = call(*train(vvt, 'wa', '--overwrite'))
    assert status == 0 and not folder.with_name('wa.earlier').exists(), err

damage = {'no environment': ('environment.json', None), 'a list': ('environment.json', '[1, 2]'),
          'no JSON': ('environment.json', '{'), 'deep': ('environment.json', '['*100_000),
          'a list of figures': ('metrics.json', '[]')}

@pytest.mark.parametrize('file,text', damage.values(), ids=damage)
def test_going_on_loses_nothing(file, text, warp_run, vvt, call, place):
    as_run(folder := place/'experiments'/'wa', warp_run)
    if text is None: (folder/file).unlink()
    else: (folder/file).write_text(text)
    before = (folder/'checkpoints'/'last.pt').stat().st_size
    status, err = call(*train(vvt, 'wa', '--checkpoint', 'last'))
    assert status == 0, err
    assert abs((folder/'checkpoints'/'last.pt').stat().st_size - before) < before/2
    assert json.loads((folder/'environment.json').read_text())['notebook'] == 'train_warp'

# one writer

def test_another_process_writes(held_by_another, vvt, call, place):
    p = held_by_another(lock_beside(place/'experiments'/'wa'))
    refused(call(*train(vvt, 'wa')), 'is being written by process', p.pid)
    assert not (place/'experiments'/'wa').exists()

def test_a_dead_process_holds_nothing(held_by_another, place):
    lock = lock_beside(place/'wa')
    p = held_by_another(lock)
    p.kill(); p.wait()
    assert lock.exists() # nobody could take it away
    hold(lock, 'this run')
    release(lock)
    assert not lock.exists()

def test_a_process_elsewhere_is_asked_about(place):
    lock = lock_beside(place/'wa')
    lock.write_text(json.dumps(dict(pid=7, host='node12', time=time.time())))
    with pytest.raises(Exception, match='process 7 on node12 .*remove'): hold(lock, 'this run')
    assert lock.exists()

@pytest.mark.parametrize('text', ['', 'x', '[]', '{"pid": []}', '{"host": 5}',
                                  '{"pid": 1, "host": "a", "time": 1e300}', '[' * 4000, '\0'*5000])
def test_locks_of_any_content(text, place):
    lock = lock_beside(place/'wa')
    lock.write_text(text)
    hold(lock, 'this run') # nobody holds it, and it names no other machine
    release(lock)
    assert not lock.exists()

def test_one_of_two_that_start_together(place):
    "Of many processes that ask at the same moment one gets the lock"
    code = '''
import sys, time
from shineon.core.files import hold
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try: hold(sys.argv[1], 'this run')
except Exception: print('refused')
else: print('got it'); time.sleep(3)
'''
    start = [sys.executable, '-c', code, str(place/'x.lock'), str(time.time() + 2)]
    begun = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert sorted(p.communicate()[0] for p in begun) == ['got it\n'] + ['refused\n']*5

# torchrun's variables, left by something else

halves = {'RANK alone': dict(RANK='1'), 'first RANK alone': dict(RANK='0'), 'WORLD_SIZE alone': dict(WORLD_SIZE='2'),
          'no address': dict(RANK='0', WORLD_SIZE='2'), 'too large': dict(RANK='5', WORLD_SIZE='2'),
          'no numbers': dict(RANK='a', WORLD_SIZE='b'), 'none': dict(RANK='0', WORLD_SIZE='0'),
          'negative': dict(RANK='-1', WORLD_SIZE='1'), 'empty': dict(RANK='', WORLD_SIZE='')}

@pytest.mark.parametrize('variables', halves.values(), ids=halves)
def test_half_an_environment(variables, vvt, call, place, monkeypatch):
    for k,v in variables.items(): monkeypatch.setenv(k, v)
    refused(call(*train(vvt, 'wa')), 'torchrun')
    assert contents(place) == {}

# results

def tryon(vvt, warp_run, *more):
    ckpt = warp_run/'checkpoints'/'last.pt'
    return ['tryon', '--name', 'dress', '--checkpoint', ckpt, '--vvt_dataroot', vvt, '--gpu_ids', '-1', *more]

@pytest.fixture
def results(place, call, vvt, warp_run):
    "Results of a list of two lines"
    lines = (vvt/'tryon_list.csv').read_text().splitlines()
    (place/'two.csv').write_text('\n'.join([lines[0], lines[-1]]))
    (place/'one.csv').write_text(lines[0])
    assert call(*tryon(vvt, warp_run, '--tryon_list', 'two.csv'))[0] == 0
    return place/'test_results'/'dress'

def videos(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*/*.mp4'))

def test_results_of_a_longer_list(results, call, vvt, warp_run):
    assert len(videos(results)) == 2
    status, err = call(*tryon(vvt, warp_run, '--tryon_list', 'one.csv', '--overwrite'))
    assert status == 0 and len(videos(results)) == 1, err
    assert not results.with_name('dress.earlier').exists()
    assert len(json.loads((results/'run.json').read_text())['try_ons']) == 1

def test_results_that_hold_more(results, call, vvt, warp_run):
    (results/'best_of.mp4').touch()
    before = contents(results)
    refused(call(*tryon(vvt, warp_run, '--overwrite')), 'also holds best_of.mp4')
    assert contents(results) == before

def test_results_of_a_run_elsewhere(results, call, vvt, warp_run):
    before = contents(results)
    for more in ([], ['--overwrite'], ['--resume']):
        refused(call(*tryon(vvt, warp_run, '--experiments_dir', 'others', *more)), 'these are results of the run')
    assert contents(results) == before

def test_results_without_a_run(results, call, place, vvt, warp_run):
    shutil.rmtree(place/'experiments')
    before = contents(results)
    refused(call(*tryon(vvt, warp_run)), 'results of an earlier run')
    assert contents(results) == before

def test_folder_that_is_no_result(place, call, vvt, warp_run):
    (place/'test_results'/'dress'/'a').mkdir(parents=True)
    (place/'test_results'/'dress'/'a'/'holiday.png').touch()
    for more in ([], ['--overwrite']): refused(call(*tryon(vvt, warp_run, *more)), 'not the results of a try-on')

def test_photos_of_one_name(place, call, vvt, warp_run):
    photo, video = (vvt/'tryon_list.csv').read_text().splitlines()[0].split(',')
    for name in ('a/shirt.png', 'b/Shirt.png'):
        (place/name).parent.mkdir()
        shutil.copy(vvt/photo, place/name)
    (place/'list.csv').write_text(f'a/shirt.png,{video}\nb/Shirt.png,{video}\n')
    refused(call(*tryon(vvt, warp_run, '--tryon_list', 'list.csv')), 'would be written to one file', 'b/Shirt.png')
    assert not (place/'test_results').exists()
    (place/'list.csv').write_text(f'a/shirt.png,{video}\n./a/shirt.png,{video}\n')
    status, err = call(*tryon(vvt, warp_run, '--tryon_list', 'list.csv'))
    assert status == 0, err
    assert json.loads((place/'experiments'/'dress'/'metrics.json').read_text())['try_ons'] == 1

def test_evaluation_looks_first(results, call, vvt, place):
    args = 'evaluate', results, '--name', 'fig', '--metrics', 'l1', '--gpu_ids', '-1'
    status, err = call(*args, '--truth', vvt)
    assert status == 0, err
    before = contents(place/'experiments'/'fig')
    for more in (['--truth', 'nowhere'], ['--truth', place/'experiments'], ['--truth', vvt, '--out', '/proc/f.json']):
        refused(call(*args, *more, '--overwrite'))
        assert contents(place/'experiments'/'fig') == before

# sample sets

def test_sample_over_a_set_with_more(call, place):
    make = 'sample', 'vvt', '--n_train', 2, '--n_test', 1, '--n_frames', 2, '--height', 64, '--width', 48
    assert call(*make)[0] == 0
    (place/'vvt'/'test'/'notes.txt').write_text('mine')
    before = contents(place)
    refused(call(*make), 'also holds test/notes.txt')
    assert contents(place) == before
    (place/'vvt'/'test'/'notes.txt').unlink()
    assert call(*make)[0] == 0
    assert os.listdir(place) == ['vvt'] # no litter

def test_sample_while_another_writes(call, place, held_by_another):
    held_by_another(lock_beside(place/'vvt'))
    refused(call('sample', 'vvt', '--n_train', 2, '--n_test', 1, '--n_frames', 2), 'is being written by process')
    assert not (place/'vvt').exists()

def test_record_of_a_run_in_jupyter(place):
    "A run that a notebook opens by hand holds its folder until it is closed"
    open_run(place/'hand', dict(seed=0), notebook='tryon')
    assert lock_beside(place/'hand').exists()
    release(lock_beside(place/'hand'))
