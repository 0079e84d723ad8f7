"""`ackd cache`: a teacher's answers, kept ahead of the runs that will ask for them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from ackd.config import DataConfig, KnowledgeConfig, ModelConfig
from ackd.experiments.progress import progress
from ackd.experiments.workers import OnItsDevice, WorkerConfig

if TYPE_CHECKING:
    from ackd.experiments.filling import Filled

PARTS = 16  # that each worker fills one after the other


@dataclass(frozen=True, kw_only=True)
class FillCache(DataConfig, ModelConfig, KnowledgeConfig, WorkerConfig):
    """Ask a teacher about a task's training data and keep the answers, for every later run with --cache."""

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
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
    shard: str | None = None
    """Ask about one part of the examples alone, as 1/4 to 4/4: processes that have one each fill the same cache at the
    same time. Those that torchrun starts take theirs by themselves."""

    def run(self) -> None:
        """Fills the cache; stopped and started again, it goes on."""
        from ackd.distributed.jobs import run_jobs
        from ackd.distributed.shards import own_device, own_shard, parse_shard
        from ackd.errors import InputError
        from ackd.experiments.filling import Filler
        from ackd.teachers.cache.plan import readable

        if self.serves():
            return
        self.check_workers(self.device)
        if self.batch_size < 1:
            raise InputError(f"the batch size must be above 0, got {self.batch_size}")
        shard, device = self.shard, self.device
        if shard is None and self.backend != "torchrun":
            shard, device = own_shard(), own_device(device)
        place, shards = parse_shard("1/1" if shard is None else shard)
        own = replace(self, device=device)
        filler = Filler(own)
        asks = len(filler.teachers) * sum(map(len, filler.groups[place::shards]))
        with progress(asks, f"cache ({self.task})", "example") as bar:
            if not self.remote or self.backend == "dummy":
                told = [filler.fill(place, shards, bar.update)]
            else:
                parts = min(PARTS * self.count, len(filler.groups))
                jobs = [(place + shards * k, shards * parts) for k in range(parts)]

                def count(job: object, answer: list[Filled]) -> None:
                    bar.update(sum(one.examples for one in answer))

                with closing(
                    self.start_workers(OnItsDevice(partial(Filler, alike=filler.identity), own), device)
                ) as crew:
                    told = [one for _, one in run_jobs(crew, jobs, seconds=self.step_timeout, on_answer=count)]
        for parts_told in zip(*told, strict=True):  # of each teacher
            examples, asked, seconds, written = (sum(part[k] for part in parts_told) for k in range(4))
            print(
                f"{self.task}: {examples} examples, {asked} of them asked now in {seconds:.1f} s, "
                f"{readable(written)} written"
            )
            print(f"cache:   {parts_told[0].folder}")
