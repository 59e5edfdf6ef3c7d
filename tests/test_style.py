"How the code is written: figures within their limits, names that stand once, classes that are shown at work"
import ast, importlib.util, json, re
from collections import defaultdict

import pytest
from conftest import repo

spec = importlib.util.spec_from_file_location('style', repo/'.ci'/'style.py')
style = importlib.util.module_from_spec(spec)
spec.loader.exec_module(style)

notebooks = style.notebooks([repo/'nbs'])
name_of = lambda path: str(path.relative_to(repo))
modules = sorted(p for p in (repo/'shineon').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
runs = sorted((repo/'nbs'/'runs').glob('*.ipynb'))

# figures

@pytest.fixture(scope='module')
def measured(): return style.measure(notebooks)

@pytest.mark.parametrize('figure', style.limits)
def test_figures(figure, measured):
    figures, places = measured
    assert figures[figure] <= style.limits[figure], '\n'.join(places[:10])

def test_figures_tell_dense_code_apart(tmp_path):
    "Each figure is over its limit for a cell that is written so"
    long = 'y = [' + ', '.join(f'(a{i} if b{i} else (c{i} if d{i} else e{i}))' for i in range(6)) + ']'
    cell = '#| export\ndef f():\n' + f'    {long}\n'*70 + 'def g(): pass\n'
    cells = [dict(cell_type='code', source=cell)]
    (tmp_path/'dense.ipynb').write_text(json.dumps(dict(cells=cells)))
    figures, places = style.measure([tmp_path/'dense.ipynb'])
    assert [k for k,v in figures.items() if v <= style.limits[k]] == []
    assert len(places) == 1 + 70 + 70*6 # the function, its lines, their conditional expressions

# names

def defined(path):
    "Public functions and classes that a module defines"
    tree = ast.parse(path.read_text(encoding='utf8'))
    assigned = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    exported = ast.literal_eval(assigned['__all__'])
    kinds = ast.FunctionDef, ast.ClassDef
    return [n.name for n in tree.body if isinstance(n, kinds) and n.name in exported]

def test_names_stand_once():
    homes = defaultdict(list)
    for path in modules:
        for name in set(defined(path)): homes[name].append(name_of(path))
    assert {n: where for n,where in homes.items() if len(where) > 1} == {}

@pytest.mark.parametrize('path', modules, ids=name_of)
def test_no_module_repeats_its_package(path):
    assert path.stem != path.parent.name

# classes

def classes_of(cells):
    "Public classes that are defined in exported cells"
    trees = [ast.parse(c) for c in cells if c.startswith('#| export')]
    return [n.name for t in trees for n in t.body if isinstance(n, ast.ClassDef) and not n.name.startswith('_')]

@pytest.mark.parametrize('path', notebooks, ids=name_of)
def test_classes_are_shown_at_work(path):
    cells = json.loads(path.read_text(encoding='utf8'))['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    shown = '\n'.join(c for c in code if not c.startswith('#| export'))
    assert [n for n in classes_of(code) if not re.search(rf'\b{n}\b', shown)] == []

# nobody asks for a network's class, or for an attribute of the Learner by its name

def source_of(path):
    "Python of a module or of a notebook"
    text = path.read_text(encoding='utf8')
    if path.suffix == '.py': return text
    return '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'code')

def calls_of(tree, *names):
    "Calls of the functions with these names"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names: yield node

def ladder(source):
    "Calls that ask for a network's class or for a Learner's attribute"
    tree = ast.parse(source)
    for node in calls_of(tree, 'isinstance', 'issubclass'):
        if re.search(r'\b(UNetMask|WarpModule|SamsGenerator)\b', ast.unparse(node.args[1])): yield ast.unparse(node)
    for node in calls_of(tree, 'getattr', 'hasattr'):
        of, name = node.args[:2]
        if isinstance(name, ast.Name): continue # all of a list, such as what is kept and put back
        if re.search(r'\blearn$', ast.unparse(of)): yield ast.unparse(node)

@pytest.mark.parametrize('path', modules + runs, ids=name_of)
def test_nobody_asks_for_a_class(path):
    assert list(ladder(source_of(path))) == []

def test_ladders_are_found():
    ladders = ['isinstance(m, (UNetMask, int))', "hasattr(self.learn, 'gan')", "getattr(learn, 'gan', None)"]
    others = 'isinstance(m, Tensor)', "getattr(options, 'learn')", '{n: getattr(learn, n) for n in names}'
    assert list(ladder('\n'.join([*ladders, *others]))) == ladders

# the front page

def test_the_front_page_leads_everywhere():
    "Its links, and those of the map, lead to files that exist, and to every notebook"
    cells = json.loads((repo/'nbs'/'map.ipynb').read_text(encoding='utf8'))['cells']
    map_of = '\n'.join(''.join(c['source']) for c in cells)
    text = (repo/'README.md').read_text(encoding='utf8') + re.sub(r'\]\((?!\w+:|#)', '](nbs/', map_of)
    links = set(re.findall(r'(?:\]\(|src=")(?!\w+:|#)([^)"]+)', text))
    assert [l for l in sorted(links) if not (repo/l).exists()] == []
    everything = [name_of(p) for p in sorted((repo/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
    assert set(everything) - links == {'nbs/index.ipynb'}
