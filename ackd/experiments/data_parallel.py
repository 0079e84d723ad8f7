"""Trains one student on several processes: each has a full copy and learns from its share of each batch.

    g = mean over processes of g_r,  g_r the gradient of the mean loss over the B / size examples of process r

Clipping, optimizer and schedule are then the same in every process, so the weights stay equal bit for bit. The first
process has the agent, the environment and the run's folder. The others execute each of its calls.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from typing import Any

from ackd.distributed.process_group import Group
from ackd.errors import InputError
from ackd.knowledge import HiddenCosine, Revision, RkdAngle, RkdDistance, Similarity
from ackd.training.distillation import Distillation
from ackd.training.identity import identity

logger = logging.getLogger("ackd")

ACROSS = (RkdDistance, RkdAngle, Similarity, Revision)  # losses that compare the examples of a batch


def join(training: Distillation, group: Group, options: Mapping[str, Any] | None = None) -> None:
    """Adds a training to a group of processes; all of their trainings must be alike.

    Args:
        training: the training, before its first reset.
        group: the processes.
        options: other options that must be equal in every process, by name on the command line.

    Raises:
        InputError: if the batch size is not a multiple of the number of processes; if the processes differ in software,
            data, teachers, student or options; or if a loss needs more of a batch than one process has.
    """
    if group.size == 1:
        return
    share, rest = divmod(training.batch_size, group.size)
    if rest:
        raise InputError(
            f"a batch of {training.batch_size} examples cannot be shared evenly by {group.size} processes: "
            f"give a --batch-size that is a multiple of {group.size}"
        )
    across = [name for name, one in training.distiller.knowledge.items() if isinstance(one, ACROSS)]
    if across and share == 1:
        raise InputError(
            f"{across[0]!r} compares the examples of a batch, and of {training.batch_size} each of {group.size} "
            f"processes has one alone: give a --batch-size of at least {2 * group.size}"
        )
    weighting = training.distiller.weighting
    if weighting is not None and weighting.learned():
        raise InputError(
            f"this preset learns its weights from whole batches, which {group.size} processes do not see: "
            "run it in one process"
        )
    _compare(group, identity(training) | dict(options or {}))
    training.join(group)
    types = training.distiller.knowledge.items()
    means = [name for name, one in types if isinstance(one, HiddenCosine) and one.by_token]
    if across or means or training.distiller.picks:
        within = [*(f"{name} compares" for name in across), *(f"{name} is a mean over tokens" for name in means)]
        within += ["examples are picked and weighed"] * training.distiller.picks
        logger.info(
            "%s within the %d examples that each of %d processes has of a batch", ", ".join(within), share, group.size
        )


def _compare(group: Group, mine: Mapping[str, Any]) -> None:
    everyone = group.gather((socket.gethostname(), mine))
    here, first = everyone[0]
    for rank, (host, other) in enumerate(everyone):
        for name in first:
            if other[name] != first[name]:
                raise InputError(
                    f"process {rank} on {host} has {name} {other[name]}, and process 0 on {here} has {first[name]}: "
                    "start all of them with the same software, data and options"
                )
