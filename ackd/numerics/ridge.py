"""Ridge regression with the penalty of the smallest leave-one-out error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Solve = Callable[[float], tuple[Values, Values]]  # the weights and the leave-one-out errors for a penalty


def ridge(inputs: Values, wanted: Values, penalties: Sequence[float]) -> tuple[Values, Values]:
    """The weights W and the intercept b of `argmin sum_i |y_i - W' x_i - b|^2 + a |W|^2`.

    The penalty a is the one with the smallest mean squared error of the examples left out one at a time:

        e_i = (y_i - W' x_i - b) / (1 - h_ii),  H = 1 1' / N + Z (Z' Z + a I)^-1 Z',  Z = X - mean of X

    The result is that of scikit-learn's `RidgeCV` to the last bit, without the second that importing it takes.

    Args:
        inputs: x, [N, D].
        wanted: y, [N, C].
        penalties: values of a, above 0; on a tie the first one is taken.

    Returns:
        [D, C] and [C]; [D] and [1] for C = 1.

    References:
        Rifkin & Lippert, Notes on Regularized Least Squares, 2007,
        https://dspace.mit.edu/bitstream/handle/1721.1/37318/MIT-CSAIL-TR-2007-025.pdf
    """
    middle, level = inputs.mean(0), wanted.mean(0)
    z, y = inputs - middle, wanted - level
    solve = _by_gram(z, y) if len(z) <= z.shape[1] else _by_covariance(z, y)
    weights, errors = solve(penalties[0])
    least = np.square(errors).mean()
    for penalty in penalties[1:]:
        others, errors = solve(penalty)
        if (error := np.square(errors).mean()) < least:
            weights, least = others, error
    if weights.shape[1] == 1:
        weights = weights.ravel()
    return weights, level - middle @ weights


def _by_gram(z: Values, y: Values) -> Solve:
    """For N <= D: `W = Z' c, e = c / (diag G - 1 / (a N)), c = G y, G = (Z Z' + a I)^-1`."""
    values, vectors = np.linalg.eigh(z @ z.T)
    turned = vectors.T @ y

    def solve(penalty: float) -> tuple[Values, Values]:
        inverse = 1.0 / (values + penalty)
        residuals = vectors @ (inverse[:, None] * turned)
        diagonal = (inverse * vectors**2).sum(1) - 1.0 / (penalty * len(z))
        return z.T @ residuals, residuals / diagonal[:, None]

    return solve


def _by_covariance(z: Values, y: Values) -> Solve:
    """For N > D: `W = G Z' y, e = (y - Z W) / (1 - diag Z G Z' - 1 / N), G = (Z' Z + a I)^-1`."""
    values, vectors = np.linalg.eigh(z.T @ z)
    product = z.T @ y

    def solve(penalty: float) -> tuple[Values, Values]:
        inverse = (vectors * (1.0 / (values + penalty))) @ vectors.T
        weights = inverse @ product
        kept = 1.0 - ((z @ inverse) * z).sum(1) - 1.0 / len(z)
        return weights, (y - z @ weights) / kept[:, None]

    return solve
