"""Corpora that runs leave beside what they make of them, and find again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ackd import models
from ackd.corpora.corpus import Corpus, find_corpus, open_corpus, tokenised
from ackd.corpora.text import Document
from ackd.errors import InputError
from ackd.models import Tokenizer
from ackd.runs.folder import RESULT, RunFolder


@contextmanager
def ready(
    folder: RunFolder,
    source: str,
    tokenizer: Tokenizer,
    max_length: int,
    model: str,
    name: str = "corpus",
    texts: Iterable[Document] | None = None,
) -> Iterator[Corpus]:
    """The corpus that is named, or a text file made one, or `texts`: beside the run's folder, which is not begun yet.

    Raises:
        InputError: if it cannot be used, or is of another tokenizer than `model`'s.
    """
    own = find_corpus(folder.path / name) if folder.resumed else None
    if own is not None or (texts is None and not Path(source).is_file()):
        corpus = open_corpus(own or source)
        if corpus.header.tokenizer != models.tokenizer_fingerprint(tokenizer):
            raise InputError(
                f"the corpus {source} is of another tokenizer than {model}: give the text itself, or a corpus that was "
                "converted with ackd refine-data --retokenise"
            )
        yield corpus
        return
    beside = next(parent for parent in folder.path.absolute().parents if parent.exists())
    with TemporaryDirectory(prefix=f".{folder.path.name}.", dir=beside, ignore_cleanup_errors=True) as place:
        yield tokenised(Path(place) / name, source if texts is None else texts, tokenizer, max_length)


def kept_in(folder: RunFolder, corpus: Corpus) -> Corpus:
    """The same corpus; one that was made for this run moves into its folder."""
    home = folder.path / corpus.folder.name
    if not corpus.folder.parent.name.startswith(f".{folder.path.name}."):
        return corpus
    corpus.folder.replace(home)
    return replace(corpus, folder=home)  # what is mapped stays mapped


def corpus_of(scores: str) -> str | None:
    """The corpus that some scores are of, if it is where it was."""
    if find_corpus(scores) is not None:
        return scores
    try:
        place = json.loads((Path(scores) / RESULT).read_text(encoding="utf-8"))["corpus"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return place if isinstance(place, str) and find_corpus(place) is not None else None


def trained_on(run: str, corpus: Corpus) -> tuple[int, int]:
    """The chunks of the corpus that a model of `ackd pretrain` learned from.

    Raises:
        InputError: if it is no such run, or it learned from another corpus.
    """
    try:
        result = json.loads((Path(run) / RESULT).read_text(encoding="utf-8"))
        its, first, last = result["corpus"], result["first"], result["last"]
        if not (type(first) is type(last) is int and 0 <= first < last):
            raise ValueError("no part of the corpus")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{run} is no finished run of ackd pretrain: give one, or shares such as 0:0.05") from error
    if its != corpus.header.fingerprint:
        raise InputError(f"{run} learned from another corpus than the one that was scored: nothing is to be left out")
    if last > len(corpus):
        raise InputError(f"{run} is damaged: it learned from {last} chunks, and the corpus has {len(corpus)}")
    return first, last
