"""Rows from the hub, from a folder in its layout, and from a user's own file."""

from __future__ import annotations

import glob
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ackd.errors import InputError
from ackd.json_rows import json_rows
from ackd.tasks.glue import HUB
from ackd.tasks.spec import TaskSpec

if TYPE_CHECKING:  # datasets brings pandas and 80 MB, for those who read any
    from datasets import Dataset

Columns: TypeAlias = Mapping[str, Sequence[Any]]  # by name; a slice of one is a list

READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def from_hub(spec: TaskSpec, split: str) -> Columns:
    """A split of a GLUE task from the Hugging Face hub.

    Raises:
        InputError: if it cannot be had.
    """
    try:
        return _columns(_datasets().load_dataset(HUB, spec.name, split=split))
    except Exception as error:  # the hub's client raises a dozen kinds for a missing network
        raise InputError(
            f"{spec.name} cannot be fetched from the Hugging Face hub ({type(error).__name__}): connect to the network "
            "once, so that a copy is kept, or give --data with a local folder in the hub's layout"
        ) from error


def from_folder(folder: Path, spec: TaskSpec, split: str) -> Columns:
    """A split of a GLUE task from a folder in the hub's layout.

    Raises:
        InputError: if the folder, the split or a column is missing.
    """
    if not folder.is_dir():
        raise InputError(f"there is no data folder {folder}")
    place = folder / spec.name
    if not place.is_dir():
        tasks = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise InputError(f"there is no {spec.name} in {folder}: it holds {', '.join(tasks) or 'no folders'}")
    files = sorted([*place.glob(f"{split}.parquet"), *place.glob(f"{split}-?????-of-?????.parquet")])
    found = ", ".join(sorted(path.name for path in place.iterdir())) or "nothing"
    if not files:
        raise InputError(f"there is no {split} split in {place}: expected {split}.parquet, found {found}")
    whole = [f"{split}-{i:05}-of-{len(files):05}.parquet" for i in range(len(files))]
    if [path.name for path in files] not in ([f"{split}.parquet"], whole):
        raise InputError(f"the {split} split in {place} lacks a part or is there twice: found {found}")
    return _columns(_read("parquet", files))


def from_file(path: Path) -> Columns:
    """What a CSV, TSV, JSON lines or Parquet file holds.

    Raises:
        InputError: if it is missing, of another kind, cannot be read or has no rows.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix not in READERS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: files may end in {', '.join(READERS)}")
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not start.strip():
        raise InputError(f"{path} has no rows")
    if READERS[path.suffix] == "json":
        return _JsonColumns(path)
    rows = _read(READERS[path.suffix], [path], **({"sep": "\t"} if path.suffix == ".tsv" else {}))
    if not len(rows):
        raise InputError(f"{path} has no rows")
    return _columns(rows)


class _JsonColumns(Mapping[str, Sequence[Any]]):
    """Of JSON objects; those that lack a name have None there."""

    def __init__(self, path: Path) -> None:
        self._rows = [row for _, row in json_rows(path)]
        if not self._rows:
            raise InputError(f"{path} has no rows")
        self._names = dict.fromkeys(name for row in self._rows for name in row)

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._names:
            raise KeyError(name)
        return [row.get(name) for row in self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _columns(rows: Dataset) -> Columns:
    return {name: rows[name] for name in rows.column_names}  # nothing is copied yet


def _read(kind: str, files: Sequence[Path], **options: Any) -> Dataset:
    try:
        # in memory, and the reader's working copy goes when it is read: nothing is left in the user's home
        with tempfile.TemporaryDirectory() as cache:
            return _datasets().load_dataset(
                kind,
                data_files=[glob.escape(str(file)) for file in files],
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
    except Exception as error:  # the readers of three formats raise a dozen kinds for a damaged file
        if "corresponds to no data" in str(error):
            raise InputError(f"{files[0]} has no rows") from error
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{files[0]} cannot be read as {kind} ({reason})") from error


def _datasets() -> Any:
    """The library, without its bars and notes."""
    import datasets
    from datasets.utils.logging import disable_progress_bar, set_verbosity

    set_verbosity(logging.CRITICAL)  # what it would tell of a damaged file, ours tells
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its five tries
    disable_progress_bar()
    return datasets
