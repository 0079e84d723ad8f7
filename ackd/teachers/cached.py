"""A teacher with a cache of its outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ackd.costs import CostTracker
from ackd.files.schema import adapter
from ackd.teachers.cache.ahead import ReadAhead
from ackd.teachers.cache.budget import Rows
from ackd.teachers.cache.choice import Prices
from ackd.teachers.cache.device_rows import device_rows
from ackd.teachers.cache.store import Cache, CacheError
from ackd.teachers.wrapper import TeacherWrapper
from ackd.types import Batch, OutputKey, OutputRequest, Outputs, Teacher


@dataclass(frozen=True)
class _Answer:
    """Outputs that wait to be written to the cache."""

    rows: Rows  # rows in the cache; -1 for an example that the cache does not contain
    tensors: Mapping[OutputKey, Tensor]  # on the host
    arrived: torch.cuda.Event | None  # recorded after the copy from the GPU


class Cached(TeacherWrapper):
    """A teacher with a cache: cached outputs are computed only once per example.

    All outputs are float32, rounded to the cache's dtype: new, read, or never cached. So caching changes only the last
    bits, which depend on the batch of the teacher's pass. Outputs that are not cached are computed every time. `flops`
    is the cost without a cache.

    If the cache can no longer be written or read (a full disk, a deleted folder), a warning is logged once, and the
    teacher computes missing outputs.

    Args:
        inner: the teacher.
        cache: the cache; it must contain the examples of the batches.
        fields: the cached outputs; None: all current fields of the cache. Other users of the cache may add fields
            later.
        prices: measured times, which decide for each request which of `fields` to read; None: all.
        ahead: reads announced batches in a thread; None: every batch is read when it is requested.
        device_memory: share of the device's free memory for rows that were read, 0 to 1.
    """

    def __init__(
        self,
        inner: Teacher,
        cache: Cache,
        fields: Iterable[OutputKey] | None = None,
        *,
        prices: Prices | None = None,
        ahead: ReadAhead | None = None,
        device_memory: float = 0.0,
    ) -> None:
        self.inner, self.cache = inner, cache
        self.fields = cache.fields if fields is None else frozenset(fields)
        self.prices, self.ahead, self.device_memory = prices, ahead, device_memory
        self._chosen: dict[OutputRequest, frozenset[OutputKey]] = {}  # depends on the prices
        self._pending: deque[_Answer] = deque()
        self._fault: CacheError | None = None

    @property
    def fingerprint(self) -> str:
        """The inner teacher's fingerprint and the cache's dtype."""
        return f"{self.inner.fingerprint}-{self.cache.dtype}"

    def state_dict(self) -> dict[str, Any]:
        """The prices, so that a resumed run reads and computes the same outputs."""
        return {} if self.prices is None else asdict(self.prices)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`.

        Raises:
            ValueError: if it contains no prices of this cache.
        """
        self.prices = adapter(Prices).validate_python(state) if state else None
        if self.prices is not None and not self.prices.read.keys() >= {field.kind for field in self.fields}:
            raise ValueError("the measured prices are those of other outputs")
        self._chosen.clear()

    def chosen(self, needs: OutputRequest) -> frozenset[OutputKey]:
        """The requested outputs that are to be read from the cache, once they are cached."""
        if self.prices is None:
            return self.fields & frozenset(needs.fields)
        if needs not in self._chosen:
            self._chosen[needs] = self.prices.choose(needs.fields, self.fields, self._share)
        return self._chosen[needs]

    def seconds(self, needs: OutputRequest, read: frozenset[OutputKey]) -> float:
        """The seconds of a typical batch by the prices, if these outputs are read and the others computed."""
        assert self.prices is not None
        return self.prices.seconds(needs.fields, frozenset(needs.fields) - read, self._share)

    def _share(self, needs: OutputRequest) -> float:
        """The share of the teacher's FLOPs for a request; a pass takes at least as much as one of its layers."""
        assert self.prices is not None
        if not needs:
            return 0.0
        whole = self.inner.flops(OutputRequest(logits=True), *self.prices.batch)
        share = self.inner.flops(needs, *self.prices.batch) / whole if whole else 1.0
        return min(max(share, 1 / (self.shape.layers + 1)), 1.0)

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The requested outputs: read from the cache, or computed and written to it."""
        with costs.timing("cache"):
            self._write(costs)
            if self.cache.readable:
                try:
                    return self._answer(batch, needs, self.chosen(needs), costs)
                except CacheError as fault:
                    self.cache.give_up(fault, reading=True)
            self.ahead = None
            return self._answer(batch, needs, frozenset(), costs)

    def _answer(self, batch: Batch, needs: OutputRequest, chosen: frozenset[OutputKey], costs: CostTracker) -> Outputs:
        kept = tuple(field for field in needs.fields if field in chosen)
        live = OutputRequest.of(field for field in needs.fields if field not in chosen)
        rows = self._rows(batch)
        begun = None
        if self.ahead is not None:
            self.ahead.near = device_rows(self.cache, batch.mask.device, self.device_memory)
            begun = self.ahead.asked(rows, batch.shape[1], chosen)
        cached = {field: self.cache.has((field,), rows) for field in kept}
        missing, answer, new = self._ask(batch, rows, cached, live, costs)
        if not live:
            costs.cached_queries += int(_whole(cached, len(rows)).sum())
        tensors = self._rounded(batch, answer, live)
        ready = begun.result() if begun is not None and kept else {}
        for field in kept:
            found = cached[field]
            early = ready.get(field) if found.all() else None
            value = self._read(field, rows[found], batch, costs, early) if found.any() else None
            tensors[field] = _merged(field, batch, found, missing, value, new.get(field))
        return Outputs.of(tensors)

    def _rounded(self, batch: Batch, answer: Outputs, live: OutputRequest) -> dict[OutputKey, Tensor]:
        """The outputs that are not cached, rounded like cached ones."""
        rounded = {field: answer[field].to(self.cache.dtype) for field in live.fields}
        self._check(batch, np.arange(len(batch.ids)), rounded)
        return {field: value.float() for field, value in rounded.items()}

    def announce(self, batches: Sequence[tuple[Rows, Rows]]) -> None:
        """Announces the next batches, each as the ids and lengths of its examples; they may be read ahead."""
        if self.ahead is not None and self.cache.readable:
            self.ahead.announce([(self.cache.examples.indices(ids), int(lengths.max())) for ids, lengths in batches])

    def fill(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> int:
        """Computes and caches the missing outputs of a batch; returns the number of missing examples.

        Raises:
            CacheError: if the cache cannot be written or read.
        """
        with costs.timing("cache"):
            rows = self._rows(batch)
            cached = {field: self.cache.has((field,), rows) for field in needs.fields}
            missing, _, _ = self._ask(batch, rows, cached, OutputRequest(), costs)
            self._write(costs, wait=True)
        if self._fault is not None:
            raise self._fault
        return len(missing)

    def flush(self, costs: CostTracker) -> None:
        """Writes pending outputs to the cache, after their copies from the GPU have finished."""
        with costs.timing("cache"):
            self._write(costs, wait=True)

    def _ask(
        self,
        batch: Batch,
        rows: Rows,
        cached: Mapping[OutputKey, NDArray[np.bool_]],
        live: OutputRequest,
        costs: CostTracker,
    ) -> tuple[Rows, Outputs, Mapping[OutputKey, Tensor]]:
        """Computes the live fields and the fields that are not cached for every example; caches the latter.

        Returns:
            The batch indices of examples with missing fields, without repeats; the teacher's outputs; and the missing
            fields at these indices in the cache's dtype.
        """
        absent = [field for field, found in cached.items() if not found.all()]
        missing = _first_of_each(batch, _whole(cached, len(rows)))
        needs = live | OutputRequest.of(absent)
        if not needs:
            return missing, Outputs(), {}
        if live or len(missing) == len(rows):
            # the teacher runs on every example anyway, so the missing fields come from the same pass
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
            self._check(batch, indices, new)
            return
        arrived = None
        if next(iter(new.values())).is_cuda:
            # the copy is asynchronous; the host writes the outputs after it has finished
            new = {
                f: torch.empty_like(v, device="cpu", pin_memory=True).copy_(v, non_blocking=True)
                for f, v in new.items()
            }
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append(_Answer(rows, new, arrived))
        self._write(costs)

    def _check(self, batch: Batch, indices: Rows, values: Mapping[OutputKey, Tensor]) -> None:
        if batch.mask.device.type == "cpu":  # checking outputs on a GPU would synchronise it
            self.cache.check(batch.ids.numpy()[indices], batch.lengths.numpy()[indices], values)

    def _write(self, costs: CostTracker, *, wait: bool = False) -> None:
        """Writes pending outputs that have arrived on the host; `wait` waits for all of them."""
        while self._pending:
            answer = self._pending[0]
            if answer.arrived is not None:
                if wait:
                    answer.arrived.synchronize()
                elif not answer.arrived.query():
                    return
            self._pending.popleft()
            if not self.cache.writing:  # since a fault
                continue
            try:
                costs.move("cache", self.cache.write(answer.rows, answer.tensors))
            except CacheError as fault:
                self._fault = fault
                self.cache.give_up(fault, reading=False)

    def _read(
        self, field: OutputKey, rows: Rows, batch: Batch, costs: CostTracker, early: tuple[Rows, Tensor] | None
    ) -> Tensor:
        """A field of these rows on the batch's device; `early` is what a thread has read, with its rows."""
        device, length = batch.mask.device, batch.shape[1]
        near = device_rows(self.cache, device, self.device_memory)
        held = near.held(field, rows)
        if held.all():
            return near.read(field, rows, length).float()
        rest = rows[~held]
        if early is not None and np.array_equal(early[0], rest):
            value = early[1]
        else:
            value = self.cache.read(field, rest, length, pinned=device.type == "cuda")
        costs.move("cache", value.nbytes)
        value = value.to(device, non_blocking=True)
        near.keep(field, rest, value)
        if held.any():
            both = torch.cat([near.read(field, rows[held], length), value])
            order = np.argsort(np.argsort(~held, kind="stable"))  # the index of each row in `both`
            value = both.index_select(0, near.sent(order))
        return value.float()


