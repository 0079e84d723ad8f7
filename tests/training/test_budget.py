"""What a budget of FLOPs buys, against the closed forms of the papers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from ackd import corpora, models
from ackd.corpora import Corpus
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import Tokens
from ackd.models import Meter, Model, Tokenizer
from ackd.numerics.streams import RngStreams
from ackd.teachers import ModelTeacher
from ackd.training.budget import afford
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.training.sampler import LengthGroupedSampler
from ackd.types import NO_TOKEN, OutputRequest, Selection

INPUTS = 16  # tokens that a chunk is read in
BATCH = 4
KD = Selection({"tokens": 0.5}, labels=0.5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return models.train_tokenizer(["The sea was calm."], 260)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Corpus:
    dice = np.random.default_rng(0)
    chunks = (dice.integers(0, 257, INPUTS + 1) for _ in range(42))
    return corpora.write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", chunks, tokenizer, INPUTS + 1)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Callable[[int, int], Model]:
    path = tmp_path_factory.mktemp("configs") / "config.json"

    def made(layers: int, width: int) -> Model:
        settings = {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": 2, "n_positions": 32}
        path.write_text(json.dumps(settings))
        return models.from_config(models.language_config(path, tokenizer), language=True)()

    return made


def training(corpus: Corpus, student: Model, teacher: Model | None, *, steps: int = 1) -> Distillation:
    task, _ = corpora.language_task(corpus, (0, len(corpus)))
    return Distillation(
        task,
        () if teacher is None else (ModelTeacher(teacher),),
        lambda: student,
        tuple if teacher is None else (lambda: [Tokens()]),
        steps=steps,
        batch_size=BATCH,
        lr=1e-3,
        scale_steps=0,
    )


def weights(model: Model) -> int:
    """N: the weights that a token is multiplied with, those of the head among them; not positions, biases or norms."""
    return sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "wpe" not in name)


def forward(model: Model) -> float:
    """F of a batch, 2 N for each token and 4 d for each pair of tokens in each layer."""
    width, layers = int(model.config.n_embd), int(model.config.n_layer)
    return BATCH * (2.0 * weights(model) * INPUTS + 4 * INPUTS**2 * width * layers)


def predicted(one: Distillation, steps: int) -> int:
    """The tokens that are learned in the first steps: those behind an inner end of text are not."""
    split = one.task.train
    each = [int((split.batch([place]).labels != NO_TOKEN).sum()) for place in range(len(split))]
    order = LengthGroupedSampler(split.lengths - 1, BATCH, RngStreams(0).order)
    return sum(each[place] for _ in range(steps) for place in order.next())


@pytest.mark.parametrize("size", [(1, 8), (2, 16), (2, 32)])
def test_vanilla_kd_has_the_published_share_of_the_steps(
    corpus: Corpus, make: Callable[[int, int], Model], size: tuple[int, int]
) -> None:
    """MiniPLM 3.4: at equal FLOPs 6 N_S / (6 N_S + 2 N_T) of the steps; with attention 3 F_S / (3 F_S + F_T)."""
    student, teacher = make(*size), make(3, 32)
    plain, taught = training(corpus, student, None), training(corpus, student, teacher)
    budget = 1000 * 3 * forward(student)
    assert afford(plain, Selection(), budget, seed=0) == (1000, budget, predicted(plain, 1000))
    step = 3 * forward(student) + forward(teacher)
    steps = int(budget // step)
    assert afford(taught, KD, budget, seed=0) == (steps, steps * step, predicted(taught, steps))
    counted = [Meter(one)(OutputRequest(logits=True)).per_token for one in (student, teacher)]
    assert counted == [2 * weights(student), 2 * weights(teacher)]
    share = 3 * counted[0] / (3 * counted[0] + counted[1])
    assert share == pytest.approx(6 * weights(student) / (6 * weights(student) + 2 * weights(teacher)), rel=1e-12)
    assert steps / 1000 == pytest.approx(share, rel=0.05)  # attention moves it by little


def test_the_ledger_of_vanilla_kd_is_the_closed_form(corpus: Corpus, make: Callable[[int, int], Model]) -> None:
    student, teacher = make(1, 8), make(2, 16)
    taught = training(corpus, student, teacher, steps=7)
    steps, flops, _ = afford(taught, KD, None, seed=3)
    assert steps == 7
    distill(taught, KD, seed=3, interval=7)
    assert taught.costs.flops["student"] == 7 * 3 * forward(student)
    assert taught.costs.flops["teacher"] == 7 * forward(teacher)
    assert flops == taught.costs.flops["student"] + taught.costs.flops["teacher"]


def test_scoring_is_a_forward_pass_of_each_model(
    corpus: Corpus, make: Callable[[int, int], Model], tmp_path: Path
) -> None:
    """What the published comparison leaves out of the students' budget: 2 N a token, attention beside it."""
    for name, size in {"teacher": (2, 16), "reference": (1, 8)}.items():
        (tmp_path / name).mkdir()
        model, every = make(*size), (0, len(corpus))
        flops = corpora.score(
            ModelTeacher(model), corpus, tmp_path / name, every, batch_size=BATCH, device=torch.device("cpu")
        )
        assert flops == len(corpus) / BATCH * forward(model)


def test_too_little_for_a_step_is_refused(corpus: Corpus, make: Callable[[int, int], Model]) -> None:
    student = make(1, 8)
    one = 3 * forward(student)
    assert afford(training(corpus, student, None), Selection(), one, seed=0)[0] == 1
    with pytest.raises(InputError, match="the first step takes"):
        afford(training(corpus, student, None), Selection(), 0.99 * one, seed=0)


def test_dynamic_kds_published_flops_are_those_of_its_models() -> None:
    """2.8: 12 layers of BERT-base teach 6, 128 tokens: 45.1B in full, of a tenth 14.7B as in the paper, 24.9B run."""
    needs = OutputRequest(logits=True)
    teacher, student = (bert(layers)(needs).forward(1, 128) / 1e9 for layers in (12, 6))
    assert [teacher, student] == pytest.approx([22.5, 11.3], rel=0.015)
    full, tenth = CostTracker(), CostTracker()
    full.account(student, teacher, picked=student)
    tenth.account(student, 0.1 * teacher, picked=0.1 * student)
    assert full.accounts["as_run"] == full.accounts["as_in_paper"] == pytest.approx(45.1, rel=0.015)
    assert tenth.accounts["as_in_paper"] == pytest.approx(14.7, rel=0.015)
    assert tenth.accounts["as_run"] == pytest.approx(24.9, rel=0.015)


def bert(layers: int) -> Meter:
    with torch.device("meta"):
        return Meter(BertForSequenceClassification(BertConfig(num_hidden_layers=layers)))
