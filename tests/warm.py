"""What every process that tests fork would do again: imports alone leave half a second of it."""

from __future__ import annotations

import gc

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from ackd import models, tasks
from ackd.models import Meter
from ackd.tasks.embedded import generate
from ackd.types import OutputRequest
from tests.brief import brief


def warm() -> None:
    """Fills what is remembered for a process's life, and has the collector of garbage leave alone what is there."""
    brief()
    get_checkpoint_conversion_mapping("bert")
    for split in ("train", "validation"):
        generate("polarity", split)
    Meter(models.from_config(models.small_config(len(tasks.embedded_tokenizer("polarity")), 2))())(
        OutputRequest(logits=True)
    )
    gc.collect()
    gc.freeze()


warm()
