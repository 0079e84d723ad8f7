"""Whoever answers a batch with outputs."""

from ackd.teachers.model import ModelTeacher

__all__ = ["ModelTeacher"]
