"""Converts documents to chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from ackd.corpora.text import Document
from ackd.errors import InputError
from ackd.models import SentenceEnds, Tokenizer, end_token, first_tokens, sentence_ends

Tokens = NDArray[np.int64]
TOGETHER = 256  # documents to tokenise at once


def encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[Tokens, str]]:
    """Yields the tokens and the domain of each document; the end-of-text token is the only special token."""
    end = end_token(tokenizer)
    source = iter(documents)
    while group := list(islice(source, TOGETHER)):
        encoded = tokenizer([one.text for one in group], add_special_tokens=False, verbose=False)["input_ids"]
        for ids, document in zip(encoded, group, strict=True):
            yield np.array([*ids, end], np.int64), document.domain


def cut(
    documents: Iterable[tuple[Tokens, str]], ends: SentenceEnds, max_length: int, first: Sequence[int] = ()
) -> Iterator[Tokens]:
    """Concatenates the documents of each domain and cuts them into chunks of 2 to `max_length` tokens.

    A chunk ends at the last token that `ends` a text, a line or a sentence; the tokens after it begin the domain's next
    chunk. Without such a token, the chunk has `max_length` tokens. Chunks of one token are left out, and so are the
    tokens at the end that are too few for a chunk.

    Args:
        documents: the tokens and the domain of each document.
        ends: the tokens after which a chunk may end.
        max_length: most tokens of a chunk; the last token is only predicted.
        first: the first tokens of each chunk.

    References:
        Gu et al., MiniPLM, 2025, https://github.com/thu-coai/MiniPLM, `tools/process_data/tokenize_pile.py`
    """
    begin, size = np.array(first, np.int64), max_length - len(first)
    buffers: dict[str, Tokens] = {}
    for document, domain in documents:
        buffer, start = np.concatenate([buffers.get(domain, begin[:0]), document]), 0
        while len(buffer) - start >= size:
            ahead = buffer[start : start + size + 1]
            whole = (
                len(ahead) == size and (ends.always | ends.perhaps)[ahead[-1]]
            )  # no token follows that could contradict
            place = size - 1 if whole else ends.last(ahead, 0)
            stop = start + (size if place is None else place + 1)
            if stop - start + len(begin) > 1:
                yield np.concatenate([begin, buffer[start:stop]])
            start = stop
        buffers[domain] = buffer[start:]


def chunks_of(documents: Iterable[Document], tokenizer: Tokenizer, max_length: int) -> Iterator[Tokens]:
    """Tokenises documents and cuts them into chunks; those without anything to predict are left out.

    Raises:
        InputError: if the length is below 2, or the tokenizer has no end-of-text token.
    """
    if max_length < 2:
        raise InputError(f"the maximum length is {max_length}: a chunk has 2 tokens or more")
    end = end_token(tokenizer)
    encoded = encode(documents, tokenizer)
    chunks = cut(encoded, sentence_ends(tokenizer), max_length, first_tokens(tokenizer))
    return (chunk for chunk in chunks if (chunk[:-1] != end).any())


def retokenised(chunks: Iterable[Tokens], old: Tokenizer, new: Tokenizer, max_length: int) -> Iterator[Tokens]:
    """Converts each chunk to the tokens of another tokenizer, cut at `max_length`.

    The pieces between end-of-text tokens are decoded without other special tokens, and joined with the new end-of-text
    token. If the new tokenizer has a start token, it comes first.
    """
    old_end, new_end, first = end_token(old), end_token(new), first_tokens(new)
    for chunk in chunks:
        marks = [-1, *np.flatnonzero(chunk == old_end).tolist(), len(chunk)]
        pieces = [chunk[start + 1 : stop].tolist() for start, stop in pairwise(marks)]
        texts = old.batch_decode(pieces, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        encoded = new(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [*first, *encoded[0]]
        for piece in encoded[1:]:
            ids += [new_end, *piece]
        ids = ids[:max_length] if len(ids) > 1 else [*ids, new_end]
        if len(ids) > 1:
            yield np.array(ids, np.int64)
