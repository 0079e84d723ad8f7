"""Sentence encoders: models whose `logits` are a text's embedding, one vector."""

from __future__ import annotations

import functools
import inspect
from dataclasses import asdict
from typing import Any, TypeGuard, get_args

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from ackd.errors import InputError
from ackd.models.families import check_family
from ackd.models.pooling import Mode, Pooling, read_pooling

ATTRIBUTE = "sentence_pooling"  # attribute of a sentence encoder's config, in memory only
EMBEDS = "_ackd_embeds"  # attribute of its class


def pooling_of(config: PretrainedConfig) -> Pooling | None:
    """The pooling of a sentence encoder's config; None for other models."""
    found = getattr(config, ATTRIBUTE, None)
    if not isinstance(found, dict) or found.keys() != asdict(Pooling()).keys() or found["mode"] not in get_args(Mode):
        return None  # a foreign config may have another value under this name
    return Pooling(**found)


def pooling_config(config: PretrainedConfig, pooling: Pooling) -> PretrainedConfig:
    """Makes a config that of a sentence encoder, in place; returns it."""
    setattr(config, ATTRIBUTE, asdict(pooling))
    return config


def pools(model: PreTrainedModel) -> bool:
    """Whether a model is a sentence encoder."""
    return getattr(type(model), EMBEDS, False)


_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}  # encoder classes by the family's class


def _encoder(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A subclass of a family's model that returns the embeddings [B, d] as `logits`.

    So embeddings are computed, counted, cached and compared like logits.
    """
    if base in _CLASSES:
        return _CLASSES[base]
    known = inspect.signature(base.forward)

    @functools.wraps(base.forward)
    def forward(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        answer, pooling = base.forward(self, *args, **kwargs), pooling_of(self.config)
        assert pooling is not None
        states = answer.last_hidden_state
        mask = known.bind(self, *args, **kwargs).arguments.get("attention_mask") if args else kwargs["attention_mask"]
        answer["logits"] = pooling(states, states.new_ones(states.shape[:2]) if mask is None else mask)
        return answer

    _CLASSES[base] = type(base.__name__, (base,), {"forward": forward, EMBEDS: True, "__module__": base.__module__})
    return _CLASSES[base]


def _base(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class of a family's model without a head."""
    check_family(config)
    found = AutoModel._model_mapping[type(config)]
    # Funnel has two: one that keeps all tokens, and one that pools them
    first: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return first


class SentenceEncoders:
    """Creates sentence encoders, with the methods of transformers' auto classes.

    Args:
        pooling: the pooling of models whose config has none.
    """

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling

    def from_config(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights."""
        if pooling_of(config) is None:
            pooling_config(config, self.pooling)
        return _encoder(_base(config))._from_config(config)

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """Loads a saved model; options as for transformers."""
        config = pooling_config(AutoConfig.from_pretrained(folder, trust_remote_code=False), self.pooling)
        return _encoder(_base(config)).from_pretrained(folder, config=config, **options)


def is_body(model: object) -> TypeGuard[PreTrainedModel]:
    """Whether a model has no head, like models of `AutoModel`."""
    return isinstance(model, PreTrainedModel) and type(model).__name__.endswith("Model")


def as_encoder(model: PreTrainedModel, default: Pooling | None = None) -> PreTrainedModel:
    """Makes a model a sentence encoder, in place; returns it.

    Args:
        model: a model without a head.
        default: the pooling, if the folder or repository of the model names none.

    Raises:
        InputError: if the model has a head, or its pooling is not supported.
    """
    if pools(model):
        return model
    if not is_body(model):
        raise InputError(
            f"a {type(model).__name__} has a head and returns no embeddings: load it with AutoModel, or name its folder"
        )
    named = getattr(model, "name_or_path", "")
    pooling_config(model.config, read_pooling(named, default) if named else default or Pooling())
    model.__class__ = _encoder(type(model))
    return model
