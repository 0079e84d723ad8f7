"""Curves as files that TensorBoard reads, with a layout of its own and what its page HPARAMS compares runs by."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ackd.runs.curves import RESULTS, Plain

# The page CUSTOM SCALARS: categories of charts, each of all tags that match.
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
FIRST = {"command", "lr", "policy", "student_layers", "task"}  # the options that HPARAMS begins with; it shows five


class TensorBoard:
    """Writes event files.

    Args:
        folder: for them; what an earlier run left there goes.
        seconds: between two times that they are brought to disk.
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
        self._ended: Any = None  # says on the page HPARAMS that the run came to its end

    def options(self, values: Mapping[str, Plain]) -> None:
        """What the run was asked for: the columns of the page HPARAMS, beside `RESULTS`."""
        described, begun, self._ended = hparams(dict(values), {f"result/{name}": 0.0 for name in RESULTS})
        _begin_with(described, FIRST)
        self._add(described)
        self._add(begun)

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        del axis  # a curve has one alone
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self, *, finished: bool) -> None:
        """Finishes the file."""
        if self._ended is not None and finished:
            self._add(self._ended)
        self._writer.close()

    def _add(self, summary: Any) -> None:
        writer = self._writer.file_writer
        assert writer is not None
        writer.add_summary(summary)


def _begin_with(described: Any, names: Collection[str]) -> None:
    """Puts some options first on the page HPARAMS, which begins with those that are said to differ between runs."""
    data = described.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(data.content)
    for option in content.experiment.hparam_infos:
        option.differs = option.name in names
    data.content = content.SerializeToString()
