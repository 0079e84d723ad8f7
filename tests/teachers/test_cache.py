from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.errors import InputError
from ackd.teachers.cache.budget import DTYPES, Rows
from ackd.teachers.cache.store import Cache, Examples
from ackd.types import ModelDims, OutputKey
from tests import processes

SHAPE = ModelDims(layers=3, width=8, heads=2, classes=3, vocabulary=50)
FIELDS = [OutputKey("logits"), OutputKey("cls", 1), OutputKey("hidden", -1), OutputKey("hidden", 2)]
FIELDS += [OutputKey("attention", 0), OutputKey("queries", 1), OutputKey("keys", 1), OutputKey("values", 1)]
LENGTHS = (7, 3, 12, 1, 5, 5)
ROW = OutputKey("hidden", 2)


def opened(
    folder: Path, lengths: Sequence[int] = LENGTHS, fields: Sequence[OutputKey] = FIELDS, **changes: Any
) -> Cache:
    ids = np.arange(len(lengths)) * 3 + 100
    examples = Examples(ids, np.asarray(lengths, np.int64), changes.pop("data", "data"))
    settings = {"name": "task", "teacher": "teacher", "shape": SHAPE, "examples": examples, "fields": fields}
    return Cache(folder, **{**settings, **changes})


def shape_of(field: OutputKey, length: int) -> tuple[int, ...]:
    sizes = {"logits": (3,), "cls": (8,), "attention": (2, length, length)}
    return sizes.get(field.kind, (length, 8))


def truth(row: int, field: OutputKey, length: int, dtype: torch.dtype) -> Tensor:
    """What the teacher says about an example, always the same."""
    generator = torch.Generator().manual_seed(int(row) * 100 + FIELDS.index(field))
    return torch.randn(shape_of(field, length), generator=generator).to(dtype)


def padded(cache: Cache, rows: Sequence[int], field: OutputKey, extra: int = 0) -> Tensor:
    """A batch with something finite at padding."""
    lengths = cache.examples.lengths[list(rows)].tolist()
    batch = torch.full((len(rows), *shape_of(field, max(lengths) + extra)), 7.0, dtype=cache.dtype)
    for value, row, n in zip(batch, rows, lengths, strict=True):
        valid(field, value, n).copy_(truth(row, field, n, cache.dtype))
    return batch


def valid(field: OutputKey, value: Tensor, length: int) -> Tensor:
    return value[tuple(slice(size) for size in shape_of(field, length))]


def fill(cache: Cache, rows: Sequence[int] = range(len(LENGTHS)), fields: Sequence[OutputKey] = FIELDS) -> int:
    return cache.write(np.asarray(rows), {field: padded(cache, rows, field) for field in fields})


def check(cache: Cache, rows: Sequence[int] | Rows, fields: Sequence[OutputKey] = FIELDS, extra: int = 0) -> None:
    """What is read is what was written, bit for bit."""
    rows = np.asarray(rows).tolist()
    assert cache.has(fields, np.asarray(rows, np.int64)).all()
    lengths = cache.examples.lengths[rows].tolist()
    for field in fields if rows else ():
        batch = cache.read(field, np.asarray(rows), max(lengths) + extra)
        assert batch.dtype == cache.dtype
        assert batch.shape == (len(rows), *shape_of(field, max(lengths) + extra))
        assert batch.isfinite().all()
        for value, row, n in zip(batch, rows, lengths, strict=True):
            assert torch.equal(valid(field, value, n), truth(row, field, n, cache.dtype)), (field, row)


def file(cache: Cache, field: OutputKey = ROW, kind: str = "rows") -> Path:
    return cache.folder / f"{field.kind}-{field.layer}.{kind}"


def damage(path: Path, place: int) -> None:
    with path.open("r+b") as content:
        content.seek(place)
        byte = content.read(1)[0]
        content.seek(place)
        content.write(bytes([byte ^ 1]))


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(list(DTYPES)), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_what_is_read_is_what_was_written(data: st.DataObject, dtype: str, lengths: list[int]) -> None:
    indices = st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)
    with tempfile.TemporaryDirectory() as folder:
        cache = opened(Path(folder), lengths, dtype=dtype)
        written = list(dict.fromkeys(data.draw(indices)))
        size = sum(fill(cache, rows) for rows in (written[:2], written[2:]) if rows)
        assert size == sum(truth(row, f, lengths[row], cache.dtype).nbytes for row in written for f in FIELDS)
        assert cache.has(FIELDS, np.arange(len(lengths))).tolist() == [i in written for i in range(len(lengths))]
        asked = data.draw(indices.map(lambda rows: [row for row in rows if row in written] or written))
        check(cache, asked, extra=data.draw(st.integers(0, 3)))
        cache.close()
        again = opened(Path(folder), lengths, dtype=dtype)
        check(again, asked)
        assert again.damaged == 0
        again.close()


