"""Runs with a cache: the same bits whatever is read of it, and whatever becomes of it."""

from __future__ import annotations

import errno
import gc
import importlib
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import knowledge
from ackd.config import CacheReads
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.teachers import Cached, choices, with_cache
from ackd.teachers.cache.ahead import Read, ReadAhead
from ackd.teachers.cache.budget import Rows
from ackd.teachers.cache.choice import Prices
from ackd.teachers.cache.device_rows import device_rows
from ackd.teachers.cache.store import Cache
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.types import Batch, ModelDims, OutputKey, OutputRequest, Outputs, Selection, Teacher, union
from tests.learned import weights

module: Any = importlib.import_module("ackd.teachers.with_cache")  # its name in the package is the function's
ALL = Selection.of(*knowledge.DEFAULT)
TRAIN, STEPS = 160, 40  # examples, and steps of 8 of them: two passes
EARLY, LATE = 8, 24  # steps within the first pass, and after it
READS: tuple[CacheReads, ...] = ("none", "all", "auto")
READ = {"logits": 1e-3, "hidden": 1e-3, "attention": 1e-3}
CHOICES = {
    "everything is read": READ,
    "the scores are computed": READ | {"attention": 1.0},
    "the hidden states are computed": READ | {"hidden": 1.0},
    "everything is computed": dict.fromkeys(READ, 1.0),
}


class OneByOne:
    """The tiny teacher as a table: its answers depend neither on the batch nor on what else it is asked."""

    known: ClassVar[dict[int, Outputs]] = {}

    def __init__(self) -> None:
        one = tiny().distillation
        (self.inner,) = one.teachers
        self.everything = union(one.teacher_needs for one in one.distiller.knowledge.values())
        self.fingerprint = "one-by-one"

    @property
    def shape(self) -> ModelDims:
        return self.inner.shape

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        size, length = batch.shape
        costs.teacher_queries += size
        for place, example in enumerate(batch.ids.tolist()):
            if example not in self.known:
                self.known[example] = self.inner(batch.rows([place]), self.everything, CostTracker())
        each = [self.known[example] for example in batch.ids.tolist()]
        return Outputs.of({f: torch.cat([_padded(f, one[f], length) for one in each]) for f in needs.fields})

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return self.inner.flops(needs, size, length)


def _padded(field: OutputKey, value: Tensor, length: int) -> Tensor:
    if field.kind in ("logits", "cls"):
        return value
    more = length - value.shape[-1 if field.kind == "attention" else 1]
    return F.pad(value, (0, more, 0, more) if field.kind == "attention" else (0, 0, 0, more))


def make(
    folder: Path,
    reads: CacheReads,
    teacher: Teacher | None = None,
    *,
    steps: int = STEPS,
    budget: int = 10**9,
    ahead: bool = False,
    near: float = 0.0,
    **changes: Any,
) -> Distillation:
    """The tiny pair with a cache in float16."""
    parts = tiny(student_width=8).distillation
    task = replace(parts.task, train=parts.task.train.select(range(TRAIN)))
    losses, split = list(parts.distiller.knowledge.values()), task.train
    one = teacher or parts.teachers[0]
    how: dict[str, Any] = {"folder": str(folder), "name": "tiny", "budget": budget, "dtype": "float16"}
    cached = with_cache(one, losses, split, reads=reads, batch_size=8, **how)
    assert isinstance(cached, Cached)
    cached.device_memory = near
    if ahead:
        cached.ahead = ReadAhead(cached.cache, torch.device("cpu"))
    settings: dict[str, Any] = {"steps": steps, "batch_size": 8, "lr": 1e-3, **changes}
    return Distillation(task, [cached], parts._make_student, parts._make_knowledge, **settings)


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    """Sets the seconds to read a field of each kind; a pass takes 0.1, and 0.05 more for each field."""

    def set_prices(read: dict[str, float]) -> None:
        found = Prices("cpu", (8, 10), 0.1, dict.fromkeys(read, 0.05), read)
        monkeypatch.setattr(module, "prices_of", lambda *arguments, **more: found)

    return set_prices


def cache_of(run: Distillation) -> Cached:
    (cached,) = run.teachers
    assert isinstance(cached, Cached)
    return cached


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """The weights of a run that computes everything, one example at a time, and rounds it as a cache would."""
    run = make(tmp_path_factory.mktemp("none"), "none", OneByOne())
    distill(run, ALL, seed=1)
    assert run.costs.teacher_queries == STEPS * 8
    return weights(run)


