"""Loss balancing within one run: cheap methods that a learned selection has to beat.

Each method is a policy over the terms that can be chosen, labels included, with actions of
`ackd.mdp.action_spaces.Weights`. The original methods compute weights in every optimizer step. Here they compute them
once a phase, from its mean losses. Each loss is relative to its first value, so that all terms begin at the same size:
L_k below is exp(feature "loss"), K the number of terms. Weights are clipped to the range of the action space and do not
become 0 unless a method needs it, because a dropped term is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ackd.agents.policy import Observations, Policy, State
from ackd.agents.rules import IS_LABELS, PROGRESS, Bits, Rule, mask_of
from ackd.errors import InputError, unknown
from ackd.mdp.action_spaces import DOUBLINGS, LEAST, entries_of
from ackd.mdp.observations import FEATURES

Values = NDArray[np.float64]  # [..., K], one for each entry of the action
Memory = tuple[Values, ...]

LOSS, SLOPE, SELECTED, COSINE, NORM = (FEATURES.index(name) for name in ("loss", "slope", "selected", "cosine", "norm"))
SMALLEST, LARGEST = 2.0 ** (2 * DOUBLINGS * LEAST - DOUBLINGS), 2.0**DOUBLINGS  # of the weights in an action
TEMPERATURE = 2.0  # of DWA, as in its paper
NOTHING = 1e-100  # replaces 0 as a divisor


@dataclass(frozen=True)
class Terms:
    """The observed features of the terms, [..., K] each; entries without a term are 0."""

    mask: Bits
    begins: NDArray[np.bool_]  # [..., 1], True before the first step
    loss: Values  # log(last loss / first loss)
    slope: Values  # log(last loss / the one before)
    selected: NDArray[np.bool_]  # in the last phase
    cosine: Values
    norm: Values  # log(gradient norm / the labels')
    labels: NDArray[np.bool_]

    @classmethod
    def of(cls, observation: Observations, mask: Bits) -> Terms:
        """Reads the features of the terms from an observation."""
        features = np.asarray(observation["knowledge"], np.float64).reshape(*mask.shape, len(FEATURES))
        loss, slope, selected, cosine, norm, labels = (
            features[..., place] * mask for place in (LOSS, SLOPE, SELECTED, COSINE, NORM, IS_LABELS)
        )
        begins = np.asarray(observation["globals"])[..., PROGRESS, None] == 0
        return cls(mask, begins, loss, slope, selected > 0, cosine, norm, labels > 0)

    def measured(self, method: str) -> Terms:
        """Returns these terms if their gradients were measured.

        Raises:
            InputError: if the training does not measure gradients.
        """
        types = self.selected & ~self.labels & ~self.begins
        if (types.any(-1) & ~(types & ((self.cosine != 0) | (self.norm != 0))).any(-1)).any():
            raise InputError(
                f"the policy {method} reads the gradients of the losses, which this training does not compare: let it "
                "measure their cosines, or name another policy"
            )
        return self


class Remembering:
    """A method with memory: it keeps numbers between decisions, for each environment and term.

    The numbers are `first` at the start of an episode: if `episode_start` is True, or progress is 0. They are passed on
    in `state`; for a caller that does not pass it back, they are kept from the last call.

    Args:
        first: the initial value of each number.
        weigh: computes the weights and the next numbers from terms and numbers.
    """

    choice = "weights"

    def __init__(self, first: Sequence[float], weigh: Callable[[Terms, Memory], tuple[Values, Memory]]) -> None:
        self.first, self.weigh = first, weigh
        self._memory: Memory | None = None

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], State | None]:
        """The weights as actions, and the memory as state."""
        mask = mask_of(observation)
        terms, memory = Terms.of(observation, mask), self._memory if state is None else state
        fresh = tuple(np.full(mask.shape, value) for value in self.first)
        if memory is None or memory[0].shape != mask.shape:
            memory = fresh
        begins = terms.begins
        if episode_start is not None:
            begins = begins | np.asarray(episode_start, dtype=bool).reshape(begins.shape)
        memory = tuple(np.where(begins, new, old) for new, old in zip(fresh, memory, strict=True))
        weights, self._memory = self.weigh(terms, memory)
        return entries_of(_within(weights) * mask), self._memory


def magnitude() -> Policy:
    """Weights that give all terms the same size: w_k proportional to 1 / L_k, with mean 1.

    `ackd.training.distiller.Distiller` does the same to knowledge types in their first batches; this method does it in
    every phase.
    """
    return _rule(lambda terms: _averaging_one(np.exp(-terms.loss), terms.mask))


def uncertainty(rate: float = 0.1, steps: int = 10) -> Policy:
    """Weights from the learned noise of each term.

        w_k = exp(-s_k)        s descends the gradient of sum_k exp(-s_k) L_k + s_k

    s_k is the log of the variance, 0 at first and log L_k at the optimum. The paper multiplies both parts by 1/2
    for regression, and only the second part for classification. Here both factors are 1, which moves all optima alike.

    Args:
        rate: size of a gradient step.
        steps: gradient steps in a decision, all on the losses of the last phase.

    References:
        Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics,
        CVPR 2018, https://arxiv.org/abs/1705.07115
    """

    def weigh(terms: Terms, memory: Memory) -> tuple[Values, Memory]:
        (s,) = memory
        for _ in range(steps):
            s = np.clip(s - rate * (1.0 - np.exp(terms.loss - s)), -20.0, 20.0)
        return np.exp(-s), (s,)

    return Remembering((0.0,), weigh)


def rlw(seed: int = 0) -> Policy:
    """Random loss weights: w = K softmax(x) with x standard normal, drawn anew in each decision.

    Draws depend on the seed, the environment's row and the number of the call, but not on the other environments.

    References:
        Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning, TMLR 2022,
        https://arxiv.org/abs/2111.10603
    """
    calls = count()

    def weigh(terms: Terms) -> Values:
        call, (*_, width) = next(calls), terms.mask.shape
        rows = [np.random.default_rng((seed, row, call)) for row in range(terms.mask.size // width)]
        drawn = np.stack([one.standard_normal(width) for one in rows])
        return _times_softmax(drawn.reshape(terms.mask.shape), terms.mask)

    return _rule(weigh)


def dwa() -> Policy:
    """Dynamic weight average: larger weights for terms with losses that fall more slowly.

        w = K softmax(r / T)        r_k = L_k(t - 1) / L_k(t - 2), T = 2; r = 1 in the first two phases

    References:
        Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, https://arxiv.org/abs/1803.10704
    """
    return _rule(lambda terms: _times_softmax(np.exp(terms.slope) / TEMPERATURE, terms.mask))


def famo(rate: float = 5.0, decay: float = 0.001) -> Policy:
    """Weights that make all log-losses fall at the same rate.

        z = softmax(xi)        w_k = K c z_k / L_k, c = 1 / sum_k z_k / L_k
        xi <- xi - rate (J^T (log L(t) - log L(t + 1)) + decay xi)        J = diag(z) - z z^T, xi = 0 at first

    In the paper, L(t + 1) are the losses of the same batch after the step; here they are the losses of the next phase.
    The authors' program uses Adam with a rate of .025 in each optimizer step. `rate` is larger here, because there is
    one step of plain gradient descent a phase.

    Args:
        rate: learning rate of the logits xi.
        decay: weight decay of the logits.

    References:
        Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, https://arxiv.org/abs/2306.03792
    """

    def weigh(terms: Terms, memory: Memory) -> tuple[Values, Memory]:
        logits, before = memory
        z, fell = _softmax(logits, terms.mask), before - terms.loss
        pull = z * (fell - (z * fell).sum(-1, keepdims=True))
        logits = (logits - rate * (pull + decay * logits)) * terms.mask
        weights = _averaging_one(_softmax(logits, terms.mask) * np.exp(-terms.loss), terms.mask)
        return weights, (logits, terms.loss)

    return Remembering((0.0, 0.0), weigh)


def gradnorm(alpha: float = 1.5, rate: float = 0.025, steps: int = 10) -> Policy:
    """Weights that make gradient norms equal, but larger for terms that have improved less.

        G_k = w_k n_k        r_k = L_k / mean(L)        w descends the gradient of sum_k |G_k - mean(G) r_k^alpha|

    n_k is the gradient's norm at weight 1, relative to the labels'; the targets are constants, and w has mean 1 after
    every step. The paper takes the norm on the last layer that the terms share.

    Args:
        alpha: how much slower terms are favoured; between .12 and 1.5 in the paper.
        rate: size of a gradient step.
        steps: gradient steps in a decision, all on the losses and norms of the last phase.

    Raises:
        InputError: in the decision after the first phase, if gradients were not measured.

    References:
        Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML 2018,
        https://arxiv.org/abs/1711.02257
    """

    def weigh(terms: Terms, memory: Memory) -> tuple[Values, Memory]:
        mask, norms, losses = terms.measured("gradnorm").mask, np.exp(terms.norm), np.exp(terms.loss)
        (weights,) = memory
        lag = (losses / _mean(losses, mask)) ** alpha
        for _ in range(steps):
            sizes = weights * norms
            slopes = norms * np.sign(np.round(sizes - _mean(sizes, mask) * lag, 12))
            weights = _averaging_one(np.clip(weights - rate * slopes, SMALLEST, LARGEST), mask)
        return weights, (weights,)

    return Remembering((1.0,), weigh)


def gradient_similarity() -> Policy:
    """Weights by the similarity of gradients to the labels': w_k = max(0, cos(g_k, g_labels)).

    The labels have weight 1, and so has every type in the first phase. A type without a positive cosine is dropped for
    a phase; then it gets the smallest weight, 2^-2.5, so that it is measured again.

    Raises:
        InputError: in the decision after the first phase, if gradients were not measured.

    References:
        Du et al., Adapting Auxiliary Losses Using Gradient Similarity, 2018, https://arxiv.org/abs/1812.02224
    """

    def choose(observation: Observations, mask: Bits) -> Values:
        terms = Terms.of(observation, mask).measured("gradient-similarity")
        seen = np.where(terms.cosine > 0, np.maximum(terms.cosine, SMALLEST), 0.0)
        types = np.where(terms.selected, seen, SMALLEST)
        return np.where(terms.labels | terms.begins, 1.0, types)

    return Rule(choose, "weights")


BALANCERS: Mapping[str, Callable[[int], Policy]] = {  # each from a seed
    "magnitude": lambda seed: magnitude(),
    "uncertainty": lambda seed: uncertainty(),
    "rlw": rlw,
    "dwa": lambda seed: dwa(),
    "famo": lambda seed: famo(),
    "gradnorm": lambda seed: gradnorm(),
    "gradient-similarity": lambda seed: gradient_similarity(),
}


def balancer(name: str, *, seed: int = 0) -> Policy:
    """The method with this name; only `rlw` uses the seed.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in BALANCERS:
        raise unknown("policy", name, BALANCERS)
    return BALANCERS[name](seed)


