"""Reads back the state that a run has saved; its content is untrusted and never executed."""

from __future__ import annotations

import copy
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from ackd.errors import InputError, reason


def read_tensors(path: Path) -> Any:
    """Reads tensors, numbers and names that `torch.save` wrote; no tensor may be larger than the file.

    Raises:
        InputError: if the file contains anything else or is damaged.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("it says that it is larger than it is")
            if spoilt := archive.testzip():  # torch does not verify checksums
                raise ValueError(f"the checksum of {spoilt} does not fit")
        with warnings.catch_warnings(action="ignore"):  # torch warns about pickles
            content = torch.load(path, weights_only=True)
        if any(one.layout != torch.strided or one.nbytes > size for one in _tensors(content)):
            raise ValueError("it has a tensor larger than itself")
    except Exception as error:  # torch, zip and pickle raise many kinds of errors
        raise InputError(f"{path} is damaged ({reason(error)})") from error
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    waiting, seen = [content], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:  # a file may contain cycles
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one


def matches_schema(given: Any, own: Any) -> bool:
    """Whether values from a file have the same names, types and shapes as `own`, and can replace them.

    A float may be any number, an integer must fit in 64 bits, a floating-point tensor may have any precision, and a
    list may have any length.
    """
    if isinstance(own, dict):
        same = isinstance(given, dict) and given.keys() == own.keys()
        return same and all(matches_schema(given[name], value) for name, value in own.items())
    if isinstance(own, list):
        return isinstance(given, list | tuple) and all(matches_schema(item, own[0]) for item in given if own)
    if isinstance(own, tuple):
        same = isinstance(given, list | tuple) and len(given) == len(own)
        return same and all(matches_schema(item, value) for item, value in zip(given, own, strict=True))
    if isinstance(own, Tensor):
        same = isinstance(given, Tensor) and given.shape == own.shape
        return same and given.is_floating_point() == own.is_floating_point()
    if isinstance(own, float):
        return type(given) is float or (type(given) is int and abs(given) <= sys.float_info.max)
    return type(given) is type(own) and not (isinstance(given, int) and abs(given) >= 2**63)


def restore(own: Adam | AdamW | SGD | LambdaLR, state: dict[str, Any]) -> None:
    """Loads a saved state into an optimizer or its learning-rate schedule; the state itself is not changed.

    Call it for the optimizer first, then for the schedule.

    Raises:
        ValueError: if the state belongs to another training. This matters because fused optimizers would write past the
            end of moments that are too small.
    """
    given, there = ({**one, "state": None} for one in (state, own.state_dict()))
    another = f"the state of the {type(own).__name__} is that of another training"
    if not matches_schema(given, there) or _options(given) != _options(there):
        raise ValueError(another)
    own.load_state_dict(copy.deepcopy(state))
    if isinstance(own, LambdaLR):
        rates = [base * share(own.last_epoch) for base, share in zip(own.base_lrs, own.lr_lambdas, strict=True)]
        if rates != [group["lr"] for group in own.optimizer.param_groups]:
            raise ValueError(another)
        return
    for parameter, moments in own.state.items():
        known = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        if not matches_schema(moments, known) or not moments["step"] >= 0:
            raise ValueError(f"the state of the {type(own).__name__} is that of another model")


def _options(state: dict[str, Any]) -> list[Any]:
    """The options of an optimizer without scheduled learning rates, and the initial rates of a schedule."""
    groups = state.get("param_groups", ())
    return [*({**one, "lr": None} if "initial_lr" in one else one for one in groups), *state.get("base_lrs", ())]
