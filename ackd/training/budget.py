"""Computes how many steps fit into a budget of FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.numerics.streams import RngStreams
from ackd.training.distillation import Distillation
from ackd.training.sampler import LengthGroupedSampler
from ackd.types import LABELS, Selection


def afford(training: Distillation, chosen: Selection, flops: float | None, seed: int) -> tuple[int, float, int]:
    """Computes a training's optimizer steps, FLOPs and predicted tokens, before the training starts.

    Args:
        training: the training; `training.steps` applies if `flops` is None.
        chosen: the selection of all steps.
        flops: budget; the result is the largest number of steps that fits into it.
        seed: determines the order of the batches.

    Raises:
        InputError: if the budget is smaller than the first step's FLOPs.
    """
    train = training.task.train
    lengths = train.lengths - 1  # the last token of a chunk is only predicted
    order = LengthGroupedSampler(lengths, training.batch_size, RngStreams(seed).order)
    terms = [training.distiller.knowledge[name] for name in chosen.chosen]
    steps, spent, tokens = 0, 0.0, 0
    while flops is not None or steps < training.steps:
        batches = [order.next() for _ in range(training.accumulate)]
        cost = sum(training.distiller.flops(terms, len(batch), int(lengths[batch].max())) for batch in batches)
        if flops is not None and spent + cost > flops:
            break
        tokens += sum(int(train.predicted[batch].sum()) for batch in batches)
        steps, spent = steps + 1, spent + cost
    if not steps:
        raise InputError(f"--flops is {flops:g}, and the first step takes {cost:.3g}: give more")
    return steps, spent, tokens


def type_prices(training: Distillation) -> dict[str, float]:
    """FLOPs of a step with one type only, as a share of a step with all types; `LABELS`: a step without types."""
    step = training.distiller
    shape = (training.batch_size, round(float(training.task.train.lengths.mean())))
    everything = list(step.knowledge.values())
    price_of_all = step.flops(everything, *shape, whole=True)
    alone = {LABELS: step.flops([], *shape) / price_of_all}
    return alone | {one.name: step.flops([one], *shape) / price_of_all for one in everything}


class Allowance:
    """Limits a run's FLOPs to a share of the FLOPs of transferring everything in every step.

    `n` steps may transfer a selection s, if labels alone in all later steps still fit into the budget:

        spent + sum_{t < n} price_t(s) + sum_{t >= n} price_t(labels) <= share * sum_t price_t(everything)

    where t counts the run's steps, the price is that of `Distiller.flops`, and the first two sums begin at the present
    step. The seed determines all later batches, so their prices are known in advance. A run never exceeds its share; a
    run that always selects more than allowed stays less than one step below it.

    Args:
        training: the training.
        share: above 0 and at most 1; 1 means no limit.

    Raises:
        InputError: if the share is out of range, or too small for labels alone.
    """

    def __init__(self, training: Distillation, share: float) -> None:
        if not 0 < share <= 1:
            raise InputError(
                f"the FLOPs budget is {share}: give a share of what transferring everything throughout takes, above 0 "
                "and at most 1"
            )
        self.training, self.share = training, share
        self._run: tuple[int, int] | None = None  # (seed, processes) of the run in `_lengths` and `_known`
        self._lengths: NDArray[np.int64] = np.empty((0, 0, 0), np.int64)  # result of `_padded`
        self._known: dict[tuple[str, ...] | None, NDArray[np.float64]] = {}  # prices of each step, by types
        least = 0.0 if share == 1 else float(self._prices(0, ()).sum() / self._prices(0, None).sum())
        if least > share:
            raise InputError(
                f"the FLOPs budget is {share:g}, and labels alone take {least:.3f} of what transferring everything "
                f"takes: give at least {math.ceil(100 * least) / 100:g}, or transfer less expensive types"
            )

    def steps(self, chosen: Sequence[str], steps: int, *, seed: int, done: int, spent: float) -> int:
        """Returns how many of the next `steps` may transfer the chosen types.

        The result is 0 if the remaining budget is less than the types' mean extra FLOPs of a step.

        Args:
            chosen: names of knowledge types.
            steps: largest result.
            seed: of the run; determines the order of the batches.
            done: the run's steps so far.
            spent: the run's FLOPs so far.
        """
        if not chosen or self.share == 1:
            return steps
        labels, everything = self._prices(seed, ()), self._prices(seed, None)
        extra = (self._prices(seed, tuple(chosen)) - labels)[done:]
        left = self.share * everything.sum() - spent - labels[done:].sum()
        left += 1e-9 * everything.sum()  # tolerance for rounding
        if not len(extra) or left < extra.mean():
            return 0
        return int(np.searchsorted(extra[:steps].cumsum(), left, side="right"))

    def _prices(self, seed: int, names: tuple[str, ...] | None) -> NDArray[np.float64]:
        """[steps], FLOPs of each step of the seed's run with these types; None: all types on all examples."""
        training = self.training
        if self._run != (seed, training.group.size):
            self._run, self._known = (seed, training.group.size), {}
            self._lengths = _padded(training, seed)
        if names not in self._known:
            types, distiller = training.distiller.knowledge, training.distiller
            terms = list(types.values()) if names is None else [types[name] for name in names]
            prices = np.zeros(training.steps)
            for rank in range(training.group.size):
                size = len(range(rank, training.batch_size, training.group.size))
                lengths, indices = np.unique(self._lengths[..., rank], return_inverse=True)
                each = [distiller.flops(terms, size, int(length), whole=names is None) for length in lengths]
                prices += np.array(each)[indices.reshape(training.steps, -1)].sum(1)
            self._known[names] = prices
        return self._known[names]


def _padded(training: Distillation, seed: int) -> NDArray[np.int64]:
    """[steps, batches of a step, processes], the padded length of each process's part of a batch."""
    train = training.task.train
    lengths, size = train.read_lengths, training.group.size
    order = LengthGroupedSampler(train.lengths, training.batch_size, RngStreams(seed).order)
    batches = (lengths[order.next()] for _ in range(training.steps * training.accumulate))
    parts = [[part[rank::size].max() for rank in range(size)] for part in batches]  # split as in `Group.share`
    return np.array(parts, np.int64).reshape(training.steps, training.accumulate, size)
