"""Compares a distillation step with TextBrewer's on the same work, as ratios of paired times.

    python benchmarks/step_speed.py [--data GLUE/mrpc --tokenizer MODEL] [--threads 1 2] [--rounds 10]

The work is that of TinyBERT: a BERT-base teacher (12 layers, 768 wide) and a 4-layer, 312-wide student with random
weights; logits, labels, 5 hidden states with a projection and 4 attention maps; batches of 8 x 64 tokens. TextBrewer
runs in its own environment, which is made the first time (1.3 GB; needs a package index). Each library runs in its own
process, and only one process works at a time. In each round both take some steps; ratios are taken within a round.

--data adds MRPC: examples at their true lengths with a cache that the run fills, against the same examples padded to
128 tokens, as in TextBrewer's own examples. All epochs of TextBrewer take the same time, so one is timed and counted
several times.

Wall-clock times are compared by default; --cpu-time compares CPU times instead, for machines with other users.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Json = dict[str, Any]

HERE = Path(__file__).parent
TEACHER: Json = {}  # BertConfig's defaults are BERT-base
STUDENT: Json = {
    "num_hidden_layers": 4,
    "hidden_size": 312,
    "num_attention_heads": 12,
    "intermediate_size": 1200,
}
VOCABULARY = 30522
MODES = ("live", "cached", "logits", "alone")
PADDED = 128


class Process:
    """A worker that answers one line of JSON with another."""

    def __init__(self, python: Path, script: str) -> None:
        self.script = script
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [str(python), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **command: Any) -> Json:
        """Its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer: Json = json.loads(line) if line else {"error": "it died; run the worker by hand to see why"}
        if "error" in answer:
            raise SystemExit(f"{self.script}: {answer['error']}")
        return answer

    def quit(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        print(json.dumps({"do": "quit"}), file=self.process.stdin, flush=True)
        self.process.wait()


def make_environment(folder: Path) -> Path:
    """An environment with TextBrewer and the project's torch and transformers, made once; returns its python."""
    python = folder / "bin" / "python"
    done = folder / "complete"  # written last; the next call completes an interrupted installation
    if done.exists():
        return python
    constraints = str(HERE.parent / "constraints.txt")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        # torch separately and first: pip installs the newest CUDA build if another package requires plain `torch`
        [*pip, "torch"],
        [*pip, "transformers", "textbrewer==0.2.1.post1"],  # textbrewer has no wheel: pip builds it
    ):
        found = subprocess.run(command, env=outside, capture_output=True, text=True)
        if found.returncode:
            last = "\n".join(found.stderr.strip().splitlines()[-5:])
            raise SystemExit(
                f"The environment for TextBrewer could not be made in {folder}: is the package index within reach? "
                f"'{' '.join(command[1:])}' failed:\n{last}"
            )
    done.touch()
    return python