def test_the_same_bits_with_everything_read(tmp_path: Path, computed: Tensor) -> None:
    for queries in (TRAIN, 0):  # filling, and filled
        run = make(tmp_path, "all", OneByOne())
        distill(run, ALL, seed=1)
        assert run.costs.teacher_queries == queries
        assert torch.equal(weights(run), computed)
        assert choices(run.teachers, run.distiller.knowledge.values()) == []


@pytest.mark.parametrize("choice", CHOICES)
def test_the_same_bits_whatever_is_chosen(
    tmp_path: Path, computed: Tensor, choice: str, priced: Callable[[dict[str, float]], None]
) -> None:
    priced(CHOICES[choice])
    run = make(tmp_path, "auto", OneByOne())
    distill(run, ALL, seed=1)
    assert torch.equal(weights(run), computed)
    (told,) = choices(run.teachers, run.distiller.knowledge.values())
    live = {kind for kind, seconds in CHOICES[choice].items() if seconds == 1.0}
    kept = {path.name.split("-")[0] for path in cache_of(run).cache.folder.glob("*.sums") if any(path.read_bytes())}
    assert kept == READ.keys() - live
    assert told["together"] == {kind: kind not in live for kind in READ}
    assert run.costs.teacher_queries == (STEPS * 8 if live else TRAIN)


@pytest.mark.parametrize("budget", [700, 100_000])
def test_the_same_bits_whatever_fits(tmp_path: Path, computed: Tensor, budget: int) -> None:
    run = make(tmp_path, "all", OneByOne(), budget=budget)
    distill(run, ALL, seed=1)
    assert torch.equal(weights(run), computed)
    assert {field.kind for field in cache_of(run).fields} < READ.keys()


