"""Ridge regression beside that of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from ackd.numerics.ridge import ridge

PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize(("examples", "width"), [(300, 40), (40, 300), (64, 64), (65, 64), (12, 1)])
def test_its_answers_are_those_of_scikit_learn_bit_for_bit(examples: int, width: int, classes: int) -> None:
    chosen = set()
    for seed, noise in enumerate((0.1, 1.0, 10.0, 100.0)):
        rng = np.random.default_rng([seed, examples, width, classes])
        states = rng.normal(size=(examples, width))
        answers = states @ rng.normal(size=(width, classes)) + noise * rng.normal(size=(examples, classes))
        wanted = answers if classes == 1 else np.eye(classes)[answers.argmax(1)]
        unseen = rng.normal(size=(30, width))
        theirs = RidgeCV(alphas=PENALTIES).fit(states, wanted)
        weights, intercept = ridge(states, wanted, PENALTIES)
        assert np.array_equal(unseen @ weights + intercept, theirs.predict(unseen))
        chosen.add(theirs.alpha_)
    assert len(chosen) > 1 or width == 1  # so that the choice is compared as well


def test_the_error_that_chooses_is_of_examples_left_out_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for examples, width in ((30, 8), (12, 20)):
        states = rng.normal(size=(examples, width))
        wanted = states[:, :1] + rng.normal(size=(examples, 1))

        def left_out(penalty: float, states: object = states, wanted: object = wanted) -> float:
            assert isinstance(states, np.ndarray)
            assert isinstance(wanted, np.ndarray)
            errors = []
            for one in range(len(states)):
                rest = np.arange(len(states)) != one
                weights, intercept = ridge(states[rest], wanted[rest], [penalty])
                errors.append(wanted[one] - states[one] @ weights - intercept)
            return float(np.square(errors).mean())

        best = min(PENALTIES, key=left_out)
        assert np.array_equal(ridge(states, wanted, PENALTIES)[0], ridge(states, wanted, [best])[0])


def test_constant_states_say_the_mean() -> None:
    weights, intercept = ridge(np.zeros((6, 3)), np.arange(6.0)[:, None], PENALTIES)
    assert not weights.any()
    assert intercept == pytest.approx(2.5)
