"""Observations: scale-free float32 numbers in [-10, 10], so that a policy transfers between tasks.

Losses are log-ratios to their first measurement, amounts are shares, and the position is a progress. No running
statistics are used, so the same episode gives the same observation everywhere. The training steps compute all values
anyway, so the observation does not depend on whether rewards are measured. Layout and names are versioned (`SCHEMA`),
and a saved policy contains them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ackd.mdp.action_spaces import entries_of
from ackd.mdp.episode import Episode, Phase
from ackd.types import KNOWLEDGE_FAMILIES, LABELS

SCHEMA = 3
FAMILIES = (LABELS, *KNOWLEDGE_FAMILIES)
GLOBALS = (
    "progress",  # optimizer steps done / budget
    "horizon",  # log(1 + decisions left)
    "train_loss",  # log(label loss now / in the first phase)
    "train_slope",  # log(label loss now / in the phase before)
    "accuracy",  # share of correct predictions on training examples in the last phase, 0 for regression
    "accuracy_slope",  # the accuracy minus that of the phase before
    "uncertainty",  # mean entropy of the student's predictions in the last phase / log C, 0 for regression
    "grad_norm",  # log(gradient norm now / in the first phase)
    "learning_rate",  # learning rate / its peak
    "types",  # available knowledge types / K_max
    "cost",  # FLOPs so far / FLOPs of transferring everything so far
    "facts",  # 1 if the following facts of the setting are known; without them they are 0
    "agreement",  # share of the reward split on which the teacher's likeliest class is the label's
    "confidence",  # mean probability of the teacher's likeliest class there
    "probe",  # accuracy there of a linear probe on the student's initial states
    "overtaken",  # above 1, a probe predicts the labels better than the teacher (`Facts.overtaken`); from 0 to 2
    "examples",  # log10(training examples / parameters of the student) / 4
    "epochs",  # log(1 + passes over the training examples so far)
)
FEATURES = (
    "available",  # 1 if the labels or the type can be chosen here
    "loss",  # log(its loss when last measured / when first measured), 0 before
    "slope",  # log(its loss when last measured / when measured before that), 0 before
    "share",  # its share of the knowledge losses in the last phase, each relative to its first value
    "selected",  # its weight in the last phase as an entry of `ackd.mdp.action_spaces.Weights`: 0 for none, 1/2 for 1
    "usage",  # share of phases in which it was chosen
    "cost",  # FLOPs of a step with only this type / of a step with every type
    "cosine",  # of its gradient with the labels', in the last phase; 0 if not measured
    "norm",  # log(norm of its loss's gradient at weight 1 / of the labels'), in the last phase; 0 if not measured
    *(f"is_{family}" for family in FAMILIES),
)
LIMIT = 10.0
MOST_OVERTAKEN = 2.0

Observation = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Signals:
    """Turns an episode into an observation.

    Args:
        families: maps each name (labels and knowledge types) to its family, in the order of the entries.
        prices: FLOPs of a step with only this type as a share of a step with every type.
        k_max: entries of the action; surplus entries are masked.
    """

    families: Mapping[str, str]
    prices: Mapping[str, float]
    k_max: int

    @property
    def space(self) -> spaces.Dict:
        """The observation space: `globals`, `knowledge` (K_max x features, flattened) and `mask`."""
        return spaces.Dict(
            {
                "globals": spaces.Box(-LIMIT, LIMIT, (len(GLOBALS),), np.float32),
                "knowledge": spaces.Box(-LIMIT, LIMIT, (self.k_max * len(FEATURES),), np.float32),
                "mask": spaces.MultiBinary(self.k_max),
            }
        )

    @property
    def mask(self) -> NDArray[np.int8]:
        """[K_max], 1 for each entry of the labels or a knowledge type. A new array on every call."""
        mask = np.zeros(self.k_max, dtype=np.int8)
        mask[: len(self.families)] = 1
        return mask

    def observe(self, episode: Episode) -> Observation:
        """The observation after the episode's phases so far. New arrays on every call."""
        features, shares = np.zeros((self.k_max, len(FEATURES))), _shares(episode)
        for k, name in enumerate(self.families):
            features[k] = self._features(name, episode, shares.get(name, 0.0))
        types = sum(name != LABELS for name in self.families)
        overview = _globals(episode) | {"types": types / self.k_max}
        return {
            "globals": _clip(np.array([overview.get(name, 0.0) for name in GLOBALS])),
            "knowledge": _clip(features.reshape(-1)),
            "mask": self.mask,
        }

    def _features(self, name: str, episode: Episode, share: float) -> list[float]:
        phases = episode.phases
        losses = [loss for phase in phases if (loss := _loss(phase, name)) is not None]
        weights = [_weight(phase, name) for phase in phases]
        return [
            1.0,
            _log_ratio(losses[-1], losses[0]) if losses else 0.0,
            _log_ratio(losses[-1], losses[-2]) if len(losses) > 1 else 0.0,
            share,
            float(entries_of(weights[-1])) if phases else 0.0,
            sum(weight > 0 for weight in weights) / max(len(phases), 1),
            self.prices[name],
            phases[-1].report.cosines.get(name, 0.0) if phases else 0.0,
            _pull(phases[-1], name, losses[0]) if phases and losses else 0.0,
            *(float(self.families[name] == family) for family in FAMILIES),
        ]


