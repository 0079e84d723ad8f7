"""`ackd cache`: a teacher's answers, kept ahead of the runs that will ask for them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ackd.experiments.options import FillConfig
from ackd.experiments.progress import progress
from ackd.experiments.workers import OnItsDevice

if TYPE_CHECKING:
    from ackd.experiments.filling import Filled

PARTS = 16  # that each worker fills one after the other


@dataclass(frozen=True, kw_only=True)
class FillCache(FillConfig):
    """Ask a teacher about a task's training data and keep the answers, for every later run with --cache."""

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