def test_ids_lead_to_rows() -> None:
    examples = Examples(np.array([40, 7, 12]), np.array([1, 2, 3]), "data")
    assert examples.indices(np.array([12, 12, 8, 40, 99, -1, 7])).tolist() == [2, 2, -1, 0, -1, -1, 1]


def test_a_row_that_stands_is_not_written_again(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [1])
    other = {field: padded(cache, [1, -1, 2], field) * 2 for field in FIELDS}
    written = cache.write(np.array([1, -1, 2]), other)  # -1 is an example of somebody else
    assert written == sum(truth(2, field, LENGTHS[2], cache.dtype).nbytes for field in FIELDS)
    check(cache, [1])
    assert torch.equal(cache.read(ROW, np.array([2]), 12)[0], truth(2, ROW, 12, cache.dtype) * 2)


@pytest.mark.parametrize(
    ("name", "value"), [("teacher", "b"), ("data", "b"), ("dtype", "float32"), ("dtype", "bfloat16")]
)
def test_another_teacher_or_data_or_format_has_an_entry_of_its_own(tmp_path: Path, name: str, value: str) -> None:
    cache, other = opened(tmp_path), opened(tmp_path, LENGTHS, FIELDS, **{name: value})
    fill(cache)
    assert not other.has([ROW], np.arange(6)).any()
    assert cache.folder.parent == other.folder.parent
    assert cache.folder != other.folder
    assert opened(tmp_path).folder == cache.folder


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"x"', "\udcff", "null"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    cache = opened(tmp_path)
    cache.close()
    (cache.folder / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match="delete that folder") as refused:
        opened(tmp_path)
    assert str(cache.folder) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("teacher", "b"), ("data", "b"), ("dtype", "float32"), ("examples", 5), ("shape", {"width": 9}), ("format", 0)],
)
def test_an_entry_of_something_else_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    cache = opened(tmp_path)
    fill(cache)
    cache.close()
    path = cache.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match=f"belongs to another {name}: delete that folder"):
        opened(tmp_path)
    shutil.rmtree(cache.folder)
    assert fill(opened(tmp_path)) > 0


def test_a_damaged_row_is_found_and_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = opened(tmp_path)
    fill(cache)
    cache.close()
    damage(file(cache), 2 * 8 * (LENGTHS[0] + 1))  # in the second row
    damage(file(cache, kind="sums"), 4 * 3)
    cache = opened(tmp_path)
    for _ in range(2):
        assert cache.has([ROW], np.arange(6)).tolist() == [True, False, True, False, True, True]
    assert cache.damaged == 2  # not counted again
    assert caplog.text.count("damaged rows") == 1
    assert fill(cache) == (LENGTHS[1] + LENGTHS[3]) * 8 * 2
    check(cache, range(6))
    cache.close()
    check(opened(tmp_path), range(6))


@pytest.mark.parametrize("kind", ["rows", "sums"])
@pytest.mark.parametrize("size", [0, 37, 100_000, None])
def test_a_file_of_a_wrong_size_is_mended(tmp_path: Path, kind: str, size: int | None) -> None:
    cache = opened(tmp_path)
    fill(cache)
    cache.close()
    if size is None:
        file(cache, kind=kind).unlink()
    else:
        os.truncate(file(cache, kind=kind), size)
    cache = opened(tmp_path)
    longer = size is not None and size > {"rows": 33 * 8 * 2, "sums": 6 * 4}[kind]
    assert cache.has([ROW], np.arange(6)).all() == longer
    fill(cache)
    check(cache, range(6))


def test_a_kill_between_row_and_checksum_leaves_a_row_that_does_not_count(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [0, 2])
    cache.close()
    with file(cache).open("r+b") as content:
        content.seek(2 * 8 * LENGTHS[0])
        content.write(truth(1, ROW, LENGTHS[1], cache.dtype).numpy().tobytes())
    cache = opened(tmp_path)
    assert cache.has([ROW], np.arange(6)).tolist() == [True, False, True, False, False, False]
    assert cache.damaged == 0
    fill(cache)
    check(cache, range(6))


class FullDisk:
    """Takes so many bytes, the last of them in a part unless they are a mere number, and then none."""

    def __init__(self, size: int, code: int = errno.ENOSPC) -> None:
        self.left, self.code, self._pwrite = size, code, os.pwrite

    def __call__(self, handle: int, data: Any, offset: int) -> int:
        if self.left < min(len(data), 5):
            raise OSError(self.code, os.strerror(self.code))
        part = bytes(data)[: self.left]
        self.left -= len(part)
        return self._pwrite(handle, part, offset)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3000))
