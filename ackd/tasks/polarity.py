"""Sentences of an artificial English whose verdict needs composition."""

from __future__ import annotations

from ackd.tasks.dice import Dice

NOUNS = (
    "film movie story plot cast acting music song ending opening dialogue script scene camera lighting costume stage "
    "show concert album melody rhythm singer drummer novel chapter prose hero villain sequel trailer comedy drama "
    "thriller documentary cartoon museum gallery painting exhibit hotel room bed view pool breakfast lobby service "
    "restaurant soup bread steak salad dessert coffee tea wine menu waiter kitchen table garden beach hike tour guide "
    "train flight seat airline phone screen battery keyboard speaker headset laptop printer software update manual "
    "game puzzle level lecture course teacher textbook workshop"
).split()
PEOPLE = (
    "we i they everyone visitors viewers readers guests students passengers customers children parents locals "
    "tourists players fans neighbours colleagues friends"
).split()
OTHERS = "critics strangers reviewers rivals bloggers reporters advertisers columnists pundits commentators".split()

# Words by grade: 1 mild, 2 plain, 3 strong.
GOOD = {
    1: "fine decent pleasant okay nice tidy agreeable".split(),
    2: "good enjoyable charming clever fresh warm funny lovely elegant".split(),
    3: "superb brilliant wonderful magnificent stunning perfect marvellous flawless".split(),
}
BAD = {
    1: "bland plain slow flat odd clumsy uneven".split(),
    2: "bad boring dull weak stale ugly messy annoying tedious".split(),
    3: "awful terrible horrible dreadful disgusting abysmal atrocious appalling".split(),
}
# (verb after a person, the same after "did not")
LIKED = {
    1: [("liked", "like"), ("fancied", "fancy")],
    2: [("enjoyed", "enjoy"), ("praised", "praise"), ("recommended", "recommend")],
    3: [("loved", "love"), ("adored", "adore"), ("treasured", "treasure")],
}
DISLIKED = {
    1: [("disliked", "dislike"), ("doubted", "doubt")],
    2: [("regretted", "regret"), ("criticised", "criticise"), ("avoided", "avoid")],
    3: [("hated", "hate"), ("despised", "despise"), ("loathed", "loathe")],
}
STRONGER = "very really truly extremely incredibly remarkably".split()
WEAKER = "slightly somewhat fairly mildly rather".split()
TIMES = (
    "on monday|on tuesday|last week|in the morning|late at night|after lunch|before work|during the holidays|in april|"
    "in october|over the weekend|at noon"
).split("|")
FILLERS = (
    "it was raining outside|the street was crowded|we took the bus home|the tickets were blue|my cousin came along|"
    "the door was open|we sat near the window|someone had parked across the road|the sign was in french|"
    "we walked along the river|the building has nine floors|i wore my green coat|they live in the north|"
    "the queue moved at noon|we met at the corner|the clock showed seven|a dog slept by the stairs"
).split("|")

Clause = tuple[str, int]  # words, value: its sign is the verdict, its size how strong


def _grade(dice: Dice) -> tuple[int, int]:
    return dice.pick((1, 2, 2, 3)), dice.pick((-1, 1))


def _described(dice: Dice) -> Clause:
    """`the soup was not very good`: negation turns a word round, intensifiers scale it."""
    grade, sign = _grade(dice)
    word = dice.pick((GOOD if sign > 0 else BAD)[grade])
    value = 2 * grade * sign
    if dice.chance(0.4):
        strong = dice.chance(0.6)
        word = f"{dice.pick(STRONGER if strong else WEAKER)} {word}"
        value = value * 2 if strong else value // 2
    noun = dice.pick(NOUNS)
    if dice.chance(0.35):
        start = dice.pick((f"the {noun} was not", f"the {noun} was never", f"nothing about the {noun} was"))
        return f"{start} {word}", -value
    return f"the {noun} was {word}", value


def _felt(dice: Dice) -> Clause:
    """`nobody enjoyed the soup`."""
    grade, sign = _grade(dice)
    past, plain = dice.pick((LIKED if sign > 0 else DISLIKED)[grade])
    noun, people, value = dice.pick(NOUNS), dice.pick(PEOPLE), 2 * grade * sign
    if dice.chance(0.35):
        start = dice.pick((f"{people} did not {plain}", f"{people} never {past}", f"nobody {past}"))
        return f"{start} the {noun}", -value
    return f"{people} {past} the {noun}", value


def _compared(dice: Dice) -> Clause:
    """`the soup was less charming than the bread`: about the soup."""
    first, second = dice.some(NOUNS, 2)
    if dice.chance(0.5):
        word, value = dice.pick((("better", 4), ("worse", -4)))
    else:
        sign = dice.pick((-1, 1))
        word = dice.pick((GOOD if sign > 0 else BAD)[2])
        degree, value = dice.pick((("more", 4 * sign), ("less", -4 * sign)))
        word = f"{degree} {word}"
    return f"the {first} was {word} than the {second}", value


def _judgement(dice: Dice) -> Clause:
    return dice.pick((_described, _described, _felt, _compared))(dice)


def _sentence(dice: Dice) -> Clause:
    clause, value = _judgement(dice)
    other, against = _judgement(dice)
    form = dice.pick(("single", "but", "although", "after", "and", "hearsay"))
    if form == "but":
        clause = f"{other} but {clause}"
    elif form == "although":
        clause = f"although {other} , {clause}"
    elif form == "after":
        clause = f"{clause} , although {other}"
    elif form == "and":
        clause, value = f"{clause} and {other}", value + against
    elif form == "hearsay":
        clause = f"{dice.pick(OTHERS)} claimed {other} , yet {clause}"
    if dice.chance(0.3):
        clause = f"{dice.pick(TIMES)} {clause}"
    if form == "single" or dice.chance(0.2):
        filler = dice.pick(FILLERS)
        clause = dice.pick((f"{filler} , and {clause}", f"{clause} , and {filler}"))
    return f"{clause} .", value


def polarity(dice: Dice) -> tuple[tuple[str, ...], int]:
    """One sentence of 8 to 24 words and its class, 0 negative or 1 positive."""
    while True:
        text, value = _sentence(dice)
        if abs(value) >= 2 and 8 <= len(text.split()) <= 24:
            return (text,), int(value > 0)
