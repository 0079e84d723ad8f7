"""What is known of the published methods, and where it can be read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ackd.cli import main
from ackd.cli.commands import commands
from ackd.config.methods import COMMANDS, PUBLISHED
from ackd.presets import METHODS


def test_every_method_that_is_known_can_be_made() -> None:
    assert list(METHODS) == list(PUBLISHED)
    assert all(vars(method).items() >= vars(PUBLISHED[name]).items() for name, method in METHODS.items())
    assert set(COMMANDS) <= set(commands())


def test_the_table_has_all_of_them_and_waits_for_no_torch() -> None:
    code = "import sys; from ackd.cli import main; main(['presets']); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert lines[-1] == "False"
    for one in (*PUBLISHED.values(), *COMMANDS.values()):
        assert any(
            line.startswith(f"{one.name} ") and f"{one.year}  {one.called}: {one.does}" in line for line in lines
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_method_that_is_a_command_is_told_of(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", name]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{name}: {COMMANDS[name].called}\n")
    assert f"those of ackd {name}" in shown
    assert COMMANDS[name].link in shown
