"""Mutation testing: how many small mistakes in the code do the tests find? A seed draws the mutants.

    python benchmarks/mutants.py --output build/mutants.jsonl --processes 2
    python benchmarks/mutants.py --output build/mutants.jsonl --processes 2 --again      tests the survivors again
    python benchmarks/mutants.py --output build/mutants.jsonl --table > benchmarks/results/mutants.md
    python benchmarks/mutants.py --output build/rules.jsonl --only agents/rules.py --count 20

A mutant is the code with one change (`benchmarks/mutation.py`). All possible changes in ackd/, envs/ and agents/ are
equally likely. The change is made in a copy of the tree in a temporary folder.

Each test file first runs once on the unchanged code, to record the time of each test and the functions that it enters.
A mutant is then tested in this order: tests that enter its function in test files named after its module; the other
tests in these files; tests in files that import the module or are named after a module that does; tests named after its
package; all other tests, while they take less than --seconds in total. A mutant is caught by the first failing test, by
an error at import, or by taking much longer than the unchanged code. Tests that did not run might catch a survivor.

--output has a line for each mutant; a stopped run continues there. Tests start in a process that has already imported
the libraries, but none of our code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import mutation
from benchmarks.mutant_tests import PACKAGES, Ended, Test, Tree, die_with_parent, groups, import_libraries

ROOT = Path(__file__).resolve().parents[1]
REASONS = ROOT / "benchmarks" / "equivalent.json"
LIBRARIES = ("torch", "transformers", "gymnasium", "stable-baselines3", "pytest", "hypothesis")
Row = dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    """A change of one file of the tree, and a digest of the file before it."""

    path: str
    content: str
    change: mutation.Change

    @property
    def key(self) -> str:
        """The same in every run over the same file."""
        return f"{self.path} {self.content} {self.change.number}"


def drawn(root: Path, count: int, seed: int, only: str = "") -> tuple[list[Mutant], int]:
    """So many mutants of files whose path contains `only`, and out of how many; fewer are the beginning of more."""
    found = []
    for path in sorted(path for folder in PACKAGES for path in (root / folder).rglob("*.py")):
        name, source = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if only in name:
            content = hashlib.sha256(source.encode()).hexdigest()[:12]
            found += [Mutant(name, content, change) for change in mutation.changes(source)]
    random.Random(seed).shuffle(found)
    return found[:count], len(found)


def met(tree: Tree, mutant: Mutant, seconds: float, look: float) -> Iterator[tuple[Path, list[Test], list[Test]]]:
    """Test files, which of their tests a mutant meets, and all their tests; the most likely to catch it first."""
    spent = looked = 0.0
    for rank, files in enumerate(groups(tree.path, mutant.path, mutant.change.function)):
        rest = []
        for file in files:
            if rank and (spent > seconds or looked > look):
                return
            known = tree.baseline(file)
            looked += cost(known)
            entering = [test for test in known if test.meets(mutant.path, mutant.change.function)]
            rest.append((file, [test for test in known if test not in entering], known))
            if those := entering if rank == 0 else afforded(entering, seconds - spent):
                spent += cost(those)
                yield file, those, known
        for file, others, known in rest if rank == 0 else ():
            if those := afforded(others, seconds - spent):
                spent += cost(those)
                yield file, those, known


def afforded(tests: Sequence[Test], seconds: float) -> list[Test]:
    """The tests that take least, as many as take less than that together, or the first of them alone."""
    found: list[Test] = []
    left = seconds
    for test in sorted(tests, key=lambda test: test.seconds):
        left -= test.seconds
        if left < 0 and (found or seconds < 0):
            break
        found.append(test)
    return found


def cost(tests: Sequence[Test]) -> float:
    """Seconds that tests take on the code as it is."""
    return sum(test.seconds for test in tests)


def attempt(tree: Tree, mutant: Mutant, seconds: float, look: float) -> Row:
    """What the tests say to one mutant."""
    started, tests, ended = time.monotonic(), 0, Ended("", "", 0.0)
    source = mutation.changed((tree.path / mutant.path).read_text(encoding="utf-8"), mutant.change.number)
    for file, those, known in met(tree, mutant, seconds, look):
        with tree.holding(mutant.path, source):
            ended = tree.tried(file, those, known)
        tests += len(those)
        if ended.by:
            break
    wall = round(time.monotonic() - started, 1)
    end = {"caught": bool(ended.by), "by": ended.by, "said": ended.said, "tests": tests, "seconds": wall}
    return {"key": mutant.key, "path": mutant.path, **asdict(mutant.change), **end}


def kept(output: Path, *, first: bool = False) -> dict[str, Row]:
    """The last line of each mutant in a file of results, or the first: of the tests as they were then."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    return {row["key"]: row for row in map(json.loads, reversed(lines) if first else lines)}


def work(trees: Path, tree: Tree, mutants: Sequence[Mutant], given: argparse.Namespace) -> None:
    """Tries those mutants that no other process has taken, and appends what came out."""
    for number, mutant in enumerate(mutants):
        try:
            (trees / f"{number}.taken").touch(exist_ok=False)
        except FileExistsError:
            continue
        row = attempt(tree, mutant, given.seconds, given.look)
        with given.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        end = row["by"] if row["caught"] else "SURVIVED"
        place = f"{row['path']}:{row['line']}"
        print(f"{place}: {row['before']} -> {row['after']}: {end} ({row['seconds']:.0f} s)", flush=True)


