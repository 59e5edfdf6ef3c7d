"Writes README.md from nbs/index.ipynb."
import re
from pathlib import Path

from fastcore.nbio import read_nb

root = Path(__file__).parent.parent


def cell_text(cell):
    source = cell.source.strip()
    if cell.cell_type == 'markdown': return source
    if cell.cell_type != 'code' or not source or source.startswith(('#| hide', '#| default_exp')): return ''
    texts = [''.join(o.get('text') or o.get('data', {}).get('text/plain', '')) for o in cell.get('outputs', [])]
    shown = ''.join(t.rstrip() + '\n' for t in texts if t.strip())
    return f'```python\n{source}\n```' + (f'\n\n```\n{shown}```' if shown else '')


def readme():
    "Markdown of the index notebook; its pictures lie beside it"
    cells = (cell_text(c) for c in read_nb(root/'nbs'/'index.ipynb').cells)
    text = '\n\n'.join(t for t in cells if t)
    text = re.sub(r'(\]\(|src=")(?!\w+:|#)', r'\1nbs/', text).replace('nbs/../', '') # links: from nbs/ to the root
    return '<!-- made from nbs/index.ipynb by `make check`; edit that -->\n\n' + text + '\n'


if __name__ == '__main__': (root/'README.md').write_text(readme(), encoding='utf8')
