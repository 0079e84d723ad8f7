"""What has to be the same wherever a part of one piece of work is done: software, data, models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version

import numpy as np

from ackd.errors import InputError
from ackd.tasks import Split
from ackd.training.distillation import Distillation

PACKAGES = ("ackd", "torch", "transformers")


def identity(training: Distillation) -> dict[str, str]:
    """Versions, and fingerprints of data, teachers and the student's first weights, by what they are of."""
    task, model = training.task, training.student.model
    splits = {"training data": task.train, "reward split": task.reward, **task.dev}
    return {
        **{name: version(name) for name in PACKAGES},
        **{name: _fingerprint(split) for name, split in splits.items()},
        **{f"teacher {m + 1}": one.fingerprint[:16] for m, one in enumerate(training.teachers)},
        "first weights of the student": hashlib.sha256(
            b"".join(value.detach().cpu().contiguous().numpy().tobytes() for value in model.state_dict().values())
        ).hexdigest()[:16],
    }


def check_identity(theirs: Mapping[str, str], ours: Mapping[str, str], who: str) -> None:
    """Refuses a worker that would do something else than the learner would.

    Raises:
        InputError: which names what differs.
    """
    for name, mine in ours.items():
        if theirs.get(name) != mine:
            raise InputError(
                f"{who} has another {name} ({theirs.get(name)}) than the learner ({mine}): "
                "give every machine the same software and files"
            )


def _fingerprint(split: Split) -> str:
    labels = np.ascontiguousarray(split.labels).tobytes()
    return hashlib.sha256(split.fingerprint.encode() + labels).hexdigest()[:16]
