"""Tensors from a safetensors file that may be anything: every size is checked before memory is taken for it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ackd.errors import InputError

MAX_HEADER = 1 << 16  # bytes
PREFIX = 8  # bytes, the length of the header


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], sha256: str) -> dict[str, Tensor]:
    """The float32 tensors of a file, which must have just these names and shapes.

    Raises:
        InputError: if the file is of another kind, has other tensors, is damaged or holds NaN or infinity.

    References:
        https://github.com/huggingface/safetensors#format
    """
    most = PREFIX + MAX_HEADER + 4 * sum(math.prod(shape) for shape in shapes.values())
    size = path.stat().st_size
    with path.open("rb") as file:
        data = file.read(min(size, most))
    header = _header(path, data)
    found = {name: (entry.get("dtype"), entry.get("shape")) for name, entry in header.items()}
    expected = {name: ("F32", list(shape)) for name, shape in shapes.items()}
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        has, should = (part.get(names[0], "nothing") for part in (found, expected))
        raise InputError(f"{path} does not fit policy.json: for {names[0]} it has {has}, and it should have {should}")
    if size > most or hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path} is not the file that policy.json was saved with: it is damaged or cut short")
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): save the policy again") from error
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"{path} holds NaN or infinity in {broken[0]}: the policy cannot act, train it again")
    return tensors


def _header(path: Path, data: bytes) -> dict[str, dict[str, Any]]:
    length = int.from_bytes(data[:PREFIX], "little")
    if length > MAX_HEADER or len(data) < PREFIX + length or data[PREFIX : PREFIX + 1] != b"{":
        # Looked at only now: the length of a good header may happen to begin as a pickle does.
        if data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
            kind = "a zip archive" if data[:2] == b"PK" else "a pickle"
            raise InputError(f"{path} is {kind}, which can hold programs: ackd never executes files, so save it anew")
        raise InputError(f"{path} is not a safetensors file, or is cut short: save the policy again")
    try:
        header = json.loads(data[PREFIX : PREFIX + length].decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has a damaged header ({error}): save the policy again") from error
    header.pop("__metadata__", None)
    if not all(isinstance(entry, dict) for entry in header.values()):
        raise InputError(f"{path} has a damaged header: save the policy again")
    return dict(header)
