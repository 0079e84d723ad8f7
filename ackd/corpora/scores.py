"""Scores of a corpus on disk: a language model's mean loss on each chunk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.corpora.corpus import ANEW, Corpus, claim, mapped
from ackd.costs import CostTracker
from ackd.distributed.shards import parse_shard
from ackd.errors import InputError, not_finite
from ackd.files.schema import Ascii, Count, read
from ackd.knowledge import label_loss
from ackd.tasks import Split
from ackd.types import OutputRequest, Teacher

HEADER, VALUES = "scores.json", "scores.bin"
BLOCK = 64  # chunks to write at once; a killed run loses at most one block, and shards consist of whole blocks
FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Header:
    """The content of `scores.json`: model, corpus and chunks of the scores."""

    model: Ascii  # fingerprint of the model
    corpus: Ascii  # fingerprint of the corpus
    tokenizer: Ascii  # fingerprint of the tokenizer
    chunks: Count  # chunks of the whole corpus
    first: Count  # first scored chunk
    last: Count  # last scored chunk + 1
    batch_size: Count


@dataclass(frozen=True)
class Scores:
    """A model's mean loss on each chunk of a corpus, [N], from one or several shards."""

    header: Header
    values: NDArray[np.float32]


def shard(chunks: int, text: str) -> tuple[int, int]:
    """The chunks of a shard such as `2/4`, as (first, last + 1): whole blocks, in shards of similar size.

    Raises:
        InputError: if the text is not a shard, or there are more shards than blocks.
    """
    place, count = parse_shard(text)
    blocks = -(-chunks // BLOCK)
    if count > blocks:
        raise InputError(f"{chunks} chunks are {blocks} blocks of {BLOCK}: they make no {count} shards")
    first, last = (blocks * part // count * BLOCK for part in (place, place + 1))
    return first, min(last, chunks)


def score(
    model: Teacher,
    corpus: Corpus,
    folder: Path,
    part: tuple[int, int],
    *,
    batch_size: int,
    device: torch.device,
    on_block: Callable[[int], None] = lambda done: None,
) -> float:
    """Writes a model's loss on each chunk, and continues where an earlier run stopped.

        loss_i = -1/n_i sum_t log p(x_t | x_<t)

    A score depends only on the chunks of its block. So it is the same, bit for bit, for killed runs and for any number
    of shards.

    Args:
        model: a causal language model.
        corpus: the corpus to score.
        folder: folder for the scores.
        part: the chunks, as (first, last + 1); whole blocks.
        batch_size: chunks in a batch.
        device: device of the model.
        on_block: called with the number of scored chunks.

    Returns:
        The FLOPs for all chunks.

    Raises:
        InputError: if a loss is not finite, or `folder` contains other scores.
    """
    first, last = part
    its = corpus.header
    header = Header(model.fingerprint, its.fingerprint, its.tokenizer, len(corpus), first, last, batch_size)
    refusal = f"the scores in {folder} are of another model or corpus: start anew with --overwrite"
    claim(folder / HEADER, header, refusal)
    split, flops = corpus.split(first, last), 0.0
    with (folder / VALUES).open("ab") as file:
        whole = min(file.tell() // FLOAT.itemsize, len(split))
        whole = whole if whole == len(split) else whole // BLOCK * BLOCK
        file.truncate(whole * FLOAT.itemsize)
        for start in range(0, len(split), BLOCK):
            stop = min(start + BLOCK, len(split))
            groups = _groups(split, start, stop, batch_size)
            flops += sum(model.flops(OutputRequest(logits=True), len(group), _inputs(split, group)) for group in groups)
            if start >= whole:
                values = np.empty(stop - start, FLOAT)
                for group in groups:
                    values[group - start] = _losses(model, split, group, device)
                bad = np.flatnonzero(~np.isfinite(values))
                if len(bad):
                    raise InputError(not_finite("loss", (first + start + bad).tolist()))
                file.write(values.tobytes())
                file.flush()
                os.fsync(file.fileno())
            on_block(stop)
    return flops


def read_values(folder: Path, count: int) -> NDArray[np.float32]:
    """Reads the scores in a folder.

    Raises:
        InputError: if their number is not `count`.
    """
    return mapped(folder / VALUES, FLOAT, count)


def open_scores(paths: Sequence[str | Path]) -> Scores:
    """Opens the scores of a whole corpus from the folders of its shards, in any order.

    Raises:
        InputError: if a shard is missing, unfinished or damaged, if the models or corpora differ, or if the shards do
            not cover the corpus.
    """
    if not paths:
        raise InputError("no scores were named: give the folders of one model's")
    parts = []
    for path in paths:
        folder = Path(path)
        if not (folder / HEADER).is_file():
            raise InputError(f"there are no scores in {path}: expected {HEADER}")
        header = read(folder / HEADER, Header, ANEW)
        if not header.first < header.last <= header.chunks:
            raise InputError(f"{folder / HEADER} is damaged: it has the chunks {header.first} to {header.last}")
        size = (folder / VALUES).stat().st_size if (folder / VALUES).is_file() else 0
        if size < (header.last - header.first) * FLOAT.itemsize:
            raise InputError(
                f"the scores in {path} are unfinished, {size // FLOAT.itemsize} of {header.last - header.first}: "
                "go on with ackd score --resume"
            )
        parts.append((path, header, read_values(folder, header.last - header.first)))
    parts.sort(key=lambda part: part[1].first)
    path, one, _ = parts[0]
    reached = 0
    for other, header, _ in parts:
        if (header.model, header.corpus) != (one.model, one.corpus):
            what = "models" if header.model != one.model else "corpora"
            raise InputError(f"the scores in {path} and {other} are of two {what}: give the shards of one")
        if header.first != reached:
            raise InputError(f"the scores do not cover the corpus once, at chunk {reached} of {one.chunks}")
        reached = header.last
    if reached != one.chunks:
        raise InputError(f"the scores end at chunk {reached} of {one.chunks}: give every shard")
    values = np.concatenate([values for _, _, values in parts])
    if not np.isfinite(values).all():
        raise InputError(f"the scores in {path} hold NaN or infinity: score the corpus anew")
    return Scores(one, values)


def _groups(split: Split, start: int, stop: int, size: int) -> list[NDArray[np.int64]]:
    """Splits the chunks of a block into batches of similar length."""
    order = start + np.argsort(np.diff(split.offsets[start : stop + 1]), kind="stable")
    return [order[at : at + size] for at in range(0, len(order), size)]


def _inputs(split: Split, group: NDArray[np.int64]) -> int:
    """The number of input tokens per chunk in a padded batch."""
    return int((split.offsets[group + 1] - split.offsets[group]).max()) - 1


def _losses(model: Teacher, split: Split, group: NDArray[np.int64], device: torch.device) -> NDArray[np.float32]:
    batch = split.batch(group).to(device)
    with torch.no_grad():
        logits = model(batch, OutputRequest(logits=True), CostTracker()).logits
        assert logits is not None
        losses: NDArray[np.float32] = label_loss(logits, batch.labels).float().cpu().numpy()
    return losses
