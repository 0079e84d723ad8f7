"""Rows in a device's memory: the same bytes as from the disk, within the memory that they may take."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.building.setting import prepare
from ackd.errors import InputError
from ackd.teachers.cache import device_rows as module
from ackd.teachers.cache.budget import DTYPES, row_sizes
from ackd.teachers.cache.device_rows import DeviceRows, check_share, device_rows
from ackd.teachers.cache.store import Cache, Examples
from ackd.types import ModelDims, OutputKey

SHAPE = ModelDims(layers=3, width=8, heads=2, classes=3, vocabulary=50)
FIELDS = [OutputKey("logits"), OutputKey("cls", 1), OutputKey("hidden", 2), OutputKey("attention", 0)]
CPU = torch.device("cpu")


def filled(folder: Path, lengths: np.ndarray, dtype: str) -> Cache:
    examples = Examples(np.arange(len(lengths)), lengths, "data")
    cache = Cache(folder, name="x", teacher="t", shape=SHAPE, examples=examples, fields=FIELDS, dtype=dtype)
    n, size, generator = int(lengths.max()), len(lengths), torch.Generator().manual_seed(0)
    shapes = {"logits": (3,), "cls": (8,), "hidden": (n, 8), "attention": (2, n, n)}
    cache.write(
        np.arange(size),
        {f: torch.randn(size, *shapes[f.kind], generator=generator).to(cache.dtype) for f in FIELDS},
    )
    return cache


def bits(value: Tensor) -> Tensor:
    return value.contiguous().view(torch.uint8)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(list(DTYPES)), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_what_is_near_is_what_is_on_the_disk(data: st.DataObject, dtype: str, lengths: list[int]) -> None:
    every, memory = np.asarray(lengths, np.int64), data.draw(st.integers(0, 3000))
    with tempfile.TemporaryDirectory() as folder:
        cache = filled(Path(folder), every, dtype)
        near = DeviceRows(SHAPE, every, cache.dtype, CPU, memory)
        indices = st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6)
        for field in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=8)):
            rows = np.asarray(data.draw(indices))
            length = int(every[rows].max()) + data.draw(st.integers(0, 2))
            near.keep(field, rows, cache.read(field, rows, length))
            there = rows[near.held(field, rows)]
            if len(there):
                assert torch.equal(bits(near.read(field, there, length)), bits(cache.read(field, there, length)))
        taken = sum(one.values.nbytes for one in near._fields.values())
        assert taken <= memory
        for field, one in near._fields.items():
            held = np.flatnonzero(near.held(field, np.arange(len(every))))
            sizes = row_sizes(field, SHAPE, every)
            assert one.used == sizes[held].sum()
            spans = sorted((int(one.starts[row]), int(one.starts[row] + sizes[row])) for row in held)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        cache.close()


def test_all_rows_stay_where_there_is_room(tmp_path: Path) -> None:
    lengths = np.array([4, 1, 6])
    cache = filled(tmp_path, lengths, "float16")
    near = DeviceRows(SHAPE, lengths, cache.dtype, CPU, cache.bytes_of(FIELDS))
    for field in FIELDS:
        near.keep(field, np.arange(3), cache.read(field, np.arange(3), 6))
        assert near.held(field, np.arange(3)).all()
    assert near.left == 0


def test_a_device_without_memory_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.array([4, 1, 6])
    cache = filled(tmp_path, lengths, "float16")

    def full(*arguments: object, **more: object) -> Tensor:
        monkeypatch.undo()
        raise torch.OutOfMemoryError

    near = DeviceRows(SHAPE, lengths, cache.dtype, CPU, 10**6)
    values = cache.read(FIELDS[2], np.arange(3), 6)
    monkeypatch.setattr(torch, "empty", full)
    near.keep(FIELDS[2], np.arange(3), values)
    assert not near.held(FIELDS[2], np.arange(3)).any()


def test_the_share_is_of_what_was_free_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(tmp_path, np.array([4, 1, 6]), "float16")
    monkeypatch.setattr(module, "free_memory", lambda device: 3000)
    assert device_rows(cache, CPU, 1 / 3).left == 1000
    monkeypatch.setattr(module, "free_memory", lambda device: 9)
    assert device_rows(cache, CPU, 1 / 3).left == 1000  # one for all that use the cache
    other = filled(tmp_path / "other", np.array([4, 1, 6]), "float16")
    assert device_rows(other, CPU, 1.0).left == 9


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="must be above 0 and at most 1, got"):
        check_share(share)


@pytest.mark.parametrize("share", [0, 1.5, -1])
def test_it_is_refused_before_anything_is_read(share: float) -> None:
    with pytest.raises(InputError, match=f"must be above 0 and at most 1, got {share}"):
        prepare(task="polarity", teacher="nowhere", cache="nowhere", cache_device_memory=share)


def test_a_share_may_be_all() -> None:
    check_share(1.0)
    check_share(1e-9)
