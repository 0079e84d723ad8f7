"""Draws the settings of the instance set `varied-v1`, which differ in all that decides what is worth transferring.

python benchmarks/varied.py draw            writes envs/instance_sets/varied-v1.json, the same each time
python benchmarks/varied.py teachers DIR    makes the teachers that the set names
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parents[1] / "envs" / "instance_sets" / "varied-v1.json"
SEED, TRAIN, UNSEEN = 0, 24, 16
# epochs of learning, and what they come to on dev: 95, 89, 78 and 85, 76, 73
EPOCHS = {"polarity": {"strong": 8, "middling": 5, "weak": 4}, "tally": {"strong": 8, "middling": 5, "weak": 3}}
OTHER = {"polarity": "tally", "tally": "polarity"}
QUALITIES = ("strong", "middling", "weak", "foreign")
WRONG, EXAMPLES, STEPS, LAYERS = (0.0, 0.2, 0.4), (300, 1500, 5000), (60, 120, 200, 320), (1, 2, 3)
PHASES = 8
DESCRIPTION = (
    "Settings that differ: teachers of four qualities, wrong labels, few and many examples, short and long "
    "trainings, students of 1 to 3 layers, cut from their teacher or from another model; two generated tasks. Drawn "
    "at random. Make the teachers with `ackd finetune --task TASK --epochs N --lr 1e-3 --batch-size 64 --output "
    "TEACHERS/TASK-QUALITY`, for polarity and tally: strong with N = 8, middling with 5, weak with 4 (polarity) and "
    "3 (tally), and start with 8 and `--seed 1`; TEACHERS is the folder to give. `make policies` does all of it."
)


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """One setting."""
    task, quality = str(rng.choice(list(EPOCHS))), str(rng.choice(QUALITIES))
    steps = int(rng.choice(STEPS))
    setting: dict[str, Any] = {
        "task": task,
        "teacher": f"{OTHER[task]}-strong" if quality == "foreign" else f"{task}-{quality}",
        "student_layers": int(rng.choice(LAYERS)),
        "max_examples": int(rng.choice(EXAMPLES)),
        "wrong_labels": float(rng.choice(WRONG)),
        "steps": steps,
        "decision_interval": -(-steps // PHASES),
    }
    if rng.random() < 0.5:  # from another model than the teacher
        setting["student"] = f"{task}-start"
    return setting


def instances(seed: int = SEED) -> list[dict[str, Any]]:
    """All of them, each different."""
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, Any]] = []
    while len(drawn) < TRAIN + UNSEEN:
        setting = draw(rng)
        if setting not in drawn:
            drawn.append(setting)
    return [
        {
            "name": f"{'train' if number < TRAIN else 'unseen'}-{number:02}",
            "split": "train" if number < TRAIN else "unseen",
            "seeds": [20_000 + 1_000 * number, 100],
            **setting,
        }
        for number, setting in enumerate(drawn)
    ]


def write() -> None:
    """Writes the set."""
    head = {"format": 1, "name": "varied-v1", "description": DESCRIPTION}
    defaults = {"lr": 5e-4, "types": ["logits", "hidden", "attention"]}
    lines = ",\n".join(f"    {json.dumps(one)}" for one in instances())
    text = json.dumps({**head, "defaults": defaults}, indent=2).removesuffix("\n}")
    FILE.write_text(f'{text},\n  "instances": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def teachers(folder: Path) -> None:
    """Makes what is missing; `TASK-start` is another strong model, which students are cut from."""
    for task, qualities in EPOCHS.items():
        for quality, epochs, seed in [*((name, many, 0) for name, many in qualities.items()), ("start", 8, 1)]:
            place = folder / f"{task}-{quality}"
            if (place / "result.json").exists():
                continue
            command = ["finetune", "--task", task, "--epochs", str(epochs), "--seed", str(seed), "--lr", "1e-3"]
            command += ["--batch-size", "64", "--output", str(place), "--overwrite"]
            subprocess.run([sys.executable, "-m", "ackd", *command], check=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "teachers"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/teachers"))
    options = parser.parse_args()
    if options.what == "draw":
        write()
    else:
        teachers(options.folder)


if __name__ == "__main__":
    main()
