"""Finds and stores the corpora of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ackd import models
from ackd.corpora.corpus import Corpus, find_corpus, open_corpus, tokenised
from ackd.corpora.text import Document
from ackd.errors import InputError
from ackd.files.schema import Count, read
from ackd.models import Tokenizer
from ackd.runs.folder import ANEW, RESULT, RunFolder


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
    """Yields the named corpus, or one made from a text file or `texts` beside the run's folder, before the run starts.

    Raises:
        InputError: if the corpus cannot be used, or has another tokenizer than `model`.
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
    """Moves a corpus that was made for this run into the run's folder; returns the corpus."""
    home = folder.path / corpus.folder.name
    if not corpus.folder.parent.name.startswith(f".{folder.path.name}."):
        return corpus
    corpus.folder.replace(home)
    return replace(corpus, folder=home)  # the memory map stays valid


@dataclass(frozen=True)
class Scored:
    """The corpus in the result of a run of `ackd score`."""

    corpus: str  # the corpus folder


@dataclass(frozen=True)
class Pretrained:
    """The corpus in the result of a run of `ackd pretrain`."""

    corpus: str  # fingerprint of the corpus
    first: Count  # first training chunk
    last: Count  # last training chunk + 1


def corpus_of(scores: str) -> str | None:
    """The folder of the scored corpus; None if it has moved."""
    if find_corpus(scores) is not None:
        return scores
    try:
        place = read(Path(scores) / RESULT, Scored, ANEW, extra="ignore").corpus
        return place if find_corpus(place) is not None else None
    except (InputError, OSError):
        return None


def trained_on(run: str, corpus: Corpus) -> tuple[int, int]:
    """The chunks of the corpus that a run of `ackd pretrain` trained on, as (first, last + 1).

    Raises:
        InputError: if it is not such a run, or it used another corpus.
    """
    todo = "give a finished run of ackd pretrain, or shares such as 0:0.05"
    its = read(Path(run) / RESULT, Pretrained, todo, extra="ignore")
    if its.corpus != corpus.header.fingerprint:
        raise InputError(f"{run} learned from another corpus than the one that was scored: nothing is to be left out")
    if not its.first < its.last <= len(corpus):
        raise InputError(
            f"{run} is damaged: it learned from the chunks {its.first} to {its.last}, and the corpus has {len(corpus)}"
        )
    return its.first, its.last
