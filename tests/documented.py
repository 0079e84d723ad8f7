"""The `ackd` commands that documents show, and the parsing of them."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ackd.cli import Command
from ackd.cli.parsing import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LAUNCHERS = {"torchrun", "accelerate", "srun"}
STARTS = rf"(\S*/)?(ackd|{'|'.join(sorted(LAUNCHERS))}) "
LEFT_OUT = {"…", "..."}
CLASSES = {get_args(one)[1].name: get_args(one)[0] for one in get_args(Command)}


@dataclass(frozen=True)
class Shown:
    """A command in a document.

    Args:
        page: where it stands, from the root.
        line: of its page.
        typed: the whole line, as one types it.
        inline: in the midst of a sentence, which leaves required options out.
    """

    page: str
    line: int
    typed: str
    inline: bool = False

    @property
    def words(self) -> list[str]:
        """What stands behind `ackd`, with what is left out still marked."""
        return after_ackd(shlex.split(self.typed, comments=True))


def after_ackd(words: list[str]) -> list[str]:
    """What a shell hands to ackd, whoever starts it; nothing if the line starts something else."""
    if words and Path(words[0]).name == "ackd":
        return words[1:]
    if not words or Path(words[0]).name not in LAUNCHERS:
        return []
    for place, word in enumerate(words):
        if word == "ackd" and words[place - 1] == "-m":
            return words[place + 1 :]
        if " -m ackd " in word:  # a line that a shell is handed
            return after_ackd(shlex.split(word))
    return []


def commands(path: Path) -> Iterator[Shown]:
    """Those of indented and of fenced blocks, in one line each, and those of sentences."""
    page, lines = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").splitlines()
    fenced, place = False, 0
    while place < len(lines):
        start, text = place + 1, lines[place]
        fenced ^= text.startswith("```")
        if fenced or text.startswith("    "):
            while text.endswith("\\"):
                place += 1
                text = f"{text[:-1]} {lines[place].strip()}"
            text = text.strip().removeprefix("$ ")
            found = [Shown(page, start, text)] if re.match(STARTS, text) else []
        else:
            found = [Shown(page, start, one, inline=True) for one in re.findall(r"`([^`]*)`", text)]
        yield from (one for one in found if re.match(STARTS, one.typed) and one.words)
        place += 1


def parsed(shown: Shown) -> Any:
    """What the command line makes of it; what a document leaves out is filled in.

    Raises:
        InputError: if there is no such command or option, or a required one is missing.
    """
    words, partial = [*shown.words], shown.inline
    if "--config" in words:  # what it gives is in a file
        place, partial = words.index("--config"), True
        del words[place : place + 2]
    given: list[str] = []
    for place, word in enumerate(words):
        if word not in LEFT_OUT:
            given.append(word)
        elif place and words[place - 1].startswith("--"):
            given.append("X")  # the value alone is left out
        else:
            partial = True
    if partial:
        given = completed(given)
    return parse(given)


def completed(given: list[str]) -> list[str]:
    """The words with what the command cannot do without."""
    name, *rest = given
    fields = {f"--{field.name.replace('_', '-')}": field for field in dataclasses.fields(CLASSES[name])}
    if rest and rest[-1] in fields and fields[rest[-1]].type not in (bool, "bool"):
        rest.append("1")  # a sentence names the option without a value
    options = {word.partition("=")[0] for word in rest}
    for option, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and "Positional" in str(field.type):
            rest = rest or ["X"]
        elif needed and name != "policies" and option not in options:
            rest += [option, "X"]
    return [name, *rest]
