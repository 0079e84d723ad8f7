"""Runs the rounds of a federation; each is saved, so a killed run continues with its current round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.federation.federated import Federation, Weights
from ackd.files.reading import matches_schema, read_tensors
from ackd.files.writing import write_tensors
from ackd.training.measuring import eval_result

logger = logging.getLogger("ackd")

STARTS = ("initial", "labels", "distilled")
ROW = {"start": "", "round": 0, "score": 0.0, "loss": 0.0, "bytes_down": 0, "bytes_up": 0, "bytes": 0}


@dataclass(frozen=True)
class Rounds:
    """FedAvg from several starts, each with the same clients and seeds.

    Args:
        federation: the federation.
        folder: folder of the saved states.
        initial: the starting model.
        own_steps: optimizer steps of each client's own model before the rounds.
        distil_steps: optimizer steps of the server for a start.
        local_steps: optimizer steps of a client in a round.
        alpha: weight of the clients' models in the distilled start.
        tau: temperature of the distilled start.
    """

    federation: Federation
    folder: Path
    initial: Weights
    own_steps: int
    distil_steps: int
    local_steps: int
    alpha: float
    tau: float

    def own(self, total: CostTracker, on_steps: Callable[[int], object]) -> list[Weights]:
        """Trains the clients' own models; adds the costs to `total`."""
        models = []
        for client in range(len(self.federation.parts)):
            path = self.folder / f"client-{client}.pt"
            state = read_state(path, self.initial, rows=False)
            if state is None:
                costs = CostTracker()
                weights = self.federation.learn(client, self.initial, steps=self.own_steps, round_idx=0, costs=costs)
                state = {"weights": weights, "ledger": costs.as_dict()}
                write_tensors(path, state)
            models.append(state["weights"])
            total.add(CostTracker(**state["ledger"]))
            on_steps(self.own_steps)
        return models

    def run(
        self, start: str, own: Sequence[Weights], rounds: int, on_row: Callable[[Mapping[str, Any]], object]
    ) -> tuple[Weights, list[dict[str, Any]], CostTracker]:
        """Runs FedAvg from one start.

        Args:
            start: initial (the starting model), labels (trained on the server's labels) or distilled (from `own`).
            own: the clients' own models.
            rounds: number of rounds.
            on_row: called with each row, including rows of earlier runs.

        Returns:
            The final weights, a row for the start and for each round, and the costs.
        """
        path = self.folder / f"{start}.pt"
        state = read_state(path, self.initial)
        if state is None:
            state = self._begun(start, own)
            write_tensors(path, state)
        for row in state["rows"]:
            on_row(row)
        everyone = len(self.federation.parts) * self.federation.size
        for round_idx in range(len(state["rows"]), rounds + 1):
            costs = CostTracker(**state["ledger"])
            weights = self.federation.round(state["weights"], steps=self.local_steps, round_idx=round_idx, costs=costs)
            state = self._scored({**state, "ledger": costs.as_dict()}, weights, start, everyone)
            write_tensors(path, state)
            on_row(state["rows"][-1])
        return state["weights"], state["rows"], CostTracker(**state["ledger"])

    def _begun(self, start: str, own: Sequence[Weights]) -> dict[str, Any]:
        """The state before the first round."""
        costs, weights, distilled = CostTracker(), self.initial, start == "distilled"
        if start != "initial":
            weights = self.federation.consolidate(
                own if distilled else (),
                self.initial,
                steps=self.distil_steps,
                alpha=self.alpha,
                tau=self.tau,
                costs=costs,
            )
        sent = len(self.federation.parts) * self.federation.size if distilled else 0
        return self._scored({"rows": [], "ledger": costs.as_dict()}, weights, start, sent)

    def _scored(self, state: Mapping[str, Any], weights: Weights, start: str, sent: int) -> dict[str, Any]:
        """The state after a round that ended with `weights`; `sent` bytes were sent in each direction."""
        costs, reward = CostTracker(**state["ledger"]), self.federation.task.reward
        found = eval_result(self.federation.task, self.federation.answers(weights, reward, "reward", costs), reward)
        before = state["rows"][-1]["bytes"] if state["rows"] else 0
        row = {
            "start": start,
            "round": len(state["rows"]),
            "score": round(100 * found.score, 4),
            "loss": found.loss,
            "bytes_down": sent,
            "bytes_up": sent,
            "bytes": before + 2 * sent,
        }
        return {"weights": weights, "rows": [*state["rows"], row], "ledger": costs.as_dict()}


def read_state(path: Path, initial: Weights, rows: bool = True) -> dict[str, Any] | None:
    """Reads a saved state for a model like `initial`; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        state = read_tensors(path)
        told = {"ledger": CostTracker().as_dict(), **({"rows": [ROW]} if rows else {})}
        if not matches_schema(state, {**told, "weights": dict(initial)}):
            raise InputError(f"{path} is damaged (it is of another federation)")
        if rows and not state["rows"]:
            raise InputError(f"{path} is damaged (it has no round)")
    except InputError as error:
        logger.warning("%s: its part of the run begins again", error)
        return None
    return cast(dict[str, Any], state)
