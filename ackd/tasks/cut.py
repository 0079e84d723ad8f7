"""Cuts held-out splits such that the remaining examples share no text with them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.tasks.overlap import Overlap
from ackd.tasks.rows import Rows
from ackd.tasks.seen import NOTHING, Seen, fingerprint

logger = logging.getLogger("ackd")

LEAST = 50  # smallest useful number of examples
LEFT = 4  # at least 1 / LEFT of the rows stay for training

Indices = NDArray[np.int64]


class Pool:
    """The training rows of a source, from which splits are held out first.

    Args:
        rows: all training rows.
        name: the task's name.
        seen: training data of the run's models.
    """

    def __init__(self, rows: Rows, name: str, seen: Seen = NOTHING) -> None:
        self.rows, self.name, self.seen = rows, name, seen
        self.data = fingerprint(rows)
        self._overlap = Overlap(rows.texts)
        known = seen.rows(self.data, len(rows))
        self._new = ~self._overlap.touching(known) if known.any() else np.ones(len(rows), np.bool_)
        self._left = np.ones(len(rows), np.bool_)

    @property
    def left(self) -> Indices:
        """The rows that share no text with held-out rows."""
        return np.flatnonzero(self._left)

    def hold_out(self, split: str, count: int, seed: np.random.SeedSequence, instead: str) -> Indices:
        """Holds out random rows, with (to within one) the same share of each class, and returns their indices.

        The rows are drawn from all that are left. If one of them shares text with seen rows, the draw is repeated among
        rows that share no text with seen rows. Rows that share text with a held-out row are removed from the pool. If
        that would remove more than three quarters of it, fewer rows are drawn, and rows that share no text with the
        rest are added.

        Args:
            split: name of the split, for messages.
            count: number of rows.
            seed: of the draw.
            instead: advice for the error message if there are too few rows.

        Raises:
            InputError: if there are fewer than 50 rows, and fewer than `count`.
        """
        held = self._drawn(self.left, count, np.random.default_rng(seed))
        if not self._new[held].all():
            held = self._drawn(np.flatnonzero(self._left & self._new), count, np.random.default_rng(seed))
        if len(held) < count:
            self._tell_of_few(split, len(held), count, instead)
        near = self._near(held)
        logger.debug(
            "%s: %d training examples share text with the %s split and are left out",
            self.name, int((near & self._left).sum()) - len(held), split,
        )  # fmt: skip
        self._left &= ~near
        return held

    def _drawn(self, indices: Indices, count: int, rng: np.random.Generator) -> Indices:
        """Draws `count` of `indices`, or fewer if too few rows would be left for training."""
        labels, wanted = self.rows.labels, min(count, len(indices))
        few = wanted
        while True:
            held = indices[stratified(labels[indices], few, rng)]
            near = self._near(held) & self._left
            if self._left.sum() - near.sum() >= self._left.sum() / LEFT:
                break
            few //= 2
            if not few:  # a single row shares text with nearly all rows
                indices = indices[~near[indices]]
                few = wanted = min(count, len(indices))
        if few < wanted:
            alone = near & ~self._near(np.flatnonzero(self._left & ~near))
            more = np.setdiff1d(indices[alone[indices]], held)
            more = more[stratified(labels[more], min(wanted - few, len(more)), rng)]
            held = np.union1d(held, more)
        return held

    def _near(self, indices: Indices) -> NDArray[np.bool_]:
        rows = np.zeros(len(self.rows), np.bool_)
        rows[indices] = True
        return self._overlap.touching(rows)

    def _tell_of_few(self, split: str, found: int, count: int, instead: str) -> None:
        why = "all others share text with each other"
        if not self._new.all():
            why = "all others were learned from by a model of this run, or share text with what was"
        said = f"the {split} split of {self.name} can have {found} of {len(self.rows)} training examples: {why}"
        if found < min(LEAST, count):
            raise InputError(f"{said}; {instead}")
        logger.warning("%s", said)


def stratified(labels: NDArray[Any], count: int, rng: np.random.Generator) -> Indices:
    """Draws the sorted indices of `count` labels, with (to within one) the same share of each class.

    Systematic sampling: shuffle, sort by label, take labels at equal distances from a random start. Regression needs no
    bins.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    step = len(labels) / max(count, 1)
    return np.sort(order[((np.arange(count) + rng.random()) * step).astype(np.int64)])


def part_of(rows: Rows, share: float, rng: np.random.Generator) -> Indices:
    """Draws the indices of a share of the rows that has no text in common with the rest; stratified by label."""
    _, firsts, group = np.unique(Overlap(rows.texts).groups(), return_index=True, return_inverse=True)
    chosen = np.zeros(len(firsts), np.bool_)
    chosen[stratified(rows.labels[firsts], round(share * len(firsts)), rng)] = True
    return np.flatnonzero(chosen[group])
