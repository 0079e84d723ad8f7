"""The policy store: policies by name, those of the package and the user's own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ackd.agents import store
from ackd.agents.card import MAX_CARD, Card, check_name
from ackd.agents.named import NAMED
from ackd.agents.weights import MAX_PACKED_HEADER, MAX_WEIGHTS, pack, unpack
from ackd.errors import InputError, unknown
from ackd.files.hub import is_named
from ackd.files.schema import read_bytes
from ackd.files.writing import write_whole
from ackd.knowledge import NAMES

SUFFIX = ".safetensors"
SHIPPED = Path(str(files("ackd.agents"))) / "policies"


@dataclass(frozen=True)
class Entry:
    """The folder of a named policy."""

    name: str
    folder: Path
    shipped: bool

    def card(self) -> Card:
        """Reads the policy's card, after checking the whole policy.

        Raises:
            InputError: if the policy is damaged.
        """
        check_name(self.name)
        return store.load(self.folder).card


def home() -> Path:
    """The folder of the user's own policies; it may not exist yet.

    Raises:
        InputError: if there is no home folder and no `ACKD_POLICIES`.

    References:
        https://specifications.freedesktop.org/basedir-spec/latest/: a relative path there is ignored.
    """
    if own := os.environ.get("ACKD_POLICIES"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(data) if os.path.isabs(data) else Path("~/.local/share").expanduser()) / "ackd" / "policies"
    except RuntimeError as error:
        raise InputError("there is no home folder for your policies: let ACKD_POLICIES name a folder") from error


def entries() -> list[Entry]:
    """Every policy's folder by name, those of the package first; the policies are not loaded.

    Raises:
        InputError: if a folder of policies cannot be read.
    """
    return [
        Entry(folder.name, folder, shipped)
        for place, shipped in ((SHIPPED, True), (home(), False))
        for folder in _folders(place)
    ]


def find(name: str) -> Path:
    """The folder of the policy called `name`.

    Raises:
        InputError: if there is none, or one of the user's policies has the name of one of the package.
    """
    every = entries()
    found = [entry.folder for entry in every if entry.name == name]
    if not every:
        raise InputError(f"there is no policy {name!r}: the store is empty; `ackd policies import` puts one there")
    if not found:
        raise unknown("policy", name, {entry.name for entry in every})
    if len(found) > 1:
        raise InputError(f"there are two policies {name!r}, one of them ackd's own: rename your folder {found[1]}")
    return found[0]


def locate(name: str) -> Path:
    """The folder of a policy, from its folder, its run's folder, hf:USER/REPO or its name in the store, in this order.

    Raises:
        InputError: if there is none.
    """
    if os.path.exists(name) or "/" in name or name.startswith(".") or is_named(name):
        return store.within(name)
    return find(name)


def export(name: str, file: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a policy as one file: its weights, with the text of `policy.json` as their metadata.

    Args:
        name: the policy's folder or name, as for `locate`.
        file: the file to write; its name ends in .safetensors.
        overwrite: replace an existing file.

    Raises:
        InputError: if there is no such policy, it is damaged, or the file cannot be written.
    """
    path, folder = Path(file), locate(name)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: an exported policy is a safetensors file, so let its name end in {SUFFIX}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"{path} is there already: choose another name" + ", or add --overwrite" * path.is_file())
    text, weights = store.read(folder)
    store.parse(text, weights, folder / store.CARD, folder / store.WEIGHTS)
    packed = pack(text, weights)
    if unpack(packed, path) != (text, weights):
        raise InputError(f"{folder} was not saved by ackd as it is: save the policy again")
    with _writing(path.parent):
        path.parent.stat()  # raises if the folder does not exist, as after a typo
        write_whole(path, packed)


def import_(source: str | os.PathLike[str], name: str | None = None, *, overwrite: bool = False) -> str:
    """Check a policy, copy it to the user's own, and return its name there.

    Args:
        source: a file that `export` wrote, a policy's folder, a run that holds one, or hf:USER/REPO.
        name: name of the copy; the policy's own name if not given.
        overwrite: replace a policy of the user with the same name.

    Raises:
        InputError: if the policy is damaged, the name is not available, or the store cannot be written.
    """
    path = Path(source)
    if path.is_file():
        text, weights = unpack(read_bytes(path, MAX_WEIGHTS + MAX_PACKED_HEADER), path)
        card = store.parse(text, weights, path, path).card
    else:
        folder = store.within(path)
        text, weights = store.read(folder)
        card = store.parse(text, weights, folder / store.CARD, folder / store.WEIGHTS).card
    chosen = card.name if name is None else name
    _check_free(chosen, overwrite=overwrite)
    if chosen != card.name:
        text = json.dumps(json.loads(text) | {"name": chosen}, indent=2).encode() + b"\n"
    if len(text) > MAX_CARD:
        raise InputError(f"{path} holds so long a {store.CARD} that it cannot be given another name: leave it its own")
    _put(chosen, text, weights)
    return chosen


def _check_free(name: str, *, overwrite: bool) -> None:
    check_name(name)
    if name in NAMED or name in NAMES:
        raise InputError(f"{name!r} is a rule or a knowledge type wherever a policy is asked for: choose a --name")
    if (SHIPPED / name).exists():
        raise InputError(f"ackd comes with a policy {name!r}: choose another --name")
    place = home() / name
    if not os.path.lexists(place):
        return
    if not overwrite:
        raise InputError(f"you have a policy {name!r} already, in {place}: choose another --name, or add --overwrite")
    ours = {store.CARD, store.WEIGHTS, store.README}
    if place.is_symlink() or not place.is_dir() or not {file.name for file in place.iterdir()} <= ours:
        raise InputError(f"{place} is not only a policy, so it is not replaced: choose another --name")


def _put(name: str, text: bytes, weights: bytes) -> None:
    """Writes the whole folder or nothing: it is made under another name and then renamed."""
    place = home()
    with _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{name}.", ignore_cleanup_errors=True) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            store.write(new, text, weights)
            if not (place / name).exists():
                new.rename(place / name)
                return
            try:
                (place / name).rename(old)
                new.rename(place / name)
            finally:
                if old.exists() and not (place / name).exists():  # interrupted in between
                    old.rename(place / name)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror})") from error


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"the policies in {place} cannot be read ({error.strerror})") from error
