"""A policy outside of an environment: it decides from the phases that a training loop reports."""

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

K_MAX = 8  # entries of an action, as of the environments that policies learn in


class Decider:
    """The selections of a policy over one training; a policy may ask it what it may ask a `DistillationEnv`.

    Args:
        name: of the policy.
        policy: its name, or what `ackd.experiments.policies.of_object` takes.
        families: of each loss, by what policies call it; `LABELS` is that of the label loss, which may be absent.
        prices: of a step with one loss alone, by what policies call it, as shares of a step with everything.
        steps: optimizer steps of the training.
        decision_interval: optimizer steps of a phase.
        decisions: in the training; None for as many as the policy wants.
        seed: of a policy that draws.

    Raises:
        InputError: if the policy cannot decide here.
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
        """The losses with a weight above 0, by what policies call them; the label loss first."""
        return ((LABELS,) if self.selection.labels else ()) + self.selection.chosen

    def then(self, phase: Phase) -> None:
        """Takes a phase's results, and decides anew if its decision ends with it."""
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
            raise InputError(f"the policy {self.name} transfers nothing, and there is no label loss to learn from")
        return replace(selection, labels=0.0)


def _check_arm(one: Arm) -> None:
    """Refuses what needs more than a loop reports."""
    what = ""
    if one.method:
        what = "is a published method with losses of its own"
    elif one.forks or one.online:
        what = "learns from rewards while the student trains"
    elif one.settings.get("observe_cls"):
        what = "reads hidden states of teacher and student"
    if what:
        raise InputError(f"the policy {one.name} {what}: use ackd distill, or another policy here")
