"""Writes metrics for TensorBoard, with a layout of charts and the options for its page HPARAMS."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ackd.runs.curves import RESULTS, Plain

# The page CUSTOM SCALARS: categories of charts; a chart shows all tags that match its pattern.
LAYOUT: Mapping[str, Mapping[str, str]] = {
    "How well": {
        "return of each student": r"^episode/return$",
        "score of each student on the reward split": r"^episode/reward_split/score$",
        "scores of each student on dev": r"^episode/dev/",
        "score on the reward split while a student learns": r"^phase/reward_split/score$",
        "what a phase earned": r"^(phase/reward|reward/\w+)$",
    },
    "What is selected": {"weights": r"^phase/weight/", "share of the phases": r"^episode/selected/"},
    "Losses": {"labels": r"^phase/loss/labels$", "knowledge types": r"^phase/loss/(?!labels$)"},
    "The agent": {
        "mean return": r"^rollout/ep_rew_mean$",
        "losses": r"^train/\w*loss$",
        "learned schedule": r"^train/schedule/",
    },
    "What it takes": {
        "seconds of a student": r"^spent/seconds/",
        "FLOPs of a student": r"^spent/flops/",
        "share of the FLOPs of transferring everything": r"^spent/flops_share$",
    },
}
FIRST = {"command", "lr", "policy", "student_layers", "task"}  # first options on HPARAMS, which shows five


class TensorBoard:
    """Writes event files.

    Args:
        folder: folder of the event files; it is emptied first.
        seconds: interval between two writes to disk.
    """

    def __init__(self, folder: Path, seconds: int = 5) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder), flush_secs=seconds)
        self._writer.add_custom_scalars(
            {
                category: {chart: ["Multiline", [tags]] for chart, tags in charts.items()}
                for category, charts in LAYOUT.items()
            }
        )
        self._ended: Any = None  # marks the run as complete on the page HPARAMS

    def options(self, values: Mapping[str, Plain]) -> None:
        """Writes the run's options; with `RESULTS` they are the columns of the page HPARAMS."""
        described, begun, self._ended = hparams(dict(values), {f"result/{name}": 0.0 for name in RESULTS})
        _begin_with(described, FIRST)
        self._add(described)
        self._add(begun)

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Writes a point of each curve."""
        del axis  # each curve has only one axis
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self, *, finished: bool) -> None:
        """Closes the file."""
        if self._ended is not None and finished:
            self._add(self._ended)
        self._writer.close()

    def _add(self, summary: Any) -> None:
        writer = self._writer.file_writer
        assert writer is not None
        writer.add_summary(summary)


def _begin_with(described: Any, names: Collection[str]) -> None:
    """Puts some options first on the page HPARAMS, by marking them as different between runs."""
    data = described.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(data.content)
    for option in content.experiment.hparam_infos:
        option.differs = option.name in names
    data.content = content.SerializeToString()
