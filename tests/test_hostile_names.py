"Names and values of any characters: none meet in a file or lead outside, and every place shows them as text"
import csv, io, json, os, re, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import markdown, numpy as np, pytest, shineon # noqa: F401 (shineon before torchvision)
from hypothesis import configuration, given, settings, strategies as st
from shineon.cli.notebooks import Option, option_value
from shineon.core.errors import DataError, OptionError, ShineOnError, inside
from shineon.core.files import file_name, id_of
from shineon.core.media import write_png
from shineon.core.run_folder import Parts, read_params, run_folder, write_json, write_params
from shineon.core.text import csv_cell, html_text, latex_text, short_text, visible
from shineon.data.layouts import Frame, Video
from shineon.evaluate.measure import evaluate
from shineon.evaluate.page import _html_table, _label, box_plots, check_report, compare_report, report_files
from shineon.evaluate.tables import (aligned, difference_rows, differences, latex_table, markdown_lines, markdown_table,
                                     read_result, table_rows, text_table, write_tables)
from shineon.tryon.results import write_frame

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir())/'shineon-hypothesis') # not into the project
steady = settings(derandomize=True, deadline=None, database=None, max_examples=150)
few = settings(steady, max_examples=40)

# what a name may be: all of Unicode, halves of pairs among it, and what means something somewhere

awkward = ('/', '\\', '.', '..', '%', '%2F', '%~', '%u', '_', '-', '~', ' ', '\n', '\r', '\t', '\0', '\x1b[2J',
           '\x85', '\ufeff', '\u2028', '\u202e', '\ud800', '\udc80', '\udce2\udc82\udcac', '€', 'é', 'e\u0301',
           'a', 'A', 'b_c', '{seed}', '{', '}', '{}', '{0.__class__}', '$x$', '$\\frac', '#', '&amp;', '&', '<b>',
           '</td>', '"', "'", '`', '*', '**', '[x](y)', '|', '@', '=', '=1+1', '+', '.FOR.', '.json', '.mp4', 'CON',
           'nul', 'null', '0', '1e5', 'yes', ': ', '- ', '!!python')
anything = st.text(st.characters(exclude_categories=()), max_size=20)
composed = st.lists(st.sampled_from(awkward), max_size=6).map(''.join)
names = st.one_of(composed, anything, st.builds(lambda s,n: s*n, composed, st.sampled_from([40, 300])))
labels = st.lists(names, min_size=2, max_size=3, unique=True)

def relatives(id):
    "A name, and others that are easily taken for it"
    return {id, file_name(id), id.replace('/', '_'), id.replace('/', '%2F'), id.replace('\\', '/'), f'{id} ', f'{id}.',
            f'.{id}', f' {id}', f'{id}/', f'./{id}', f'../{id}', visible(id), id[:150], id + id, id.upper(), id.strip()}

# files

@steady
@given(st.lists(names, min_size=1, max_size=3))
def test_ids_never_meet_in_a_file(found):
    ids = set().union(*map(relatives, found))
    made = {id: file_name(id) for id in ids}
    assert len(set(made.values())) == len(ids)
    for id,name in made.items():
        assert '/' not in name and '\0' not in name and name not in ('', '.', '..') and len(os.fsencode(name)) <= 200
        assert id_of(name) == (None if '%~' in name else id)
        assert '%~' not in name or len(id.encode('utf8', 'surrogatepass')) > 60 # only long ones are shortened
        name.encode('utf8') # it can be printed

@few
@given(st.lists(names, min_size=1, max_size=3))
def test_file_names_exist_on_the_disk(found):
    made = {file_name(id) for id in set().union(*map(relatives, found))}
    with tempfile.TemporaryDirectory() as d:
        for name in made: (inside(d, name)).touch()
        assert set(os.listdir(d)) == made

@steady
@given(st.lists(names, min_size=1, max_size=3))
def test_parts_have_files_of_their_own(found):
    "No part's file is another one's, or its folder"
    ids, folder = sorted(set().union(*map(relatives, found))), Path('/a/run')
    files = list(Parts(folder, ids).files.values())
    assert len(set(files)) == len(ids)
    for f in files:
        assert f.parent.resolve() == (folder/'parts').resolve() and len(os.fsencode(f.name)) <= 255