def run(root: Path, given: argparse.Namespace) -> None:
    """Tries the drawn mutants that --output does not have yet, in so many processes."""
    mutants, _ = drawn(root, given.count, given.seed, given.only)
    known = kept(given.output)
    left = [
        mutant for mutant in mutants if mutant.key not in known or (given.again and not known[mutant.key]["caught"])
    ]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the copies are deleted
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as place:
        trees = [Path(place, str(number)) for number in range(given.processes)]
        copies = [Tree(root, folder, given.output.with_suffix(".known"), given.patience) for folder in trees]
        os.environ["OMP_NUM_THREADS"] = "1"
        import_libraries(copies[0])
        children = []
        for tree in copies:
            children.append(os.fork())
            if not children[-1]:
                code = 1
                try:
                    die_with_parent()
                    work(Path(place), tree, left, given)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
        try:
            early = [child for child in children if os.waitpid(child, 0)[1]]
        except BaseException:
            for child in children:
                os.kill(child, signal.SIGKILL)
            time.sleep(1)  # their tests end with them too
            raise
        if early:
            raise SystemExit("a process ended early: what it said stands above; the same command goes on")


# The table


def table(root: Path, given: argparse.Namespace) -> str:
    """What came out of the drawn mutants, as a page."""
    mutants, sites = drawn(root, given.count, given.seed, given.only)
    known = kept(given.output)
    rows = [known[mutant.key] for mutant in mutants if mutant.key in known]
    if not rows:
        raise SystemExit(f"{given.output} holds none of these mutants of the code as it is now: run them first")
    survived = [row for row in rows if not row["caught"]]
    reasons = {(r["path"], r["function"], r["before"], r["after"]): r["why"] for r in json.loads(REASONS.read_text())}
    whys = [reasons.get((row["path"], row["function"], row["before"], row["after"]), "") for row in survived]
    caught, argued = len(rows) - len(survived), sum(bool(why) for why in whys)
    begun = kept(given.output, first=True)
    at_first = sum(begun[row["key"]]["caught"] for row in rows)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    options = [f"--count {len(rows)} --seed {given.seed}", *([f"--only {given.only}"] if given.only else [])]
    options += [f"--seconds {given.seconds:g}", *([f"--look {given.look:g}"] if given.look < math.inf else [])]
    command = f"python benchmarks/mutants.py {' '.join(options)} --output build/mutants.jsonl"
    minutes = sum(row["seconds"] for row in rows) / 60
    lines = [
        "# Mutants: how many small mistakes the tests see",
        "",
        f"    {command}",
        "",
        f"{versions}, Python {platform.python_version()}.",
        "",
        f"{len(rows)} of {sites:,} mutants of {_what(given.only)}, drawn by seed {given.seed}. Their last tries took",
        f"{minutes:.0f} minutes of one process, first runs of tests on the code as it is included. How they are made,",
        "and which tests each meets, stands at the head of `benchmarks/mutants.py`.",
        "",
        f"**{caught} of {len(rows)} were caught ({caught / len(rows):.1%}).** "
        f"{len(survived)} survived; of these {argued} are argued below to change nothing that a test could see.",
        f"At first {at_first} were caught ({at_first / len(rows):.1%}), which is what to expect of other mutants;",
        "tests that catch more of these were written since.",
        "",
        *_kinds(rows),
        *_survivors(survived, whys),
    ]
    return "\n".join(lines)


def _what(only: str) -> str:
    return f"files named `{only}`" if only else "ackd/, envs/ and agents/"


def _kinds(rows: Sequence[Row]) -> Iterator[str]:
    drawn_of, caught = Counter(row["operator"] for row in rows), Counter(r["operator"] for r in rows if r["caught"])
    slow = sum("did not end" in row["said"] for row in rows)
    yield from ("| change | mutants | caught |", "|---|---|---|")
    yield from (f"| {name} | {count} | {caught[name]} |" for name, count in drawn_of.most_common())
    yield from ("", f"{slow} of those that were caught did not end in time.", "")


def _survivors(survived: Sequence[Row], whys: Sequence[str]) -> Iterator[str]:
    if not survived:
        return
    yield from ("## What survived", "", "| where | before | after | tests met | why |", "|---|---|---|---|---|")
    for row, why in zip(survived, whys, strict=True):
        before, after = (row[name].replace("|", "\\|") for name in ("before", "after"))
        where = f"{row['path']}:{row['line']}"
        said = why or ("passes all of these" if row["tests"] else "met no test within the limits given")
        yield f"| {where} | `{before}` | `{after}` | {row['tests']} | {said} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a line of JSON for each mutant")
    parser.add_argument("--count", type=int, default=200, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120, help="of tests, as they take on the code as it is")
    look = "the same, of the test files that are looked through for tests that a mutant meets (default: all)"
    parser.add_argument("--look", type=float, default=math.inf, help=look)
    parser.add_argument("--patience", type=float, default=10, help="tests may take so many times as long as usual")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    parser.add_argument("--list", action="store_true", help="print the drawn mutants, and stop")
    parser.add_argument("--table", action="store_true", help="print what came out as a page, and stop")
    given = parser.parse_args()
    if given.list:
        for mutant in drawn(ROOT, given.count, given.seed, given.only)[0]:
            change = mutant.change
            print(f"{mutant.path}:{change.line} {change.function}: {change.before} -> {change.after}")
    elif given.table:
        print(table(ROOT, given), end="")
    else:
        run(ROOT, given)


if __name__ == "__main__":
    main()
