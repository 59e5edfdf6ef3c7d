"Sphinx's configuration; make_site.py says where sources come from"
import re
from configparser import ConfigParser
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.logging import getLogger

log = getLogger(__name__)

settings = ConfigParser(delimiters='=', interpolation=None)
settings.read(Path(__file__).parent.parent/'settings.ini', encoding='utf8')

project, author, release = 'ShineOn workbench', settings['DEFAULT']['author'], settings['DEFAULT']['version']
project_copyright = author
extensions = ['myst_nb']
nb_execution_mode = 'off' # outputs are those of the notebooks
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'html_image', 'colon_fence']
myst_heading_anchors = 4
myst_update_mathjax = False
python_maximum_signature_line_length = 90
add_module_names = False
toc_object_entries_show_parents = 'hide'

# pages that need nothing from the network: formulas as MathML, which browsers draw themselves
html_math_renderer = 'mathml'
html_theme = 'furo'
html_title = f'{project} {release}'
html_static_path, html_css_files = ['site.css'], ['site.css']
html_copy_source = html_show_sphinx = html_show_copyright = False
html_theme_options = dict(top_of_page_buttons=[])
pygments_style, pygments_dark_style = 'friendly', 'github-dark'


def mathml(node, **kwargs):
    "A formula as MathML; a warning where a command is not known"
    text = re.sub(r'\\([bB]igg?)(?![a-zA-Z])', r'\\\1l', node.astext()).replace(r'\dots', r'\ldots')
    try: return tex2mathml(text, **kwargs)
    except MathError as e: log.warning(f'{e} in {text!r}', location=node)
    return escape(text)


def visit_inline(self, node):
    self.body.append(mathml(node))
    raise nodes.SkipNode


def visit_block(self, node):
    self.body.append(f'<div class="formula">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


class LinkNames(SphinxPostTransform):
    "Names of functions and classes in prose lead to their entries"
    default_priority = 300

    def run(self, **kwargs):
        entries = self.env.domains['py'].objects
        known = {name.rpartition('.')[2]: name for name, o in entries.items() if o.objtype in ('function', 'class')}
        known |= {name: name for name, o in entries.items() if o.objtype == 'module'}
        for node in list(self.document.findall(nodes.literal)):
            word = node.astext().removesuffix('()')
            name = known.get(word)
            if not name or word.islower() and '_' not in word and '.' not in word: continue # a word of everyday use
            if inside(node, nodes.reference, nodes.title, nodes.Invisible): continue
            entry = entries[name]
            if entry.docname == self.env.docname: continue
            uri = self.app.builder.get_relative_uri(self.env.docname, entry.docname) + f'#{entry.node_id}'
            link = nodes.reference('', '', internal=True, refuri=uri)
            node.replace_self(link)
            link += node


def inside(node, *kinds):
    "Does a node stand within one of these kinds?"
    while node := node.parent:
        if isinstance(node, kinds): return True
    return False


def setup(app):
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    app.add_post_transform(LinkNames)