def test_a_full_disk_leaves_a_valid_cache(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        cache = opened(Path(folder))
        patch.setattr(os, "pwrite", FullDisk(size))
        with pytest.raises(InputError, match="the disk is full") as refused:
            fill(cache)
        assert str(cache.folder) in str(refused.value)
        patch.undo()
        for one in (cache, opened(Path(folder))):
            for field in FIELDS:
                check(one, np.flatnonzero(one.has([field], np.arange(6))), [field])
            assert one.damaged == 0
        fill(cache)
        check(cache, range(6))
        cache.close()


def test_other_troubles_with_the_disk_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path / "a")
    monkeypatch.setattr(os, "pwrite", FullDisk(10, errno.EIO))
    with pytest.raises(InputError, match=r"cannot be used: .*error"):
        fill(cache)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used: Not a directory"):
        opened(tmp_path / "file")


def test_a_disk_that_is_too_small_is_refused_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"would take 3\.8 kB.*has 1\.0 kB free: give a smaller budget") as refused:
        opened(tmp_path)
    assert str(tmp_path) in str(refused.value)
    cache = opened(tmp_path, fields=[OutputKey("logits")])  # this much fits
    with pytest.raises(InputError, match="free"):
        cache.widen(FIELDS)
    assert cache.fields == {OutputKey("logits")}
    monkeypatch.undo()
    cache.widen(FIELDS)
    fill(cache)
    check(cache, range(6))


def test_several_write_and_what_stands_stays(tmp_path: Path) -> None:
    first, second = opened(tmp_path, fields=FIELDS[:2]), opened(tmp_path)
    fill(first, [0, 1], FIELDS[:2])
    check(second, [0, 1], FIELDS[:2])
    assert not second.has(FIELDS, np.array([0, 1])).any()
    other = {field: padded(second, [0, 2], field) * 2 for field in FIELDS[:2]}
    assert second.write(np.array([0, 2]), other) > 0
    check(first, [0], FIELDS[:2])  # as the first one wrote it
    assert torch.equal(first.read(FIELDS[0], np.array([2]), 12), truth(2, FIELDS[0], 12, first.dtype)[None] * 2)
    fill(second, [0, 1, 3, 4, 5])  # also what the first one made no room for
    check(first, [0, 1, 3, 4, 5])


