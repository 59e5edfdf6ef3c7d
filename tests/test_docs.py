"The documentation site: what is read from the notebooks, and the checks of links; `make docs` builds all of it"
import importlib, inspect, json, sys

import pytest
from conftest import repo
from shineon.cli.notebooks import read_options, run_notebook, run_notebooks

sys.path.insert(0, str(repo/'docs'))
import exported, make_site, site_links

@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    "Folder of the sources of the site"
    folder = tmp_path_factory.mktemp('site')
    make_site.stage(folder)
    return folder

notebooks = {p: exported.read_cells(make_site.nbs/p) for p in make_site.notebooks()}
modules = {m: cells for cells in notebooks.values() if (m := exported.module_of(cells))}

def test_every_notebook_has_a_place():
    "In a section of the map, once, and among the sources"
    listed = [n for *_, rows in make_site.sections() for n, _ in rows]
    assert sorted([*listed, 'index.ipynb', 'map.ipynb']) == sorted(notebooks)

def test_every_page_is_in_a_table_of_contents(sources):
    files = [p for p in sources.rglob('*') if p.suffix in ('.md', '.ipynb')]
    pages = {p.relative_to(sources).as_posix().removesuffix(p.suffix) for p in files}
    text = '\n'.join(p.read_text() for p in [*sources.rglob('*.md'), sources/'index.ipynb'])
    ways = '\n{}\n', '\n/{}\n', r'\n{}\n' # in a page, in the page of a room, in a notebook
    named = {n for n in pages if any(way.format(n) in text for way in ways)}
    assert pages - named - {f'api/{m}' for m in modules} == {'index'}
    assert all(f' <{m}>\n' in (sources/'api'/'index.md').read_text() for m in modules)

@pytest.mark.parametrize('module', modules)
def test_exports(module):
    "What is read from a notebook is what its module has: names, and their arguments"
    found = {e.name: e for e in exported.module_exports(modules[module]) if '.' not in e.name}
    there = importlib.import_module(module)
    assert sorted({*found, *exported.gathered(modules[module])}) == sorted(there.__all__)
    for name, e in found.items():
        o = getattr(there, name)
        if e.kind == 'data' or hasattr(o, '__signature__'): continue # `delegates` shows more than is written
        names = [a.name.lstrip('*') for a in e.arguments if a.name]
        if e.kind == 'function': assert names == list(inspect.signature(o).parameters), name
        elif names and '__init__' in vars(o): assert names == list(inspect.signature(o.__init__).parameters)[1:], name
        assert e.kind == 'class' or e.doc, name

def test_arguments_carry_their_comments():
    exports = {e.name: e for e in exported.module_exports(modules['shineon.models.spade'])}
    norm, ks = exports['SPADE'].arguments[2:4]
    assert (norm.name, norm.default, norm.comment) == ('norm', "'syncbatch'", 'syncbatch, batch or instance')
    assert (ks.type, ks.default, ks.comment) == ('int', '3', 'kernel size')
    assert [m.name for m in exports['SPADE'].methods] == ['SPADE.forward'] # which is patched in
    assert exports['resize_maps'].arguments[-1].comment == '`(b k h w)`' # what it returns
    every = [a for cells in modules.values() for e in exported.module_exports(cells) for a in e.arguments if a.name]
    assert sum(bool(a.comment) for a in every) > .97*len(every) > 1000

def test_pages_of_the_api(sources):
    text = (sources/'api'/'shineon.models.spade.md').read_text()
    assert '{py:class} SPADE(ch: int, label_ch: int' in text and '| `ks` | `int` | `3` | kernel size |' in text
    assert '../models/34_spade.html#defines-SPADE' in text
    notebook = json.loads((sources/'models'/'34_spade.ipynb').read_text())
    assert any('id="defines-SPADE"' in ''.join(c['source']) for c in notebook['cells'])

@pytest.mark.parametrize('name', [n for n in run_notebooks() if run_notebook(n).is_relative_to(repo)])
def test_options_are_tables(name, sources):
    cells = json.loads((sources/'runs'/f'{name}.ipynb').read_text())['cells']
    text = '\n'.join(c['source'] for c in cells)
    for o in read_options(run_notebook(name)): assert f'| `{o.name}` | `{o.type}` |' in text, o.name

