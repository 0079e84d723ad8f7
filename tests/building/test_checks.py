"""What is checked before a distillation begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ackd import Knowledge, OutputRequest, models
from ackd.building.checks import check_outputs
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import Batch, Outputs

LOGITS = OutputRequest(logits=True)


class Own(Knowledge):
    """A user's knowledge type that needs logits, and perhaps more."""

    family = "logits"

    def __init__(self, name: str, needs: OutputRequest, losses: Any) -> None:
        super().__init__()
        self.name, self.student_needs, self.teacher_needs, self.losses = name, needs, LOGITS, losses
        self.tried = 0

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.tried += 1
        found: Tensor = self.losses(student.logits, teacher.logits)
        return found

    def flops(self, size: int, length: int) -> float:
        return 0.0


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        return models.from_config(models.small_config(40, 2, layers=2, width=16, heads=2))()


def test_a_users_type_is_tried_before_the_first_step(model: Model) -> None:
    good = Own("good", LOGITS, lambda ours, theirs: (ours - theirs).square().sum(1))
    check_outputs([model], model, [good])
    assert good.tried == 1
    with pytest.raises(InputError, match=r"'mean'.*one loss"):
        check_outputs([model], model, [good, Own("mean", LOGITS, lambda ours, theirs: (ours - theirs).square().mean())])


def test_a_users_type_whose_outputs_cannot_be_had_is_not_tried(model: Model) -> None:
    deep = Own("deep", OutputRequest(logits=True, hidden=frozenset({7})), lambda ours, theirs: (ours - theirs).sum(1))
    with pytest.raises(InputError, match="'deep' needs of the student"):
        check_outputs([model], model, [deep])
    assert deep.tried == 0
