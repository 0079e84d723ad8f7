"""Damage that knows the format: bytes, JSON, JSON lines, tables, safetensors headers and what torch saves."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

MARK = "\x01mark"
# Written as they stand, since JSON's own writer would refuse some of them.
HOSTILE = (
    *("null", "true", "false", "0", "-1", "1", "2", "7", "0.5", "-0.0", "1e-320", "1e308", "1e400", "NaN", "Infinity"),
    *("-Infinity", "65536", "2147483648", "-2147483649", "9223372036854775808", "1180591620717411303424"),
    *("9" * 400, "9" * 5000, '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"../../escaped"'),
    *('"/etc/passwd"', '"nan"', '"1"', '"' + "a" * 5000 + '"', "[]", "{}", "[[]]", '{"": {}}', "[null]"),
    *('["x", 1, {}]', "[" + "1," * 2000 + "1]", '{"a": 1, "a": 2}', "[" * 300 + "]" * 300, "[" * 20000, '{"a":' * 9000),
)
CELLS = ("", "nan", "inf", "-inf", "1e400", "-1", "1.5", "9" * 400, "x", '"', "\x00", "é", ",", "\n", "a" * 3000, "²")
NUMBERS = (0, 1, 2, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        7,
        10**9,
        2**70,
        -0.5,
        1e300,
        float("nan"),
        float("inf"),
        "x",
        b"x",
        [],
        {},
        (),
        [[]],
        {"x": 1},
    ),
    *(torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.full((2, 4), -7), torch.tensor(2**62)),
)
DICTIONARY = (
    b"\x00",
    b"\xff",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\x80\x04",
    b"PK\x03\x04",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes, most of them such that the format is still whole."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        shaped = [change for fits, change in SHAPES if fits(data)]
        try:
            data = rng.choice((*shaped, *shaped, *shaped, _bytes))(data, rng)
        except RecursionError:  # JSON of some depths is read and cannot be written
            data = _bytes(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return rng.choice(DICTIONARY)
    at, size = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 64, len(data)))
    before, here, after = data[:at], data[at : at + size], data[at + size :]
    match rng.randrange(8):
        case 0:
            return before + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return before
        case 2:
            return before + after
        case 3:
            return before + here + here + after
        case 4:
            return before + rng.choice(DICTIONARY) + here + after
        case 5:
            return before + bytes(len(here)) + after
        case 6:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            return b"".join((before, number.to_bytes(width, "little"), data[at + width :]))
        case _:
            return before + bytes(rng.randrange(256) for _ in range(min(size, 16))) + after


def _json(data: bytes, rng: random.Random) -> bytes:
    tree = [json.loads(data)]
    spots = list(_spots(tree))
    where, key = rng.choice(spots)
    hostile = rng.choice(HOSTILE)
    text = ""
    match rng.randrange(7):
        case 0 | 1 | 2:
            where[key] = MARK
        case 3 if where is not tree:
            del where[key]
        case 4 if isinstance(where, dict):
            where[rng.choice(("", "x", "\x00", "__class__", f"{key}s"))] = where.pop(key)
        case 5 if isinstance(where, dict):
            name = json.dumps(key)
            text = json.dumps(tree[0]).replace(f"{name}:", f"{name}: {hostile}, {name}:", 1)
        case _:
            other, its = rng.choice(spots)
            where[key] = json.loads(json.dumps(other[its]))
    text = text or json.dumps(tree[0] if tree else None)
    return text.replace(json.dumps(MARK), hostile).encode()


def _spots(tree: Any) -> Any:
    """Every place that holds a value, and the container that it is in."""
    waiting = [tree]
    while waiting:
        container = waiting.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], dict | list):
                waiting.append(container[key])


def _line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(max(len(lines) - 1, 1))
    if rng.randrange(4) or not _is_json(lines[at]):
        lines[at] = (_json if _is_json(lines[at]) else _bytes)(lines[at], rng)
    else:
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [b"", lines[at]]))
    return b"\n".join(lines)


def _cell(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(max(len(lines) - 1, 1))
    cells = lines[at].split(b",")
    place = rng.randrange(len(cells))
    match rng.randrange(6):
        case 0:
            del cells[place]
        case 1:
            cells.insert(place, cells[place])
        case 2 if place:
            cells[place - 1 : place + 1] = cells[place - 1 : place + 1][::-1]
        case _:
            cells[place] = rng.choice(CELLS).encode()
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _header(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = _json(data[8 : 8 + length], rng)
    told = len(header) if rng.randrange(4) else rng.choice(NUMBERS)
    return told.to_bytes(8, "little") + header + data[8 + length :]


def _state(data: bytes, rng: random.Random) -> bytes:
    try:
        tree = [_tree(_loaded(data))]
        change_state(tree, rng)
    except Exception:  # it is damaged already
        return _bytes(data, rng)
    file = io.BytesIO()
    torch.save(tree[0] if tree else None, file)  # with its checksums
    return file.getvalue()


@lru_cache(64)
def _loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _tree(value: Any) -> Any:
    """Dicts and lists anew, with what they hold."""
    if isinstance(value, dict):
        return {key: _tree(item) for key, item in value.items()}
    return [_tree(item) for item in value] if isinstance(value, list) else value


def change_state(state: Any, rng: random.Random) -> None:
    """Puts another value, shape or name somewhere into a tree of dicts, lists, tensors and numbers."""
    spots = list(_spots(state))
    where, key = rng.choice(spots)
    value = where[key]
    match rng.randrange(8):
        case 0 if len(spots) > 1:
            del where[key]
        case 1 if isinstance(where, dict):
            where[rng.choice(("", "x", 3, None, f"{key}s"))] = where.pop(key)
        case 2:
            other, its = rng.choice(spots)
            where[key] = _tree(other[its])  # not itself, which may hold this one
        case 3 | 4 if isinstance(value, Tensor):
            where[key] = rng.choice(_others(value))
        case _:
            where[key] = rng.choice(VALUES)


def _others(value: Tensor) -> list[Tensor]:
    """Of another shape, kind or content."""
    shapes = [value[None], value.flatten(), value.expand(3, *value.shape), value.flatten()[:1], value.flatten()[1:]]
    kinds = [value.double(), value.half(), value.long(), value.bool(), value.flatten().to_sparse()]
    return [*shapes, *kinds, torch.full_like(value, 100), -value.double(), value.double() * float("nan")]


def _is_state(data: bytes) -> bool:
    return data.startswith(b"PK\x03\x04")


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict | list)
    except (ValueError, RecursionError):
        return False


def _is_lines(data: bytes) -> bool:
    first, end, _ = data.partition(b"\n")
    return bool(end) and _is_json(first) and not _is_json(data)


def _is_table(data: bytes) -> bool:
    first, end, _ = data[:4000].partition(b"\n")
    return bool(end) and b"," in first and first[:1].isalpha() and not _is_json(first)


def _is_safetensors(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little")
    return 8 < 8 + length <= len(data) and _is_json(data[8 : 8 + length])


SHAPES: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, random.Random], bytes]], ...] = (
    (_is_json, _json),
    (_is_lines, _line),
    (_is_table, _cell),
    (_is_safetensors, _header),
    (_is_state, _state),
)
