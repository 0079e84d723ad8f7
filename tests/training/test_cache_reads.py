"""Runs with a cache: the same bits whatever is read of it, and whatever becomes of it."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import knowledge
from ackd.config import CacheReads
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.teachers import Cached, choices, with_cache
from ackd.teachers.cache.choice import Prices
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.types import Batch, ModelDims, OutputKey, OutputRequest, Outputs, Selection, Teacher, union
from tests.learned import weights

module: Any = importlib.import_module("ackd.teachers.with_cache")  # its name in the package is the function's
ALL = Selection.of(*knowledge.DEFAULT)
TRAIN, STEPS = 600, 100  # examples, and steps of 8 of them: more than one pass
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
    folder: Path, reads: CacheReads, teacher: Teacher | None = None, *, steps: int = STEPS, budget: int = 10**9
) -> Distillation:
    """The tiny pair with a cache in float16."""
    parts = tiny(student_width=8).distillation
    losses, split = list(parts.distiller.knowledge.values()), parts.task.train
    one = teacher or parts.teachers[0]
    how: dict[str, Any] = {"folder": str(folder), "name": "tiny", "budget": budget, "dtype": "float16"}
    cached = with_cache(one, losses, split, reads=reads, batch_size=8, **how)
    settings: dict[str, Any] = {"steps": steps, "batch_size": 8, "lr": 1e-3}
    return Distillation(parts.task, [cached], parts._make_student, parts._make_knowledge, **settings)


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    """Sets the seconds to read a field of each kind; a pass takes 0.1, and 0.05 more for each field."""

    def set_prices(read: dict[str, float]) -> None:
        found = Prices("cpu", (8, 10), 0.1, dict.fromkeys(read, 0.05), read)
        monkeypatch.setattr(module, "prices_of", lambda *arguments: found)

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


@pytest.mark.parametrize("budget", [3_000, 400_000])
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
        run = make(tmp_path / reads, reads, steps=75)
        distill(run, ALL, seed=1)
        found.append(weights(run))
    assert all(torch.equal(one, found[0]) for one in found)


def test_what_is_read_depends_on_what_is_asked(tmp_path: Path, priced: Callable[[dict[str, float]], None]) -> None:
    """One phase asks for the logits alone, which are read; the next one for everything, and the pass returns them."""
    priced({"logits": 0.06, "hidden": 0.2, "attention": 0.2})
    run = make(tmp_path, "auto", OneByOne())
    run.reset(1)
    run.advance(Selection.of("logits"), 76)
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
    whole, begun = make(tmp_path / "a", "auto", steps=120), make(tmp_path / "b", "auto", steps=120)
    for run in (whole, begun):
        run.reset(1)
        run.advance(ALL, 50)
    state = io.BytesIO()
    torch.save(begun.state_dict(), state)
    state.seek(0)
    cache_of(begun).cache.close()
    module._caches.clear()
    priced(CHOICES["everything is read"])
    again = make(tmp_path / "b", "auto", steps=120)
    assert cache_of(again).prices != cache_of(whole).prices
    again.load_state_dict(torch.load(state, weights_only=True))
    assert cache_of(again).prices == cache_of(whole).prices
    for run in (whole, again):
        run.advance(ALL, 70)
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
    folder: Path, caplog: pytest.LogCaptureFixture, before: Callable[[], object], steps: int = 30
) -> Distillation:
    """A run that something happens to after so many steps; it must end, with one warning."""
    run = make(folder, "all", OneByOne())
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
    broken = Broken(os.pwrite, 50, code)
    run = run_with(tmp_path, caplog, lambda: monkeypatch.setattr(os, "pwrite", broken))
    assert torch.equal(weights(run), computed)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert ("disk is full" if code == errno.ENOSPC else "cannot be used: Input/output error") in caplog.text
    assert "The run goes on" in caplog.text
    assert TRAIN < run.costs.teacher_queries < STEPS * 8  # what is there is still read
    monkeypatch.undo()
    cached = cache_of(run)
    assert not cached.cache.writing


@pytest.mark.parametrize("name", ["pread", "preadv"])
@pytest.mark.parametrize("steps", [30, 80])
def test_a_disk_that_cannot_be_read_is_left_alone(
    tmp_path: Path,
    computed: Tensor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    steps: int,
) -> None:
    broken = Broken(getattr(os, name), 3, errno.EIO)
    run = run_with(tmp_path, caplog, lambda: monkeypatch.setattr(os, name, broken), steps)
    assert torch.equal(weights(run), computed)
    if broken.calls < 0:
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "cannot be used: Input/output error" in caplog.text
        assert broken.calls == -1  # it was not tried again
    else:
        assert (name, steps) == ("pread", 80)  # every row had been compared with its checksum


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
        run.advance(Selection.of("logits"), 80)
        if goes:
            shutil.rmtree(tmp_path / reads)
        run.advance(ALL, STEPS - 80)
        found.append(weights(run))
        assert [record.levelname for record in caplog.records].count("WARNING") == goes
    assert torch.equal(*found)
    assert "cannot be used: No such file or directory" in caplog.text
    assert run.costs.teacher_queries == TRAIN + 20 * 8


def test_a_file_that_is_cut_under_way_is_no_crash(
    tmp_path: Path, computed: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    def cut() -> None:
        for path in tmp_path.glob("*/*.rows"):
            os.truncate(path, 0)

    run = run_with(tmp_path, caplog, cut, 80)
    assert torch.equal(weights(run), computed)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
