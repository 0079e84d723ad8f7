"""A task that is ready to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ackd.split import Split
from ackd.tasks.seen import NOTHING, Seen
from ackd.tasks.spec import TaskSpec

TRAIN = "train"


@dataclass(frozen=True)
class Task:
    """Three splits: what the student learns from, what the reward is measured on, and what is reported.

    `reward` is cut from the training data, or from dev where that is what `reward_from` says, and seen by the reward
    alone; `dev` is seen by reports alone.
    """

    spec: TaskSpec
    train: Split
    reward: Split
    dev: Mapping[str, Split]  # by the validation split's name
    reward_from: str = TRAIN  # or dev:PART
    seen: Seen = NOTHING  # what has been learned from by who learns from `train`, and by the models of the run
    tokenizer: PreTrainedTokenizerBase | None = None  # whose tokens the student reads, where one made them

    @property
    def dev_examples(self) -> int:
        """Examples that the main score is of."""
        return len(next(iter(self.dev.values())))

    def beside(self, name: str, other: Task) -> Task:
        """The same task, of whose batches another tokenizer's tokens are a part."""
        dev = {split: those.beside(name, other.dev[split]) for split, those in self.dev.items()}
        train, reward = self.train.beside(name, other.train), self.reward.beside(name, other.reward)
        return replace(self, train=train, reward=reward, dev=dev)

    def metrics(self, outputs: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
        """Each of the task's metrics, from a model's outputs [N, C] and the labels [N].

        Of a language model the outputs are what `token_sums` says of each text, [N, 3]: `neg_loss` is minus the mean
        loss of a token over all texts, and `accuracy` the share of tokens that were the likeliest.
        """
        if self.spec.language:
            loss, right, tokens = outputs.sum(0)
            return {"neg_loss": -float(loss / tokens), "accuracy": float(right / tokens)}
        from ackd.tasks.metrics import METRICS  # scikit-learn takes its time to import

        predicted = outputs[:, 0] if self.spec.regression else outputs.argmax(1)
        return {name: METRICS[name](predicted, labels) for name in self.spec.metrics}
