"""Runs the tests of notebooks, two at a time, each in a process of its own; those that failed are shown last, whole.

The processes are forks of this one, which has imported what most notebooks need: that takes ten seconds, once."""
import importlib, os, sys, tempfile
from pathlib import Path
from time import perf_counter

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root), str(root/'tests')]
import forks

at_once = 2
# `shineon` before torchvision; torch computes in one thread: others would not outlive a fork
os.environ |= {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
common = ('shineon', 'torch', 'fastai.vision.all', 'fastcore.test', 'matplotlib.pyplot', 'nbdev.test', 'nbdev.config',
          'papermill', 'ipywidgets', 'anywidget', 'av', 'cv2', 'torchmetrics', 'torch.utils.tensorboard')


def notebooks(where):
    "Notebooks under `where`; first the rooms whose notebooks make whole runs, so that none of these is left at the end"
    where = Path(where).resolve()
    found = [where] if where.is_file() else where.rglob('*.ipynb')
    seen = [p for p in found if not any(part.startswith('.') for part in p.relative_to(root).parts)]
    return sorted(seen, key=lambda p: (p.parent.name not in ('tutorials', 'cli', 'benchmarks'), p))


def test(path):
    "Test a notebook in this process, which ends with the result: 0, or 1 when a cell fails"
    from nbdev.config import get_config
    from nbdev.test import test_nb
    os.chdir(root/'nbs')
    flags = get_config().tst_flags
    passed, _ = test_nb(path, skip_flags=flags.split() if isinstance(flags, str) else flags, basepath=root)
    return 0 if passed else 1


def forked(path, out):
    "Begin a notebook's test in a fork, whose output goes to a file: its process id"
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        for stream in (1, 2): os.dup2(out.fileno(), stream)
        if forks.possible: forks.by_fork()
        status = test(path)
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def test_all(paths):
    "Test notebooks, a few at a time: the paths of those that failed, with what they printed"
    left, running, failed = list(paths), {}, []
    while left or running:
        while left and len(running) < at_once:
            path, out = left.pop(0), tempfile.TemporaryFile()
            running[forked(path, out)] = path, out, perf_counter()
        pid, status, used = os.wait4(-1, 0)
        path, out, start = running.pop(pid)
        seconds, cpu = perf_counter() - start, used.ru_utime + used.ru_stime
        how = 'FAILED' if status else 'ok    '
        print(f'{how} {path.relative_to(root)} {seconds:.0f} s, of the processor {cpu:.0f} s', flush=True)
        if not status: continue
        out.seek(0)
        failed.append((path.relative_to(root), out.read().decode(errors='replace')))
    return failed


if __name__ == '__main__':
    paths = notebooks(sys.argv[1])
    os.chdir(root)
    for name in common: importlib.import_module(name)
    failed = test_all(paths)
    for path, text in failed: print(f'\n== {path}\n{text[-20_000:]}')
    names = ', '.join(str(path) for path, _ in failed)
    sys.exit(f'\n{len(failed)} of {len(paths)} notebooks failed: {names}' if failed else 0)
