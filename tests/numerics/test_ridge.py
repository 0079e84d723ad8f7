"""Ridge regression beside that of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from ackd.numerics.ridge import left_out

PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize(("examples", "width"), [(60, 8), (20, 40), (24, 24), (12, 1)])
def test_each_example_is_predicted_by_a_regression_of_all_others(examples: int, width: int, classes: int) -> None:
    chosen = set()
    for seed, noise in enumerate((0.1, 10.0, 100.0)):
        rng = np.random.default_rng([seed, examples, width, classes])
        states = rng.normal(size=(examples, width)) + 3.0
        answers = states @ rng.normal(size=(width, classes)) + noise * rng.normal(size=(examples, classes))
        wanted = answers if classes == 1 else np.eye(classes)[answers.argmax(1)]
        best = RidgeCV(alphas=PENALTIES).fit(states, wanted).alpha_
        parts = [np.arange(examples) != one for one in range(examples)]
        fitted = [Ridge(alpha=best).fit(states[rest], wanted[rest]).predict(states[~rest])[0] for rest in parts]
        expected = np.array(fitted).reshape(wanted.shape)
        np.testing.assert_allclose(left_out(states, wanted, PENALTIES), expected, atol=1e-7)
        chosen.add(best)
    assert len(chosen) > 1 or width == 1  # so that the choice is compared as well


def test_constant_states_say_the_mean_of_the_others() -> None:
    wanted = np.arange(6.0)[:, None]
    others = (wanted.sum() - wanted) / 5
    np.testing.assert_allclose(left_out(np.zeros((6, 3)), wanted, PENALTIES), others)
