from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import Model
from ackd.teachers import ModelTeacher
from ackd.teachers.cache.budget import DTYPES, make_plan, parse_size, readable, row_sizes
from ackd.teachers.cache.store import Cache, Examples
from ackd.types import LAYERED, Batch, ModelDims, OutputKey, OutputRequest

SHAPE = ModelDims(layers=3, width=16, heads=2, classes=3, vocabulary=50)
FIELDS = [
    OutputKey("logits"),
    *(OutputKey(kind, layer) for kind in LAYERED for layer in (0, 2)),
    OutputKey("hidden", -1),
]
TYPES = {
    "attention": OutputRequest(attention=frozenset({0, 2})),
    "logits": OutputRequest(logits=True),
    "hidden": OutputRequest(hidden=frozenset({-1, 0, 2})),
    "last": OutputRequest(hidden=frozenset({2}), cls=frozenset({2})),
    "relations": OutputRequest(queries=frozenset({2}), keys=frozenset({2}), values=frozenset({2})),
}
LENGTHS = np.array([7, 3, 12, 1, 5], np.int64)


def test_a_row_has_as_many_numbers_as_the_teacher_answers_without_padding(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    teacher = ModelTeacher(make_model(layers=3, classes=3))
    batch = make_batch(tuple(LENGTHS.tolist()), classes=3, extra=2)
    answer = teacher(batch, OutputRequest.of(FIELDS), CostTracker())
    mask = batch.mask.bool()
    for field in FIELDS:
        value = answer[field]
        if field.kind == "attention":
            there = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(value)
        elif field.kind in ("logits", "cls"):
            there = value == value
        else:
            there = mask[:, :, None].expand_as(value)
        assert row_sizes(field, teacher.shape, LENGTHS).tolist() == there.flatten(1).sum(1).tolist(), field


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_plan_is_what_the_files_take(tmp_path: Path, dtype: str) -> None:
    plan = make_plan(TYPES, SHAPE, LENGTHS, budget=10**9, dtype=dtype)
    examples = Examples(np.arange(len(LENGTHS)), LENGTHS, "data")
    cache = Cache(tmp_path, name="x", teacher="t", shape=SHAPE, examples=examples, fields=plan.fields, dtype=dtype)
    cache.close()

    def on_disk(needs: OutputRequest) -> int:
        return sum((cache.folder / f"{kind}-{layer}.rows").stat().st_size for kind, layer in needs.fields)

    assert plan.types == {name: (on_disk(needs), True) for name, needs in TYPES.items()}
    assert plan.size == sum(path.stat().st_size for path in cache.folder.glob("*.rows"))
    assert plan.size < sum(size for size, _ in plan.types.values())  # hidden-2 is shared


def numbers(fields: frozenset[OutputKey]) -> int:
    """Counted one example at a time."""
    return sum(
        {"logits": 3, "cls": 16, "attention": 2 * n * n}.get(field.kind, 16 * n)
        for field in fields
        for n in LENGTHS.tolist()
    )


@given(st.sets(st.sampled_from(list(TYPES)), min_size=1), st.integers(1, 10_000), st.sampled_from(list(DTYPES)))
def test_smaller_types_come_first_within_the_budget(names: set[str], budget: int, dtype: str) -> None:
    types = {name: TYPES[name] for name in sorted(names)}
    each = DTYPES[dtype].itemsize
    sizes = {name: each * numbers(frozenset(needs.fields)) for name, needs in types.items()}
    if min(sizes.values()) > budget:
        smallest = min(sizes, key=lambda name: sizes[name])
        with pytest.raises(InputError) as refused:
            make_plan(types, SHAPE, LENGTHS, budget=budget, dtype=dtype)
        assert repr(smallest) in str(refused.value)
        assert readable(sizes[smallest]) in str(refused.value)
        return
    plan = make_plan(types, SHAPE, LENGTHS, budget=budget, dtype=dtype)
    kept = {name for name, (_, keep) in plan.types.items() if keep}
    assert plan.size == each * numbers(plan.fields) <= budget
    assert {name: size for name, (size, _) in plan.types.items()} == sizes
    assert plan.fields == {field for name in kept for field in types[name].fields}
    for name in names - kept:  # would not have fitted beside the smaller ones
        smaller = {field for one in kept if sizes[one] <= sizes[name] for field in types[one].fields}
        assert each * numbers(frozenset(smaller | set(types[name].fields))) > budget


def test_the_plan_can_be_read() -> None:
    types = {name: TYPES[name] for name in ("hidden", "logits")}
    assert str(make_plan(types, SHAPE, LENGTHS, budget=1000, dtype="float16")).splitlines() == [
        "30 B to keep",  # 5 examples, 3 classes, 2 bytes
        "  hidden     2.7 kB  asked live: over the budget",  # 28 tokens, 16 wide, 3 layers, 2 bytes
        "  logits       30 B  kept",
    ]


def test_types_that_need_nothing_of_a_teacher_fit() -> None:
    assert make_plan({"none": OutputRequest()}, SHAPE, LENGTHS, budget=1, dtype="float16").types == {"none": (0, True)}
    assert str(make_plan({}, SHAPE, LENGTHS, budget=1, dtype="float16")) == "0 B to keep"


def test_an_unknown_number_format_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'float16'"):
        make_plan(TYPES, SHAPE, LENGTHS, budget=1000, dtype="float61")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("500 MB", 500 * 10**6),
        ("1.5GiB", 1.5 * 2**30),
        ("12", 12),
        (" 3 kb ", 3000),
        ("7B", 7),
        ("0.5TiB", 2**39),
        ("1e3MB", 10**9),
    ],
)
def test_sizes_as_people_write_them(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "-1GB", "0", "nan", "inf", "-inf", "2XB", "2 G B", "GB", "1e999", "2GBB", "0.2", "1,5GB", "2GB3"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="size") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)


@settings(max_examples=300)
@given(st.integers(1, 10**16))
def test_readable_sizes_can_be_parsed(size: int) -> None:
    shown = readable(size)
    assert math.isclose(parse_size(shown), size, rel_tol=0.05)
    number, unit = shown.split()
    assert float(number) < 1000 or unit == "TB"


@given(st.integers(1, 10**6), st.sampled_from([("KB", 10**3), ("MiB", 2**20), ("gb", 10**9), ("", 1)]))
def test_whole_numbers_of_a_unit_are_exact(count: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{count}{unit[0]}") == parse_size(f" {count} {unit[0]} ") == count * unit[1]