def test_a_row_that_another_one_writes_is_left_to_it(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    with first._holding(1) as mine, second._holding(2) as other:
        assert mine
        assert other
        with second._holding(1) as twice:
            assert not twice
        fill(second, [0, 1, 2, 3])  # which holds 2 itself
        assert second.has(FIELDS, np.arange(6)).tolist() == [True, False, True, True, False, False]
    fill(second, [1])
    check(first, range(4))


def in_a_fork(act: Callable[[], bool]) -> Callable[[], bool]:
    """Begins `act` in a fork; what it returned is known when the result is called."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return lambda: os.waitpid(child, 0)[1] == 0


def test_a_fork_of_the_writer_reads(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [0, 1])

    def child() -> bool:
        check(cache, [0, 1])
        idle = not cache.writing
        cache.widen([OutputKey("logits")])
        cache.close()
        return idle

    assert in_a_fork(child)()
    assert cache.writing
    fill(cache, [2])
    check(opened(tmp_path), [0, 1, 2])


def test_a_lock_that_fails_is_an_error_and_not_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("ackd.teachers.cache.store.fcntl.fcntl", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)), cache._holding(1):
        pass


def test_who_dies_holds_no_row(tmp_path: Path) -> None:
    def child() -> bool:
        with opened(tmp_path)._holding(1):
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    assert not in_a_fork(child)()
    fill(opened(tmp_path), [1])
    check(opened(tmp_path), [1])


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_read_only_entry_is_used_and_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path, fields=FIELDS[1:])
    fill(cache, range(4), FIELDS[1:])
    cache.close()
    (cache.folder / "lock").unlink()
    before = state_of(cache.folder)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
    cache = opened(tmp_path)
    assert not cache.writing
    check(cache, range(4), FIELDS[1:])
    assert not cache.has([OutputKey("logits")], np.arange(6)).any()
    cache.close()
    assert state_of(cache.folder) == before


@pytest.mark.parametrize("made", [False, True])
def test_a_read_only_folder_without_the_entry_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "access", lambda path, mode: made and not mode & os.W_OK)
    if not made:
        monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="is read-only and holds nothing about this teacher and this data: fill it"):
        opened(tmp_path)


def test_a_lock_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)
    fill(cache)
    cache.close()

    def refuse(path: Any, *args: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert not cache.writing


def in_a_process(script: str, folder: Path) -> subprocess.Popen[str]:
    """Runs a script with what this file defines."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_cache import *\n"
    program += f"folder = Path({str(folder)!r})\n" + textwrap.dedent(script)
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


MANY = tuple(int(n) for n in np.random.default_rng(0).integers(1, 20, 600))


def write_one_by_one(folder: Path, ready: Event) -> None:
    cache = opened(folder, MANY)
    ready.set()
    for row in np.random.default_rng(1).permutation(len(MANY)):
        fill(cache, [row])


def test_killed_while_another_process_reads_and_then_resumed(tmp_path: Path) -> None:
    ready = processes.SERVER.Event()
    writer = processes.SERVER.Process(target=write_one_by_one, args=(tmp_path / "a", ready))
    writer.start()
    assert ready.wait(100)
    cache = opened(tmp_path / "a", MANY)
    seen = [0]
    while seen[-1] < 100:
        rows = np.flatnonzero(cache.has(FIELDS, np.arange(len(MANY))))
        check(cache, rows)
        seen.append(len(rows))
        assert writer.is_alive()
    writer.kill()
    writer.join()
    assert len(set(seen)) > 2  # it did read in between
    assert cache.damaged == 0
    whole = opened(tmp_path / "b", MANY)
    for one in (cache, whole):
        fill(one, range(len(MANY)))
        one.close()
    assert seen[-1] <= len(cache.has(FIELDS, np.arange(len(MANY)))) == len(MANY)
    for path in whole.folder.glob("*-*.*"):
        assert path.read_bytes() == (cache.folder / path.name).read_bytes(), path.name


def write_multiples(folder: Path, seed: int, others: Barrier) -> None:
    cache = opened(folder, MANY)
    others.wait(100)
    for row in np.random.default_rng(seed).permutation(len(MANY)).tolist():
        # each writes something else, and what is read must be one of them throughout
        cache.write(np.array([row]), {field: padded(cache, [row], field) * (1 + seed) for field in FIELDS})


def test_many_write_the_same_rows_at_once(tmp_path: Path) -> None:
    others = processes.SERVER.Barrier(3)
    writers = [
        processes.SERVER.Process(target=write_multiples, args=(tmp_path / "a", seed, others)) for seed in range(3)
    ]
    for writer in writers:
        writer.start()
    cache = opened(tmp_path / "a", MANY)
    seen: dict[int, Tensor] = {}
    while any(writer.is_alive() for writer in writers):
        for row in np.flatnonzero(cache.has([ROW], np.arange(len(MANY)))).tolist():
            now = cache.read(ROW, np.array([row]), MANY[row])[0]
            seen.setdefault(row, now.clone())
            assert torch.equal(seen[row], now)  # a row that stands stays as it is
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert cache.has(FIELDS, np.arange(len(MANY))).all()
    by: set[float] = set()
    for row, n in enumerate(MANY):
        for field in FIELDS:
            value = valid(field, cache.read(field, np.array([row]), n)[0], n)
            (factor,) = (k for k in (1, 2, 3) if torch.equal(value, truth(row, field, n, cache.dtype) * k))
            by.add(factor)
    assert len(by) > 1  # they did work at the same time
    assert cache.damaged == 0


def test_memory_does_not_grow_with_the_cache(tmp_path: Path) -> None:
    script = """
        import resource
        from ackd.costs import CostTracker
        from ackd.teachers import Cached
        from ackd.types import Batch, OutputRequest, Outputs

        class Teacher:
            shape, fingerprint = ModelDims(1, 2048, 1, 2, 10), "teacher"
            def __call__(self, batch, needs, costs):
                return Outputs(hidden={0: torch.randn(*batch.shape, 2048)})

        def peak(count):
            lengths = np.full(count, 40)
            examples = Examples(np.arange(count), lengths, f"{count}")
            settings = {"name": "x", "teacher": "t", "shape": Teacher.shape, "examples": examples}
            cache = Cache(folder, **settings, fields=[OutputKey("hidden")])
            teacher, costs = Cached(Teacher(), cache), CostTracker()
            mask = torch.ones(8, 40, dtype=torch.int64)
            for _ in range(2):  # the second time everything is there, and compared with its checksum
                for start in range(0, count, 8):
                    ids = torch.arange(start, start + 8)
                    teacher.fill(Batch(ids, {"attention_mask": mask}, ids), OutputRequest(hidden=frozenset({0})), costs)
                cache.close()
            return costs.bytes["cache"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        torch.set_num_threads(1)
        peak(16)
        print(*peak(256), *peak(1024))
    """
    with in_a_process(script, tmp_path) as process:
        assert process.stdout is not None
        written, peak, more_written, later_peak = map(float, process.stdout.read().split())
    assert more_written == 4 * written == 1024 * 40 * 2048 * 2
    assert later_peak - peak < 0.05 * (more_written - written)
