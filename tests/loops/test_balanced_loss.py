"""A loss of several parts, alone and in the real trainer of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

import ackd
from ackd.loops.balanced_loss import BalancedLoss
from ackd.loops.training import FILE
from tests.models.small import tokenizer

NAMES = ("labels", "hidden", "relation")


class Part(nn.Module):
    """A loss that counts its calls."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power, self.calls = power, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.abs().pow(self.power).mean()


def test_modules_by_name_are_weighed_and_those_of_weight_0_do_not_run() -> None:
    parts = {"labels": Part(1), "logits": Part(2), "hidden": Part(3)}
    loss = BalancedLoss(parts, policy=ackd.Selection({"logits": 2.0}, labels=0.5), scale_steps=0)
    x = torch.tensor([1.0, -3.0])
    assert float(loss(x)) == 0.5 * 2.0 + 2.0 * 5.0
    assert [one.calls for one in parts.values()] == [1, 1, 0]
    assert len(list(loss.children())) == 1


def test_its_parameters_are_those_of_its_parts() -> None:
    loss = BalancedLoss({"labels": nn.Linear(2, 1), "logits": nn.Linear(2, 1)}, policy="all")
    assert {name.split(".")[1] for name, _ in loss.named_parameters()} == {"labels", "logits"}


class Embeddings(nn.Module):
    """Embeddings like a teacher's, and similarities of pairs like both its and the labels'."""

    def __init__(self, model: Any, teacher: Any) -> None:
        super().__init__()
        self.model, self._teacher, self.seen = model, [teacher], list[dict[str, float]]()

    def forward(self, features: list[Mapping[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            theirs = [self._teacher[0](dict(one))["sentence_embedding"] for one in features]
        ours = [self.model(dict(one))["sentence_embedding"] for one in features]
        alike = F.cosine_similarity(*ours)
        losses = {
            "labels": F.mse_loss(alike, labels.to(alike)),
            "hidden": F.mse_loss(torch.cat(ours), torch.cat(theirs)),
            "relation": F.mse_loss(alike, F.cosine_similarity(*theirs)),
        }
        if torch.is_grad_enabled():
            self.seen.append({name: float(value.detach()) for name, value in losses.items()})
        return losses


def test_the_trainer_of_sentence_transformers_learns_the_weighted_sum(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    words = tokenizer(pad_token="[PAD]")
    for name, layers in (("teacher", 2), ("student", 1)):
        torch.manual_seed(layers)
        sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
        BertModel(BertConfig(num_hidden_layers=layers, vocab_size=len(words), **sizes)).save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
    texts = [" ".join(words.convert_ids_to_tokens([5 + i % 7, 6 + i % 5, 7 + i % 3])) for i in range(33)]
    data = Dataset.from_dict({"one": texts[:32], "two": texts[1:], "score": [i % 3 / 2 for i in range(32)]})

    def trained(folder: Path, resume: str | None = None) -> tuple[BalancedLoss, Embeddings, Any]:
        student, teacher = (
            library.SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("student", "teacher")
        )
        parts = Embeddings(student, teacher)
        loss = BalancedLoss(parts, NAMES, policy="magnitude", decision_interval=2, decisions=4)
        arguments = library.SentenceTransformerTrainingArguments(
            str(folder), num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-2, save_steps=4, seed=0,
            logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = library.SentenceTransformerTrainer(
            student, arguments, train_dataset=data, loss=loss, callbacks=[loss.callback]
        )
        trainer.train(resume_from_checkpoint=resume)
        return loss, parts, trainer

    loss, parts, trainer = trained(tmp_path / "run")
    rows = [row for row in trainer.state.log_history if "loss" in row]
    twin = ackd.Balancer("magnitude", total_steps=8, losses=NAMES, decision_interval=2, decisions=4)
    assert len(rows) == len(parts.seen) == 8
    for row, seen in zip(rows, parts.seen, strict=True):
        total = twin({name: torch.tensor(value) for name, value in seen.items()})
        assert row["loss"] == pytest.approx(float(total), abs=1e-4)
    assert loss.balancer.weights == pytest.approx(twin.weights)
    assert (tmp_path / "run" / "checkpoint-4" / FILE).is_file()
    again, _, _ = trained(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-4"))
    assert again.balancer.log() == loss.balancer.log()