def caches_of(teacher: Teacher) -> Iterator[Cached]:
    """A teacher's caches: itself, or those inside it."""
    while isinstance(teacher, TeacherWrapper):
        if isinstance(teacher, Cached):
            yield teacher
        teacher = teacher.inner


def _whole(cached: Mapping[OutputKey, NDArray[np.bool_]], size: int) -> NDArray[np.bool_]:
    """[size], True for examples that are cached in every field."""
    whole = np.ones(size, np.bool_)
    for found in cached.values():
        whole &= found
    return whole


def _first_of_each(batch: Batch, cached: NDArray[np.bool_]) -> Rows:
    """The batch indices of examples that are not cached, without repeats."""
    missing = np.flatnonzero(~cached)
    _, first = np.unique(batch.ids.numpy()[missing], return_index=True)
    return np.sort(missing[first])


def _at(value: Tensor, indices: Rows) -> Tensor:
    return value if len(indices) == len(value) else value[torch.from_numpy(indices).to(value.device)]


def _merged(
    field: OutputKey, batch: Batch, cached: NDArray[np.bool_], missing: Rows, read: Tensor | None, new: Tensor | None
) -> Tensor:
    """Merges cached and new values into one tensor for the batch; repeated examples share the new value."""
    if new is None:
        assert read is not None
        return read
    if read is None and len(missing) == len(cached):
        return new.float()
    new = _padded(field, new.float(), batch.shape[1])
    value = new.new_zeros(len(cached), *new.shape[1:])
    if read is not None:
        value[torch.from_numpy(np.flatnonzero(cached)).to(value.device)] = read
    ids = batch.ids.numpy()
    absent = np.flatnonzero(~cached)
    order = np.argsort(ids[missing])
    sources = order[np.searchsorted(ids[missing], ids[absent], sorter=order)]
    value[torch.from_numpy(absent).to(value.device)] = new[torch.from_numpy(sources).to(value.device)]
    return value


def _padded(field: OutputKey, value: Tensor, length: int) -> Tensor:
    if field.kind in ("logits", "cls"):
        return value
    more = length - value.shape[-1 if field.kind == "attention" else 1]
    return F.pad(value, (0, more, 0, more) if field.kind == "attention" else (0, 0, 0, more))
