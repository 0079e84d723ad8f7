"""Puts a teacher behind a cache of limited size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ackd.config import CacheConfig, CacheReads
from ackd.split import Split
from ackd.teachers.cache.ahead import ReadAhead
from ackd.teachers.cache.budget import make_plan
from ackd.teachers.cache.measuring import Step, prices_of
from ackd.teachers.cache.store import Cache, CacheError, Examples
from ackd.teachers.cached import Cached, caches_of
from ackd.types import Knowledge, OutputKey, OutputRequest, Teacher, union

logger = logging.getLogger("ackd")

CPU = torch.device("cpu")

# Environments of one process share a cache with the same key.
_caches: dict[tuple[str, ...], Cache] = {}


def with_cache(
    teacher: Teacher,
    losses: Sequence[Knowledge],
    split: Split,
    *,
    folder: str,
    name: str,
    budget: int,
    dtype: str,
    reads: CacheReads = "all",
    batch_size: int = 32,
    device: torch.device = CPU,
    device_memory: float = CacheConfig.cache_device_memory,
    step: Step | None = None,
) -> Teacher:
    """Returns the teacher behind a cache, and logs the plan of the cache.

    Args:
        teacher: the teacher.
        losses: the knowledge types that use its outputs; if empty, there is no cache. Logits of a language model are
            never cached.
        split: the examples of the cache.
        folder: the cache's folder.
        name: readable part of the entry's name.
        budget: size limit in bytes.
        dtype: float16, bfloat16 or float32.
        reads: the outputs to cache: all, those that are read faster than computed (auto), or none.
        batch_size: examples in a batch, for the measurement.
        device: device of the batches; for a GPU a thread reads ahead.
        device_memory: share of the device's free memory that may keep rows, 0 to 1.
        step: a student's step on a batch, for the measurement: reading ahead during a step costs no time.

    Raises:
        InputError: if the budget is too small for every type, or the cache cannot be used.
    """
    if not losses:
        return teacher
    types, lengths = {loss.name: loss.teacher_needs for loss in losses}, split.read_lengths
    if split.language:  # the logits of every token would be as many numbers as the vocabulary has
        types = {name: rest for name, needs in types.items() if (rest := replace(needs, logits=False))}
        if len(types) < len(losses):
            logger.info("the logits of a language model are too many to cache: they are computed in each step")
        if not types:
            return teacher
    plan = make_plan(types, teacher.shape, lengths, budget=budget, dtype=dtype)
    fields = plan.fields if reads != "none" else frozenset()
    key = (str(Path(folder).resolve()), name, teacher.fingerprint, split.fingerprint, dtype)
    cache = _caches.get(key)
    if cache is None:
        cache = _caches[key] = Cache(
            folder,
            name=name,
            teacher=teacher.fingerprint,
            shape=teacher.shape,
            examples=Examples(split.ids, lengths, split.fingerprint),
            fields=fields,
            dtype=dtype,
        )
    else:
        cache.widen(fields)
    if reads == "none":
        logger.info("cache %s: nothing is read; outputs are computed, and rounded to %s", cache.folder, dtype)
        return Cached(teacher, cache, fields)
    logger.info("cache %s: %s", cache.folder, plan)
    # on a CPU, a reading thread would slow down the step, and reading is a small part of it
    ahead = None if device.type == "cpu" else ReadAhead(cache, device)
    cached = Cached(teacher, cache, fields, ahead=ahead, device_memory=device_memory)
    if reads == "all" or not fields:
        return cached
    try:
        options: dict[str, Any] = {"size": batch_size, "device": device, "device_memory": device_memory}
        options["step"] = step if ahead is not None else None
        cached.prices = prices_of(teacher, cache, fields, split, **options)
    except CacheError as fault:
        logger.warning("%s. So no times were measured, and all cached outputs are read", fault)
        return cached
    logger.info("cache %s: %s", cache.folder, choice_of(cached, types))
    return cached


@dataclass(frozen=True)
class Choice:
    """The decisions of the prices for some knowledge types."""

    device: str
    batch: tuple[int, int]  # examples and tokens
    together: Mapping[str, bool]  # by type: whether its outputs are read, if all types are requested
    alone: Mapping[str, bool]  # by type: whether its outputs are read, if only this type is requested
    seconds: Mapping[str, float]  # times for all types: computed, read, and chosen

    def __str__(self) -> str:
        computed, read, chosen = (f"{1000 * self.seconds[how]:.2g} ms" for how in ("computed", "read", "chosen"))
        words = [f"a batch of {' x '.join(map(str, self.batch))} tokens takes {computed} to compute and {read} to read"]
        listed = {kind: [name for name, read in self.together.items() if read is kind] for kind in (True, False)}
        words += [f"{', '.join(names)}: {'read' if kind else 'computed'}" for kind, names in listed.items() if names]
        if listed[True] and listed[False]:
            words[-1] += f", which takes {chosen} in all"
        if alone := [name for name in listed[False] if self.alone[name]]:
            words.append(f"{', '.join(alone)}: read if nothing else is requested")
        return f"{'; '.join(words)} ({self.device})"


def choice_of(cached: Cached, types: Mapping[str, OutputRequest]) -> Choice:
    """The decisions of a teacher with prices for each type."""
    assert cached.prices is not None
    everything = union(types.values())
    together = cached.chosen(everything)
    seconds = {"computed": frozenset[OutputKey](), "read": cached.fields & frozenset(everything.fields)}
    return Choice(
        cached.prices.device,
        cached.prices.batch,
        {name: together.issuperset(needs.fields) for name, needs in types.items()},
        {name: cached.chosen(needs).issuperset(needs.fields) for name, needs in types.items()},
        {how: cached.seconds(everything, read) for how, read in {**seconds, "chosen": together}.items()},
    )


def choices(teachers: Sequence[Teacher], losses: Iterable[Knowledge]) -> list[dict[str, Any]]:
    """The choices of all teachers with prices, as plain values for a run's ledger."""
    losses = list(losses)
    return [
        {
            "teacher": m,
            **asdict(choice_of(one, {loss.name: loss.teacher_needs for loss in losses if loss.teacher == m})),
        }
        for m, teacher in enumerate(teachers)
        for one in caches_of(teacher)
        if one.prices is not None
    ]
