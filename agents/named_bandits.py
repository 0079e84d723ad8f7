"""Bandits by name."""

from __future__ import annotations

from ackd.agents.arms import PerType, Subsets
from ackd.agents.bandits import Bandit, Exp3, Thompson, Ucb
from ackd.errors import unknown

BANDITS = {"ucb": Ucb, "thompson": Thompson, "exp3": Exp3}
MAX_SUBSETS = 4  # with more types, a bandit has arms for each type instead of each subset


def bandit(name: str, types: int, *, seed: int, decisions: int = 1) -> Bandit:
    """A bandit over subsets if there are few of them, otherwise over each type by itself.

    Args:
        name: ucb | thompson | exp3.
        types: number of knowledge types.
        seed: seed of its draws.
        decisions: number of decisions in an episode, for learning over several episodes: each decision then has its own
            arms, whose reward is the return of the rest of the episode. 1 for a single run, in which each arm's reward
            is the decision's own.

    Raises:
        InputError: if there is no bandit with this name.
    """
    if name not in BANDITS:
        raise unknown("bandit", name, BANDITS)
    arms = Subsets(types) if types <= MAX_SUBSETS else PerType(types)
    rule = Thompson(width=3.0) if name == "thompson" and isinstance(arms, PerType) else BANDITS[name]()
    return Bandit(arms, rule, stages=decisions, credit="return" if decisions > 1 else "decision", seed=seed)
