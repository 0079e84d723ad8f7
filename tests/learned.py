"""What a student has learned, as many tests compare it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ackd.training.student import Student


class Trains(Protocol):
    """Whatever has a student."""

    student: Student


def weights(training: Student | Trains) -> Tensor:
    """Every number that is trained, in one row."""
    student = training if isinstance(training, Student) else training.student
    return torch.cat([p.detach().flatten() for p in student.parameters])
