"""Teachers: objects that return outputs for a batch."""

from ackd.teachers.cached import Cached, caches_of
from ackd.teachers.labels import LabelTeacher
from ackd.teachers.model import ModelTeacher
from ackd.teachers.narrowed import Narrowed, principal
from ackd.teachers.own_tokens import OwnTokens
from ackd.teachers.partitioned import Partitioned
from ackd.teachers.revised import Revised, Swapped
from ackd.teachers.with_cache import choices, with_cache
from ackd.teachers.wrapper import TeacherWrapper, flush, unwrap

__all__ = [
    "Cached",
    "LabelTeacher",
    "ModelTeacher",
    "Narrowed",
    "OwnTokens",
    "Partitioned",
    "Revised",
    "Swapped",
    "TeacherWrapper",
    "caches_of",
    "choices",
    "flush",
    "principal",
    "unwrap",
    "with_cache",
]
