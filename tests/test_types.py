from __future__ import annotations

import math

import pytest
import torch

from ackd.types import Needs, Report, Selection, mean, union


def test_selections() -> None:
    selection = Selection({"a": 0.5, "b": 0.0})
    assert selection.chosen == ("a",)
    assert Selection.of("a", "b").weights == {"a": 1.0, "b": 1.0}
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="'a' must be finite and not negative"):
            Selection({"a": weight})


def test_needs_add_up() -> None:
    one, other = Needs(hidden=frozenset({1})), Needs(logits=True, hidden=frozenset({2}))
    assert union([one, other]) == Needs(True, frozenset({1, 2}))
    assert not Needs()
    assert one


def test_the_mean_of_reports() -> None:
    def row(i: float) -> Report[torch.Tensor]:
        return Report(torch.tensor(i), torch.tensor(i + 1), torch.tensor(i + 2), {"a": torch.tensor(2 * i)})

    rows = [row(0.0), row(1.0), row(2.0)]
    assert mean(rows) == Report(1.0, 2.0, 3.0, {"a": 2.0})
    assert mean(rows).finite
    assert not mean([*rows, row(math.nan)]).finite
    with pytest.raises(ValueError, match="no report"):
        mean([])
