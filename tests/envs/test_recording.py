"""Curves and tables, read back from the files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ackd.costs import PARTS
from ackd.envs.make import tiny
from ackd.envs.recording import Recording

ROOT = Path(__file__).parents[2]


def record(folder: Path, *, episodes: int = 2, lr: float = 1e-3) -> tuple[Recording, list[float], list[np.ndarray]]:
    recording = Recording(tiny(lr=lr), folder)
    recording.agent_flops = 10.0
    rng = np.random.default_rng(0)
    rewards, actions = [], []
    for episode in range(episodes):
        recording.reset(seed=episode)
        ended = False
        while not ended:
            action = rng.integers(0, 2, 8).astype(np.int8)
            _, reward, ended, _, _ = recording.step(action)
            rewards.append(float(reward))
            actions.append(action)
    recording.close()
    return recording, rewards, actions


def curves(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_files_hold_what_happened(tmp_path: Path) -> None:
    recording, rewards, actions = record(tmp_path)
    seen = curves(tmp_path)
    assert seen["phase/reward"] == pytest.approx(rewards, rel=1e-5)
    assert seen["reward/improvement"] == pytest.approx(rewards, abs=1e-6)
    assert not {"reward/cost", "reward/bonus"} & seen.keys()  # neither is asked for
    for k, name in enumerate(("logits", "hidden", "attention"), 1):
        assert seen[f"phase/weight/{name}"] == [float(action[k]) for action in actions]
        assert len(seen[f"phase/loss/{name}"]) == sum(int(action[k]) for action in actions)
        per_episode = [float(np.mean([a[k] for a in actions[i : i + 6]])) for i in (0, 6)]
        assert seen[f"episode/selected/{name}"] == pytest.approx(per_episode)
    assert seen["episode/return"] == pytest.approx([sum(rewards[:6]), sum(rewards[6:])], abs=1e-6)
    assert seen["episode/dev/validation/accuracy"][-1] == pytest.approx(recording.eval_results["validation"].score)
    spent = [value[-1] for tag, value in seen.items() if tag.startswith("spent/time_share/")]
    assert sum(spent) == pytest.approx(1.0)
    assert len(spent) == len(PARTS) - 1  # there is no cache
    assert seen["spent/flops/agent"] == [60.0, 60.0]
    with (tmp_path / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["reward"]) for row in rows] == pytest.approx(rewards)
    assert [int(row["decision"]) for row in rows] == [*range(6), *range(6)]
    assert [int(row["steps_done"]) for row in rows][:6] == [2, 4, 6, 8, 10, 12]
    assert recording.inner.episode is not None
    losses = [phase.report.labels for phase in recording.inner.episode.phases]
    assert min(losses) > 0
    assert [float(row["label_loss"]) for row in rows][6:] == losses
    assert seen["phase/loss/labels"][6:] == pytest.approx(losses)


def test_the_ledger_adds_up(tmp_path: Path) -> None:
    recording, _, actions = record(tmp_path)
    costs = recording.costs
    asked = sum(bool(action[1:4].any()) for action in actions)
    assert costs.steps == 24
    assert costs.teacher_queries == asked * 2 * 8  # two steps of eight examples in a phase
    assert costs.reward_passes == 2 * (1 + 6)  # the start and each decision; the teacher's pass is not the student's
    assert costs.flops["report"] > 0
    assert all((seconds > 0) == (part != "cache") for part, seconds in costs.seconds.items())
    assert costs.bytes["teacher"] > 0
    assert costs.bytes["cache"] == costs.cached_queries == 0


def test_divergence_is_on_record(tmp_path: Path) -> None:
    recording, _, _ = record(tmp_path, episodes=1, lr=1e30)
    assert curves(tmp_path)["episode/diverged"] == [1.0]
    assert recording.eval_results == {}
    with (tmp_path / "decisions.csv").open() as file:
        assert list(csv.DictReader(file))[-1]["error"] == "divergence"


def test_every_tag_is_explained(tmp_path: Path) -> None:
    record(tmp_path)
    explained = (ROOT / "docs" / "metrics.md").read_text()
    types = ("logits", "hidden", "attention")
    for tag in curves(tmp_path):
        general = "/".join(
            "TYPE" if piece in types else "PART" if piece in PARTS and "spent" in tag and i == 2 else piece
            for i, piece in enumerate(tag.split("/"))
        ).replace("validation/accuracy", "SPLIT/METRIC")
        assert f"`{general}`" in explained, f"docs/metrics.md does not explain {tag} as {general}"
