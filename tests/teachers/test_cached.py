from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import Model
from ackd.tasks import Split
from ackd.teachers import Cached, ModelTeacher, unwrap
from ackd.teachers.cache.budget import DTYPES, row_sizes
from ackd.teachers.cache.choice import Prices
from ackd.teachers.cache.store import Cache, CacheError, Examples
from ackd.types import Batch, ModelDims, OutputKey, OutputRequest, Outputs

LENGTHS = np.array([7, 3, 12, 1, 5, 5, 9, 2], np.int64)
LOGITS, HIDDEN, SCORES, EMBEDDED = (
    OutputKey("logits"),
    OutputKey("hidden", 2),
    OutputKey("attention", 1),
    OutputKey("hidden", -1),
)
FIELDS = (
    LOGITS,
    OutputKey("cls", 3),
    EMBEDDED,
    HIDDEN,
    SCORES,
    OutputKey("queries", 0),
    OutputKey("keys", 2),
    OutputKey("values", 2),
)
WITHIN = {"float32": 1e-5, "float16": 2**-11 * 1.01, "bfloat16": 2**-8 * 1.01}


class Asked:
    """A teacher that remembers what it was asked, and answers what a test wants otherwise."""

    def __init__(self, inner: ModelTeacher) -> None:
        self.inner = inner
        self.questions: list[tuple[list[int], tuple[int, int], tuple[OutputKey, ...]]] = []
        self.change: Callable[[Batch, OutputKey, Tensor], Tensor] = lambda batch, field, value: value

    @property
    def shape(self) -> ModelDims:
        return self.inner.shape

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return self.inner.flops(needs, size, length)

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        self.questions.append((batch.ids.tolist(), batch.shape, needs.fields))
        answer = self.inner(batch, needs, costs)
        return Outputs.of({field: self.change(batch, field, answer[field]) for field in needs.fields})

    @property
    def took(self) -> list[tuple[list[int], tuple[OutputKey, ...]]]:
        """The ids and fields of each question since the last look."""
        result = [(ids, fields) for ids, _, fields in self.questions]
        self.questions.clear()
        return result


@pytest.fixture(scope="module")
def split() -> Split:
    tokens = np.random.default_rng(0).integers(5, 50, LENGTHS.sum())
    ids = np.array([30, 10, 20, 40, 80, 60, 70, 50])
    return Split({"input_ids": tokens}, np.concatenate([[0], np.cumsum(LENGTHS)]), ids % 2, ids, {"input_ids": 0})


@pytest.fixture
def teacher(make_model: Callable[..., Model]) -> Asked:
    return Asked(ModelTeacher(make_model()))


@pytest.fixture
def kept(teacher: Asked, split: Split, tmp_path: Path) -> Iterator[Callable[..., Cached]]:
    """Makes `Cached` around the teacher."""
    made = []

    def make(fields: Sequence[OutputKey] = FIELDS, dtype: str = "float32", folder: Path = tmp_path) -> Cached:
        examples = Examples(split.ids, split.lengths, split.fingerprint)
        settings = {"name": "x", "teacher": teacher.fingerprint, "shape": teacher.shape, "examples": examples}
        made.append(Cache(folder, **settings, fields=fields, dtype=dtype))  # type: ignore[arg-type]
        return Cached(teacher, made[-1])

    yield make
    for cache in made:
        cache.close()


def with_padding(batch: Batch, extra: int) -> Batch:
    inputs = {name: torch.nn.functional.pad(value, (0, extra)) for name, value in batch.inputs.items()}
    return replace(batch, inputs=inputs)


def masked(field: OutputKey, value: Tensor, batch: Batch) -> Tensor:
    """With zeros at padding, and no padding that the whole batch has."""
    longest = int(batch.lengths.max())
    mask = torch.arange(longest) < batch.lengths[:, None]
    if field.kind == "attention":
        return value[..., :longest, :longest] * (mask[:, None, :, None] & mask[:, None, None, :])
    return value if field.kind in ("logits", "cls") else value[:, :longest] * mask[:, :, None]