def test_nothing_is_lost_or_added(sources):
    "Cells that readers see are as they are, without directives; outputs that need a kernel are left out"
    for path, cells in notebooks.items():
        code = [c for c in cells if c['cell_type'] == 'code' and c['source'] and not make_site.is_hidden(c)]
        staged = [c for c in json.loads((sources/path).read_text())['cells'] if c['cell_type'] == 'code']
        assert len(staged) == len(code), path
        assert not [c for c in staged if c['source'].startswith('#|')], path
        assert 'widget-view' not in json.dumps([c['outputs'] for c in staged]), path

# links

def test_links_become_links_between_pages():
    origin = make_site.nbs/'models'/'34_spade.ipynb'
    text = ('[a](../kernels/39_winograd.ipynb) [b](../../CONTRIBUTING.md#tests) [c](https://x.org/y) '
            '<img src="../images/way.svg">')
    assert make_site.relinked(text, origin) == text.replace('../../CONTRIBUTING', '../CONTRIBUTING')
    assert make_site.relinked('[a](nbs/models/34_spade.ipynb)', repo/'CHANGELOG.md') == '[a](models/34_spade.ipynb)'
    with pytest.raises(ValueError, match='settings.ini is not on the site'):
        make_site.relinked('[a](../settings.ini)', make_site.nbs/'index.ipynb')

def test_faults_are_found(tmp_path):
    page = lambda name, text: (tmp_path/f'{name}.html').write_text(text)
    page('a', '<h1 id="top">a</h1> <a href="b.html#x"></a> <a href="#top"></a> <a href="https://x.org"></a>')
    page('b', '<h1 id="x">b</h1> <img src="data:image/png;base64,00">')
    assert site_links.faults(tmp_path) == []
    outside = '<script src="https://x.org/s.js"></script>'
    page('c', f'<a href="d.html"></a> <a href="b.html#y"></a> {outside} <img src="p.png">')
    assert site_links.faults(tmp_path) == ['c.html: loads https://x.org/s.js', 'c.html: d.html: no such file',
                                      'c.html: b.html#y: no such place', 'c.html: p.png: no such file']

# Sphinx itself, where it is installed

def small_site(folder, text):
    "A small project: a front page, a map of one notebook, and that notebook"
    (folder/'nbs'/'models').mkdir(parents=True)
    rows = '| notebook | what |', '|---|---|', '| **models** | networks |', r'| [a](models/a.ipynb) | $\frac{1}{2}$ |'
    prose = lambda text: dict(cell_type='markdown', id='a', metadata={}, source=text)
    code = lambda text: dict(prose(text), cell_type='code', outputs=[], execution_count=None)
    def write(name, *cells):
        nb = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
        (folder/'nbs'/name).write_text(json.dumps(nb))
    write('index.ipynb', prose('# Front'))
    write('map.ipynb', prose('\n'.join(['# Map', '', *rows])))
    function = ['#| export', 'def double_it(', '    x:int, # a number', ') -> int: # twice as much',
                '    "Twice a number"', '    return 2*x']
    write('models/a.ipynb', code('#| default_exp models.a'), prose(f'# A\n\n> b\n\n{text}'), code('\n'.join(function)))
    (folder/'nbs'/'images').mkdir()

@pytest.mark.parametrize('prose, fault', [('Call `double_it`. See [the front](../index.ipynb).', ''),
                                          ('See [the front](../front.ipynb).', 'front'),
                                          ('*a* {nonsense}`b`', 'nonsense')])
def test_build(prose, fault, tmp_path, monkeypatch, capfd):
    pytest.importorskip('myst_nb', reason="pip install -e '.[docs]'")
    small_site(tmp_path, prose)
    places = dict(root=tmp_path, nbs=tmp_path/'nbs', pages={})
    for name, value in places.items(): monkeypatch.setattr(make_site, name, value)
    status = make_site.build(tmp_path/'site', tmp_path/'work')
    said = capfd.readouterr()
    if fault: assert status and fault in said.out + said.err
    else:
        assert status == 0, said
        page = (tmp_path/'site'/'api'/'shineon.models.a.html').read_text()
        assert 'twice as much' in page and 'defines-double_it' in page
        assert '<math' in (tmp_path/'site'/'rooms'/'models.html').read_text()
