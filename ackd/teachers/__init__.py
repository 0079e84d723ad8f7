"""Whoever answers a batch with outputs."""

from ackd.teachers.cached import Cached, uncached
from ackd.teachers.model import ModelTeacher

__all__ = ["Cached", "ModelTeacher", "uncached"]
