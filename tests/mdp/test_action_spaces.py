from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ackd.mdp.action_spaces import Levels, Shares, Stages, Subset, Weights, entries_of, make_choice, weights_of
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
    for choice, most in ((Weights(NAMES, 6), 8.0), (Shares(NAMES, 6), 1.0)):
        selection = choice.selection(action)
        assert all(0 < weight <= most for weight in selection.weights.values())
        assert set(selection.weights) <= set(NAMES)
        again = choice.action(selection)
        assert choice.space.contains(again)
        assert choice.selection(again) == selection


def test_entries_are_on_a_logarithmic_scale_with_an_exact_0() -> None:
    assert weights_of([0, 0.08, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1]).tolist() == [0, 0, 0.25, 0.5, 1, 2, 4, 8]
    assert weights_of([-1, 3, np.nan]).tolist() == [0, 8, 0]
    exact = [0, 0.25, 0.5, 1, 2, 4, 8]
    assert weights_of(entries_of(exact)).tolist() == exact
    assert entries_of([0.1, 100]).tolist() == [0, 1]


@given(action=hnp.arrays(np.int64, 6, elements=st.integers(0, 3)))
def test_levels_are_what_they_say(action: np.ndarray) -> None:
    choice = Levels(("labels", *NAMES), 6)
    selection = choice.selection(action)
    expected = [(0, 0.25, 1, 4)[level] for level in action[:4]]
    assert [selection.weights.get(name, 0) for name in NAMES] == expected[1:]
    assert selection.labels == (expected[0] if any(expected) else 1)
    assert choice.selection(choice.action(selection)) == selection


def test_labels_have_an_entry_unless_types_alone_are_chosen() -> None:
    terms = ("labels", *NAMES)
    assert make_choice("subset", terms, 6).selection(np.array([0, 1, 0, 0, 0, 0])) == Selection({"a": 1.0}, labels=0.0)
    assert make_choice("type-subset", terms, 6).selection(np.array([1, 0, 0, 0, 0, 0])) == Selection({"a": 1.0})
    assert make_choice("type-shares", terms, 6).names == NAMES


def test_all_zero_means_labels_only() -> None:
    for choice in ("subset", "levels", "weights", "type-subset", "type-shares"):
        assert make_choice(choice, ("labels", *NAMES), 6).selection(np.zeros(6)) == Selection()


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
