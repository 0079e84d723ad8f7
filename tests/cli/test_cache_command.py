"""`ackd cache`, and what `ackd distill --cache` makes of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ackd.cli import main
from ackd.teachers import ModelTeacher
from ackd.teachers.cache.budget import parse_size
from ackd.teachers.with_cache import _caches
from tests import processes
from tests.words import last_said

COMMON = ["--task", "polarity", "--student-layers", "2", "--max-examples", "160", "--reward-examples", "40"]
TRAINING = ["--steps", "30", "--decision-interval", "10", "--batch-size", "8", "--lr", "5e-4"]  # more than one pass


@pytest.fixture(autouse=True)
def fresh() -> None:
    """As in a new process: nobody holds a cache."""
    for cache in _caches.values():
        cache.close()
    _caches.clear()


@pytest.fixture
def filling(teacher: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs `ackd cache` with further arguments."""

    def fill(*arguments: str, folder: Path = tmp_path / "cache") -> int:
        return main(["cache", "--teacher", str(teacher), *COMMON, "--output", str(folder), *arguments])

    return fill


@pytest.fixture
def distilled(teacher: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Tensor], dict[str, Any]]]:
    """Runs `ackd distill` with further arguments: the student's weights, and the ledger."""

    def distil(name: str, *arguments: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        run = ["distill", "--teacher", str(teacher), *COMMON, *TRAINING, "--output", str(tmp_path / name)]
        assert main(last_said([*run, *arguments])) == 0
        weights = load_file(tmp_path / name / "student" / "model.safetensors")
        return weights, json.loads((tmp_path / name / "ledger.json").read_text())

    return distil


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir())


def rows_of(folder: Path) -> dict[str, bytes]:
    (entry,) = entries(folder)
    return {path.name: path.read_bytes() for kind in ("rows", "sums") for path in entry.glob(f"*.{kind}")}


def test_it_tells_its_plan_and_fills(
    filling: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert filling() == 0
    said = capsys.readouterr()
    (entry,) = entries(tmp_path / "cache")
    size = sum(path.stat().st_size for path in entry.glob("*.rows"))
    plan = said.err.splitlines()
    assert plan[0].startswith(f"cache {entry}: ")
    for line, name in zip(plan[1:4], ("logits", "hidden", "attention"), strict=True):
        shown = re.fullmatch(rf"  {name} +([0-9.]+ \w+)  kept", line)
        assert shown is not None
        assert parse_size(shown[1]) == pytest.approx(
            sum(path.stat().st_size for path in entry.glob(f"{name}-*.rows")), rel=0.05
        )
    assert size == sum(len(content) for name, content in rows_of(tmp_path / "cache").items() if name.endswith("rows"))
    asked = re.search(
        r"^polarity: 160 examples, 160 of them asked now in \d+\.\d s, ([0-9.]+ \w+) written\n", said.out, re.MULTILINE
    )
    assert asked is not None
    assert parse_size(asked[1]) == pytest.approx(size, rel=0.05)
    assert f"cache:   {entry}" in said.out
    before = rows_of(tmp_path / "cache")
    assert filling() == 0
    assert "160 examples, 0 of them asked now in 0.0 s, 0 B written" in capsys.readouterr().out
    assert filling("--knowledge", "logits", "hidden") == 0  # a part of it
    assert ", 0 of them asked now" in capsys.readouterr().out
    assert rows_of(tmp_path / "cache") == before


def test_a_student_taught_from_a_full_cache_asks_no_teacher(
    filling: Callable[..., int], distilled: Callable[..., Any], tmp_path: Path
) -> None:
    without, live = distilled("without")
    assert (live["teacher_queries"], live["cached_queries"], live["bytes"]["cache"]) == (30 * 8, 0, 0)
    assert filling("--dtype", "float32") == 0
    stood = rows_of(tmp_path / "cache")
    weights, costs = distilled("with", "--cache", str(tmp_path / "cache"), "--cache-dtype", "float32")
    assert (costs["teacher_queries"], costs["cached_queries"]) == (0, 30 * 8)
    assert costs["flops"]["teacher"] == costs["seconds"]["teacher"] == costs["bytes"]["teacher"] == 0
    assert costs["bytes"]["cache"] > 0
    assert costs["flops"]["student"] == live["flops"]["student"]
    # filled in batches of other lengths: equal but for rounding
    for name, value in weights.items():
        torch.testing.assert_close(value, without[name], rtol=0, atol=1e-4)
    assert rows_of(tmp_path / "cache") == stood


def test_what_is_read_is_told_before_the_run_and_in_its_ledger(
    distilled: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = ["--steps", "2", "--cache", str(tmp_path / "cache")]
    for name in ("first", "again"):
        _, costs = distilled(name, *cached)
        (chosen,) = costs["cache"]
        assert chosen["teacher"] == 0
        assert chosen["batch"][0] == 8
        assert chosen["together"].keys() == chosen["alone"].keys() == {"logits", "hidden", "attention"}
        assert chosen["seconds"].keys() == {"computed", "read", "chosen"}
        assert chosen["seconds"]["chosen"] <= min(chosen["seconds"]["computed"], chosen["seconds"]["read"]) + 5e-4
        said = capsys.readouterr().err
        assert re.search(r"a batch of 8 x \d+ tokens takes [\d.e-]+ ms to compute and [\d.e-]+ ms to read; ", said)
    (path,) = (tmp_path / "cache").glob("*/prices-*.json")
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"whole": 1e-6, "read": dict.fromkeys(known["read"], 1.0), "more": {}}))
    _, costs = distilled("changed", *cached)
    assert not any(costs["cache"][0]["together"].values())
    assert costs["bytes"]["cache"] == 0
    assert "logits, hidden, attention: computed" in capsys.readouterr().err
    for how in ("all", "none"):
        _, costs = distilled(how, *cached, "--cache-reads", how)
        assert "cache" not in costs