@steady
@given(st.lists(names, min_size=1, max_size=3))
def test_runs_have_folders_of_their_own(found):
    "A name is refused in a line, or it has a folder that no other name has"
    with tempfile.TemporaryDirectory() as d:
        folders = []
        for name in sorted(set().union(*map(relatives, found)) - {''}):
            try: folders.append(run_folder(name, d).resolve())
            except ShineOnError as e: assert one_line(e)
        assert len(set(folders)) == len(folders)
        for f in folders: assert f.parent == Path(d).resolve()

def on_disk(name):
    "A name like this one that a file could have"
    name = re.sub('[/\0\ud800-\udbff]', 'x', name)[:60]
    return name if name.strip('. ') else f'{name}x'

possible = names.map(on_disk)
frames = possible.map(lambda n: n.replace('.FOR.', '.'))

@steady
@given(st.lists(st.tuples(possible, possible, frames), min_size=1, max_size=4, unique=True))
def test_results_have_files_of_their_own(triples):
    "Video, garment and frame: the file of a result is nobody else's"
    paths, folder = [], Path('/results')
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr('shineon.tryon.results.write_png', lambda path, picture: paths.append(path))
        for video,garment,stem in triples:
            cloth = Path(f'{garment}.png')
            write_frame(folder, Video(video, cloth, [Frame(f'{stem}.png')]), cloth, 0, None)
    assert len(set(map(str, paths))) == len(triples)
    for p in paths: assert p.resolve().is_relative_to(folder) and p.parent != folder

# options

plain = st.one_of(names, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
values = st.one_of(plain, st.lists(plain, max_size=4))
as_json = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))

def one_line(error):
    "Is a message there, in one line?"
    return bool(str(error).strip()) and len(visible(str(error), keep='').splitlines()) == 1

@steady
@given(st.dictionaries(st.sampled_from(['name', 'lr', 'methods', 'asked_for', 'seed']), values))
def test_options_survive_yaml(params):
    with tempfile.TemporaryDirectory() as d:
        write_params(Path(d), params, asked=params | dict(name='other'))
        assert read_params(Path(d)) == (params, params | dict(name='other'))

kinds = ['str', 'int', 'float', 'bool', 'list[str]', 'list[int]', 'list[float]', 'Union[float, int]']

@steady
@given(st.sampled_from(kinds), as_json)
def test_option_values_are_taken_or_refused(kind, value):
    option = Option('x', kind, None, '', '')
    try: taken = option_value(option, value, 'options.yaml')
    except OptionError as e: assert 'x is ' in str(e) and 'options.yaml' in str(e)
    else: assert option_value(option, taken) == taken

# places

class Page(HTMLParser):
    "Elements of a page, with their attributes and text"
    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), '']
        self.found.append(element)
        if tag not in ('img', 'meta', 'br'): self.open.append(element)

    def handle_endtag(self, tag): assert self.open.pop()[0] == tag
    def handle_data(self, text):
        for element in self.open: element[2] += text
    def of(self, tag): return [(a,text) for t,a,text in self.found if t == tag]
    def tags(self): return {t for t,*_ in self.found}

@steady
@given(names)
def test_pages_show_text(text):
    page = Page(f'<p title="{html_text(text)}">{html_text(text)}</p>')
    assert page.of('p') == [(dict(title=visible(text, keep='\n\t')), visible(text, keep='\n\t'))]
    assert page.tags() == {'p'}

def words(text): return ' '.join(text.split()) # in HTML, white space is one blank

@steady
@given(st.lists(names, min_size=1, max_size=3))
def test_markdown_shows_text(found):
    rows = [['name', 'x'], *([n, '1'] for n in found)]
    page = Page(markdown.markdown(markdown_lines(rows), extensions=['tables']))
    assert page.tags() <= {'table', 'thead', 'tbody', 'tr', 'th', 'td'}
    assert [words(text) for _,text in page.of('td')] == [words(visible(c)) for row in rows[1:] for c in row]

