"""The arms of bandits, and a module that stores what a bandit has learned.

Arms are positions in the action. So a learned bandit is valid only for the knowledge types of its training, in their
order; `policy.json` stores their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ackd.errors import InputError
from ackd.mdp.observations import GLOBALS

PROGRESS = GLOBALS.index("progress")
MOST_TYPES, MOST_STAGES = 8, 1000


@dataclass(frozen=True)
class Subsets:
    """One bandit whose arms are all 2^K subsets of K types: bit k of an arm's number is bit k of the action."""

    types: int
    slots = 1

    def __post_init__(self) -> None:
        if not 1 <= self.types <= MOST_TYPES:
            raise InputError(
                f"a bandit over subsets takes 1 to {MOST_TYPES} knowledge types, and {self.types} would have "
                f"2^{self.types} arms: use the per-type form, PerType"
            )

    @property
    def arms(self) -> int:
        """2^K."""
        return 1 << self.types

    def allowed(self, mask: Tensor) -> Tensor:
        """[B, 1, 2^K], True for subsets without a masked type, from mask [B, K]."""
        return ~(self._bits & (mask == 0).unsqueeze(1)).any(-1).unsqueeze(1)

    def bits(self, arms: Tensor) -> Tensor:
        """[B, K] from arms [B, 1]."""
        return self._bits[arms.squeeze(1)]

    def of(self, bits: Tensor) -> Tensor:
        """Arms [B, 1] from bits [B, K]."""
        return (bits.long() << torch.arange(self.types)).sum(1, keepdim=True)

    @property
    def _bits(self) -> Tensor:
        return (torch.arange(self.arms).unsqueeze(1) >> torch.arange(self.types) & 1).bool()


@dataclass(frozen=True)
class PerType:
    """A bandit for each of K types, with the arms leave (0) and take (1); all bandits get the same reward."""

    types: int
    arms = 2

    def __post_init__(self) -> None:
        if self.types < 1:
            raise InputError(f"a bandit needs at least 1 knowledge type, not {self.types}")

    @property
    def slots(self) -> int:
        """The number of bandits side by side."""
        return self.types

    def allowed(self, mask: Tensor) -> Tensor:
        """[B, K, 2], True for possible arms, from mask [B, K]; leaving is always possible."""
        return torch.stack([torch.ones_like(mask, dtype=torch.bool), mask != 0], dim=-1)

    def bits(self, arms: Tensor) -> Tensor:
        """[B, K] from arms [B, K]."""
        return arms

    def of(self, bits: Tensor) -> Tensor:
        """Arms [B, K] from bits [B, K]."""
        return bits.long()


class BanditActor(nn.Module):
    """The learned tables of a bandit, without its learning rule.

    Args:
        stages: bins of the progress, each with arms of its own.
        types: number of knowledge types, the first bits of the action; further bits are never chosen.
        subsets: 1 for arms over `Subsets`, 0 for `PerType`.

    Raises:
        InputError: if a number is out of range.
    """

    kind = "bandit"
    values: Tensor  # [stages, slots, arms]: mean reward, or the log of a weight
    counts: Tensor  # same shape: times played, minus what is forgotten
    spread: Tensor  # [stages, slots, 1]: standard deviation of one reward about its arm's mean; 1 for logs of weights

    def __init__(self, stages: int, types: int, subsets: int) -> None:
        super().__init__()
        if not 1 <= stages <= MOST_STAGES:
            raise InputError(f"a bandit has 1 to {MOST_STAGES} stages, not {stages}")
        self.sizes = {"stages": stages, "types": types, "subsets": int(subsets)}
        self.stages, self.arms = stages, Subsets(types) if subsets else PerType(types)
        shape = (stages, self.arms.slots, self.arms.arms)
        self.register_buffer("values", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(*shape[:2], 1))

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Bits [B, K] from globals [B, G] and mask [B, K]: the best arm, or a draw by softmax(value / spread).

        Arms that were never played are excluded; if there are no others, nothing is chosen.
        """
        stage, allowed = self.read(batch)
        tried = allowed & (self.counts[stage] > 0)
        tried[..., 0] |= ~tried.any(-1)  # arm 0 chooses nothing, for both kinds of arms
        scores = self.values[stage]
        if not deterministic:
            scores = scores / self.spread[stage].clamp(min=1e-6) + gumbel(scores.shape, generator)
        return self.wide(scores.masked_fill(~tried, -math.inf).argmax(-1), batch["mask"])

    def flops(self, types: int) -> float:
        """0, since it only reads a table."""
        return 0.0

    def read(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Stages [B] and allowed arms [B, slots, arms]."""
        # progress is float32: a boundary such as 3 of 10 may be 2.9999998
        stage = (batch["globals"][:, PROGRESS] * self.stages + 1e-4).long().clamp(0, self.stages - 1)
        return stage, self.arms.allowed(self.narrow(batch["mask"]))

    def narrow(self, bits: Tensor) -> Tensor:
        """[B, types] from [B, K]; K may be smaller or larger."""
        return _sized(bits, self.arms.types)

    def wide(self, arms: Tensor, mask: Tensor) -> Tensor:
        """Bits [B, K] of the mask's type from arms [B, slots]."""
        return _sized(self.arms.bits(arms).to(mask.dtype), mask.shape[1])


def gumbel(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise: argmax(logits + noise) is a draw from the softmax of the logits."""
    return -torch.empty(shape).exponential_(generator=generator).log()


def _sized(bits: Tensor, size: int) -> Tensor:
    """[B, size]: truncated, or padded with zeros."""
    return nn.functional.pad(bits, (0, max(size - bits.shape[1], 0)))[:, :size]
