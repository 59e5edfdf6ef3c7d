"Runs the tests of notebooks, two at a time, each in a process of its own; those that failed are shown last, whole."
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

root = Path(__file__).parent.parent
nbdev_test = Path(sys.executable).with_name('nbdev-test')


def test(path):
    "The path, `nbdev-test`'s exit status and what it printed"
    start = perf_counter()
    done = subprocess.run([nbdev_test, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors='replace', env=os.environ | {'OMP_NUM_THREADS': '1'})
    print(f'{"FAILED" if done.returncode else "ok    "} {path} {perf_counter() - start:.0f} s', flush=True)
    return path, done.returncode, done.stdout


def notebooks(where):
    "Notebooks under `where`, last rooms first: the longest ones are there"
    where = Path(where)
    found = [where] if where.is_file() else where.rglob('*.ipynb')
    return sorted((p for p in found if not any(part.startswith('.') for part in p.parts)), reverse=True)


if __name__ == '__main__':
    os.chdir(root)
    with ThreadPoolExecutor(2) as pool: done = list(pool.map(test, notebooks(sys.argv[1])))
    failed = [d for d in done if d[1]]
    for path, status, text in failed: print(f'\n== {path}: exit status {status}\n{text[-20_000:]}')
    names = ', '.join(str(d[0]) for d in failed)
    sys.exit(f'\n{len(failed)} of {len(done)} notebooks failed: {names}' if failed else 0)
