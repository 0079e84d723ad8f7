"""Which losses count how much, for one student or for many side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.distributed.process_group import ALONE, Group
from ackd.files.reading import matches_schema
from ackd.types import LABELS, Selection


class Scales:
    """`c_k` of each student: one over the mean of its first losses of a type, fixed from then on.

    Args:
        steps: how many losses that is, of those batches in which the student selected the type; 0 scales nothing.
        shape: of a loss: (N,), or () for that of one student.
        device: where they are.
        group: the processes that each see a part of a batch.
    """

    def __init__(self, steps: int, shape: tuple[int, ...], device: torch.device, group: Group = ALONE) -> None:
        self.steps, self.device, self.group = steps, device, group
        self._shape = shape
        self._sums: dict[str, Tensor] = {}  # of each type's first losses, on the device
        self._seen: dict[str, NDArray[np.int64]] = {}  # how many those are, on the host

    def __call__(self, name: str, raw: Tensor, loss: Tensor, rows: int, chosen: NDArray[np.bool_] | None) -> Tensor:
        """The losses of a type, scaled.

        Args:
            name: the type.
            raw: its plain means, without gradient.
            loss: what is scaled, like `raw`.
            rows: how many examples it was taken on here.
            chosen: the students whose losses count, [N]; None: all of them.
        """
        if not self.steps:
            return loss
        self._count(name, raw, rows, chosen)
        return self.scaled(name, loss) if rows else loss

    def scaled(self, name: str, loss: Tensor) -> Tensor:
        """The losses of a type by the scale that is known so far; as they are where none is."""
        if name not in self._seen:
            return loss
        seen = self._seen[name].clip(min=1)
        shared = (seen == seen.flat[0]).all()
        count = int(seen.flat[0]) if shared else torch.from_numpy(seen).to(loss, non_blocking=True)
        # the clamp keeps a loss that starts at 0, as between equal models, from dividing by 0
        return loss / (self._sums[name] / count).clamp_min(1e-6)

    def _count(self, name: str, raw: Tensor, rows: int, chosen: NDArray[np.bool_] | None) -> None:
        seen = self._seen.get(name, np.zeros(self._shape, np.int64))
        counted = np.asarray(seen < self.steps) if chosen is None else chosen & (seen < self.steps)
        if not counted.any():
            return
        raw, everywhere = self.group.mean(raw, rows)
        if not everywhere:  # a pick that came out empty says nothing of the type's size
            return
        if not counted.all():
            raw = raw.where(torch.from_numpy(counted).to(raw.device, non_blocking=True), 0.0)
        self._sums[name] = self._sums.get(name, torch.zeros_like(raw)) + raw
        self._seen[name] = np.asarray(seen + counted)

    def inherit(self, parents: Sequence[int]) -> None:
        """Gives each student another's scales, or its own; [N] places."""
        self._sums = {name: one[list(parents)] for name, one in self._sums.items()}
        self._seen = {name: one[list(parents)] for name, one in self._seen.items()}

    def state_dict(self) -> dict[str, Any]:
        """What was summed so far."""
        seen = {name: torch.from_numpy(one).float() if one.ndim else int(one) for name, one in self._seen.items()}
        return {"sums": dict(self._sums), "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: if it is of another training.
        """
        sums, seen = state["sums"], state["seen"]
        zeros = torch.zeros(self._shape)
        counts = dict.fromkeys(seen, zeros if self._shape else 0)
        if not (matches_schema(sums, dict.fromkeys(seen, zeros)) and matches_schema(seen, counts)):
            raise ValueError("the scales are those of another training")
        # another process may have sent the state
        self._sums = {name: one.to(self.device) for name, one in sums.items()}
        self._seen = {name: torch.as_tensor(one).long().cpu().numpy() for name, one in seen.items()}


@dataclass(frozen=True)
class Mixture:
    """The selections of N students at once. A term is a knowledge type, or the labels, that anybody learns from."""

    names: tuple[str, ...]  # of the knowledge types among the terms
    weights: Mapping[str, float | Tensor]  # of each term: of all students, or [N] float64
    chosen: Mapping[str, NDArray[np.bool_]]  # [N], who selected each term
    masks: Mapping[str, Tensor]  # the same on the device, of the terms that not all of them selected

    @classmethod
    def of(cls, selections: Sequence[Selection], shares: Mapping[str, float], device: torch.device) -> Mixture:
        """What these selections come to.

        Args:
            selections: one a student.
            shares: what the losses of each knowledge type's teacher count.
            device: where the students are.

        Raises:
            KeyError: if a selection names a type that there is not.
        """
        names = tuple(dict.fromkeys(name for one in selections for name in one.chosen))
        given: dict[str, list[float]] = {}
        # a label loss that nobody learns from is left out: its gradient of zeros would let the head's weights decay
        if any(one.labels for one in selections):
            given[LABELS] = [one.labels for one in selections]
        given |= {name: [shares[name] * one.weights.get(name, 0.0) for one in selections] for name in names}
        chosen = {
            term: np.array([bool(one.labels) if term == LABELS else term in one.chosen for one in selections])
            for term in given
        }
        return cls(
            names,
            {
                term: those[0] if len(set(those)) == 1 else torch.tensor(those, dtype=torch.float64, device=device)
                for term, those in given.items()
            },
            chosen,
            {term: torch.from_numpy(who).to(device) for term, who in chosen.items() if not who.all()},
        )

    @property
    def uniform(self) -> bool:
        """Whether all students selected the same terms."""
        return not self.masks

    def total(
        self, raw: Mapping[str, Tensor], losses: Mapping[str, Tensor], rows: Mapping[str, int], scales: Scales
    ) -> Tensor:
        """Each student's weighted sum of its terms; what it did not select has no part in it, not even a NaN.

        Args:
            raw: of each term the plain means, without gradient.
            losses: what is summed, like `raw`.
            rows: how many examples each was taken on.
            scales: of the knowledge types.
        """
        parts = []
        for term, weight in self.weights.items():
            who = self.chosen[term] if term in self.masks else None
            loss = losses[term] if term == LABELS else scales(term, raw[term], losses[term], rows[term], who)
            part = (weight.to(loss.dtype) if isinstance(weight, Tensor) else weight) * loss
            parts.append(part.where(self.masks[term], 0.0) if term in self.masks else part)
        return sum(parts[1:], parts[0])
