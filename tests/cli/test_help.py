"""`--help` and `--help-all`: the common options in groups, all of them, quickly, and within 80 columns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ackd.cli import main
from ackd.cli.commands import CONFIG, commands, options_of
from ackd.cli.help import FEW

PROGRAM = """
import sys, time
from ackd.cli import main
assert main({words!r}) == 0
print(time.process_time(), 'torch' in sys.modules, file=sys.stderr)
"""


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", commands())
def test_the_common_options_are_shown_and_all_where_they_are_asked_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    some, everything = (shown(capsys, *name.split(), word) for word in ("--help", "--help-all"))
    options = options_of(commands()[name])
    for option in options.values():
        rows = [f"\n  {flag}" for flag in (option.flag, option.flag.replace("--", "--no-"))]
        assert any(row in everything for row in rows), option.flag
        hidden = len(options) > FEW and not (option.common or option.required)
        assert any(f"{row} " in some or f"{row}\n" in some for row in rows) != hidden, option.flag
        assert option.help, option.flag
    assert f"  {CONFIG.flag} " in some
    assert all(len(line) <= 80 for text in (some, everything) for line in text.splitlines())
    assert (some == everything) == (len(options) <= FEW)
    assert ("--help-all shows all" in some) == (len(options) > FEW)
    assert shown(capsys, *name.split(), "-h") == some


def test_options_stand_in_the_groups_that_they_are_declared_in(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "distill", "--help")
    groups = {part.splitlines()[0]: part for part in text.split("\n\n") if part.splitlines()[0].endswith(":")}
    assert next(iter(groups)) == "ackd distill:"
    assert "--steps" in groups["How long a model learns:"]
    assert "--student-layers" in groups["The student's model:"]
    assert "--output" in groups["Where a run goes:"]
    assert "--max-length" not in text


def test_the_commands_are_shown_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["--help-all"]):
        text = shown(capsys, *words)
        assert all(f"\n  {name} " in text for name in commands())
        assert all(len(line) <= 80 for line in text.splitlines())
    text = shown(capsys, "policies", "--help")
    assert "policies import" in text
    assert "finetune" not in text


@pytest.mark.parametrize("words", [["--help"], ["distill", "--help"], ["evaluate", "--help-all"], ["presets"]])
def test_it_takes_a_second_at_most(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(words=words)], capture_output=True, text=True, check=True
    )
    seconds, torch = done.stderr.split()
    assert float(seconds) <= 1
    assert torch == "False"
