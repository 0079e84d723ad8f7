"""Outputs by request, and where students come from; `test_teachers.py` has every family."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ackd import models
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import Batch, OutputRequest


def test_attention_is_captured_before_dropout(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model(), make_batch()
    model.config.hidden_dropout_prob = 0.0
    first_layer = OutputRequest(attention=frozenset({0}))
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
    outputs = models.run(make_model(), make_batch(), OutputRequest(hidden=frozenset({2})))
    assert outputs.logits is None
    assert set(outputs.hidden) == {2}
    assert not outputs.attention


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
    with pytest.raises(InputError, match="5 layers cannot be cut from a model of 4"):
        models.from_layers(teacher, 5)
    with pytest.raises(InputError, match="'frist': did you mean 'first'"):
        models.from_layers(teacher, 2, "frist")  # type: ignore[arg-type]


def test_cutting_a_student_draws_nothing(make_model: Callable[..., Model]) -> None:
    teacher, before = make_model(), torch.get_rng_state()
    models.from_layers(teacher, 2)()
    assert torch.equal(torch.get_rng_state(), before)


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


def test_weights_that_are_missing_are_never_drawn_in_silence(tmp_path: Path, make_model: Callable[..., Model]) -> None:
    make_model().bert.save_pretrained(tmp_path)  # an encoder, as it is pretrained
    with pytest.raises(InputError, match=r"no weights for classifier\.bias, classifier\.weight: train it first"):
        models.load_model(tmp_path)
    assert models.shape_of(models.from_checkpoint(tmp_path, 3)()).classes == 3
    sizes = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("num_hidden_layers", 7), ("intermediate_size", 24)):
        (tmp_path / "config.json").write_text(json.dumps({**sizes, name: value}))
        for load in (models.load_model, lambda folder: models.from_checkpoint(folder, 3)()):
            with pytest.raises(InputError, match=r"do not belong together|cannot be read"):
                load(tmp_path)


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
