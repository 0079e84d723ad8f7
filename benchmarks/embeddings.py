"""How much of a sentence encoder do students of 6 to 1 layers keep, under sentence-transformers' recipe and policies?

    python benchmarks/embeddings.py run --size small                    resumes; `--layers 3 2` does a part
    python benchmarks/embeddings.py run --size full --device cuda
    python benchmarks/embeddings.py table --size small

The anchor is sentence-transformers' table of its own layer reduction (stsb-roberta-base, 12 layers, on STS-B):
https://github.com/huggingface/sentence-transformers/tree/main/examples/sentence_transformer/training/distillation.
Students of 8 layers lose nothing of the teacher's score, 6 lose 0.2 %, 4 lose 0.6 %, 3 lose 1.2 %, 2 lose 2.5 %, and 1
loses 5.4 %.

Here the teacher is `minilm-l6` of MODELS (sentence-transformers/all-MiniLM-L6-v2). Students are cut from it, and learn
from sentences without labels: those of STS-B's train split and of the books and articles of TEXTS. `labels` is the
recipe of sentence-transformers, the mean squared error of the embeddings alone. Scores are Spearman's correlation on
STS-B's dev split, which influences nothing. Each layer count is a folder of OUTPUT-SIZE with the cells of
`ackd evaluate`; a second run adds what is missing. Differences are paired by seed, with Student's 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.files.writing import write_whole
from ackd.reporting.statistics import paired_difference
from ackd.tasks.glue import GLUE
from ackd.tasks.rows import glue_rows

SHARED = Path(os.environ.get("ACKD_SHARED", "../shared"))
RECIPE = "labels"
POLICIES = (RECIPE, "all", "scheduled", "default")
LAYERS = (6, 5, 4, 3, 2, 1)
ANCHOR = {12: 85.44, 8: 85.54, 6: 85.23, 4: 84.92, 3: 84.39, 2: 83.32, 1: 80.86}  # stsb-roberta-base, theirs
WORDS = range(5, 41)  # of a sentence of the texts


@dataclass(frozen=True)
class Size:
    """How long students learn, and from how many sentences.

    Args:
        sentences: of the texts, beside those of STS-B.
        setting: options of `ackd evaluate`.
    """

    sentences: int
    setting: str


SIZES = {
    "tiny": Size(100, "--steps 3 --decision-interval 1 --batch-size 8 --lr 1e-4 --max-length 24 --max-examples 100"),
    "small": Size(
        10_000,
        "--steps 300 --decision-interval 30 --batch-size 32 --lr 1e-4 --max-length 48 --max-examples 6000 "
        "--reward-examples 256",
    ),
    "full": Size(
        200_000,
        "--epochs 2 --decision-interval 200 --batch-size 64 --lr 1e-4 --max-length 128 --reward-examples 512 "
        "--precision bf16",
    ),
}


def split(text: str) -> Iterator[str]:
    """The sentences of a text with 5 to 40 words, without headings and lists."""
    for paragraph in re.split(r"\n\s*\n", text):
        for one in re.split(r"(?<=[.!?])[\"'\u201d\u2019]?\s+(?=[\"'\u201c\u2018A-Z])", " ".join(paragraph.split())):
            if len(one.split()) in WORDS and one[-1] in ".!?" and "@" not in one:
                yield one


def sentences(data: str, texts: Path, count: int, seed: int = 0) -> list[str]:
    """The distinct sentences of STS-B's train split, and `count` drawn from the texts."""
    rows = glue_rows(GLUE["stsb"], data, "train")
    files = sorted(path for path in texts.rglob("*.txt") if path.name not in ("valid.txt", "test.txt"))
    known = list(dict.fromkeys(one for path in files for one in split(path.read_text(encoding="utf-8"))))
    drawn = np.random.default_rng(seed).choice(len(known), min(count, len(known)), replace=False)
    return list(
        dict.fromkeys([*(text for column in rows.texts for text in column), *(known[i] for i in sorted(drawn))])
    )


def run(options: argparse.Namespace, folder: Path) -> None:
    """Trains what is missing."""
    size, file = SIZES[options.size], folder / "sentences.txt"
    if not file.exists():
        lines = sentences(options.data, options.texts, size.sentences)
        write_whole(file, ("\n".join(lines) + "\n").encode())
    for layers in options.layers:
        command = ["evaluate", "--tasks", "embeddings", "--teachers", str(options.models / "minilm-l6")]
        command += ["--data", str(file), "--dev-data", str(Path(options.data) / "stsb" / "validation.parquet")]
        command += [*size.setting.split(), "--student-layers", str(layers), "--device", options.device]
        command += ["--policies", *options.policies, "--seeds", str(options.seeds)]
        command += ["--output", str(folder / str(layers)), "--resume"]
        print("ackd", *command, flush=True)
        subprocess.run([sys.executable, "-m", "ackd", *command], check=True)


def scores(cells: Sequence[dict[str, Any]], policy: str, what: str = "spearman") -> NDArray[np.float64]:
    """[seeds, 1], a metric on dev of a policy's students, in percent."""
    rows = sorted((cell["seed"], cell["dev_scores"]["validation"][what]) for cell in cells if cell["policy"] == policy)
    return np.array([[score] for _, score in rows])


def table(folder: Path) -> str:
    """The table of the layer counts that are there."""
    lines = [
        "| layers | policy | Spearman | kept | against their recipe | recall@1 | FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    for layers in LAYERS:
        path = folder / str(layers) / "result.json"
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
        for policy in dict.fromkeys(cell["policy"] for cell in cells):
            mine, recipe = scores(cells, policy), scores(cells, RECIPE)
            apart = "" if policy == RECIPE or len(mine) != len(recipe) else f"{paired_difference(mine, recipe):+.2f}"
            found = f"{scores(cells, policy, 'recall@1').mean():.1f}"
            flops = np.mean([cell["flops_share"] for cell in cells if cell["policy"] == policy])
            kept = mine.mean() / cells[0]["teacher_score"]
            lines.append(
                f"| {layers} | `{policy}` | {mine.mean():.2f} | {kept:.1%} | {apart} | {found} | {flops:.0%} |"
            )
    theirs = ", ".join(f"{layers}: {score / ANCHOR[12]:.1%}" for layers, score in ANCHOR.items() if layers < 12)
    return "\n".join([*lines, "", f"sentence-transformers, stsb-roberta-base of 12 layers, kept of 85.44: {theirs}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default=str(SHARED / "glue"), help="a folder of GLUE in the hub's layout")
    parser.add_argument("--texts", type=Path, default=SHARED / "text", help="a folder of text files")
    parser.add_argument("--models", type=Path, default=SHARED / "models", help="holds minilm-l6")
    parser.add_argument("--output", type=Path, default=Path("build/embeddings"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = options.output.with_name(f"{options.output.name}-{options.size}")
    if options.what == "run":
        run(options, folder)
    text = table(folder)
    write_whole(folder / "table.md", (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
