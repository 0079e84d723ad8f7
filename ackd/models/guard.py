"""Models of sizes that stand in a file: no more memory than is justified, and a sentence where they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from typing_extensions import TypedDict

from ackd.errors import InputError
from ackd.files.schema import Object, read
from ackd.models.families import answers_to
from ackd.models.forward import Model

SLACK = 1 << 24  # numbers that a model may have besides those in its file: a new head, tables of positions
TENSORS = 8192  # of a model: 500 layers
SETTINGS, CLASSES = 1 << 22, 1 << 16  # bytes of a config, and outputs of a model

Classes: TypeAlias = Annotated[int, Field(ge=0, le=CLASSES)]


@with_config(ConfigDict(extra="allow"))
class Settings(TypedDict, total=False):
    """What is looked at of a model's `config.json`."""

    num_labels: Classes
    _num_labels: Classes


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_settings(path: Path) -> Object:
    """The settings in a model's `config.json`.

    Raises:
        InputError: if it is no JSON object, or has a number of outputs that no model has.
    """
    settings = read(path, Settings, "it is not a model config, so give a whole one", most=SETTINGS, extra=None)
    return cast(Object, settings)


@contextmanager
def limited(most: int, refusal: str) -> Iterator[None]:
    """Ends the making of a model, before memory is taken, when its tensors come to more than `most` numbers.

    Raises:
        InputError: then, with the refusal.
    """
    sizes: dict[tuple[int, str], int] = {}
    total = 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if tensor is None:
            return
        place = (id(module), name)
        total += tensor.numel() - sizes.get(place, 0)
        sizes[place] = tensor.numel()
        if total > most or len(sizes) > TENSORS:
            raise InputError(refusal)

    hooks: list[Any] = [
        register(count)
        for register in (register_module_parameter_registration_hook, register_module_buffer_registration_hook)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_runs(model: Model) -> None:
    """Asks a model about four tokens.

    Raises:
        Exception: whatever a model of such a config raises.
    """
    ids = torch.zeros(1, 4, dtype=torch.int64, device=model.device)
    answers_to(model, ids, torch.ones_like(ids))
