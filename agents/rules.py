"""Policies without learning: the baselines that an agent has to beat.

Each has stable-baselines3's `predict`; none ever chooses a masked type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.agents.policy import Observations, Policy, State
from ackd.errors import InputError, unknown
from ackd.signals import FEATURES, GLOBALS
from ackd.stages import Stage, stage_at

Bits = NDArray[np.int8]

PROGRESS, HORIZON, UNCERTAINTY = (GLOBALS.index(name) for name in ("progress", "horizon", "uncertainty"))
SLOPE, USAGE = (FEATURES.index(name) for name in ("slope", "usage"))
FALLS = -0.01  # a slope below it counts as falling
EARLY = tuple(FEATURES.index(f"is_{family}") for family in ("hidden", "attention", "relation"))
LATE = (FEATURES.index("is_logits"),)


@dataclass(frozen=True)
class Rule:
    """A policy that is a function of the observation and nothing else.

    Args:
        choose: from observations and their mask, [..., K] each, to the wanted bits, or weights, [..., K]; masked ones
            are dropped.
    """

    choose: Callable[[Observations, Bits], NDArray[Any]]

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """What the rule says, int8 bits or float32 weights; `deterministic` or not, for a random rule is random."""
        mask = _mask(observation)
        return self.choose(observation, mask) * mask, state


class RandomHeld:
    """One random subset for each episode, drawn at its start: each available type with probability 1/2.

    An episode starts where `episode_start` says so, and where progress is 0. What is held travels in `state`; for a
    caller that passes none back, it is what the last call answered.

    Args:
        seed: of its own generator.
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
        """What is held, or a draw at the start of an episode."""
        mask = _mask(observation)
        # Drawn on every call, so that what one environment gets does not depend on where the others are.
        fresh = _draw(self._rng, mask)
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
        """The place of the stage that the progress is in."""
        progress = np.asarray(observation["globals"])[..., PROGRESS]
        return np.vectorize(lambda share: stage_at(self.stages, share), otypes=[np.int64])(progress), state


def fixed(bits: Sequence[bool]) -> Rule:
    """The same types in every decision, in the order of the action's bits; where the action has more, they are 0."""

    def choose(_: Observations, mask: Bits) -> Bits:
        wanted = np.zeros(mask.shape[-1], dtype=np.int8)
        wanted[: len(bits)] = bits[: mask.shape[-1]]
        return wanted

    return Rule(choose)


def scheduled(observation: Observations, mask: Bits) -> Bits:
    """Hidden states, attention and relations in the first half of the training, logits in the second.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
        https://arxiv.org/abs/1909.10351: intermediate layers first, predictions afterwards.
    """
    early, late = _families(observation, mask)
    first_half = np.asarray(observation["globals"])[..., PROGRESS] < 0.5
    turn: Bits = np.where(first_half[..., None], early, late).astype(np.int8)
    return turn


def uncertain_hidden(observation: Observations, mask: Bits) -> Bits:
    """Hidden states, attention and relations as long as the student's uncertainty u > 1/2, logits below that.

    At the start, before anything is known of it, a student counts as uncertain; for regression u is 0 ever after.

    References:
        Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
        https://arxiv.org/abs/2109.11295, adapts its objective in this spirit, though example by example: where the
        student is unsure it learns from representations, where it is sure from answers.
    """
    early, late = _families(observation, mask)
    turn: Bits = np.where(_uncertainty(observation) > 0.5, early, late).astype(np.int8)
    return turn


def uncertainty_weights(observation: Observations, mask: Bits) -> NDArray[np.float32]:
    """The same with weights: u for hidden states, attention and relations, 1 - u for logits.

    For actions that are weights; where they are subsets, every positive weight counts as chosen.
    """
    early, late = _families(observation, mask)
    u = _uncertainty(observation)
    return (u * early + (1.0 - u) * late).astype(np.float32)


def falling(observation: Observations, mask: Bits) -> Bits:
    """Each type until its loss no longer falls by 1 % from one measurement to the next, and never again.

    A slope takes two measurements, so every type is chosen at least twice.
    """
    features = np.asarray(observation["knowledge"]).reshape(*mask.shape, len(FEATURES))
    overview = np.asarray(observation["globals"], dtype=np.float64)
    progress, left = overview[..., PROGRESS], np.expm1(overview[..., HORIZON])
    decisions = left * progress / np.maximum(1.0 - progress, 1e-6)  # so far, from those that are left
    times = features[..., USAGE] * decisions[..., None]
    wanted: Bits = ((features[..., SLOPE] < FALLS) | (times < 1.5)).astype(np.int8)
    return wanted


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
    "uncertainty-weights": uncertainty_weights,
    "falling": falling,
}


def rule(name: str, knowledge: Sequence[str], *, seed: int = 0) -> Policy:
    """The rule of that name.

    Args:
        name: one of `RULES`, a knowledge type, or several joined with +, as in `logits+hidden`.
        knowledge: the names of the knowledge types, in the order of the action's bits.
        seed: of the random rules.

    Raises:
        InputError: if the name is not known.
    """
    match name:
        case "labels":
            return fixed([False] * len(knowledge))
        case "all":
            return Rule(lambda _, mask: mask)
        case "random":
            rng = np.random.default_rng(seed)
            return Rule(lambda _, mask: _draw(rng, mask))
        case "random-held":
            return RandomHeld(seed)
        case "random-weights":
            rng = np.random.default_rng(seed)
            return Rule(lambda _, mask: rng.random(mask.shape, dtype=np.float32))
        case _ if name in CHOOSERS:
            return Rule(CHOOSERS[name])
    parts = name.split("+")
    if parts == [name] and name not in knowledge:
        raise unknown("policy", name, {*RULES, *knowledge})
    for part in parts:
        if part not in knowledge:
            raise unknown("knowledge type", part, knowledge)
    return fixed([known in parts for known in knowledge])


def _mask(observation: Observations) -> Bits:
    mask = np.asarray(observation["mask"])
    if mask.ndim not in (1, 2):
        raise InputError(f"a mask has the shape [K_max] or [n, K_max], not {list(mask.shape)}")
    available: Bits = (mask != 0).astype(np.int8)
    return available


def _families(observation: Observations, mask: Bits) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[..., K], which types are representations, and which are logits."""
    features = np.asarray(observation["knowledge"]).reshape(*mask.shape, len(FEATURES))
    return np.asarray(features[..., EARLY].any(-1)), np.asarray(features[..., LATE].any(-1))


def _uncertainty(observation: Observations) -> NDArray[np.float64]:
    """[..., 1], from 0 to 1."""
    overview = np.asarray(observation["globals"], dtype=np.float64)
    begun = overview[..., PROGRESS] > 0
    return np.where(begun, np.clip(overview[..., UNCERTAINTY], 0.0, 1.0), 1.0)[..., None]


def _draw(rng: np.random.Generator, mask: Bits) -> Bits:
    bits: Bits = rng.integers(0, 2, mask.shape, dtype=np.int8)
    return bits * mask
