"""A policy without an environment: it decides from the phases of a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from ackd.agents.policy import State
from ackd.envs.distillation import DECISIONS, DistillationEnv
from ackd.errors import InputError
from ackd.experiments.policies import Arm, arm, of_object
from ackd.mdp.action_spaces import make_choice
from ackd.mdp.episode import Episode, Phase, ends
from ackd.mdp.observations import Signals
from ackd.types import LABELS, Selection

K_MAX = 8  # entries of an action, as in the environments in which policies are learned


class Decider:
    """Computes a policy's selections during one training; policies use it in place of a `DistillationEnv`.

    Args:
        name: name of the policy.
        policy: the policy's name, or an object for `ackd.experiments.policies.of_object`.
        families: the family of each loss, by its name for policies; `LABELS` for the label loss, which may be missing.
        prices: by the same names, the cost of a step with only this loss, as a share of a step with all losses.
        steps: optimizer steps of the training.
        decision_interval: optimizer steps of a phase.
        decisions: number of decisions in the training; None: the policy's default.
        seed: seed of the policy's random draws.

    Raises:
        InputError: if the policy needs more than a training loop reports.
    """

    def __init__(
        self,
        name: str,
        policy: object,
        *,
        families: Mapping[str, str],
        prices: Mapping[str, float],
        steps: int,
        decision_interval: int,
        decisions: int | None,
        seed: int,
    ) -> None:
        self.name, self.labelled = name, LABELS in families
        self.knowledge = [term for term in families if term != LABELS]
        one = arm(policy, self.knowledge) if isinstance(policy, str) else of_object(name, policy, self.knowledge)
        _check_arm(one)
        decisions = decisions or one.settings.get("decisions", DECISIONS)
        k_max = max(K_MAX, len(families))
        self.choice = make_choice(one.settings.get("choice", "subset"), tuple(families), k_max)
        self.signals = Signals(families, prices, k_max)
        self.episode = Episode(None, None, steps, decision_interval, decisions=decisions)
        self._ends = set(ends(steps, decision_interval, decisions))
        self._policy = one.make(cast(DistillationEnv, self), seed)
        self._state: State | None = None
        self.selection = self._decide()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The losses with a weight above 0, by their names for policies; the label loss first."""
        return ((LABELS,) if self.selection.labels else ()) + self.selection.chosen

    def then(self, phase: Phase) -> None:
        """Adds a phase to the history, and makes the next decision if one is due."""
        self.episode = self.episode.then(phase)
        if len(self.episode.phases) in self._ends and self.episode.decisions_left:
            self.selection = self._decide()

    def _decide(self) -> Selection:
        observation = self.signals.observe(self.episode)
        action, self._state = self._policy.predict(observation, self._state, deterministic=True)
        selection = self.choice.selection(action)
        if self.labelled:
            return selection
        if not selection.chosen:
            raise InputError(
                f"the policy {self.name} selects nothing, and there is no label loss: name the label loss with "
                "labels=, or use another policy"
            )
        return replace(selection, labels=0.0)


def _check_arm(one: Arm) -> None:
    """Raises an error for a policy that needs more than a training loop reports."""
    reason = ""
    if one.method:
        reason = "is a published method with its own losses"
    elif one.forks or one.online:
        reason = "learns from rewards while the student trains"
    elif one.settings.get("observe_cls"):
        reason = "reads hidden states of teacher and student"
    if reason:
        raise InputError(f"the policy {one.name} {reason}: use ackd distill, or another policy here")
