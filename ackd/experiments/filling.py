"""Fills a cache of teacher outputs, in this process or in workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ackd.building.setting import prepare
from ackd.building.sources import Source, several
from ackd.config import DataConfig, KnowledgeConfig, ModelConfig, checked, part
from ackd.costs import CostTracker
from ackd.distributed.jobs import answering, run_jobs, this_worker
from ackd.distributed.shards import own_device, own_shard, parse_shard
from ackd.errors import InputError
from ackd.experiments.objects import by_name
from ackd.experiments.options import FillConfig
from ackd.experiments.progress import progress
from ackd.experiments.workers import OnItsDevice
from ackd.models import Tokenizer
from ackd.teachers import Cached
from ackd.training.identity import check_identity, identity
from ackd.types import OutputRequest

PARTS = 16  # parts of the cache per worker


class Filled(NamedTuple):
    """The costs of filling a part."""

    examples: int
    asked: int  # examples that the teacher computed
    seconds: float
    written: float  # bytes
    folder: str  # of the cache entry


class Filler:
    """Fills parts of a cache.

    The batches for the teacher do not depend on the number of parts, so the outputs do not either.

    Args:
        config: options of the cache and its teachers.
        alike: fingerprints of the process that distributes the parts.
        objects: teachers, a tokenizer, data and knowledge types, if given as objects.

    Raises:
        InputError: if the cache cannot be written, or the fingerprints of this process differ.
    """

    def __init__(
        self,
        config: FillConfig,
        *,
        alike: Mapping[str, str] | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> None:
        named = {"teacher": config.teacher, **part(config, DataConfig, ModelConfig, KnowledgeConfig)}
        distillation = prepare(
            task=config.task,
            preset=config.preset,
            cache=config.output,
            cache_budget=config.budget,
            cache_dtype=config.dtype,
            cache_reads="all",
            steps=1,
            **{**named, **(objects or {})},
        )
        self.identity = identity(distillation)
        check_identity(self.identity, alike or {}, this_worker())
        self.device, self.train = distillation.device, distillation.task.train
        self.groups = list(self.train.by_length(config.batch_size))
        self.teachers = [teacher for teacher in distillation.teachers if isinstance(teacher, Cached)]
        for teacher in self.teachers:
            if not teacher.cache.writing:
                raise InputError(f"the cache {teacher.cache.folder} is read-only: fill it where it can be written")

    @answering
    def do(self, job: tuple[int, int]) -> list[Filled]:
        """Fills a part, given as (part, parts); a second call continues after a stop."""
        return self.fill(*job)

    def fill(self, part: int, parts: int, on_group: Callable[[int], object] = lambda examples: None) -> list[Filled]:
        """Fills every `parts`-th batch, starting with `part`; returns the costs for each teacher."""
        told = []
        for teacher in self.teachers:
            cache, costs, asked = teacher.cache, CostTracker(), 0
            groups = self.groups[part::parts]
            try:
                for indices in groups:
                    batch = self.train.batch(indices).to(self.device)
                    asked += teacher.fill(batch, OutputRequest.of(teacher.fields), costs)
                    on_group(len(indices))
            finally:
                cache.close()
            spent = costs.seconds["teacher"], costs.bytes["cache"]
            told.append(Filled(sum(map(len, groups)), asked, *spent, str(cache.folder)))
        return told


def fill(config: FillConfig, **objects: Any) -> list[Filled]:
    """Fills a cache, here or in workers; a second call continues after a stop.

    Args:
        config: options of the cache and its teachers.
        **objects: as for `Filler`.

    Returns:
        The costs for each teacher.

    Raises:
        InputError: if an option in `config` cannot be used.
    """
    config = replace(config, device=config.check_workers(config.device))
    if config.remote and objects:
        raise InputError("workers take teachers and data by their names: leave workers away, or give names")
    if config.batch_size < 1:
        raise InputError(f"the batch size must be above 0, got {config.batch_size}")
    shard, device = config.shard, config.device
    if shard is None and config.backend != "torchrun":
        shard, device = own_shard(), own_device(device)
    place, shards = parse_shard("1/1" if shard is None else shard)
    config = replace(config, device=device)
    filler = Filler(config, objects=objects)
    asks = len(filler.teachers) * sum(map(len, filler.groups[place::shards]))
    with progress(asks, f"cache ({config.task})", "example") as bar:
        if not config.remote or config.backend == "dummy":
            return filler.fill(place, shards, bar.update)
        return _filled_by_workers(config, filler, place, shards, bar.update)


def _filled_by_workers(
    config: FillConfig, filler: Filler, place: int, shards: int, on_group: Callable[[int], object]
) -> list[Filled]:
    """Fills the cache with workers; each fills several smaller parts."""
    parts = min(PARTS * config.count, len(filler.groups))
    jobs = [(place + shards * k, shards * parts) for k in range(parts)]

    def count(job: object, answer: list[Filled]) -> None:
        on_group(sum(one.examples for one in answer))

    make = OnItsDevice(partial(Filler, alike=filler.identity), config)
    with closing(config.start_workers(make, config.device)) as crew:
        told = [one for _, one in run_jobs(crew, jobs, seconds=config.step_timeout, on_answer=count)]
    return [_together(those) for those in zip(*told, strict=True)]


def _together(parts: Sequence[Filled]) -> Filled:
    """The total costs of all parts for one teacher."""
    examples, asked = sum(one.examples for one in parts), sum(one.asked for one in parts)
    seconds, written = sum(one.seconds for one in parts), sum(one.written for one in parts)
    return Filled(examples, asked, seconds, written, parts[0].folder)


def cache(
    task: str,
    teacher: Source | Sequence[Source],
    output: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    **options: Any,
) -> list[Filled]:
    """Runs teachers on a task's training data and stores their outputs, for later runs with `cache`.

    Args:
        task: a GLUE task, a generated one, or any name for data of your own.
        teacher: one or several teachers, as for `ackd.prepare`.
        output: the cache's folder; existing entries are kept, and missing ones are added.
        tokenizer: tokenizer of models given as objects; if None, the one in their folder.
        **options: the other fields of `FillConfig`; `data`, `student` and `knowledge` as for `ackd.prepare`.

    Returns:
        For each teacher: the examples, the number of them computed now, the seconds and bytes, and the folder.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
    """
    given = {"task": task, "teacher": several(teacher), "output": output, "tokenizer": tokenizer, **options}
    plain, objects = by_name(given, "teacher", "student", "data", "dev_data", "knowledge")
    return fill(checked(FillConfig, plain, others=("tokenizer",)), **objects)
