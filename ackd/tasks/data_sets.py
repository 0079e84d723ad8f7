"""Loads splits of data sets as columns: from the hub, from `save_to_disk` folders, from memory."""

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
LABELS = ("label", "labels")  # usual names of a column of labels
TEXTS = ("text", "sentence")  # usual names of a single column of text
TOKENS = "input_ids"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[^\s:/]+)?")
MAX_BYTES = 1 << 24  # largest JSON file: room for some thousand classes with long names


FileName: TypeAlias = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]  # cannot point to another folder


class Splits(TypedDict):
    """The used fields of `dataset_dict.json`."""

    splits: list[FileName]


class DataFile(TypedDict):
    """A file of rows."""

    filename: FileName


class State(TypedDict):
    """The used fields of a split's `state.json`."""

    _data_files: list[DataFile]
    _indices_data_files: NotRequired[list[Any] | None]


class Info(TypedDict):
    """The used fields of a split's `dataset_info.json`."""

    features: Object | None


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in (SPLITS, STATE))


def is_named(data: Data) -> TypeGuard[str | Path]:
    """Whether `data` is the name of a file, folder or hub data set, instead of the data itself."""
    return isinstance(data, (str, Path))


def given_splits(data: Dataset | DatasetDict) -> tuple[Columns | None, dict[str, Columns]]:
    """A table for a `Dataset`, or the splits by name for a `DatasetDict`.

    Raises:
        InputError: if `data` is something else.
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
    """The text columns and the label column of a table.

    If no columns are named: the labels are `label` or `labels`; the text is `text`, `sentence`, or all text columns.

    Args:
        table: the data.
        source: name of the data in messages.
        text_columns: text columns named by the user; if empty, the chosen ones are logged.
        label_column: label column named by the user, or None.

    Returns:
        One or two text columns (none if the choice is unclear), and the label column or None.

    Raises:
        InputError: if the table contains tokens instead of texts.
    """
    if label_column is None:
        label_column = next((name for name in LABELS if name in table), None)
    if text_columns:
        return text_columns, label_column
    texts = [name for name in table if name != label_column and is_text(table[name])]
    if not texts and TOKENS in table:
        raise InputError(f"{source} holds tokens ({TOKENS}) and no text: give the texts, which every model tokenises")
    texts = next(([name] for name in TEXTS if name in texts), texts)
    if len(texts) > 2:
        return (), label_column
    if texts and texts[0] not in TEXTS:
        logger.info("the text of %s is %s", source, " and ".join(texts))
    return texts, label_column


def is_text(values: Sequence[object]) -> bool:
    """Whether a column contains only texts; some may be missing."""
    some = not values or any(value is not None for value in values)
    return some and all(isinstance(value, str) or value is None for value in values)


def splits_of(data: str) -> dict[str, Columns]:
    """The splits of a data set, by name.

    Args:
        data: a folder written by `save_to_disk` (a single split is called train), or a name on the hub: USER/NAME or
            USER/NAME:CONFIG. Data sets that need a script are refused, because no code is executed.

    Raises:
        InputError: if the data set does not exist or is damaged, or the hub cannot be reached.
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
    except Exception as error:  # the hub's client raises many kinds of errors without a network
        why = " ".join(str(error).split())[:300] or type(error).__name__  # later lines name the configurations
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
    """Loads one split; not with the library, because it follows any path in the JSON files."""
    import pyarrow

    state, info = _read(folder / STATE, State), _read(folder / INFO, Info)
    try:
        if state.get("_indices_data_files"):
            raise ValueError("an old release wrote it: save it anew")
        files = [folder / one["filename"] for one in state["_data_files"]]
        features = info["features"] or {}
        classes = _classes(features)
        if not files:  # the library saves a split without rows like this
            return Columns(features, lambda name: [], classes)
        tables = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in files]
        table = pyarrow.concat_tables(tables)
        table.validate()
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError("two columns have one name")
    except Exception as error:  # the library raises many kinds of errors for damaged files
        raise _damaged(folder, error) from error

    def column(name: str) -> list[Any]:
        values = table.column(name)
        values.validate(full=True)  # also finds offsets outside the file
        return list(values.to_pylist())

    return Columns(table.column_names, column, classes)


def _classes(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The class names, by column."""
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
