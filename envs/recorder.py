"""What a run writes down of its episodes: curves for TensorBoard, and a table of every decision."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ackd.envs.trajectory import Trajectory
from ackd.ledger import PARTS, Ledger
from ackd.types import Standing

COLUMNS = (
    "episode",
    "seed",
    "decision",
    "steps_done",
    "selection",
    "reward",
    "improvement",
    "cost",
    "bonus",
    "reward_loss",
    "reward_score",
    "label_loss",
    "grad_norm",
    "learning_rate",
    "flops",
    "flops_share",
    "error",
)


class Recorder:
    """Writes `tensorboard/env` and `decisions.csv`; `docs/metrics.md` explains every tag.

    Args:
        folder: a run's folder; what an earlier recorder wrote there is replaced.
        knowledge: the names of the knowledge types.
    """

    def __init__(self, folder: Path, knowledge: Sequence[str]) -> None:
        self.knowledge = knowledge
        self.decisions = 0
        self.episodes = 0  # finished ones
        curves = folder / "tensorboard" / "env"
        shutil.rmtree(curves, ignore_errors=True)
        self._writer = SummaryWriter(str(curves), flush_secs=5)
        self._file = (folder / "decisions.csv").open("w", newline="", encoding="utf-8")
        columns = [*COLUMNS, *(f"{what}/{name}" for what in ("select", "loss") for name in knowledge)]
        self._rows = csv.DictWriter(self._file, columns)
        self._rows.writeheader()

    def decision(self, number: int, trajectory: Trajectory, reward: float, info: Mapping[str, Any]) -> None:
        """Writes down the last decision of the episode of that number."""
        episode = trajectory.episode
        assert episode is not None
        phase = episode.phases[-1]
        weights, losses = phase.selection.weights, phase.report.losses
        measured = (
            {"loss": phase.standing.loss, "score": phase.standing.score} if phase.standing and phase.finite else {}
        )
        self.decisions += 1
        self._scalars(
            self.decisions,
            {
                "env/reward/total": reward,
                **{f"env/{name}": info[name] for name in ("reward/improvement", "reward/cost", "reward/bonus")},
                "env/loss/labels": info["loss/labels"],
                **{f"env/loss/{name}": info[f"loss/{name}"] for name in losses},
                **{f"env/select/{name}": weights.get(name, 0.0) for name in self.knowledge},
                **{f"env/reward_split/{name}": value for name, value in measured.items()},
                "env/grad_norm": info["grad_norm"],
                "env/learning_rate": phase.learning_rate,
                "env/flops_share": info["flops_share"],
            },
        )
        self._rows.writerow(
            {
                "episode": number,
                "seed": trajectory.seed,
                "decision": len(episode.phases) - 1,
                "steps_done": episode.steps_done,
                "selection": info["action/effective"],
                "reward": reward,
                "improvement": info["reward/improvement"],
                "cost": info["reward/cost"],
                "bonus": info["reward/bonus"],
                **{f"reward_{name}": value for name, value in measured.items()},
                "label_loss": info["loss/labels"],
                "grad_norm": info["grad_norm"],
                "learning_rate": phase.learning_rate,
                "flops": phase.flops,
                "flops_share": info["flops_share"],
                "error": info["error/type"],
                **{f"select/{name}": weights.get(name, 0.0) for name in self.knowledge},
                **{f"loss/{name}": info[f"loss/{name}"] for name in losses},
            }
        )
        self._file.flush()

    def episode(
        self, trajectory: Trajectory, returned: float, standings: Mapping[str, Standing], ledger: Ledger
    ) -> None:
        """Writes down an episode that is over: its return, the student on dev, and what it took."""
        episode = trajectory.episode
        assert episode is not None
        phases, seconds = episode.phases, sum(ledger.seconds.values())
        alive = all(phase.finite for phase in phases)
        standing = episode.standing if alive else None
        self._scalars(
            self.episodes,
            {
                "episode/return": returned,
                "episode/diverged": float(not alive),
                **({"episode/reward_split/loss": standing.loss} if standing else {}),
                **({"episode/reward_split/score": standing.score} if standing else {}),
                "episode/flops_share": sum(p.flops for p in phases) / sum(p.flops_all for p in phases),
                **{
                    f"episode/select/{name}": sum(name in p.selection.chosen for p in phases) / len(phases)
                    for name in self.knowledge
                },
                **{
                    f"episode/dev/{split}/{metric}": value
                    for split, there in standings.items()
                    for metric, value in there.scores.items()
                },
                **{f"cost/flops/{part}": ledger.flops[part] for part in PARTS},
                **{f"cost/bytes/{part}": ledger.bytes[part] for part in PARTS},
                **{f"cost/seconds/{part}": ledger.seconds[part] for part in PARTS},
                **{f"cost/time_share/{part}": ledger.seconds[part] / seconds for part in PARTS},
            },
        )
        self._writer.flush()
        self.episodes += 1

    def close(self) -> None:
        """Finishes the files."""
        self._writer.close()
        self._file.close()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
