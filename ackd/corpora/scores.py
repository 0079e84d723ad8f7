"""What a language model makes of each chunk of a corpus: one number, on disk."""

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
BLOCK = 64  # chunks that are written together: what a kill costs at most, and the grain of a shard
FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Header:
    """What `scores.json` says: whose scores these are, and of what."""

    model: Ascii  # the model's fingerprint
    corpus: Ascii  # the corpus's
    tokenizer: Ascii  # its tokenizer's
    chunks: Count  # of the whole corpus
    first: Count  # the first chunk that is scored here
    last: Count  # and the one behind the last
    batch_size: Count


@dataclass(frozen=True)
class Scores:
    """A model's mean loss on each chunk of a corpus, [N], of one or several shards."""

    header: Header
    values: NDArray[np.float32]


def shard(chunks: int, text: str) -> tuple[int, int]:
    """The chunks of a shard such as `2/4`, from the first to before the last: whole blocks, as even as they go.

    Raises:
        InputError: if it is not written so, or there are more shards than blocks.
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
    """Writes a model's loss on each chunk, and goes on where an earlier run stopped.

        loss_i = -1/n_i sum_t log p(x_t | x_<t)

    A number depends on the chunks of its block alone, so that it is the same, bit for bit, whenever the run was killed
    and however the corpus is sharded.

    Args:
        model: a causal language model.
        corpus: what is scored.
        folder: where.
        part: the chunks from the first to before the last; whole blocks.
        batch_size: chunks that the model is asked about at a time.
        device: where it is.
        on_block: is told how many chunks are scored.

    Returns:
        The FLOPs of all of it.

    Raises:
        InputError: if the model answers what is no number, or `folder` has other scores.
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
    """The scores in a folder.

    Raises:
        InputError: if they are not as many as they should be.
    """
    return mapped(folder / VALUES, FLOAT, count)


def open_scores(paths: Sequence[str | Path]) -> Scores:
    """The scores of a whole corpus from the folders of its shards, in any order.

    Raises:
        InputError: if one is missing, unfinished or damaged, they are not of one model and corpus, or do not cover it.
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
    """The places of a block in batches, those of similar length together."""
    order = start + np.argsort(np.diff(split.offsets[start : stop + 1]), kind="stable")
    return [order[at : at + size] for at in range(0, len(order), size)]


def _inputs(split: Split, group: NDArray[np.int64]) -> int:
    """The tokens that a padded batch of these has."""
    return int((split.offsets[group + 1] - split.offsets[group]).max()) - 1


def _losses(model: Teacher, split: Split, group: NDArray[np.int64], device: torch.device) -> NDArray[np.float32]:
    batch = split.batch(group).to(device)
    with torch.no_grad():
        logits = model(batch, OutputRequest(logits=True), CostTracker()).logits
        assert logits is not None
        losses: NDArray[np.float32] = label_loss(logits, batch.labels).float().cpu().numpy()
    return losses
