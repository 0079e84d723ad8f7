"""Open-loop schedules: weights that depend only on the progress of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ackd.errors import InputError
from ackd.mdp.action_spaces import DOUBLINGS, LEAST
from ackd.mdp.observations import FAMILIES, FEATURES, GLOBALS
from ackd.types import LABELS

PROGRESS, HORIZON = GLOBALS.index("progress"), GLOBALS.index("horizon")
MEMBER = [FEATURES.index(f"is_{family}") for family in FAMILIES]
OVERTAKEN = GLOBALS.index("overtaken")
KNOTS = 3  # start, middle and end of the run
MOST_KNOTS = 64


class Schedule(nn.Module):
    """A weight for the labels and for each family of knowledge types, as a function of progress.

        log2 w(p) = linear between knots at p = 0, 1/(n-1), ..., 1        w = 0 where log2 w < -2.5

    A decision uses the weight at the middle of the time until the next decision. Weights do not depend on the number
    of types or on their order, because types of one family have the same weight.

    Args:
        knots: number of knots, n; with one, the weights never change.
        values: [knots, families] log2 of the weights, in the order of `ackd.mdp.observations.FAMILIES`; all weights
            are 1 if None.

    Raises:
        InputError: if a value is NaN or infinite, or the values have another shape.
    """

    kind: ClassVar[str] = "schedule"
    values: Tensor

    def __init__(self, knots: int = KNOTS, values: ArrayLike | None = None) -> None:
        super().__init__()
        table = np.zeros((knots, len(FAMILIES))) if values is None else np.asarray(values, np.float64)
        if table.shape != (knots, len(FAMILIES)) or not np.isfinite(table).all():
            raise InputError(
                f"a schedule of {knots} knots needs finite weights of the shape {[knots, len(FAMILIES)]}, got "
                f"{list(table.shape)}"
            )
        self.register_buffer("values", torch.as_tensor(table, dtype=torch.float32))

    @classmethod
    def of(cls, weights: Mapping[str, Sequence[float]]) -> Schedule:
        """Makes a schedule from the weights of each family at the knots; other families have weight 1.

        Raises:
            InputError: if there are no weights, a weight is negative or infinite, or a family is unknown.
        """
        counts = {len(row) for row in weights.values()}
        known = set(weights) <= set(FAMILIES)
        if len(counts) != 1 or counts == {0} or not known:
            raise InputError(
                f"a schedule needs equally many weights for each of its families, which are {', '.join(FAMILIES)}: got "
                + (", ".join(f"{len(row)} for {name}" for name, row in weights.items()) or "none")
            )
        table = np.zeros((counts.pop(), len(FAMILIES)))
        for name, row in weights.items():
            if not all(0 <= weight < float("inf") for weight in row):
                raise InputError(f"a schedule has the weights {list(row)} for {name}: give finite ones from 0 up")
            table[:, FAMILIES.index(name)] = np.log2(np.maximum(row, 2.0 ** -(DOUBLINGS + 1)))
        return cls(len(table), table)

    @classmethod
    def through(cls, middles: ArrayLike) -> Schedule:
        """Makes a schedule with the weights `middles`, [decisions, families] log2, one row for each decision."""
        given = np.asarray(middles, np.float64)
        at = (np.arange(len(given)) + 0.5) / len(given)
        grid = np.linspace(0.0, 1.0, 2 * len(given) + 1)  # every middle is one of these knots
        return cls(len(grid), np.stack([np.interp(grid, at, column) for column in given.T], axis=1))

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments that rebuild it."""
        return {"knots": len(self.values)}

    def logs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[B, K], log2 of the weight of each entry, from globals [B, G], knowledge [B, K F] and mask [B, K]."""
        overview = batch["globals"]
        progress, left = overview[:, PROGRESS], torch.expm1(overview[:, HORIZON]).clamp_min(1.0)
        middle = (progress + (1.0 - progress) / (2.0 * left)).clamp(0.0, 1.0) * (len(self.values) - 1)
        below = middle.floor().long().clamp_max(max(len(self.values) - 2, 0))
        above = (below + 1).clamp_max(len(self.values) - 1)
        part = (middle - below).unsqueeze(1)
        row = (1.0 - part) * self.values[below] + part * self.values[above]  # [B, families]
        members = batch["knowledge"].reshape(*batch["mask"].shape, -1)[..., MEMBER]
        return (members * row.unsqueeze(1)).sum(-1)

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Entries [B, K] of `ackd.mdp.action_spaces.Weights`; 0 where masked."""
        return entries(self.logs(batch), batch["mask"])

    def flops(self, types: int) -> float:
        """Floating-point operations of a decision over `types` types; they are very few."""
        return 2.0 * len(FAMILIES) * (types + 2)

    def weights(self) -> dict[str, NDArray[np.float64]]:
        """The weights of each family at the knots."""
        logs = self.values.double().numpy()
        off = logs < -DOUBLINGS + 2 * DOUBLINGS * LEAST
        return dict(zip(FAMILIES, np.where(off, 0.0, np.exp2(np.minimum(logs, DOUBLINGS))).T, strict=True))


class ProbeRule(Schedule):
    """A schedule; if the teacher is overtaken, the labels alone from the second decision on.

    The teacher is overtaken if a linear probe, on the student's initial states or on the teacher's own last states,
    predicts held-out labels better than the teacher does, by two standard errors: see `ackd.mdp.episode.Facts`. Then
    the student can learn the labels better than the teacher predicts them; the first decision still uses the teacher's
    states. Without facts of the setting, the schedule decides.
    """

    kind: ClassVar[str] = "probe-rule"

    @staticmethod
    def overtaken(batch: Mapping[str, Tensor]) -> Tensor:
        """[B], whether the teacher is overtaken."""
        return batch["globals"][:, OVERTAKEN] > 1.0

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Entries [B, K] of `ackd.mdp.action_spaces.Weights`; 0 where masked."""
        follow = super().act(batch, deterministic, generator)
        only_labels = self.overtaken(batch) & (batch["globals"][:, PROGRESS] > 0)
        labels = batch["knowledge"].reshape(*batch["mask"].shape, -1)[..., MEMBER[FAMILIES.index(LABELS)]]
        return torch.where(only_labels.unsqueeze(1), 0.5 * labels * batch["mask"], follow)


def by_family(logs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """[B, families], the mean of `logs` [B, K] over the types of each family; NaN for an absent family."""
    members = batch["knowledge"].reshape(*batch["mask"].shape, -1)[..., MEMBER] * batch["mask"].unsqueeze(-1)
    return (members * logs.unsqueeze(-1)).sum(1) / members.sum(1)


def entries(logs: Tensor, mask: Tensor) -> Tensor:
    """Entries of `ackd.mdp.action_spaces.Weights` from log2 weights, [B, K]; 0 for small or masked ones."""
    each = ((logs + DOUBLINGS) / (2 * DOUBLINGS)).clamp(0.0, 1.0)
    return torch.where((each >= LEAST - 1e-6) & mask.bool(), each, torch.zeros_like(each))