def test_the_same_bits_from_a_teacher_that_takes_batches_in_the_first_pass(
    tmp_path: Path, priced: Callable[[dict[str, float]], None]
) -> None:
    """Later passes put examples into other batches, and the last bits of an answer depend on these."""
    found = []
    priced(CHOICES["the scores are computed"])
    for reads in READS:
        run = make(tmp_path / reads, reads, steps=TRAIN // 8)
        distill(run, ALL, seed=1)
        found.append(weights(run))
    assert all(torch.equal(one, found[0]) for one in found)


def test_what_is_read_depends_on_what_is_asked(tmp_path: Path, priced: Callable[[dict[str, float]], None]) -> None:
    """One phase asks for the logits alone, which are read; the next one for everything, and the pass returns them."""
    priced({"logits": 0.06, "hidden": 0.2, "attention": 0.2})
    run = make(tmp_path, "auto", OneByOne())
    run.reset(1)
    run.advance(Selection.of("logits"), LATE)
    assert run.costs.teacher_queries == TRAIN
    run.advance(Selection.of("logits"), 5)
    assert run.costs.teacher_queries == TRAIN
    run.advance(ALL, 5)
    assert run.costs.teacher_queries == TRAIN + 5 * 8
    (told,) = choices(run.teachers, run.distiller.knowledge.values())
    assert told["together"] == dict.fromkeys(READ, False)
    assert told["alone"]["logits"]


def test_a_resumed_run_decides_as_it_began(tmp_path: Path, priced: Callable[[dict[str, float]], None]) -> None:
    priced(CHOICES["the scores are computed"])
    whole, begun = make(tmp_path / "a", "auto", steps=STEPS), make(tmp_path / "b", "auto", steps=STEPS)
    for run in (whole, begun):
        run.reset(1)
        run.advance(ALL, LATE)
    state = io.BytesIO()
    torch.save(begun.state_dict(), state)
    state.seek(0)
    cache_of(begun).cache.close()
    module._caches.clear()
    priced(CHOICES["everything is read"])
    again = make(tmp_path / "b", "auto", steps=STEPS)
    assert cache_of(again).prices != cache_of(whole).prices
    again.load_state_dict(torch.load(state, weights_only=True))
    assert cache_of(again).prices == cache_of(whole).prices
    for run in (whole, again):
        run.advance(ALL, STEPS - LATE)
    assert torch.equal(weights(again), weights(whole))


def test_a_state_without_prices_or_with_others_is_told(
    tmp_path: Path, priced: Callable[[dict[str, float]], None]
) -> None:
    priced(READ)
    run = make(tmp_path, "auto")
    state = run.state_dict()
    run.load_state_dict({name: value for name, value in state.items() if name != "caches"})  # of an earlier version
    assert cache_of(run).prices is not None
    for damaged in ({"device": "cpu"}, {**state["caches"][0], "read": {"logits": 1.0}}):
        with pytest.raises(ValueError, match=r"batch|other outputs"):
            run.load_state_dict({**state, "caches": [damaged]})


class Broken:
    """From a certain call on, a function of the operating system fails."""

    def __init__(self, inner: Callable[..., Any], calls: int, code: int) -> None:
        self.inner, self.calls, self.code = inner, calls, code

    def __call__(self, *arguments: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.inner(*arguments)


def run_with(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    before: Callable[[], object],
    steps: int = EARLY,
    *,
    ahead: bool = False,
) -> Distillation:
    """A run that something happens to after so many steps; it must end, with one warning."""
    run = make(folder, "all", OneByOne(), ahead=ahead)
    run.reset(1)
    run.advance(ALL, steps)
    caplog.clear()
    before()
    with caplog.at_level(logging.WARNING, logger="ackd"):
        run.advance(ALL, STEPS - steps)
    return run


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_takes_no_more_leaves_what_is_there(
    tmp_path: Path, computed: Tensor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    broken = Broken(os.pwrite, 20, code)
    run = run_with(tmp_path, caplog, lambda: monkeypatch.setattr(os, "pwrite", broken))
    assert torch.equal(weights(run), computed)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert ("disk is full" if code == errno.ENOSPC else "cannot be used: Input/output error") in caplog.text
    assert "The run continues" in caplog.text
    assert TRAIN < run.costs.teacher_queries < STEPS * 8  # what is there is still read
    monkeypatch.undo()
    cached = cache_of(run)
    assert not cached.cache.writing


@pytest.mark.parametrize("name", ["pread", "preadv"])
@pytest.mark.parametrize("steps", [EARLY, LATE])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_disk_that_cannot_be_read_is_left_alone(
    tmp_path: Path,
    computed: Tensor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    steps: int,
    ahead: bool,
) -> None:
    broken = Broken(getattr(os, name), 3, errno.EIO)
    run = run_with(tmp_path, caplog, lambda: monkeypatch.setattr(os, name, broken), steps, ahead=ahead)
    assert torch.equal(weights(run), computed)
    if broken.calls < 0:
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "cannot be used: Input/output error" in caplog.text
        assert broken.calls >= -1 - 2 * ahead  # it was not tried again, but for what the thread had begun
    else:
        assert (name, steps) == ("pread", LATE)  # every row had been compared with its checksum


def test_a_folder_that_is_deleted_under_way_ends_no_run(
    tmp_path: Path, computed: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with(tmp_path / "cache", caplog, lambda: shutil.rmtree(tmp_path / "cache"))
    assert torch.equal(weights(run), computed)
    assert len(caplog.records) <= 1  # open files are there until they are closed


def test_a_folder_that_is_deleted_before_a_field_is_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = []
    for reads, goes in ((READS[0], False), (READS[1], True)):
        run = make(tmp_path / reads, reads, OneByOne())
        run.reset(1)
        run.advance(Selection.of("logits"), LATE)
        if goes:
            shutil.rmtree(tmp_path / reads)
        run.advance(ALL, STEPS - LATE)
        found.append(weights(run))
        assert [record.levelname for record in caplog.records].count("WARNING") == goes
    assert torch.equal(*found)
    assert "cannot be used: No such file or directory" in caplog.text
    assert run.costs.teacher_queries == TRAIN + (STEPS - LATE) * 8


def test_a_file_that_is_cut_under_way_is_no_crash(
    tmp_path: Path, computed: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    def cut() -> None:
        for path in tmp_path.glob("*/*.rows"):
            os.truncate(path, 0)

    run = run_with(tmp_path, caplog, cut, LATE)
    assert torch.equal(weights(run), computed)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


class Counted(ReadAhead):
    """Remembers the rows of batches that came from the thread, and of all that were asked for."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(cache, torch.device("cpu"))
        self.early: list[int] = []
        self.all: list[int] = []

    def asked(self, rows: Rows, length: int, fields: frozenset[OutputKey]) -> Future[Read] | None:
        begun = super().asked(rows, length, fields)
        self.all += [len(rows)]
        self.early += [len(rows)] if begun is not None and begun.result() else []
        return begun


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("memory", [20_000, 10**9])
def test_rows_in_the_memory_of_the_device_change_no_bit(
    tmp_path: Path, computed: Tensor, monkeypatch: pytest.MonkeyPatch, memory: int, ahead: bool
) -> None:
    monkeypatch.setattr("ackd.teachers.cache.device_rows.free_memory", lambda device: memory)
    for _ in range(2):  # filling, and filled
        run = make(tmp_path, "all", OneByOne(), ahead=ahead, near=1.0)
        distill(run, ALL, seed=1)
        assert torch.equal(weights(run), computed)
    cached = cache_of(run)
    near = device_rows(cached.cache, torch.device("cpu"), 1.0)
    held = [int(near.held(field, np.arange(TRAIN)).sum()) for field in cached.fields]
    if memory == 10**9:
        assert held == [TRAIN] * len(held)
        run.reset(1)
        before, queries = run.costs.bytes["cache"], run.costs.cached_queries
        run.advance(ALL, 3)
        assert (run.costs.bytes["cache"] - before, run.costs.cached_queries - queries) == (0, 24)
    else:
        assert 0 < sum(held) < TRAIN * len(held)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_reading_ahead_changes_no_bit(tmp_path: Path, accumulate: int) -> None:
    found = []
    for ahead in (False, True):
        run = make(tmp_path / str(ahead), "all", OneByOne(), accumulate=accumulate, steps=STEPS // accumulate)
        if ahead:
            counted = cache_of(run).ahead = Counted(cache_of(run).cache)
        distill(run, ALL, seed=1)
        found.append((weights(run), run.costs.bytes, run.costs.cached_queries))
    (plain, *costs), (early, *others) = found
    assert torch.equal(plain, early)
    assert costs == others
    assert len(counted.all) == STEPS
    # once every row is there, all but the batches at the beginning of an epoch
    whole = STEPS - -(-TRAIN // 8)
    assert len(counted.early) >= whole - 2 * accumulate
    before = len(counted.early)
    run.reset(2)
    run.advance(ALL, 20)
    assert len(counted.early) - before >= 20 * accumulate - 2


def test_nothing_is_read_ahead_of_steps_that_ask_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, "all", OneByOne(), ahead=True)
    distill(run, ALL, seed=1)
    run.reset(2)
    run.advance(ALL, 4)
    reads: list[OutputKey] = []
    read = Cache.read

    def counted(self: Cache, field: OutputKey, *arguments: Any, **more: Any) -> Tensor:
        reads.append(field)
        return read(self, field, *arguments, **more)

    monkeypatch.setattr(Cache, "read", counted)
    run.advance(Selection(), 10)  # the labels alone
    assert len(reads) <= 3 * 6  # the batches that were announced before
    reads.clear()
    run.advance(Selection(), 10)
    assert not reads


def test_the_thread_ends_with_the_run(tmp_path: Path) -> None:
    def threads() -> int:
        return sum(one.name.startswith("ackd-cache") for one in threading.enumerate())

    def settled(count: int) -> bool:
        gc.collect()
        for _ in range(100):
            if threads() == count:
                return True
            time.sleep(0.05)
        return False

    assert settled(0)
    run = make(tmp_path, "all", OneByOne(), ahead=True)
    distill(run, ALL, seed=1)
    assert threads() == 1
    del run
    assert settled(0)


def test_a_process_that_is_interrupted_while_the_thread_reads_ends(tmp_path: Path) -> None:
    script = f"""
        import os, time
        from tests.training.test_cache_reads import *
        run = make(Path({str(tmp_path)!r}), "all", OneByOne(), ahead=True)
        run.reset(1)
        run.advance(ALL, LATE)
        preadv = os.preadv
        def slow(*arguments):
            time.sleep(0.02)
            return preadv(*arguments)
        os.preadv = slow
        run.trainer._announce([])
        print("stops", flush=True)
        raise KeyboardInterrupt
    """
    # one thread: several wait for each other where the machine is busy
    own = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | own, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "stops\n", done.stderr
    assert done.returncode == -signal.SIGINT


def test_a_fork_reads_by_itself(tmp_path: Path) -> None:
    run = make(tmp_path, "all", OneByOne(), ahead=True)
    distill(run, ALL, seed=1)
    run.reset(1)
    run.advance(ALL, 10)
    child = os.fork()
    if not child:
        try:
            run.advance(ALL, 10)
            os._exit(0)
        finally:
            os._exit(1)
    run.advance(ALL, 10)
    assert os.waitpid(child, 0)[1] == 0
