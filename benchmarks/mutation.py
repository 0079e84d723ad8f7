"""Finds and makes small mistakes in Python source, one at a time, with `ast`.

Code that cannot affect results is not changed: documentation, annotations, decorators, f-strings, texts of errors and
warnings, logging, `__repr__`, `__all__`, `assert`, `if TYPE_CHECKING`, the style of pictures, and guards such as
`strict=`.
"""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = ast.expr | ast.stmt

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.GtE, ast.LtE),
    ast.LtE: (ast.Gt, ast.Lt),
    ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = ("min max", "any all", "minimum maximum", "amin amax", "argmin argmax", "floor ceil", "mean sum", "zeros ones")
SWAPPED = {a: b for pair in _PAIRS for a, b in (pair.split(), pair.split()[::-1])}
DROPPED = {"abs", "sorted", "detach", "reversed", "clone"}  # a call of these is replaced by its argument
LOGGING = {"logger", "logging", "warnings"}
TYPING = {"TypeVar", "ParamSpec", "NewType", "cast"}
LOOKS = {"figure_of", "rc_context", "legend", "margins", "tight_layout", "grid", "spines"}  # calls
STYLES = {"STYLE", "DPI", "WIDTH", "COLOURS", "MARKERS", "DASHES", "__all__"}  # assigned names
FIELDS = {"annotation", "returns", "decorator_list", "exc", "cause", "ops", "op", "ctx"}  # fields of ast nodes
KEYWORDS = set(
    "strict flush encoding non_blocking stacklevel help description indent color linewidth alpha fontsize figsize dpi"
    " zorder pad markersize width height labelpad capsize rotation borderpad handlelength edgecolor".split()
)


@dataclass(frozen=True)
class Change:
    """One change of a file: where, what, and the text of the changed part before and after it."""

    number: int
    line: int
    function: str  # Class.method or function; empty for code that runs at import
    operator: str
    before: str
    after: str


def changes(source: str) -> list[Change]:
    """All changes of a file's source, in the order of the file."""
    found = []
    for number, (old, new, function, operator) in enumerate(_every(ast.parse(source))):
        found.append(Change(number, old.lineno, function, operator, _short(old), _short(new)))
    return found


def changed(source: str, number: int) -> str:
    """The source with the change of that number made; all around it stays, line for line."""
    old, new, _, _ = list(_every(ast.parse(source)))[number]
    text = ast.unparse(new)
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: old.lineno - 1])) + old.col_offset
    end = sum(map(len, lines[: (old.end_lineno or 0) - 1])) + (old.end_col_offset or 0)
    lost = "\n" * source.encode()[start:end].count(b"\n")
    text = f"{text}{lost}" if isinstance(new, ast.stmt) else f"({text}{lost})"
    return (source.encode()[:start] + text.encode() + source.encode()[end:]).decode()


def noted(source: str, path: str) -> str:
    """The source whose outermost functions first call `builtins.__entered__(path, name)`, where there is that."""
    tree, lines = ast.parse(source), source.encode().splitlines(keepends=True)
    for qualified, function in reversed(list(_functions(tree, ()))):
        first = next((part for part in function.body if not _is_text(part)), None)
        if first is not None:
            at = min([first.lineno, *(part.lineno for part in getattr(first, "decorator_list", ()))]) - 1
            call = f"__entered__({path!r}, {qualified!r})".encode()
            if first.lineno > function.lineno and not lines[at][: first.col_offset].strip():
                lines.insert(at, b" " * first.col_offset + call + b"\n")
            else:
                lines[at] = lines[at][: first.col_offset] + call + b"; " + lines[at][first.col_offset :]
    head = [part for part in tree.body if _is_text(part) or getattr(part, "module", "") == "__future__"]
    top = max((part.end_lineno or 0 for part in head), default=0)
    lines.insert(top, b'__entered__ = getattr(__import__("builtins"), "__entered__", lambda *_: None)\n')
    return b"".join(lines).decode()


