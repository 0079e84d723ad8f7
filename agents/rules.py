"""Policies without learning: the baselines that an agent has to beat.

Each has stable-baselines3's `predict`; none ever chooses a masked type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.agents.policy import Observations, Policy, State
from ackd.errors import InputError, unknown
from ackd.mdp.action_spaces import DOUBLINGS, entries_of, weights_of
from ackd.mdp.observations import FEATURES, GLOBALS
from ackd.stages import Stage, stage_at
from ackd.types import LABELS

Bits = NDArray[np.int8]

PROGRESS, HORIZON, UNCERTAINTY = (GLOBALS.index(name) for name in ("progress", "horizon", "uncertainty"))
SLOPE, USAGE = (FEATURES.index(name) for name in ("slope", "usage"))
FALLS = -0.01  # a slope below it counts as falling
EARLY = tuple(FEATURES.index(f"is_{family}") for family in ("hidden", "attention", "relation"))
LATE = (FEATURES.index("is_logits"),)
IS_LABELS = FEATURES.index(f"is_{LABELS}")
THEN = "then"


@dataclass(frozen=True)
class Rule:
    """A policy that depends only on the present observation.

    Args:
        choose: computes weights [..., K] from observations and their mask [..., K]; masked weights are dropped.
        choice: action space of its actions: subset | weights | type-shares.
    """

    choose: Callable[[Observations, Bits], NDArray[Any]]
    choice: str = "subset"

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """The rule's actions; `deterministic` has no effect, since random rules always draw."""
        mask = mask_of(observation)
        weights = np.asarray(self.choose(observation, mask)) * mask
        if self.choice == "subset":
            return (weights > 0).astype(np.int8), state
        return entries_of(weights) if self.choice == "weights" else weights.astype(np.float32), state


class RandomHeld:
    """One random subset for each episode: the labels, and each available type with probability 1/2.

    An episode starts if `episode_start` is True or progress is 0. The subset is passed on in `state`; for a caller that
    does not pass it back, it is kept from the last call.

    Args:
        seed: seed of its own generator.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._held: Bits | None = None

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Bits, State | None]:
        """The subset of the episode; a new draw at its start."""
        mask = mask_of(observation)
        # Drawn on every call, so that an environment's draw does not depend on the progress of the others.
        fresh = _draw(self._rng, mask) | _labels(observation, mask)
        held = self._held if state is None else state[0]
        if held is None or held.shape != mask.shape:
            held = fresh
        begins = np.asarray(observation["globals"])[..., PROGRESS] == 0
        if episode_start is not None:
            begins = begins | np.asarray(episode_start, dtype=bool).reshape(begins.shape)
        self._held = np.where(begins[..., None], fresh, held).astype(np.int8)
        return self._held * mask, (self._held,)


@dataclass(frozen=True)
class Staged:
    """A published method's stages, one after the other, as actions of `Stages`."""

    stages: Sequence[Stage]

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State | None]:
        """The index of the stage at the present progress."""
        progress = np.asarray(observation["globals"])[..., PROGRESS]
        return np.vectorize(lambda share: stage_at(self.stages, share), otypes=[np.int64])(progress), state


def fixed(weights: Sequence[float]) -> Rule:
    """The same weights in every decision, in the order of the action's entries; surplus entries are 0."""
    return _stages([weights])


def _stages(stages: Sequence[Sequence[float]]) -> Rule:
    """Weights for each part of the run; all parts have the same length."""

    def choose(observation: Observations, mask: Bits) -> NDArray[np.float64]:
        table = np.zeros((len(stages), mask.shape[-1]))
        for row, weights in zip(table, stages, strict=True):
            row[: len(weights)] = weights[: mask.shape[-1]]
        progress = np.asarray(observation["globals"], dtype=np.float64)[..., PROGRESS]
        turns: NDArray[np.float64] = table[np.clip((progress * len(stages) + 1e-6).astype(int), 0, len(stages) - 1)]
        return turns

    bits = all(weight in (0.0, 1.0) for weights in stages for weight in weights)
    return Rule(choose, "subset" if bits else "weights")


