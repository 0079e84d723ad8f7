"""What is worth transferring to a small language model, at equal FLOPs?

    python benchmarks/language.py run --size small                      resumes; `--arms labels logits` does a part
    python benchmarks/language.py run --size full --device cuda
    python benchmarks/language.py table --size small

A GPT learns the first 70 % of the TEXTS, whose parts are shuffled into one file. Students are cut from it and learn the
same text; what rewards and reports are measured on lies behind what the teacher has read. Each arm is a folder of
OUTPUT-SIZE with the cells of `ackd evaluate`; a second run adds what is missing.

FLOPs are equal: an arm that always transfers the same takes as many steps as fit into the FLOPs of `all` (logits,
hidden states and attention); `scheduled`, `default` and the agent take the steps of `all` and cost at most as much.
`default` was learned on classifiers. The agent learns here, on seeds that no table uses. Differences are paired by
seed, with Student's 95 % intervals; the held-out text influences nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ackd
from ackd.files.writing import write_whole
from ackd.reporting.statistics import paired_difference
from ackd.types import Knowledge

SHARED = Path(os.environ.get("ACKD_SHARED", "../shared"))
USUAL = "logits hidden attention"
READ = 0.7  # share of the chunks that the teacher learns from
SEED = 1000  # first seed of the agent's students


@dataclass(frozen=True)
class Size:
    """How much text there is, and how large models are.

    Args:
        characters: of the text.
        teacher: config of the teacher.
        pretrain: options of `ackd pretrain`.
        layers: of the students.
        steps: of a student that transfers everything.
        setting: options of `ackd evaluate`.
        train: options of `ackd train`.
    """

    characters: int
    teacher: dict[str, int]
    pretrain: str
    layers: int
    steps: int
    setting: str
    train: str


SIZES = {
    "tiny": Size(
        60_000,
        {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32},
        "--vocabulary 300 --max-length 24 --steps 5 --batch-size 8 --lr 3e-3",
        1,
        4,
        "--max-length 24 --batch-size 8 --lr 1e-3 --decision-interval 1 --max-examples 60 --reward-examples 16",
        "--episodes 8 --students 4",
    ),
    "small": Size(
        1_500_000,
        {"n_layer": 4, "n_embd": 128, "n_head": 4, "n_positions": 128},
        "--vocabulary 4096 --max-length 65 --epochs 3 --batch-size 32 --lr 1e-3",
        2,
        400,
        "--max-length 65 --batch-size 16 --lr 1e-3 --decision-interval 50 --reward-examples 128",
        "--episodes 64 --students 4",
    ),
    "full": Size(
        20_000_000,
        {"n_layer": 12, "n_embd": 512, "n_head": 8, "n_positions": 256},
        "--vocabulary 16384 --max-length 257 --epochs 4 --batch-size 64 --lr 6e-4 --precision bf16",
        4,
        3000,
        "--max-length 257 --batch-size 32 --lr 6e-4 --decision-interval 300 --reward-examples 256 --precision bf16",
        "--episodes 64 --students 4",
    ),
}


@dataclass(frozen=True)
class Arm:
    """A policy, and the types that it selects from."""

    policy: str
    knowledge: str = USUAL
    fixed: tuple[str, ...] | None = None  # the types that it transfers in every step


ARMS = {
    "labels": Arm("labels", fixed=()),
    "logits": Arm("logits", fixed=("logits",)),
    "logits alone": Arm("logits,labels:0", fixed=("logits",)),
    "reverse-kl": Arm("all", "reverse-kl", ("reverse-kl",)),
    "jsd": Arm("all", "jsd", ("jsd",)),
    "top-k": Arm("all", "top-k", ("top-k",)),
    "TIP": Arm("all,labels:0", "reverse-kl-uncertain-student", ("reverse-kl-uncertain-student",)),
    "EOPD": Arm("all,labels:0", "reverse-kl logits-uncertain-teacher", ("reverse-kl", "logits-uncertain-teacher")),
    "hidden": Arm("hidden", fixed=("hidden",)),
    "all": Arm("all", fixed=tuple(USUAL.split())),
    "scheduled": Arm("scheduled"),
    "default": Arm("default"),
    "agent": Arm("agent"),
}


def ackd_command(*words: str) -> None:
    print("ackd", *words, flush=True)
    subprocess.run([sys.executable, "-m", "ackd", *words], check=True)


def text_of(folder: Path, characters: int, seed: int = 0) -> str:
    """Parts of all files in a random order, so that what is held out is no other book than what is learned."""
    files = sorted(path for path in folder.rglob("*.txt") if path.name not in ("valid.txt", "test.txt"))
    pieces = [
        piece
        for path in files
        for piece in re.findall(r"(?s).{1,20000}(?:\n\s*\n|\Z)", path.read_text(encoding="utf-8"))
    ]
    order = np.random.default_rng(seed).permutation(len(pieces))
    return "\n\n".join(pieces[place] for place in order)[:characters]


def prepare(options: argparse.Namespace, folder: Path) -> Path:
    """The teacher's run, which also holds the corpus; made if it is not there."""
    size, run = SIZES[options.size], folder / "teacher"
    if not (folder / "text.txt").exists():
        write_whole(folder / "text.txt", text_of(options.texts, size.characters).encode())
        write_whole(folder / "teacher.json", json.dumps({"model_type": "gpt2", **size.teacher}).encode())
    if not (run / "result.json").exists():
        command = ["pretrain", "--corpus", str(folder / "text.txt"), "--student", str(folder / "teacher.json")]
        command += [*size.pretrain.split(), "--part", f"0:{READ}", "--device", options.device, "--output", str(run)]
        ackd_command(*command, *(["--resume"] if run.exists() else []))
    return run


