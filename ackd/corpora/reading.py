"""Reads the texts of the task `language`: files, folders of a corpus, data sets, or texts at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ackd import models
from ackd.corpora.chunks import chunks_of
from ackd.corpora.corpus import find_corpus, no_chunk, open_corpus, token_type
from ackd.corpora.text import LINES, Document, documents, given_documents
from ackd.errors import InputError
from ackd.models import Tokenizer
from ackd.tasks import Split
from ackd.tasks.data_sets import Data, columns_of, is_named
from ackd.tasks.own import DEV, alone, called, train_and_splits
from ackd.tasks.read import Columns

Texts: TypeAlias = Data | Sequence[str]


class Read(NamedTuple):
    """Texts in chunks, and where they are from."""

    chunks: Split
    source: str


def read_texts(
    texts: Texts, tokenizer: Tokenizer, max_length: int, text_columns: Sequence[str] = ()
) -> tuple[Read, Read | None]:
    """The chunks of texts, and those of their split to report on; None if they have none.

    Args:
        texts: a text or JSON lines file, the folder of a corpus, a list of texts, or data of one's own with a column of
            text (`ackd.tasks.own`); its split to report on is the first of `DEV`.
        tokenizer: the tokenizer.
        max_length: most tokens of a chunk; the last token is only predicted.
        text_columns: the column, if it is not `text` or the only one.

    Raises:
        InputError: if there are no texts, they fill no chunk, or a corpus has another tokenizer.
    """
    if _is_text(texts):
        return _alone(texts, tokenizer, max_length), None
    table, splits, first = train_and_splits(texts)
    read = _table(table, called(first, texts), tokenizer, max_length, text_columns)
    name = next((split for split in DEV if split != first and split in splits), None)
    dev = None if name is None else _table(splits[name], called(name, texts), tokenizer, max_length, text_columns)
    return read, dev


def read_dev(texts: Texts, tokenizer: Tokenizer, max_length: int, text_columns: Sequence[str] = ()) -> Read:
    """The chunks of texts to report on; see `read_texts`."""
    if _is_text(texts):
        return _alone(texts, tokenizer, max_length)
    return _table(alone(texts), called(None, texts), tokenizer, max_length, text_columns)


def _is_text(texts: Any) -> bool:
    """Whether texts are no table with columns: a corpus, a text file, or a list of texts."""
    if not is_named(texts):
        return isinstance(texts, (list, tuple))
    return find_corpus(texts) is not None or Path(texts).suffix in (".txt", *LINES)


def _alone(texts: Any, tokenizer: Tokenizer, max_length: int) -> Read:
    if not is_named(texts):
        return Read(_split(given_documents("data", texts), tokenizer, max_length), "the texts")
    if find_corpus(texts) is None:
        return Read(_split(documents(texts), tokenizer, max_length), str(texts))
    corpus = open_corpus(texts)
    if corpus.header.tokenizer != models.tokenizer_fingerprint(tokenizer):
        raise InputError(
            f"the corpus {texts} is of another tokenizer than the student: give the text itself, or a corpus that was "
            "converted with ackd refine-data --retokenise"
        )
    if corpus.header.max_length > max_length:
        raise InputError(
            f"the corpus {texts} has chunks of {corpus.header.max_length} tokens, and --max-length is {max_length}: "
            f"give --max-length {corpus.header.max_length}"
        )
    return Read(corpus.split(0, len(corpus)), str(texts))


def _table(table: Columns, source: str, tokenizer: Tokenizer, max_length: int, text_columns: Sequence[str]) -> Read:
    columns, _ = columns_of(table, source, text_columns, None)
    if len(columns) != 1 or columns[0] not in table:
        raise InputError(f"name the column of text of {source} with --text-columns (one): it has {', '.join(table)}")
    return Read(_split(given_documents(source, table[columns[0]]), tokenizer, max_length), source)


def _split(texts: Iterable[Document], tokenizer: Tokenizer, max_length: int) -> Split:
    kind = token_type(tokenizer)
    found = [chunk.astype(kind) for chunk in chunks_of(texts, tokenizer, max_length)]
    if not found:
        raise InputError(no_chunk(max_length))
    offsets = np.concatenate([[0], np.cumsum([len(chunk) for chunk in found])])
    inputs: Mapping[str, Any] = {"input_ids": np.concatenate(found)}
    count = len(found)
    end = models.end_token(tokenizer)
    return Split(inputs, offsets, np.zeros(count, np.int64), np.arange(count), {}, language=True, end=end)
