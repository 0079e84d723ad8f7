"""The one exception for input that a person can mend, and notes that are made once."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """What the user gave cannot be used; the message says what, with which value, and what to do.

    The command line prints the message alone and exits with code 2.
    """


def unknown(kind: str, value: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not known, which names the nearest known ones first.

    Example:
        >>> str(unknown("task", "sst", ["sst2", "mrpc"]))
        "unknown task 'sst': did you mean 'sst2'? (known: mrpc, sst2)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.6)
    near = near or difflib.get_close_matches(value.lower(), names, n=3, cutoff=0.6)
    hint = f": did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return InputError(f"unknown {kind} {value!r}{hint} (known: {', '.join(names)})")


def not_finite(kind: str, examples: Sequence[int], *, overflow: bool = False) -> str:
    """The sentence about a teacher whose answers are no numbers, or too large for float16."""
    named = ", ".join(str(example) for example in examples[:5]) + (", ..." if len(examples) > 5 else "")
    if overflow:
        return (
            f"the teacher's answers ({kind}) for the examples {named} are larger than float16 can hold: "
            "keep the cache in bfloat16 or float32"
        )
    return (
        f"the teacher answers NaN or infinity ({kind}) for the examples {named}: its weights are damaged; train it anew"
    )


def short(value: object) -> str:
    """A value as a sentence shows it: as JSON, in 60 characters that a terminal can print."""
    text = json.dumps(value, default=repr).replace("\x7f", "\\u007f")
    return text if len(text) <= 60 else text[:57] + "..."


def reason(error: BaseException) -> str:
    """The first line of what a library says, or the kind of its error where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Once(logging.Filter):
    """Lets each line through once: many students of one run have the same thing to say."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        line = record.getMessage()
        new = line not in self._said
        self._said.add(line)
        return new
