"""ACKD: distil small transformers, and let an agent decide while the student trains which knowledge to transfer.

Importing it registers the environments `ACKD/Distill-v0`, `ACKD/Tiny-v0` and `ACKD/Toy-v0` with Gymnasium.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from ackd.building.setting import prepare as prepare
    from ackd.errors import InputError as InputError
    from ackd.experiments.predictions import predict as predict
    from ackd.training.distillation import Distillation as Distillation
    from ackd.training.loop import distill as distill
    from ackd.types import Selection as Selection

__version__ = "0.1.0"
__all__ = ["Distillation", "InputError", "Selection", "distill", "predict", "prepare"]

register("ACKD/Distill-v0", entry_point="ackd.envs.make:distill")
register("ACKD/Tiny-v0", entry_point="ackd.envs.make:tiny")
register("ACKD/Toy-v0", entry_point="ackd.envs.toy:ToyEnv")

_HOMES = {
    "Distillation": "ackd.training.distillation",
    "InputError": "ackd.errors",
    "Selection": "ackd.types",
    "distill": "ackd.training.loop",
    "predict": "ackd.experiments.predictions",
    "prepare": "ackd.building.setting",
}


def __getattr__(name: str) -> Any:
    # lazy: a command's --help need not wait for torch
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ackd' has no attribute {name!r}")
