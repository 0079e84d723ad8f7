"""Writes docs/papers.md, a section for each published method, from what the code says of it.

    .venv/bin/python docs/papers.py

Facts are those of `ackd/config/methods.py`, formulas those of the presets' docstrings, or of the method's own page.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from functools import partial
from pathlib import Path

from ackd.cli.presets import shown
from ackd.config.methods import COMMANDS, PUBLISHED, Published
from ackd.presets import METHODS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
WIDTH = 120
# How a method is used that is no preset of `ackd distill`; the rest follows from how many teachers it takes.
TYPED = {
    "ksm": (
        "ackd train --preset ksm --task sst2 --teacher TEACHER --student-layers 6 --episodes 16 "
        "--reward gap+explore-soft --output AGENT",
        "ackd distill --preset ksm --task sst2 --teacher TEACHER --student-layers 6 --policy AGENT --output RUN",
    ),
    "tune": (
        "ackd tune --task sst2 --teacher TEACHER --student-layers 3 --temperature 1 4 --kd-weight 0.1 0.9 --output RUN",
    ),
    "mutual": ("ackd mutual --task sst2 --students STUDENT STUDENT --output RUN",),
    "federate": (
        "ackd federate --task sst2 --teacher TEACHER --student-layers 3 --clients 8 --split dirichlet:0.1 --output RUN",
    ),
    "pretrain": (
        "ackd score --model TEACHER --corpus text.txt --output A",
        "ackd score --model REFERENCE --corpus A --output B",
        "ackd refine-data --teacher-scores A --reference-scores B --ratio 0.5 --output refined",
        "ackd pretrain --corpus refined --student student.json --dev-data heldout.txt --output RUN",
    ),
}
HEAD = """\
# Papers

Every published method that ACKD runs: what it transfers, its formula, a command, and its sources. Names joined
by a comma run together (`--preset dynamickd-data,minilmv2`; [systems.md](systems.md)). Our comparisons are in
[benchmarks/results/systems.md](../benchmarks/results/systems.md). In formulas CE is the loss on the labels, p_S and
p_T are the probabilities of student and teacher at temperature tau.

This page is made by `docs/papers.py` from the code; `ackd presets NAME` prints the same facts.
"""


def page() -> str:
    """The whole page."""
    papers: dict[str, list[Published]] = {}
    for one in (*PUBLISHED.values(), *COMMANDS.values()):
        papers.setdefault(one.link, []).append(one)
    return HEAD + "".join(map(section, papers.values()))


def section(methods: list[Published]) -> str:
    """One paper and its methods."""
    first = methods[0]
    head = f"\n## {first.paper}\n\n{first.year}, <{first.link}>\n"
    return head + "".join(map(told, methods))


def told(one: Published) -> str:
    """One method: its name, what it does, its formula, how it is called, and what is known."""
    preset = one.name in PUBLISHED
    facts = {"Transfers": one.does, "Teachers": teachers(one), "Cost": one.cost}
    if preset and METHODS[one.name].defaults:
        given = (f"`{name}` {said(value)}" for name, value in METHODS[one.name].defaults.items())
        facts["Options (`--options NAME=VALUE`)"] = ", ".join(given)
    facts |= {"Sources": one.known, "Unknown": one.unknown}
    lines = (filled(f"* **{name}**: {plain(fact)}.", "  ") for name, fact in facts.items() if fact)
    parts = [
        f"### {one.called}: `{one.name if preset else f'ackd {one.name}'}`",
        formula(one),
        commands(one),
        "\n".join(lines),
    ]
    parts += [f"More: {', '.join(f'[{path.name}](systems/{path.name})' for path in pages(one))}"] if pages(one) else []
    return "".join(f"\n{part}\n" for part in parts if part)


def formula(one: Published) -> str:
    """What a preset's docstring says before its arguments and sources; of a command the formula of its page."""
    if one.name not in METHODS:
        found = [block for path in pages(one) for block in formulas(path)]
        return fenced(textwrap.dedent(found[0])) if found else ""
    make = METHODS[one.name].make
    text = inspect.getdoc(make.func if isinstance(make, partial) else make) or ""
    text = re.sub(r"; see `\w+`", "", re.split(r"\n(?:Args|Raises|References):", text)[0])
    first, *rest = text.strip().split("\n\n")
    return "\n\n".join([fenced(first), *(filled(plain(" ".join(part.split()))) for part in rest)])


def fenced(text: str) -> str:
    """A block that is shown as it is."""
    return f"```text\n{text}\n```"


def said(value: object) -> str:
    """An option's default, as the command line takes it."""
    return ("no", "yes")[value] if isinstance(value, bool) else shown(value)


def formulas(path: Path) -> list[str]:
    """The indented blocks of a page that are no commands."""
    blocks = re.findall(r"(?:^    .*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [block.rstrip() for block in blocks if "ackd " not in block]


def commands(one: Published) -> str:
    """How the method is called, in an indented block."""
    least, _ = one.teachers
    student = "--student STUDENT" if least == 0 else "--student-layers 3"
    given = "" if least == 0 else " --teacher SMALL LARGE" if least > 1 else " --teacher TEACHER"
    plainly = f"ackd distill --task sst2{given} {student} --preset {one.name} --output RUN"
    lines = (textwrap.wrap(text, 112, break_on_hyphens=False) for text in TYPED.get(one.name, (plainly,)))
    return "\n".join("    " + " \\\n        ".join(line) for line in lines)


def teachers(one: Published) -> str:
    """How many it takes, in words."""
    least, most = one.teachers
    if least == most:
        return "none" if most == 0 else str(most)
    return f"{least} or more" if most >= 1000 else f"{least} or {most}" if most == least + 1 else f"{least} to {most}"


def pages(one: Published) -> list[Path]:
    """The pages that have the paper and how this method is called."""
    call = rf"--preset [\w,-]*\b{one.name}\b|`{one.name}`" if one.name in PUBLISHED else rf"ackd {one.name}\b"
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "systems").glob("*.md"))}
    return [path for path, text in texts.items() if one.link in text and re.search(call, text)]


def plain(text: str) -> str:
    """Without what Markdown would take for its own, and with pages by their names."""
    return re.sub(r"see docs/(\S+?)\.md", r"see [\1](\1.md)", text).replace("*", r"\*").replace("<", r"\<")


def filled(text: str, indent: str = "") -> str:
    """In lines of the usual length."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
