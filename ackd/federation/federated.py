"""A simulated federation: clients train on their own data, and a server averages their models."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.federation.clients import Indices
from ackd.models import Model, shape_of
from ackd.presets import preset
from ackd.tasks import Split, Task
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.types import Selection, Teacher

Weights: TypeAlias = Mapping[str, Tensor]  # a model's state dict


@dataclass
class Federation:
    """K clients and a server; each training is a separate `Distillation` from given weights.

    Every round is a separate training, with its own warm-up and decay of the learning rate and new moments. All random
    numbers depend on `seed`, the round and the client, so a single round can be repeated.

    Args:
        task: the task; clients and server divide its training data, and `reward` is the server's held-out part.
        public: indices of the server's training examples.
        parts: indices of each client's examples.
        model: the starting model.
        seed: seed of all trainings.
        setting: options of each `Distillation`: `batch_size`, `lr`, `recipe`, `device`, `precision`.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
        https://arxiv.org/abs/1602.05629
        Alballa, Canini, Practical Insights into Knowledge Distillation for Pre-Trained Models, 2024,
        https://arxiv.org/abs/2402.14922
    """

    task: Task
    public: Indices
    parts: Sequence[Indices]
    model: Model
    seed: int = 0
    setting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._judge = self._training(self.public, (), self.weights_of(self.model), steps=1)

    @property
    def evaluation(self) -> Distillation:
        """A distillation on the server's data that only evaluates models."""
        return self._judge

    @property
    def size(self) -> int:
        """Bytes to send one model."""
        return sum(value.nbytes for value in self.model.parameters())

    @staticmethod
    def weights_of(model: Model) -> Weights:
        """A copy of a model's state dict, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def holding(self, weights: Weights) -> Model:
        """A model with these weights."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(weights)
        return model

    def learn(self, client: int, weights: Weights, *, steps: int, round_idx: int, costs: CostTracker) -> Weights:
        """Trains a client for `steps` steps on the labels of its data; returns the new weights.

        Args:
            client: index of the client.
            weights: the initial weights.
            steps: optimizer steps.
            round_idx: the round; 0 before the first.
            costs: receives the costs.

        Raises:
            FloatingPointError: if the training diverges.
        """
        training = self._training(self.parts[client], (), weights, steps=steps)
        return self._taught(training, Selection(), (round_idx, client), costs)

    def round(self, weights: Weights, *, steps: int, round_idx: int, costs: CostTracker) -> Weights:
        """One round of FedAvg: every client trains from `weights`, and the server averages the results."""
        learned = [
            self.learn(k, weights, steps=steps, round_idx=round_idx, costs=costs) for k in range(len(self.parts))
        ]
        return average(learned, [len(part) for part in self.parts])

    def consolidate(
        self, models: Sequence[Weights], weights: Weights, *, steps: int, alpha: float, tau: float, costs: CostTracker
    ) -> Weights:
        """Distils several models into one on the server's data; without models it trains on labels alone.

        (1 - alpha) CE + alpha tau^2 1/K sum_k KL(p_k || p_S)
        """
        teachers = [ModelTeacher(self.holding(one).to(self._judge.device)) for one in models]
        if not teachers:
            training = self._training(self.public, (), weights, steps=steps)
            return self._taught(training, Selection(), (0, len(self.parts)), costs)
        shape = shape_of(self.model)
        method = preset("kd-average", shape, [one.shape for one in teachers], alpha=alpha, tau=tau)
        training = self._training(self.public, teachers, weights, steps=steps, knowledge=method.knowledge)
        (stage,) = method.stages
        return self._taught(training, stage.selection, (0, len(self.parts)), costs)

    def _training(
        self, indices: Indices, teachers: Sequence[Teacher], weights: Weights, *, steps: int, knowledge: Any = ()
    ) -> Distillation:
        part = replace(self.task, train=self.task.train.select(indices))
        return Distillation(
            part,
            teachers,
            lambda: self.holding(weights),
            lambda: knowledge,
            steps=steps,
            scale_steps=0,
            **self.setting,
        )

    def _taught(
        self, training: Distillation, selection: Selection, place: tuple[int, int], costs: CostTracker
    ) -> Weights:
        seed = int(np.random.SeedSequence([self.seed, *place]).generate_state(1)[0])
        distill(training, selection, seed=seed)
        costs.add(training.costs)
        return self.weights_of(training.student.model)

    def answers(self, weights: Weights, split: Split, part: str, costs: CostTracker) -> NDArray[np.float64]:
        """The outputs of a model with these weights on a split, [N, C]."""
        teacher = ModelTeacher(self.holding(weights).to(self._judge.device))
        self._judge.counts.clear()
        with self._judge.costs.timing(part):
            answers = self._judge.evaluator.answers(teacher, split, part)
        if part == "reward":
            self._judge.costs.reward_passes += len(split) / len(self.task.reward)
        costs.add(self._judge.costs)
        return answers


def average(models: Sequence[Weights], counts: Sequence[int]) -> Weights:
    """The mean of models' weights, weighted by counts of examples: `sum_k n_k / n w_k`.

    Tensors that are not floating-point are taken from the first model.

    Raises:
        InputError: if there is no model, or a model has no count above 0.
    """
    if not models or len(models) != len(counts) or min(counts) < 1:
        raise InputError(f"{len(models)} models cannot be averaged by the counts {list(counts)}: give one for each")
    total = sum(counts)
    mean: dict[str, Tensor] = {}
    for name, first in models[0].items():
        if not first.is_floating_point():
            mean[name] = first
            continue
        terms = [one[name].double() * (count / total) for one, count in zip(models, counts, strict=True)]
        mean[name] = torch.stack(terms).sum(0).to(first.dtype)
    return mean
