"""Checks command-line arguments before they are parsed; each error is one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ackd.cli.commands import CONFIG, Option, commands, options_of
from ackd.config.other_names import ours
from ackd.errors import InputError, unknown

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"  # dashes that web pages and documents put in place of "-"
NUMBER = re.compile(r"-(inf|infinity|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Given:
    """The given option values as strings, by option name, and each option as the user wrote it."""

    words: dict[str, list[str]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def again(self, options: Mapping[str, Option]) -> list[str]:
        """The same arguments in an unambiguous form."""
        said, indices = list[str](), list[str]()
        for name, values in self.words.items():
            if name not in options:
                continue
            if options[name].place:
                indices += values
            elif values:
                said += [f"{options[name].flag}={values[0]}", *values[1:]]
            else:
                said.append(self.written[name])
        return [*said, "--", *indices] if indices else said


def read(command: str, words: Sequence[str]) -> Given:
    """Reads the arguments after a command.

    Args:
        command: name of the command, such as `policies show`.
        words: the arguments after it.

    Raises:
        InputError: for the first wrong argument.
    """
    options = options_of(commands()[command]) | {CONFIG.name: CONFIG}
    indices = [one for one in options.values() if one.place]
    given, last = Given(), None
    rest = list(words)
    ended = False  # True after "--": no options follow
    while rest:
        word = rest.pop(0)
        if word == "--" and not ended:
            ended = True
        elif not ended and _is_option(word):
            last, values = _take(command, options, word, rest)
            _note(given, last, word.partition("=")[0], values)
        elif indices:
            last = indices.pop(0)
            _check(last, word)
            _note(given, last, last.place, [word])
        else:
            raise _left_over(command, word, last, given)
    return given


def _take(command: str, options: Mapping[str, Option], word: str, rest: list[str]) -> tuple[Option, list[str]]:
    """Returns the option that `word` names and its values; removes the values from `rest`."""
    flag, equals, attached = word.partition("=")
    option, on = _named(options, flag)
    if option is None:
        raise _unknown(command, flag)
    values = [attached] if equals else []
    while len(values) < option.most and rest and not _is_option(rest[0]):
        values.append(rest.pop(0))
    if option.kind is bool:
        if values:
            raise InputError(f"{flag} takes no value, and was given {_quoted(attached)}: {_switch(option, on)}")
        return option, []
    for value in values:
        _check(option, value)
    short = not values if option.most == float("inf") else len(values) < option.most
    if short:
        raise InputError(_lacks(option, values, rest))
    return option, values


def _note(given: Given, option: Option, flag: str, values: list[str]) -> None:
    """Records an option's values; raises an error if the option is given twice."""
    if option.name in given.words:
        first, before = given.written[option.name], given.words[option.name]
        if option.kind is bool:
            both = f"{first} and {flag} are both given" if first != flag else f"{flag} is given twice"
            raise InputError(f"{both}: give one of them, once")
        once = "give it once" if option.most == 1 else f"name them all after one {option.flag}"
        raise InputError(f"{option.flag} is given twice, as {_listed(before)} and as {_listed(values)}: {once}")
    given.words[option.name] = values
    given.written[option.name] = flag.replace("_", "-")


def check_complete(command: str, names: Mapping[str, Any]) -> None:
    """Raises an error if required options are missing.

    Args:
        command: name of the command.
        names: names of the options that have values.

    Raises:
        InputError: if any is missing; it names all of them.
    """
    lacking = [one.flag for one in options_of(commands()[command]).values() if one.required and one.name not in names]
    if lacking:
        some = lacking[0] if len(lacking) == 1 else f"{', '.join(lacking[:-1])} and {lacking[-1]}"
        add = "it" if len(lacking) == 1 else "them"
        raise InputError(f"ackd {command} needs {some}: add {add} (ackd {command} --help explains)")


def _is_option(word: str) -> bool:
    """Whether a word names an option, rather than a value such as -1 or a single dash."""
    if word[:1] and word[0] in DASHES:
        return not word[1:2].isdigit()
    return word == "--" or (word[:1] == "-" and word.lstrip("-")[:1].isalpha() and not NUMBER.fullmatch(word))


def _named(options: Mapping[str, Option], flag: str) -> tuple[Option | None, bool]:
    """The option with this flag, and whether the flag switches it on."""
    name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
    if name in options and not options[name].place:
        return options[name], True
    off = options.get(name.removeprefix("no_")) if name.startswith("no_") else None
    return (off, False) if off is not None and off.kind is bool else (None, True)


