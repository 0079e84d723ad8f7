"""Curves, as trackers get them and as TensorBoard reads them back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from ackd.agents.sb3_curves import Drawn
from ackd.runs.curves import FINDINGS, RESULTS, Curves, Plain
from ackd.runs.tensorboard import LAYOUT, TensorBoard


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.asked: dict[str, Plain] = {}
        self.points: list[tuple[str, int, str, float]] = []
        self.finished: bool | None = None

    def options(self, values: Mapping[str, Plain]) -> None:
        self.asked.update(values)

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        self.points += [(axis, step, tag, value) for tag, value in values.items()]

    def close(self, *, finished: bool) -> None:
        self.finished = finished


@given(st.lists(st.sampled_from([0.0, 0.0, 1.0, -2.0]), max_size=12))
def test_zeros_wait_for_another_number_and_the_line_is_the_same(values: list[float]) -> None:
    kept = Kept()
    curves = Curves([kept])
    for step, value in enumerate(values, 1):
        curves.write("phase", step, {"spent/bytes/cache": value})
    points = {step: value for _, step, _, value in kept.points}
    assert len(points) == len(kept.points)
    assert (not points) == (not any(values))
    if points:  # linear between what was drawn, which is what a viewer shows
        drawn = sorted(points)
        assert drawn == sorted(points, key=list(points).index)
        for step, value in enumerate(values, 1):
            before, after = max(s for s in drawn if s <= step), min(s for s in drawn if s >= step)
            assert points[before] == points[after] == value or (before == after and points[step] == value)


def test_findings_of_zero_are_drawn() -> None:
    kept = Kept()
    curves = Curves([kept])
    tags = [prefix + "x" if prefix.endswith("/") else prefix for prefix in FINDINGS]
    curves.write("episode", 3, dict.fromkeys([*tags, "episode/diverged"], 0.0))
    assert kept.points == [("episode", 3, tag, 0.0) for tag in tags]


def test_names_are_what_every_tracker_takes() -> None:
    kept = Kept()
    Curves([kept]).write("phase", 1, {"phase/weight/logits@2": 1.0, "episode/dev/läuft gut/f1": 0.5})
    assert [tag for _, _, tag, _ in kept.points] == ["phase/weight/logits_2", "episode/dev/l_uft_gut/f1"]


def test_a_result_is_told_once_and_says_that_the_run_ended() -> None:
    kept, other = Kept(), Kept()
    curves = Curves([kept, other])
    curves.result({"dev_score": 81.5, "reward": None, "seconds": 3, "seed": 7, "task": "sst2"})
    curves.close()
    curves.close()
    assert kept.points == other.points == [("run", 0, "result/dev_score", 81.5), ("run", 0, "result/seconds", 3.0)]
    assert kept.finished
    stopped = Curves([other])
    stopped.close()
    assert other.finished is False


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_has_curves_layout_and_what_runs_are_compared_by(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()  # of an earlier version
    curves = Curves([TensorBoard(tmp_path)])
    curves.options({"policy": "all", "lr": 1e-3, "temperature": 4.0, "compile": False, "task": "sst2"})
    for episode in range(3):
        curves.write("episode", episode, {"episode/return": 0.1 * episode})
    curves.result({"dev_score": 81.5})
    curves.close()
    assert [path.name.split(".")[0] for path in tmp_path.iterdir()] == ["events"]
    events = read(tmp_path)
    assert [(one.step, one.value) for one in events.Scalars("episode/return")] == [
        (step, pytest.approx(0.1 * step)) for step in range(3)
    ]
    (shown,) = [event.tensor_proto.string_val[0] for event in events.Tensors("custom_scalars__config__")]
    layout = layout_pb2.Layout.FromString(shown)
    assert {part.title: [chart.title for chart in part.chart] for part in layout.category} == {
        part: list(charts) for part, charts in LAYOUT.items()
    }
    plugin = events.summary_metadata
    parsed = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(plugin[tag].plugin_data.content)
        for tag in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    }
    experiment = parsed[metadata.EXPERIMENT_TAG].experiment
    assert [one.name.tag for one in experiment.metric_infos] == [f"result/{name}" for name in RESULTS]
    assert {one.name: one.differs for one in experiment.hparam_infos} == {
        "policy": True, "lr": True, "task": True, "temperature": False, "compile": False,
    }  # fmt: skip
    begun = parsed[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    assert begun["lr"].number_value == 1e-3
    assert begun["policy"].string_value == "all"


def test_a_run_that_was_stopped_is_not_said_to_have_ended(tmp_path: Path) -> None:
    curves = Curves([TensorBoard(tmp_path)])
    curves.options({"policy": "all"})
    curves.write("episode", 0, {"episode/return": 1.0})
    curves.close()
    assert metadata.SESSION_END_INFO_TAG not in read(tmp_path).summary_metadata


def test_the_layout_matches_tags_that_are_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    tags = re.findall(r"`([a-z_]+/[\w/]+)`", text)
    for charts in LAYOUT.values():
        for title, pattern in charts.items():
            assert [tag for tag in tags if re.search(pattern, tag)], title


def test_decisions_a_second_are_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 114.0])
    monkeypatch.setattr("ackd.agents.sb3_curves.time.monotonic", lambda: next(clock))
    kept = Kept()
    logger = Logger(None, [Drawn(Curves([kept]))])
    for step in (4, 7):
        logger.record("time/fps", 0)
        logger.record("rollout/ep_rew_mean", 0.5)
        logger.record("note", "no number")
        logger.record("time/iterations", 1, exclude="tensorboard")
        logger.dump(step)
    assert kept.points == [
        ("decision", 4, "rollout/ep_rew_mean", 0.5), ("decision", 4, "time/fps", 0.4),
        ("decision", 7, "rollout/ep_rew_mean", 0.5), ("decision", 7, "time/fps", 0.75),
    ]  # fmt: skip
