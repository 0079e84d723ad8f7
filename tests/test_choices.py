from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ackd.choices import Stages, Subset, Weights
from ackd.types import Selection

NAMES = ("a", "b", "c")


@given(action=hnp.arrays(np.int8, 6, elements=st.integers(0, 1)))
def test_any_subset_is_accepted_and_surplus_bits_are_dropped(action: np.ndarray) -> None:
    choice = Subset(NAMES, 6)
    selection = choice.selection(action)
    assert selection.chosen == tuple(name for name, bit in zip(NAMES, action[:3], strict=True) if bit)
    again = choice.action(selection)
    assert choice.space.contains(again)
    assert again[:3].tolist() == action[:3].tolist()
    assert not again[3:].any()


@given(action=hnp.arrays(np.float32, 6, elements=st.floats(allow_nan=True, width=32)))
def test_any_weights_are_accepted(action: np.ndarray) -> None:
    choice = Weights(NAMES, 6)
    selection = choice.selection(action)
    assert all(0 < weight <= 1 for weight in selection.weights.values())
    assert set(selection.weights) <= set(NAMES)
    assert choice.selection(choice.action(selection)) == selection


def test_all_zero_means_labels_only() -> None:
    assert Subset(NAMES, 6).selection(np.zeros(6)) == Selection()
    assert Weights(NAMES, 6).selection(np.zeros(6)) == Selection()


def test_stages_are_chosen_by_their_place() -> None:
    stages = [Selection({"a": 2.0, "b": 500.0}, labels=0.0), Selection({"a": 2.0}), Selection()]
    choice = Stages(stages)
    assert choice.space.n == 3
    for place, selection in enumerate(stages):
        assert choice.selection(np.array(place)) == selection
        again = choice.action(selection)
        assert choice.space.contains(again)
        assert int(again) == place
    assert choice.space.contains(choice.space.sample(choice.mask))