def _rule(weigh: Callable[[Terms], Values]) -> Rule:
    """A method without memory."""
    return Rule(lambda observation, mask: _within(weigh(Terms.of(observation, mask))), "weights")


def _within(weights: Values) -> Values:
    """Clips weights to the range that an action can express without dropping a term."""
    return np.clip(weights, SMALLEST, LARGEST)


def _mean(values: Values, mask: Bits) -> Values:
    """[..., 1], mean of positive values over the present terms; `NOTHING` if there are none."""
    mean: Values = (values * mask).sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1)
    return np.maximum(mean, NOTHING)


def _averaging_one(weights: Values, mask: Bits) -> Values:
    return weights * mask / _mean(weights, mask)


def _softmax(values: Values, mask: Bits) -> Values:
    """Softmax over the present terms; 0 elsewhere."""
    there = np.where(mask > 0, values, -np.inf)
    top = there.max(-1, keepdims=True)
    exponentials = np.exp(there - np.where(np.isfinite(top), top, 0.0))
    shares: Values = exponentials / np.maximum(exponentials.sum(-1, keepdims=True), NOTHING)
    return shares


def _times_softmax(values: Values, mask: Bits) -> Values:
    weights: Values = mask.sum(-1, keepdims=True) * _softmax(values, mask)
    return weights