class Comparison:
    """Both sides at one number of threads, and what was measured of them."""

    def __init__(self, rival: Path, options: argparse.Namespace, threads: int, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.rival = Process(rival, "textbrewer_worker.py")
        self.ours = Process(Path(sys.executable), "ackd_worker.py")
        self.settings = {
            "do": "make",
            "teacher": TEACHER,
            "student": STUDENT,
            "threads": threads,
            "device": options.device,
            "precision": options.precision,
        }
        self.versions: Json = self.rival.ask(**self.settings, clip=1.0)["versions"]
        self.ours.ask(**self.settings)
        self.clock = "cpu_seconds" if options.cpu_time else "seconds"

    def quit(self) -> None:
        """Ends both processes."""
        self.rival.quit()
        self.ours.quit()

    def steps(self) -> dict[str, list[float]]:
        """Seconds a step by side and mode, one number a round."""
        path = str(self.folder / "steps.pt")
        generator = torch.Generator().manual_seed(0)
        shape = (self.options.batch_size, self.options.length)
        batches = [
            {
                "input_ids": torch.randint(1000, VOCABULARY, shape, generator=generator),
                "attention_mask": torch.ones(shape, dtype=torch.int64),
                "labels": torch.randint(0, 2, shape[:1], generator=generator),
            }
            for _ in range(2)
        ]
        torch.save(batches, path)
        seconds: dict[str, list[float]] = {name: [] for name in ("rival", *MODES)}
        for turn in range(self.options.rounds + 1):
            for name in seconds:
                command = {"do": "steps", "batches": path}
                answer = self.rival.ask(**command) if name == "rival" else self.ours.ask(**command, mode=name)
                if turn:  # the first round is a warm-up and fills the cache
                    seconds[name].append(statistics.mean(answer[self.clock]))
        return seconds

    def epochs(self, rows: Sequence[Sequence[int]]) -> dict[int, list[float]]:
        """Ratios of whole trainings over `rows`, by the number of epochs."""
        lengths, padded = str(self.folder / "rows.pt"), str(self.folder / "padded.pt")
        torch.save(list(rows), lengths)
        size = self.options.batch_size
        batches = []
        for start in range(0, len(rows) - size + 1, size):
            ids, mask = torch.zeros(size, PADDED, dtype=torch.int64), torch.zeros(size, PADDED, dtype=torch.int64)
            for place, row in enumerate(rows[start : start + size]):
                ids[place, : len(row)] = torch.tensor(row)
                mask[place, : len(row)] = 1
            batches.append({"input_ids": ids, "attention_mask": mask, "labels": torch.arange(size) % 2})
        torch.save(batches, padded)
        ratios: dict[int, list[float]] = {1: [], 3: [], 10: []}
        for _ in range(self.options.trainings):
            one = sum(self.rival.ask(do="steps", batches=padded)[self.clock])
            answer = self.ours.ask(do="epochs", rows=lengths, batch_size=size, epochs=max(ratios))
            for epochs, found in ratios.items():
                found.append(epochs * one / sum(answer[self.clock][:epochs]))
        return ratios


def peaks(rival: Path, options: argparse.Namespace, threads: int, folder: Path) -> dict[str, float]:
    """Peak memory of each side in bytes, in processes that do nothing else than the first row's work."""
    fresh = Comparison(rival, options, threads, folder)
    path = str(folder / "steps.pt")
    found = {
        "rival": float(fresh.rival.ask(do="steps", batches=path)["peak_bytes"]),
        "ours": float(fresh.ours.ask(do="steps", batches=path, mode="live")["peak_bytes"]),
    }
    fresh.quit()
    return found


def mrpc(data: str, tokenizer: str, examples: int) -> list[list[int]]:
    """Token ids of so many training examples of MRPC."""
    from ackd.models import load_tokenizer
    from ackd.tasks import load

    train = load("mrpc", load_tokenizer(tokenizer), data=data, reward_examples=1, max_length=PADDED).train
    chosen = random.Random(0).sample(range(len(train)), examples)
    flat, offsets = train.inputs["input_ids"], train.offsets
    return [flat[offsets[place] : offsets[place + 1]].tolist() for place in chosen]


def ratio(one: Sequence[float], other: Sequence[float]) -> str:
    """Median of the paired ratios, with the middle half of them."""
    found = [a / b for a, b in zip(one, other, strict=True)]
    low, _, high = statistics.quantiles(found, n=4) if len(found) > 1 else (found[0], 0, found[0])
    return f"{statistics.median(found):.2f} ({low:.2f} to {high:.2f})"


def table(threads: int, seconds: dict[str, list[float]], epochs: dict[int, list[float]], peak: dict[str, float]) -> str:
    """The measured rows, each with what it has to reach."""
    rival, alone = seconds["rival"], seconds["alone"]
    ms = {name: f"{1000 * statistics.median(values):.0f}" for name, values in seconds.items()}
    rows = [
        ("first epoch, teacher live", ratio(rival, seconds["live"]), "1", f"{ms['rival']} / {ms['live']} ms"),
        ("later epochs, from the cache", ratio(rival, seconds["cached"]), "4", f"{ms['rival']} / {ms['cached']} ms"),
        ("the same, logits only", ratio(rival, seconds["logits"]), "4.5", f"{ms['rival']} / {ms['logits']} ms"),
        (
            "cached step over the student's own step",
            ratio(seconds["cached"], alone),
            "at most 1.15",
            f"{ms['cached']} / {ms['alone']} ms",
        ),
        (
            "the same, logits only",
            ratio(seconds["logits"], alone),
            "-",
            f"{ms['logits']} / {ms['alone']} ms",
        ),
        ("live step over the student's own step", ratio(seconds["live"], alone), "-", ""),
        (
            "peak memory, ours over TextBrewer's",
            f"{peak['ours'] / peak['rival']:.2f}",
            "at most 1",
            f"{peak['ours'] / 1e9:.2f} / {peak['rival'] / 1e9:.2f} GB",
        ),
    ]
    goal = {1: "-", 3: "4.5", 10: "7"}
    for number, found in epochs.items():
        name = f"MRPC, {number} epoch{'s' if number > 1 else ''} at true lengths against padding to {PADDED}"
        rows.append((name, ratio(found, [1.0] * len(found)), goal[number], ""))
    lines = [
        f"| {threads} thread{'s' if threads > 1 else ''} | ratio (middle half) | goal | times |",
        "|---|---|---|---|",
    ]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", help="MRPC in the hub's layout; without it that part is left out")
    parser.add_argument("--tokenizer", help="folder of a BERT tokenizer, for --data")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10, help="of steps")
    parser.add_argument("--trainings", type=int, default=2, help="on MRPC")
    parser.add_argument("--examples", type=int, default=128, help="of MRPC")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--environment", type=Path, default=HERE.parent / "build" / "textbrewer")
    options = parser.parse_args()
    if bool(options.data) != bool(options.tokenizer):
        parser.error("--data and --tokenizer go together")
    rival = make_environment(options.environment)
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
            both = Comparison(rival, options, threads, Path(folder))
            if threads == options.threads[0]:
                known = {**both.versions, "ackd": version("ackd"), "python": platform.python_version()}
                print(", ".join(f"{name} {number}" for name, number in known.items()), flush=True)
            seconds = both.steps()
            rows = mrpc(options.data, options.tokenizer, options.examples) if options.data else []
            epochs = both.epochs(rows) if rows else {}
            both.quit()
            print("\n" + table(threads, seconds, epochs, peaks(rival, options, threads, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
