"""Causal language models answer under our attention as they do without it, and their losses are the plain formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

from ackd import models
from ackd.costs import CostTracker
from ackd.knowledge import Tokens, assess, label_loss, token_sums
from ackd.models import Meter, Model
from ackd.tasks import Split
from ackd.teachers import ModelTeacher
from ackd.types import NO_TOKEN, Batch, OutputRequest, Outputs

WORDS = 40
TEXTS = [[3, 9, 4, 17, 2, 8], [5, 6, 7, 39, 1, 0, 12, 30, 11], [21, 22], [14, 13, 12, 11]]
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    ),
    "llama": lambda: LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,  # so that heads share keys and values
        max_position_embeddings=32,
        attention_dropout=0.1,
    ),
    "qwen2": lambda: AutoConfig.for_model(
        "qwen2",
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_dropout=0.1,
    ),
    "gpt_neox": lambda: AutoConfig.for_model(
        "gpt_neox",
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    ),
}


def make(name: str, seed: int = 0) -> Model:
    config = CONFIGS[name]()
    config.initializer_range = 0.3  # so that attention matters
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(config, language=True)()


def split(texts: list[list[int]]) -> Split:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    tokens = np.concatenate([np.array(text, np.uint8) for text in texts])
    zeros = np.zeros(len(texts), np.int64)
    return Split({"input_ids": tokens}, offsets, zeros, np.arange(len(texts)), {}, language=True)


def test_a_batch_is_texts_and_what_follows() -> None:
    batch = split(TEXTS).batch([0, 2, 3])
    assert batch.inputs["input_ids"].tolist() == [[3, 9, 4, 17, 2], [21, 0, 0, 0, 0], [14, 13, 12, 0, 0]]
    none = NO_TOKEN
    assert batch.labels.tolist() == [[9, 4, 17, 2, 8], [22, none, none, none, none], [13, 12, 11, none, none]]
    assert batch.lengths.tolist() == [5, 1, 3]
    rows = batch.rows([1, 2])
    assert rows.shape == (2, 3)
    assert rows.labels.tolist() == [[22, none, none], [13, 12, 11]]
    chosen = split(TEXTS).select([2, 3])
    assert torch.equal(chosen.batch([0, 1]).labels, rows.labels)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("places", [[1], [0, 1, 2, 3]], ids=["alone", "padded"])
def test_answers_are_the_untouched_models(name: str, places: list[int]) -> None:
    model = make(name).eval()
    plain = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), attn_implementation="eager").eval()
    plain.load_state_dict(model.state_dict())
    batch = split(TEXTS).batch(places)
    layers = frozenset({0, 1})
    with torch.no_grad():
        outputs = models.run(model, batch, OutputRequest(logits=True, attention=layers, hidden=layers))
        fused = models.run(model, batch, OutputRequest(logits=True))
        expected = plain(**batch.inputs)
    assert outputs.logits is not None
    assert fused.logits is not None
    there = batch.mask.bool()
    for logits in (outputs.logits, fused.logits):
        assert torch.allclose(logits[there], expected.logits[there], atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_token_sees_what_follows_it_while_training_either(name: str) -> None:
    """With dropout our own attention computes; what comes later must still change nothing."""
    model = make(name).train()
    one = split([TEXTS[1]]).batch([0])
    ids = one.inputs["input_ids"].clone()
    ids[0, 5:] = 33
    other = Batch(one.ids, {**one.inputs, "input_ids": ids}, one.labels)
    answers = []
    for batch in (one, other):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            answers.append(models.run(model, batch, OutputRequest(logits=True)).logits)
    assert answers[0] is not None
    assert answers[1] is not None
    assert torch.equal(answers[0][:, :5], answers[1][:, :5])
    assert not torch.allclose(answers[0][:, 5:], answers[1][:, 5:])


def test_losses_are_the_plain_ones() -> None:
    model = make("gpt2").double().eval()
    batch = split(TEXTS).batch([0, 1, 2, 3])
    with torch.no_grad():
        logits = models.run(model, batch, OutputRequest(logits=True)).logits
        assert logits is not None
        losses, sums = label_loss(logits, batch.labels), token_sums(logits, batch.labels)
        sure, right = assess(logits, batch.labels)
        everything = []
        for i, text in enumerate(TEXTS):
            alone = model(torch.tensor([text[:-1]])).logits[0]
            log_p = alone.log_softmax(-1)
            nll = torch.stack([-log_p[t, token] for t, token in enumerate(text[1:])])
            assert torch.allclose(losses[i], nll.mean(), atol=1e-12)
            hits = (alone.argmax(-1) == torch.tensor(text[1:])).sum()
            assert torch.allclose(sums[i], torch.stack([nll.sum(), hits.double(), torch.tensor(len(nll)).double()]))
            library = model(torch.tensor([text]), labels=torch.tensor([text])).loss
            assert losses[i].item() == pytest.approx(float(library), abs=1e-6)  # the library computes in float32
            everything.append(alone)
    joined = torch.cat(everything).log_softmax(-1)
    assert float(sure) == pytest.approx(float(-(joined.exp() * joined).sum(-1).mean()) / math.log(WORDS))
    assert float(right) == pytest.approx(float(sums[:, 1].sum() / sums[:, 2].sum()))


def test_token_distributions_are_compared_by_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, NO_TOKEN, NO_TOKEN], [0, NO_TOKEN, NO_TOKEN, NO_TOKEN]])
    batch = Batch(torch.arange(3), {"attention_mask": (labels != NO_TOKEN).long()}, labels)
    loss = Tokens()(Outputs(logits=student), Outputs(logits=teacher), batch)
    for i, length in enumerate((4, 2, 1)):
        p, log_q = F.softmax(teacher[i, :length], -1).numpy(), F.log_softmax(student[i, :length], -1).detach().numpy()
        assert float(loss[i].detach()) == pytest.approx(-(p * log_q).sum() / length)
    loss.sum().backward()
    assert student.grad is not None
    assert not student.grad[1, 2:].any()
    own = Tokens()(Outputs(logits=teacher), Outputs(logits=teacher), batch)
    log_p = teacher[0].log_softmax(-1)
    assert float(own[0]) == pytest.approx(float(-(log_p.exp() * log_p).sum(-1).mean()))  # not 0: the entropy


def test_certain_answers_give_numbers() -> None:
    certain = torch.full((1, 2, 5), -torch.inf)
    certain[:, :, 2] = 0.0
    labels = torch.tensor([[2, 2]])
    batch = Batch(torch.arange(1), {"attention_mask": torch.ones(1, 2).long()}, labels)
    student = torch.zeros(1, 2, 5, requires_grad=True)
    loss = Tokens()(Outputs(logits=student), Outputs(logits=certain), batch)
    assert float(loss.detach()) == pytest.approx(math.log(5))
    assert float(Tokens()(Outputs(logits=certain), Outputs(logits=certain), batch)) == 0.0
    extreme = torch.tensor([[[1e30, 0.0, 0.0, 0.0, 0.0]] * 2], requires_grad=True)
    loss = Tokens()(Outputs(logits=extreme), Outputs(logits=-extreme.detach()), batch)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert extreme.grad is not None
    assert torch.isfinite(extreme.grad).all()


def test_a_pass_costs_twice_its_weights_for_each_token() -> None:
    config = GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    model = models.from_config(config, language=True)()
    cost = Meter(model)(OutputRequest(logits=True))
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "wpe" not in name)
    assert cost.per_token == 2 * matrices  # the head's, which are the embeddings', among them
    assert cost.per_pair == 2 * 2 * 2 * 64  # scores and values of two layers
    teacher, costs = ModelTeacher(model), CostTracker()
    teacher(split(TEXTS).batch([1]), OutputRequest(logits=True), costs)
    assert costs.flops["teacher"] == Meter(model)(OutputRequest(logits=True)).forward(1, 8)
