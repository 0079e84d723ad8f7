"""What a model answers to a split, and how good that is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.knowledge import token_sums
from ackd.ledger import Ledger
from ackd.process_group import ALONE, Group
from ackd.tasks import Split, Task
from ackd.types import Batch, Needs, Outputs, Standing

Ask = Callable[[Batch, Needs, Ledger], Outputs]

LOGITS = 2**25  # of a language model's next tokens, at most so many are computed at a time to measure it


def answers(
    ask: Ask, split: Split, device: torch.device, vocabulary: int, group: Group = ALONE
) -> tuple[NDArray[np.float64], float]:
    """[N, C] logits in the split's order, read from the device once, and the FLOPs that this process spent on them.

    Of a language model [N, 3] `token_sums`: its logits are too many to keep.
    """
    most = 256 if device.type == "cuda" else 32  # small ones waste little padding
    if split.language:
        most = max(min(most, LOGITS // int(split.lengths.max() * vocabulary)), 1)
    groups = list(split.by_length(most))[group.rank :: group.size]
    outputs, spent = [], Ledger()
    with torch.no_grad():
        for places in groups:
            batch = split.batch(places).to(device)
            logits = ask(batch, Needs(logits=True), spent).logits
            assert logits is not None
            outputs.append(token_sums(logits, batch.labels) if split.language else logits)
    mine = (np.concatenate(groups), torch.cat(outputs).double().cpu().numpy()) if groups else None
    known = [one for one in group.gather(mine) if one is not None]
    found = np.empty((len(split), known[0][1].shape[-1]))
    for places, values in known:
        found[places] = values
    return found, sum(spent.flops.values())


def judge(task: Task, given: NDArray[np.float64], split: Split) -> Standing:
    """How good answers to a split are, as `answers` gives them."""
    if not np.isfinite(given).all():
        return Standing(loss=float("nan"), score=float("nan"))
    scores = task.measure(given, split.labels)
    score = scores[task.spec.metrics[0]]
    if task.spec.language:
        return Standing(-scores["neg_loss"], score, scores)
    if task.spec.regression:
        return Standing(float(np.square(given[:, 0] - split.labels).mean()), score, scores)
    log_p = given - np.logaddexp.reduce(given, axis=1, keepdims=True)
    return Standing(-float(log_p[np.arange(len(given)), split.labels].mean()), score, scores)
