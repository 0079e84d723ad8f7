"""Transformers as this project sees them. Only here and in `ackd.tasks` is the library imported."""

from ackd.models.build import (
    Init,
    StudentFactory,
    from_checkpoint,
    from_config,
    from_layers,
    padding_with,
    read_config,
    small_config,
)
from ackd.models.cost import Cost, Meter
from ackd.models.families import padding_of
from ackd.models.forward import Model, cannot_give, capturing, compiled, run, shape_of
from ackd.models.load import (
    Tokenizer,
    class_names,
    is_classifier,
    load_model,
    load_tokenizer,
    model_folder,
    same_vocabulary,
    save_model,
    save_tokenizer,
)
from ackd.models.vocabulary import (
    SentenceEnds,
    check_length,
    end_token,
    first_tokens,
    language_config,
    sentence_ends,
    tokenizer_fingerprint,
    train_tokenizer,
    vocabulary_size,
)
from ackd.models.writing import check_causal, go_on

__all__ = [
    "Cost",
    "Init",
    "Meter",
    "Model",
    "SentenceEnds",
    "StudentFactory",
    "Tokenizer",
    "cannot_give",
    "capturing",
    "check_causal",
    "check_length",
    "class_names",
    "compiled",
    "end_token",
    "first_tokens",
    "from_checkpoint",
    "from_config",
    "from_layers",
    "go_on",
    "is_classifier",
    "language_config",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "padding_of",
    "padding_with",
    "read_config",
    "run",
    "same_vocabulary",
    "save_model",
    "save_tokenizer",
    "sentence_ends",
    "shape_of",
    "small_config",
    "tokenizer_fingerprint",
    "train_tokenizer",
    "vocabulary_size",
]
