"""Reads columns from the hub, from a folder in the hub's layout, and from the user's own files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ackd.errors import InputError, reason
from ackd.files.json_rows import json_rows
from ackd.tasks.glue import HUB
from ackd.tasks.spec import TaskSpec

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")


class Columns(Mapping[str, list[Any]]):
    """A table's columns as lists of Python values, converted on access.

    Args:
        names: the column names.
        column: returns the values of a column.
        classes: class names of the columns that contain class ids.
    """

    def __init__(
        self,
        names: Iterable[str],
        column: Callable[[str], list[Any]],
        classes: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._names, self._column = dict.fromkeys(names), column
        self.classes = classes or {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._column(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def from_hub(spec: TaskSpec, split: str) -> Columns:
    """A split of a GLUE task from the Hugging Face hub.

    Raises:
        InputError: if the split cannot be loaded.
    """
    try:
        table = library().load_dataset(HUB, spec.name, split=split)
    except Exception as error:  # the hub's client raises many kinds of errors without a network
        raise InputError(
            f"{spec.name} cannot be fetched from the Hugging Face hub ({type(error).__name__}): connect to the network "
            "once, so that a copy is kept, or give --data with a local folder in the hub's layout"
        ) from error
    return Columns(table.column_names, lambda name: table[name][:])


def from_folder(folder: Path, spec: TaskSpec, split: str) -> Columns:
    """A split of a GLUE task from a folder in the hub's layout.

    Raises:
        InputError: if the folder, the split or a column is missing.
    """
    if not folder.is_dir():
        raise InputError(f"there is no data folder {folder}; a data set of the hub goes with --text-columns")
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
    return _read(_parquet, files)


def from_file(path: Path) -> Columns:
    """Reads a CSV, TSV, JSON lines or Parquet file, or a text file with a text in each line.

    Raises:
        InputError: if the file is missing, of another kind, unreadable or without rows.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix not in ENDINGS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: files may end in {', '.join(ENDINGS)}")
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not start.strip():
        raise InputError(f"{path} has no rows")
    return _read({".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".txt": _lines}.get(path.suffix, _json), [path])


def _read(reader: Callable[[Sequence[Path]], Columns | None], files: Sequence[Path]) -> Columns:
    try:
        table = reader(files)
    except InputError:
        raise
    except Exception as error:  # the libraries raise many kinds of errors for damaged files
        raise InputError(f"{files[0]} cannot be read as {files[0].suffix[1:]} ({reason(error)})") from error
    if table is None:
        raise InputError(f"{files[0]} has no rows")
    return table


def _parquet(files: Sequence[Path]) -> Columns | None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.concat_tables([pyarrow.parquet.ParquetFile(file).read() for file in files])
    return Columns(table.column_names, lambda name: table.column(name).to_pylist()) if len(table) else None


def _csv(files: Sequence[Path]) -> Columns | None:
    import pandas

    (path,) = files
    with path.open("rb") as file:
        frame = pandas.read_csv(file, sep="\t" if path.suffix == ".tsv" else ",", low_memory=False)
    if len(frame) and not isinstance(frame.index, pandas.RangeIndex):
        raise InputError(f"{path} has rows with more fields than its first line names: put texts with commas in quotes")
    return Columns(frame.columns, lambda name: frame[name].tolist()) if len(frame) else None


def _json(files: Sequence[Path]) -> Columns | None:
    rows = [row for path in files for _, row in json_rows(path)]
    names = (name for row in rows for name in row)
    return Columns(names, lambda name: [row.get(name) for row in rows]) if rows else None


def _lines(files: Sequence[Path]) -> Columns | None:
    (path,) = files
    texts = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    return Columns(["text"], lambda name: texts) if texts else None


def library() -> Any:
    """Imports `datasets` and turns off its progress bars and messages."""
    import datasets
    from datasets.utils.logging import disable_progress_bar, set_verbosity

    set_verbosity(logging.CRITICAL)  # ackd reports damaged files itself
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log each of its five attempts
    disable_progress_bar()
    return datasets
