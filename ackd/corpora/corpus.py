"""A corpus of tokens on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ackd.corpora.chunks import Tokens, chunks_of
from ackd.corpora.text import Document, documents
from ackd.errors import InputError
from ackd.files.schema import Ascii, Count, read
from ackd.files.writing import write_whole
from ackd.models import (
    Tokenizer,
    end_token,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    vocabulary_size,
)
from ackd.tasks import Split

HEADER, TOKENS, OFFSETS, TOKENIZER = "corpus.json", "tokens.bin", "offsets.bin", "tokenizer"
ANEW = "write it anew"
PIECE = 2**22  # tokens to check at once


@dataclass(frozen=True)
class Header:
    """The content of `corpus.json`."""

    fingerprint: Ascii  # SHA-256 of the tokenizer's fingerprint, of all lengths and of all tokens
    tokenizer: Ascii  # the tokenizer's fingerprint
    chunks: Count
    tokens: Count
    vocabulary: Count
    dtype: Literal["uint8", "uint16", "uint32"]  # the smallest type for the vocabulary
    max_length: Count  # most tokens of a chunk
    end: Count  # the end-of-text token: nothing is predicted after it


@dataclass(frozen=True)
class Corpus:
    """Chunks of tokens, memory-mapped, in a folder that also contains their tokenizer."""

    folder: Path
    header: Header
    tokens: NDArray[Any]  # of all chunks, one after the other
    offsets: NDArray[np.int64]  # [N + 1], the start of each chunk

    def __len__(self) -> int:
        return self.header.chunks

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N], the number of tokens of each chunk."""
        return np.diff(self.offsets)

    def chunk(self, place: int) -> Tokens:
        """The tokens of one chunk."""
        return self.tokens[self.offsets[place] : self.offsets[place + 1]].astype(np.int64)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the corpus."""
        return load_tokenizer(self.folder / TOKENIZER)

    def split(self, first: int, last: int) -> Split:
        """The chunks from `first` to before `last`, as a split for next-token prediction; nothing is copied."""
        start, stop = self.offsets[first], self.offsets[last]
        labels = np.zeros(last - first, np.int64)
        ids = np.arange(first, last)
        offsets = self.offsets[first : last + 1] - start
        tokens = {"input_ids": self.tokens[start:stop]}
        return Split(tokens, offsets, labels, ids, {}, language=True, end=self.header.end)


def write_corpus(folder: Path, chunks: Iterable[Tokens], tokenizer: Tokenizer, max_length: int) -> Corpus:
    """Writes chunks to a corpus; the header comes last, so an interrupted write leaves no valid corpus.

    Raises:
        InputError: if there is no chunk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER).unlink(missing_ok=True)
    kind, lengths = token_type(tokenizer), []
    with (folder / TOKENS).open("wb") as file:
        for chunk in chunks:
            file.write(chunk.astype(kind).tobytes())
            lengths.append(len(chunk))
    return seal(folder, np.array(lengths, np.int64), tokenizer, max_length)


def token_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    """The smallest little-endian type for the vocabulary."""
    return np.min_scalar_type(vocabulary_size(tokenizer) - 1).newbyteorder("<")


def seal(folder: Path, lengths: NDArray[np.int64], tokenizer: Tokenizer, max_length: int) -> Corpus:
    """Completes a corpus from the tokens in a folder and the chunk lengths; the header is written last.

    Raises:
        InputError: if there is no chunk.
    """
    if not len(lengths):
        raise InputError(no_chunk(max_length))
    kind, its = token_type(tokenizer), tokenizer_fingerprint(tokenizer)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
    (folder / OFFSETS).write_bytes(offsets.tobytes())
    save_tokenizer(folder / TOKENIZER, tokenizer)
    tokens = mapped(folder / TOKENS, kind, int(offsets[-1]))
    fingerprint, vocabulary = _fingerprint(its, tokens, offsets), vocabulary_size(tokenizer)
    end = end_token(tokenizer)
    name = cast(Literal["uint8", "uint16", "uint32"], kind.name)
    header = Header(fingerprint, its, len(lengths), len(tokens), vocabulary, name, max_length, end)
    write_whole(folder / HEADER, (json.dumps(asdict(header), indent=2) + "\n").encode())
    return Corpus(folder, header, tokens, offsets)


