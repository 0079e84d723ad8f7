"""From documents to chunks of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from ackd.corpora.text import Document
from ackd.models import SentenceEnds, Tokenizer, end_token, first_tokens

Tokens = NDArray[np.int64]
TOGETHER = 256  # documents that are tokenised at once


def encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[Tokens, str]]:
    """The tokens of each document without special ones, the end-of-text token behind them; and its domain."""
    end = end_token(tokenizer)
    source = iter(documents)
    while group := list(islice(source, TOGETHER)):
        encoded = tokenizer([one.text for one in group], add_special_tokens=False, verbose=False)["input_ids"]
        for ids, document in zip(encoded, group, strict=True):
            yield np.array([*ids, end], np.int64), document.domain


def cut(
    documents: Iterable[tuple[Tokens, str]], ends: SentenceEnds, max_length: int, first: Sequence[int] = ()
) -> Iterator[Tokens]:
    """Documents of a domain, one after the other, in chunks of 2 to `max_length` tokens.

    A chunk ends with the last of its tokens that `ends` a text, a line or a sentence, and what is behind that begins
    the domain's next chunk; where there is none, it is `max_length` long. A chunk of one token is left out, and so is
    what is too short for a chunk in the end.

    Args:
        documents: the tokens of each, and its domain.
        ends: behind which tokens a chunk may end.
        max_length: tokens of a chunk, the last of which is only ever predicted.
        first: what each chunk begins with.

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
            )  # nothing follows that speaks against
            place = size - 1 if whole else ends.last(ahead, 0)
            stop = start + (size if place is None else place + 1)
            if stop - start + len(begin) > 1:
                yield np.concatenate([begin, buffer[start:stop]])
            start = stop
        buffers[domain] = buffer[start:]


def retokenised(chunks: Iterable[Tokens], old: Tokenizer, new: Tokenizer, max_length: int) -> Iterator[Tokens]:
    """Each chunk in the tokens of another tokenizer, cut at `max_length`.

    It is decoded piece by piece between its end-of-text tokens, without other special ones, and joined with the new
    one's; a token that begins a text stands in front if the new tokenizer has the habit.
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
