"""Which losses count how much for each of many students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.files.reading import alike
from ackd.training.distiller import Distiller
from ackd.types import LABELS, Selection


class Scales:
    """`c_k` of each student, as `Distiller` finds it: one over the mean of its first losses of a type.

    Args:
        steps: how many losses that is, of those batches in which the student selected the type; 0 scales nothing.
        students: N.
        device: where they are.
    """

    def __init__(self, steps: int, students: int, device: torch.device) -> None:
        self.steps, self.students, self.device = steps, students, device
        self._sums: dict[str, Tensor] = {}  # [N] each
        self._seen: dict[str, Tensor] = {}  # [N] each

    def __call__(self, name: str, losses: Tensor, chosen: Tensor) -> Tensor:
        """The losses of a type scaled, [N]; those of the students who chose it, [N] bool, count."""
        if not self.steps:
            return losses
        nothing = torch.zeros_like(losses, requires_grad=False)
        sums, seen = self._sums.get(name, nothing), self._seen.get(name, nothing)
        counted = chosen & (seen < self.steps)
        self._sums[name] = sums = sums + losses.detach().where(counted, 0.0)
        self._seen[name] = seen = seen + counted
        return losses / (sums / seen.clamp_min(1)).clamp_min(1e-6)

    def inherit(self, parents: Sequence[int]) -> None:
        """Gives each student another's scales, or its own; [N] places."""
        for table in (self._sums, self._seen):
            table.update({name: one[list(parents)] for name, one in table.items()})

    def state_dict(self) -> dict[str, Any]:
        """What was summed so far."""
        return {"sums": dict(self._sums), "seen": dict(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: if it is of other students.
        """
        sums, seen = state["sums"], state["seen"]
        known = dict.fromkeys(seen, torch.zeros(self.students))
        if not (alike(sums, known) and alike(seen, known)):
            raise ValueError("the scales are those of other students")
        # another process may have sent the state
        self._sums, self._seen = ({name: one.to(self.device) for name, one in those.items()} for those in (sums, seen))


@dataclass(frozen=True)
class Mixture:
    """The selections of N students at once. A term is a knowledge type, or the labels, that anybody learns from."""

    names: tuple[str, ...]  # of the knowledge types among the terms
    weights: Mapping[str, Tensor]  # [N] float64 for each term; 0 where it is not selected
    chosen: Mapping[str, Tensor]  # [N] bool, likewise
    table: NDArray[np.bool_] | None  # [terms, N], `chosen` on the host; None where all students selected the same

    @classmethod
    def of(cls, selections: Sequence[Selection], distiller: Distiller, device: torch.device) -> Mixture:
        """What these selections come to.

        Raises:
            KeyError: if a selection names a type that the distiller does not have.
        """
        names = tuple(dict.fromkeys(name for selection in selections for name in selection.chosen))
        weights, chosen = {}, {}
        # a label loss that nobody learns from is left out: its gradient of zeros would let the head's weights decay
        if any(selection.labels for selection in selections):
            weights[LABELS] = [selection.labels for selection in selections]
            chosen[LABELS] = [selection.labels > 0 for selection in selections]
        for name in names:
            share = distiller.teacher_weights[distiller.knowledge[name].teacher]
            weights[name] = [share * selection.weights.get(name, 0.0) for selection in selections]
            chosen[name] = [name in selection.chosen for selection in selections]
        table = np.array(list(chosen.values()))
        return cls(
            names,
            {term: torch.tensor(those, dtype=torch.float64, device=device) for term, those in weights.items()},
            {term: torch.tensor(those, device=device) for term, those in chosen.items()},
            None if (table == table[:, :1]).all() else table,
        )

    def total(self, losses: Mapping[str, Tensor], scales: Scales) -> Tensor:
        """Each student's weighted sum of its terms, [N]; what it did not select has no part in it, not even a NaN."""
        parts = []
        for term, weights in self.weights.items():
            scaled = losses[term] if term == LABELS else scales(term, losses[term], self.chosen[term])
            parts.append((weights.to(scaled.dtype) * scaled).where(self.chosen[term], 0.0))
        return sum(parts[1:], parts[0])

    def moving(self, reached: Mapping[str, frozenset[int]], parameters: int) -> NDArray[np.bool_] | None:
        """[P, N], which of P parameters each student's loss reaches; None if all students selected the same.

        Args:
            reached: for each term, the parameters that it reaches.
            parameters: P.
        """
        if self.table is None:
            return None
        moving = np.zeros((parameters, self.table.shape[1]), dtype=bool)
        for term, chosen in zip(self.chosen, self.table, strict=True):
            moving[sorted(reached[term])] |= chosen
        return moving
