"""Fuzzes every file reader, and every option of every command, with invalid input.

    python benchmarks/fuzz.py [--inputs 100000] [--seconds 3600] [--seed 0]       each reader in its own process
    python benchmarks/fuzz.py --reader policy --inputs 100000
    python benchmarks/fuzz.py --commands 1000

An input is a valid sample with one changed file: bytes, JSON values, table cells, safetensors headers, or files that
torch saved, with repaired checksums in half of the cases. Coverage is measured for one input in four, and for one in 32
after the first 2,000, because measuring takes longer than reading. An input that reaches a new line of the reader is
the basis of further inputs. Inputs that fail are saved under build/fuzz.

A row has the number of inputs, and how many were accepted, refused with a sentence, or failed. An input fails by any
other exception, by forbidden execution or writing, by using more than 1 GiB of memory (of address space; if that runs
out, of memory in use), or by taking more than 20 seconds. The row also has the number of covered lines of the reader,
the number of kept inputs, and the seconds.
"""

from __future__ import annotations

import argparse
import collections
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from tests.fuzz import commands
from tests.fuzz.readers import READERS, Broken, Reader, attempt, damaged
from tests.fuzz.trainings import STATEFUL
from tests.fuzz.watch import limit_memory, without_limit

ROOT = Path(__file__).parents[1]
ALL = {**READERS, **STATEFUL}
FAILED = ROOT / "build" / "fuzz"
MEMORY = 1 << 30
SHOWN = 20  # most failures to print
KEPT = 400  # most inputs to make others from
WATCHED, SELDOM = 4, 32  # coverage is measured for one input in 4, and later for one in 32
FIRST = 2_000


class Coverage:
    """The lines of some modules that were ever reached."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
        self.seen: set[tuple[CodeType, int]] = set()
        self._files = files

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes the lines that are reached inside."""
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.seen.add((frame.f_code, frame.f_lineno))
        return self._line


def fuzz(name: str, reader: Reader, place: Path, inputs: int, seconds: float, seed: int) -> collections.Counter[str]:
    """Reads so many damaged samples; how they ended."""
    sample, folder = place / "sample", place / "folder"
    sample.mkdir()
    reader.make(sample)
    shutil.copytree(sample, folder)
    if said := attempt(reader, folder):
        raise SystemExit(f"the sound sample of {name} is refused: {said}")
    coverage, ends, told = Coverage(reader.modules), collections.Counter[str](), collections.Counter[str]()
    kept: list[Path] = [sample]
    limit_memory(MEMORY)
    started = time.monotonic()
    for number in range(inputs):
        if time.monotonic() - started > seconds:
            break
        rng = random.Random(f"{seed} {name} {number}")
        changed = damaged(reader, rng.choice((sample, kept[-1], rng.choice(kept))), folder, rng)
        reached = len(coverage.seen)
        failure = None
        try:
            with nullcontext() if number % (WATCHED if number < FIRST else SELDOM) else coverage.watching():
                end = "refused" if attempt(reader, folder) else "accepted"
        except Broken as error:
            end, failure = "failed", error
        if _asked_for_memory(failure):
            end = _second_look(reader, folder, changed)
        ends[end] += 1
        if failure is not None and end == "failed":
            _tell(name, number, failure, changed, told)
        if len(coverage.seen) > reached and len(kept) < KEPT:
            kept.append(place / f"kept-{len(kept)}")
            for path, content in _differing(sample, folder, changed).items():
                (kept[-1] / path).parent.mkdir(parents=True, exist_ok=True)
                (kept[-1] / path).write_bytes(content)
    ends["lines"], ends["kept"] = len(coverage.seen), len(kept) - 1
    return ends


def _asked_for_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _second_look(reader: Reader, folder: Path, changed: Mapping[str, bytes]) -> str:
    """How an input ends without a limit, which fails if it really fills the memory that it asks for."""
    for path, content in changed.items():
        (folder / path).write_bytes(content)
    with without_limit() as growth:
        try:
            end = "refused" if attempt(reader, folder) else "accepted"
        except Broken:
            return "failed"
        return end if growth() < MEMORY else "failed"


def _differing(sample: Path, folder: Path, changed: Mapping[str, bytes]) -> dict[str, bytes]:
    """The sample's files, and the changed one as it was before it was read."""
    files = {path.relative_to(sample).as_posix(): path.read_bytes() for path in sample.rglob("*") if path.is_file()}
    return {**files, **changed}


def _tell(name: str, number: int, error: Broken, changed: Mapping[str, bytes], told: collections.Counter[str]) -> None:
    """Prints a failure of a new kind, and saves what failed."""
    cause = traceback.extract_tb(error.__cause__.__traceback__) if error.__cause__ else []
    ours = [frame for frame in cause if str(ROOT) in frame.filename and ".venv" not in frame.filename]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in ours[:-4:-1])
    told[where] += 1
    if told[where] > 1 or len(told) > SHOWN:
        return
    place = FAILED / f"{name}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    for path, content in changed.items():
        (place / path.replace("/", "_")).write_bytes(content)
    (place / "why.txt").write_text(f"{error}\n{where}\n", errors="backslashreplace")
    print(f"  {name} {number}: {ascii(str(error))[1:160]} at {where}; saved in {place.relative_to(ROOT)}", flush=True)


def run_commands(place: Path, count: int, seconds: float, seed: int) -> collections.Counter[str]:
    """Runs so many command lines; how they ended."""
    os.chdir(place)
    os.environ.update(commands.private(place))
    found = commands.parts(place)
    names, ends, told = list(commands.commands()), collections.Counter[str](), collections.Counter[str]()
    limit_memory(3 * MEMORY)
    words = {0: "worked", 1: "diverged", 2: "refused", -1: "stopped"}
    started = time.monotonic()
    for number in range(count):
        if time.monotonic() - started > seconds:
            break
        output = place / f"out-{number}"
        line = commands.strange(names[number % len(names)], found, output, random.Random(f"{seed} line {number}"))
        try:
            ends[words[commands.run(line, place, seconds=10)[0]]] += 1
        except Broken as error:
            ends["failed"] += 1
            content = "\0".join(line.words).encode(errors="surrogateescape")
            _tell(names[number % len(names)], number, error, {"line.txt": content}, told)
        for path in (*place.glob("out-*"), place / "policies"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    os.chdir(ROOT)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=ALL)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each reader")
    parser.add_argument("--commands", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.reader is None and not given.commands:
        for name in ALL:  # a crash of one process is reported and does not end the others
            own = ["--reader", name, "--inputs", str(given.inputs), "--seconds", str(given.seconds)]
            ended = subprocess.run([sys.executable, __file__, *own, "--seed", str(given.seed)], check=False)
            if ended.returncode:
                print(f"| {name} | the process ended with status {ended.returncode} |")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"  # inherited by child processes
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory, ignore_cleanup_errors=True) as place:
        if given.commands:
            ends = run_commands(Path(place), given.commands, given.seconds, given.seed)
            cells = [f"{ends[name]} {name}" for name in ("worked", "refused", "diverged", "stopped", "failed")]
            name, inputs = "commands", sum(ends.values())
        else:
            logging.disable(logging.CRITICAL)
            name = given.reader
            ends = fuzz(name, ALL[name], Path(place), given.inputs, given.seconds, given.seed)
            inputs = ends["accepted"] + ends["refused"] + ends["failed"]
            cells = [str(ends[end]) for end in ("accepted", "refused", "failed", "lines", "kept")]
    print(f"| {name} | {inputs} | {' | '.join(cells)} | {time.monotonic() - started:.0f} |", flush=True)


if __name__ == "__main__":
    main()
