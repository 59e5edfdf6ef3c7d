"What the notebooks export, read from their source: names, signatures, and the comments beside arguments"
import ast, io, json, tokenize
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path


@dataclass
class Argument:
    "One argument of a function, one field of a dataclass, or what a function returns"
    name: str # empty: what is returned
    type: str # as written; may be empty
    default: str # as written; empty: it has to be given
    comment: str # beside it in the source; may be empty


@dataclass
class Export:
    "A function, class, method or value of a module"
    name: str # with the class's before it for a method
    kind: str # function, class, method, property or data
    signature: str # arguments in brackets, and what is returned; of a value its source
    doc: str # docstring
    arguments: list[Argument]
    methods: list['Export'] = field(default_factory=list) # of a class


def parts(source):
    "Comments by line of some Python, and the line on which each header ends that begins with def"
    comments, headers, depth, start = {}, {}, 0, None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT: comments[token.start[0]] = token.string.lstrip('# ').strip()
        elif token.type == tokenize.NAME and token.string == 'def': start = token.start[0]
        elif token.type == tokenize.OP:
            depth += (token.string in '([{') - (token.string in ')]}')
            if token.string == ':' and not depth and start: headers[start], start = token.start[0], None
    return comments, headers


def text(node):
    "Source of a node; empty where there is none"
    return ast.unparse(node) if node else ''


def given(args):
    "Arguments of a function with their defaults, as `(prefix, argument, default)`"
    plain = [*args.posonlyargs, *args.args]
    defaults = [None]*(len(plain) - len(args.defaults)) + args.defaults
    rows = [('', a, d) for a, d in zip(plain, defaults)]
    if args.vararg: rows.append(('*', args.vararg, None))
    rows += [('', a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg: rows.append(('**', args.kwarg, None))
    return rows


def signature(rows, args, returns=None):
    "Arguments in brackets, as Python writes them"
    def one(prefix, arg, default):
        typed = f': {text(arg.annotation)}' if arg.annotation else ''
        equals = (' = ' if typed else '=') + text(default) if default else ''
        return f'{prefix}{arg.arg}{typed}{equals}'
    words = [one(*r) for r in rows]
    if args.kwonlyargs and not args.vararg: words.insert(len(words) - len(args.kwonlyargs) - bool(args.kwarg), '*')
    return f'({", ".join(words)})' + (f' -> {text(returns)}' if returns else '')


def function(node, comments, headers, name='', kind='function', method=False):
    "An `Export` of a function or method"
    rows = given(node.args)[method:]
    header, first = headers[node.lineno], node.lineno
    arguments = [Argument(p + a.arg, text(a.annotation), text(d), comments.get((d or a).end_lineno, ''))
                 for p, a, d in rows]
    if header == first: # all on one line: a comment there is about what it returns, or about its body
        for a in arguments: a.comment = ''
    below = node.body[0].lineno > header
    note = comments.get(header, '') if below else ''
    if node.returns or note: arguments.append(Argument('', text(node.returns), '', note))
    doc = ast.get_docstring(node) or ''
    return Export(name or node.name, kind, signature(rows, node.args, node.returns), doc, arguments)


def decorators(node):
    "Names of a function's decorators"
    return [text(d).partition('(')[0] for d in node.decorator_list]


def kind_of(node):
    "Is a function of a class a method or a property?"
    named = any(text(d) in ('property', 'cached_property', 'patch(as_prop=True)') for d in node.decorator_list)
    return 'property' if named else 'method'


def field_default(value):
    "The default that a dataclass field has"
    if isinstance(value, ast.Call) and text(value.func) == 'field':
        known = {k.arg: k.value for k in value.keywords}
        return text(known['default']) if 'default' in known else text(known.get('default_factory')) + '()'
    return text(value)


def class_(node, comments, headers):
    "An `Export` of a class, with its documented methods"
    functions = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    init = next((f for f in functions if f.name == '__init__'), None)
    arguments, brackets = [], ''
    if init:
        made = function(init, comments, headers, method=True)
        arguments, brackets = made.arguments, made.signature
    elif 'dataclass' in decorators(node):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        arguments = [Argument(f.target.id, text(f.annotation), field_default(f.value),
                              comments.get(f.end_lineno, '')) for f in fields]
        words = [f'{a.name}: {a.type}' + (f' = {a.default}' if a.default else '') for a in arguments]
        brackets = f'({", ".join(words)})'
    methods = [function(f, comments, headers, f'{node.name}.{f.name}', kind_of(f), method=True) for f in functions
               if public_method(f)]
    return Export(node.name, 'class', brackets, ast.get_docstring(node) or '', arguments, methods)


def public_method(node):
    "Does a method belong into the documentation?"
    shown = not node.name.startswith('_') or node.name == '__call__'
    return shown and ast.get_docstring(node) is not None


def patched(node):
    "The class that a function is patched into; empty where it is none"
    is_patch = {'patch', 'patch_to'} & set(decorators(node))
    return text(node.args.args[0].annotation) if is_patch and node.args.args else ''


def value(node, comments):
    "An `Export` of each name that an assignment defines"
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    source = text(node.value)
    for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
        yield Export(name, 'data', source if len(source) < 100 else '', comments.get(node.lineno, ''), [])


def cell_exports(source):
    "What one exported cell defines: `Export`s, methods of classes of other cells among them"
    comments, headers = parts(source)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef): yield class_(node, comments, headers)
        elif isinstance(node, ast.FunctionDef) and (owner := patched(node)):
            if public_method(node):
                yield function(node, comments, headers, f'{owner}.{node.name}', kind_of(node), method=True)
        elif isinstance(node, ast.FunctionDef): yield function(node, comments, headers)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)): yield from value(node, comments)


def is_exported(cell):
    "Does a cell go into the module?"
    return cell['cell_type'] == 'code' and ''.join(cell['source']).startswith('#| export')


def module_of(cells):
    "Name of the module that a notebook becomes; empty where it is none"
    for cell in cells:
        first = ''.join(cell['source']).partition('\n')[0]
        if first.startswith('#| default_exp '): return 'shineon.' + first.split()[-1]
    return ''


def module_exports(cells):
    "Public `Export`s of a notebook, in order; methods that are patched in stand with their class"
    found = {}
    for cell in cells:
        if not is_exported(cell): continue
        for e in cell_exports(''.join(cell['source'])):
            owner, _, method = e.name.rpartition('.')
            if owner in found: found[owner].methods.append(e)
            elif not e.name.startswith('_') and (method or e.name) == e.name: found[e.name] = e
            elif owner and not owner.startswith('_'): found[e.name] = e # of a class from elsewhere
    return list(found.values())


@lru_cache(200)
def read_cells(path):
    "Cells of a notebook"
    return json.loads(Path(path).read_text(encoding='utf8'))['cells']


def gathered(cells):
    "Names from other modules that a notebook's module hands on (`_all_`)"
    trees = [ast.parse(''.join(c['source'])) for c in cells if is_exported(c)]
    lists = [n.value for t in trees for n in t.body if isinstance(n, ast.Assign) and text(n.targets[0]) == '_all_']
    return [text(e).strip("'") for found in lists for e in found.elts]
