"""Builds the tasks of language models: for pre-training, and for distillation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ackd.corpora.corpus import Corpus
from ackd.corpora.reading import Read, Texts, read_dev, read_texts
from ackd.errors import InputError
from ackd.models import Tokenizer
from ackd.tasks import LANGUAGE, TRAIN, UNKNOWN, Split, Task, check_max_length, held_out_size, part_of_dev

LEAST = 8  # chunks of a text, of which some are held out
DEV_CHUNKS, DEV_SHARE = 2000, 0.2  # without a dev text: most chunks to report on, and their share


def language_task(
    corpus: Corpus, part: tuple[int, int], dev: Corpus | None = None, dev_share: float = 0.05
) -> tuple[Task, tuple[int, int]]:
    """Builds a task from a corpus, with training and dev texts but without a reward split.

    Args:
        corpus: the texts.
        part: the chunks to use, as (first, last + 1).
        dev: the dev texts.
        dev_share: share of the part to hold out from its end if there is no `dev`; at least one chunk.

    Returns:
        The task, and the training chunks.

    Raises:
        InputError: if the share is out of range, or no training chunk is left.
    """
    first, last = part
    report: Split
    if dev is not None:
        report = dev.split(0, len(dev))
    else:
        if not 0 < dev_share < 1:
            raise InputError(f"a share of {dev_share} cannot be held out: give one above 0, below 1")
        cut = last - max(round(dev_share * (last - first)), 1)
        if cut <= first:
            raise InputError(
                f"the corpus has {last - first} chunks, which leaves nothing to learn from beside the held-out part: "
                "give more text or shorter chunks, or --dev-data"
            )
        report, last = corpus.split(cut, last), cut
    return Task(LANGUAGE, corpus.split(first, last), corpus.split(0, 0), {"held-out": report}), (first, last)


def text_task(
    data: Texts | None,
    tokenizer: Tokenizer,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    dev_data: Texts | None = None,
    max_examples: int | None = None,
    reward_examples: int | None = None,
    reward_from: str = TRAIN,
    wrong_labels: float = 0.0,
    max_length: int = 128,
    seed: int = 0,
) -> Task:
    """Builds the task `language` from texts, with its train, reward and dev splits.

    Each split is one stretch of the text: first the chunks to learn from, then those of the reward split, and at the
    end those of dev. So no held-out chunk lies between two that the student learns from.

    Args:
        data: see `read_texts`.
        tokenizer: of teacher and student.
        text_columns: see `read_texts`.
        label_column: must be None.
        dev_data: texts to report on. None: the dev split of `data`, or its last fifth, at most 2,000 chunks.
        max_examples: number of chunks to learn from, drawn from those that the held-out splits leave.
        reward_examples: chunks of the reward split; 0: none. None: 256, or an eighth of the rest if that is less.
        reward_from: train, or dev:PART: the first part of dev becomes the reward split, and dev keeps the rest.
        wrong_labels: must be 0.
        max_length: most tokens of a chunk; the last token is only predicted.
        seed: draws the chunks of `max_examples`.

    Raises:
        InputError: if an argument or the text is missing or invalid.
    """
    share = part_of_dev(reward_from)
    _check(data, label_column, wrong_labels, max_examples, reward_examples, seed)
    assert data is not None
    check_max_length(tokenizer, max_length)
    read, dev = read_texts(data, tokenizer, max_length, text_columns)
    if dev_data is not None:
        dev = read_dev(dev_data, tokenizer, max_length, text_columns)
    whole, last = read.chunks, len(read.chunks)
    if last < LEAST:
        raise InputError(_few(read, max_length, LEAST))
    if dev is None:
        cut = last - max(min(DEV_CHUNKS, round(DEV_SHARE * last)), 1)
        dev, last = Read(_stretch(whole, cut, last), read.source), cut
    report = dev.chunks
    if share is None:
        first = last - held_out_size(reward_examples, last, LANGUAGE.name)
        reward, last = _stretch(whole, first, last), first
    else:
        if len(report) < 2:
            raise InputError(_few(dev, max_length, 2))
        first = min(max(round(share * len(report)), 1), len(report) - 1)
        reward, report = _stretch(report, 0, first), _stretch(report, first, len(report))
    chosen = np.arange(last)
    if max_examples is not None and max_examples < last:
        chosen = np.sort(np.random.default_rng(seed).choice(last, max_examples, replace=False))
    dev_splits = {LANGUAGE.validation[0]: report}
    train = whole.select(chosen)
    return Task(LANGUAGE, train, reward, dev_splits, reward_from, UNKNOWN, tokenizer, max_length=max_length)


def _check(
    data: Texts | None,
    label_column: str | None,
    wrong_labels: float,
    max_examples: int | None,
    reward_examples: int | None,
    seed: int,
) -> None:
    """Refuses what the task does not take."""
    if data is None:
        raise InputError(
            f'the task {LANGUAGE.name} learns from a text: give --data with a text file, JSON lines with a "text", the '
            "folder of a corpus, or a data set with a column of text"
        )
    if label_column is not None or wrong_labels:
        name = "--label-column" if label_column is not None else "--wrong-labels"
        raise InputError(f"the labels of the task {LANGUAGE.name} are the next tokens: leave {name} away")
    if max_examples is not None and max_examples < 1:
        raise InputError(f"--max-examples is {max_examples}: {LANGUAGE.name} needs at least 1 chunk to learn from")
    if reward_examples is not None and reward_examples < 0:
        raise InputError(f"the reward split needs at least 1 example, or 0 for none, got {reward_examples}")
    if seed < 0:
        raise InputError(f"the seed of the data must be 0 or more, got {seed}")


def _few(read: Read, max_length: int, least: int) -> str:
    count = len(read.chunks)
    return (
        f"{read.source} fills {count} chunk{'s' * (count != 1)} of at most {max_length} tokens, and {least} are needed"
        ": give more text, or shorter chunks (--max-length)"
    )


def _stretch(split: Split, first: int, last: int) -> Split:
    return split.select(np.arange(first, last))


def part(chunks: int, text: str) -> tuple[int, int]:
    """The chunks of a part such as `0:0.05` (shares of the corpus), as (first, last + 1).

    Raises:
        InputError: if the text is not a part, or the part has no chunk.
    """
    begin, sign, end = text.partition(":")
    try:
        shares = float(begin or 0), float(end or 1)
    except ValueError:
        sign, shares = "", (0.0, 1.0)
    if not sign or not 0 <= shares[0] < shares[1] <= 1:
        raise InputError(f"the part {text!r} cannot be read: write two shares of the corpus, such as 0:0.05")
    first, last = (int(share * chunks + 1e-9) for share in shares)
    if first == last:
        raise InputError(f"the part {text!r} of {chunks} chunks is none: give a larger one")
    return first, last
