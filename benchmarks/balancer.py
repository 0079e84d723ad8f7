"""Whether a policy does in a `transformers.Trainer` what it does in `ackd distill`, and what a call of it takes.

    python benchmarks/balancer.py [--seeds 5] [--steps 300] [--output runs/balancer]

Students of three layers learn SST-2 from 1,000 examples under `default`, with logits and hidden states as knowledge: by
`ackd.DistillationTrainer`, and by `BalancedTrainer` with losses that are written out here. Both have the same start,
optimizer and schedule of the learning rate; order of data and dropout differ, so a difference has the noise of two
students. A seed is a line of OUTPUT/seeds.jsonl, and what is there is not done again. The table is printed. Data and
teacher come from the folder `ACKD_SHARED`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

import ackd
from ackd.knowledge import Hidden
from ackd.loops.transformers_trainer import BalancedTrainer
from ackd.reporting.statistics import paired_difference

DATA = Path(os.environ.get("ACKD_SHARED", "../shared"))
TEACHER = DATA / "models" / "minilm-l6-sst2"
EXAMPLES, BATCH, LR, LAYERS, LONGEST, TEMPERATURE = 1000, 16, 2e-4, 3, 48, 4.0
NAMES = ("labels", "logits", "hidden")


def split(name: str, count: int | None = None) -> Dataset:
    """The first examples of a split."""
    rows = Dataset.from_parquet(str(DATA / "glue" / "sst2" / f"{name}.parquet"))
    return rows if count is None else rows.shuffle(seed=0).select(range(count))


def ours(seed: int, steps: int) -> float:
    """The score of a student of `ackd distill`."""
    args = ackd.DistillationConfig(
        student_layers=LAYERS, steps=steps, batch_size=BATCH, lr=LR, max_length=LONGEST, knowledge=("logits", "hidden"),
        temperature=TEMPERATURE, reward_examples=0, device="cpu",
    )  # fmt: skip
    trainer = ackd.DistillationTrainer(
        teacher=TEACHER, train_dataset=split("train", EXAMPLES), eval_dataset=split("validation"), policy="default",
        args=args, seed=seed, quiet=True,
    )  # fmt: skip
    return float(trainer.train().score)


class Losses:
    """The losses of a batch, as anybody would write them."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self.teacher, self.pairs = AutoModelForSequenceClassification.from_pretrained(TEACHER).eval(), pairs

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], wanted: frozenset[str]
    ) -> tuple[Mapping[str, Tensor], Any]:
        """As `BalancedTrainer` calls it."""
        mine = model(**inputs, output_hidden_states=True)
        losses = {"labels": mine.loss}
        if wanted & {"logits", "hidden"}:
            with torch.no_grad():
                theirs = self.teacher(**inputs, output_hidden_states=True)
            log_q, log_p = ((one.logits / TEMPERATURE).log_softmax(-1) for one in (mine, theirs))
            losses["logits"] = TEMPERATURE**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            mask = inputs["attention_mask"].unsqueeze(-1)
            errors = [((mine.hidden_states[s + 1] - theirs.hidden_states[t + 1]) ** 2) for s, t in self.pairs]
            each = (torch.stack(errors).mean(0) * mask).sum((1, 2)) / mask.sum((1, 2)) / errors[0].shape[-1]
            losses["hidden"] = each.mean()
        return losses, mine


def theirs(seed: int, steps: int, folder: Path) -> tuple[float, float, float]:
    """The score of a student of `BalancedTrainer`, seconds of a step, and of the balancer's call in it."""
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)

    def tokens(name: str, count: int | None = None) -> Dataset:
        rows = split(name, count).map(lambda r: tokenizer(r["sentence"], truncation=True, max_length=LONGEST))
        return rows.rename_column("label", "labels").select_columns(["input_ids", "attention_mask", "labels"])

    start = ackd.prepare(teacher=TEACHER, task="sst2", data=DATA / "glue", student_layers=LAYERS, max_examples=100)
    start.reset(seed)
    hidden = start.distiller.knowledge["hidden"]
    assert isinstance(hidden, Hidden)
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=LR, seed=seed,
        warmup_steps=round(0.06 * steps), weight_decay=0.01, max_grad_norm=1.0, lr_scheduler_type="linear",
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = BalancedTrainer(
        start.student.model, arguments, train_dataset=tokens("train", EXAMPLES), processing_class=tokenizer,
        compute_losses=Losses(list(hidden.pairs)), losses=NAMES, policy="default",
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    step = (time.perf_counter() - started) / steps
    right = trainer.predict(tokens("validation"))
    score = 100 * float((np.asarray(right.predictions[0]).argmax(-1) == right.label_ids).mean())
    balancer = ackd.Balancer("default", total_steps=steps + 1000, losses=NAMES)
    losses = {name: torch.tensor(1.0, requires_grad=True) for name in NAMES}
    started = time.perf_counter()
    for _ in range(500):
        balancer(losses)
    return score, step, (time.perf_counter() - started) / 500


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("runs/balancer"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / "seeds.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    for seed in range(len(rows), given.seeds):
        first = ours(seed, given.steps)
        score, step, call = theirs(seed, given.steps, given.output / "trainer")
        rows.append({"seed": seed, "distill": first, "trainer": score, "step": step, "call": call})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("| seed | ackd distill | BalancedTrainer | balancer's share of a step |\n|---|---|---|---|")
    for row in rows:
        share = 100 * row["call"] / row["step"]
        print(f"| {row['seed']} | {row['distill']:.2f} | {row['trainer']:.2f} | {share:.2f} % |")
    columns = [np.array([[row[name]] for row in rows]) for name in ("trainer", "distill")]
    print(f"\nBalancedTrainer less ackd distill: {paired_difference(*columns)}")


if __name__ == "__main__":
    main()
