"""The exception for invalid input, helpers for messages, and a filter for repeated log lines."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Invalid input of the user; the message contains the problem, the value and a remedy.

    The command line prints only the message and exits with code 2.
    """


def unknown(kind: str, value: str, known: Iterable[str]) -> InputError:
    """An `InputError` for an unknown name; its message lists the most similar known names first.

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
    """The error message for teacher outputs that are not finite, or too large for float16."""
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
    """A value for messages: as JSON, at most 60 printable characters."""
    text = json.dumps(value, default=repr).replace("\x7f", "\\u007f")
    return text if len(text) <= 60 else text[:57] + "..."


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Once(logging.Filter):
    """Log filter that passes each line once, because many students of one run log the same lines."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is new."""
        line = record.getMessage()
        new = line not in self._said
        self._said.add(line)
        return new
