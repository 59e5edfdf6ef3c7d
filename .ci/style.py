"Measures how the exported code is written: cells, lines, statements; `python .ci/style.py [notebook or folder ...]`."
import ast, json, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
limits = {'lines of a cell, median': 9, 'lines of a cell, 90th percentile': 22, 'lines of the longest function': 60,
          'lines over 120': 0, 'length of a line, 95th percentile': 105, 'nodes of a statement, 95th percentile': 34,
          'cells with several definitions, %': 8, 'nested conditional expressions': 0}


def exported(path):
    "Sources of the exported cells of a notebook"
    cells = json.loads(Path(path).read_text(encoding='utf8'))['cells']
    sources = (''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    return [s for s in sources if s.startswith('#| export')]


def percentile(values, p):
    "The value below which `p` percent of the others lie"
    values = sorted(values)
    return values[min(int(len(values)*p/100), len(values) - 1)]


def simple(node):
    "Is this a statement that holds no other statements?"
    return isinstance(node, ast.stmt) and not isinstance(getattr(node, 'body', None), list)


def nested(node):
    "Is this a conditional expression within another?"
    return isinstance(node, ast.IfExp) and any(isinstance(n, ast.IfExp) for n in ast.walk(node) if n is not node)


def measure(paths):
    "Figures of some notebooks, and the places that are over a limit"
    cells = [(p, s) for p in paths for s in exported(p)]
    bodies = [[l for l in s.splitlines() if l.strip() and not l.startswith('#|')] for _, s in cells]
    trees = [ast.parse(s) for _, s in cells]
    lines = [len(l) for b in bodies for l in b]
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    several = [sum(isinstance(n, kinds) for n in t.body) > 1 for t in trees]
    functions = [(n.end_lineno - n.lineno + 1, p, n.name) for (p, _), t in zip(cells, trees) for n in ast.walk(t)
                 if isinstance(n, kinds[:2])]
    sizes = [sum(1 for _ in ast.walk(n)) for t in trees for n in ast.walk(t) if simple(n)]
    doubled = [(p, n.lineno) for (p, _), t in zip(cells, trees) for n in ast.walk(t) if nested(n)]
    counts = [len(b) for b in bodies]
    values = (percentile(counts, 50), percentile(counts, 90), max(functions)[0] if functions else 0,
              sum(l > 120 for l in lines), percentile(lines, 95), percentile(sizes, 95),
              round(100*sum(several)/len(several), 1), len(doubled))
    places = [f'{p}: function {name} has {n} lines' for n, p, name in functions if n > 60]
    long = [(p, l) for (p, _), b in zip(cells, bodies) for l in b if len(l) > 120]
    places += [f'{p}: {l.strip()[:60]}... has {len(l)} characters' for p, l in long]
    places += [f'{p}: a conditional expression within another, line {n} of its cell' for p, n in doubled]
    return dict(zip(limits, values)), places


def notebooks(where):
    "Notebooks with exported cells, in some folders or by name"
    found = [p for w in map(Path, where) for p in (sorted(w.rglob('*.ipynb')) if w.is_dir() else [w])]
    return [p for p in found if '.ipynb_checkpoints' not in p.parts and exported(p)]


if __name__ == '__main__':
    figures, places = measure(notebooks(sys.argv[1:] or [root/'nbs']))
    for name, value in figures.items(): print(f'{value:7} {name} (at most {limits[name]})')
    print(*places, sep='\n')
    sys.exit(any(v > limits[k] for k, v in figures.items()))