def _weight(phase: Phase, name: str) -> float:
    return phase.selection.labels if name == LABELS else phase.selection.weights.get(name, 0.0)


def _pull(phase: Phase, name: str, first: float) -> float:
    """log(gradient norm of a loss divided by its first value / that of the labels); makes losses comparable."""
    norms = phase.report.norms
    if name == LABELS or name not in norms or LABELS not in norms:
        return 0.0
    return _log_ratio(norms[name] / max(first, 1e-6), norms[LABELS])


def _loss(phase: Phase, name: str) -> float | None:
    return phase.report.labels if name == LABELS else phase.report.losses.get(name)


def _globals(episode: Episode) -> dict[str, float]:
    known = {"horizon": math.log1p(episode.decisions_left)} | _told(episode)
    if not episode.phases:
        return known
    first, last = episode.phases[0], episode.phases[-1]
    before = episode.phases[-2] if len(episode.phases) > 1 else last
    return known | {
        "progress": episode.steps_done / episode.steps,
        "train_loss": _log_ratio(last.report.labels, first.report.labels),
        "train_slope": _log_ratio(last.report.labels, before.report.labels),
        "accuracy": last.report.accuracy,
        "accuracy_slope": last.report.accuracy - before.report.accuracy,
        "uncertainty": last.report.uncertainty,
        "grad_norm": _log_ratio(last.report.grad_norm, first.report.grad_norm),
        "learning_rate": last.learning_rate,
        "cost": sum(phase.flops for phase in episode.phases) / sum(phase.flops_all for phase in episode.phases),
    }


def _told(episode: Episode) -> dict[str, float]:
    """The global features from the facts of the setting."""
    facts = episode.facts
    if facts is None:
        return {}
    return {
        "facts": 1.0,
        "agreement": facts.agreement,
        "confidence": facts.confidence,
        "probe": facts.probe,
        "overtaken": min(max(facts.overtaken, 0.0), MOST_OVERTAKEN),
        "examples": math.log10(max(facts.examples_per_parameter, 1e-12)) / 4,
        "epochs": math.log1p(facts.epochs * episode.steps_done / episode.steps),
    }


def _shares(episode: Episode) -> dict[str, float]:
    """Each type's share of the last phase's losses, each loss relative to its first value."""
    if not episode.phases:
        return {}
    relative = {}
    for name, loss in episode.phases[-1].report.losses.items():
        first = next(phase.report.losses[name] for phase in episode.phases if name in phase.report.losses)
        relative[name] = loss / first if first > 0 else 0.0
    total = sum(relative.values())
    return {name: value / total for name, value in relative.items()} if total > 0 else {}


def _log_ratio(value: float, reference: float) -> float:
    if not (math.isfinite(value) and math.isfinite(reference)):
        return LIMIT
    return math.log(max(value, 1e-6) / max(reference, 1e-6))


def _clip(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(np.isfinite(values), values.clip(-LIMIT, LIMIT), LIMIT).astype(np.float32)
