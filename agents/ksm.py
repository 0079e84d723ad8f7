"""The published actor-critic knowledge selector, as far as it is known."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from ackd.agents.ksm_actor import PARTS, Batch, KsmActor, KsmBits, perceptron
from ackd.agents.policy import Observations, State, Transition
from ackd.agents.soft import invertible
from ackd.errors import InputError, unknown
from ackd.numerics.streams import fork_rng

FIELDS = ("left", "right", "mask", "action", "reward", "next_left", "next_right", "next_mask", "next_action", "over")
OPEN: Mapping[str, tuple[str, ...]] = {
    "encoders": ("critic", "actor", "both"),
    "credit": ("all", "last"),
    "target": ("sarsa", "printed"),
    "following": ("actor", "taken"),
}


@dataclass(frozen=True)
class Settings:
    """Settings of the selector. The paper names only the first two; the others are unknown to us.

    The defaults work on the toy; they are ours, not the paper's.
    """

    hard: bool = False  # bits instead of weights
    phase: int = 1  # decisions between updates; the paper's number is unknown
    threshold: float = 0.5  # lambda, of the hard form
    feature: int = 64  # width of each v
    width: int = 64  # hidden width of actor and critic
    encoders: Literal["critic", "actor", "both"] = "critic"  # the loss that trains v
    credit: Literal["all", "last"] = "all"  # decisions of a phase that get its reward
    target: Literal["sarsa", "printed"] = "sarsa"  # r + gamma Q', or gamma r + Q'
    following: Literal["actor", "taken"] = "actor"  # a' in Q(s', a'): of the target actor, or the action taken
    gamma: float = 1.0
    actor_rate: float = 1e-3  # learning rates of Adam
    critic_rate: float = 1e-3
    tau: float = 0.05  # update rate of the target networks; 1 means none
    buffer: int = 10_000  # size of the replay buffer; 0 learns only from the phase
    batch: int = 64
    updates: int = 1  # gradient updates for each transition
    noise: float = 0.3  # standard deviation added to each weight
    warmup: int = 200  # random decisions at the start
    inverting: bool = True  # whether the actor's gradient is inverted, see `ackd.agents.soft.Invertible`


class Ksm:
    """A deterministic actor and a critic that learn at the end of phases which knowledge to transfer.

        y = r + gamma Q(s', a')    critic: min (Q(s, a) - y)^2    actor: max Q(s, mu(s))

    The paper's action is [FinK, ResK, FeaK, RelK], labels first. Here its entries are the environment's knowledge
    types in their order, and the labels always have weight 1. The paper's averaging of [CLS] vectors is unknown; here
    the environment averages them. Its exploration reward is `ackd.mdp.rewards.Exploring`; other exploration is unknown.
    `Settings` lists what else is unknown. Replay, target networks, noise on actions and inverted gradients are our
    choices.

    Args:
        observation_space: a Dict with `mask` and the parts of the state.
        settings: settings of the selector; the defaults if None.
        state: `cls` (`student_cls`, `teacher_cls`), as published, or `signals` (`globals`, `knowledge`).
        seed: seed of weights, noise and draws.

    Raises:
        InputError: if the space lacks a part, or a setting is out of range.

    References:
        Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection, Findings
        of EMNLP 2022, https://arxiv.org/abs/2302.00444. There is no public code; what we know of it is second-hand.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        settings: Settings | None = None,
        *,
        state: str = "cls",
        seed: int = 0,
    ) -> None:
        self.settings = settings = settings or Settings()
        check_settings(settings)
        with fork_rng(seed):
            sizes = _sizes(observation_space, state) | {"feature": settings.feature, "width": settings.width}
            self.actor = (KsmBits if settings.hard else KsmActor)(**sizes)
            self.critic = perceptron(2 * settings.feature + sizes["types"], settings.width, settings.width, 1)
        if isinstance(self.actor, KsmBits):
            self.actor.threshold.fill_(settings.threshold)
        self._targets = copy.deepcopy((self.actor, self.critic))
        by_actor, by_critic = [self.actor.mu.parameters()], [self.critic.parameters()]
        for name, group in (("actor", by_actor), ("critic", by_critic)):
            if settings.encoders in (name, "both"):
                group.append(self.actor.encoders.parameters())
        self._actor_step = torch.optim.Adam([p for part in by_actor for p in part], settings.actor_rate)
        self._critic_step = torch.optim.Adam([p for part in by_critic for p in part], settings.critic_rate)
        self._rng = np.random.default_rng(seed)
        self._trails: dict[int, list[dict[str, Any]]] = {}  # of each environment, until reward and a' are known
        self._replay: deque[dict[str, Any]] = deque(maxlen=settings.buffer or None)
        self._decisions = 0

    @property
    def choice(self) -> str:
        """The action space of its actions."""
        return "type-subset" if self.settings.hard else "type-shares"

    @property
    def network(self) -> KsmActor:
        """The actor, which can be saved."""
        return self.actor

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Weights [K_max] or [n, K_max], float32, or bits, int8; with noise unless deterministic. Masked ones are 0."""
        mask = np.asarray(observation["mask"])
        rows = mask.reshape(-1, mask.shape[-1])
        batch = {
            name: torch.as_tensor(np.asarray(observation[name]).reshape(len(rows), -1)) for name in self.actor.parts
        }
        with torch.no_grad():
            weights = KsmActor.act(self.actor, batch | {"mask": torch.as_tensor(rows)}, True).numpy()
        if not deterministic:
            for env in np.flatnonzero(episode_start if episode_start is not None else ()):
                self._trails.pop(int(env), None)  # of an interrupted episode
            weights = np.clip(weights + self._rng.normal(0.0, self.settings.noise, weights.shape), 0.0, 1.0)
            if self._decisions < self.settings.warmup:
                weights = self._rng.random(weights.shape)
        weights = np.where(rows == 0, 0.0, weights).reshape(mask.shape)
        bits = (weights > self.settings.threshold) & (mask != 0)
        return bits.astype(np.int8) if self.settings.hard else weights.astype(np.float32), state

    def update(self, transition: Transition) -> None:
        """Stores the decision, and learns if it was the last of a phase or an episode."""
        count = len(transition.reward)
        self._decisions += count
        fresh = [row for env in range(count) for row in self._kept(env, transition)]
        self._replay.extend(fresh)
        if fresh and self._decisions >= self.settings.warmup:
            for _ in range(self.settings.updates * len(fresh)):
                self._learn()
        if not self.settings.buffer and fresh:
            self._replay.clear()

    def _kept(self, env: int, transition: Transition) -> list[dict[str, Any]]:
        """Adds a decision to its environment's trail; removes and returns the complete decisions."""
        trail, settings = self._trails.setdefault(env, []), self.settings
        if trail and "next_action" not in trail[-1]:
            trail[-1]["next_action"] = transition.action[env]
        row: dict[str, Any] = {"action": transition.action[env], "over": float(transition.over[env])}
        for prefix, observation in (("", transition.observation), ("next_", transition.following)):
            for name, part in zip(("left", "right", "mask"), (*self.actor.parts, "mask"), strict=True):
                row[prefix + name] = np.array(observation[part][env], dtype=np.float32)
        trail.append(row | {"earned": float(transition.reward[env])})
        phase = [row for row in trail if "reward" not in row]
        if len(phase) == settings.phase or row["over"]:
            reward = sum(row["earned"] for row in phase)
            for row in phase:
                row["reward"] = reward if settings.credit == "all" or row is phase[-1] else 0.0
        if trail[-1]["over"] or settings.following == "actor":
            trail[-1].setdefault("next_action", np.zeros_like(trail[-1]["action"]))  # not read
        complete = [row for row in trail if "reward" in row and "next_action" in row]
        self._trails[env] = [row for row in trail if not ("reward" in row and "next_action" in row)]
        return complete

    def _learn(self) -> None:
        picks = self._rng.integers(len(self._replay), size=min(self.settings.batch, len(self._replay)))
        rows = [self._replay[pick] for pick in picks]
        batch = {name: torch.as_tensor(np.stack([row[name] for row in rows]), dtype=torch.float32) for name in FIELDS}
        error = self.value(self._state(batch, "critic"), batch["action"] * batch["mask"]) - self.targets(batch)
        loss = error.square().mean()
        self._critic_step.zero_grad()
        loss.backward()
        self._critic_step.step()
        self._actor_step.zero_grad()
        self.actor_loss(batch).backward()
        self._actor_step.step()
        with torch.no_grad():
            for target, current in zip(self._targets, (self.actor, self.critic), strict=True):
                for slow, fast in zip(target.parameters(), current.parameters(), strict=True):
                    slow.lerp_(fast, self.settings.tau)

    def value(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q [B] of actions [B, K] in states [B, 2 * feature]."""
        return cast(Tensor, self.critic(torch.cat([state, actions], dim=1))).squeeze(1)

    def targets(self, batch: Batch) -> Tensor:
        """The targets y [B]: r + gamma Q(s', a'), or gamma r + Q(s', a') as printed; Q is 0 after an episode's end."""
        actor, critic = self._targets
        with torch.no_grad():
            state = actor.state([batch["next_left"], batch["next_right"]])
            actions = batch["next_action"]
            if self.settings.following == "actor":
                actions = actor.mu(state).sigmoid()
                if isinstance(actor, KsmBits):
                    actions = (actions > actor.threshold).float()
            ahead = critic(torch.cat([state, actions * batch["next_mask"]], dim=1)).squeeze(1) * (1.0 - batch["over"])
        gamma = self.settings.gamma
        now, later = (1.0, gamma) if self.settings.target == "sarsa" else (gamma, 1.0)
        return now * batch["reward"] + later * cast(Tensor, ahead)

    def actor_loss(self, batch: Batch) -> Tensor:
        """Minus the mean Q of the actor's weights; also in the hard form, because bits have no gradient."""
        state = self._state(batch, "actor")
        logits = self.actor.mu(state)
        weights = invertible(logits) if self.settings.inverting else logits.sigmoid()
        return -self.value(state.detach(), weights * batch["mask"]).mean()

    def _state(self, batch: Batch, learner: str) -> Tensor:
        """The state, with a gradient for the encoders if this learner trains them."""
        state = self.actor.state([batch["left"], batch["right"]])
        return state if self.settings.encoders in (learner, "both") else state.detach()


def _sizes(space: spaces.Space[Any], state: str) -> dict[str, int]:
    """The sizes of a `KsmActor` that the observation determines."""
    if state not in PARTS:
        raise unknown("state", state, PARTS)
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    missing = [name for name in (*PARTS[state], "mask") if name not in parts]
    if missing:
        raise InputError(
            f"ksm with state {state!r} reads {missing[0]}, and the observations have {', '.join(parts) or 'no parts'}"
        )
    left, right, types = (math.prod(parts[name].shape or ()) for name in (*PARTS[state], "mask"))
    return {"left": left, "right": right, "types": types, "cls": int(state == "cls")}


def check_settings(settings: Settings) -> None:
    """Rejects invalid settings.

    Raises:
        InputError: if a setting is out of range or unknown.
    """
    for name in ("phase", "feature", "width", "batch", "updates"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} is {getattr(settings, name)}: give at least 1")
    for name in ("threshold", "gamma", "tau"):
        if not 0.0 <= getattr(settings, name) <= 1.0:
            raise InputError(f"{name} is {getattr(settings, name)}: give 0 to 1")
    for name in ("noise", "warmup", "buffer", "actor_rate", "critic_rate"):
        if not 0.0 <= getattr(settings, name) < math.inf:
            raise InputError(f"{name} is {getattr(settings, name)}: give a finite number that is not negative")
    for name, known in OPEN.items():
        if getattr(settings, name) not in known:
            raise unknown(name, getattr(settings, name), known)
