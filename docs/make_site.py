"""Builds the documentation site: `python docs/make_site.py` writes it to site/.

Notebooks become sources for Sphinx: without cells that readers do not need, with links into the API and tables of
options. Pages of the API are made of what notebooks export. Nothing is executed. At the end every internal link of
the site is followed."""
import json, re, shutil, subprocess, sys
from html import escape
from pathlib import Path
from posixpath import relpath

from exported import gathered, is_exported, module_exports, module_of, read_cells
from site_links import faults

here = Path(__file__).resolve().parent
root = here.parent
nbs = root/'nbs'
pages = {'CONTRIBUTING.md': 'CONTRIBUTING.md', 'CHANGELOG.md': 'CHANGELOG.md',
         'experiments/README.md': 'experiments.md'} # file of the project -> its place on the site
kinds = dict(function='function', method='method', property='property', data='data', **{'class': 'class'})


# the map: sections and notebooks, as nbs/map.ipynb lists them

def sections():
    "The rooms in the order of the map: `(name, what it is, [(notebook, what it is)])`"
    found = []
    for cell in read_cells(nbs/'map.ipynb'):
        for line in ''.join(cell['source']).splitlines():
            row = re.fullmatch(r'\| (.+?) \| ?(.*?) ?\|', line)
            if not row: continue
            if name := re.fullmatch(r'\*\*(.+)\*\*', row[1]): found.append((name[1], row[2], []))
            elif found: found[-1][2].extend((n, row[2]) for n in re.findall(r'\]\(([^)]+\.ipynb)\)', row[1]))
    first = ['tutorials', 'runs']
    return sorted(found, key=lambda s: first.index(s[0]) if s[0] in first else len(first))


def notebooks():
    "All notebooks, as paths from nbs/"
    found = (p.relative_to(nbs) for p in sorted(nbs.rglob('*.ipynb')))
    return [p.as_posix() for p in found if not any(part.startswith('.') for part in p.parts)]


# links between files of the project become links between pages

def place(file):
    "Where a file of the project lies among the sources of the site; `ValueError` where it does not"
    if file.is_relative_to(nbs): return file.relative_to(nbs).as_posix()
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
    if name in pages: return pages[name]
    raise ValueError(f'{name} is not on the site')


def relinked(text, origin):
    "Markdown with its links and pictures as they are on the site"
    def link(match):
        target, _, anchor = match[2].partition('#')
        if not target or re.match(r'\w+:', target): return match[0]
        to = relpath(place((origin.parent/target).resolve()), Path(place(origin)).parent.as_posix())
        return match[1] + to + ('#' + anchor if anchor else '')
    return re.sub(r'(\]\(|src=")([^)"\s]+)', link, text)


# pages of the API

def markdown(text):
    "A comment as markdown: words in backticks stay code, all else is plain"
    halves = text.split('`')
    plain = lambda s: re.sub(r'([\\*_<>\[\]$|~{}])', r'\\\1', s)
    if len(halves) % 2 == 0: return plain(text)
    return ''.join(f'`{table_code(h)}`' if i % 2 else plain(h) for i, h in enumerate(halves))


def table_code(text):
    "Code in the cell of a table"
    return text.replace('|', r'\|').replace('\n', ' ')


def code(text):
    "Code in backticks, or nothing"
    return f'`{table_code(text)}`' if text else ''


def argument_table(arguments):
    "A table of arguments: name, type, default, what they are"
    if not arguments: return ''
    rows = [f'| {code(a.name) or "*returns*"} | {code(a.type)} | {code(a.default)} | {markdown(a.comment)} |'
            for a in arguments]
    return '\n'.join(['| | type | default | |', '|---|---|---|---|', *rows]) + '\n'


