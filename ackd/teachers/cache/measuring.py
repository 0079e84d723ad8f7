"""Measures the times of a teacher's pass and of reading a cache, and stores them in the cache's folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.files.schema import read
from ackd.split import Split
from ackd.teachers.cache.budget import DTYPES
from ackd.teachers.cache.choice import Prices
from ackd.teachers.cache.device_rows import device_rows, free_memory
from ackd.teachers.cache.store import Cache, Examples
from ackd.types import Batch, OutputKey, OutputRequest, Outputs, Teacher

Step: TypeAlias = Callable[[Batch], object]
TIMES = 5  # most repetitions of a measurement; the shortest time counts
SECONDS = 0.5  # total time after which a measurement is not repeated
AGAIN = "delete it, and it is measured again"


def prices_of(
    teacher: Teacher,
    cache: Cache,
    fields: Iterable[OutputKey],
    split: Split,
    *,
    size: int,
    device: torch.device,
    device_memory: float = 0.0,
    step: Step | None = None,
) -> Prices:
    """The prices on this device, measured once per cache, so that equal runs and resumed runs make the same choice.

    Args:
        teacher: the teacher without its cache.
        cache: the cache; the prices are stored in its folder.
        fields: the fields that the cache may contain.
        split: the examples of the cache.
        size: examples in a batch.
        device: device of the batches.
        device_memory: share of the device's free memory that may keep rows.
        step: a student's step, during which a thread reads ahead; None if there is no such thread.

    Raises:
        InputError: if the stored prices are damaged, or an output of the teacher is not finite.
        CacheError: if the cache's folder cannot be written or read.
    """
    fields, place = sorted(fields), [name_of(device)]
    memory = int(device_memory * free_memory(device))
    key = json.dumps([*place, *([device_memory] if memory else []), size, fields]).encode()
    path = cache.folder / f"prices-{hashlib.sha256(key).hexdigest()[:16]}.json"
    if not path.exists():
        batch, needed = _typical(split, size).to(device), cache.bytes_of(fields)
        near = min(memory / needed, 1.0)
        measured = measure(teacher, cache, fields, batch, cold=needed > _memory(), near=near, step=step)
        if not cache.writing:
            return measured
        with cache.refusing():
            _keep(path, (json.dumps(asdict(measured), indent=2) + "\n").encode())
    stored = read(path, Prices, AGAIN)
    if missing := {field.kind for field in fields} - stored.read.keys():
        raise InputError(f"{path} has no price of {', '.join(sorted(missing))}: {AGAIN}")
    return stored


def name_of(device: torch.device) -> str:
    """The name of a device, and on a CPU the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"


def measure(
    teacher: Teacher,
    cache: Cache,
    fields: Iterable[OutputKey],
    batch: Batch,
    *,
    cold: bool = False,
    near: float = 0.0,
    step: Step | None = None,
) -> Prices:
    """Measures the teacher's pass over a batch, and reading its outputs from a cache with only this batch.

    A pass that takes longer than `SECONDS` is measured once, with all outputs.

    Args:
        teacher: the teacher.
        cache: the cache; the measurement uses its folder, if it can be written.
        fields: the fields to measure; those of one kind cost the same.
        batch: the batch, on its device.
        cold: whether to read from the disk, bypassing the system's file cache.
        near: share of the rows that the device's memory will hold.
        step: a student's step on the batch, during which a thread reads ahead. Half of its time counts as `hidden`,
            because the thread also slows down the step.

    Raises:
        InputError: if an output of the teacher is not finite.
        CacheError: if the folder cannot be written or read.
    """
    device, costs, logits = batch.mask.device, CostTracker(), OutputRequest(logits=True)
    kinds = {field.kind: [one for one in fields if one.kind == field.kind] for field in fields}
    samples = OutputRequest.of(of_kind[0] for of_kind in kinds.values())

    def compute(needs: OutputRequest) -> Outputs:
        outputs = teacher(batch, needs, costs)
        return Outputs.of({field: outputs[field].to(cache.dtype).float() for field in needs.fields})

    def seconds_of(needs: OutputRequest) -> float:
        return _seconds(lambda: compute(needs), device)

    outputs: list[Outputs] = []
    for _ in range(1 if device.type == "cpu" else 2):  # the first pass on a GPU includes its initialisation
        whole, more = _once(lambda: outputs.append(compute(samples)), device), dict[str, float]()
    if whole < SECONDS:
        whole = seconds_of(logits)
        needs = {kind: OutputRequest.of(of_kind) for kind, of_kind in kinds.items() if kind != "logits"}
        more = {kind: max(seconds_of(logits | one) - whole, 0.0) / len(kinds[kind]) for kind, one in needs.items()}
    hidden = 0.0
    if step is not None:
        step(batch)  # the first step includes initialisation
        hidden = _seconds(lambda: step(batch), device) / 2
    reads = _reads(cache, outputs[-1], batch, cold=cold, near=near)
    return Prices(name_of(device), batch.shape, whole, more, reads, hidden)


