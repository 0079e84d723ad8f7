"""A teacher whose answers are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ackd.costs import CostTracker
from ackd.teachers.cache.budget import Rows
from ackd.teachers.cache.store import Cache
from ackd.teachers.wrapper import TeacherWrapper
from ackd.types import Batch, OutputKey, OutputRequest, Outputs, Teacher


@dataclass(frozen=True)
class _Answer:
    """What is on its way into the cache."""

    rows: Rows  # -1 for an example that the cache does not know
    tensors: Mapping[OutputKey, Tensor]  # on the host
    arrived: torch.cuda.Event | None  # when a GPU has sent them


class Cached(TeacherWrapper):
    """Any teacher, asked only once about each example for what its cache keeps.

    Answers come in float32, rounded to the cache's own numbers whether they are read or new, so what was kept before a
    run changes no more in it than the last bits, in which an answer depends on the batch that it was asked in. What the
    cache does not keep is asked live. Its price is that of an answer that nobody has kept.

    Args:
        inner: who is asked.
        cache: for its answers, and for the examples of the batches.
        fields: what of the answers is kept; all that the cache keeps at this moment if None. Others in the process that
            share the cache may make it keep more later.
    """

    def __init__(self, inner: Teacher, cache: Cache, fields: Iterable[OutputKey] | None = None) -> None:
        self.inner, self.cache = inner, cache
        self.fields = cache.fields if fields is None else frozenset(fields)
        self._on_their_way: deque[_Answer] = deque()

    @property
    def fingerprint(self) -> str:
        """The inner teacher's, and the numbers that its answers are rounded to."""
        return f"{self.inner.fingerprint}-{self.cache.dtype}"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The outputs asked for: read where they are kept, asked and kept where they are not."""
        with costs.timing("cache"):
            self._write(costs)
            kept = tuple(field for field in needs.fields if field in self.fields)
            live = OutputRequest.of(field for field in needs.fields if field not in kept)
            rows = self._rows(batch)
            there = {field: self.cache.has((field,), rows) for field in kept}
            missing, answer, new = self._ask(batch, rows, there, live, costs)
            if not live:
                costs.cached_queries += int(_whole(there, len(rows)).sum())
            tensors = {field: answer[field] for field in live.fields}
            for field in kept:
                found = there[field]
                value = self._read(field, rows[found], batch, costs) if found.any() else None
                tensors[field] = _merged(field, batch, found, missing, value, new.get(field))
            return Outputs.of(tensors)

    def fill(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> int:
        """Asks for what is missing of a batch and keeps it, reading nothing; how many examples that were."""
        with costs.timing("cache"):
            rows = self._rows(batch)
            there = {field: self.cache.has((field,), rows) for field in needs.fields}
            missing, _, _ = self._ask(batch, rows, there, OutputRequest(), costs)
            self._write(costs, wait=True)
        return len(missing)

    def flush(self, costs: CostTracker) -> None:
        """Keeps what a GPU has sent since."""
        with costs.timing("cache"):
            self._write(costs, wait=True)

    def _ask(
        self,
        batch: Batch,
        rows: Rows,
        there: Mapping[OutputKey, NDArray[np.bool_]],
        live: OutputRequest,
        costs: CostTracker,
    ) -> tuple[Rows, Outputs, Mapping[OutputKey, Tensor]]:
        """Asks for the live fields, and for those that are not there for every example; keeps these.

        Returns:
            The places that miss any of these, one for each example; the answer; and of it what was missing, for those
            places and in the cache's dtype.
        """
        absent = [field for field, found in there.items() if not found.all()]
        missing = _first_of_each(batch, _whole(there, len(rows)))
        needs = live | OutputRequest.of(absent)
        if not needs:
            return missing, Outputs(), {}
        if live or len(missing) == len(rows):
            # the teacher runs on every example anyway, and what is missing comes with it
            answer = self.inner(batch, needs, costs)
            new = {field: _at(answer[field], missing) for field in absent}
        else:
            answer = self.inner(batch.rows(missing.tolist()), needs, costs)
            new = {field: answer[field] for field in absent}
        new = {field: value.to(self.cache.dtype) for field, value in new.items()}
        self._keep(batch, missing, rows[missing], new, costs)
        return missing, answer, new

    def _rows(self, batch: Batch) -> Rows:
        examples = self.cache.examples
        rows = examples.indices(batch.ids.numpy())
        if (examples.lengths[rows] != batch.lengths.numpy())[rows >= 0].any():
            raise ValueError("the batch is not of the examples that the cache is for: other examples have these ids")
        return rows

    def _keep(
        self, batch: Batch, indices: Rows, rows: Rows, new: Mapping[OutputKey, Tensor], costs: CostTracker
    ) -> None:
        if not new:
            return
        if not (rows >= 0).any() or not self.cache.writing:
            if batch.mask.device.type == "cpu":  # looking at a GPU's answers would wait for them
                self.cache.check(batch.ids.numpy()[indices], batch.lengths.numpy()[indices], new)
            return
        arrived = None
        if next(iter(new.values())).is_cuda:
            # the host goes on at once, and writes when it finds that they have come
            new = {
                f: torch.empty_like(v, device="cpu", pin_memory=True).copy_(v, non_blocking=True)
                for f, v in new.items()
            }
            arrived = torch.cuda.Event()
            arrived.record()
        self._on_their_way.append(_Answer(rows, new, arrived))
        self._write(costs)

    def _write(self, costs: CostTracker, *, wait: bool = False) -> None:
        """Writes what has come."""
        while self._on_their_way:
            answer = self._on_their_way[0]
            if answer.arrived is not None:
                if wait:
                    answer.arrived.synchronize()
                elif not answer.arrived.query():
                    return
            self._on_their_way.popleft()
            costs.move("cache", self.cache.write(answer.rows, answer.tensors))

    def _read(self, field: OutputKey, rows: Rows, batch: Batch, costs: CostTracker) -> Tensor:
        device = batch.mask.device
        value = self.cache.read(field, rows, batch.shape[1], pinned=device.type == "cuda")
        costs.move("cache", value.nbytes)
        return value.to(device, non_blocking=True).float()


def _whole(there: Mapping[OutputKey, NDArray[np.bool_]], size: int) -> NDArray[np.bool_]:
    """Which of the examples are there in every field."""
    whole = np.ones(size, np.bool_)
    for found in there.values():
        whole &= found
    return whole


def _first_of_each(batch: Batch, there: NDArray[np.bool_]) -> Rows:
    """The places of the examples that are not there, one for each example."""
    missing = np.flatnonzero(~there)
    _, first = np.unique(batch.ids.numpy()[missing], return_index=True)
    return np.sort(missing[first])


def _at(value: Tensor, indices: Rows) -> Tensor:
    return value if len(indices) == len(value) else value[torch.from_numpy(indices).to(value.device)]


def _merged(
    field: OutputKey, batch: Batch, there: NDArray[np.bool_], missing: Rows, read: Tensor | None, new: Tensor | None
) -> Tensor:
    """One tensor for the batch, of what was read and what is new, each example of the new standing for its twins."""
    if new is None:
        assert read is not None
        return read
    if read is None and len(missing) == len(there):
        return new.float()
    new = _padded(field, new.float(), batch.shape[1])
    value = new.new_zeros(len(there), *new.shape[1:])
    if read is not None:
        value[torch.from_numpy(np.flatnonzero(there)).to(value.device)] = read
    ids = batch.ids.numpy()
    absent = np.flatnonzero(~there)
    order = np.argsort(ids[missing])
    sources = order[np.searchsorted(ids[missing], ids[absent], sorter=order)]
    value[torch.from_numpy(absent).to(value.device)] = new[torch.from_numpy(sources).to(value.device)]
    return value


def _padded(field: OutputKey, value: Tensor, length: int) -> Tensor:
    if field.kind in ("logits", "cls"):
        return value
    more = length - value.shape[-1 if field.kind == "attention" else 1]
    return F.pad(value, (0, more, 0, more) if field.kind == "attention" else (0, 0, 0, more))
