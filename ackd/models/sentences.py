"""Sentence encoders: models that answer a text with one vector, its embedding, in the place of logits."""

from __future__ import annotations

import functools
import inspect
from dataclasses import asdict
from typing import Any, TypeGuard, get_args

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from ackd.errors import InputError
from ackd.models.families import check_family
from ackd.models.pooling import Mode, Pooling, read_pooling

ATTRIBUTE = "sentence_pooling"  # of a sentence encoder's config, while it is in memory
EMBEDS = "_ackd_embeds"  # of its class


def pooling_of(config: PretrainedConfig) -> Pooling | None:
    """The pooling of a sentence encoder's config; None for other models."""
    found = getattr(config, ATTRIBUTE, None)
    if not isinstance(found, dict) or found.keys() != asdict(Pooling()).keys() or found["mode"] not in get_args(Mode):
        return None  # a config from elsewhere may have anything under this name
    return Pooling(**found)


def pooling_config(config: PretrainedConfig, pooling: Pooling) -> PretrainedConfig:
    """The same config, which from now on is that of a sentence encoder."""
    setattr(config, ATTRIBUTE, asdict(pooling))
    return config


def pools(model: PreTrainedModel) -> bool:
    """Whether a model answers with embeddings."""
    return getattr(type(model), EMBEDS, False)


_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}  # by the class of the family's model


def _encoder(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A family's model, whose outputs have the sentence's embedding [B, d] as `logits`.

    Everything that runs, counts, caches and compares what a model answers with then does so with embeddings.
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
    first: type[PreTrainedModel] = (
        found[0] if isinstance(found, tuple) else found
    )  # Funnel has one that pools its tokens
    return first


class SentenceEncoders:
    """Makes sentence encoders, with the methods of transformers' auto classes.

    Args:
        pooling: of models whose config has none.
    """

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling

    def from_config(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights."""
        if pooling_of(config) is None:
            pooling_config(config, self.pooling)
        return _encoder(_base(config))._from_config(config)

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """A saved model; options as for transformers."""
        config = pooling_config(AutoConfig.from_pretrained(folder, trust_remote_code=False), self.pooling)
        return _encoder(_base(config)).from_pretrained(folder, config=config, **options)


def is_body(model: object) -> TypeGuard[PreTrainedModel]:
    """Whether a model has no head, as one of `AutoModel`."""
    return isinstance(model, PreTrainedModel) and type(model).__name__.endswith("Model")


def as_encoder(model: PreTrainedModel, default: Pooling | None = None) -> PreTrainedModel:
    """The same model, which from now on has its text's embedding among its outputs.

    Args:
        model: a model without a head.
        default: its pooling, if the folder or repository that it was loaded from has none.

    Raises:
        InputError: if the model has a head, or its pooling is not supported.
    """
    if pools(model):
        return model
    if not is_body(model):
        raise InputError(
            f"a {type(model).__name__} answers with its head and not with embeddings: load it with AutoModel, or name "
            "its folder"
        )
    named = getattr(model, "name_or_path", "")
    pooling_config(model.config, read_pooling(named, default) if named else default or Pooling())
    model.__class__ = _encoder(type(model))
    return model
