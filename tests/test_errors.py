"""What people are told."""

from __future__ import annotations

import logging

import pytest

from ackd.errors import Once, unknown


def test_an_unknown_name_is_told_the_known_ones() -> None:
    assert str(unknown("policy", "nosuch", ["labels", "all"])) == "unknown policy 'nosuch' (known: all, labels)"
    said = "unknown policy 'lables': did you mean 'labels'? (known: all, labels)"
    assert str(unknown("policy", "lables", ["labels", "all"])) == said


def test_a_line_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger, handler = logging.getLogger("ackd.tests.once"), logging.StreamHandler()
    handler.addFilter(Once())
    logger.addHandler(handler)
    for loss in (0.693, 0.693, 0.5, 0.693):
        logger.warning("a loss of %.2f", loss)
    logger.removeHandler(handler)
    assert capsys.readouterr().err.splitlines() == ["a loss of 0.69", "a loss of 0.50"]
