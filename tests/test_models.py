"""Outputs by request, counted costs, and where students come from."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from ackd import models
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import Batch, Needs

EVERYTHING = Needs(logits=True, hidden=frozenset({0, 3}), attention=frozenset({1, 3}))


def test_outputs_equal_those_of_eager_attention(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model().eval(), make_batch((7, 3, 5), extra=2)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = models.run(model, batch, EVERYTHING)
        expected = eager(**batch.inputs, output_hidden_states=True, output_attentions=True)
    assert outputs.logits is not None
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-6)
    valid = batch.mask.bool()
    for layer in (0, 3):
        assert torch.allclose(outputs.hidden[layer][valid], expected.hidden_states[layer + 1][valid], atol=1e-6)
    for layer in (1, 3):
        scores = outputs.attention[layer].masked_fill(~valid[:, None, None, :], -torch.inf)
        assert torch.allclose(scores.softmax(-1), expected.attentions[layer], atol=1e-6)


def test_attention_is_captured_before_dropout(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model(), make_batch()
    model.config.hidden_dropout_prob = 0.0
    first_layer = Needs(attention=frozenset({0}))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and module is not model.bert.encoder.layer[0].attention.self.dropout:
            module.p = 0.0
    with torch.no_grad():
        training = models.run(model.train(), batch, first_layer).attention[0]
        frozen = models.run(model.eval(), batch, first_layer).attention[0]
    assert torch.equal(training, frozen)


def test_nothing_more_than_asked_for_is_kept(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    outputs = models.run(make_model(), make_batch(), Needs(hidden=frozenset({2})))
    assert outputs.logits is None
    assert set(outputs.hidden) == {2}
    assert not outputs.attention


@pytest.mark.parametrize(
    "config",
    [
        DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
        RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
        ElectraConfig(
            vocab_size=50, hidden_size=16, embedding_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_other_families_give_attention_too(config: object) -> None:
    assert models.can_give_attention(models.from_config(config)())


def test_a_family_without_attention_is_noticed() -> None:
    config = DebertaV2Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    assert not models.can_give_attention(models.from_config(config)())


@pytest.mark.parametrize(("layers", "width", "heads"), [(2, 16, 2), (4, 32, 4)])
def test_the_counted_cost_equals_the_closed_form(
    make_model: Callable[..., Model], layers: int, width: int, heads: int
) -> None:
    cost = models.cost_of(make_model(layers=layers, width=width, heads=heads, classes=3))
    feedforward = 2 * width
    # per token: query, key, value, output (d x d each) and the two feed-forward products; 2 FLOPs a multiply-add
    assert cost.per_token == layers * (2 * 4 * width**2 + 2 * 2 * width * feedforward)
    assert cost.per_pair == layers * 2 * 2 * width  # scores, and probabilities times values
    assert cost.per_example == 2 * width**2 + 2 * width * 3  # pooler and classifier
    assert cost.forward(5, 11) == 5 * (cost.per_example + 11 * cost.per_token + 121 * cost.per_pair)


def test_students_from_layers_are_those_layers(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    teacher = make_model(layers=4).eval()
    student = models.from_layers(teacher, 2)().eval()
    assert models.shape_of(student).layers == 2
    pruned = copy.deepcopy(teacher)
    pruned.bert.encoder.layer = torch.nn.ModuleList([pruned.bert.encoder.layer[1], pruned.bert.encoder.layer[3]])
    batch = make_batch()
    with torch.no_grad():
        assert torch.equal(student(**batch.inputs).logits, pruned(**batch.inputs).logits)
    assert student.bert.embeddings.word_embeddings.weight is not teacher.bert.embeddings.word_embeddings.weight
    assert student.config._attn_implementation == teacher.config._attn_implementation
    with pytest.raises(InputError, match="5 layers cannot be cut from a teacher of 4"):
        models.from_layers(teacher, 5)


def test_a_student_from_its_teachers_every_layer_is_its_teacher(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    teacher = make_model().eval()
    batch = make_batch()
    with torch.no_grad():
        same = models.from_layers(teacher, 4)().eval()(**batch.inputs).logits
        assert torch.equal(same, teacher(**batch.inputs).logits)


def test_checkpoints_and_configs(tmp_path: Path, make_model: Callable[..., Model]) -> None:
    model = make_model(classes=2)
    model.save_pretrained(tmp_path / "model")
    loaded = models.load_model(tmp_path)  # a run's folder
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    again = models.from_checkpoint(tmp_path / "model", 3)()
    assert models.shape_of(again).classes == 3
    assert torch.equal(again.bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    config = tmp_path / "small.json"
    config.write_text(model.config.to_json_string())
    assert models.shape_of(models.from_config(models.read_config(config, 2))()) == models.shape_of(model)
    assert "attn" not in (tmp_path / "model" / "config.json").read_text()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert plain.config._attn_implementation == "sdpa"


def test_what_cannot_be_loaded_is_said(tmp_path: Path, make_model: Callable[..., Model]) -> None:
    with pytest.raises(InputError, match="no folder"):
        models.load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"expected config.json and model.safetensors"):
        models.load_model(tmp_path)
    with pytest.raises(InputError, match=r"'nobody/nothing'.*connect to the network"):
        models.load_model("nobody/nothing")
    make_model().save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged or incomplete"):
        models.load_model(tmp_path)
    bad = tmp_path / "config.json"
    bad.write_text(json.dumps({"hidden_size": 4}))
    with pytest.raises(InputError, match="model_type"):
        models.read_config(bad, 2)
