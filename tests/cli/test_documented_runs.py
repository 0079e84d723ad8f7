"""The tutorial's commands run in their order, on fewer examples and steps; and so do cheap commands of any page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ackd.cli import main
from tests.documented import PAGES, ROOT, Shown, commands

FEWER = (
    (r"--epochs 8", "--epochs 1 --max-examples 400"),
    (r"--max-examples 1500", "--max-examples 200"),
    (r"--steps 80", "--steps 4"),
    (r"--decision-interval 10", "--decision-interval 1"),
    (r"--episodes 64 --students 16", "--episodes 8 --students 4"),
    (r"--seeds \d", "--seeds 1"),
    (r"--policy mine", "--policy mine --steps 4"),
)
CHEAP = {("presets",), ("policies", "list")}


def small(shown: Shown) -> list[str]:
    """What the command is run as here."""
    text = shlex.join(shown.words)
    for long, short in FEWER:
        text = re.sub(long, short, text)
    return shlex.split(text)


def cheap(shown: Shown) -> bool:
    """Whether a command reads nothing but the package, and names nothing that a reader has to fill in."""
    words = shown.words
    return (tuple(words) in CHEAP or words[0] == "presets") and not any(word.isupper() for word in words)


def test_the_tutorials_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACKD_POLICIES", str(tmp_path / "policies"))
    typed = [one for one in commands(ROOT / "docs" / "tutorial.md") if not one.inline]
    assert [one.words[0] for one in typed].count("distill") == 3
    for one in typed:
        assert main(small(one)) == 0, one.typed
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/tutorial.md", "exec"), {})
    assert "'label': '" in capsys.readouterr().out
    assert (tmp_path / "runs" / "judged" / "report.html").is_file()


def test_cheap_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = {tuple(one.words) for page in PAGES for one in commands(page) if cheap(one)}
    assert ("presets",) in found
    assert ("policies", "list") in found
    for words in sorted(found):
        assert main(list(words)) == 0, words
        assert capsys.readouterr().out
