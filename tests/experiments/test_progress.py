"""The bar says what is so now: the label loss, the score on the reward split, what is selected, and how far it is."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from ackd.agents.rules import rule
from ackd.envs.make import tiny
from ackd.envs.recorder import BufferedRecorder
from ackd.envs.recording import Recording
from ackd.experiments import progress
from ackd.experiments.episodes import run_episode
from ackd.experiments.progress import Bar, shortened
from ackd.mdp.episode import Phase


def test_every_phase_is_told_as_it_comes(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "ackd")
    monkeypatch.setattr(progress, "EVERY", 1e-9)
    env, phases = tiny(steps=8, decision_interval=2, decisions=2), list[Phase]()
    with progress.progress(8, "distill") as bar:

        def on_phase(phase: Phase) -> None:
            phases.append(phase)
            bar.phase(phase)

        run_episode(Recording(env, BufferedRecorder(), on_phase=on_phase), rule("logits", env.choice.names), seed=1)
        assert bar.n == 8
    assert [phase.steps for phase in phases] == [2, 2, 2, 2]
    lines = [line for line in caplog.messages if line.startswith("distill: ")]
    assert len(lines) == 4
    for line, phase, done in zip(lines, phases, (2, 4, 6, 8), strict=True):
        shown = re.fullmatch(
            r"distill: (\d) of 8 steps, [\d:?]+ left, label loss ([\d.e-]+)(?:, reward split ([\d.]+))?, (\S+)", line
        )
        assert shown is not None, line
        assert int(shown[1]) == done
        assert float(shown[2]) == pytest.approx(phase.report.labels, rel=5e-3)
        measured = [one.eval_result for one in phases[: done // 2] if one.eval_result is not None]
        assert (shown[3] is None) == (not measured)
        if measured:
            assert float(shown[3]) == pytest.approx(100 * measured[-1].score, abs=0.05)
        assert shown[4] == "logits"


def test_students_side_by_side_are_shown_by_their_means() -> None:
    bar = Bar(total=10, disable=True)
    env, phases = tiny(steps=2, decision_interval=2), list[Phase]()
    run_episode(Recording(env, BufferedRecorder(), on_phase=phases.append), rule("labels", env.choice.names), seed=1)
    run_episode(Recording(env, BufferedRecorder(), on_phase=phases.append), rule("all", env.choice.names), seed=2)
    bar.phases(phases, 4)
    mean = sum(one.report.labels for one in phases) / 2
    assert f"label loss {mean:.3g}" in str(bar.postfix)
    assert str(bar.postfix).endswith("logits:0.5+hidden:0.5+attention:0.5")


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"labels": 1.0, "logits": 0.0}, "labels"),
        ({"labels": 0.25, "logits": 2.0, "hidden": 1.0}, "logits:2+hidden+labels:0.25"),
        ({"labels": 0.0, "logits": 1.0}, "logits+labels:0"),
        ({"labels": 1.0, "logits": 1.0}, "logits"),
        ({"labels": 0.0}, "nothing"),
    ],
)
def test_a_selection_is_short_and_reads_like_a_policy(weights: dict[str, float], text: str) -> None:
    assert shortened(weights) == text
    assert len(shortened({f"type{i}": 0.123 for i in range(20)})) == progress.WIDE


def test_the_first_line_comes_after_the_first_steps(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "ackd")
    monkeypatch.setattr(progress, "FIRST", 1e-9)
    with progress.progress(100, "train") as bar:
        for _ in range(5):
            bar.update(1)
    assert len(caplog.messages) == 1  # the next ones only once a minute
    assert re.fullmatch(r"train: 1 of 100 steps, \d\d:\d\d left", caplog.messages[0])


def test_quiet_shows_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 1e-9)
    with progress.progress(4, "train", quiet=True) as bar:
        bar.update(2)
        progress.move(bar, 4)
    progress.say("a line", quiet=True)
    assert capfd.readouterr() == ("", "")
