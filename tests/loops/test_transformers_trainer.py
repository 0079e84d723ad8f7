"""The real `transformers.Trainer` with the losses of a policy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

import ackd
from ackd.errors import InputError
from ackd.loops.training import FILE
from ackd.loops.transformers_trainer import BalancedTrainer

NAMES = ("labels", "logits", "hidden")


def bert(layers: int, seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, max_position_embeddings=16, **sizes))


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (48, 8), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids.sum(1) % 2).tolist()})


class Losses:
    """Of a student beside a frozen teacher; counts the passes of the teacher, and the losses of training."""

    def __init__(self) -> None:
        self.teacher, self.passes = bert(2, 1).eval(), 0
        self.seen: list[dict[str, float]] = []

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], wanted: frozenset[str]
    ) -> tuple[Mapping[str, Tensor], Any]:
        outputs = model(**inputs, output_hidden_states=True)
        losses = {"labels": outputs.loss}
        if wanted & {"logits", "hidden"}:
            self.passes += 1
            with torch.no_grad():
                answers = self.teacher(input_ids=inputs["input_ids"], output_hidden_states=True)
            soft = F.kl_div(outputs.logits.log_softmax(-1), answers.logits.softmax(-1), reduction="batchmean")
            losses |= {"logits": soft, "hidden": F.mse_loss(outputs.hidden_states[-1], answers.hidden_states[-1])}
        if torch.is_grad_enabled():
            self.seen.append({name: float(loss.detach()) for name, loss in losses.items()})
        return losses, outputs


def trainer(folder: Path, data: Dataset, policy: object, **arguments: Any) -> tuple[BalancedTrainer, Losses]:
    losses = Losses()
    given: dict[str, Any] = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1,
        "save_steps": 3, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    made = BalancedTrainer(
        bert(1, 2), TrainingArguments(str(folder), **given | arguments), train_dataset=data, compute_losses=losses,
        losses=NAMES, policy=policy, balancer_options={"decision_interval": 2, "decisions": 6},
    )  # fmt: skip
    return made, losses


def weights(model: nn.Module | None) -> dict[str, list[float]]:
    assert model is not None
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}


def logged(folder: Path) -> list[dict[str, float]]:
    (state,) = folder.glob("checkpoint-12/trainer_state.json")
    return [row for row in json.loads(state.read_text())["log_history"] if "loss" in row]


def test_each_step_is_the_balancers_weighted_sum(tmp_path: Path, data: Dataset) -> None:
    made, losses = trainer(tmp_path, data, "magnitude")
    made.train()
    rows = logged(tmp_path)
    assert len(rows) == len(losses.seen) == 12
    twin = ackd.Balancer("magnitude", total_steps=12, losses=NAMES, decision_interval=2, decisions=6)
    for row, seen in zip(rows, losses.seen, strict=True):
        total = twin({name: torch.tensor(value) for name, value in seen.items()}, learning_rate=row["learning_rate"])
        assert row["loss"] == pytest.approx(float(total), abs=1e-4)  # the trainer rounds what it logs
        assert {name: row[f"weight/{name}"] for name in NAMES} == pytest.approx(twin.weights)
    assert twin.weights != dict.fromkeys(NAMES, 1.0)


def test_what_is_not_wanted_is_not_computed(tmp_path: Path, data: Dataset) -> None:
    def rule(episode: ackd.Episode) -> ackd.Selection:
        return ackd.Selection.of("logits") if episode.steps_done < 4 else ackd.Selection()

    made, losses = trainer(tmp_path, data, rule, save_strategy="no")
    made.train()
    assert losses.passes == 4


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path, data: Dataset) -> None:
    whole, _ = trainer(tmp_path / "whole", data, "famo")
    whole.train()
    part, _ = trainer(tmp_path / "whole", data, "famo")
    part.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert weights(part.model) == weights(whole.model)
    assert part.balancer.log() == whole.balancer.log()
    assert part.balancer.steps_done == 12


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path: Path, data: Dataset) -> None:
    made, _ = trainer(tmp_path, data, "all", max_steps=3)
    made.train()
    (tmp_path / "checkpoint-3" / FILE).unlink()
    with pytest.raises(InputError, match=f"checkpoint-3.*{FILE}"):
        made.train(resume_from_checkpoint=True)


def test_accumulated_batches_are_one_step(tmp_path: Path, data: Dataset) -> None:
    """Of 6 batches an epoch, 4 and then 2 make a step."""
    made, losses = trainer(tmp_path, data, "magnitude", gradient_accumulation_steps=4, save_strategy="no")
    made.train()
    assert len(losses.seen) == 12
    assert made.balancer.steps_done == 4


def test_evaluation_counts_nothing(tmp_path: Path, data: Dataset) -> None:
    made, _ = trainer(tmp_path, data, "all", save_strategy="no", max_steps=6)
    made.eval_dataset = data
    made.args.eval_strategy, made.args.eval_steps = IntervalStrategy.STEPS, 2
    before = made.evaluate()["eval_loss"]
    made.train()
    assert math.isfinite(before)
    assert made.balancer.steps_done == 6


def test_a_wrong_policy_is_told_before_anything_is_trained(tmp_path: Path, data: Dataset) -> None:
    with pytest.raises(InputError, match="defualt"):
        trainer(tmp_path, data, "defualt")
