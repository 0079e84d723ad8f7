"""Each kind of run leaves the bits that it left when the golden runs were frozen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.runs import FROZEN, RUNS, differences, digests, given, made, made_here

KEPT = json.loads(FROZEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if KEPT["made"] != made_here():
        pytest.skip(f"the golden runs were frozen on {KEPT['made']}, and this is {made_here()}: bits differ")
    return given(tmp_path_factory.mktemp("given"))


def test_every_run_is_frozen() -> None:
    assert KEPT["runs"].keys() == RUNS.keys()
    assert all(
        any(name.endswith(".safetensors") for name in run) or "table.csv" in run for run in KEPT["runs"].values()
    )


# some of each kind; `make golden` repeats all
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["distill-all", "distill-refined", "preset-tinybert", "preset-rl-kd", "train-residual", "train-alone",
             "evaluate", "finetune", "federate", "mutual", "pretrain"]
)  # fmt: skip
def test_a_run_leaves_the_same_bits(name: str, indices: dict[str, str], tmp_path: Path) -> None:
    assert differences(KEPT["runs"][name], made(name, indices, tmp_path)) == []


def test_seconds_change_nothing_and_all_else_does(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"score": 1.0, "seconds": 2.0, "cells": [{"seconds": 1}]}')
    (tmp_path / "a.csv").write_text("x,seconds\n1,2\n")
    before = digests(tmp_path)
    (tmp_path / "a.csv").write_text("x,seconds\n1,3\n")
    (tmp_path / "result.json").write_text('{"seconds": 3.0, "score": 1.0, "cells": [{"seconds": 9}]}')
    assert digests(tmp_path) == before
    (tmp_path / "result.json").write_text('{"score": 1.5, "seconds": 2.0, "cells": [{}]}')
    (tmp_path / "a.csv").unlink()
    assert differences(before, digests(tmp_path)) == ["a.csv is missing", "result.json is not the same"]
