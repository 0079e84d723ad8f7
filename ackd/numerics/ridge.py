"""Leave-one-out predictions of ridge regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def left_out(inputs: Values, wanted: Values, penalties: Sequence[float]) -> Values:
    """Leave-one-out predictions of ridge regression: each example is predicted from all others, [N, C].

        y_i - (y_i - W' x_i - b) / (1 - h_ii),  W, b = argmin sum_i |y_i - W' x_i - b|^2 + a |W|^2
        H = 1 1' / N + Z (Z' Z + a I)^-1 Z',  Z = X - mean of X

    The penalty a is the one with the smallest mean squared error of these predictions.

    Args:
        inputs: x, [N, D].
        wanted: y, [N, C].
        penalties: values of a, above 0; on a tie, the first is used.

    References:
        Rifkin & Lippert, Notes on Regularized Least Squares, 2007,
        https://dspace.mit.edu/bitstream/handle/1721.1/37318/MIT-CSAIL-TR-2007-025.pdf
    """
    y = wanted - wanted.mean(0)
    vectors, values, _ = np.linalg.svd(inputs - inputs.mean(0), full_matrices=False)
    projected = vectors.T @ y

    def errors(penalty: float) -> Values:
        shares = values**2 / (values**2 + penalty)
        kept = 1 - 1 / len(y) - np.square(vectors) @ shares
        return np.asarray((y - vectors @ (shares[:, None] * projected)) / kept[:, None])

    return wanted - min(map(errors, penalties), key=lambda one: float(np.square(one).mean()))


def flops(examples: int, features: int) -> float:
    """FLOPs of `left_out`: a singular value decomposition of an N x D matrix.

        6 N D m + 20 m^3,  m = min(N, D)

    References:
        Golub & Van Loan, Matrix Computations, 4th ed. 2013, section 8.6
    """
    smaller = min(examples, features)
    return 6.0 * examples * features * smaller + 20.0 * smaller**3
