"""`ackd cache`: a teacher's answers, kept ahead of the runs that will ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ackd.cli.options import DataOptions, PairOptions, progress


@dataclass(kw_only=True)
class FillCache(DataOptions, PairOptions):
    """Ask a teacher about a task's training data and keep the answers, for every later run with --cache."""

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name where --data is a file."""
    teacher: tuple[str, ...]
    """The teacher, or several: folder of a fine-tuned model, a run that holds one, or a hub id."""
    output: str
    """The cache's folder; what it holds already is kept, and what is missing is added."""
    preset: str | None = None
    """Instead of --knowledge: keep what this published method asks for."""
    budget: str = "4GB"
    """What one teacher's answers may take; the smaller knowledge types come first."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Numbers in the cache; the answers are rounded to them."""
    batch_size: int = 32
    """Examples that the teacher is asked about at a time."""

    def run(self) -> None:
        """Fills the cache; stopped and started again, it goes on."""
        from ackd.agents.presets import METHODS
        from ackd.errors import InputError
        from ackd.ledger import Ledger
        from ackd.plan import readable
        from ackd.setting import prepare
        from ackd.teachers import Cached
        from ackd.types import Needs

        if self.batch_size < 1:
            raise InputError(f"the batch size must be above 0, got {self.batch_size}")
        distillation = prepare(
            task=self.task,
            teacher=self.teacher,
            preset=self.preset,
            methods=METHODS,
            cache=self.output,
            cache_budget=self.budget,
            cache_dtype=self.dtype,
            steps=1,
            **self.data_settings(),
            **self.pair_settings(),
        )
        train = distillation.task.train
        for teacher in distillation.teachers:
            if not isinstance(teacher, Cached):
                continue
            cache, ledger, asked = teacher.cache, Ledger(), 0
            if not cache.writing:
                raise InputError(f"the cache {cache.folder} is read-only or being filled by another process: try later")
            needs = Needs.of(cache.fields)
            try:
                with progress(len(train), f"cache ({self.task})", "example") as bar:
                    for places in train.by_length(self.batch_size):
                        asked += teacher.fill(train.batch(places).to(distillation.device), needs, ledger)
                        bar.update(len(places))
            finally:
                cache.close()
            print(
                f"{self.task}: {len(train)} examples, {asked} of them asked now in {ledger.seconds['teacher']:.1f} s, "
                f"{readable(ledger.bytes['cache'])} written"
            )
            print(f"cache:   {cache.folder}")
