"""How many steps a budget of FLOPs buys."""

from __future__ import annotations

from ackd.errors import InputError
from ackd.loop import Distillation
from ackd.order import Order
from ackd.streams import Streams
from ackd.types import Selection


def afford(training: Distillation, chosen: Selection, flops: float | None, seed: int) -> tuple[int, float, int]:
    """The optimizer steps of a training, what they cost, and the tokens that they predict, before any is taken.

    Args:
        training: with its number of steps.
        chosen: what it transfers.
        flops: as many steps as cost at most so much, instead of its own number.
        seed: of its order of batches.

    Raises:
        InputError: if not even one step can be had.
    """
    lengths = training.task.train.lengths - 1  # the last token of a chunk is only predicted
    order = Order(lengths, training.batch_size, Streams(seed).order)
    terms = [training.distiller.knowledge[name] for name in chosen.chosen]
    steps, spent, tokens = 0, 0.0, 0
    while flops is not None or steps < training.steps:
        batches = [lengths[order.next()] for _ in range(training.accumulate)]
        cost = sum(training.distiller.price(terms, len(batch), int(batch.max())) for batch in batches)
        if flops is not None and spent + cost > flops:
            break
        steps, spent, tokens = steps + 1, spent + cost, tokens + sum(int(batch.sum()) for batch in batches)
    if not steps:
        raise InputError(f"--flops is {flops:g}, and the first step takes {cost:.3g}: give more")
    return steps, spent, tokens