def test_a_cache_filled_on_the_way_changes_nothing(distilled: Callable[..., Any], tmp_path: Path) -> None:
    """Asked in the same batches, the first pass is the same bit for bit; and a run that finds its own answers again."""
    short = ["--steps", "20"]  # 160 examples: one pass
    cached = [*short, "--cache", str(tmp_path / "cache"), "--cache-dtype", "float32"]
    without, _ = distilled("without", *short)
    for name, queries in (("first", 160), ("again", 0)):
        weights, costs = distilled(name, *cached)
        assert (costs["teacher_queries"], costs["cached_queries"]) == (queries, 160 - queries)
        assert weights.keys() == without.keys()
        assert all(torch.equal(value, without[part]) for part, value in weights.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--knowledge logit", "'logit': did you mean 'logits'"),
        ("--budget 2XB", "'2XB' is no size: write it as 2GB"),
        ("--budget 100B", "a budget of 100 B holds none of the knowledge types: the smallest, 'logits', takes 640 B"),
        ("--budget -1GB", "-1GB"),
        ("--batch-size 0", "the batch size must be above 0, got 0"),
        ("--preset tinybrt", "tinybert"),
    ],
)
def test_bad_input_gets_one_sentence(
    filling: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    capsys.readouterr()
    name, value = arguments.split()
    assert filling(f"{name}={value}") == 2
    said = capsys.readouterr().err
    assert said.startswith("ackd: ")
    assert said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "cache").exists()


