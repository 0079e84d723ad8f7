"""Draws the logs of stable-baselines3 as curves of a run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger

from ackd.runs.curves import Curves


class Drawn(KVWriter):
    """Draws an agent's log over its decisions, without the values that are excluded from TensorBoard.

    `time/fps` is drawn as decisions a second since the last log entry. stable-baselines3's own value, an integer since
    the beginning, would be 0, because students are slow.

    Args:
        curves: where values are drawn.
    """

    def __init__(self, curves: Curves) -> None:
        self._curves = curves
        self._last, self._then = 0, time.monotonic()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Draws the numbers among the logged values."""
        values = {
            name: float(value)
            for name, value in sorted(key_values.items())
            if "tensorboard" not in (key_excluded.get(name) or ()) and isinstance(value, (int, float, np.number))
        }
        now = time.monotonic()
        if "time/fps" in values:
            values["time/fps"] = (step - self._last) / max(now - self._then, 1e-9)
        self._last, self._then = step, now
        self._curves.write("decision", step, values)

    def close(self) -> None:
        """Does nothing, since the curves stay open."""


def draw(agent: BaseAlgorithm, curves: Curves | None) -> None:
    """Draws an agent's log from now on; without curves its logger is not changed."""
    if curves is not None:
        agent.set_logger(Logger(None, [Drawn(curves)]))
