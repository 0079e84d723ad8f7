"""Whatever is typed works, or ends with one sentence and leaves nothing behind."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from ackd import models
from tests.fuzz import commands

ELSEWHERE = ("report", "federate", "train", "push")  # tests/cli has those
SOUND = [name for name in commands.commands() if name not in ELSEWHERE]
LINES = 150
ONNX = all(find_spec(one) for one in models.ONNX_PACKAGES)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Path]:
    return commands.parts(place)


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch, place: Path, found: dict[str, Path]) -> None:
    monkeypatch.chdir(place)
    for name, value in commands.private(place).items():
        monkeypatch.setenv(name, value)


def test_every_command_has_a_sound_line(found: dict[str, Path], place: Path) -> None:
    assert commands.sound(found, place / "out").keys() == commands.commands().keys()


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_line_works(name: str, found: dict[str, Path], place: Path) -> None:
    if name == "export" and not ONNX:
        pytest.skip('needs what writes and runs ONNX: pip install "ackd[onnx]"')
    output = place / "sound"
    status, said = commands.run(
        commands.Line((*name.split(), *commands.sound(found, output)[name]), output), place, seconds=60
    )
    shutil.rmtree(output, ignore_errors=True)
    assert status == 0, said


def test_a_strange_line_ends_well(found: dict[str, Path], place: Path) -> None:
    names, ends = list(commands.commands()), Counter[int]()
    for number in range(LINES):
        output = place / f"out-{number}"
        name = names[number % len(names)]
        if name == "report":  # draws for seconds, and has little to be asked
            continue
        line = commands.strange(name, found, output, random.Random(f"test {number}"))
        status, _ = commands.run(line, place, seconds=4)
        ends[status] += 1
        for path in (*place.glob("out-*"), place / "policies"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    assert ends[2] > ends[0] > 0
