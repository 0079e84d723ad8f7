"""What is pinned leaves room for what people use beside this package; `.ci/resolve` asks a registry whether it does."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDES = {"pip", "tokenizers"}  # what installs, and what results depend on without our asking for it


def names(lines: list[str]) -> set[str]:
    """The packages of requirement lines, as an index spells them."""
    found = [re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in lines]
    return {re.sub(r"[-_.]+", "-", one.group()).lower() for one in found if one}


def test_only_what_we_ask_for_is_pinned() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked += project["build-system"]["requires"]
    wanted = names([line for block in asked for line in block.splitlines()])
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert names(lines) == wanted | BESIDES
