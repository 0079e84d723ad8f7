"""Who may import whom, read from every import statement of the packages."""

from __future__ import annotations

import ast
import configparser
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"ackd": ROOT / "ackd", "ackd.envs": ROOT / "envs", "ackd.agents": ROOT / "agents"}
# From the bottom up: a package imports from rows above its own, and not from the others of its row.
ROWS = """
costs errors numerics
config files types
knowledge mdp models runs split stages
distributed tasks teachers weighting
corpora presets training
agents building cohort federation
envs reporting
experiments
cli loops
__main__
"""
RANK = {package: rank for rank, row in enumerate(ROWS.strip().splitlines()) for package in row.split()}
LIBRARIES = {"transformers": "loops models tasks", "tokenizers": "models tasks", "datasets": "models tasks"}
LIBRARIES["yaml"] = "files"
LIBRARIES |= dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "models")
LIBRARIES |= dict.fromkeys(("stable_baselines3", "gymnasium"), "agents envs experiments")
SPACES = "mdp"  # where gymnasium.spaces may be imported as well, and nothing else of it


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def home(name: str) -> str:
    """The package, or module beside packages, that a name of ours is in; "" for `ackd` itself and what it hands on."""
    _, *rest = name.split(".")
    return rest[0] if rest and rest[0] in RANK else ""


def wrong(name: str, imported: str) -> bool:
    """Whether a module must not import that; `ackd` itself registers ids and hands on names."""
    own, library = home(name), imported.split(".")[0]
    if library == "ackd":
        target = home(imported)
        up = RANK.get(target, -1) >= RANK.get(own, len(RANK)) and target != own
        return up or (own, target) == ("envs", "agents")
    if library in ("envs", "agents"):  # these names belong to other distributions
        return True
    allowed = LIBRARIES.get(library, own).split()
    return own not in ("", *allowed) and not (own == SPACES and imported == "gymnasium.spaces")


def test_every_file_is_seen() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--", "ackd/*.py", "envs/*.py", "agents/*.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tracked.returncode:
        pytest.skip("not a git checkout")
    expected = {ROOT / line for line in tracked.stdout.splitlines()}
    assert expected
    assert expected <= set(modules().values())
    assert {home(name) for name in modules()} - {""} == RANK.keys()


def test_imports_point_down() -> None:
    found = [
        (name, imported) for name, path in modules().items() for imported in imports(path) if wrong(name, imported)
    ]
    assert found == []


def test_the_lowest_row_imports_nothing_of_ours() -> None:
    low = {name: path for name, path in modules().items() if RANK.get(home(name)) == 0}
    assert low
    assert [one for name, path in low.items() for one in imports(path) if home(one) not in ("", home(name))] == []


def test_the_picture_in_contributing_is_the_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [line.split() for line in ROWS.strip().splitlines()[:-1]] == [
        line.split() for line in text.split("```text\n")[1].split("```")[0].strip().splitlines()
    ]


def test_the_check_trips(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import envs\nfrom ackd.cli import main\nfrom ackd import models\nfrom gymnasium import spaces\n")
    assert imports(path) == ["envs", "ackd.cli.main", "ackd.models", "gymnasium.spaces"]
    assert [wrong("ackd.training.loop", imported) for imported in imports(path)] == [True, True, False, True]
    assert [wrong("ackd.mdp.observations", imported) for imported in imports(path)] == [True, True, True, False]
    assert wrong("ackd.envs.toy", "ackd.agents.rules.rule")
    assert wrong("ackd.presets.static", "ackd.training.loop.distill")
    config = (ROOT / "pyproject.toml").read_text()
    assert '"envs".msg' in config
    assert '"agents".msg' in config


def test_the_wheel_has_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    shipped = set(config["options"]["packages"].split())
    there = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for path in folder.rglob("__init__.py")
    }
    assert shipped == there
