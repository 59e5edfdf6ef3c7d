"Follows the links of a site: every file and place that a page names must exist, and nothing may come from elsewhere"
import re
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote


class Page(HTMLParser):
    "Ids and links of a page"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ('id', 'name') if attrs.get(k)}
        for key in ('href', 'src', 'poster', 'data'):
            if attrs.get(key): (self.links if tag == 'a' else self.loaded).append(attrs[key])


def is_outside(link):
    "Does a link lead to another site, or carry its data with it?"
    return bool(re.match(r'\w+:|//', link))


def faults(site):
    "What is wrong with the links of a site: a line each"
    site = Path(site)
    files = {p.relative_to(site).as_posix() for p in site.rglob('*') if p.is_file()}
    pages = {f: Page((site/f).read_text(encoding='utf8')) for f in sorted(files) if f.endswith('.html')}
    wrong = []
    for path, page in pages.items():
        wrong += [f'{path}: loads {l}' for l in page.loaded if is_outside(l) and not l.startswith('data:')]
        for link in [*page.links, *page.loaded]:
            if is_outside(link): continue
            target, _, anchor = unquote(link).partition('#')
            file = normpath(join(dirname(path), target.partition('?')[0])) if target else path
            lost = anchor and file in pages and anchor not in pages[file].ids
            if file not in files: wrong.append(f'{path}: {link}: no such file')
            elif lost: wrong.append(f'{path}: {link}: no such place')
    return wrong