latex_tokens = re.compile(r'\\text(?:backslash|asciitilde|asciicircum|less|greater|bar)\{\}|\\[{}&%$#_]|\{[\[\]*]\}'
                          r'|\$\\(?:up|down)arrow\$|[^\\{}&%$#_~^<>|\[\]*]')
latex_names = {r'\textbackslash{}': '\\', r'\textasciitilde{}': '~', r'\textasciicircum{}': '^', r'\textless{}': '<',
               r'\textgreater{}': '>', r'\textbar{}': '|', r'$\uparrow$': '↑', r'$\downarrow$': '↓'}

def read_latex(text):
    "What LaTeX sets; an error where a special character is left"
    assert latex_tokens.sub('', text) == ''
    return ''.join(latex_names.get(t) or t.strip('{}' if t[0] == '{' else '').removeprefix('\\' if len(t) > 1 else '')
                   for t in latex_tokens.findall(text))

@steady
@given(names)
def test_latex_sets_text(text): assert read_latex(latex_text(text)) == visible(text)

def read_cell(cell): return re.sub(r"^'(?='*[=+@\t\n-])", '', cell) # without the apostrophe that says: text

@steady
@given(st.lists(names, min_size=1, max_size=3), st.floats(allow_nan=False))
def test_spreadsheets_compute_nothing(found, number):
    file = io.StringIO()
    csv.writer(file, lineterminator='\n').writerow([csv_cell(c) for c in (*found, number)])
    *cells, last = next(csv.reader(io.StringIO(file.getvalue(), newline='')))
    assert not any(c[:1] in tuple('=+-@\t\r\n') for c in cells)
    assert [read_cell(c) for c in cells] == [visible(n, keep='\t\n') for n in found]
    assert float(last) == number

@steady
@given(st.lists(names, min_size=1, max_size=3))
def test_terminals_show_text(found):
    table = aligned([['', 'x'], *([n, '1'] for n in found)])
    assert len(table.split('\n')) == len(found) + 1 and visible(table, keep='\n') == table
    assert all(line.split()[-1] == '1' for line in table.split('\n')[1:])
    table.encode('utf8')

# tables and pages

def result(ssim, videos=('video0', 'video1')):
    "A result as an evaluation writes it"
    per_frame = dict(ssim=[ssim, ssim - .1], flicker=[None, .01])
    mean = dict(ssim=ssim - .05, flicker=.01)
    video = dict(truth='x', paired=True, names=['000', '001'], frames=2, missing=[], extra=[])
    video |= dict(mean=mean, per_frame=per_frame)
    protocol = dict(name='shineon', networks={}, value_range=dict(ssim='[0, 1]'))
    said = dict(protocol=protocol, not_computed={}, problems=[], failed={})
    return dict(summary=mean, videos={k: video for k in videos}) | said

@few
@given(labels, labels)
def test_tables_of_any_names(methods, videos):
    named = {m: result(.9 - .1*i, videos) for i,m in enumerate(methods)}
    shown = [visible(m) for m in methods]
    assert [l.strip() != '' for l in text_table(named).split('\n')] == [True]*(len(named) + 1)
    rows = [l.removesuffix(r' \\') for l in latex_table(named).splitlines() if l.endswith(r'\\')]
    assert [read_latex(re.split(r'(?<!\\) & ', row)[0]) for row in rows[1:]] == shown
    assert latex_table(named).count(r'\textbf{') == 1 + len(named) # SSIM of one, flicker of all
    page = Page(markdown.markdown(markdown_table(named), extensions=['tables']))
    assert [words(text) for _,text in page.of('td')][::3] == [words(s) for s in shown]
    assert len(page.of('strong')) == 1 + len(named)
    page = Page(_html_table(table_rows(named, '<b>{}</b>', html_text)))
    assert [text for _,text in page.of('th')[3:]] == [visible(m, keep='\n\t') for m in methods]
    assert page.tags() == {'table', 'tr', 'th', 'td', 'b'}
    Page(_html_table([[html_text(c) for c in row] for row in difference_rows(differences(named))]))
    with tempfile.TemporaryDirectory() as d:
        files = write_tables(d, named)
        summary, whole, _, _, of_videos, of_frames = files
        first = lambda file, i=0: [row[i] for row in csv.reader(file.open(encoding='utf8', newline=''))][1:]
        assert [read_cell(c) for c in first(summary)] == [visible(m, keep='\n\t') for m in methods]
        assert [read_cell(c) for c in first(of_videos, 1)] == [visible(v, keep='\n\t') for v in videos]*len(methods)
        assert len(first(of_frames)) == 2*len(videos)*len(methods)
        assert list(json.loads(whole.read_text(encoding='utf8'))) == methods
    for m in methods: assert len(short_text(m)) <= 40 and '$' not in _label(m).replace(r'\$', '')

