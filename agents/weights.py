"""Reads tensors from untrusted bytes: every size is checked before memory is allocated for it."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ackd.agents.card import MAX_CARD
from ackd.errors import InputError

MAX_WEIGHTS = 1 << 26  # bytes of the whole file
MAX_HEADER = 1 << 16  # bytes
MAX_PACKED_HEADER = MAX_HEADER + 3 * MAX_CARD  # escaped quotes and line ends of a card take two bytes or more
PREFIX = 8  # bytes, the length of the header
KEY = "ackd.policy"
METADATA = '{"__metadata__":'


def read_weights(data: bytes, where: object, shapes: Mapping[str, tuple[int, ...]], sha256: str) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file's bytes, which must have exactly these names and shapes.

    Raises:
        InputError: if the file is of another kind, has other tensors, is damaged or holds NaN or infinity.

    References:
        https://github.com/huggingface/safetensors#format
    """
    header = _parsed(_header(data, where, MAX_HEADER), where)
    found = {name: (entry.get("dtype"), entry.get("shape")) for name, entry in header.items()}
    expected = {name: ("F32", list(shape)) for name, shape in shapes.items()}
    if found != expected:
        name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        shown, has, should = map(reprlib.repr, (name, found.get(name, "nothing"), expected.get(name, "nothing")))
        raise InputError(f"{where} does not fit policy.json: for {shown} it has {has}, and it should have {should}")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{where} is not the file that policy.json was saved with: it is damaged or cut short")
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise InputError(f"{where} is damaged ({error}): save the policy again") from error
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"{where} holds NaN or infinity in {broken[0]}: the policy cannot act, train it again")
    return tensors


def pack(card: bytes, weights: bytes) -> bytes:
    """One safetensors file: the weights, with the text of `policy.json` as its metadata."""
    length = int.from_bytes(weights[:PREFIX], "little")
    start = METADATA + json.dumps({KEY: card.decode()}, ensure_ascii=False, separators=(",", ":")) + ","
    begin = start.encode()
    # Spaces align the tensors to multiples of 8; the header after them is not changed by a byte.
    begin += b" " * (-(len(begin) - 1) % PREFIX)
    return (len(begin) + length - 1).to_bytes(PREFIX, "little") + begin + weights[PREFIX + 1 :]


def unpack(data: bytes, where: object) -> tuple[bytes, bytes]:
    """The inverse of `pack`: the text of `policy.json` and the weights' file.

    Raises:
        InputError: if `pack` did not make this file.
    """
    header = _header(data, where, MAX_PACKED_HEADER)
    length = int.from_bytes(data[:PREFIX], "little")
    try:
        text = header.decode()
        metadata, end = json.JSONDecoder().raw_decode(text, len(METADATA) if text.startswith(METADATA) else 0)
        if metadata.keys() != {KEY} or text[end] != ",":
            raise ValueError("other metadata")
        card = metadata[KEY].encode()
        rest = b"{" + text[end + 1 :].lstrip(" ").encode()
    except (ValueError, RecursionError, IndexError, AttributeError) as error:
        raise InputError(f"{where} holds no policy: give a file that `ackd policies export` wrote") from error
    return card, len(rest).to_bytes(PREFIX, "little") + rest + data[PREFIX + length :]


def _header(data: bytes, where: object, most: int) -> bytes:
    length = int.from_bytes(data[:PREFIX], "little")
    if length > most or len(data) < PREFIX + length or data[PREFIX : PREFIX + 1] != b"{":
        # Checked only now, because the length of a valid header may begin like a pickle.
        if data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
            kind = "a zip archive" if data[:2] == b"PK" else "a pickle"
            raise InputError(f"{where} is {kind}, which can hold programs: ackd never executes files, so save it anew")
        raise InputError(f"{where} is not a safetensors file, or is cut short: save the policy again")
    return data[PREFIX : PREFIX + length]


def _parsed(header: bytes, where: object) -> dict[str, dict[str, Any]]:
    try:
        parsed = json.loads(header.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} has a damaged header ({error}): save the policy again") from error
    if not all(isinstance(entry, dict) for entry in parsed.values()):
        raise InputError(f"{where} has a damaged header: save the policy again")
    return dict(parsed)