def scheduled(observation: Observations, mask: Bits) -> Bits:
    """Hidden states, attention and relations in the first half of the training, logits in the second.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
        https://arxiv.org/abs/1909.10351: intermediate layers first, predictions afterwards.
    """
    early, late = _families(observation, mask)
    first_half = np.asarray(observation["globals"])[..., PROGRESS] < 0.5 - 1e-6
    turn: Bits = np.where(first_half[..., None], early, late).astype(np.int8)
    return turn | _labels(observation, mask)


def uncertain_hidden(observation: Observations, mask: Bits) -> Bits:
    """Hidden states, attention and relations as long as the student's uncertainty u > 1/2, logits below that.

    Before its first phase a student counts as uncertain; for regression u is always 0 afterwards.

    References:
        Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
        https://arxiv.org/abs/2109.11295, adapts its objective in a similar way, but for each example: an uncertain
        student learns from representations, a certain one from predictions.
    """
    early, late = _families(observation, mask)
    turn: Bits = np.where(_uncertainty(observation) > 0.5, early, late).astype(np.int8)
    return turn | _labels(observation, mask)


def uncertainty_weights(observation: Observations, mask: Bits) -> NDArray[np.float32]:
    """`uncertain_hidden` with weights: u for hidden states, attention and relations, 1 - u for logits.

    The labels have weight 1.
    """
    early, late = _families(observation, mask)
    u = _uncertainty(observation)
    return (u * early + (1.0 - u) * late).astype(np.float32)


def falling(observation: Observations, mask: Bits) -> Bits:
    """Selects each type until its loss falls by less than 1 % between two measurements, then never again.

    A slope needs two measurements, so every type is selected at least twice.
    """
    features = np.asarray(observation["knowledge"]).reshape(*mask.shape, len(FEATURES))
    overview = np.asarray(observation["globals"], dtype=np.float64)
    progress, left = overview[..., PROGRESS], np.expm1(overview[..., HORIZON])
    decisions = left * progress / np.maximum(1.0 - progress, 1e-6)  # so far, computed from those that are left
    times = features[..., USAGE] * decisions[..., None]
    wanted: Bits = ((features[..., SLOPE] < FALLS) | (times < 1.5)).astype(np.int8)
    return wanted | _labels(observation, mask)


RULES = (
    "labels",
    "all",
    "random",
    "random-held",
    "random-weights",
    "scheduled",
    "uncertain-hidden",
    "uncertainty-weights",
    "falling",
)
CHOOSERS: Mapping[str, Callable[[Observations, Bits], NDArray[Any]]] = {
    "scheduled": scheduled,
    "uncertain-hidden": uncertain_hidden,
    "falling": falling,
}


def rule(name: str, terms: Sequence[str], *, seed: int = 0) -> Policy:
    """The rule with this name.

    Args:
        name: one of `RULES`; or weights of terms, as in `logits+hidden`, `hidden+attention:2,labels:0.25` or
            `hidden+attention,then,all,labels:0.25`: a weight is 1 if none is given, also for the labels; `all` means
            all types; the parts before and after `then` have the same length. A rule in `CHOOSERS` may be followed by
            a weight of the labels, as in `scheduled,labels:0.25`.
        terms: the labels, if they can be weighted, and the knowledge types, in the order of the action's entries.
        seed: seed of the random rules.

    Raises:
        InputError: if a name is unknown, or a weight is invalid.
    """
    match name:
        case "labels":
            return fixed([float(term == LABELS) for term in terms])
        case "all":
            return Rule(lambda _, mask: mask)
        case "random":
            rng = np.random.default_rng(seed)
            return Rule(lambda observation, mask: _draw(rng, mask) | _labels(observation, mask))
        case "random-held":
            return RandomHeld(seed)
        case "random-weights":
            rng = np.random.default_rng(seed)

            def weights(observation: Observations, mask: Bits) -> NDArray[np.float64]:
                return np.where(_labels(observation, mask) > 0, 1.0, weights_of(rng.random(mask.shape)))

            return Rule(weights, "weights")
        case "uncertainty-weights":
            return Rule(uncertainty_weights, "type-shares")
        case _ if name in CHOOSERS:
            return Rule(CHOOSERS[name])
    chooser, comma, rest = name.partition(",")
    if comma and chooser in CHOOSERS:
        return _reweighted(CHOOSERS[chooser], *_item(rest, terms, only=(LABELS,)))
    if not (comma or ":" in name or "+" in name or name in terms):
        raise unknown("policy", name, {*RULES, *terms})
    stages: list[dict[str, float]] = [{}]
    for item in name.split(","):
        if item == THEN:
            stages.append({})
            continue
        names, weight = _item(item, terms)
        if again := next((each for each in names if each in stages[-1]), None):
            raise InputError(f"the policy {name!r} weighs {again} twice: weigh it once between two {THEN}")
        stages[-1].update(dict.fromkeys(names, weight))
    return _stages([_row(name, stage, terms) for stage in stages])