def nodes(values, path=()):
    "Paths of all values in a result"
    yield path
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for k,v in items: yield from nodes(v, (*path, k))

def changed(values, path, new):
    "A copy with another value at a path; without it for `None` there"
    if not path: return new
    copy = values.copy()
    copy[path[0]] = changed(values[path[0]], path[1:], new)
    return copy

@steady
@given(st.sampled_from(list(nodes(result(.9)))), as_json)
def test_result_files_of_any_content(path, new):
    "A result file is refused in one line, or all tables can be made of it"
    with tempfile.TemporaryDirectory() as d:
        write_json(Path(d)/'r.json', changed(result(.9), path, new))
        try: r = read_result(Path(d)/'r.json')
        except DataError as e: assert one_line(e) and 'r.json' in str(e)
        else:
            named = dict(a=r, b=result(.8))
            try: text_table(named), latex_table(named), write_tables(d, named), difference_rows(differences(named))
            except ShineOnError as e: assert one_line(e) # metrics that are not registered, two protocols

no_results = ['', '[', 'null', '7', '"x"', '{}', '[]', '{"summary": 1}', '\xff', '['*10**5, '{"videos": {}}']

@pytest.mark.parametrize('text', no_results, ids=lambda text: text[:14])
def test_no_result_files(text, tmp_path):
    (tmp_path/'r.json').write_text(text, encoding='latin-1')
    with pytest.raises(DataError) as e: read_result(tmp_path/'r.json')
    assert one_line(e.value) and 'r.json' in str(e.value)

@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device', 'link to nothing', 'too large'])
def test_result_files_are_plain_files(kind, tmp_path):
    path = tmp_path/'r.json'
    if kind == 'pipe': os.mkfifo(path)
    if kind == 'folder': path.mkdir()
    if kind == 'device': path.symlink_to('/dev/zero')
    if kind == 'link to nothing': path.symlink_to('nothing')
    if kind == 'too large': os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40)
    with pytest.raises(DataError, match='r.json'): read_result(path)

# a page on the disk

ids = ['a/b_c', 'a_b/c', '<b>"x"&amp;', '$\\frac %2F {seed}', 'two\nlines', 'not UTF-8 \udcff']
methods = ['@x@', '_<i>\n$\\frac$']

@pytest.fixture(scope='module')
def dressed(tmp_path_factory):
    "Folders of results and truth, with videos of such names"
    home = tmp_path_factory.mktemp('hostile')
    rng = np.random.default_rng(0)
    for k in ids:
        for i in range(2):
            picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            for n,folder in enumerate(('truth', 'one', 'two')):
                write_png(home/folder/k/f'{i}.png', picture + np.uint8(n))
    return home

@pytest.fixture(scope='module')
def measured(dressed):
    folders = dict(zip(methods, (dressed/'one', dressed/'two')))
    return folders, {n: evaluate(f, dressed/'truth', ['l1'], workers=0, log=lambda *_: None) for n,f in folders.items()}

def files(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())

