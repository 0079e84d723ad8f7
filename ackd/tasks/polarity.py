"""Generated sentences in artificial English; their class depends on how clauses are combined."""

from __future__ import annotations

from ackd.tasks.dice import Dice

NOUNS = (
    "film story cast music ending script show album novel gallery hotel room view breakfast soup bread dessert coffee "
    "garden tour flight screen game lecture"
).split()
PEOPLE = "we they visitors readers guests students children locals".split()
OTHERS = "critics strangers reviewers rivals".split()
WORDS = {
    1: "good charming clever funny lovely superb brilliant perfect".split(),
    -1: "bad boring dull ugly tedious awful terrible dreadful".split(),
}
# (form after a person, form after "did not")
VERBS = {
    1: [("liked", "like"), ("enjoyed", "enjoy"), ("praised", "praise"), ("loved", "love")],
    -1: [("disliked", "dislike"), ("regretted", "regret"), ("avoided", "avoid"), ("hated", "hate")],
}
DEGREES = ("", "very ", "really ", "rather ")
TIMES = "on monday|last week|in the morning|late at night|after lunch|in october".split("|")
FILLERS = (
    "it was raining outside|the street was crowded|we took the bus home|the door was open|we sat near the window|"
    "someone had parked across the road|i wore my green coat|we met at the corner"
).split("|")

Clause = tuple[str, int]  # words, verdict: 1 or -1


def _described(dice: Dice) -> Clause:
    """`the soup was not very good`: negation flips the verdict of a word."""
    verdict = dice.pick((-1, 1))
    words = f"{dice.pick(DEGREES)}{dice.pick(WORDS[verdict])}"
    if dice.chance(0.4):
        return f"the {dice.pick(NOUNS)} was {dice.pick(('not', 'never'))} {words}", -verdict
    return f"the {dice.pick(NOUNS)} was {words}", verdict


def _felt(dice: Dice) -> Clause:
    """`visitors did not enjoy the soup`."""
    verdict = dice.pick((-1, 1))
    past, plain = dice.pick(VERBS[verdict])
    noun, people = dice.pick(NOUNS), dice.pick(PEOPLE)
    if dice.chance(0.4):
        start = dice.pick((f"{people} did not {plain}", f"nobody {past}"))
        return f"{start} the {noun}", -verdict
    return f"{people} {past} the {noun}", verdict


def _clause(dice: Dice) -> Clause:
    return dice.pick((_described, _felt))(dice)


def _dated(dice: Dice, text: str) -> str:
    return f"{dice.pick(TIMES)} {text} ." if dice.chance(0.3) else f"{text} ."


def polarity(dice: Dice) -> tuple[tuple[str, ...], int]:
    """One sentence and its class, 0 negative or 1 positive.

    The class is the verdict of the main clause: the one after `but` or `yet`, or the one not introduced by `although`.
    Claims of others, times and fillers have no influence.
    """
    (clause, verdict), (other, _) = _clause(dice), _clause(dice)
    text = dice.pick(
        (
            f"{clause} , and {dice.pick(FILLERS)}",
            f"{other} but {clause}",
            f"although {other} , {clause}",
            f"{clause} , although {other}",
            f"{dice.pick(OTHERS)} claimed {other} , yet {clause}",
        )
    )
    return (_dated(dice, text),), int(verdict > 0)


def tally(dice: Dice) -> tuple[tuple[str, ...], int]:
    """Three judgements and the class of their majority, 0 negative or 1 positive."""
    clauses = [_clause(dice) for _ in range(3)]
    (first, _), (second, _), (third, _) = clauses
    return (_dated(dice, f"{first} , {second} and {third}"),), int(sum(verdict for _, verdict in clauses) > 0)
