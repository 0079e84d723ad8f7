"""docs/papers.md is what the code says of the published methods."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ackd.config.methods import COMMANDS, PUBLISHED

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def papers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("papers", ROOT / "docs" / "papers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(papers: ModuleType) -> None:
    written = papers.PAGE.read_text(encoding="utf-8")
    assert written == papers.page(), "run .venv/bin/python docs/papers.py"


def test_every_method_has_a_formula_a_command_and_its_source(papers: ModuleType) -> None:
    for one in (*PUBLISHED.values(), *COMMANDS.values()):
        assert papers.formula(one), one.name
        assert "    ackd " in papers.commands(one), one.name
        text = papers.section([one])
        assert one.link in text
        assert f"{one.year}, " in text


def test_every_page_of_a_system_is_named(papers: ModuleType) -> None:
    named = {path for one in (*PUBLISHED.values(), *COMMANDS.values()) for path in papers.pages(one)}
    assert named == set((ROOT / "docs" / "systems").glob("*.md"))


def test_signs_of_markdown_are_escaped(papers: ModuleType) -> None:
    assert papers.plain("a * b < c, see docs/systems/miniplm.md") == (
        r"a \* b \< c, see [systems/miniplm](systems/miniplm.md)"
    )
