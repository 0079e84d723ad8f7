"""What fills a cache, in this process or in workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ackd.building.setting import prepare
from ackd.config import DataConfig, KnowledgeConfig, ModelConfig, part
from ackd.distributed.jobs import answering, this_worker
from ackd.errors import InputError
from ackd.experiments.options import FillConfig
from ackd.ledger import Ledger
from ackd.teachers import Cached
from ackd.training.identity import check_identity, identity
from ackd.types import Needs


class Filled(NamedTuple):
    """What a part took."""

    examples: int
    asked: int  # of them
    seconds: float
    written: float  # bytes
    folder: str  # the entry


class Filler:
    """Fills parts of a cache, once what that takes is prepared.

    The groups that a teacher is asked about are the same whatever the number of parts, so the answers are too.

    Args:
        config: what to keep, of which teachers.
        alike: what the process has that hands out the parts.

    Raises:
        InputError: if the cache cannot be written, or this process has something else.
    """

    def __init__(self, config: FillConfig, *, alike: Mapping[str, str] | None = None) -> None:
        distillation = prepare(
            task=config.task,
            teacher=config.teacher,
            preset=config.preset,
            cache=config.output,
            cache_budget=config.budget,
            cache_dtype=config.dtype,
            steps=1,
            **part(config, DataConfig, ModelConfig, KnowledgeConfig),
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
        """Fills a part, of so many; begun again, it goes on."""
        return self.fill(*job)

    def fill(self, part: int, parts: int, on_group: Callable[[int], object] = lambda examples: None) -> list[Filled]:
        """Every `parts`-th group from `part` on; what that took for each teacher."""
        told = []
        for teacher in self.teachers:
            cache, ledger, asked = teacher.cache, Ledger(), 0
            groups = self.groups[part::parts]
            try:
                for places in groups:
                    batch = self.train.batch(places).to(self.device)
                    asked += teacher.fill(batch, Needs.of(teacher.fields), ledger)
                    on_group(len(places))
            finally:
                cache.close()
            spent = ledger.seconds["teacher"], ledger.bytes["cache"]
            told.append(Filled(sum(map(len, groups)), asked, *spent, str(cache.folder)))
        return told
