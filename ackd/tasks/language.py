"""The specification of the task `language`: next-token prediction on texts."""

from __future__ import annotations

from ackd.tasks.spec import TaskSpec
from ackd.types import NEG_LOSS

LANGUAGE = TaskSpec("language", ("text",), "text", (), (NEG_LOSS, "accuracy"), ("held-out",), language=True)
