"""What may take the place of one's own values when a state is read: a table of pairs, and their nestings."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from ackd.files.reading import matches_schema

HUGE = 10**400  # no float is as large
FITS = [
    (1.5, 2.5), (1, 2.5), (-(2**70), 2.5), (int(sys.float_info.max), 0.0), (float("nan"), 0.0),
    (1, 2), (2**63 - 1, 0), (-(2**63) + 1, 0), (True, False), ("a", "b"), ("", "b"), (None, None),
    ([], [1]), ([3, 4, 5], [1]), ((3, 4), [1]), ([], []), ([1, "a"], []), ([1, 2], (3, 4)), ((1, 2.5), (3, 4.5)),
    (torch.ones(2), torch.zeros(2)), (torch.ones(2, dtype=torch.float64), torch.zeros(2)),
    (torch.ones(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)),
    ({}, {}), ({"a": 1}, {"a": 2}),
]  # fmt: skip
DIFFERS = [
    ("1.5", 2.5), (True, 2.5), (None, 2.5), (HUGE, 2.5), (-HUGE, 2.5), ([1.5], 2.5), (1 + 0j, 2.5),
    (1.0, 2), (True, 2), (2**63, 0), (-(2**63), 0), (1, True), (1, "b"), (None, "b"), (0, None),
    ("a", [1]), ({}, [1]), (["a"], [1]), ([1, 2.0], [1]), ([1], (3, 4)), ([1, 2, 3], (3, 4)), ([1, "a"], (3, 4)),
    ([1.0, 1.0], torch.zeros(2)), (torch.ones(3), torch.zeros(2)), (torch.ones(2, 1), torch.zeros(2)),
    (torch.ones(2, dtype=torch.int64), torch.zeros(2)), (torch.ones(2), torch.zeros(2, dtype=torch.int64)),
    ({"a": 1}, {}), ({}, {"a": 1}), ({"b": 1}, {"a": 1}), ({"a": "1"}, {"a": 1}), ([("a", 1)], {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "own"), FITS)
def test_what_has_the_same_kind_and_shape_fits(given: Any, own: Any) -> None:
    assert matches_schema(given, own)
    assert matches_schema({"x": [given, given], "y": (given,)}, {"x": [own], "y": (own,)})


@pytest.mark.parametrize(("given", "own"), DIFFERS)
def test_what_has_another_kind_or_shape_does_not(given: Any, own: Any) -> None:
    assert not matches_schema(given, own)
    assert not matches_schema({"x": [given], "y": 1}, {"x": [own], "y": 1})
    assert not matches_schema({"x": 1, "y": (own, given)}, {"x": 1, "y": (own, own)})
