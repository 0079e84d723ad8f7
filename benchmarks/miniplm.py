"""Compares MiniPLM with random selection and with all data, on real text mixed with noise and repeated boilerplate.

    python benchmarks/miniplm.py run --text TEXT
    python benchmarks/miniplm.py table

TEXT is a folder with `war_and_peace.txt`, `middlemarch.txt`, `great_expectations.txt` and `pride_and_prejudice.txt`.
The corpus contains three novels; a fifth as many documents of words in random order, a fifth of random letters, and a
fifth of one repeated notice. The last novel is held out. All students train with the same FLOPs, including the passes
of a teacher, but without the FLOPs for scoring and generation. All files go to `build/miniplm`; a second run continues
there.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ackd.corpora import open_corpus
from ackd.reporting.statistics import paired_difference

SEEDS = range(5)
NOVELS, HELD_OUT = ("war_and_peace", "middlemarch", "great_expectations"), "pride_and_prejudice"
LENGTH, VOCABULARY, CHARACTERS = 129, 4096, 1200
MODELS = {"teacher": (4, 256), "reference": (1, 64), "student": (2, 128)}  # layers, width
FLOPS = 4e12
NOTICE = "All rights are reserved. Subscribe to our newsletter, accept the terms of use and read our privacy policy. "
ARMS = {
    "MiniPLM half": "selected",
    "random half": "random",
    "everything": "scores-teacher",
    "vanilla KD, everything": "scores-teacher",
    "sequence KD": "written",
}


def ackd(*arguments: str) -> None:
    """One command of ackd; one that was begun before goes on."""
    print("ackd", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ackd", *arguments], check=True)


def mixed(text: Path, path: Path) -> None:
    """Writes the corpus, a document a paragraph."""
    drawn = random.Random(0)
    real = [passage for name in NOVELS for passage in passages((text / f"{name}.txt").read_text(encoding="utf-8"))]
    words = " ".join(real).split()
    documents, each = list(real), len(real) // 5
    for _ in range(each):
        documents.append(" ".join(drawn.choices(words, k=CHARACTERS // 6)))
        documents.append("".join(drawn.choices(string.ascii_lowercase + " ", k=CHARACTERS)))
        documents.append(NOTICE * (CHARACTERS // len(NOTICE)))
    drawn.shuffle(documents)
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def passages(text: str) -> list[str]:
    """Stretches of a novel of about the same size."""
    words, lines = text.split(), []
    per = CHARACTERS // 6
    for start in range(0, len(words), per):
        lines.append(" ".join(words[start : start + per]))
    return lines


def config(folder: Path, name: str) -> str:
    """A model's config as a file."""
    layers, width = MODELS[name]
    sizes = {"n_layer": layers, "n_embd": width, "n_head": width // 32, "n_positions": LENGTH}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"model_type": "gpt2", **sizes}))
    return str(path)


def run(text: Path, folder: Path) -> None:
    """Everything that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, held_out = folder / "corpus.txt", text / f"{HELD_OUT}.txt"
    if not corpus.is_file():
        mixed(text, corpus)
    at = {name: str(folder / name) for name in (*MODELS, "scores-teacher", "scores-reference", "selected")}
    common = ["--dev-data", str(held_out), "--max-length", str(LENGTH), "--resume"]
    size = ["--vocabulary", str(VOCABULARY)]
    ackd(
        *("pretrain", "--corpus", str(corpus), "--student", config(folder, "teacher"), *size, *common),
        *("--steps", "1500", "--output", at["teacher"]),
    )
    ackd(
        *("pretrain", "--corpus", str(corpus), "--student", config(folder, "reference"), "--tokenizer", at["teacher"]),
        *("--part", "0:0.05", "--steps", "600", *common, "--output", at["reference"]),
    )
    source = str(corpus)
    for name in ("teacher", "reference"):
        scores = at[f"scores-{name}"]
        length = ["--max-length", str(LENGTH)] if name == "teacher" else []
        ackd("score", "--model", at[name], "--corpus", source, *length, "--output", scores, "--resume")
        source = at["scores-teacher"]
    both = ["--teacher-scores", at["scores-teacher"], "--reference-scores", at["scores-reference"], "--ratio", "0.5"]
    both += ["--exclude", at["reference"]]
    if not (folder / "selected" / "result.json").is_file():
        ackd("refine-data", *both, "--output", at["selected"], "--overwrite")
    written = ["--model", at["teacher"], "--corpus", at["scores-teacher"], "--part", "0:0.25"]
    ackd("generate", *written, "--output", str(folder / "written"), "--resume")
    for seed in SEEDS:
        drawn = folder / f"random-{seed}"
        if not (drawn / "result.json").is_file():
            ackd("refine-data", *both, "--select", "random", "--seed", str(seed), "--output", str(drawn), "--overwrite")
        for arm, source in ARMS.items():
            teacher = ["--teacher", at["teacher"]] if "vanilla" in arm else []
            ackd(
                *("pretrain", "--corpus", str(drawn if source == "random" else folder / source)),
                *("--student", config(folder, "student"), "--flops", str(FLOPS), "--seed", str(seed), *teacher),
                *("--dev-data", str(held_out), "--resume", "--output", str(folder / "students" / arm / str(seed))),
            )


def kinds(text: Path, folder: Path) -> NDArray[np.str_]:
    """What most of each chunk of the corpus is, told by the runs of four words that the novels have."""
    novels = [(text / f"{name}.txt").read_text(encoding="utf-8").split() for name in NOVELS]
    runs = {hash(run) for words in novels for run in fours(words)}
    known = {word for words in novels for word in words}
    corpus, found = open_corpus(folder / "scores-teacher"), []
    tokenizer = corpus.tokenizer()
    for place in range(len(corpus)):
        words = str(tokenizer.decode(corpus.chunk(place))).split()
        parts = {
            "novel": share(hash(run) in runs for run in fours(words)),
            "notice": share(word in NOTICE.split() for word in words),
            "letters": share(word not in known for word in words),
        }
        kind = max(parts, key=lambda name: parts[name])
        found.append(kind if parts[kind] > 0.5 else "shuffled")
    return np.array(found)


def share(found: Iterable[bool]) -> float:
    """How many of them are true, of all; 0 of none."""
    listed = list(found)
    return sum(listed) / max(len(listed), 1)


def fours(words: Sequence[str]) -> list[tuple[str, ...]]:
    """All runs of four words."""
    return list(zip(words, words[1:], words[2:], words[3:], strict=False))


def table(text: Path, folder: Path) -> str:
    """Held-out losses, and how much of each kind was dropped."""
    lines = [
        "| student | held-out loss, mean (min to max) | less everything [95 %] | less a random half [95 %] | seeds |",
        "|---|---|---|---|---|",
    ]
    losses = {
        arm: {
            int(path.parent.name): float(json.loads(path.read_text())["dev_loss"])
            for path in sorted((folder / "students" / arm).glob("*/result.json"))
        }
        for arm in ARMS
    }
    for arm, found in losses.items():
        if found:
            lines.append(
                f"| {arm} | {np.mean([*found.values()]):.4f} ({min(found.values()):.4f} to {max(found.values()):.4f}) "
                f"| {less(found, losses['everything'])} | {less(found, losses['random half'])} | {len(found)} |"
            )
    kept = np.load(folder / "selected" / "kept.npy", allow_pickle=False)
    of = kinds(text, folder)
    lines += ["", "| kind of chunk | share of the corpus | dropped |", "|---|---|---|"]
    for kind in np.unique(of):
        mine = of == kind
        lines.append(f"| {kind} | {mine.mean():.1%} | {1 - mine[kept].sum() / mine.sum():.1%} |")
    return "\n".join(lines)


def less(found: Mapping[int, float], base: Mapping[int, float]) -> str:
    """The mean difference over paired seeds."""
    both = sorted(found.keys() & base.keys())
    if found is base or len(both) < 2:
        return ""
    pairs = (np.array([[one[seed]] for seed in both]) for one in (found, base))
    return f"{paired_difference(*pairs):+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--text", type=Path, default=Path("../shared/text"))
    parser.add_argument("--folder", type=Path, default=Path("build/miniplm"))
    options = parser.parse_args()
    if options.what == "table":
        print(table(options.text, options.folder))
    else:
        run(options.text, options.folder)


if __name__ == "__main__":
    main()
