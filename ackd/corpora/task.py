"""Builds the task for pre-training."""

from __future__ import annotations

from ackd.corpora.corpus import Corpus
from ackd.errors import InputError
from ackd.tasks import Split, Task, TaskSpec

LANGUAGE = TaskSpec("language", ("text",), "text", (), ("neg_loss", "accuracy"), ("held-out",), language=True)


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