def entry(export, notebook, depth=4):
    "An export as a directive of Sphinx's Python domain"
    name, fence = export.name.rpartition('.')[2], ':'*depth
    value = f'\n:value: {json.dumps(export.signature)}' if export.kind == 'data' and export.signature else ''
    brackets = export.signature if export.kind not in ('data', 'property') else ''
    directive = kinds[export.kind]
    if export.kind in ('method', 'property') and depth == 4: name = export.name # of a class from elsewhere
    source = f'<a class="cell" href="{notebook}#{anchor(export.name)}">cell in the notebook</a>' if depth == 4 else ''
    methods = [entry(m, notebook, 3) for m in export.methods]
    body = '\n\n'.join(p for p in (markdown(export.doc), source, argument_table(export.arguments), *methods) if p)
    return f'{fence}{{py:{directive}}} {name}{brackets}{value}\n\n{body}\n{fence}\n'


def anchor(name):
    "Id of the cell that defines a name"
    return f'defines-{name}'


def title_of(cells):
    "Title and subtitle of a notebook"
    text = next(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    title = re.search(r'^# (.+)$', text, flags=re.M)[1]
    subtitle = re.search(r'^> (.+)$', text, flags=re.M)
    return title, subtitle[1] if subtitle else ''


def api_page(module, path, cells):
    "The page of a module"
    title, subtitle = title_of(cells)
    notebook = f'../{Path(path).with_suffix(".html").as_posix()}'
    names = gathered(cells)
    more = ['It hands on: ' + ', '.join(f'`{n}`' for n in names) + '.'] if names else []
    entries = [entry(e, notebook) for e in module_exports(cells)]
    return '\n\n'.join([f'# {module}', subtitle, f'Defined in the notebook [{title}](../{path}).',
                        f':::{{py:module}} {module}\n:::', *more, *entries]) + '\n'


def contents(names):
    "A table of contents for the side bar"
    return '\n'.join(['```{toctree}', ':hidden:', '', *names, '```', ''])


# notebooks as sources

def options_tables(path):
    "The options of a run notebook, a table for each group"
    from shineon.cli.notebooks import fill_names, read_options
    groups = {}
    for o in read_options(path): groups.setdefault(o.group, []).append(o)
    for group, options in groups.items():
        rows = [f'| {code(o.name)} | {code(o.type)} | {code(repr(o.default))} | {markdown(fill_names(o.help))} |'
                for o in options]
        yield '\n'.join([f'## Options: {group}', '', '| option | type | default | |', '|---|---|---|---|', *rows])


def markdown_cell(text):
    "A new cell of prose"
    return dict(cell_type='markdown', id='', metadata={}, source=text)


def header(path, module):
    "A line under a notebook's title: where it and its module are"
    up = '../'*path.count('/')
    file = f'<a href="{up}_notebooks/{path}" download>nbs/{path}</a>'
    api = f' · module <a href="{up}api/{module}.html">{module}</a>' if module else ''
    return f'<p class="where">notebook {file}{api}</p>'


def names_line(cell, module, path):
    "A line above an exported cell: what it defines, with links to the entries"
    up = '../'*path.count('/')
    shown = [e for e in module_exports([cell]) if not e.name.rpartition('.')[2].startswith('_')]
    if not shown: return []
    links = [f'<a id="{anchor(e.name)}" href="{up}api/{module}.html#{module}.{e.name}">{escape(e.name)}</a>'
             for e in shown]
    return [markdown_cell(f'<p class="defines">{" ".join(links)}</p>')]


def shown_cell(cell):
    "A cell of code as readers see it: without directives, without outputs that need a kernel"
    lines = ''.join(cell['source']).splitlines()
    source = '\n'.join(line for line in lines if not line.startswith('#| ')).strip()
    outputs = [dict(o, data={k: v for k, v in o['data'].items() if 'widget' not in k}) if 'data' in o else o
               for o in cell['outputs']]
    tags = ['export'] if is_exported(cell) else []
    return dict(cell, source=source, outputs=outputs, metadata=dict(tags=tags))


def is_hidden(cell):
    "Is a cell not meant for readers?"
    return cell['cell_type'] == 'code' and ''.join(cell['source']).startswith(('#| hide', '#| default_exp'))


def titled(text, line):
    "Markdown with a line under its title"
    return re.sub(r'^(# .+)$', lambda title: f'{title[1]}\n\n{line}', text, count=1, flags=re.M)


def staged_cells(path):
    "Cells of a notebook as the site has them, without ids"
    file, under = nbs/path, True
    cells = read_cells(file)
    module = module_of(cells)
    for cell in cells:
        source = ''.join(cell['source'])
        if is_hidden(cell) or not source.strip(): continue
        if cell['cell_type'] == 'markdown':
            text = relinked(source, file)
            yield dict(cell, source=titled(text, header(path, module)) if under else text)
            under = False # the title is in the first one
        elif 'parameters' in cell['metadata'].get('tags', []):
            for table in options_tables(file): yield markdown_cell(table)
            yield dict(shown_cell(cell), metadata=dict(tags=['hide-input']))
        else:
            if is_exported(cell): yield from names_line(cell, module, path)
            yield shown_cell(cell)


def staged(path, *more):
    "A notebook as a source of the site"
    cells = [dict(c, id=f'c{i}') for i, c in enumerate([*staged_cells(path), *more])]
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    return dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)


