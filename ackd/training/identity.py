"""Checks that all machines of a run have the same software, data and models."""

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
    """Package versions and fingerprints of splits, teachers and the student's initial weights, by name."""
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
    """Checks that a worker has the same software, data and models as the learner.

    Raises:
        InputError: if something differs; it names the difference.
    """
    for name, mine in ours.items():
        if theirs.get(name) != mine:
            raise InputError(
                f"{who} has another {name} ({theirs.get(name)}) than the learner ({mine}): "
                "give every machine the same software and files"
            )


def _fingerprint(split: Split) -> str:
    # embeddings depend on the teacher, which is compared separately, and their last bits on the machine
    labels = b"" if split.labels.ndim > 1 else np.ascontiguousarray(split.labels).tobytes()
    return hashlib.sha256(split.fingerprint.encode() + labels).hexdigest()[:16]