def test_an_unknown_number_format_is_refused(filling: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert filling("--dtype", "float8") == 2
    assert "bfloat16" in capsys.readouterr().err


def test_a_small_budget_keeps_the_small_types(
    filling: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert filling("--budget", "1kB") == 0
    said = capsys.readouterr().err
    assert re.search(r"640 B to keep\n  logits +640 B  kept\n  hidden .* asked live: over the budget\n", said)
    assert rows_of(tmp_path / "cache").keys() == {"logits-0.rows", "logits-0.sums"}


def test_interrupted_it_goes_on(
    filling: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, calls = ModelTeacher.__call__, iter(range(1000))

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(ModelTeacher, "__call__", interrupted)
    assert filling() == 130
    monkeypatch.undo()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    capsys.readouterr()
    for name in ("cache", "copy"):  # in this process, and in one that knows nothing of it
        assert filling(folder=tmp_path / name) == 0
        assert "160 examples, 96 of them asked now" in capsys.readouterr().out
    assert filling(folder=tmp_path / "whole") == 0
    whole = rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "cache") == rows_of(tmp_path / "copy") == whole


def test_who_may_not_write_is_told(
    filling: Callable[..., int],
    distilled: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert filling("--budget", "1kB") == 0
    stood = rows_of(tmp_path / "cache")
    _caches.clear()
    access = os.access
    closed = tmp_path / "cache", tmp_path / "empty"
    monkeypatch.setattr(os, "access", lambda p, mode: access(p, mode) and not {*closed} & {*Path(p).parents})
    only_logits = ["--knowledge", "logits", "--cache", str(tmp_path / "cache")]
    _, costs = distilled("read-only", *only_logits)
    assert costs["teacher_queries"] == 0
    assert rows_of(tmp_path / "cache") == stood
    capsys.readouterr()
    assert filling(folder=tmp_path / "empty") == 2
    assert "is read-only and holds nothing about this teacher and this data" in capsys.readouterr().err


def test_every_setting_that_changes_the_answers_has_an_entry(filling: Callable[..., int], tmp_path: Path) -> None:
    cheap = ["--knowledge", "logits"]
    for arguments in ("", "--max-length 16", "--data-seed 1", "--dtype bfloat16", "--precision bf16"):
        assert filling(*cheap, *arguments.split()) == 0
    assert len(entries(tmp_path / "cache")) == 5
    assert filling(*cheap, "--layer-map", "last", "--batch-size", "7") == 0
    assert len(entries(tmp_path / "cache")) == 5


@pytest.fixture
def whole(filling: Callable[..., int], tmp_path: Path) -> dict[str, bytes]:
    """What one process leaves."""
    assert filling(folder=tmp_path / "whole") == 0
    return rows_of(tmp_path / "whole")


def test_shards_are_filled_at_once(
    teacher: Path, filling: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert filling("--batch-size", "4", folder=tmp_path / "whole") == 0
    whole, folder = rows_of(tmp_path / "whole"), tmp_path / "cache"
    part = ["cache", "--teacher", str(teacher), *COMMON, "--output", str(folder), "--batch-size", "4", "--shard"]
    first, second = (processes.command([*part, f"{i}/2"], out=tmp_path / f"said-{i}") for i in (1, 2))
    while not any(set(path.read_bytes()) != {0} for path in folder.glob("*/*.sums")) and first.is_alive():
        time.sleep(0.002)
    first.kill()
    second.join(60)
    assert "80 examples, 80 of them asked now" in (tmp_path / "said-2").read_text()
    first.join()
    capsys.readouterr()
    assert filling("--batch-size", "4", "--shard", "2/2", folder=folder) == 0
    assert "80 examples, 0 of them asked now" in capsys.readouterr().out
    assert filling("--batch-size", "4", "--shard", "1/2", folder=folder) == 0  # what is missing is added
    assert rows_of(folder) == whole
    assert filling("--batch-size", "4", folder=folder) == 0  # nobody has to go over it again
    assert "160 examples, 0 of them asked now" in capsys.readouterr().out


@pytest.mark.usefixtures("forked_workers")
def test_workers_fill_what_one_process_fills(
    filling: Callable[..., int], tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert filling("--workers", "2") == 0
    assert "160 examples, 160 of them asked now" in capsys.readouterr().out
    assert rows_of(tmp_path / "cache") == whole


def test_ranks_take_their_parts(
    filling: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        assert filling() == 0
    assert rows_of(tmp_path / "cache") == whole


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_cannot_be_read(
    filling: Callable[..., int], capsys: pytest.CaptureFixture[str], shard: str
) -> None:
    assert filling(f"--shard={shard}") == 2
    assert "cannot be read: write 1/4 to 4/4" in capsys.readouterr().err
