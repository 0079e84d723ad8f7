"""Transformers as this project sees them. Only here and in `ackd.tasks` is the library imported."""

from ackd.models.build import StudentFactory, from_checkpoint, from_config, from_layers, read_config, small_config
from ackd.models.cost import Cost, Meter
from ackd.models.forward import Model, cannot_give, capturing, compiled, run, shape_of
from ackd.models.load import (
    Tokenizer,
    class_names,
    load_model,
    load_tokenizer,
    model_folder,
    same_vocabulary,
    save_model,
)

__all__ = [
    "Cost",
    "Meter",
    "Model",
    "StudentFactory",
    "Tokenizer",
    "cannot_give",
    "capturing",
    "class_names",
    "compiled",
    "from_checkpoint",
    "from_config",
    "from_layers",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "read_config",
    "run",
    "same_vocabulary",
    "save_model",
    "shape_of",
    "small_config",
]
