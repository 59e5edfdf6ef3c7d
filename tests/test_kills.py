"Runs that are killed, and disks that are full: nothing is lost"
import json, os, random, resource, signal, subprocess, sys, time

import pytest
from shineon.models.files import read_checkpoint
from test_runs import equal, train, weights

command = [sys.executable, '-m', 'shineon.cli.main']
long_run = ['--keep_epochs', 20, '--decay_epochs', 20, '--batch_size', 2, '--val_check_interval', .5,
            '--save_count', 7, '--keep', 2]

def finished(args, cwd, **kwargs):
    "Run a command to its end"
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, timeout=300, **kwargs)

def kill(process):
    "Kill a process and its children"
    children = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (*map(int, children), process.pid): os.kill(pid, signal.SIGKILL)

def going_on(name, vvt, tmp_path, kills, seed):
    """Kill a run at random moments, go on with it each time, and let it end.

    Returns the step of its checkpoint after each kill."""
    args = [*command, *train('warp', name, vvt, *long_run, '--checkpoint', 'last')]
    rng, steps = random.Random(seed), []
    last = tmp_path/'experiments'/name/'checkpoints'/'last.pt'
    nowhere = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(kills):
        begun = last.stat().st_mtime_ns if last.exists() else 0
        with subprocess.Popen(args, cwd=tmp_path, start_new_session=True, **nowhere) as p:
            while p.poll() is None and (not last.exists() or last.stat().st_mtime_ns == begun):
                time.sleep(.01) # until it trains
            time.sleep(rng.random()*.5)
            if p.poll() is not None: break # it came to its end
            kill(p)
        steps.append(read_checkpoint(last)['more']['step']) # whole
    r = finished(args, tmp_path)
    assert r.returncode == 0, r.stderr
    return steps

def check_kills(vvt, tmp_path, kills):
    r = finished([*command, *train('warp', 'whole', vvt, *long_run)], tmp_path)
    assert r.returncode == 0, r.stderr
    steps = going_on('killed', vvt, tmp_path, kills, 0)
    print('killed at steps', steps)
    assert len(steps) >= min(kills, 2) and steps == sorted(steps)
    folders = [tmp_path/'experiments'/n for n in ('whole', 'killed')]
    assert equal(*map(weights, folders))
    whole, killed = (json.loads((f/'metrics.json').read_text()) for f in folders)
    assert all(whole[k] == killed[k] for k in whole if k not in ('seconds', 'checkpoint'))

def test_killed_three_times(vvt, tmp_path): check_kills(vvt, tmp_path, 3)

@pytest.mark.long
def test_killed_twenty_times(vvt, tmp_path): check_kills(vvt, tmp_path, 20)

def test_full_disk(vvt, tmp_path):
    "A limit on the size of files stands for a full disk: the next checkpoint does not fit, the one before it is whole"
    args = [*command, *train('warp', 'full', vvt, '--save_count', 1)]
    r = finished([*args, '--decay_epochs', '0'], tmp_path)
    assert r.returncode == 0, r.stderr
    last = tmp_path/'experiments'/'full'/'checkpoints'/'last.pt'
    before, size = last.read_bytes(), last.stat().st_size
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size//2, size//2))
    r = finished([*args, '--checkpoint', 'last'], tmp_path, preexec_fn=limit)
    says = 'this checkpoint could not be written', 'Make room on the disk'
    assert r.returncode == 2 and all(t in r.stderr for t in says), r.stderr
    assert last.read_bytes() == before and not [f for f in last.parent.iterdir() if '.part' in f.name] # and no litter
    r = finished([*args, '--checkpoint', 'last'], tmp_path) # with room again
    assert r.returncode == 0, r.stderr
