"""`benchmarks/mutants.py`, on a tree of one module and one test file."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutants, mutation
from benchmarks.mutant_tests import groups

SOURCE = '''"""1 + 1"""

import logging
from typing import TYPE_CHECKING

__all__ = ["clip"]
if TYPE_CHECKING:
    LIMIT = 2

logger = logging.getLogger("small")


def clip(value: int, most: int = 3) -> int:
    """At most `most`, at least 0."""
    if value < 0:
        raise ValueError(f"{value + 1} is below {0 - 0}")
    logger.info("%d", 1 + 1)
    assert most > 0
    return min(value, most)


class Small:
    seen = False

    def __repr__(self) -> str:
        return str(1)

    def see(self, ready, *others):
        self.seen = not ready and others[-1]
'''
TEST = """
import pytest
from ackd.small import clip

def test_ends_of_the_range():
    assert [clip(value) for value in (0, 2, 3, 4)] == [0, 2, 3, 3]

def test_what_is_below():
    with pytest.raises(ValueError):
        clip(-1)
"""
CLIP = [
    ("constant", "3", "4"),
    ("comparison", "value < 0", "value >= 0"),
    ("comparison", "value < 0", "value <= 0"),
    ("constant", "0", "1"),
    ("returns 0", "return min(value, most)", "return 0"),
    ("call swapped", "min(value, most)", "max(value, most)"),
]


def test_what_can_be_changed() -> None:
    found = mutation.changes(SOURCE)
    clip = [
        (c.operator, c.before, c.after) for c in found if c.function == "clip" and c.operator != "statement deleted"
    ]
    assert clip == CLIP
    assert [c.before.partition("(")[0] for c in found if c.operator == "statement deleted"] == [
        "raise ValueError", "self.seen = not ready and others[-1]",
    ]  # fmt: skip
    rest = [(c.operator, c.function, c.after) for c in found if c.function != "clip"][1:]
    assert ("constant", "", "True") in [(c.operator, c.function, c.after) for c in found]  # Small.seen
    assert {operator for operator, _, _ in rest} == {
        "statement deleted", "and/or swapped", "not dropped", "minus dropped", "constant",
    }  # fmt: skip
    assert {function for _, function, _ in rest} == {"Small.see"}


def test_each_mutant_differs_in_one_place_and_is_python() -> None:
    plain = SOURCE.splitlines()
    found = mutation.changes(SOURCE)
    for change in found:
        lines = mutation.changed(SOURCE, change.number).splitlines()
        compile("\n".join(lines), "small", "exec")
        assert len(lines) == len(plain)
        assert sum(a != b for a, b in zip(lines, plain, strict=True)) == 1, change
    assert len({ast.unparse(ast.parse(mutation.changed(SOURCE, change.number))) for change in found}) == len(found)


def test_what_a_function_notes_leaves_the_rest_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[tuple[str, str]] = []
    monkeypatch.setattr("builtins.__entered__", lambda *where: entered.append(where), raising=False)
    space: dict[str, Any] = {"__name__": "small"}
    exec(mutation.noted(SOURCE, "ackd/small.py"), space)
    assert space["clip"](7) == 3
    space["Small"]().see(True)
    assert entered == [("ackd/small.py", "clip"), ("ackd/small.py", "Small.see")]
    assert space["clip"].__doc__ == "At most `most`, at least 0."


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, content in {
        "ackd/__init__.py": "",
        "ackd/cli.py": "",
        "ackd/small.py": SOURCE,
        "agents/__init__.py": "",
        "envs/__init__.py": "",
        "tests/test_small.py": TEST,
        "tests/test_else.py": "import ackd.small\n\ndef test_it_imports():\n    assert ackd.small\n",
        "tests/test_nothing.py": "def test_nothing():\n    pass\n",
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_seed_draws_the_same_and_fewer_are_the_beginning_of_more(tree: Path) -> None:
    all_of_them, sites = mutants.drawn(tree, 1000, seed=0)
    assert len(all_of_them) == sites == len(mutation.changes(SOURCE))
    assert mutants.drawn(tree, 5, seed=0)[0] == all_of_them[:5]
    assert mutants.drawn(tree, 1000, seed=1)[0] != all_of_them
    assert mutants.drawn(tree, 1000, seed=0, only="agents/") == ([], 0)


def test_the_tests_of_a_module_come_first(tree: Path) -> None:
    found = groups(tree, "ackd/small.py", "clip")
    assert found == [
        [tree / "tests" / "test_small.py"],
        [tree / "tests" / "test_else.py"],
        [],
        [tree / "tests" / "test_nothing.py"],
    ]


def test_what_the_tests_see_is_caught_and_the_tree_stays_as_it_is(tree: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    output = tmp_path / "out.jsonl"
    program = (
        "import argparse, pathlib, sys\nfrom benchmarks import mutants\n"
        "given = argparse.Namespace(output=pathlib.Path(sys.argv[2]), count=100, seed=0, only='', processes=2,"
        " seconds=60, look=60, patience=10, again=False)\n"
        "mutants.run(pathlib.Path(sys.argv[1]), given)\nprint(mutants.table(pathlib.Path(sys.argv[1]), given))\n"
    )
    command = [sys.executable, "-c", program, str(tree), str(output)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == len(mutation.changes(SOURCE))
    missed = {(row["before"], row["after"]) for row in rows if row["function"] == "clip" and not row["caught"]}
    assert missed == set()
    assert not any(row["caught"] for row in rows if row["function"] != "clip")  # nothing tests Small
    assert {row["by"] for row in rows if row["caught"]} == {
        "tests/test_small.py::test_ends_of_the_range", "tests/test_small.py::test_what_is_below",
    }  # fmt: skip
    assert f"**{sum(row['caught'] for row in rows)} of {len(rows)} were caught" in said
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
    again = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    assert again.startswith("# Mutants")  # nothing was left to try
