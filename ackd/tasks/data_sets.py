"""Data sets of the Hugging Face hub, of folders that `save_to_disk` wrote, and in memory: their splits, as columns."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeAlias, TypeGuard, TypeVar, Union

from pydantic import Field
from typing_extensions import TypedDict

from ackd.errors import InputError, reason
from ackd.files.json_rows import encodable
from ackd.files.schema import Object, read
from ackd.tasks.read import ENDINGS, Columns, library

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger("ackd")

T = TypeVar("T")
Data: TypeAlias = Union[str, Path, "Dataset", "DatasetDict"]  # a name, or the data itself
SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
LABELS = ("label", "labels")  # what a column of labels is usually called
TEXTS = ("text", "sentence")  # and one of text that stands alone
TOKENS = "input_ids"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[^\s:/]+)?")
MAX_BYTES = 1 << 24  # of a JSON file: some thousand classes with long names


FileName: TypeAlias = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]  # which leads to no other folder


class Splits(TypedDict):
    """What is read of `dataset_dict.json`."""

    splits: list[FileName]


class DataFile(TypedDict):
    """A file with rows."""

    filename: FileName


class State(TypedDict):
    """What is read of a split's `state.json`."""

    _data_files: list[DataFile]
    _indices_data_files: NotRequired[list[Any] | None]


class Info(TypedDict):
    """What is read of its `dataset_info.json`."""

    features: Object | None


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in (SPLITS, STATE))


def is_named(data: Data) -> TypeGuard[str | Path]:
    """Whether it is the name of a file, a folder or a data set of the hub, rather than the data."""
    return isinstance(data, (str, Path))


def given_splits(data: Dataset | DatasetDict) -> tuple[Columns | None, dict[str, Columns]]:
    """A `Dataset`, which has no splits, or else the splits of a `DatasetDict` by their names.

    Raises:
        InputError: if it is something else.
    """
    tables = library()
    if isinstance(data, tables.Dataset):
        return _of_library(data), {}
    if isinstance(data, tables.DatasetDict):
        return None, {str(split): _of_library(table) for split, table in data.items()}
    raise InputError(
        f"data is a {type(data).__name__}: give a Dataset or a DatasetDict of the datasets library, or the name of a "
        "file, a folder or a data set of the hub"
    )


def columns_of(
    table: Columns, source: str, text_columns: Sequence[str], label_column: str | None
) -> tuple[Sequence[str], str | None]:
    """The columns of a table: where none are named, `label` or `labels`, and `text`, `sentence`, or all of text.

    Args:
        table: the data.
        source: what to call it.
        text_columns: those that are named; what is taken instead is told.
        label_column: likewise.

    Returns:
        One or two of text, or none where it is unclear which; and that of labels, or None.

    Raises:
        InputError: if it holds tokens instead of texts.
    """
    if label_column is None:
        label_column = next((name for name in LABELS if name in table), None)
    if text_columns:
        return text_columns, label_column
    texts = [name for name in table if name != label_column and _is_text(table[name])]
    if not texts and TOKENS in table:
        raise InputError(f"{source} holds tokens ({TOKENS}) and no text: give the texts, which every model tokenises")
    texts = next(([name] for name in TEXTS if name in texts), texts)
    if len(texts) > 2:
        return (), label_column
    if texts:
        logger.info("the text of %s is %s", source, " and ".join(texts))
    return texts, label_column


def _is_text(values: Sequence[object]) -> bool:
    """Whether a column has texts, some of which may be missing, and nothing else."""
    some = not values or any(value is not None for value in values)
    return some and all(isinstance(value, str) or value is None for value in values)


def splits_of(data: str) -> dict[str, Columns]:
    """The splits of a data set, by their names.

    Args:
        data: a folder that `save_to_disk` wrote, where a single split is called train; or a name on the hub, USER/NAME
            or USER/NAME:CONFIG. What is only a script is refused: nothing is executed.

    Raises:
        InputError: if there is none, it is damaged, or the hub cannot be reached.
    """
    folder = Path(data)
    if (folder / SPLITS).is_file():
        return {name: _saved(folder / name) for name in _read(folder / SPLITS, Splits)["splits"]}
    if is_saved(folder):
        return {"train": _saved(folder)}
    if folder.is_dir():
        raise InputError(
            f"{data} is no file, nor a folder that save_to_disk wrote: leave the columns away if it is one in GLUE's "
            "layout, or name a file in it"
        )
    if folder.suffix in ENDINGS or not HUB_NAME.fullmatch(data):
        raise InputError(
            f"there is no file or folder {data}, and the hub calls its data sets USER/NAME, or USER/NAME:CONFIG"
        )
    return _from_hub(data)


def _from_hub(data: str) -> dict[str, Columns]:
    name, _, config = data.partition(":")
    try:
        found = library().load_dataset(name, config or None)
        return {str(split): _of_library(table) for split, table in found.items()}
    except Exception as error:  # the hub's client raises a dozen kinds for a missing network
        why = " ".join(str(error).split())[:300] or type(error).__name__  # names of configurations come in a later line
        raise InputError(
            f"the data set {data} cannot be had from the Hugging Face hub ({why}): look at its name and configuration, "
            "connect to the network once, so that a copy is kept, or give a file or a folder that save_to_disk wrote"
        ) from error


def _of_library(table: Any) -> Columns:
    label = library().ClassLabel
    classes = {name: tuple(kind.names) for name, kind in table.features.items() if isinstance(kind, label)}

    def column(name: str) -> list[Any]:
        return list(table.select_columns([name]).with_format("arrow")[:].column(name).to_pylist())

    return Columns(table.column_names, column, classes)


def _saved(folder: Path) -> Columns:
    """One split; read here, since the library follows whatever paths the JSON files name."""
    import pyarrow

    state, info = _read(folder / STATE, State), _read(folder / INFO, Info)
    try:
        if state.get("_indices_data_files"):
            raise ValueError("an old release wrote it: save it anew")
        files = [folder / one["filename"] for one in state["_data_files"]]
        features = info["features"] or {}
        classes = _classes(features)
        if not files:  # as the library saves a split without rows
            return Columns(features, lambda name: [], classes)
        tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in files]
        table = pyarrow.concat_tables(tables)
        table.validate()
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError("two columns have one name")
    except Exception as error:  # the library raises a dozen kinds for a damaged file
        raise _damaged(folder, error) from error

    def column(name: str) -> list[Any]:
        values = table.column(name)
        values.validate(full=True)  # offsets that lead out of the file too
        return list(values.to_pylist())

    return Columns(table.column_names, column, classes)


def _classes(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The names of classes, by column."""
    kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    found = {name: kind["names"] for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    for name, classes in found.items():
        if not (isinstance(classes, list) and all(isinstance(one, str) and encodable(one) for one in classes)):
            raise ValueError(f"the classes of {name!r} have no names")
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"the classes of {name!r} are not told apart")
    return {name: tuple(classes) for name, classes in found.items()}


def _read(file: Path, kind: type[T]) -> T:
    return read(file, kind, "take a whole copy of the data set", most=MAX_BYTES, extra="ignore")


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"the data set in {folder} cannot be read ({reason(error)}): take a whole copy of it")
