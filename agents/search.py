"""Policies that search in the environment itself: references for an agent, which may not do so.

`Lookahead` is the greedy oracle; `best_static` finds the best constant subset for a whole episode. Both cost many times
the training of a student, and count their costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ackd.agents.policy import Observations, State
from ackd.agents.rules import Rule, fixed
from ackd.errors import InputError, unknown
from ackd.mdp.action_spaces import Choice
from ackd.mdp.observations import FEATURES
from ackd.types import LABELS, Selection

MOST_ENUMERATED = 4  # most types for which all subsets are tried
SELECTED = FEATURES.index("selected")
SAME = 1e-9  # returns that differ by less are equal

Names = tuple[str, ...]


class Forkable(Protocol):
    """An environment with Gymnasium's methods, and with copies in the middle of an episode."""

    @property
    def choice(self) -> Choice:
        """The action space."""
        ...

    @property
    def knowledge(self) -> Names:
        """The names of the knowledge types, of all instances."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        ...

    def step(self, action: NDArray[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Makes a decision."""
        ...

    def fork(self) -> Self:
        """An independent copy in the same state."""
        ...


class Lookahead:
    """A greedy oracle: tries each candidate on a fork, and takes the one with the highest return.

        a = argmax over candidates c of r_1 + ... + r_h, with c chosen h times in a row

    Equal returns go to fewer types, then to earlier ones. A lookahead does not find the optimum: a type that only
    prepares another earns nothing within a short horizon.

    Args:
        env: the environment of the observations, in which the policy acts.
        horizon: decisions to look ahead.
        candidates: the subsets to try, by names. By default all of them if there are at most 4 types; otherwise no
            type, each type alone, all types but one, all types, and the last selection with one type more or less.

    Raises:
        InputError: if the horizon is not positive, a name is unknown, or there are no candidates.
    """

    def __init__(self, env: Forkable, horizon: int = 1, candidates: Iterable[Sequence[str]] | None = None) -> None:
        if horizon < 1:
            raise InputError(f"the horizon is {horizon} decisions: look at least 1 ahead")
        self.env, self.horizon = env, horizon
        self.forks, self.probes = 0, 0  # copies made, and decisions spent in them
        self._candidates = None if candidates is None else [_known(names, env.knowledge) for names in candidates]
        if self._candidates == []:
            raise InputError("there are no candidates to look ahead with: give at least one subset, () for labels only")

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """The action with the best return on forks; masked types are left out of every candidate.

        Raises:
            InputError: if there are several environments.
        """
        mask = np.asarray(observation["mask"])
        if mask.size != mask.shape[-1]:
            raise InputError(f"a lookahead forks one environment, and was asked for {mask.size // mask.shape[-1]}")
        features = np.asarray(observation["knowledge"]).reshape(mask.size, -1)
        free, last = mask.reshape(-1) != 0, features[:, SELECTED] > 0
        names = self.env.choice.names  # of the entries; they may belong to one of several instances
        available = [name for name, there in zip(names, free, strict=False) if there and name != LABELS]
        present = [name for name, there in zip(names, free & last, strict=False) if there and name != LABELS]
        best, action = -np.inf, self._action(())
        for chosen in self._subsets(available, present):
            tried = self._action(chosen)
            value = self._probe(tried)
            if value > best + SAME:
                best, action = value, tried
        return action.reshape(mask.shape), state

    def _subsets(self, available: Sequence[str], present: Sequence[str]) -> list[Names]:
        """The subsets to try, without repetition, fewer types first."""
        if self._candidates is not None:
            found = {tuple(name for name in names if name in available) for names in self._candidates}
        elif len(available) <= MOST_ENUMERATED:
            found = set(_all(available))
        else:
            found = {(), tuple(available), *((name,) for name in available)}
            for name in available:
                found.add(tuple(other for other in available if other != name))
                found.add(tuple(other for other in available if (other in present) != (other == name)))
            found.add(tuple(present))
        order = {name: k for k, name in enumerate(available)}
        return sorted(found, key=lambda names: (len(names), [order[name] for name in names]))

    def _action(self, names: Names) -> NDArray[Any]:
        return self.env.choice.action(Selection.of(*names))

    def _probe(self, action: NDArray[Any]) -> float:
        fork, total = self.env.fork(), 0.0
        self.forks += 1
        for _ in range(self.horizon):
            _, reward, terminated, truncated, _ = fork.step(action)
            self.probes += 1
            total += reward
            if terminated or truncated:
                break
        return total


@dataclass(frozen=True)
class Try:
    """A subset and its returns."""

    names: Names
    returns: tuple[float, ...]  # one for each seed

    @property
    def score(self) -> float:
        """The mean return."""
        return fmean(self.returns)


@dataclass(frozen=True)
class Static:
    """The result of a search among constant subsets."""

    names: Names
    score: float
    tries: tuple[Try, ...]  # in the order of the search
    episodes: int  # spent on all of them
    decisions: int

    def rule(self, knowledge: Sequence[str]) -> Rule:
        """The best subset as a policy, for actions with entries in the order of `knowledge`.

        Raises:
            InputError: if a chosen type is not in `knowledge`.
        """
        _known(self.names, knowledge)
        return fixed([float(name in self.names or name == LABELS) for name in knowledge])


def best_static(env: Forkable, seeds: Sequence[int], *, tries: int = 16, seed: int = 0) -> Static:
    """The best constant subset for a whole episode, by grid search or, if there are too many, random search.

    Args:
        env: environment of the search; it is reset for every episode.
        seeds: seeds of the episodes, the same for every subset, so that all train the same students.
        tries: maximum number of subsets. If there are more subsets, this many different ones are drawn.
        seed: seed of the draw.

    Raises:
        InputError: if there are no tries or no seeds.

    References:
        Bergstra, Bengio, Random Search for Hyper-Parameter Optimization, JMLR 13, 2012,
        https://jmlr.org/papers/v13/bergstra12a.html
    """
    if tries < 1 or not seeds:
        raise InputError(f"{tries} tries in {len(seeds)} episodes each find nothing: give at least 1 of both")
    subsets = 1 << len(env.knowledge)
    codes = range(subsets)
    if subsets > tries:
        codes = np.random.default_rng(seed).choice(subsets, tries, replace=False).tolist()
    made, decisions = [], 0
    for code in codes:
        names = tuple(name for k, name in enumerate(env.knowledge) if code >> k & 1)
        played = [_episode(env, names, each) for each in seeds]
        decisions += sum(length for _, length in played)
        made.append(Try(names, tuple(total for total, _ in played)))
    best = max(made, key=lambda one: (one.score, -len(one.names)))
    return Static(best.names, best.score, tuple(made), len(made) * len(seeds), decisions)


def _episode(env: Forkable, names: Names, seed: int) -> tuple[float, int]:
    """The return of a constant subset, and the number of decisions."""
    action = env.choice.action(Selection.of(*names))
    env.reset(seed=seed)
    total, length, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(action)
        total, length, over = total + reward, length + 1, terminated or truncated
    return total, length


def _all(names: Sequence[str]) -> Iterable[Names]:
    return (chosen for size in range(len(names) + 1) for chosen in combinations(names, size))


def _known(names: Iterable[str], knowledge: Sequence[str]) -> Names:
    """The names in the order of the action's bits."""
    chosen = set(names)
    for name in sorted(chosen - set(knowledge)):
        raise unknown("knowledge type", name, knowledge)
    return tuple(name for name in knowledge if name in chosen)
