"""What is read from a cache, by measured prices, and how these are kept."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import Model
from ackd.split import Split
from ackd.teachers import ModelTeacher
from ackd.teachers.cache import measuring
from ackd.teachers.cache.choice import LEAST, MARGIN, Prices
from ackd.teachers.cache.measuring import measure, prices_of
from ackd.teachers.cache.store import Cache, Examples
from ackd.teachers.wrapper import TeacherWrapper
from ackd.types import Batch, OutputKey, OutputRequest, Outputs

LAYERS = 4
LOGITS = OutputKey("logits")
HIDDEN = [OutputKey("hidden", layer) for layer in range(-1, LAYERS)]
SCORES = [OutputKey("attention", layer) for layer in range(LAYERS)]
CPU = torch.device("cpu")


def share(needs: OutputRequest) -> float:
    """Of a teacher with equal layers and a head as dear as one of them."""
    return 1.0 if needs.last_layer is None else (needs.last_layer + 1) / (LAYERS + 1)


def prices(whole: float, *, more: float = 0.0, **read: float) -> Prices:
    return Prices("cpu", (8, 16), whole, dict.fromkeys(read, more), read)


def subsets(fields: Iterable[OutputKey]) -> Iterable[frozenset[OutputKey]]:
    fields = list(fields)
    for count in range(len(fields) + 1):
        yield from map(frozenset, itertools.combinations(fields, count))


times = st.floats(1e-5, 1e-1)


@settings(deadline=None)
@given(
    times, st.dictionaries(st.sampled_from(["logits", "hidden", "attention"]), st.tuples(times, times), min_size=3),
    st.sets(st.sampled_from([LOGITS, *HIDDEN[:3], *SCORES[1:]]), min_size=1),
    st.sets(st.sampled_from([LOGITS, *HIDDEN[:3], *SCORES[1:]])),
)  # fmt: skip
def test_no_other_choice_is_clearly_faster(
    whole: float, each: dict[str, tuple[float, float]], wanted: set[OutputKey], kept: set[OutputKey]
) -> None:
    read = {kind: one for kind, (one, _) in each.items()}
    more = {kind: one for kind, (_, one) in each.items()}
    known = Prices("cpu", (8, 16), whole, more, read)

    def seconds(computed: frozenset[OutputKey]) -> float:
        passes = whole * share(OutputRequest.of(computed)) if computed else 0.0
        return passes + sum(more[f.kind] if f in computed else read[f.kind] for f in wanted)

    chosen = known.choose(wanted, frozenset(kept), share)
    assert chosen <= wanted & kept
    best = min(seconds(frozenset(wanted) - reads) for reads in subsets(wanted & kept))
    took = seconds(frozenset(wanted) - chosen)
    assert took <= max(best / (1 - MARGIN), best + LEAST) + 1e-9
    assert took <= seconds(frozenset(wanted - kept)) + 1e-9  # never slower than what is read without prices


def test_logits_alone_are_read_and_no_pass_runs() -> None:
    assert prices(0.015, logits=1e-3).choose([LOGITS], frozenset([LOGITS]), share) == {LOGITS}


def test_slow_attention_maps_force_the_pass_and_then_nothing_is_worth_reading() -> None:
    known, everything = prices(0.015, logits=5e-4, hidden=2e-3, attention=0.01), [LOGITS, *HIDDEN[1:], *SCORES]

    def without_head(needs: OutputRequest) -> float:
        return 1.0 if needs.last_layer is None else (needs.last_layer + 1) / LAYERS

    assert known.choose(everything, frozenset(everything), without_head) == set()
    few = [LOGITS, HIDDEN[2], HIDDEN[3]]
    assert known.choose(few, frozenset(everything), without_head) == set(few)


def test_a_pass_stops_after_the_last_layer_that_is_not_worth_reading() -> None:
    """The scores of the first layer are slow to read, and a fifth of the pass computes them."""
    known, wanted = prices(0.05, logits=1e-3, hidden=1e-3, attention=0.03), [LOGITS, HIDDEN[-1], SCORES[0]]
    assert known.choose(wanted, frozenset(wanted), share) == {LOGITS, HIDDEN[-1]}


def test_what_cannot_be_kept_forces_a_pass_which_returns_the_rest_as_well() -> None:
    known, wanted = prices(0.05, logits=1e-3, hidden=8e-3, attention=0.01), [LOGITS, HIDDEN[1], SCORES[-1]]
    # the scores of the last layer are computed: the hidden states come along, the logits would need the head
    assert known.choose(wanted, frozenset([LOGITS, HIDDEN[1]]), share) == {LOGITS}


def test_little_gain_is_no_reason_to_compute() -> None:
    known = prices(LEAST / 2, logits=LEAST)
    assert known.choose([LOGITS], frozenset([LOGITS]), share) == {LOGITS}
    known = prices(0.1, logits=0.1 / (1 - MARGIN / 2))
    assert known.choose([LOGITS], frozenset([LOGITS]), share) == {LOGITS}


@settings(deadline=None)
@given(
    times,
    times,
    st.dictionaries(st.sampled_from(["logits", "hidden", "attention"]), st.tuples(times, times), min_size=3),
    st.sets(st.sampled_from([LOGITS, *HIDDEN[:3], *SCORES[1:]]), min_size=1),
)
def test_what_a_thread_hides_costs_nothing(
    whole: float, hidden: float, each: dict[str, tuple[float, float]], wanted: set[OutputKey]
) -> None:
    read, more = ({kind: both[place] for kind, both in each.items()} for place in (0, 1))
    known, all_of_it = Prices("cpu", (8, 16), whole, more, read, hidden), frozenset(wanted)
    took = known.seconds(wanted, all_of_it - known.choose(wanted, all_of_it, share), share)
    assert took <= max(sum(read[field.kind] for field in wanted) - hidden, 0.0) + 1e-9  # never worse than to read all
    assert known.seconds(wanted, all_of_it, share) == pytest.approx(
        whole * share(OutputRequest.of(wanted)) + sum(more[field.kind] for field in wanted)
    )
    if sum(read[field.kind] for field in wanted) <= hidden:
        assert known.choose(wanted, all_of_it, share) == wanted


class Slow(TeacherWrapper):
    """A teacher whose passes take a while on a clock that the test moves."""

    def __init__(self, inner: ModelTeacher, clock: Callable[[float], object]) -> None:
        self.inner, self.clock, self.passes = inner, clock, 0

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        self.passes += 1
        self.clock(0.02 + 0.003 * len(needs.hidden) + 0.005 * len(needs.attention))
        return self.inner(batch, needs, costs)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


FIELDS = [LOGITS, OutputKey("hidden", 0), OutputKey("hidden", 2), OutputKey("attention", 1)]
LENGTHS = np.array([7, 3, 12, 1, 5, 5, 9, 2], np.int64)


@pytest.fixture
def split() -> Split:
    tokens = np.random.default_rng(0).integers(5, 50, LENGTHS.sum())
    ids = np.array([30, 10, 20, 40, 80, 60, 70, 50])
    return Split({"input_ids": tokens}, np.concatenate([[0], np.cumsum(LENGTHS)]), ids % 2, ids, {"input_ids": 0})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made.perf_counter)
    return made


@pytest.fixture
def teacher(make_model: Callable[..., Model], clock: Clock) -> Slow:
    return Slow(ModelTeacher(make_model()), clock.move)


@pytest.fixture
def cache(teacher: Slow, split: Split, tmp_path: Path) -> Cache:
    examples = Examples(split.ids, split.lengths, split.fingerprint)
    return Cache(tmp_path, name="x", teacher="t", shape=teacher.shape, examples=examples, fields=FIELDS)


def test_the_prices_are_the_times(
    teacher: Slow, cache: Cache, split: Split, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, took = Cache.read, {"logits": 0.001, "hidden": 0.002, "attention": 0.004}

    def slow(self: Cache, field: OutputKey, *arguments: object, **more: object) -> torch.Tensor:
        clock.move(took[field.kind])
        return read(self, field, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Cache, "read", slow)
    found = measure(teacher, cache, FIELDS, split.batch([0, 4, 5]))
    assert found.batch == (3, 7)
    assert found.whole == pytest.approx(0.02)
    assert found.more == pytest.approx({"hidden": 0.003, "attention": 0.005})
    assert found.read == pytest.approx(took)
    assert not cache.has(FIELDS, np.arange(8)).any()
    assert not [path for path in cache.folder.iterdir() if path.is_dir()]  # nothing is left


def test_half_a_students_step_hides_reading(teacher: Slow, cache: Cache, split: Split, clock: Clock) -> None:
    took = iter([5.0, *[0.03] * 20])  # the first one takes long
    found = measure(teacher, cache, FIELDS, split.batch([0, 4, 5]), step=lambda batch: clock.move(next(took)))
    assert found.hidden == pytest.approx(0.015)
    assert measure(teacher, cache, FIELDS, split.batch([0, 4, 5])).hidden == 0


def test_a_long_pass_is_measured_once(teacher: Slow, cache: Cache, split: Split) -> None:
    teacher.clock(0)
    slow = teacher.clock
    teacher.clock = lambda seconds: slow(100 * seconds)
    found = measure(teacher, cache, FIELDS, split.batch([0, 4, 5]))
    assert teacher.passes == 1
    assert found.whole == pytest.approx(100 * (0.02 + 0.003 + 0.005))
    assert found.more == {}
    everything = OutputRequest.of(FIELDS)
    assert found.choose(everything.fields, frozenset(FIELDS), share) == set(FIELDS)


def test_prices_are_measured_once_for_equal_runs(teacher: Slow, cache: Cache, split: Split) -> None:
    first = prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)
    passes = teacher.passes
    assert passes > 0
    assert prices_of(teacher, cache, FIELDS, split, size=4, device=CPU) == first
    assert teacher.passes == passes
    for fields, size in ((FIELDS[:2], 4), (FIELDS, 3)):  # other prices
        prices_of(teacher, cache, fields, split, size=size, device=CPU)
        assert teacher.passes > passes
        passes = teacher.passes
    assert len(list(cache.folder.glob("prices-*.json"))) == 3


def test_a_file_system_without_links_keeps_prices_too(
    teacher: Slow, cache: Cache, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    first = prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)
    assert prices_of(teacher, cache, FIELDS, split, size=4, device=CPU) == first
    assert len(list(cache.folder.glob("prices-*.json"))) == 1


def test_the_first_of_two_that_measure_at_once_counts(
    teacher: Slow, cache: Cache, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Prices("theirs", (1, 1), 1.0, {}, dict.fromkeys(("logits", "hidden", "attention"), 1.0))
    ours = Prices("ours", (1, 1), 1.0, {}, theirs.read)

    def late(*arguments: object, **more: object) -> Prices:
        monkeypatch.setattr(measuring, "measure", lambda *a, **m: theirs)
        assert prices_of(teacher, cache, FIELDS, split, size=4, device=CPU) == theirs
        return ours

    monkeypatch.setattr(measuring, "measure", late)
    assert prices_of(teacher, cache, FIELDS, split, size=4, device=CPU) == theirs


def test_a_read_only_cache_is_measured_and_not_touched(
    teacher: Slow, cache: Cache, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing: Any = Cache.writing
    monkeypatch.setattr(Cache, "writing", property(lambda self: self is not cache and writing.fget(self)))
    before = sorted(cache.folder.iterdir())
    assert math.isfinite(prices_of(teacher, cache, FIELDS, split, size=4, device=CPU).whole)
    assert sorted(cache.folder.iterdir()) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"device": 1}'])
def test_damaged_prices_are_refused(teacher: Slow, cache: Cache, split: Split, content: str) -> None:
    prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)
    (path,) = cache.folder.glob("prices-*.json")
    path.write_text(content)
    with pytest.raises(InputError, match="delete it, and it is measured again"):
        prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)


def test_prices_of_other_outputs_are_refused(teacher: Slow, cache: Cache, split: Split) -> None:
    prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)
    (path,) = cache.folder.glob("prices-*.json")
    known = json.loads(path.read_text())
    del known["read"]["hidden"]
    path.write_text(json.dumps(known))
    with pytest.raises(InputError, match=r"no price of hidden.*delete it"):
        prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)


def test_a_cache_larger_than_the_memory_is_measured_from_the_disk(
    teacher: Slow, cache: Cache, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    forget = measuring._forget

    def seen(files: Sequence[Path]) -> None:
        forgotten.extend(path.name for path in files)
        forget(files)

    monkeypatch.setattr(measuring, "_forget", seen)
    prices_of(teacher, cache, FIELDS, split, size=4, device=CPU)
    assert not forgotten
    monkeypatch.setattr(measuring, "_memory", lambda: 100)
    prices_of(teacher, cache, FIELDS, split, size=3, device=CPU)
    assert {"logits-0.rows", "hidden-0.rows", "attention-1.rows"} <= set(forgotten)
