"""ACKD's worker for step_speed.py: runs the common work with `Distiller.step`, controlled over pipes.

    {"do": "make", "teacher": {...}, "student": {...}, ...}   models from BertConfig's arguments, with random weights
    {"do": "steps", "batches": "batches.pt", "mode": "live"}  one optimizer step on each batch, timed
    {"do": "epochs", "rows": "rows.pt", ...}                  whole epochs at true lengths; the first fills the cache
    {"do": "quit"}

"make" takes threads, device, precision, seed and lr, like TextBrewer's worker. The modes are `live` (all knowledge
types, the teacher runs in every step), `cached` (all knowledge types, from a cache that the first pass fills), `logits`
(only logits, from the same cache) and `alone` (only the student's forward pass, backward pass and optimizer step on the
labels). `live`, `cached` and `logits` train the same student; `alone` trains its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from typing import Any

import numpy as np
import torch
from transformers import BertConfig

from ackd import Selection
from ackd.costs import CostTracker
from ackd.knowledge import Attention, Hidden, Logits
from ackd.models import Meter, Model, from_config, shape_of
from ackd.numerics.memory import reuse_memory
from ackd.numerics.streams import RngStreams
from ackd.tasks import GLUE, Split, Task
from ackd.teachers import Cached, ModelTeacher
from ackd.teachers.cache.store import Cache, Examples
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import EMBEDDINGS, Batch, Knowledge, ModelDims, Teacher, union

Json = dict[str, Any]
EVERYTHING = Selection.of("logits", "hidden", "attention")


def knowledge(student: ModelDims, teacher: ModelDims) -> list[Knowledge]:
    """Logits, every hidden state of the student (embeddings first) and every attention map, spread over the teacher."""
    ratio = teacher.layers // student.layers
    pairs = tuple((layer, ratio * layer + ratio - 1) for layer in range(student.layers))
    hidden = ((EMBEDDINGS, EMBEDDINGS), *pairs)
    return [Logits(temperature=4.0), Hidden(student, teacher, hidden), Attention(student, teacher, pairs)]


class Worker:
    """Models, teachers and distillers, kept between commands."""

    def make(self, command: Json) -> Json:
        """Models with and without a cache, and a student each for distillation and for the bare step."""
        reuse_memory()
        self.device = torch.device(command.get("device", "cpu"))
        torch.set_num_threads(command.get("threads", 1))
        torch.manual_seed(command.get("seed", 0))
        self.precision = command.get("precision", "fp32")
        self.lr = command.get("lr", 1e-4)
        self.config = BertConfig(**command["student"])
        self.teacher = ModelTeacher(
            from_config(BertConfig(**command["teacher"]))().to(self.device), precision=self.precision
        )
        self.folder = tempfile.TemporaryDirectory()
        self.examples = 0
        student = from_config(self.config)().to(self.device)
        losses = [one.to(self.device) for one in knowledge(shape_of(student), self.teacher.shape)]
        self.fields = union(one.teacher_needs for one in losses).fields
        self.student = Student(student, losses, steps=10**6, lr=self.lr)
        self.meter = Meter(student)
        self.distillers: dict[str, Distiller] = {"live": self._distiller(self.teacher)}
        self.bare: Model | None = None
        return {"ok": True}

    def steps(self, command: Json) -> Json:
        """One step on each batch of a file."""
        mode = command.get("mode", "live")
        batches = self._batches(torch.load(command["batches"]))
        if mode in ("cached", "logits") and mode not in self.distillers:
            lengths = torch.cat([batch.lengths for batch in batches]).numpy()
            ids = torch.cat([batch.ids for batch in batches]).numpy()
            self.distillers["cached"] = self.distillers["logits"] = self._distiller(
                Cached(self.teacher, self._cache(Examples(ids, lengths, "step_speed")))
            )
        wall, cpu = [], []
        for batch in batches:
            start = self._clock()
            if mode == "alone":
                self._alone(batch)
            else:
                self.distillers[mode].step([batch], Selection.of("logits") if mode == "logits" else EVERYTHING)
            end = self._clock()
            wall.append(end[0] - start[0])
            cpu.append(end[1] - start[1])
        return {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": self._peak()}

    def epochs(self, command: Json) -> Json:
        """Seconds of each epoch of a task's examples at their true lengths, through the plain loop, cache included."""
        rows: list[list[int]] = torch.load(command["rows"])
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        tokens = {"input_ids": np.concatenate([np.asarray(row, np.int64) for row in rows])}
        split = Split(tokens, offsets, np.arange(len(rows)) % 2, np.arange(len(rows)), {"input_ids": 0})
        cache = self._cache(Examples(split.ids, split.lengths, "mrpc"))
        size, epochs = command["batch_size"], command["epochs"]
        steps = len(rows) // size
        model = from_config(self.config)().to(self.device)
        distillation = Distillation(
            Task(GLUE["mrpc"], split, split, {}),
            [Cached(self.teacher, cache)],
            lambda: model,
            lambda: knowledge(shape_of(model), self.teacher.shape),
            steps=steps * epochs,
            batch_size=size,
            lr=self.lr,
            scale_steps=0,
            device=self.device,
            precision=self.precision,
        )
        wall, cpu = [], []
        for _ in range(epochs):
            start = self._clock()
            distillation.advance(EVERYTHING, steps)
            end = self._clock()
            wall.append(end[0] - start[0])
            cpu.append(end[1] - start[1])
        shutil.rmtree(cache.folder)
        return {
            "seconds": wall,
            "cpu_seconds": cpu,
            "steps": steps,
            "teacher_queries": distillation.costs.teacher_queries,
        }

    def _distiller(self, teacher: Teacher) -> Distiller:
        losses = [one for one in self.student.projections if isinstance(one, Knowledge)]
        return Distiller(
            self.student,
            [teacher],
            losses,
            meter=self.meter,
            costs=CostTracker(),
            scale_steps=0,
            precision=self.precision,
        )

    def _cache(self, examples: Examples) -> Cache:
        return Cache(
            self.folder.name,
            name=examples.fingerprint,
            teacher="random",
            shape=self.teacher.shape,
            examples=examples,
            fields=self.fields,
        )

    def _batches(self, batches: list[Json]) -> list[Batch]:
        made = []
        for place, batch in enumerate(batches):
            size = len(batch["labels"])
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            ids = torch.arange(place * size, (place + 1) * size)
            made.append(Batch(ids, inputs, batch["labels"]).to(self.device))
        return made

    def _alone(self, batch: Batch) -> None:
        if self.bare is None:  # the library's model, unchanged
            self.bare = from_config(self.config)().to(self.device).train()
            self.bare_optimizer = torch.optim.AdamW(self.bare.parameters(), self.lr, weight_decay=0.01, fused=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.bare(**batch.inputs, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.bare.parameters(), 1.0)
        self.bare_optimizer.step()
        self.bare_optimizer.zero_grad(set_to_none=True)

    def _clock(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output goes to stderr
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            return
        try:
            reply = getattr(worker, command["do"])(command)
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    with RngStreams(0).initialising():
        main()