def same(one: Outputs, other: Outputs, batch: Batch, fields: Sequence[OutputKey] = FIELDS) -> bool:
    return all(torch.equal(masked(f, one[f], batch), masked(f, other[f], batch)) for f in fields)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from(list(DTYPES)),
    st.data(),
)
def test_the_live_answer_in_any_batch_and_padding(
    teacher: Asked, split: Split, kept: Callable[..., Cached], batches: list[list[int]], dtype: str, data: st.DataObject
) -> None:
    first: dict[tuple[int, OutputKey], Tensor] = {}
    asked: set[tuple[int, OutputKey]] = set()
    with tempfile.TemporaryDirectory() as folder:
        cached = kept(dtype=dtype, folder=Path(folder))
        for indices in batches:
            batch = with_padding(split.batch(indices), data.draw(st.integers(0, 2)))
            fields = data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, unique=True))
            teacher.questions.clear()
            answer = cached(batch, OutputRequest.of(fields), CostTracker())
            for ids, _, those in teacher.questions:
                assert len(set(ids)) == len(ids) or len(ids) == len(indices)
                assert set(those) <= set(fields)
            absent = {(i, field) for i in batch.ids.tolist() for field in fields} - asked
            assert bool(absent) == bool(teacher.questions)
            asked |= absent
            live = teacher.inner(batch, OutputRequest.of(fields), CostTracker())
            for field in fields:
                value = masked(field, answer[field], batch)
                torch.testing.assert_close(
                    value, masked(field, live[field], batch), rtol=WITHIN[dtype], atol=1e-5, msg=str(field)
                )
                assert answer[field].dtype == torch.float32
                assert answer[field].isfinite().all()
                for i, row, n in zip(batch.ids.tolist(), value, batch.lengths.tolist(), strict=True):
                    valid = row if field.kind in ("logits", "cls") else row[..., :n, :n] if field == SCORES else row[:n]
                    # whatever was answered first stays, rounded then as later
                    assert torch.equal(first.setdefault((i, field), valid), valid)
        cached.cache.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_filled_and_then_never_asked(teacher: Asked, split: Split, kept: Callable[..., Cached], dtype: str) -> None:
    cached, costs = kept(dtype=dtype), CostTracker()
    assert (
        sum(cached.fill(split.batch(indices), OutputRequest.of(FIELDS), costs) for indices in split.by_length(3)) == 8
    )
    assert sorted(i for ids, _ in teacher.took for i in ids) == sorted(split.ids)
    assert cached.fill(split.batch([1, 2]), OutputRequest.of(FIELDS), costs) == 0
    bytes_of = {f: int(row_sizes(f, teacher.shape, LENGTHS).sum()) * DTYPES[dtype].itemsize for f in FIELDS}
    assert costs.bytes["cache"] == sum(bytes_of.values())
    assert (costs.teacher_queries, costs.cached_queries) == (8, 0)
    later, batch = CostTracker(), split.batch([2, 0, 2])
    cached(batch, OutputRequest.of([LOGITS, HIDDEN]), later)
    assert not teacher.took
    assert (later.teacher_queries, later.cached_queries) == (0, 3)
    assert later.flops["teacher"] == later.bytes["teacher"] == later.seconds["teacher"] == 0
    assert later.bytes["cache"] == 3 * (2 + 12 * 16) * DTYPES[dtype].itemsize
    assert later.seconds["cache"] > 0