def _functions(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, Function]]:
    """The outermost functions, in the order of the file."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, Function):
            yield ".".join((*names, part.name)), part
        elif isinstance(part, ast.stmt):
            yield from _functions(part, (*names, part.name) if isinstance(part, ast.ClassDef) else names)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def _every(node: ast.AST) -> Iterator[tuple[Node, Node, str, str]]:
    """What can be changed below a node: what is there, what takes its place, in which function, and the operator."""
    yield from _below(node, (), None)


def _below(node: ast.AST, names: tuple[str, ...], function: Function | None) -> Iterator[tuple[Node, Node, str, str]]:
    """The same; `function` is the outermost one around the node, and `names` lead to it."""
    for field, child in _parts(node):
        if _idle(field, child):
            continue
        around, inside = names, function
        if function is None and isinstance(child, ast.ClassDef | Function):
            around = (*names, child.name)
            inside = None if isinstance(child, ast.ClassDef) else child
        qualified = ".".join(around) if inside else ""
        for old, operator, new in _alternatives(child, inside):
            yield old, new, qualified, operator
        yield from _below(child, around, inside)


def _parts(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield field, item


def _idle(field: str, child: ast.AST) -> bool:
    """Whether nothing in that part of a node is changed."""
    if field in FIELDS:
        return True
    if isinstance(child, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if _is_text(child):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Call) and _root(child.value.func) in LOGGING:
        return True
    if isinstance(child, ast.Call) and (_last(child.func) in TYPING | LOOKS or _root(child.func) in LOGGING):
        return True
    if isinstance(child, ast.keyword):
        return child.arg in KEYWORDS
    if isinstance(child, ast.If):
        return _names(child.test) & {"TYPE_CHECKING", "__name__"} != set()
    if isinstance(child, ast.FunctionDef):
        return child.name == "__repr__"
    return isinstance(child, ast.Assign) and bool(STYLES & {getattr(target, "id", "") for target in child.targets})


def _alternatives(node: ast.AST, function: Function | None) -> Iterator[tuple[Node, str, Node]]:
    """Nodes that give way, the operators, and by what they are replaced."""
    match node:
        case ast.If() | ast.IfExp() | ast.While() if isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            yield node.test, "condition negated", ast.UnaryOp(ast.Not(), node.test)
        case ast.stmt() | ast.expr():
            for operator, new in _replaced(node, function):
                yield node, operator, new


def _replaced(node: Node, function: Function | None) -> Iterator[tuple[str, Node]]:
    match node:
        case ast.Compare():
            yield from _compared(node)
        case ast.BinOp():
            yield from _computed(node)
        case ast.AugAssign():
            yield from _computed(node)
            yield "statement deleted", ast.Pass()
        case ast.BoolOp():
            yield "and/or swapped", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield "not dropped", node.operand
        case ast.UnaryOp(op=ast.USub()):
            yield "minus dropped", node.operand
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.Call():
            yield from _called(node)
        case ast.Return():
            yield from _returned(node, function)
        case ast.stmt() if _deletable(node, function):
            yield "statement deleted", ast.Pass()


def _compared(node: ast.Compare) -> Iterator[tuple[str, Node]]:
    for index, old in enumerate(node.ops):
        for other in COMPARED[type(old)]:
            ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
            yield "comparison", ast.Compare(node.left, ops, node.comparators)


def _computed(node: ast.BinOp | ast.AugAssign) -> Iterator[tuple[str, Node]]:
    """The opposite operation, except for text, lists and types, on which it is none."""
    parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
    for part in parts:
        if isinstance(part, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple):
            return
        if isinstance(part, ast.Constant) and not isinstance(part.value, int | float):
            return
        if isinstance(node.op, ast.BitOr) and (isinstance(part, ast.Subscript) or _is_type(_last(part))):
            return
    if type(node.op) in COMPUTED:
        new = copy.copy(node)
        new.op = COMPUTED[type(node.op)]()
        yield "arithmetic", new


def _is_type(name: str) -> bool:
    return hasattr(builtins, name) or name[:1].isupper()


def _called(node: ast.Call) -> Iterator[tuple[str, Node]]:
    name = _last(node.func)
    if name in SWAPPED:
        func = copy.copy(node.func)
        setattr(func, "id" if isinstance(func, ast.Name) else "attr", SWAPPED[name])
        yield "call swapped", ast.Call(func, node.args, node.keywords)
    if name in DROPPED:
        if isinstance(node.func, ast.Attribute):
            yield "call dropped", node.func.value
        elif node.args:
            yield "call dropped", node.args[0]


def _returned(node: ast.Return, function: Function | None) -> Iterator[tuple[str, Node]]:
    if node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None):
        return
    kind = getattr(function.returns, "id", "") if function else ""
    zero = isinstance(node.value, ast.Constant) and not node.value.value
    value = 0 if kind in ("int", "float") and not zero else None
    yield f"returns {value}", ast.Return(ast.Constant(value))


def _deletable(node: ast.stmt, function: Function | None) -> bool:
    """Whether a statement can go without a name being unbound: calls, raises, jumps, and what is assigned again."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break() | ast.Delete():
            return True
        case ast.Raise():
            return node.exc is None or "NotImplementedError" not in _names(node.exc)
        case ast.Assign(targets=[ast.Name(id=name)]) if function is not None:
            bound = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
            before = (part for part in ast.walk(function) if getattr(part, "lineno", node.lineno) < node.lineno)
            stored = (part for part in before if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            return name in bound | {part.id for part in stored}
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return function is not None
    return False


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
