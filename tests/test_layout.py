"""Who may import whom, read from every import statement of the packages."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"ackd": ROOT / "ackd", "ackd.envs": ROOT / "envs", "ackd.agents": ROOT / "agents"}
# From the bottom up: a module imports only from rows above its own, or from its own row.
ROWS = [
    {"ackd.errors", "ackd.ledger", "ackd.memory", "ackd.precision", "ackd.rendezvous", "ackd.stopping"},
    {"ackd.workers", "ackd.process_group", "ackd.recipe"},
    {"ackd.types"},
    {
        "ackd.knowledge",
        "ackd.episode",
        "ackd.stages",
        "ackd.streams",
        "ackd.order",
        "ackd.clients",
        "ackd.plan",
        "ackd.jobs",
        "ackd.shards",
        "ackd.runs",
        "ackd.reading",
        "ackd.json_rows",
        "ackd.runlog",
        "ackd.statistics",
    },
    {"ackd.models", "ackd.scores", "ackd.column", "ackd.cache", "ackd.signals", "ackd.choices", "ackd.rewards"},
    {"ackd.trends", "ackd.comparison", "ackd.weighting"},
    {"ackd.pictures", "ackd.comparison_pictures", "ackd.method_pictures"},
    {"ackd.teachers", "ackd.tasks", "ackd.student", "ackd.influence"},
    {"ackd.distiller", "ackd.gradients", "ackd.checks", "ackd.journal", "ackd.presets", "ackd.corpora"},
    {"ackd.loop", "ackd.measuring", "ackd.predictions", "ackd.probe", "ackd.sources"},
    {
        "ackd.budget",
        "ackd.cohort",
        "ackd.data_parallel",
        "ackd.federated",
        "ackd.identity",
        "ackd.mixture",
        "ackd.mutual",
        "ackd.stacked",
    },
    {"ackd.grid", "ackd.outcome", "ackd.rounds", "ackd.setting"},
    {"ackd.envs"},
    {"ackd.agents"},
    {"ackd.cli", "ackd.__main__"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# The package itself only registers ids and hands on names.
RANK["ackd"] = RANK["ackd.envs"]
REINFORCEMENT = {"stable_baselines3", "gymnasium"}
SPACES_ONLY = {"ackd.signals", "ackd.choices"}


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
    """The row entry that a module belongs to."""
    parts = name.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in RANK else parts[0]


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


@pytest.mark.parametrize("name", modules())
def test_imports_point_down(name: str) -> None:
    own = home(name)
    assert own in RANK, f"{name} has no row: add one where it belongs"
    for imported in imports(modules()[name]):
        if imported.split(".")[0] != "ackd":
            continue
        target = home(imported)
        if own == "ackd" and name == "ackd":
            continue
        assert RANK[target] <= RANK[own], f"{name} imports {imported}"
        if {own, target} == {"ackd.envs", "ackd.agents"}:
            pytest.fail(f"{name} imports {imported}: envs and agents do not know each other")


@pytest.mark.parametrize("name", sorted(ROWS[0]))
def test_the_lowest_row_imports_nothing_of_ours(name: str) -> None:
    assert not [imported for imported in imports(modules()[name]) if imported.split(".")[0] == "ackd"]


@pytest.mark.parametrize("name", modules())
def test_libraries_stay_in_their_places(name: str) -> None:
    own = home(name)
    for imported in imports(modules()[name]):
        library = imported.split(".")[0]
        assert library not in ("envs", "agents"), f"{name} imports bare {imported}"
        if library in ("transformers", "tokenizers", "datasets"):
            assert own in ("ackd.models", "ackd.tasks"), f"{name} imports {imported}"
        if library in REINFORCEMENT and RANK[own] < RANK["ackd.envs"]:
            assert own in SPACES_ONLY, f"{name} imports {imported}"
            assert imported == "gymnasium.spaces", f"{name} imports {imported}"


def test_the_check_trips(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import envs\nfrom ackd.cli import main\nfrom gymnasium import spaces\n")
    assert imports(path) == ["envs", "ackd.cli.main", "gymnasium.spaces"]
    assert RANK[home("ackd.cli.main")] > RANK[home("ackd.loop")]
    config = (ROOT / "pyproject.toml").read_text()
    assert '"envs".msg' in config
    assert '"agents".msg' in config
