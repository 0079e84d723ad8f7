"""The public names: each is there, is told by the glossary, and none of them needs torch before it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ackd

GLOSSARY_FILE = Path(__file__).parents[1] / "docs" / "glossary.md"
GLOSSARY = GLOSSARY_FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ackd.__all__)
def test_a_public_name_is_there_and_in_the_glossary(name: str) -> None:
    told = {one for row in GLOSSARY.splitlines() if row.startswith("| `") for one in re.findall(r"`(\w+)`", row)}
    assert getattr(ackd, name).__doc__
    assert name in told
    assert name in dir(ackd)


def test_code_and_pages_name_nothing_that_is_not_public() -> None:
    """A sentence that sends a user to `ackd.Name` has to send there."""
    root, named = GLOSSARY_FILE.parents[1], dict[str, Path]()
    for pattern in ("README.md", "docs/*.md", "notebooks/*.ipynb", "ackd/**/*.py", "envs/*.py", "agents/*.py"):
        for path in root.glob(pattern):
            named |= dict.fromkeys(re.findall(r"\backd\.([A-Z]\w*)", path.read_text(encoding="utf-8")), path)
    assert {"Knowledge", "Selection"} <= set(named)
    assert {name: path for name, path in named.items() if name not in ackd.__all__} == {}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="distil"):
        ackd.distil  # noqa: B018 - the access is the point


def test_importing_it_does_not_wait_for_torch() -> None:
    code = "import sys, ackd, ackd.cli; print('torch' in sys.modules, 'transformers' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "False"]
