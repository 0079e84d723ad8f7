"""Writes the results of `make demo` into the table in README.md, benchmarks/results/demo.md, and the README's picture.

    OMP_NUM_THREADS=1 make demo && .venv/bin/python benchmarks/demo.py

In both files, only the text between the markers is replaced. Runs of other commands than the Makefile's are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tyro

from ackd.agents.model_card import card_text
from ackd.agents.store import load
from ackd.cli import Command
from ackd.errors import InputError
from ackd.reporting import evaluation_figures, pictures, trends
from ackd.reporting.comparison import above, compare
from ackd.reporting.comparison_pictures import weights_beside_scores
from ackd.reporting.tables import summaries, tabulate
from ackd.runs.folder import group_folder
from ackd.runs.log import Cell, read_decisions, read_table

ROOT = Path(__file__).parents[1]
MARKS = "<!-- demo -->", "<!-- /demo -->"
PICTURE = Path("docs/demo.png")
FREE = {"output", "overwrite", "resume", "workers"}  # settings of a run that may differ
WORDS = {
    "labels": "the labels alone",
    "all": "everything, throughout",
    "scheduled": "hidden states and attention first, logits in the second half",
    "hidden+attention,labels:0.25,then,all,labels:0.25": "hidden states and attention first, then all; labels at 1/4",
    "agent": "what the demo's agent learned in 64 students",
    "default": "the policy that comes along, learned on other settings",
}

SHORT = {"hidden+attention,labels:0.25,then,all,labels:0.25": "best rule"}  # short names for the picture


def commands(makefile: Path) -> list[str]:
    """The `ackd` commands of the target demo, as one types them."""
    text = makefile.read_text(encoding="utf-8").replace("\\\n", " ")
    values = dict(re.findall(r"^(\w+) [:?]?= *(.*)$", text, re.MULTILINE))
    recipe = re.search(r"^demo: install\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert recipe is not None, makefile
    lines = [" ".join(line.split()) for line in recipe[1].splitlines()]
    return [_expanded(line.removeprefix("$(BIN)/"), values) for line in lines if line.startswith("$(BIN)/ackd ")]


def _expanded(text: str, values: Mapping[str, str]) -> str:
    while names := re.findall(r"\$\((\w+)\)", text):
        for name in names:
            text = text.replace(f"$({name})", values[name])
    return text.removesuffix(" > /dev/null")


def check(command: str, folder: Path) -> Mapping[str, Any]:
    """The versions that the run in a folder went with.

    Raises:
        InputError: if it is no run of that command.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(asdict(tyro.cli(Command, args=shlex.split(command)[1:]))))
    for name, value in config["settings"].items():
        if name in asked and name not in FREE and asked[name] != value:
            raise InputError(
                f"{folder} has {name} {value!r}, and the Makefile says {asked[name]!r}: run make demo again"
            )
    versions: Mapping[str, Any] = config["versions"]
    return versions


def of_readme(cells: Sequence[Cell]) -> str:
    """The table for those who have not read anything else."""
    rows = summaries(cells)
    lines = [
        f"| `--policies` | what is transferred | dev accuracy, mean of {rows[0][-1]} (min to max) | FLOPs |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{row[1]}` | {WORDS.get(row[1], '')} | {row[3]} | {row[6]} |" for row in rows]
    return "\n".join([*lines, "", *textwrap.wrap(f"The teacher has {rows[0][4]}. {compared(cells)}", 120)])


def compared(cells: Sequence[Cell]) -> str:
    """What the agent gains over everything and over the best rule, student by student."""
    both = compare(cells)
    rules = [name for name in both.percent if name not in ("agent", "default", "labels", "all")]
    best = max(rules, key=lambda name: float(both.percent[name].mean()))
    gains = [f"above `{other}` by {above(both, other)['agent']:.2f}" for other in ("all", best)]
    return f"The agent is {' and '.join(gains)} (95 % intervals, after Student, over the students)."


def of_results(
    cells: Sequence[Cell], typed: Sequence[str], runs: Mapping[str, Path], versions: Mapping[str, Any]
) -> str:
    """Commands, what they ran on, the whole table, and what the agent learned."""
    seconds = {
        name: json.loads((path / "result.json").read_text(encoding="utf-8"))["seconds"] for name, path in runs.items()
    }
    policy = load(runs["train"] / "policy")
    weights = re.search(r"\n## Weights\n\n(.*?)\n\n## ", card_text(policy.card, policy.network), re.DOTALL)
    parts = [
        f"Seconds on {os.cpu_count()} CPU cores, without starting: {_listed(seconds, ' ')}. {_listed(versions, ' ')}.",
        "\n".join(map(indented, typed)),
        tabulate(cells),
        "\n".join(textwrap.wrap(compared(cells), 120)),
    ]
    if weights is not None:
        parts += ["What the agent learned:", weights[1]]
    return "\n\n".join(parts)


def indented(command: str) -> str:
    """A command as an indented block, cut where it is long."""
    lines = textwrap.wrap(command, 105, break_long_words=False, break_on_hyphens=False)
    return "    " + " \\\n        ".join(lines)


def picture(evaluate: Path, cells: Sequence[Cell]) -> bytes:
    """What the agent selects beside what every policy comes to, as a PNG.

    Raises:
        InputError: if the evaluation has no decisions of the agent.
    """
    decisions = read_decisions(group_folder(evaluate, cells[0].task, "agent") / "decisions.csv")
    if not decisions:
        raise InputError(f"{evaluate} has no decisions of the agent: run make demo again")
    terms, steps = list(decisions[0].weights), max(one.steps_done for one in decisions)
    episodes = trends.aligned(trends.episodes_of(decisions, steps))
    called = [replace(one, policy=SHORT.get(one.policy, one.policy)) for one in cells]
    figure = weights_beside_scores(
        trends.mean_weights(episodes, terms),
        terms,
        trends.edges(episodes, steps),
        evaluation_figures.scores_of(cells[0].task, called),
        "Weights that the agent chose\nStudents under each policy",
    )
    return pictures.png(figure)


def _listed(values: Mapping[str, Any], between: str) -> str:
    return ", ".join(f"{name}{between}{round(v) if isinstance(v, float) else v}" for name, v in values.items())


def replaced(text: str, block: str) -> str:
    """The text with something else between its markers.

    Raises:
        InputError: if it has not just one pair of them.
    """
    begin, end = MARKS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"the text needs one {begin} and one {end} after it: put them where the table belongs")
    return f"{text[: text.index(begin)]}{begin}\n\n{block}\n\n{text[text.index(end) :]}"


def write(root: Path, runs: Path) -> None:
    """Writes both files and the picture under a root from the runs of the demo."""
    typed = commands(root / "Makefile")
    folders = {name: runs / name for name in ("teacher", "train", "evaluate")}
    versions = [check(command, folder) for command, folder in zip(typed, folders.values(), strict=False)][-1]
    cells = read_table(folders["evaluate"] / "table.csv")
    blocks = {
        root / "README.md": of_readme(cells),
        root / "benchmarks" / "results" / "demo.md": of_results(cells, typed, folders, versions),
    }
    texts = {path: replaced(path.read_text(encoding="utf-8"), block) for path, block in blocks.items()}
    drawn = picture(folders["evaluate"], cells)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(path)
    (root / PICTURE).parent.mkdir(exist_ok=True)
    (root / PICTURE).write_bytes(drawn)
    print(root / PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "demo")
    write(ROOT, parser.parse_args().runs)
