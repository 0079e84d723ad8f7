"""Reads options from a YAML file, without executing anything, and writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ackd.errors import InputError, reason

LARGEST = 2**20  # bytes of a file
DIGITS = r"(0|[1-9][0-9]*)"
# The core schema of YAML 1.2.2 (https://yaml.org/spec/1.2.2, 10.3.2): 5e-5 is a number, and 1:30 or `no` is text.
SCHEMA = {
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": f"[-+]?{DIGITS}",
    "float": rf"[-+]?(\.[0-9]+|{DIGITS}(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "null": "~|null|Null|NULL|",
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the package has no type hints
    """Loads texts, numbers, true, false and null, and lists of these."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - name given by PyYAML


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes texts that a reader of YAML 1.1 or 1.2 would take for another type."""


for _kind, _pattern in SCHEMA.items():
    for _one in (_Loader, _Dumper):
        _one.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"({_pattern})\Z"), None)


def _text(dumper: _Dumper, text: str) -> Any:
    """Quotes a text with line breaks or other unprintable characters; PyYAML alone would not escape them."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text)


@dataclass(frozen=True)
class Entry:
    """A key of a file, its value as in JSON, and its line, counted from 1."""

    key: str
    value: Any
    line: int


def read_entries(path: Path) -> list[Entry]:
    """Reads the keys and values of a YAML file.

    Raises:
        InputError: if the file cannot be read, or contains anything but keys with plain values or lists of these.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a YAML file with options")
    if not path.is_file():
        raise InputError(f"there is no file {path}: name a YAML file with options")
    loader = None
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has more than {LARGEST} bytes: name a YAML file with options")
        loader = _Loader(path.read_text(encoding="utf-8"))
        return list(_entries(path, loader, loader.get_single_node()))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        said = getattr(error, "problem", None) or reason(error)
        raise InputError(f"{path}{line} is no YAML ({said}): mend it") from None
    except (OSError, ValueError, RecursionError) as error:  # not text, 5000 digits, or nested too deeply
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({reason(error)}): name a YAML file with options") from None
    finally:
        if loader is not None:
            loader.dispose()


def _entries(path: Path, loader: _Loader, node: Any) -> Iterator[Entry]:
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path} has no keys: write one option a line, as lr: 5e-5")
    for key, value in node.value:
        line = key.start_mark.line + 1
        named = loader.construct_object(key) if isinstance(key, yaml.ScalarNode) else None
        if not isinstance(named, str):
            raise InputError(f"{path}, line {line}: a key has to be the name of an option")
        many = isinstance(value, yaml.SequenceNode) and value.tag == loader.DEFAULT_SEQUENCE_TAG
        parts = value.value if many else [value]
        if not all(isinstance(one, yaml.ScalarNode) for one in parts):
            raise InputError(f"{path}, line {line}: {named} has values inside of values: give one value or a list")
        found = [loader.construct_object(one) for one in parts]
        yield Entry(named, found if many else found[0], line)


def yaml_text(settings: Mapping[str, Any]) -> str:
    """Settings as YAML, one per line, in order."""
    said = yaml.dump(
        dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=2**20
    )
    return str(said)
