"""Measures the start of a command: processor seconds from Python's start to the first optimizer step.

    python benchmarks/startup.py [--place build/startup] [--shared ../shared] [--repeats 5] [--only distill]

Each command runs in a process of its own, which ends as its first optimizer step begins. The floor is what a script
cannot avoid that does nothing with the teacher: import torch and transformers, load model and tokenizer, and make an
optimizer. Both are the least of the repeats, because another process can only add to them. A further run has a clock on
imports and on the parts of the work, which by itself costs some percent. The row of a real task needs --shared, with
glue/ and models/.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

FLOOR = """
import sys, time
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(sys.argv[1])
torch.optim.AdamW(model.parameters())
print(time.process_time())
"""
POLARITY = "--task polarity --student-layers 2 --max-examples 1500 --steps 80 --decision-interval 10"
COMMANDS = {
    "distill, polarity": f"distill {POLARITY} --teacher TEACHER",
    "train, polarity": f"train {POLARITY} --teacher TEACHER --episodes 16 --students 16",
    "evaluate, polarity": f"evaluate {POLARITY.replace('--task', '--tasks')} --teachers TEACHER --policies labels all",
    "finetune, polarity": "finetune --task polarity",
}
REAL = "distill --task sst2 --data SHARED/glue --teacher TEACHER --student-layers 3 --max-examples 1000 --steps 80"
MODEL = "models/minilm-l6-sst2"
LIBRARIES = {"torch": "import torch", "transformers": "import transformers", "ackd": "import ackd's modules"}
OTHERS = "import other libraries"
FOREIGN = (LIBRARIES["torch"], LIBRARIES["transformers"], OTHERS)
# Functions whose time is a part of its own, by module.
PARTS = {
    "ackd.models.load": {"load_model": "load models", "load_tokenizer": "load models"},
    "ackd.tasks.load": {"load": "read, split and tokenise data"},
    "ackd.models.cost": {"Meter.__call__": "count FLOPs"},
    "ackd.training.evaluation": {"Evaluator.probe": "probe: passes of teacher and student"},
}
REST = "everything else"


class Clock:
    """Processor seconds by part; a part's time is without the parts within it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float, {"start Python": time.process_time()})
        self._parts, self._last = [REST], time.process_time()

    def read(self) -> None:
        """Gives the time since the last reading to the innermost part."""
        now = time.process_time()
        self.spent[self._parts[-1]] += now - self._last
        self._last = now

    def within(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its time under `part`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.read()
            self._parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.read()
                self._parts.pop()

        return timed

    def imports(self) -> None:
        """Puts a clock on imports; what a library imports is the library's, also if it is another one."""
        plain, dynamic = builtins.__import__, importlib.import_module

        def part(name: str) -> str | None:
            if name in sys.modules or self._parts[-1] in FOREIGN:
                return None
            return LIBRARIES.get(name.partition(".")[0], OTHERS)

        def importing(name: str, *args: Any, **kwargs: Any) -> Any:
            asked = part(name)
            return plain(name, *args, **kwargs) if asked is None else self.within(asked, plain)(name, *args, **kwargs)

        def import_module(name: str, package: str | None = None) -> Any:
            asked = part(f"{package}{name}" if name.startswith(".") else name)
            return dynamic(name, package) if asked is None else self.within(asked, dynamic)(name, package)

        builtins.__import__ = importing
        importlib.import_module = import_module


class Noticing(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as it is imported.

    Args:
        calls: the functions, by the module's name.
    """

    def __init__(self, calls: Mapping[str, Callable[[Any], None]]) -> None:
        self.calls = calls

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Finds the module as usual."""
        if name not in self.calls:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            self.calls[name](module)

        loader.exec_module = exec_module
        return spec


def work(words: Sequence[str], *, parts: bool) -> None:
    """Runs a command up to its first optimizer step, and prints the processor seconds, by part if asked."""
    clock = Clock()

    def stop(*_: Any) -> None:
        clock.read()
        print(f"\n{json.dumps(clock.spent if parts else {REST: time.process_time()})}", flush=True)
        os._exit(0)

    def clocked(module: Any) -> None:
        for name, part in PARTS[module.__name__].items():
            *owner, last = name.split(".")
            home = getattr(module, owner[0]) if owner else module
            setattr(home, last, clock.within(part, getattr(home, last)))

    calls: dict[str, Callable[[Any], None]] = {
        "torch.optim.optimizer": lambda module: module.register_optimizer_step_pre_hook(stop)
    }
    if parts:
        calls |= dict.fromkeys(PARTS, clocked)
        clock.imports()
    sys.meta_path.insert(0, Noticing(calls))
    from ackd.cli import main

    raise SystemExit(f"no step was taken: {main(list(words))}")


def least(command: Sequence[str], repeats: int) -> tuple[dict[str, float], float]:
    """What the quickest of the runs prints as its last line, and its wall clock in seconds."""
    found = []
    for _ in range(repeats):
        began = time.monotonic()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        wall = time.monotonic() - began
        if done.returncode:
            raise SystemExit(done.stderr or done.stdout)
        said = json.loads(done.stdout.splitlines()[-1])
        found.append((said if isinstance(said, dict) else {REST: said}, wall))
    return min(found, key=lambda one: sum(one[0].values()))


def commands(place: Path, shared: Path) -> dict[str, tuple[list[str], str]]:
    """The words of each command, and the folder of the model that it loads."""
    teacher, real = place / "teacher", shared / MODEL
    if not (teacher / "model").is_dir():
        make = f"finetune --task polarity --epochs 8 --lr 1e-3 --batch-size 64 --output {teacher}"
        subprocess.run([sys.executable, "-m", "ackd", *make.split()], check=True)
    lines = {name: (line, teacher) for name, line in COMMANDS.items()}
    if real.is_dir():
        lines["distill, sst2"] = (REAL.replace("SHARED", str(shared)), real)
    output = f"--output {place / 'run'} --overwrite"
    return {
        name: (
            f"{line} {output}".replace("TEACHER", str(model)).split(),
            str(model if model == real else model / "model"),
        )
        for name, (line, model) in lines.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path("build/startup"), help="for a teacher and runs")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ACKD_SHARED", "../shared")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="names of rows, such as distill")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{versions} python {platform.python_version()} {os.cpu_count()} cores, 1 thread\n")
    print("| command | floor (s) | to the first step (s) | above the floor (s) | wall clock (s) |")
    print("|---|---|---|---|---|")
    by_part = {}
    for name, (words, model) in commands(options.place, options.shared).items():
        if options.only and name.partition(",")[0] not in options.only:
            continue
        floor = sum(least(["-c", FLOOR, model], options.repeats)[0].values())
        spent, wall = least([__file__, "work", *words], options.repeats)
        seconds = sum(spent.values())
        print(f"| {name} | {floor:.2f} | {seconds:.2f} | {seconds - floor:+.2f} | {wall:.2f} |", flush=True)
        by_part[name] = least([__file__, "parts", *words], options.repeats)[0]
    print(f"\n| processor seconds | {' | '.join(by_part)} |\n|---|{'---|' * len(by_part)}")
    names = dict.fromkeys(part for parts in by_part.values() for part in parts)
    for part in [one for one in names if one != REST] + [REST]:
        print(f"| {part} | {' | '.join(f'{parts.get(part, 0.0):.2f}' for parts in by_part.values())} |")
    print(f"| together | {' | '.join(f'{sum(parts.values()):.2f}' for parts in by_part.values())} |")


if __name__ == "__main__":
    if sys.argv[1:2] in (["work"], ["parts"]):
        work(sys.argv[2:], parts=sys.argv[1] == "parts")
    else:
        main()