def _unknown(command: str, flag: str) -> InputError:
    """The error about an unknown option."""
    name = flag.lstrip("-" + DASHES).replace("-", "_")
    if flag[0] in DASHES:
        dashed = f"--{name.replace('_', '-')}"
        return InputError(f"{_quoted(flag)} begins with another dash than options do: type {dashed}")
    return InputError(f"ackd {command} has no option {_quoted(flag)[1:-1]}{nearest(command, name)}")


def nearest(command: str, name: str, dashes: str = "--") -> str:
    """The end of the error about an unknown option: a similar option, or the commands that have it.

    Args:
        command: name of the command.
        name: the given name, with underscores.
        dashes: prefix for the option names in the text.
    """
    known = {one.name: dashes + one.flag[2:] for one in options_of(commands()[command]).values() if not one.place}
    near = [found] if (found := ours(name, known)) else []
    near = near or [one for one in dict.fromkeys((name, name.removeprefix("no_"))) if one in known]
    near = near or difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.7)
    near = near or [one for one in known if one.startswith(name)][:3]
    if near:
        return f": did you mean {' or '.join(known[one] for one in near)}?"
    others = [f"ackd {other}" for other, kind in commands().items() if name in options_of(kind)]
    if others:
        return f", which {_and(others)} {'have' if len(others) > 1 else 'has'}: leave it away"
    return f": ackd {command} --help-all lists those that it has"


def _left_over(command: str, word: str, last: Option | None, given: Given) -> InputError:
    """The error about an argument that belongs to no option."""
    if last is None:
        return InputError(f"{_quoted(word)} follows no option: ackd {command} --help lists what it takes")
    if last.kind is bool:
        flag = given.written[last.name]
        return InputError(
            f"{flag} takes no value, and {_quoted(word)} follows it: {_switch(last, not flag.startswith('--no-'))}"
        )
    many = "one value" if last.most == 1 else f"{last.most} values"
    return InputError(
        f"{last.flag} takes {many}, and {_quoted(word)} follows {_listed(given.words[last.name])}: leave it away, "
        "or put it in quotes with what it belongs to"
    )


def _switch(option: Option, on: bool) -> str:
    no = f"--no-{option.name.replace('_', '-')}"
    return f"{option.flag if on else no} alone says it, and {no if on else option.flag} the contrary"


def _lacks(option: Option, values: Sequence[str], rest: Sequence[str]) -> str:
    """The sentence about missing values."""
    if values:
        return f"{option.flag} takes {option.most} values, and was given {_listed(values)} alone: give {option.most}"
    dash = f"; one that begins with a dash is written {option.flag}={rest[0]}" if rest and rest[0][:2] != "--" else ""
    many = {1: "one", float("inf"): "one or more"}.get(option.most, f"{option.most}")
    return f"{option.flag} has no value: give {many} after it ({_wanted(option.kind)}){dash}"


def _check(option: Option, word: str) -> None:
    """Checks that a word is a valid value of an option.

    Raises:
        InputError: if it is not.
    """
    if not word:
        raise InputError(f"{option.flag} is empty: give {_wanted(option.kind)}, or leave it away")
    if word == "None" and NoneType in get_args(option.hint):
        return
    kind = get_args(option.kind)[0] if get_origin(option.kind) is tuple else option.kind
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise unknown(option.flag, word, get_args(kind))
    elif kind in (int, float) and not _is(kind, word):
        near = next((f", such as {one}" for one in _meant(kind, word)), "")
        raise InputError(f"{option.flag} is {_quoted(word)}: give {_wanted(kind)}{near}")


def _is(kind: type, word: str) -> bool:
    try:
        value = kind(word)
    except ValueError:
        return False
    return bool(value == value)  # false for NaN


def _meant(kind: type, word: str) -> Iterator[str]:
    """Yields numbers that a user may have meant by a word that is not a number."""
    for one in (word, word.replace(",", "."), word.replace(",", "")):
        if _is(kind, one):
            yield one
        elif kind is int and _is(float, one) and abs(value := float(one)) < 2**31 and value.is_integer():
            yield str(int(value))


def _wanted(kind: Any) -> str:
    """Describes the values that an option takes, for error messages."""
    if get_origin(kind) is tuple:
        return _wanted(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {int: "a whole number", float: "a number"}.get(kind, "a name or a path")


def _quoted(word: str) -> str:
    return repr(word if len(word) <= 80 else f"{word[:77]}...")


def _listed(words: Sequence[str]) -> str:
    return _and([_quoted(word) for word in words])


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
