"""Measures the code structure: sizes, public names and import order of the packages, read from the source.

    python benchmarks/house.py [ROOT...]      a column for each checkout; the current one if none is named

Nothing is imported. Levels and knots (import cycles) refer to the graph of packages. Its edges are all import
statements, including those within functions. A module outside packages counts as a package. Public methods are the
methods and properties without an underscore, of the class with the most. Parameters exclude `self`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

FOLDERS = {"ackd": "ackd", "ackd.envs": "envs", "ackd.agents": "agents"}
Graph = Mapping[str, set[str]]


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of a checkout by its name, parsed."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [one for one in path.relative_to(root / folder).with_suffix("").parts if one != "__init__"]
            found[".".join([package, *parts])] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[tuple[str, bool]]:
    """The modules of ours that one imports, and whether only where types are checked."""
    typing = [one for one in ast.walk(tree) if isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one.test)]
    apart = {id(one) for block in typing for one in ast.walk(block)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{one.name}" for one in node.names]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        for name in names:
            module = name if name in known else name.rpartition(".")[0]
            if module in known:
                yield module, id(node) in apart


def package(module: str) -> str:
    """The package, or module beside packages, that it is in; `ackd` for its own two files."""
    inner = module.removeprefix("ackd").strip(".").split(".")[0]
    return "ackd" if inner in ("", "__main__") else inner


def components(graph: Graph) -> list[set[str]]:
    """The strongly connected ones, each after those that it reaches (Tarjan, SIAM Journal on Computing 1, 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in order:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == order[node]:
            cut = stack.index(node)
            found.append(set(stack[cut:]))
            del stack[cut:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def levels(graph: Graph) -> int:
    """Packages on the longest way down, a knot counting as one."""
    height: dict[str, int] = {}
    for knot in components(graph):
        below = [height[other] for one in knot for other in graph.get(one, ()) if other not in knot]
        height |= dict.fromkeys(knot, 1 + max(below, default=0))
    return max(height.values())


def measured(root: Path) -> dict[str, str]:
    """The numbers of a checkout by their names."""
    known = modules(root)
    edges = [(name, *one) for name, tree in known.items() for one in imported(tree, known)]
    among: dict[str, set[str]] = {package(name): set() for name in known}
    between: dict[str, set[str]] = {name: set() for name in known}
    for name, other, types_only in edges:
        if not types_only and name != other:
            between[name].add(other)
            if "ackd" not in (package(name), package(other)) and package(name) != package(other):
                among[package(name)].add(package(other))
    functions = [
        one
        for tree in known.values()
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = sorted((one.end_lineno or one.lineno) - one.lineno + 1 for one in functions)
    parameters = sorted(_parameters(one) for one in functions)
    lines = {name: len((root / _file(root, name)).read_text(encoding="utf-8").splitlines()) for name in known}
    knots = [sorted(one) for one in components(among) if len(one) > 1]
    classes = [one for tree in known.values() for one in ast.walk(tree) if isinstance(one, ast.ClassDef)]
    biggest = max(classes, key=_public)
    longest = max(functions, key=lambda one: (one.end_lineno or 0) - one.lineno)
    flat = [one for one in (root / "ackd").glob("*.py") if not one.stem.startswith("__")]
    return {
        "modules flat in `ackd/`": str(len(flat)),
        "packages": str(len(among) - 1),
        "levels among packages": str(levels(among)),
        "knots among packages": "; ".join(" ".join(one) for one in knots) or "0",
        "import cycles among modules, lazy ones included": str(sum(len(one) > 1 for one in components(between))),
        "public methods of the biggest class": f"{_public(biggest)} ({biggest.name})",
        "parameters, 90 % and most": f"{parameters[int(0.9 * len(parameters))]}, {parameters[-1]}",
        "longest function": f"{lengths[-1]} lines ({longest.name})",
        "largest file": f"{max(lines.values())} lines ({max(lines, key=lambda name: lines[name])})",
        "`cli/`": f"{sum(count for name, count in lines.items() if package(name) == 'cli'):,} lines",
        "source": f"{sum(lines.values()):,} lines",
    }


def _file(root: Path, module: str) -> Path:
    base = next(one for one in ("ackd.envs", "ackd.agents", "ackd") if module == one or module.startswith(one + "."))
    path = root / FOLDERS[base] / Path(*module.removeprefix(base).strip(".").split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _parameters(one: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [each.arg for each in chain(one.args.posonlyargs, one.args.args, one.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _public(one: ast.ClassDef) -> int:
    return sum(isinstance(each, ast.FunctionDef) and not each.name.startswith("_") for each in one.body)


def main() -> None:
    """Prints the table."""
    roots = [Path(one) for one in sys.argv[1:]] or [Path(__file__).parents[1]]
    tables = [measured(root) for root in roots]
    print("| |" + "".join(f" {root.resolve().name} |" for root in roots))
    print("|---" * (len(roots) + 1) + "|")
    for name in tables[0]:
        print(f"| {name} |" + "".join(f" {table[name]} |" for table in tables))


if __name__ == "__main__":
    main()
