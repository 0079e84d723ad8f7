"""Facts about who is taller, and whether another one follows from them."""

from __future__ import annotations

from ackd.tasks.dice import Dice

NAMES = ["anna", "bob", "carol", "david", "emma", "frank", "grace", "henry", "iris", "jack"]
SCALES = (("taller", "shorter"), ("older", "younger"), ("faster", "slower"))


def entailment(dice: Dice) -> tuple[tuple[str, ...], int]:
    """A premise, a hypothesis and its class: 0 it follows, 1 it does not.

    The premise orders three people by two comparisons, each told from either end, beside one on another scale; the
    hypothesis compares two of them, so it may need turning a comparison round, or joining both.
    """
    people = dice.some(NAMES, 3)  # from the most to the least
    scale, other = dice.some(SCALES, 2)
    facts = [_told(dice, people[0], people[1], scale), _told(dice, people[1], people[2], scale)]
    one, another = dice.some(people, 2)
    facts.append(_told(dice, one, another, other))
    first, second = sorted(dice.some((0, 1, 2), 2))
    follows = dice.chance(0.5)
    pair = (people[first], people[second]) if follows else (people[second], people[first])
    premise = " and ".join(dice.some(facts, 3))
    return (f"{premise} .", f"{_told(dice, *pair, scale)} ."), int(not follows)


def _told(dice: Dice, more: str, less: str, scale: tuple[str, str]) -> str:
    """`anna is taller than bob` or, the same, `bob is shorter than anna`."""
    if dice.chance(0.5):
        return f"{more} is {scale[0]} than {less}"
    return f"{less} is {scale[1]} than {more}"
