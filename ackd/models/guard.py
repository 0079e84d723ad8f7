"""Protects against config files with wrong sizes: limits memory and checks that a model runs."""

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

SLACK = 1 << 24  # numbers that a model may have in addition to its file: a new head, position tables
TENSORS = 8192  # most tensors of a model (500 layers)
SETTINGS, CLASSES = 1 << 22, 1 << 16  # most bytes of a config, most outputs of a model

Classes: TypeAlias = Annotated[int, Field(ge=0, le=CLASSES)]


@with_config(ConfigDict(extra="allow"))
class Settings(TypedDict, total=False):
    """The checked fields of a model's `config.json`."""

    num_labels: Classes
    _num_labels: Classes


def memory() -> int:
    """This machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_settings(path: Path) -> Object:
    """Reads a model's `config.json`.

    Raises:
        InputError: if it is no JSON object, or its number of outputs is out of range.
    """
    settings = read(path, Settings, "it is not a model config, so give a whole one", most=SETTINGS, extra=None)
    return cast(Object, settings)


@contextmanager
def limited(most: int, refusal: str) -> Iterator[None]:
    """Context manager that stops the construction of too large models before they take memory.

    The limit is `most` numbers in all parameters and buffers.

    Raises:
        InputError: with the text `refusal`, if the model is too large.
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
    """Runs a model on four tokens.

    Raises:
        Exception: any error of the model.
    """
    ids = torch.zeros(1, 4, dtype=torch.int64, device=model.device)
    answers_to(model, ids, torch.ones_like(ids))