def _reads(cache: Cache, outputs: Outputs, batch: Batch, *, cold: bool, near: float) -> dict[str, float]:
    """By kind, the seconds to read an output of the batch, from a cache like `cache` with only this batch."""
    device, rows = batch.mask.device, np.arange(len(batch.ids))
    tensors = {field: value.to("cpu", cache.dtype) for field, value in outputs.tensors.items()}
    (dtype,) = (name for name, one in DTYPES.items() if one == cache.dtype)
    examples = Examples(batch.ids.numpy(), batch.lengths.numpy(), "prices")
    with cache.refusing(), tempfile.TemporaryDirectory(dir=cache.folder if cache.writing else None) as folder:
        small = Cache(folder, name="x", teacher="x", shape=cache.shape, examples=examples, fields=tensors, dtype=dtype)
        with closing(small):
            small.write(rows, tensors)
            small.has(tensors, rows)
            files = list(small.folder.glob("*.rows"))

            def read_one(field: OutputKey) -> object:
                if cold:
                    _forget(files)
                small.has((field,), rows)
                value = small.read(field, rows, batch.shape[1], pinned=device.type == "cuda")
                return value.to(device, non_blocking=True).float()

            def seconds_of(field: OutputKey) -> float:
                from_disk = _seconds(lambda: read_one(field), device)
                if not near:
                    return from_disk
                held = device_rows(small, device, 1.0)
                held.keep(field, rows, small.read(field, rows, batch.shape[1]).to(device))
                if not held.held(field, rows).all():
                    return from_disk
                on_device = _seconds(lambda: held.read(field, rows, batch.shape[1]).float(), device)
                return near * on_device + (1 - near) * from_disk

            return {field.kind: seconds_of(field) for field in tensors}


def _typical(split: Split, size: int) -> Batch:
    """The batch in the middle of all examples sorted by length."""
    order = np.argsort(split.lengths, kind="stable")
    start = max((len(order) - size) // 2, 0)
    return split.batch(order[start : start + size])


def _seconds(act: Callable[[], object], device: torch.device) -> float:
    """The shortest time of an action, over several repetitions."""
    times: list[float] = []
    while len(times) < TIMES and sum(times) < SECONDS:
        times.append(_once(act, device))
    return min(times)


def _once(act: Callable[[], object], device: torch.device) -> float:
    """The time of an action, including its work on the device."""
    _wait(device)
    start = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory() -> int:
    """Bytes of memory available for the system's file cache; a very large number if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 2**62


def _forget(files: Sequence[Path]) -> None:
    """Removes files from the system's file cache, so that they are read from the disk."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _keep(path: Path, content: bytes) -> None:
    """Writes a file, unless another process has written it meanwhile."""
    handle, partial = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        try:
            os.link(partial, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