def no_chunk(max_length: int) -> str:
    """The message for a text that is shorter than a chunk."""
    return f"no text fills a chunk of {max_length} tokens: give more of it, or shorter chunks (--max-length)"


def tokenised(folder: Path, texts: str | Path | Iterable[Document], tokenizer: Tokenizer, max_length: int) -> Corpus:
    """Tokenises a text file or documents, and writes them as a corpus in `folder`.

    Raises:
        InputError: if the file cannot be read or has no text, or the length is below 2.
    """
    given = documents(texts) if isinstance(texts, (str, Path)) else texts
    return write_corpus(folder, chunks_of(given, tokenizer, max_length), tokenizer, max_length)


def find_corpus(path: str | Path) -> Path | None:
    """The folder of the corpus in `path`, which may be a run's folder; None if there is none."""
    indices = (Path(path), Path(path) / "corpus")
    return next((place for place in indices if (place / HEADER).is_file()), None)


def open_corpus(path: str | Path) -> Corpus:
    """Opens the corpus in a folder or a run's folder; all of it is checked, and nothing is executed.

    Raises:
        InputError: if there is no corpus, or it is damaged.
    """
    folder = find_corpus(path)
    if folder is None:
        raise InputError(f"there is no corpus in {path}: expected {HEADER}")
    header = read(folder / HEADER, Header, ANEW)
    kind = np.dtype(header.dtype).newbyteorder("<")
    tokens = mapped(folder / TOKENS, kind, header.tokens)
    offsets = np.array(mapped(folder / OFFSETS, np.dtype("<i8"), header.chunks + 1), np.int64)
    inside = bool(((offsets >= 0) & (offsets <= len(tokens))).all())  # so that differences do not overflow
    sound = inside and offsets[0] == 0 and offsets[-1] == len(tokens) and bool((np.diff(offsets) > 1).all())
    pieces = (tokens[start : start + PIECE] for start in range(0, len(tokens), PIECE))
    sound = sound and header.end < header.vocabulary
    if not sound or any(int(piece.max()) >= header.vocabulary for piece in pieces):
        raise InputError(f"the corpus in {folder} is damaged: its chunks or tokens are out of range; write it anew")
    if _fingerprint(header.tokenizer, tokens, offsets) != header.fingerprint:
        raise InputError(f"the corpus in {folder} is damaged: it is not what its {HEADER} says; write it anew")
    return Corpus(folder, header, tokens, offsets)


def claim(path: Path, header: Any, refusal: str) -> None:
    """Writes a header, or compares it with the existing one.

    Raises:
        InputError: with the text `refusal`, if the existing header differs.
    """
    if not path.is_file():
        write_whole(path, (json.dumps(asdict(header), indent=2) + "\n").encode())
    elif read(path, type(header), ANEW) != header:
        raise InputError(refusal)


def mapped(path: Path, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    """Memory-maps an array of `count` numbers in a file.

    Raises:
        InputError: if the file does not exist or has another size.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}: it is incomplete")
    size = path.stat().st_size
    if size != count * kind.itemsize:
        raise InputError(
            f"{path} is damaged or incomplete: it has {size} bytes and should have {count * kind.itemsize}"
        )
    return np.memmap(path, kind, "r") if count else np.empty(0, kind)


def _fingerprint(tokenizer: str, tokens: NDArray[Any], offsets: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(f"{tokenizer} {len(tokens)} {len(offsets)}".encode())
    digest.update(np.ascontiguousarray(offsets, "<i8").data)
    for start in range(0, len(tokens), PIECE):
        digest.update(np.ascontiguousarray(tokens[start : start + PIECE]).data)
    return digest.hexdigest()
