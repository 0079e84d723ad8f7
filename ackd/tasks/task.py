"""A tokenised task, ready for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.split import Split
from ackd.tasks import sts
from ackd.tasks.metrics import METRICS
from ackd.tasks.own_metrics import ComputeMetrics, metric_names, metrics_of
from ackd.tasks.seen import NOTHING, Seen
from ackd.tasks.spec import TaskSpec
from ackd.types import NEG_LOSS

TRAIN = "train"


@dataclass(frozen=True)
class Task:
    """A task with three splits: training data, reward split and dev.

    `reward` is a part of the training data, or of dev (see `reward_from`), and used only for rewards; `dev` is used
    only for reports.
    """

    spec: TaskSpec
    train: Split
    reward: Split
    dev: Mapping[str, Split]  # by the validation split's name
    reward_from: str = TRAIN  # or dev:PART
    seen: Seen = NOTHING  # training data of the run's models, and `train`
    tokenizer: PreTrainedTokenizerBase | None = None  # the student's tokenizer; None if there is none
    compute_metrics: ComputeMetrics | None = None  # replaces the metrics of `spec`
    max_length: int | None = None  # most tokens of a text

    @property
    def dev_examples(self) -> int:
        """The number of examples of the main score."""
        return len(next(iter(self.dev.values())))

    def beside(self, name: str, other: Task) -> Task:
        """The same task with another tokenizer's tokens in its batches, under `name`."""
        dev = {split: those.beside(name, other.dev[split]) for split, those in self.dev.items()}
        train, reward = self.train.beside(name, other.train), self.reward.beside(name, other.reward)
        return replace(self, train=train, reward=reward, dev=dev)

    def judged_by(self, compute_metrics: ComputeMetrics | None) -> Task:
        """The same task with the user's metrics; None changes nothing.

        Raises:
            InputError: if `compute_metrics` is no valid function.
        """
        if compute_metrics is None:
            return self
        if self.spec.sentences or self.spec.language:
            raise InputError(f"compute_metrics needs labels, and {self.spec.kinds} have none: omit it")
        names = metric_names(compute_metrics, self.reward.labels, self.spec.num_labels)
        return replace(self, spec=replace(self.spec, metrics=names), compute_metrics=compute_metrics)

    def metrics(self, outputs: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Computes the task's metrics from a model's outputs [N, C] and the labels [N].

        For a language model the outputs are the `token_sums` of each text, [N, 3]. `neg_loss` is minus the mean loss
        per token over all texts, and `accuracy` the share of tokens that were predicted as most likely. For embeddings
        see `ackd.tasks.sts`: the labels are scores of pairs, [N], or other embeddings, [N, d].

        Raises:
            InputError: if the user's metrics do not return numbers.
        """
        if self.spec.language:
            loss, right, tokens = outputs.sum(0)
            return {NEG_LOSS: -float(loss / tokens), "accuracy": float(right / tokens)}
        if self.spec.sentences:
            return sts.pair_metrics(outputs, labels) if labels.ndim == 1 else sts.agreement(outputs, labels)
        if self.compute_metrics is not None:
            found = metrics_of(self.compute_metrics, outputs, labels)
            if (main := self.spec.metrics[0]) not in found:
                raise InputError(f"compute_metrics answers {', '.join(found)} and not {main}: let it answer it always")
            return found
        predicted = outputs[:, 0] if self.spec.regression else outputs.argmax(1)
        return {name: METRICS[name](predicted, labels) for name in self.spec.metrics}


def check_rewards(task: Task) -> None:
    """Refuses a task without a reward split.

    Raises:
        InputError: if the reward split is empty.
    """
    if not len(task.reward):
        raise InputError(
            f"rewards need a part of {task.spec.name}, and --reward-examples 0 sets none aside: give at least 1"
        )
