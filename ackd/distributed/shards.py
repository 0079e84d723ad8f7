"""Work that is split without anybody who hands it out: each process knows its own part."""

from __future__ import annotations

import os

from ackd.errors import InputError


def parse_shard(text: str) -> tuple[int, int]:
    """Which part, from 0, and of how many: (1, 4) from `2/4`.

    Raises:
        InputError: if it is not written so.
    """
    place, sign, count = text.partition("/")
    if not (sign and _whole(place) and _whole(count) and 1 <= int(place) <= int(count)):
        raise InputError(f"the shard {text!r} cannot be read: write 1/4 to 4/4")
    return int(place) - 1, int(count)


def own_shard() -> str:
    """The part of this process among those that torchrun or accelerate started together; 1/1 without them."""
    rank, count = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return f"{int(rank) + 1}/{count}" if _whole(rank) and _whole(count) else "1/1"


def own_device(device: str) -> str:
    """The GPU of this process among those, where all of them are to take `cuda`, or `auto` and each can have one."""
    local = os.environ.get("LOCAL_RANK", "")
    if not _whole(local):
        return device
    if device == "auto":
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = "cuda" if there >= int(os.environ.get("LOCAL_WORLD_SIZE", 1)) and there > int(local) else "cpu"
    return f"cuda:{local}" if device == "cuda" else device


def _whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
