"""An analytic environment with a known optimum: hidden states first, logits later.

It has the interface of the real environment (episodes, signals, subsets, rewards) and computes only a few
multiplications. A correct agent succeeds here in seconds, so an agent that fails here has a bug.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from ackd.envs.checks import action_masks, check_action, check_render_mode
from ackd.envs.replay import Record, claim_of, replays
from ackd.errors import InputError
from ackd.mdp.action_spaces import Action, make_choice
from ackd.mdp.episode import Episode, Phase
from ackd.mdp.observations import Observation, Signals
from ackd.mdp.rewards import GapClosed, RewardTerms
from ackd.types import EvalResult, Selection, StepMetrics

FAMILIES = {"hidden": "hidden", "attention": "attention", "logits": "logits"}  # in the order of the action's bits
FLOPS = {"hidden": 0.5, "attention": 0.3, "logits": 0.2}  # of a step's loss; the student itself takes 1
JITTER = 0.05  # each episode's rates differ from `Rates` by at most this share
START, TEACHER = 1.0, 0.2  # losses on the reward split


@dataclass(frozen=True)
class Rates:
    """The share of a gap that one decision closes if it has the whole capacity."""

    hidden: float = 0.4
    logits: float = 0.4
    labels: float = 0.02  # labels always teach, and take no capacity


@dataclass(frozen=True)
class Gaps:
    """The remaining gaps of the student, as shares of the gaps at the start."""

    representation: float = 1.0
    output: float = 1.0

    def after(self, selection: Selection, rates: Rates) -> Gaps:
        """The gaps after one decision; see `ToyEnv` for the formula."""
        total = sum(selection.weights.values()) or 1.0
        hidden, logits = (selection.weights.get(name, 0.0) / total for name in ("hidden", "logits"))
        return Gaps(
            self.representation * (1.0 - hidden * rates.hidden),
            self.output * (1.0 - rates.labels - logits * rates.logits * (1.0 - self.representation) ** 2),
        )


class ToyEnv(gym.Env[dict[str, Any], Action]):
    """A student with a representation gap R and an output gap O, both 1 at the start; the return is 1 - O at the end.

        R <- R * (1 - r_hidden * s_hidden)
        O <- O * (1 - r_labels - r_logits * s_logits * (1 - R)^2)        s_k = w_k / sum of weights

    Logits help only as far as the representation gap is closed. Types that are chosen together share the capacity.
    Attention takes capacity and has no effect. So the best order is hidden first and logits afterwards, and no constant
    selection comes close: with 10 decisions the optimum is 0.914 (mean over seeds), hidden+logits throughout 0.648,
    everything throughout 0.417, a new random subset each time 0.38, labels or any single type 0.183. A greedy learner
    stops at hidden+logits followed by logits, 0.77. Each episode draws its r_hidden and r_logits within 5 % of 0.4.

    Args:
        decisions: decisions in an episode, which then ends as terminated.
        k_max: bits of the action; bits after the third have no type and are ignored.
        noise: standard deviation of the log of a factor on each measured output gap; 0 measures exactly.
        cost_weight: the weight of the FLOPs in the reward, as in `ackd.mdp.rewards.GapClosed`; a type costs the
            same however small its weight.
        choice: `subset` (`MultiBinary`, weights 0 or 1), `weights` or `type-shares` (`Box`).
        render_mode: must be None; Gymnasium may pass it.

    Raises:
        InputError: if an argument is out of range, or there is a render mode.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(
        self,
        decisions: int = 10,
        k_max: int = 8,
        noise: float = 0.0,
        cost_weight: float = 0.0,
        choice: str = "subset",
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        if decisions < 1:
            raise InputError(f"decisions is {decisions}: an episode needs at least 1")
        if k_max < len(FAMILIES):
            raise InputError(f"k_max is {k_max}: the toy has {len(FAMILIES)} knowledge types, so give at least that")
        if not (0.0 <= noise < 1.0 and math.isfinite(cost_weight)):
            raise InputError(f"noise is {noise} and cost_weight {cost_weight}: give 0 <= noise < 1 and a finite weight")
        names = ("decisions", "k_max", "noise", "cost_weight", "choice")
        self._config: dict[str, Any] = dict(zip(names, (decisions, k_max, noise, cost_weight, choice), strict=True))
        self._decisions, self._noise = decisions, noise
        total = 1.0 + sum(FLOPS.values())
        self.knowledge = tuple(FAMILIES)
        self.choice = make_choice(choice, self.knowledge, k_max)
        self.signals = Signals(FAMILIES, {name: (1.0 + flops) / total for name, flops in FLOPS.items()}, k_max)
        self.reward = GapClosed(cost_weight, on="loss")
        self._seed: int | None = None  # the last seed that was given or drawn
        self._earlier: list[int] = []  # decisions of the episodes that have ended since
        self._actions: list[list[float]] = []
        self._rewards: list[float] = []
        self.observation_space = self.signals.space
        self.action_space: spaces.Space[Any] = self.choice.space
        self._begin(Rates())
        self._ready = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode with newly drawn rates.

        Raises:
            InputError: if there are options; the toy has none.
        """
        super().reset(seed=seed)
        if options:
            raise InputError(f"the toy takes no reset options, got {', '.join(map(str, options))}")
        if seed is not None or self._seed is None:
            self._seed, self._earlier = self.np_random_seed, []
        else:
            self._earlier.append(len(self._actions))
        self._begin(_draw(self.np_random))
        self._ready = True
        return self.signals.observe(self.episode), self._info("", RewardTerms(0.0))

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes one decision; the last one terminates the episode, and nothing truncates it.

        Raises:
            gymnasium.error.ResetNeeded: if no episode is under way.
            InputError: if the action is not in the action space.
        """
        if not (self._ready and self.episode.decisions_left):
            raise ResetNeeded("no episode is under way: call reset() before step()")
        action = check_action(self.action_space, action)
        selection = self.choice.selection(action)
        self._advance(selection, math.exp(self._noise * self.np_random.standard_normal()) if self._noise else 1.0)
        earned = self.reward(self.episode)
        self._actions.append(action.tolist())
        self._rewards.append(earned.total)
        info = self._info("+".join(selection.chosen) or "labels", earned)
        return self.signals.observe(self.episode), earned.total, self.episode.decisions_left == 0, False, info

    def optimum(self, seed: int) -> float:
        """The best return of the first episode after `reset(seed=seed)` without noise, by exact dynamic programming.

        Among all ways to the same representation gap and the same cost, only the one with the smallest output gap
        matters, because every later decision scales that gap. The rest of the search is small: the representation gap
        depends on how often hidden states had the whole, half or a third of the capacity, not on when.
        """
        rates = _draw(gym.utils.seeding.np_random(seed)[0])
        best: dict[tuple[float, float], tuple[Gaps, float]] = {(1.0, 0.0): (Gaps(), 0.0)}
        for _ in range(self._decisions):
            reached: dict[tuple[float, float], tuple[Gaps, float]] = {}
            for gaps, paid in best.values():
                for selection in _subsets():
                    after, bill = gaps.after(selection, rates), paid + self._price(selection)
                    key = (round(after.representation, 12), round(bill, 12))
                    if key not in reached or after.output < reached[key][0].output:
                        reached[key] = (after, bill)
            best = reached
        return max(1.0 - gaps.output - bill for gaps, bill in best.values())

    def action_masks(self) -> NDArray[np.bool_]:
        """The allowed values of an action; see `ackd.envs.checks.action_masks`."""
        return action_masks(self.choice)

    def record(self) -> Record:
        """The episode so far, for `validate`."""
        played = tuple(map(tuple, self._actions)), tuple(self._rewards)
        return Record(self._seed or 0, *played, earlier=tuple(self._earlier))

    def validate(self, record: Record) -> bool:
        """True if replaying a record's actions from its seed, on a fork, earns the rewards that it claims."""
        claim = claim_of(record, self.action_space)
        if claim is None or max(claim.earlier, default=0) > self._decisions:
            return False
        replay = self.fork()
        replay.reset(seed=claim.seed)
        for decisions in claim.earlier:
            if self._noise:
                replay.np_random.standard_normal(decisions)
            replay.reset()
        return replays(replay, claim)

    def state_dict(self) -> dict[str, Any]:
        """Everything that this episode and later episodes depend on, as plain JSON."""
        return {
            "config": dict(self._config),
            "ready": self._ready,
            "seed": self._seed,
            "earlier": list(self._earlier),
            "actions": [list(action) for action in self._actions],
            "rewards": list(self._rewards),
            "rates": asdict(self._rates),
            "decisions": [
                [dict(phase.selection.weights), factor]
                for phase, factor in zip(self.episode.phases, self._factors, strict=True)
            ],
            "rng": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`.

        Raises:
            InputError: if the state is of a toy with other arguments.
        """
        if state["config"] != self._config:
            raise InputError(f"the state is of a toy with {state['config']}, this one has {self._config}")
        self._begin(Rates(**state["rates"]))
        self._seed, self._earlier = state["seed"], list(state["earlier"])
        for weights, factor in state["decisions"]:
            self._advance(Selection(weights), factor)
        self._actions, self._rewards = [list(action) for action in state["actions"]], list(state["rewards"])
        self.np_random.bit_generator.state = state["rng"]
        self._ready = state["ready"]

    def fork(self) -> ToyEnv:
        """An independent copy in the same state, also in the middle of an episode."""
        copy = ToyEnv(**self._config)
        copy.load_state_dict(self.state_dict())
        copy.spec = self.spec
        return copy

    def _begin(self, rates: Rates) -> None:
        self._rates, self._gaps = rates, Gaps()
        self._actions, self._rewards = [], []
        self._factors: list[float] = []  # noise factors of the measured output gaps
        self.episode = Episode(
            start=self._standing(1.0), teacher=EvalResult(TEACHER, 1.0), steps=self._decisions, decision_interval=1
        )

    def _advance(self, selection: Selection, factor: float) -> None:
        """Advances by one decision, which is one optimizer step."""
        flops_all = 1.0 + sum(FLOPS.values())
        self._gaps = self._gaps.after(selection, self._rates)
        self._factors.append(factor)
        losses = {"hidden": self._gaps.representation, "attention": 1.0, "logits": self._gaps.output}
        report = StepMetrics(
            loss=self._gaps.output + sum(weight * losses[name] for name, weight in selection.weights.items()),
            labels=self._gaps.output,
            grad_norm=self._gaps.output + self._gaps.representation,
            uncertainty=min(self._gaps.output, 1.0),
            accuracy=1.0 - min(self._gaps.output, 1.0),
            losses={name: losses[name] for name in selection.chosen},
        )
        phase = Phase(
            selection=selection,
            report=report,
            eval_result=self._standing(factor),
            steps=1,
            learning_rate=1.0 - self.episode.steps_done / self._decisions,
            flops=1.0 + sum(FLOPS[name] for name in selection.chosen),
            flops_all=flops_all,
        )
        self.episode = self.episode.then(phase)

    def _standing(self, factor: float) -> EvalResult:
        output = self._gaps.output * factor
        return EvalResult(loss=TEACHER + (START - TEACHER) * output, score=1.0 - output)

    def _price(self, selection: Selection) -> float:
        share = (1.0 + sum(FLOPS[name] for name in selection.chosen)) / (1.0 + sum(FLOPS.values()))
        return float(self._config["cost_weight"]) * share / self._decisions

    def _info(self, effective: str, earned: RewardTerms) -> dict[str, Any]:
        return {
            "action_mask": 2 * self.signals.mask,
            "action/effective": effective,
            "reward/improvement": earned.improvement,
            "reward/cost": earned.cost,
            "reward/bonus": earned.bonus,
            "error/type": "",
        }


def _draw(rng: np.random.Generator) -> Rates:
    hidden, logits = 1.0 + JITTER * rng.uniform(-1.0, 1.0, 2)
    return Rates(Rates.hidden * float(hidden), Rates.logits * float(logits))


def _subsets() -> list[Selection]:
    names = tuple(FAMILIES)
    return [Selection.of(*chosen) for n in range(len(names) + 1) for chosen in combinations(names, n)]