def settings(size: Size, run: Path, knowledge: str, device: str) -> list[str]:
    """Options that `evaluate` and `train` share."""
    words = ["--data", str(run / "corpus"), "--student-layers", str(size.layers), "--temperature", "1"]
    return [*words, "--knowledge", *knowledge.split(), "--device", device, *size.setting.split()]


def steps_of(size: Size, run: Path, arm: Arm) -> int:
    """The steps of an arm that cost as much as the steps of `all`."""
    if arm.fixed is None:
        return size.steps

    def price(knowledge: str, chosen: Sequence[str]) -> float:
        words = dict(zip(*[iter(size.setting.split())] * 2, strict=True))
        length = int(words["--max-length"])
        training = ackd.prepare(
            task="language", teacher=str(run), data=str(run / "corpus"), student_layers=size.layers, steps=1,
            batch_size=int(words["--batch-size"]), max_length=length, knowledge=knowledge.split(), temperature=1.0,
        )  # fmt: skip
        types: list[Knowledge] = [training.distiller.knowledge[name] for name in chosen]
        return training.distiller.flops(types, training.batch_size, length - 1)

    return round(size.steps * price(USUAL, USUAL.split()) / price(arm.knowledge, arm.fixed))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Trains what is missing."""
    size, teacher = SIZES[options.size], prepare(options, folder)
    for name in options.arms:
        arm, place, policy = ARMS[name], folder / name.replace(" ", "-"), ARMS[name].policy
        if name == "agent":
            learned, policy = folder / "learned", f"agent={folder / 'learned'}"
            if not (learned / "result.json").exists():
                command = ["train", "--task", "language", "--teacher", str(teacher), "--steps", str(size.steps)]
                command += [*settings(size, teacher, arm.knowledge, options.device), *size.train.split()]
                command += ["--seed", str(SEED), "--output", str(learned)]
                ackd_command(*command, *(["--resume"] if learned.exists() else []))
        command = ["evaluate", "--tasks", "language", "--teachers", str(teacher), "--policies", policy]
        command += [*settings(size, teacher, arm.knowledge, options.device), "--seeds", str(options.seeds)]
        command += ["--steps", str(steps_of(size, teacher, arm)), "--output", str(place)]
        ackd_command(*command, *(["--resume"] if place.exists() else []))


def losses(cells: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """[seeds, 1], minus the losses on held-out text, in the order of the seeds."""
    return np.array([[cell["dev_score"]] for cell in sorted(cells, key=lambda cell: int(cell["seed"]))])


def table(folder: Path) -> str:
    """The table of the arms that are there."""
    found = {}
    for name in ARMS:
        path = folder / name.replace(" ", "-") / "result.json"
        if path.exists():
            found[name] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [
        "| arm | steps | held-out loss | perplexity | nats below `labels` | of the gap | FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    base = losses(found["labels"]) if "labels" in found else None
    for name, cells in found.items():
        mine = losses(cells)
        loss, teacher = -float(mine.mean()), float(cells[0]["teacher_score"])
        apart = closed = ""
        if base is not None and name != "labels" and len(base) == len(mine):
            apart = f"{paired_difference(mine, base):+.4f}"
            closed = f"{(mine.mean() - base.mean()) / (teacher - base.mean()):.0%}"
        # an arm that always transfers the same costs what `all` does; the others a share of it
        flops = 1.0 if ARMS[name].fixed is not None else float(np.mean([cell["flops_share"] for cell in cells]))
        numbers = f"{loss:.4f} | {math.exp(loss):.2f} | {apart} | {closed} | {flops:.0%}"
        lines.append(f"| `{name}` | {cells[0]['steps']} | {numbers} |")
    if found:
        teacher = -float(next(iter(found.values()))[0]["teacher_score"])
        lines += ["", f"The teacher's loss is {teacher:.4f} (perplexity {math.exp(teacher):.2f})."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--texts", type=Path, default=SHARED / "text", help="a folder of text files")
    parser.add_argument("--output", type=Path, default=Path("build/language"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = options.output.with_name(f"{options.output.name}-{options.size}")
    folder.mkdir(parents=True, exist_ok=True)
    if options.what == "run":
        run(options, folder)
    text = table(folder)
    write_whole(folder / "table.md", (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
