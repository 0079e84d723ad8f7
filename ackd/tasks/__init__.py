"""Tasks: specifications, examples in three splits, and metrics."""

from ackd.split import Split
from ackd.tasks.digits import images
from ackd.tasks.embedded import EMBEDDED, embedded_tokenizer
from ackd.tasks.glue import GLUE
from ackd.tasks.language import LANGUAGE
from ackd.tasks.load import check_max_length, held_out_size, load, part_of_dev, spec_of
from ackd.tasks.own import is_own, own_texts
from ackd.tasks.own_metrics import ComputeMetrics
from ackd.tasks.saving import name_outputs, save_trained
from ackd.tasks.seen import NOTHING, UNKNOWN, Seen, note_seen, noted_seen, read_seen, together, write_seen
from ackd.tasks.sentences import EMBEDDINGS, check_labels
from ackd.tasks.spec import TaskSpec
from ackd.tasks.submission import SUBMISSIONS, Submission
from ackd.tasks.task import TRAIN, Task, check_rewards
from ackd.tasks.tokenise import tokenise

__all__ = [
    "EMBEDDED",
    "EMBEDDINGS",
    "GLUE",
    "LANGUAGE",
    "NOTHING",
    "SUBMISSIONS",
    "TRAIN",
    "UNKNOWN",
    "ComputeMetrics",
    "Seen",
    "Split",
    "Submission",
    "Task",
    "TaskSpec",
    "check_labels",
    "check_max_length",
    "check_rewards",
    "embedded_tokenizer",
    "held_out_size",
    "images",
    "is_own",
    "load",
    "name_outputs",
    "note_seen",
    "noted_seen",
    "own_texts",
    "part_of_dev",
    "read_seen",
    "save_trained",
    "spec_of",
    "together",
    "tokenise",
    "write_seen",
]
