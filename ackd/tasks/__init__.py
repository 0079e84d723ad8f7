"""Tasks: what they are, their examples in three splits, and their metrics."""

from ackd.tasks.digits import images
from ackd.tasks.embedded import EMBEDDED, embedded_tokenizer
from ackd.tasks.glue import GLUE
from ackd.tasks.load import load, spec_of
from ackd.tasks.spec import TaskSpec
from ackd.tasks.split import Split
from ackd.tasks.task import Task

__all__ = ["EMBEDDED", "GLUE", "Split", "Task", "TaskSpec", "embedded_tokenizer", "images", "load", "spec_of"]
