"""docs/reference.md has every public name once, and every page of docs has a place in the site."""

from __future__ import annotations

import re
from pathlib import Path

import ackd

DOCS = Path(__file__).parents[1] / "docs"


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)$", text, re.MULTILINE)) == ackd.__all__


def test_every_page_has_a_place_in_the_site() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    entries = {line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.split()}
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= entries
    assert {"systems/*", "../benchmarks/results/*"} <= entries


def test_every_result_is_in_the_list_of_results() -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\(\.\./benchmarks/results/(\w+\.md)\)", text))
    assert named == {path.name for path in (DOCS.parent / "benchmarks" / "results").glob("*.md")}
