"""TextBrewer's worker for step_speed.py: runs GeneralDistiller, controlled over pipes.

It runs in its own environment with torch, transformers and textbrewer, but without ACKD. It reads one JSON object per
line from stdin and answers each with one on stdout; all other output goes to stderr.

    {"do": "make", "teacher": {...}, "student": {...}, ...}   models from BertConfig's arguments, with random weights
    {"do": "steps", "batches": "batches.pt"}                  one optimizer step on each batch, timed
    {"do": "quit"}

"make" takes threads (1), device ("cpu"), precision ("fp32" or "bf16"), seed (0), lr (1e-4), work ("all" knowledge or
"logits" alone), optimizer ("fused" or "default") and clip (the largest gradient norm; -1, TextBrewer's default: none);
`teacher` and `student` take precedence over the configuration set here.
"steps" with "teacher_cache": true uses TextBrewer's documented cache: the teacher's outputs are computed before the
timing starts, as a user would have to do for fixed batches.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch

Json = dict[str, Any]


class Losses:
    """In place of the TensorBoard writer: TextBrewer calls it with every loss as a float, also with logging off."""

    def __init__(self) -> None:
        self.total: list[float] = []

    def add_scalar(self, name: str, value: float, _: int) -> None:
        """Keeps the total."""
        if name == "scalar/total_loss":
            self.total.append(value)


def matches(teacher: Any, student: Any) -> list[Json]:
    """Every hidden state of the student (embeddings first) and every attention map, spread evenly over the teacher."""
    ratio = teacher.num_hidden_layers // student.num_hidden_layers
    proj = ["linear", student.hidden_size, teacher.hidden_size]
    hidden: list[Json] = [
        {"layer_S": i, "layer_T": ratio * i, "feature": "hidden", "loss": "hidden_mse", "weight": 1, "proj": [*proj]}
        for i in range(student.num_hidden_layers + 1)
    ]
    return hidden + [
        {"layer_S": i, "layer_T": ratio * i + ratio - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
        for i in range(student.num_hidden_layers)
    ]


def adaptor(batch: Json, outputs: Any) -> Json:
    """What a model returned, by TextBrewer's names; the teacher's outputs may come from a cache, as a plain dict."""
    names = {"logits": "logits", "hidden": "hidden_states", "attention": "attentions", "losses": "loss"}
    found = {name: outputs[key] for name, key in names.items() if outputs.get(key) is not None}
    return found | {"inputs_mask": batch["attention_mask"]}


class Worker:
    """A distiller and its optimizer, kept between commands."""

    def make(self, command: Json) -> Json:
        """Models, distiller and optimizer."""
        import textbrewer as tb  # type: ignore[import-not-found]
        from transformers import BertConfig, BertForSequenceClassification

        everything = command.get("work", "all") == "all"
        self.device = torch.device(command.get("device", "cpu"))
        torch.set_num_threads(command.get("threads", 1))
        torch.manual_seed(command.get("seed", 0))
        # Only eager attention returns attention maps. For logits alone a user needs no maps, and keeps sdpa.
        wanted = {"output_hidden_states": True, "output_attentions": True, "attn_implementation": "eager"}
        configs = [BertConfig(**((wanted if everything else {}) | command[who])) for who in ("teacher", "student")]
        teacher, student = (BertForSequenceClassification(config).to(self.device) for config in configs)
        self.distiller = tb.GeneralDistiller(
            tb.TrainingConfig(device=self.device, log_dir=None, ckpt_steps=10**9, output_dir=tempfile.gettempdir()),
            tb.DistillationConfig(
                temperature=4,
                hard_label_weight=1,
                kd_loss_weight=1,
                kd_loss_type="ce",  # the default: cross-entropy, with the gradients of KL, not scaled by temperature^2
                intermediate_matches=matches(*configs) if everything else None,
            ),
            teacher.eval(),
            student,
            adaptor,
            adaptor,
        )
        self.distiller.save_and_callback = lambda *_: None  # otherwise it saves the student after every call
        # TextBrewer supports only Apex's fp16, so bf16 uses torch.autocast around the forward passes and the losses.
        # Not around the whole training: autocast keeps its bf16 copies of the weights until it exits, so every
        # step would compute with those of the first.
        bf16 = command.get("precision", "fp32") == "bf16"
        self.cast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
        self.distiller.train_on_batch = self.cast(self.distiller.train_on_batch)
        fused = True if command.get("optimizer", "fused") == "fused" else None
        optimizer = torch.optim.AdamW(student.parameters(), command.get("lr", 1e-4), weight_decay=0.01, fused=fused)
        # `train` is this call, which adds a parameter group for each projection and so fails when it comes again, and
        # then `train_with_num_steps`.
        self.optimizer, self.scheduler, _ = self.distiller.initialize_training(optimizer, None, None, None)
        self.clip = command.get("clip", -1.0)  # only the student's gradients: TextBrewer does not clip the projections'
        return {"ok": True, "versions": {name: version(name) for name in ("torch", "transformers", "textbrewer")}}

    def steps(self, command: Json) -> Json:
        """One step on each batch of a file."""
        batches: list[Json] = torch.load(command["batches"])
        if command.get("teacher_cache"):
            batches = [{"teacher": batch, "student": batch, "teacher_cache": self._taught(batch)} for batch in batches]
        self.distiller.tb_writer = losses = Losses()
        cuda = self.device.type == "cuda"
        clock: list[tuple[float, float]] = []

        def tick(batch: Json) -> Json:
            if cuda:
                torch.cuda.synchronize()
            clock.append((time.perf_counter(), time.process_time()))
            return batch

        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with self.distiller:  # the teacher in eval mode, the student in train mode
            self.distiller.train_with_num_steps(
                self.optimizer, self.scheduler, True, batches, self.clip, len(batches), None, batch_postprocessor=tick
            )
            tick({})
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        wall, cpu = ([end - start for start, end in pairwise(times)] for times in zip(*clock, strict=True))
        return {"seconds": wall, "cpu_seconds": cpu, "losses": losses.total, "peak_bytes": peak}

    def _taught(self, batch: Json) -> Json:
        with torch.no_grad(), self.cast:
            return dict(self.distiller.model_T(**{name: values.to(self.device) for name, values in batch.items()}))


def answer(worker: Worker, command: Json) -> Json:
    try:
        match command.get("do"):
            case "make":
                return worker.make(command)
            case "steps":
                return worker.steps(command)
            case unknown:
                return {"error": f"unknown command {unknown!r}: choose from make, steps, quit"}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output goes to stderr, including that of C code
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        if command.get("do") == "quit":
            return
        print(json.dumps(answer(worker, command)), file=replies, flush=True)


if __name__ == "__main__":
    main()
