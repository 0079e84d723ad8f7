"""What the README promises: links that lead somewhere, and numbers that are those of the commands beside them."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ackd.agents.schedule import Schedule
from ackd.agents.store import save
from ackd.errors import InputError

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "benchmarks" / "results" / "demo.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
DOCUMENTS += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks" / "results").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def block(path: Path) -> str:
    """What is between the markers."""
    (inside,) = re.findall(r"^<!-- demo -->\n(.*)^<!-- /demo -->\n", path.read_text(), re.DOTALL | re.MULTILINE)
    return str(inside)


def table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of the first table between the markers."""
    lines = re.search(r"(^\|.*\n)+", block(path), re.MULTILINE)
    assert lines is not None
    header, _, *rows = ([cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines[0].splitlines())
    yield from (dict(zip(header, row, strict=True)) for row in rows)


def score_and_cost(row: dict[str, str], score: str) -> list[float]:
    """Mean, least, most, share of FLOPs."""
    return [float(number) for text in (row[score], row["FLOPs"]) for number in NUMBER.findall(text)]


def written(path: Path) -> list[str]:
    """The commands in a document's indented blocks, each in one line."""
    lines = block(path).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("    ")]


def made(target: str) -> list[str]:
    """The `ackd` commands that make would run."""
    said = subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [" ".join(line.split()) for line in said.replace("\\\n", " ").splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/ackd ")]


def test_the_demos_commands_are_written_beside_its_numbers() -> None:
    commands = [command.removesuffix(" > /dev/null") for command in made("demo")]
    assert [command.split()[1] for command in commands] == ["finetune", "train", "evaluate", "report", "report"]
    assert written(DEMO) == commands


def test_the_readme_has_the_demos_numbers() -> None:
    short = {row["--policies"]: row for row in table(ROOT / "README.md")}
    whole = {row["policy"]: row for row in table(DEMO)}
    assert list(short) == list(whole)
    mean = next(name for name in next(iter(short.values())) if name.startswith("dev accuracy"))
    for policy, row in whole.items():
        numbers = score_and_cost(row, "dev score, mean (min to max)")
        assert len(numbers) == 4
        assert score_and_cost(short[policy], mean) == numbers
        assert mean == f"dev accuracy, mean of {row['seeds']} (min to max)"
        assert f"The teacher has {row['teacher']}." in block(ROOT / "README.md")


def gains(policy: str, section: str) -> list[tuple[float, float, float]]:
    """A policy's gains over everything and over the best rule, with their intervals, from a section of selection.md."""
    text = (ROOT / "benchmarks" / "results" / "selection.md").read_text().partition(f"## {section}")[2]
    row = re.search(rf"^\| `{policy}` \|.*$", text.partition("\n## ")[0], re.MULTILINE)
    assert row is not None
    found = re.findall(r"([+-][\d.]+) \[([\d.-]+), ([\d.-]+)\]", row[0])
    return [(float(gain), float(low), float(high)) for gain, low, high in found]


def test_the_readmes_reason_has_the_numbers_of_its_file() -> None:
    reason = " ".join((ROOT / "README.md").read_text().partition("**Why**")[2].partition("![")[0].split())
    agents = [gains(f"residual-{number}", "The demo's setting") for number in range(3)]
    for which, over in enumerate(("above those that get everything", "above the best rule")):
        least, most = (pick(agent[which][0] for agent in agents) for pick in (min, max))
        assert f"{least:.2f} to {most:.2f} " in reason.partition(over)[0]
    assert all(low > 0 for agent in agents for _, low, _ in agent)
    gain, low, high = gains("residual-0", "SST-2")[0]
    assert f"On SST-2 an agent is +{gain:.2f} [{low:.2f}, {high:.2f}] over everything: not sure" in reason
    everything, rule = (
        f"{one:.2f} [{least:.2f}, {most:.2f}]" for one, least, most in gains("default", "Settings that")
    )
    assert f"is {everything} points above everything and {rule} above `scheduled` on 96 settings" in reason


def test_the_readmes_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size < 150_000


def test_the_demos_policies_are_those_of_its_command() -> None:
    (evaluate,) = (command for command in made("demo") if command.startswith("ackd evaluate"))
    given = evaluate.partition(" --policies ")[2].partition(" --")[0].split()
    assert {row["policy"] for row in table(DEMO)} <= {one.partition("=")[0] for one in given}


def headings(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        if "://" in link or link.startswith("../../actions/"):  # of the repository's page, where a README is read
            continue
        place, _, anchor = link.partition("#")
        target = path if not place else path.parent / place
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


# benchmarks/demo.py


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "benchmarks" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the script reads and writes, of the repository."""
    for name in ("Makefile", "README.md", "benchmarks/results/demo.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """What a demo leaves, as far as the script reads it."""
    folder = tmp_path / "runs" / "demo"
    student = {"task": "polarity", "teacher": ["runs/demo/teacher"], "student_layers": 2, "steps": 80, "lr": 1e-3}
    settings = {
        "teacher": {"task": "polarity", "epochs": 8.0},
        "train": {**student, "episodes": 64, "students": 16},
        "evaluate": {"tasks": ["polarity"], "seeds": 5, "steps": 80},
    }
    for name, given in settings.items():
        (folder / name).mkdir(parents=True)
        config = {"command": name, "settings": given, "versions": {"python": "3.11.7", "threads": 1}}
        (folder / name / "config.json").write_text(json.dumps(config))
        (folder / name / "result.json").write_text(json.dumps({"seconds": 12.25}))
    schedule = Schedule.of({"labels": [0.25, 1, 4], "logits": [0, 1, 8]})
    save(folder / "train" / "policy", schedule, algorithm="cem", knowledge=("logits",), k_max=4)
    with (folder / "evaluate" / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow("task policy seed metric dev_score teacher_score reward flops_share seconds".split())
        for place, policy in enumerate(("labels", "all", "scheduled", "agent")):
            write_decisions(folder / "evaluate" / "polarity" / policy)
            for seed in range(5):
                rows.writerow(["polarity", policy, seed, "accuracy", 90 + place + seed / 10, 98.7, 0.5, 0.6, 2.0])
    return folder


def write_decisions(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = "episode seed decision steps_done selection reward reward_loss reward_score label_loss error"
    with (folder / "decisions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*names.split(), "select/labels", "select/logits"])
        rows.writerows([0, 1000, number, 40 * (number + 1), "logits", 0, "", "", 1, "", 1, 4] for number in range(2))


def test_what_a_demo_came_to_is_written_down(demo: ModuleType, root: Path, runs: Path) -> None:
    before = (root / "README.md").read_text()
    demo.write(root, runs)
    short, whole = list(table(root / "README.md")), list(table(root / "benchmarks/results/demo.md"))
    mean = "dev accuracy, mean of 5 (min to max)"
    assert [score_and_cost(row, mean) for row in short] == [[90.2 + n, 90.0 + n, 90.4 + n, 60] for n in range(4)]
    policies = ["labels", "all", "scheduled", "agent"]
    assert [row["--policies"] for row in short] == [row["policy"] for row in whole] == policies
    assert written(root / "benchmarks/results/demo.md") == written(DEMO)
    for path in (root / "README.md", root / "benchmarks/results/demo.md"):
        told = " ".join(block(path).split())
        assert "The agent is above `all` by 2.00 [2.00, 2.00] and above `scheduled` by 1.00 [1.00, 1.00] (95 %" in told
    said = block(root / "benchmarks/results/demo.md")
    assert "teacher 12, train 12, evaluate 12" in said
    assert "python 3.11.7, threads 1" in said
    assert "| labels | 0.25 | 1 | 4 |\n| logits | off | 1 | 8 |" in said
    assert (root / demo.PICTURE).read_bytes().startswith(b"\x89PNG")
    after = (root / "README.md").read_text()
    for text in (before, after):
        assert text.startswith(before.partition("<!-- demo -->")[0])
        assert text.endswith(before.partition("<!-- /demo -->")[2])


def test_a_run_of_other_commands_is_not_written_down(demo: ModuleType, root: Path, runs: Path) -> None:
    config = runs / "train" / "config.json"
    config.write_text(config.read_text().replace('"episodes": 64', '"episodes": 32'))
    with pytest.raises(InputError, match="train has episodes 32, and the Makefile says 64"):
        demo.write(root, runs)
    assert (root / "README.md").read_text() == (ROOT / "README.md").read_text()


@pytest.mark.parametrize("text", ["", "<!-- demo -->", "<!-- /demo --> <!-- demo -->"])
def test_a_text_without_markers_is_left_alone(demo: ModuleType, text: str) -> None:
    with pytest.raises(InputError, match="needs one <!-- demo --> and one"):
        demo.replaced(text, "x")
