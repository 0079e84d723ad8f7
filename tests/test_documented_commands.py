"""Every `ackd` command in README, CONTRIBUTING and docs is one that the command line takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ackd.config.methods import COMMANDS, PUBLISHED
from ackd.errors import InputError
from tests.documented import CLASSES, LEFT_OUT, PAGES, Shown, after_ackd, commands, parsed

PLACEHOLDERS = {"COMMAND"}
SHOWN = [one for page in PAGES for one in commands(page) if not PLACEHOLDERS & set(one.words[:1])]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda one: f"{one.page}:{one.line}")
def test_a_command_that_is_shown_parses(shown: Shown) -> None:
    assert parsed(shown) is not None


@pytest.mark.parametrize("shown", [one for one in SHOWN if "--preset" in one.words], ids=lambda one: one.typed)
def test_a_preset_that_is_shown_is_there(shown: Shown) -> None:
    names = shown.words[shown.words.index("--preset") + 1].split(",")
    assert set(names) <= {*PUBLISHED, "NAME"}


def test_commands_are_found() -> None:
    assert {one.words[0] for one in SHOWN} == set(CLASSES)
    assert {*COMMANDS} <= set(CLASSES)
    assert len(SHOWN) > 80


def test_what_stands_beside_commands_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr("tests.documented.ROOT", tmp_path)
    page.write_text(
        "See `ackd report RUN`, not `ackd.report`.\n\n    RUN/report.html   `ackd report`\n    x = ackd.y\n"
        "    .venv/bin/ackd distill --task sst2 \\\n        --output a   # a comment\n\n"
        "```sh\ntorchrun --nproc-per-node 2 -m ackd score --model T\n```\n"
        "    srun bash -c 'accelerate launch \\\n        -m ackd distill … --device cpu'\n"
    )
    assert [one.words for one in commands(page)] == [
        ["report", "RUN"],
        ["distill", "--task", "sst2", "--output", "a"],
        ["score", "--model", "T"],
        ["distill", "…", "--device", "cpu"],
    ]
    assert after_ackd(["ls", "ackd"]) == []


@pytest.mark.parametrize(
    "typed",
    [
        "ackd distill --task sst2",  # without --output
        "ackd distill … --learning-rate 3",
        "ackd distil …",
        "ackd evaluate … --seeds many",
    ],
)
def test_a_command_that_would_fail_is_noticed(typed: str) -> None:
    with pytest.raises((InputError, KeyError)):
        parsed(Shown("page", 1, typed))


def test_what_is_left_out_is_marked_alike() -> None:
    for one in SHOWN:
        assert not re.search(r"(?<!\S)\.\.(?!\S)", one.typed)
        assert not LEFT_OUT & {one.words[0]}