def test_page_of_any_names(dressed, measured, tmp_path):
    "Every video has its file, every address leads to one, and nothing but the page's own elements is in it"
    folders, named = measured
    page = compare_report(folders, dressed/'truth', named, tmp_path/'page', n_cases=1, log=lambda *_: None)
    read = Page(page.read_text(encoding='utf8').replace('<!doctype html>', ''))
    videos = [unquote(a['src']) for a,_ in read.of('video')]
    shown = sorted(os.fsencode(k).decode('utf8', 'backslashreplace') for k in ids)
    assert [text for _,text in read.of('h3')] == [visible(k, keep='\n') for k in shown]
    assert [v.removeprefix('videos/').removesuffix('.mp4') for v in videos] == [file_name(k) for k in shown]
    assert [id_of(file_name(k)) for k in ids] == ids
    assert sorted(videos) == [f for f in files(tmp_path/'page') if f.startswith('videos/')]
    assert [text for _,text in read.of('h1')] == [' against '.join(visible(m, keep='\n') for m in methods)]
    assert read.tags() <= set('html head meta title style body h1 h2 h3 p div table tr th td b img video pre'.split())
    assert os.listdir(tmp_path) == ['page'] # neither a lock nor half a page

def test_page_replaces_a_page(dressed, measured, tmp_path):
    def write(n_videos, log=lambda *_: None):
        folders, named = measured
        compare_report(folders, dressed/'truth', named, tmp_path/'page', n_videos=n_videos, n_cases=0, log=log)
    write(2)
    before = files(tmp_path/'page')
    def stop(*_): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write(1, log=stop)
    assert files(tmp_path/'page') == before and os.listdir(tmp_path) == ['page']
    write(1)
    assert len(set(before) - set(files(tmp_path/'page'))) == 1

strangers = {'a note': 'notes.txt', 'a checkpoint': 'checkpoints/last.pt', 'another video': 'videos/mine.mov',
             'a page further down': 'more/index.html', 'a hidden file': '.env'}

@pytest.mark.parametrize('what', strangers)
def test_pages_replace_nothing_else(what, dressed, measured, tmp_path):
    folders, named = measured
    mine = tmp_path/'page'/strangers[what]
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    (tmp_path/'page'/'index.html').write_text('old')
    for refused in (lambda: check_report(tmp_path/'page'),
                    lambda: compare_report(folders, dressed/'truth', named, tmp_path/'page', log=lambda *_: None)):
        with pytest.raises(OptionError, match=re.escape(strangers[what])): refused()
    assert files(tmp_path) == sorted([f'page/{strangers[what]}', 'page/index.html']) and mine.read_text() == 'mine'

@pytest.mark.parametrize('place,words', {'file': 'no folder', '.': 'a folder of its own', '..': 'a folder of its own',
                                         'file/page': 'report', '/proc/page': 'cannot be written', 'x'*300: 'report',
                                         'a\0b': 'report'}.items(), ids=lambda s: s[:12].replace('\0', '0'))
def test_places_where_no_page_can_be(place, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'file').touch()
    with pytest.raises(OptionError, match=words) as e: check_report(place)
    assert one_line(e.value) and files(tmp_path) == ['file']

def test_pages_know_their_own_files(dressed, measured, tmp_path):
    "All that a page holds is in its list, so that it can be replaced"
    folders, named = measured
    compare_report(folders, dressed/'truth', named, tmp_path/'page', n_videos=1, n_cases=0, log=lambda *_: None)
    check_report(tmp_path/'page')
    kinds = {f.partition('/')[0] for f in files(tmp_path/'page')}
    assert kinds == {f.partition('/')[0] for f in report_files}

@pytest.mark.parametrize('label', ['$\\frac$', '$', '$$', '_hidden', 'two\nlines', '\udcff', 'x'*500, '', '\\$', '{}'])
def test_figures_of_any_names(label):
    import matplotlib.pyplot as plt
    fig = box_plots({label: result(.9), 'other': result(.8)})
    fig.axes[0].plot([0], label=_label(label))
    legend = fig.axes[0].legend()
    fig.canvas.draw()
    assert len(legend.get_texts()) == 1
    plt.close(fig)