def _item(text: str, terms: Sequence[str], only: Sequence[str] = ()) -> tuple[list[str], float]:
    """The terms and the weight in `NAME[+NAME...][:WEIGHT]`."""
    names, colon, weight = text.partition(":")
    types = [term for term in terms if term != LABELS]
    chosen = [each for name in names.split("+") for each in (types if name == "all" else [name])]
    for name in chosen:
        if name not in (only or (LABELS, *terms)):
            raise unknown("knowledge type", name, only or terms)
    try:
        value = float(weight) if colon else 1.0
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 2.0**DOUBLINGS or 0 < value < 2.0 ** (-DOUBLINGS + 0.5):
        raise InputError(
            f"the weight {weight!r} of {names} cannot be: give 0, or a number from {2.0 ** (0.5 - DOUBLINGS):.3g} to "
            f"{2**DOUBLINGS}"
        )
    return chosen, value


def _row(name: str, stage: Mapping[str, float], terms: Sequence[str]) -> list[float]:
    given = {LABELS: 1.0, **stage}
    if not stage or not any(given.values()):
        raise InputError(f"the policy {name!r} has a part without any weight: there is nothing to learn from")
    if LABELS not in terms and given[LABELS] != 1:
        raise InputError(f"the policy {name!r} weighs the labels, which have weight 1 here: leave them away")
    return [given.get(term, 0.0) for term in terms]


def _reweighted(choose: Callable[[Observations, Bits], NDArray[Any]], names: Sequence[str], weight: float) -> Rule:
    """The rule with the given weight for the labels."""

    def weights(observation: Observations, mask: Bits) -> NDArray[np.float64]:
        return np.where(_labels(observation, mask) > 0, weight, choose(observation, mask))

    return Rule(weights, "subset" if weight in (0.0, 1.0) else "weights")


def mask_of(observation: Observations) -> Bits:
    """[..., K], 1 for entries that can be chosen.

    Raises:
        InputError: if the mask does not have one or two axes.
    """
    mask = np.asarray(observation["mask"])
    if mask.ndim not in (1, 2):
        raise InputError(f"a mask has the shape [K_max] or [n, K_max], not {list(mask.shape)}")
    available: Bits = (mask != 0).astype(np.int8)
    return available


def _families(observation: Observations, mask: Bits) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[..., K], which types are representations, and which are logits."""
    features = np.asarray(observation["knowledge"]).reshape(*mask.shape, len(FEATURES))
    return np.asarray(features[..., EARLY].any(-1)), np.asarray(features[..., LATE].any(-1))


def _labels(observation: Observations, mask: Bits) -> Bits:
    """[..., K], 1 for the labels, if they can be weighted."""
    features = np.asarray(observation["knowledge"]).reshape(*mask.shape, len(FEATURES))
    there: Bits = (features[..., IS_LABELS] > 0).astype(np.int8)
    return there


def _uncertainty(observation: Observations) -> NDArray[np.float64]:
    """The student's uncertainty, [..., 1], from 0 to 1; 1 before the first phase."""
    overview = np.asarray(observation["globals"], dtype=np.float64)
    begun = overview[..., PROGRESS] > 0
    return np.where(begun, np.clip(overview[..., UNCERTAINTY], 0.0, 1.0), 1.0)[..., None]


def _draw(rng: np.random.Generator, mask: Bits) -> Bits:
    bits: Bits = rng.integers(0, 2, mask.shape, dtype=np.int8)
    return bits * mask