def test_the_first_pass_answers_as_the_teacher_does(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    """In float32 and asked in the same composition: bit for bit."""
    cached, batch, needs = kept(), split.batch([0, 2, 5]), OutputRequest.of(FIELDS)
    live = teacher.inner(batch, needs, CostTracker())
    assert all(same(cached(batch, needs, CostTracker()), live, batch) for _ in range(2))


def test_an_id_twice_in_a_batch_is_asked_and_written_once(
    teacher: Asked, split: Split, kept: Callable[..., Cached]
) -> None:
    cached, costs, batch = kept((LOGITS,)), CostTracker(), split.batch([2, 5, 2, 5, 2])
    cached.fill(split.batch([5]), OutputRequest(logits=True), CostTracker())
    assert teacher.took == [([60], (LOGITS,))]
    answer = cached(batch, OutputRequest(logits=True), costs)
    assert teacher.took == [([20], (LOGITS,))]
    assert (costs.teacher_queries, costs.cached_queries) == (1, 2)
    assert costs.bytes["cache"] == 2 * 4 + 2 * 2 * 4  # written once, and read twice
    assert same(answer, cached(batch, OutputRequest(logits=True), CostTracker()), batch, [LOGITS])


def test_what_is_partly_cached(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    cached, batch = kept((LOGITS, HIDDEN, SCORES)), split.batch([0, 1, 2])
    first = cached(split.batch([0, 2]), OutputRequest.of([LOGITS, HIDDEN]), CostTracker())
    teacher.questions.clear()
    costs = CostTracker()
    answer = cached(batch, OutputRequest.of([LOGITS, SCORES]), costs)
    # logits miss one example and scores all of them, so all are asked about both; what stood stays
    assert teacher.took == [([30, 10, 20], (LOGITS, SCORES))]
    assert torch.equal(answer.logits[[0, 2]], first.logits)  # type: ignore[index,arg-type]
    assert (costs.teacher_queries, costs.cached_queries) == (3, 0)
    assert costs.bytes["cache"] == 4 * (2 + 2 * (7 * 7 + 3 * 3 + 12 * 12)) + 4 * 2 * 2  # written, and read
    assert costs.flops["teacher"] == teacher.flops(OutputRequest.of([LOGITS, SCORES]), 3, 12)
    cached(batch, OutputRequest.of([LOGITS, HIDDEN, SCORES]), costs)
    assert teacher.took == [([10], (HIDDEN,))]  # one field of one example, and no layer behind it
    assert costs.flops["teacher"] == teacher.flops(OutputRequest.of([LOGITS, SCORES]), 3, 12) + teacher.flops(
        OutputRequest.of([HIDDEN]), 1, 3
    )
    assert (costs.teacher_queries, costs.cached_queries) == (4, 2)


def test_what_is_not_kept_is_asked_live(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    cached, batch, costs = kept((LOGITS, HIDDEN)), split.batch([0, 1, 0]), CostTracker()
    needs = OutputRequest.of([LOGITS, SCORES])
    live = teacher.inner(batch, needs, CostTracker())
    assert same(cached(batch, needs, costs), live, batch, [LOGITS, SCORES])
    assert teacher.took == [([30, 10, 30], (LOGITS, SCORES))]
    assert same(cached(batch, needs, costs), live, batch, [LOGITS, SCORES])
    assert teacher.took == [([30, 10, 30], (SCORES,))]
    assert (costs.teacher_queries, costs.cached_queries) == (6, 0)
    assert costs.bytes["cache"] == 4 * 2 * 2 + 4 * 2 * 3
    assert costs.bytes["teacher"] == 4 * (3 * 2 + 2 * 3 * 2 * 7 * 7)
    assert costs.flops["teacher"] == teacher.flops(needs, 3, 7) + teacher.flops(OutputRequest.of([SCORES]), 3, 7)
    cached(batch, OutputRequest.of([SCORES]), costs)
    assert teacher.took == [([30, 10, 30], (SCORES,))]


def test_a_pass_costs_at_least_one_of_the_layers_and_the_head(teacher: Asked, kept: Callable[..., Cached]) -> None:
    cache = kept().cache
    cached = Cached(teacher, cache, prices=Prices("cpu", (2, 7), 0.3, {}, {"hidden": 1.0, "logits": 1.0}))
    assert teacher.flops(OutputRequest.of([EMBEDDED]), 2, 7) == 0
    assert cached.seconds(OutputRequest.of([EMBEDDED]), frozenset()) == pytest.approx(0.3 / (teacher.shape.layers + 1))
    assert cached.seconds(OutputRequest.of([LOGITS]), frozenset()) == pytest.approx(0.3)


def test_what_others_keep_in_the_same_cache_is_not_ones_own(
    teacher: Asked, split: Split, kept: Callable[..., Cached]
) -> None:
    """A cache is shared by a process, and widened for whoever has the larger budget."""
    wide = kept((LOGITS,))
    narrow, later = Cached(teacher, wide.cache, [LOGITS]), Cached(teacher, wide.cache)
    wide.cache.widen([SCORES])
    needs, batch = OutputRequest.of([LOGITS, SCORES]), split.batch([0, 1])
    for one in (narrow, later):
        assert one.fields == {LOGITS}
        one(batch, needs, CostTracker())
        assert not wide.cache.has([SCORES], np.arange(8)).any()
    Cached(teacher, wide.cache)(batch, needs, CostTracker())
    assert wide.cache.has([SCORES], np.arange(8)).tolist() == [True] * 2 + [False] * 6


def test_unknown_examples_are_answered_and_not_written(
    teacher: Asked, split: Split, kept: Callable[..., Cached]
) -> None:
    cached, costs = kept((LOGITS, HIDDEN)), CostTracker()
    before = split.batch([0, 1, 2])
    batch = replace(before, ids=torch.tensor([30, 999, -1]))
    for needs in (OutputRequest.of([LOGITS, HIDDEN]), OutputRequest.of([SCORES])):
        live = teacher.inner(before, needs, CostTracker())
        for _ in range(2):
            assert same(cached(batch, needs, costs), live, batch, needs.fields)
    # 999 and -1 both times, and everything for the scores, which are not kept
    assert [ids for ids, _ in teacher.took] == [[30, 999, -1], [999, -1], [30, 999, -1], [30, 999, -1]]
    assert costs.cached_queries == 1
    assert cached.cache.has([LOGITS, HIDDEN], np.arange(8)).tolist() == [True] + [False] * 7
    assert cached.fill(batch, OutputRequest.of([LOGITS]), costs) == 2


def test_examples_of_another_split_are_refused(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    other = replace(split.batch([0, 1, 2]), ids=torch.from_numpy(split.ids[[3, 4, 5]]))
    with pytest.raises(ValueError, match="other examples have these ids"):
        kept()(other, OutputRequest(logits=True), CostTracker())
    assert not teacher.took


@pytest.mark.parametrize("writing", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(
    teacher: Asked,
    split: Split,
    kept: Callable[..., Cached],
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    writing: bool,
) -> None:
    def damaged(batch: Batch, field: OutputKey, answer: Tensor) -> Tensor:
        answer = answer.clone()
        if field == HIDDEN:
            answer[(batch.ids == 10) | (batch.ids == 70), 0] = value
            answer[batch.ids == 40, 1:] = value  # at padding alone
        return answer

    cached = kept((LOGITS, HIDDEN))
    if not writing:
        monkeypatch.setattr(Cache, "writing", False)
    teacher.change = damaged
    cached(split.batch([3]), OutputRequest.of([LOGITS, HIDDEN]), CostTracker())
    with pytest.raises(InputError, match=r"NaN or infinity \(hidden\) for the examples 10, 70: its weights"):
        cached(split.batch([3, 0, 1, 6]), OutputRequest.of([LOGITS, HIDDEN]), CostTracker())
    for field in (LOGITS, HIDDEN):
        assert cached.cache.has([field], np.arange(8)).tolist() == [i == 3 and writing for i in range(8)]
    teacher.change = lambda batch, field, answer: answer
    cached(split.batch([3, 0, 1, 6]), OutputRequest.of([LOGITS, HIDDEN]), CostTracker())


@pytest.mark.parametrize("writing", [True, False])
def test_what_float16_cannot_hold(teacher: Asked, split: Split, kept: Callable[..., Cached], writing: bool) -> None:
    teacher.change = lambda batch, field, answer: answer + 70_000 * (batch.ids == 20)[:, None]
    first = kept((LOGITS,), "float16")
    cached = first if writing else kept((LOGITS,), "float16")
    with pytest.raises(InputError, match=r"\(logits\) for the examples 20 are larger than float16.*bfloat16 or float"):
        cached(split.batch([1, 2]), OutputRequest(logits=True), CostTracker())
    for dtype in ("bfloat16", "float32"):
        answer = kept((LOGITS,), dtype)(split.batch([1, 2]), OutputRequest(logits=True), CostTracker()).logits
        assert answer is not None
        assert answer[1] == pytest.approx(70_000, rel=0.01)


def test_a_cache_that_is_filled_and_cannot_be_written_says_so(
    teacher: Asked, split: Split, kept: Callable[..., Cached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filling it is all that is wanted; a run would go on without it."""

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cached = kept()
    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        with pytest.raises(CacheError, match="the disk is full"):
            cached.fill(split.batch([0, 1]), OutputRequest.of(FIELDS), CostTracker())


def test_an_answer_of_another_size_does_not_spill_over(
    teacher: Asked, split: Split, kept: Callable[..., Cached]
) -> None:
    cached = kept((HIDDEN, LOGITS))
    teacher.change = lambda batch, field, answer: torch.cat([answer, answer], -1)
    with pytest.raises(ValueError, match="but its row in"):
        cached(split.batch([0, 1]), OutputRequest.of([HIDDEN]), CostTracker())


def test_a_damaged_row_is_asked_again_and_never_returned(
    teacher: Asked, split: Split, kept: Callable[..., Cached]
) -> None:
    cached, batch, needs = kept(), split.batch([0, 1, 2]), OutputRequest.of(FIELDS)
    before = cached(batch, needs, CostTracker())
    cached.cache.close()
    path = cached.cache.folder / "hidden-2.rows"
    content = bytearray(path.read_bytes())
    content[4 * 16 * 8] ^= 64  # in the second example
    path.write_bytes(content)
    teacher.questions.clear()
    after = cached(batch, needs, CostTracker())
    assert teacher.took == [([10], (HIDDEN,))]
    for field in FIELDS:
        torch.testing.assert_close(masked(field, after[field], batch), masked(field, before[field], batch))
    assert cached.cache.damaged == 1
    assert same(cached(batch, needs, CostTracker()), after, batch)
    assert not teacher.took


def test_two_fill_one_cache(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    first, second = kept(), kept()
    batch, needs = split.batch([4, 5]), OutputRequest.of(FIELDS)
    live = teacher.inner(batch, needs, CostTracker())
    assert same(second(batch, needs, CostTracker()), live, batch)
    assert same(first(batch, needs, CostTracker()), live, batch)
    assert len(teacher.took) == 1
    first(split.batch([0, 1]), needs, CostTracker())
    assert second.fill(split.batch([0, 1, 2]), needs, CostTracker()) == 1
    for cached in (first, second):
        assert cached.cache.has(FIELDS, np.arange(6)).tolist() == [True, True, True, False, True, True]


def test_what_another_one_writes_is_answered_live(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    first, second = kept(), kept()
    batch, needs = split.batch([4, 5]), OutputRequest.of(FIELDS)
    live = teacher.inner(batch, needs, CostTracker())
    with first.cache._holding(4):
        for _ in range(2):
            answer = second(batch, needs, CostTracker())
            for field in FIELDS:
                torch.testing.assert_close(masked(field, answer[field], batch), masked(field, live[field], batch))
    assert teacher.took == [([80, 60], FIELDS), ([80], FIELDS)]


def test_it_stands_for_the_teacher(teacher: Asked, split: Split, kept: Callable[..., Cached]) -> None:
    cached = kept(dtype="bfloat16")
    assert cached.shape == teacher.shape
    assert cached.fingerprint != kept(dtype="float16").fingerprint != teacher.fingerprint
    assert cached.flops(OutputRequest(logits=True), 3, 5) == teacher.flops(OutputRequest(logits=True), 3, 5) > 0
    assert unwrap(Cached(cached, cached.cache)) is unwrap(teacher) is teacher
