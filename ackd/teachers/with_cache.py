"""Puts a teacher behind a cache of limited size."""

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

# Environments of one process share a cache with the same key.
_caches: dict[tuple[str, ...], Cache] = {}


def with_cache(
    teacher: Teacher, losses: Sequence[Knowledge], split: Split, *, folder: str, name: str, budget: int, dtype: str
) -> Teacher:
    """Returns the teacher behind a cache, and logs the plan of the cache.

    Args:
        teacher: the teacher.
        losses: the knowledge types that use its outputs; if empty, there is no cache.
        split: the examples of the cache.
        folder: the cache's folder.
        name: readable part of the entry's name.
        budget: size limit in bytes.
        dtype: float16, bfloat16 or float32.

    Raises:
        InputError: if the budget is too small for every type, or the cache cannot be used.
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
