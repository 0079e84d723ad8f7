"""From documents to chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from ackd.models import Tokenizer, end_token, starts_texts

Tokens = NDArray[np.int64]
TOGETHER = 256  # documents that are tokenised at once


def encode(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[Tokens]:
    """The tokens of each document without special ones, and the end-of-text token behind them."""
    end = end_token(tokenizer)
    source = iter(documents)
    while group := list(islice(source, TOGETHER)):
        for ids in tokenizer(group, add_special_tokens=False, verbose=False)["input_ids"]:
            yield np.array([*ids, end], np.int64)


def cut(documents: Iterable[Tokens], ends: NDArray[np.bool_], max_length: int) -> Iterator[Tokens]:
    """Documents, one after the other, in chunks of 2 to `max_length` tokens.

    A chunk ends with the last of its tokens that ends a text, a line or a sentence, and what is behind that begins the
    next chunk; where there is none, it is `max_length` long. What is left in the end is a chunk as well, if it has
    more than one token.

    Args:
        documents: the tokens of each.
        ends: [V], whether a chunk may end with a token.
        max_length: tokens of a chunk, the last of which is only ever predicted.
    """
    buffer = np.empty(0, np.int64)
    for document in documents:
        buffer, start = np.concatenate([buffer, document]), 0
        while len(buffer) - start >= max_length:
            piece = buffer[start : start + max_length]
            places = np.flatnonzero(ends[piece[1:]])  # a chunk of one token would have nothing to predict
            stop = int(places[-1]) + 2 if len(places) else max_length
            yield piece[:stop]
            start += stop
        buffer = buffer[start:]
    if len(buffer) > 1:
        yield buffer


def retokenised(chunks: Iterable[Tokens], old: Tokenizer, new: Tokenizer, max_length: int) -> Iterator[Tokens]:
    """Each chunk in the tokens of another tokenizer, cut at `max_length`.

    It is decoded piece by piece between its end-of-text tokens, and joined with the new one's; a token that begins a
    text stands in front if the new tokenizer has the habit.
    """
    old_end, new_end = end_token(old), end_token(new)
    first = [int(new.bos_token_id)] if starts_texts(new) else []
    for chunk in chunks:
        marks = [-1, *np.flatnonzero(chunk == old_end).tolist(), len(chunk)]
        pieces = [chunk[start + 1 : stop].tolist() for start, stop in pairwise(marks)]
        texts = old.batch_decode(pieces, clean_up_tokenization_spaces=False)
        encoded = new(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [*first, *encoded[0]]
        for piece in encoded[1:]:
            ids += [new_end, *piece]
        if len(ids) > 1:
            yield np.array(ids[:max_length], np.int64)
