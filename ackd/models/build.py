"""Builds students from a teacher's layers, from a config, or from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig

from ackd.config import Init
from ackd.errors import InputError, reason, unknown
from ackd.models.families import check_family, cut_config, layer_lists
from ackd.models.forward import Model, predicts_tokens
from ackd.models.guard import check_runs, limited, memory, read_settings
from ackd.models.load import load_model, model_folder
from ackd.models.pooling import Pooling, read_pooling
from ackd.models.sentences import SentenceEncoders, pooling_of
from ackd.numerics.spread import evenly

StudentFactory: TypeAlias = Callable[[], Model]


def from_layers(teacher: Model, count: int, init: Init = "even") -> StudentFactory:
    """Students that are initialised with `count` of the teacher's layers, its embeddings and its head.

    Args:
        teacher: the source of the layers.
        count: number of layers.
        init: layers at `even` distances, or the `first` ones.

    Raises:
        InputError: if the teacher has fewer layers, or its layers cannot be found.
    """
    if init not in get_args(Init):
        raise unknown("start of a student", init, get_args(Init))
    depth = teacher.config.num_hidden_layers
    if not 1 <= count <= depth:
        raise InputError(f"a student of {count} layers cannot be cut from a model of {depth}: choose 1 to {depth}")
    lists = layer_lists(teacher)
    refusal = f"the layers of a {teacher.config.model_type} cannot be picked one by one: give --student instead"
    if not lists:
        raise InputError(refusal)
    groups = len(lists[0][1])
    shared = groups < depth
    if shared and groups > 1:
        raise InputError(
            f"the teacher's {depth} layers share the weights of {groups} groups, which cannot be thinned out: "
            "give --student instead"
        )
    names = () if shared else [name for name, _ in lists]
    first = (0, *(1 + layer for layer in evenly(count - 1, depth - 1)))  # the first layer may be of another kind
    for kept in (evenly(count, depth), first) if init == "even" else (tuple(range(count)),):
        try:
            template = _cut(teacher, names, kept)
        except Exception as error:  # e.g. the config allows no other depth, or layers differ in kind
            failed = error
        else:
            return lambda: copy.deepcopy(template)
    raise InputError(refusal) from failed


def _cut(teacher: Model, lists: Iterable[str], kept: Sequence[int]) -> Model:
    """The teacher with only the layers `kept`; raises an error if its config does not allow that."""
    config = copy.deepcopy(teacher.config)
    cut_config(config, kept)
    with torch.random.fork_rng(devices=[]):  # the weights are replaced, so the caller's random state must not change
        template = from_config(config, language=predicts_tokens(teacher))()
    template.load_state_dict(_thinned(teacher.state_dict(), lists, kept))
    return template


def _thinned(weights: Mapping[str, Tensor], lists: Iterable[str], kept: Sequence[int]) -> dict[str, Tensor]:
    """A model's weights with only the layers `kept`, which are renumbered."""
    thinned = {}
    for name, value in weights.items():
        prefix = next((f"{one}." for one in lists if name.startswith(f"{one}.")), None)
        if prefix is not None:
            layer, _, rest = name[len(prefix) :].partition(".")
            if int(layer) not in kept:
                continue
            name = f"{prefix}{kept.index(int(layer))}.{rest}"
        thinned[name] = value
    return thinned


def from_config(config: Any, *, language: bool = False) -> StudentFactory:
    """Classifiers, causal language models or sentence encoders with random weights from torch's generator.

    A config with a pooling (`pooling_config`) gives sentence encoders.

    Raises:
        InputError: if the config is invalid, or this machine has too little memory to train the model.
    """
    family: Any = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    if not language:
        check_family(config)
    if (pooling := pooling_of(config)) is not None:
        family = SentenceEncoders(pooling)
    most = memory() // 16  # 16 bytes a weight: float32 weight, gradient and two moments
    refusal = f"a student of that config has more than {most:.2g} weights, which this machine has no memory to train"
    with _refusing(config), torch.device("meta"), torch.random.fork_rng(devices=[]), limited(most, refusal):
        family.from_config(copy.deepcopy(config))

    def make() -> Model:
        with _refusing(config):
            model: Model = family.from_config(copy.deepcopy(config))
            check_runs(model)
        return model

    return make


@contextmanager
def _refusing(config: Any) -> Iterator[None]:
    """Turns the errors of an invalid config into `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # model families raise many kinds of errors
        kind = getattr(config, "model_type", "unknown")
        if isinstance(error, ImportError):
            lacking = reason(error).partition(". ")[0]
            raise InputError(f"a {kind} cannot be made here ({lacking}): take another family, such as bert") from error
        raise InputError(f"a {kind} of that config cannot be made ({reason(error)}): correct its sizes") from error


def padding_with(make: StudentFactory, token: int | None) -> StudentFactory:
    """The same students with `token` as padding token in their configs; None changes nothing."""
    if token is None:
        return make

    def padded() -> Model:
        model = make()
        model.config.pad_token_id = token
        return model

    return padded


def from_checkpoint(
    source: str | Path, num_labels: int | None = None, *, pooling: Pooling | None = None
) -> StudentFactory:
    """Students that are initialised from a saved model.

    A head that is missing or has another size gets random weights. Without `num_labels`, the students are causal
    language models. With `pooling`, they are sentence encoders; it is used if the saved model names no pooling.
    """
    found = None if pooling is None else read_pooling(model_folder(source), pooling)

    def make() -> Model:
        if found is not None:
            return load_model(source, pooling=found)
        if num_labels is None:
            return load_model(source, language=True)
        return load_model(source, num_labels=num_labels, new_head=True)

    return make


def read_config(path: str | Path, num_labels: int) -> Any:
    """Reads a model config from a JSON file.

    Raises:
        InputError: if the file cannot be read.
    """
    settings = read_settings(Path(path))
    try:
        return AutoConfig.for_model(**{**settings, "num_labels": num_labels})
    except Exception as error:  # configs raise many kinds of errors
        raise InputError(
            f"{path} is not a model config ({reason(error)}): it needs a 'model_type' and its sizes"
        ) from error


def small_config(
    vocabulary: int, num_labels: int, *, layers: int = 4, width: int = 64, heads: int = 4, dropout: float = 0.0
) -> BertConfig:
    """Config of a small BERT for training from scratch, for generated tasks and tests."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        initializer_range=0.1,  # about 1 / sqrt(width); with BERT's 0.02 a narrow model learns slowly at first
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=num_labels,
    )
