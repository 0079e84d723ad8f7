"""Whoever answers a batch with outputs."""

from ackd.teachers.around import Around, drain, uncached
from ackd.teachers.cached import Cached
from ackd.teachers.kept import kept
from ackd.teachers.labels import LabelTeacher
from ackd.teachers.model import ModelTeacher
from ackd.teachers.own_tokens import OwnTokens
from ackd.teachers.partitioned import Partitioned
from ackd.teachers.revised import Revised, Swapped

__all__ = [
    "Around",
    "Cached",
    "LabelTeacher",
    "ModelTeacher",
    "OwnTokens",
    "Partitioned",
    "Revised",
    "Swapped",
    "drain",
    "kept",
    "uncached",
]
