"""Splits work into shards without a coordinator: each process computes its own part."""

from __future__ import annotations

import os

from ackd.errors import InputError


def parse_shard(text: str) -> tuple[int, int]:
    """Parses a shard into its index (from 0) and the number of shards: `2/4` gives (1, 4).

    Raises:
        InputError: if the text has another form.
    """
    place, sign, count = text.partition("/")
    if not (sign and _whole(place) and _whole(count) and 1 <= int(place) <= int(count)):
        raise InputError(f"the shard {text!r} cannot be read: write 1/4 to 4/4")
    return int(place) - 1, int(count)


def own_shard() -> str:
    """The shard of this process among the processes that torchrun or accelerate started; 1/1 without a launcher."""
    rank, count = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return f"{int(rank) + 1}/{count}" if _whole(rank) and _whole(count) else "1/1"


def own_device(device: str) -> str:
    """The device of this process under a launcher: its own GPU for `cuda`, or for `auto` if each can have one."""
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
