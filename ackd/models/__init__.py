"""Transformers as this project sees them. Only here and in `ackd.tasks` is the library imported."""

from ackd.models.build import StudentFactory, from_checkpoint, from_config, from_layers, read_config, small_config
from ackd.models.forward import Cost, Model, can_give_attention, cost_of, run, shape_of
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
    "Model",
    "StudentFactory",
    "Tokenizer",
    "can_give_attention",
    "class_names",
    "cost_of",
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
