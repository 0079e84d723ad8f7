"""Generates a corpus for sequence distillation: a teacher continues the beginnings of chunks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ackd.corpora.chunks import Tokens
from ackd.corpora.corpus import TOKENS, Corpus, claim, seal, token_type
from ackd.corpora.scores import BLOCK
from ackd.errors import InputError
from ackd.files.schema import Ascii, Count
from ackd.models import generate_tokens
from ackd.numerics.precision import computing
from ackd.teachers import ModelTeacher
from ackd.types import OutputRequest

HEADER = "writing.json"


@dataclass(frozen=True)
class Writing:
    """Options of the generation.

    Args:
        prompt: share of each chunk that is the prompt; the teacher generates as many tokens as the rest had.
        temperature: sampling temperature; 0 always takes the likeliest token.
        no_repeat: length of token sequences that may not repeat in a chunk; 0 allows all.
        batch_size: chunks in a batch.
        seed: seed of the sampling; the random numbers of a chunk depend only on the seed and the chunk's index.

    Raises:
        InputError: if an option is out of range.

    References:
        Kim, Rush, Sequence-Level Knowledge Distillation, 2016, https://arxiv.org/abs/1606.07947; with these defaults
        as a baseline of Gu et al., MiniPLM, 2025, https://arxiv.org/abs/2410.17215
    """

    prompt: float = 0.75
    temperature: float = 1.0
    no_repeat: int = 6
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.prompt < 1:
            raise InputError(f"a prompt of {self.prompt} leaves nothing to read or to write: give a share in between")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"the temperature is {self.temperature}: give 0 or more")
        if self.no_repeat < 0:
            raise InputError(f"runs of {self.no_repeat} tokens cannot be kept from coming twice: give 0 or more")
        if self.batch_size < 1:
            raise InputError(f"the batch size must be above 0, got {self.batch_size}")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}: give 0 or more")

    def given(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N], the prompt lengths for chunks of these lengths: at least one token, and never all."""
        return np.clip((self.prompt * lengths).astype(np.int64), 1, lengths - 1)


@dataclass(frozen=True)
class Header:
    """The content of `writing.json`: model, corpus and options of the generation."""

    model: Ascii  # fingerprint of the model
    corpus: Ascii  # fingerprint of the corpus
    first: Count  # first chunk
    last: Count  # last chunk + 1
    how: Ascii  # `Writing` as JSON


def write(
    teacher: ModelTeacher,
    corpus: Corpus,
    folder: Path,
    part: tuple[int, int],
    how: Writing,
    *,
    on_block: Callable[[int], None] = lambda done: None,
) -> tuple[Corpus, float]:
    """Writes a corpus with chunks of the same lengths, and continues where an earlier run stopped.

    A chunk depends only on the chunks of its block, so it is the same for killed runs. The header is written last, so
    an interrupted run leaves no valid corpus.

    Args:
        teacher: the model that generates.
        corpus: the corpus with the prompts.
        folder: folder for the new corpus.
        part: the chunks, as (first, last + 1).
        how: options of the generation.
        on_block: called with the number of finished chunks.

    Returns:
        The corpus, and the FLOPs for one pass over every chunk.

    Raises:
        InputError: if the model's outputs are not finite, or `folder` contains the output of other options.
    """
    first, last = part
    header = Header(teacher.fingerprint, corpus.header.fingerprint, first, last, json.dumps(asdict(how)))
    refusal = f"the texts in {folder} are another model's or of another corpus: start with --overwrite"
    claim(folder / HEADER, header, refusal)
    tokenizer, lengths = corpus.tokenizer(), corpus.lengths[first:last]
    kind, ends, flops = token_type(tokenizer), np.cumsum(lengths), 0.0
    with (folder / TOKENS).open("ab") as file:
        whole = int(np.searchsorted(ends, file.tell() // kind.itemsize, "right"))
        whole = whole if whole == len(lengths) else whole // BLOCK * BLOCK
        file.truncate(int(ends[whole - 1]) * kind.itemsize if whole else 0)
        for start in range(0, len(lengths), BLOCK):
            block = range(start, min(start + BLOCK, len(lengths)))
            groups = _groups(block, lengths, how.batch_size)
            price = (teacher.flops(OutputRequest(logits=True), len(one), int(lengths[one].max()) - 1) for one in groups)
            flops += sum(price)
            if start >= whole:
                written: dict[int, Tokens] = {}
                for group in groups:
                    written |= _written(teacher, corpus, [first + place for place in group], how)
                file.write(b"".join(written[first + place].astype(kind).tobytes() for place in block))
                file.flush()
                os.fsync(file.fileno())
            on_block(block.stop)
    return seal(folder, lengths, tokenizer, corpus.header.max_length), flops


def _groups(block: range, lengths: NDArray[np.int64], size: int) -> list[list[int]]:
    """Splits the chunks of a block into batches of similar length."""
    order = sorted(block, key=lambda place: int(lengths[place]))
    return [order[at : at + size] for at in range(0, len(order), size)]


def _written(teacher: ModelTeacher, corpus: Corpus, indices: list[int], how: Writing) -> dict[int, Tokens]:
    """Generates the chunks with these indices."""
    chunks = [corpus.chunk(place) for place in indices]
    given = how.given(np.array([len(chunk) for chunk in chunks]))
    prompts = [chunk[:count] for chunk, count in zip(chunks, given, strict=True)]
    draws = [
        np.random.default_rng([how.seed, place]).random(len(chunk) - count)
        for place, chunk, count in zip(indices, chunks, given, strict=True)
    ]
    with computing(teacher.precision, teacher.model.device):
        rests = generate_tokens(
            teacher.model,
            prompts,
            draws,
            vocabulary=corpus.header.vocabulary,
            temperature=how.temperature,
            no_repeat=how.no_repeat,
        )
    return {place: np.concatenate(pair) for place, *pair in zip(indices, prompts, rests, strict=True)}
