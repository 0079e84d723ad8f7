"""Records a model's training examples in a file in its folder."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ackd.errors import InputError, reason
from ackd.files.schema import only, parse, read_bytes
from ackd.files.writing import write_whole
from ackd.models import Model, model_folder
from ackd.tasks.rows import Rows

FILE, FORMAT = "seen.json", 1
MAX_BYTES, MAX_PARTS = 1 << 26, 256  # limits of a file; 400,000 rows take 67 kB

Mask = NDArray[np.bool_]
_NOTED: WeakKeyDictionary[Model, tuple[str, Seen]] = WeakKeyDictionary()


class Part(NamedTuple):
    """Some rows of one source of training data."""

    data: str  # the fingerprint of the source
    size: int  # number of rows of the source
    bits: bytes  # one bit per row of the source: 1 if seen; the first row is the highest bit of the first byte


@dataclass(frozen=True)
class Seen:
    """The training data of one or several models.

    Args:
        parts: one per source, ordered by fingerprint.
        complete: whether this is all training data; False if a model has no record of its training data.
    """

    parts: tuple[Part, ...] = ()
    complete: bool = True

    def rows(self, data: str, count: int) -> Mask:
        """[count], True for seen rows of the source with the fingerprint `data`."""
        for part in self.parts:
            if (part.data, part.size) == (data, count):
                return np.unpackbits(np.frombuffer(part.bits, np.uint8), count=count).astype(np.bool_)
        return np.zeros(count, np.bool_)

    def plus(self, data: str, rows: Mask) -> Seen:
        """This record together with further rows of the source `data`."""
        return together([self, Seen((Part(data, len(rows), np.packbits(rows).tobytes()),))])


NOTHING, UNKNOWN = Seen(), Seen(complete=False)


def together(several: Iterable[Seen]) -> Seen:
    """The union of several records."""
    found: dict[tuple[str, int], bytes] = {}
    complete = True
    for seen in several:
        complete &= seen.complete
        for data, size, bits in seen.parts:
            both = np.frombuffer(bits, np.uint8) | np.frombuffer(found.get((data, size), bits), np.uint8)
            found[data, size] = both.tobytes()
    return Seen(tuple(Part(*key, found[key]) for key in sorted(found)), complete)


def fingerprint(rows: Rows) -> str:
    """SHA-256 of texts and labels, in order; computed for a whole source, before any split is cut from it."""
    digest = hashlib.sha256()
    for column in rows.texts:
        encoded = [text.encode() for text in column]
        digest.update(np.array([len(text) for text in encoded], "<i8").data)
        digest.update(b"".join(encoded))
    kind = "<f4" if rows.labels.dtype.kind == "f" else "<i8"
    digest.update(np.ascontiguousarray(rows.labels, dtype=kind).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class PartOfFile:
    """A source in `seen.json`, with the bits in base64."""

    data: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    count: Annotated[int, Field(ge=1, le=8 * MAX_BYTES)]
    rows: str

    def part(self) -> Part:
        """Converts the source to a `Part`."""
        bits = base64.b64decode(self.rows.encode("ascii", "replace"), validate=True)
        if len(bits) != -(-self.count // 8) or (self.count % 8 and bits[-1] & (0xFF >> self.count % 8)):
            raise ValueError("a source has rows beyond its number")
        return Part(self.data, self.count, bits)


@dataclass(frozen=True)
class SeenFile:
    """The content of `seen.json`."""

    format: Annotated[int, only(FORMAT)]
    complete: bool
    seen: Annotated[list[PartOfFile], Field(max_length=MAX_PARTS)]


def write_seen(folder: str | Path, seen: Seen) -> None:
    """Writes `seen.json` into a model's folder, atomically."""
    parts = [PartOfFile(part.data, part.size, base64.b64encode(part.bits).decode()) for part in seen.parts]
    content = asdict(SeenFile(FORMAT, seen.complete, parts))
    write_whole(Path(folder) / FILE, (json.dumps(content, indent=1) + "\n").encode())


def note_seen(model: Model, seen: Seen) -> None:
    """Notes the training data of a model in memory; the note is valid until its weights change."""
    _NOTED[model] = _weights(model), seen


def noted_seen(model: Model) -> Seen | None:
    """The noted training data of a model; None if there is no note, or the weights have changed since."""
    weights, seen = _NOTED.get(model, ("", None))
    return seen if seen is not None and weights == _weights(model) else None


def _weights(model: Model) -> str:
    """SHA-256 of a model's weights, in float32."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def read_seen(source: str | Path) -> Seen | None:
    """Reads a model's record of its training data; None if it has none, e.g. a model from the hub.

    Raises:
        InputError: if there is no such model, or its record is damaged.
    """
    path = Path(model_folder(source)) / FILE
    if not path.is_file():
        return None
    text = read_bytes(path, MAX_BYTES)
    try:
        file = parse(text, SeenFile)
        parts = [one.part() for one in file.seen]
        if len({(part.data, part.size) for part in parts}) < len(parts):
            raise ValueError("a source is there twice")
    except ValueError as error:
        raise InputError(
            f"{path} does not say what the model has seen ({reason(error)}): it is damaged; take a whole copy of the "
            "model, or remove the file if nobody knows"
        ) from error
    return Seen(tuple(sorted(parts)), file.complete)