def room_page(name, about, rows):
    "The page of a room: its notebooks"
    listed = [(title_of(read_cells(nbs/n))[0], f'../{n}', relinked(what, nbs/'map.ipynb')) for n, what in rows]
    return listing(name, about, 'notebook', listed) + contents('/' + n.removesuffix('.ipynb') for n, _ in rows)


def write(path, text):
    "Write a file, unless it is there already: Sphinx then reads again only what has changed"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding='utf8') != text: path.write_text(text, encoding='utf8')
    return path


def listing(title, about, head, rows):
    "A page with a table of pages"
    lines = [f'| [{name}]({link}) | {what} |' for name, link, what in rows]
    return '\n'.join([f'# {title}', '', about, '', f'| {head} | |', '|---|---|', *lines, '', ''])


def sources():
    "All sources of the site: `(place, text)`"
    rooms, modules = sections(), {}
    others = ('api/index', *(p.removesuffix('.md') for p in pages.values()))
    pages_of = ['map', *(f'rooms/{name}' for name, *_ in rooms), *others]
    front = [markdown_cell(contents(pages_of))]
    for path in notebooks():
        cells = read_cells(nbs/path)
        if module := module_of(cells):
            modules[module] = title_of(cells)[1]
            yield f'api/{module}.md', api_page(module, path, cells)
        more = front if path == 'index.ipynb' else []
        yield path, json.dumps(staged(path, *more), ensure_ascii=False)
    for name, *rest in rooms: yield f'rooms/{name}.md', room_page(name, *rest)
    about = 'Functions and classes of each module, with their arguments.'
    rows = [(m, f'{m}.md', markdown(what)) for m, what in modules.items()]
    short = [f'{m.partition(".")[2]} <{m}>' for m in modules] # in the side bar
    yield 'api/index.md', listing('API', about, 'module', rows) + contents(short)
    for file, name in pages.items(): yield name, relinked((root/file).read_text(encoding='utf8'), root/file)


def stage(to):
    "Write all sources of the site into a folder"
    written = {write(Path(to)/place, text) for place, text in sources()}
    shutil.copytree(nbs/'images', Path(to)/'images', dirs_exist_ok=True)
    for old in [p for p in Path(to).rglob('*') if p.suffix in ('.md', '.ipynb') and p not in written]: old.unlink()


def build(site, work):
    "Build the site; returns the exit status"
    stage(work/'source')
    command = [sys.executable, '-m', 'sphinx', '-b', 'html', '-c', here, '-d', work/'cache', '-W', '--keep-going', '-q']
    if status := subprocess.run([*map(str, command), str(work/'source'), str(site)]).returncode: return status
    for path in notebooks(): # as they are, to download
        (site/'_notebooks'/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nbs/path, site/'_notebooks'/path)
    wrong = faults(site)
    print(*wrong[:50], sep='\n')
    if not wrong: print(f'{len(list(site.rglob("*.html")))} pages, all links lead somewhere: {site}/index.html')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.path.insert(0, str(root))
    sys.exit(build(root/'site', root/'build'/'docs'))
