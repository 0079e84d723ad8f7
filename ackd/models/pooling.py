"""The pooling of sentence encoders, and the folder layout of sentence-transformers.

`modules.json` lists a transformer, a pooling and possibly a normalisation:
https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import cached_file
from typing_extensions import TypedDict

from ackd.errors import InputError, short
from ackd.files.schema import read
from ackd.files.writing import write_whole

logger = logging.getLogger("ackd")

Mode: TypeAlias = Literal["mean", "cls", "max"]
MODULES, TRANSFORMER, SETTINGS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
POOLING, NORMALISE, CONFIG = "1_Pooling", "2_Normalize", "config.json"
LAYOUT = (MODULES, TRANSFORMER, SETTINGS, f"{POOLING}/{CONFIG}", f"{NORMALISE}/{CONFIG}")  # files of the layout
FLAGS = {  # earlier releases of sentence-transformers have a flag for each mode
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MOST = 1 << 20  # most bytes of a file of the layout
WHOLE = "use a complete copy of the model"
OTHER = "use a model with a transformer, a pooling and possibly a normalisation, such as all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Pooling:
    """Computes a text's embedding [d] from its last hidden states h [n, d].

    Args:
        mode: the mean of h over the tokens; `cls`: h of the first token; `max`: the largest entry over the tokens.
        normalise: divide the embedding by its length.
    """

    mode: Mode = "mean"
    normalise: bool = False

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """The embeddings [B, d] of hidden states [B, n, d] and a mask [B, n] that is 0 at padding."""
        states, token = states.float() if states.dtype.itemsize < 4 else states, mask[..., None].bool()
        if self.mode == "mean":
            found = states.where(token, 0.0).sum(1) / token.sum(1).clamp_min(1)
        elif self.mode == "max":
            found = states.masked_fill(~token, torch.finfo(states.dtype).min).max(1).values
        else:
            found = states[:, 0]
        return F.normalize(found, dim=-1) if self.normalise else found


class Part(TypedDict):
    """A module in `modules.json`."""

    path: str
    type: str


class Prompts(TypedDict, total=False):
    """The used fields of `config_sentence_transformers.json`."""

    prompts: dict[str, str] | None
    default_prompt_name: str | None


class Texts(TypedDict, total=False):
    """The used fields of `sentence_bert_config.json`."""

    do_lower_case: bool | None


def read_pooling(source: str, default: Pooling | None = None) -> Pooling:
    """The pooling of a model's folder or hub id.

    Args:
        source: the folder with the weights, or the hub id.
        default: the pooling of a model without `modules.json`; if None, the mean over the tokens, with a warning.

    Raises:
        InputError: if the model has other modules, or a pooling that is not supported.
    """
    file = _file(source, MODULES)
    if file is None:
        if default is None and _file(source, CONFIG) is not None:  # without a model, loading raises an error later
            logger.warning(
                "%s is no model of sentence-transformers (it has no %s): the embedding is the mean over its tokens",
                source, MODULES,
            )  # fmt: skip
        return default or Pooling()
    parts = [(one["type"].rpartition(".")[2], one["path"]) for one in _read(file, list[Part])]
    names = [name for name, _ in parts]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or parts[0][1]:
        raise InputError(f"the model {source} has the modules {short(', '.join(names))}, not supported: {OTHER}")
    settings, texts = _file(source, SETTINGS), _file(source, TRANSFORMER)
    _check_texts(source, _read(settings, Prompts) if settings else {}, _read(texts, Texts) if texts else {})
    config = _file(source, f"{POOLING}/{CONFIG}") if parts[1][1] == POOLING else None
    if config is None:
        raise InputError(f"the model {source} has no {POOLING}/{CONFIG}, which {MODULES} requires: {WHOLE}")
    return Pooling(_mode(source, _read(config, dict[str, Any])), len(names) == 3)


def _check_texts(source: str, prompts: Prompts, texts: Texts) -> None:
    """Raises an error for a model that changes texts before tokenisation."""
    name = prompts.get("default_prompt_name")
    if name and (prompts.get("prompts") or {}).get(name):
        raise InputError(f"the model {source} adds a prompt to each text, which is not supported: use another model")
    if texts.get("do_lower_case"):
        raise InputError(
            f"the model {source} converts texts to lower case ({TRANSFORMER}), which is not supported: use a model "
            "whose tokenizer does it"
        )


def _mode(source: str, config: Mapping[str, Any]) -> Mode:
    """The mode in a pooling's config."""
    given = config.get("pooling_mode")
    modes = [given] if isinstance(given, str) else given
    if modes is None:
        modes = [mode for flag, mode in FLAGS.items() if config.get(flag)] or ["mean"]
    for known in get_args(Mode):
        if modes == [known]:
            return known  # type: ignore[no-any-return]
    raise InputError(
        f"the model {source} has the pooling {short(given or modes)}, and {', '.join(get_args(Mode))} are supported: "
        "use another model"
    )


def _file(source: str, name: str) -> Path | None:
    """A file of a model's folder or hub repository; None if there is none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    try:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except Exception:  # the hub's client raises many kinds of errors; loading the weights reports them
        return None
    return None if found is None else Path(found)


def _read(path: Path, kind: Any) -> Any:
    return read(path, kind, WHOLE, most=MOST, extra="ignore")


def write_layout(folder: str | Path, pooling: Pooling, width: int, max_length: int) -> None:
    """Adds the files of sentence-transformers to a folder with a model and its tokenizer.

    Args:
        folder: the model's folder.
        pooling: the model's pooling.
        width: width of the embeddings.
        max_length: most tokens of a text.
    """
    parts = [("", "Transformer"), (POOLING, "Pooling"), (NORMALISE, "Normalize")][: 3 if pooling.normalise else 2]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    flags: dict[str, Any] = {flag: mode == pooling.mode for flag, mode in FLAGS.items()}
    prompts: dict[str, Any] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    files: dict[str, Any] = {
        MODULES: modules,
        TRANSFORMER: {"max_seq_length": max_length, "do_lower_case": False},
        SETTINGS: prompts,
        f"{POOLING}/{CONFIG}": {"word_embedding_dimension": width, **flags, "include_prompt": True},
    }
    if pooling.normalise:
        files[f"{NORMALISE}/{CONFIG}"] = {}
    for name, content in files.items():
        path = Path(folder) / name
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
