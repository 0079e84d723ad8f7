"""Models that need something of their tokenizer, and sentences that say what to do instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BartConfig, BertConfig, GPT2Config, LlamaConfig, MambaConfig, MPNetConfig

import ackd
from ackd import models
from ackd.building.sources import find_tokenizer
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import Selection
from tests.models.families import SIZES, config_of
from tests.models.small import SPECIAL, VOCABULARY, save, settings, tokenizer, write_sentences


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_sentences(tmp_path / "sentences.csv")


def gpt2() -> Model:
    """Without a padding token, as on the hub."""
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=96, eos_token_id=2)
    assert config.pad_token_id is None
    return models.from_config(config)()


def alone_and_padded(model: Model, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, padding, padding, padding]])
    mask = (torch.arange(6) < torch.tensor([[6], [3]])).long()
    with torch.no_grad():
        padded = model.eval()(input_ids=ids, attention_mask=mask).logits
        return model(input_ids=ids[1:, :3], attention_mask=mask[1:, :3]).logits[0], padded[1]


def test_a_decoder_without_a_padding_token_takes_the_end_of_a_text_for_one(data: Path, tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", gpt2(), tokenizer(eos_token="[EOS]"))
    training = ackd.prepare(**settings(data, teacher=teacher, student_layers=1, types=("logits", "hidden")))
    training.reset(0)
    assert training.advance(Selection.of("logits", "hidden"), 1).finite
    student = training.student.model
    assert student.config.pad_token_id == 2
    torch.testing.assert_close(*alone_and_padded(student, 2))
    its = find_tokenizer("own", [teacher], None)
    assert its.pad_token == "[EOS]"
    models.save_model(tmp_path / "student", student, its)
    torch.testing.assert_close(*alone_and_padded(models.load_model(tmp_path / "student"), 2))
    assert models.load_tokenizer(teacher).pad_token is None  # of a language model, which pads nothing


def test_a_decoder_is_refused_where_nothing_can_stand_for_padding(data: Path, tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", gpt2(), tokenizer())
    with pytest.raises(InputError, match="neither the config of the gpt2 nor its tokenizer names a padding token"):
        ackd.prepare(**settings(data, teacher=teacher, student_layers=1))


def test_a_text_without_a_token_is_refused_where_the_tokenizer_adds_none(data: Path, tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", gpt2(), tokenizer(eos_token="[EOS]"))
    data.write_text(data.read_text() + "   ,odd\n")
    with pytest.raises(InputError, match=r"^row 141 of the data has no token for this tokenizer: leave empty"):
        ackd.prepare(**settings(data, teacher=teacher, student_layers=1))


def test_a_decoder_whose_config_pads_otherwise_goes_by_its_tokenizer() -> None:
    model = models.from_config(LlamaConfig(**{**SIZES, "pad_token_id": 9}))()
    one, other = alone_and_padded(model, 2)
    assert not torch.allclose(one, other)
    assert models.padding_of(model, tokenizer(pad_token="[EOS]")) == 2
    torch.testing.assert_close(*alone_and_padded(model, 2))


def test_families_that_cannot_be_are_named_as_what_they_are(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": VOCABULARY}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
    for name, config, said in (
        ("bart", BartConfig(**sizes), "a bart is an encoder-decoder, and these are not supported: take an encoder"),
        ("mamba", MambaConfig(), "transformers has no sequence classifier of the family mamba: take another"),
    ):
        (tmp_path / name).mkdir()
        config.save_pretrained(tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(b"")  # nobody gets as far as that
        for ask in (lambda: models.load_model(tmp_path / name), lambda: models.from_config(config)):  # noqa: B023
            with pytest.raises(InputError) as caught:
                ask()
            assert str(caught.value).startswith(said)
            assert "damaged" not in str(caught.value)


def test_what_is_advised_instead_works(data: Path, tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", models.from_config(MPNetConfig(**SIZES))(), tokenizer(pad_token="[PAD]"))
    with pytest.raises(InputError, match="cannot give its attention") as caught:
        ackd.prepare(**settings(data, teacher=teacher, student_layers=1))
    advised = str(caught.value).partition("--knowledge ")[2].rstrip(")").split()
    assert advised == ["logits", "hidden"]
    assert ackd.prepare(**settings(data, teacher=teacher, student_layers=1, types=advised))
    with pytest.raises(InputError, match="take another preset than 'minilmv2', or other models"):
        ackd.prepare(**settings(data, teacher=teacher, student_layers=1, preset="minilmv2"))


def test_a_vocabulary_that_is_too_small_is_the_models_that_has_it(data: Path, tmp_path: Path) -> None:
    model = models.from_config(BertConfig(**{**SIZES, "vocab_size": VOCABULARY - len(SPECIAL)}))()
    teacher = save(tmp_path / "teacher", model, tokenizer(pad_token="[PAD]"))
    with pytest.raises(InputError) as caught:
        ackd.prepare(**settings(data, teacher=teacher, student_layers=1))
    assert str(caught.value).startswith(f"{teacher} has a vocabulary of 60, less than the 64 tokens")
    assert "None" not in str(caught.value)
    whole = save(tmp_path / "whole", models.from_config(BertConfig(**SIZES))(), tokenizer(pad_token="[PAD]"))
    student = save(tmp_path / "student", model, tokenizer(pad_token="[PAD]"))
    with pytest.raises(InputError) as caught:
        ackd.prepare(**settings(data, teacher=whole, student=student))
    assert str(caught.value).startswith(f"{student} has a vocabulary of 60, less than the 64 tokens")


def test_windows_and_kinds_of_layers_are_cut_along_with_them(tmp_path: Path) -> None:
    for kind, name, left in (
        ("longformer", "attention_window", [8]),
        ("gpt_neo", "attention_types", [[["local"], 1]]),
        ("qwen3_next", "layer_types", ["full_attention"]),
    ):
        student = models.from_layers(models.from_config(config_of(kind))(), 1)()
        assert getattr(student.config, name) == left
        models.save_model(tmp_path / kind, student, tokenizer(pad_token="[PAD]"))
        assert json.loads((tmp_path / kind / "config.json").read_text())[name] == left
        assert models.shape_of(models.load_model(tmp_path / kind)).layers == 1


def test_each_part_of_a_layer_of_xlm_is_cut() -> None:
    teacher = models.from_config(config_of("xlm"))()
    student = models.from_layers(teacher, 1)().eval()
    parts = teacher.transformer
    for name in ("attentions", "layer_norm1", "ffns", "layer_norm2"):
        setattr(parts, name, getattr(parts, name)[1:])
    parts.n_layers = 1
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(student(input_ids=ids).logits, teacher.eval()(input_ids=ids).logits)
