"""Teachers whose answers are kept as far as a budget goes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ackd.split import Split
from ackd.teachers.cache.budget import make_plan
from ackd.teachers.cache.store import Cache, Examples
from ackd.teachers.cached import Cached
from ackd.types import Knowledge, Teacher

logger = logging.getLogger("ackd")

# Environments of one process that name the same cache share it.
_caches: dict[tuple[str, ...], Cache] = {}


def with_cache(
    teacher: Teacher, losses: Sequence[Knowledge], split: Split, *, folder: str, name: str, budget: int, dtype: str
) -> Teacher:
    """The teacher behind a cache, whose plan is told before anything starts.

    Args:
        teacher: who is asked.
        losses: what the answers are for; without any nothing is kept.
        split: the examples that it is asked about.
        folder: of the cache.
        name: of the entry, for people.
        budget: bytes.
        dtype: float16, bfloat16 or float32.

    Raises:
        InputError: if the budget holds none of the types, or the cache cannot be used.
    """
    if not losses:
        return teacher
    types = {loss.name: loss.teacher_needs for loss in losses}
    plan = make_plan(types, teacher.shape, split.lengths, budget=budget, dtype=dtype)
    key = (str(Path(folder).resolve()), name, teacher.fingerprint, split.fingerprint, dtype)
    cache = _caches.get(key)
    if cache is None:
        cache = _caches[key] = Cache(
            folder,
            name=name,
            teacher=teacher.fingerprint,
            shape=teacher.shape,
            examples=Examples(split.ids, split.lengths, split.fingerprint),
            fields=plan.fields,
            dtype=dtype,
        )
    else:
        cache.widen(plan.fields)
    logger.info("cache %s: %s", cache.folder, plan)
    return Cached(teacher, cache, plan.fields)
