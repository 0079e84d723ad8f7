"""Tokenizers and configs of causal language models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Trained
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerFast

from ackd.errors import InputError, reason
from ackd.models.forward import Model
from ackd.models.guard import read_settings
from ackd.models.load import Config, Tokenizer, quieten

END = "<|endoftext|>"
SMALLEST = 257  # all bytes, and the end of a text
ENDING = ".!?;\n"  # signs that end a sentence or a line, anywhere in a token
OPENED = (("[", "]"), ("(", ")"), ("\\", "{"), ("<", ">"))  # a token with the first sign but not the second is no end


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer of at most `size` tokens, with an end-of-text token.

    It can encode every text.

    Raises:
        InputError: if `size` is less than `SMALLEST`.

    References:
        Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016,
        https://arxiv.org/abs/1508.07909
    """
    if size < SMALLEST:
        raise InputError(f"a vocabulary of {size} has no room for the {SMALLEST} tokens that every text needs")
    learned = Trained(BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learned, eos_token=END, pad_token=END)


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The largest token id plus one."""
    return int(max(tokenizer.get_vocab().values())) + 1


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of the vocabulary and the end-of-text token; equal if all ids have the same meaning."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([vocabulary, end_token(tokenizer)]).encode()).hexdigest()


def end_token(tokenizer: Tokenizer) -> int:
    """The id of the end-of-text token.

    Raises:
        InputError: if the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no end-of-text token, as that of a causal "
            "language model has: give another"
        )
    return int(tokenizer.eos_token_id)


@dataclass(frozen=True)
class SentenceEnds:
    """The tokens after which a text may be cut.

    A text may always be cut after the end-of-text token and after a token with a line end. It may be cut after a token
    with a sentence end if this token and the next one, decoded together, contain a space. This excludes `D.A.`, `3.14`
    and `www.a.org`.

    References:
        Gu et al., MiniPLM, 2025; the rules (with the odd pair of `OPENED`) come from its code:
        https://github.com/thu-coai/MiniPLM, `tools/process_data/tokenize_pile.py` and `get_end_sent_tokens.py`
    """

    always: NDArray[np.bool_]  # [V]
    perhaps: NDArray[np.bool_]  # [V]
    spaced: Callable[[int, int], bool]  # whether two tokens, decoded together, contain a space

    def last(self, tokens: NDArray[np.int64], first: int) -> int | None:
        """The index of the last token after which the text may be cut; None if there is none.

        Only tokens from index `first` on are considered, without the text's last token.
        """
        ends = self.always | self.perhaps
        for place in first + np.flatnonzero(ends[tokens[first:-1]])[::-1]:
            if self.always[tokens[place]] or self.spaced(int(tokens[place]), int(tokens[place + 1])):
                return int(place)
        return None


def sentence_ends(tokenizer: Tokenizer) -> SentenceEnds:
    """The tokens of a tokenizer after which a text may be cut."""
    always, perhaps = np.zeros((2, vocabulary_size(tokenizer)), np.bool_)

    def said(*tokens: int) -> str:
        text: str = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text

    for token in tokenizer.get_vocab().values():
        text = said(token)
        if any(sign in text for sign in ENDING) and not any(one in text and other not in text for one, other in OPENED):
            perhaps[token], always[token] = True, "\n" in text
    always[end_token(tokenizer)] = True
    return SentenceEnds(always, perhaps, lru_cache(2**16)(lambda one, other: " " in said(one, other)))


def first_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens that the tokenizer puts before each text: its beginning-of-text token, or none."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    begins = tokenizer.bos_token_id is not None and len(whole) > len(bare) and whole[0] == tokenizer.bos_token_id
    return [int(whole[0])] if begins else []


def language_config(path: str | Path | Config, tokenizer: Tokenizer, vocabulary: int | None = None) -> Any:
    """Reads a causal language model's config from a JSON file and adapts it to a tokenizer.

    Args:
        path: the file, with a `model_type` and its sizes; or a config, which is copied.
        tokenizer: provides the ids of the special tokens.
        vocabulary: smallest vocabulary size; by default that of the tokenizer. It is also the size if the file has
            none.

    Raises:
        InputError: if the file cannot be read, or its vocabulary is too small.
    """
    wanted = vocabulary or vocabulary_size(tokenizer)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    quieten()
    given = path.to_dict() if isinstance(path, PretrainedConfig) else read_settings(Path(path))
    path = type(path).__name__ if isinstance(path, PretrainedConfig) else path
    try:
        config = AutoConfig.for_model(**{"vocab_size": wanted, **given, **special})
        too_small = bool(config.vocab_size < wanted)
    except Exception as error:  # configs raise many kinds of errors
        raise InputError(
            f"{path} is not a model config ({reason(error)}): it needs a 'model_type' and its sizes"
        ) from error
    if too_small:
        raise InputError(
            f"{path} has a vocabulary of {config.vocab_size}, and {wanted} tokens are needed: leave it out"
        )
    return config


def check_length(model: Model, length: int, source: str) -> None:
    """Checks that a model can read texts of `length` tokens.

    Raises:
        InputError: if the texts are too long.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise InputError(f"{source} reads {most} tokens at once, and there are texts of {length}: cut them shorter")
