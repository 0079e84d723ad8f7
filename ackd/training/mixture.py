"""Weights and scales of the losses, for one student or for several side by side."""

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
    """Loss scales c_k of each student: 1 / (mean of its first losses of type k), then fixed.

    Args:
        steps: number of first losses; only batches in which the student selected the type count. 0 disables scaling.
        shape: shape of a loss: (N,) for N students, or () for a single student.
        device: device of the losses.
        group: the processes; each sees a part of every batch.
        labels: whether the label loss is scaled too, as for embeddings, whose size is arbitrary.
    """

    def __init__(
        self,
        steps: int,
        shape: tuple[int, ...],
        device: torch.device,
        group: Group = ALONE,
        *,
        labels: bool = False,
    ) -> None:
        self.steps, self.device, self.group, self.labels = steps, device, group, labels
        self._shape = shape
        self._sums: dict[str, Tensor] = {}  # sum of each type's first losses, on the device
        self._seen: dict[str, NDArray[np.int64]] = {}  # number of summed losses, on the host

    def __call__(self, name: str, raw: Tensor, loss: Tensor, rows: int, chosen: NDArray[np.bool_] | None) -> Tensor:
        """Returns the scaled losses of a type.

        Args:
            name: the type.
            raw: the plain mean losses, without gradient.
            loss: the losses to scale, of the same shape as `raw`.
            rows: number of examples of the loss on this process.
            chosen: the students that selected the type, [N]; None: all students.
        """
        if not self.steps:
            return loss
        self._count(name, raw, rows, chosen)
        return self.scaled(name, loss) if rows else loss

    def scaled(self, name: str, loss: Tensor) -> Tensor:
        """The losses of a type divided by their size; unchanged before the first count."""
        return loss / self.size(name, loss) if name in self._seen else loss

    def size(self, name: str, loss: Tensor) -> Tensor:
        """The mean of the counted losses of a type, on the device of `loss`."""
        seen = self._seen[name].clip(min=1)
        shared = (seen == seen.flat[0]).all()
        count = int(seen.flat[0]) if shared else torch.from_numpy(seen).to(loss, non_blocking=True)
        # the clamp avoids a division by 0 if a loss starts at 0 (equal models)
        return (self._sums[name] / count).clamp_min(1e-6)

    def fixed(self, name: str) -> bool:
        """Whether the size of a type is final."""
        return name in self._seen and bool((self._seen[name] >= self.steps).all())

    def _count(self, name: str, raw: Tensor, rows: int, chosen: NDArray[np.bool_] | None) -> None:
        seen = self._seen.get(name, np.zeros(self._shape, np.int64))
        counted = np.asarray(seen < self.steps) if chosen is None else chosen & (seen < self.steps)
        if not counted.any():
            return
        raw, everywhere = self.group.mean(raw, rows)
        if not everywhere:  # no process has examples for this loss
            return
        if not counted.all():
            raw = raw.where(torch.from_numpy(counted).to(raw.device, non_blocking=True), 0.0)
        self._sums[name] = self._sums.get(name, torch.zeros_like(raw)) + raw
        self._seen[name] = np.asarray(seen + counted)

    def inherit(self, parents: Sequence[int]) -> None:
        """Gives student i the scales of student `parents[i]`; [N] indices."""
        self._sums = {name: one[list(parents)] for name, one in self._sums.items()}
        self._seen = {name: one[list(parents)] for name, one in self._seen.items()}

    def state_dict(self) -> dict[str, Any]:
        """The sums and the numbers of summed losses."""
        seen = {name: torch.from_numpy(one).float() if one.ndim else int(one) for name, one in self._seen.items()}
        return {"sums": dict(self._sums), "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`.

        Raises:
            ValueError: if it belongs to another training.
        """
        sums, seen = state["sums"], state["seen"]
        zeros = torch.zeros(self._shape)
        counts = dict.fromkeys(seen, zeros if self._shape else 0)
        if not (matches_schema(sums, dict.fromkeys(seen, zeros)) and matches_schema(seen, counts)):
            raise ValueError("the scales are those of another training")
        # the state may come from another process
        self._sums = {name: one.to(self.device) for name, one in sums.items()}
        self._seen = {name: torch.as_tensor(one).long().cpu().numpy() for name, one in seen.items()}


@dataclass(frozen=True)
class Mixture:
    """The combined selections of N students. A term is the labels or a knowledge type that a student selected."""

    names: tuple[str, ...]  # names of the terms that are knowledge types
    weights: Mapping[str, float | Tensor]  # weight of each term: one number for all students, or [N] float64
    chosen: Mapping[str, NDArray[np.bool_]]  # [N], the students that selected each term
    masks: Mapping[str, Tensor]  # `chosen` on the device, only for terms that not all students selected

    @classmethod
    def of(cls, selections: Sequence[Selection], shares: Mapping[str, float], device: torch.device) -> Mixture:
        """Combines the selections.

        Args:
            selections: one per student.
            shares: the teacher weight of each knowledge type.
            device: the students' device.

        Raises:
            KeyError: if a selection contains an unknown knowledge type.
        """
        names = tuple(dict.fromkeys(name for one in selections for name in one.chosen))
        given: dict[str, list[float]] = {}
        # a label loss that no student selects is left out, because with a gradient of zeros the head's weights decay
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
        """Each student's weighted sum of its terms; other terms add nothing, even if they are NaN.

        Args:
            raw: the plain mean losses of each term, without gradient.
            losses: the losses to sum, of the same shapes as `raw`.
            rows: number of examples of each loss.
            scales: scales of the knowledge losses.
        """
        parts = []
        for term, weight in self.weights.items():
            who = self.chosen[term] if term in self.masks else None
            plain = term == LABELS and not scales.labels
            loss = losses[term] if plain else scales(term, raw[term], losses[term], rows[term], who)
            part = (weight.to(loss.dtype) if isinstance(weight, Tensor) else weight) * loss
            parts.append(part.where(self.masks[term], 0.0) if term in self.masks else part)
        return sum(parts[1:], parts[0])
