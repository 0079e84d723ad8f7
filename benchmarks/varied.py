"""Draws the settings of `varied-v1` to `varied-v3`, with different data, models and budgets.

python benchmarks/varied.py draw            writes envs/instance_sets/varied-v1.json to -v3, the same each time
python benchmarks/varied.py teachers DIR    makes the teachers that the sets name
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "envs" / "instance_sets"
# seeds of the draws, and numbers of training and test settings; each set tests what was developed on those before
SETS = {"varied-v1": (0, 24, 16), "varied-v2": (1, 0, 24), "varied-v3": (2, 0, 96)}
# training epochs of the teachers; their dev scores are 95, 89, 78 and 85, 76, 73
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
    if rng.random() < 0.5:  # start from another model than the teacher
        setting["student"] = f"{task}-start"
    return setting


def instances(name: str) -> list[dict[str, Any]]:
    """The settings of a set, each different, and other than those of the sets before."""
    drawn: list[dict[str, Any]] = []
    for one, (seed, train, unseen) in SETS.items():
        rng, before = np.random.default_rng(seed), len(drawn)
        while len(drawn) < before + train + unseen:
            setting = draw(rng)
            if setting not in drawn:
                drawn.append(setting)
        if one == name:
            splits = ["train"] * train + ["unseen"] * unseen
            return [
                {"name": f"{split}-{number:02}", "split": split, "seeds": [20_000 + 1_000 * number, 100], **setting}
                for number, (split, setting) in enumerate(zip(splits, drawn[before:], strict=True), before)
            ]
    raise KeyError(name)


def write(name: str) -> None:
    """Writes a set."""
    head = {"format": 1, "name": name, "description": DESCRIPTION}
    defaults = {"lr": 5e-4, "types": ["logits", "hidden", "attention"]}
    lines = ",\n".join(f"    {json.dumps(one)}" for one in instances(name))
    text = json.dumps({**head, "defaults": defaults}, indent=2).removesuffix("\n}")
    (FOLDER / f"{name}.json").write_text(f'{text},\n  "instances": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


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
        for name in SETS:
            write(name)
    else:
        teachers(options.folder)


if __name__ == "__main__":
    main()
