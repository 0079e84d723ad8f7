"""Sentence encoders answer as sentence-transformers does, and their folders are its folders."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from ackd import models
from ackd.errors import InputError
from ackd.models import Meter, Pooling
from ackd.split import Split
from ackd.tasks import tokenise
from ackd.types import Batch, OutputRequest
from tests import encoders
from tests.models import small
from tests.models.families import config_of

EMBEDDING = OutputRequest(logits=True)
POOLINGS = [Pooling(mode, normal) for mode in ("mean", "cls", "max") for normal in (False, True)]


def batch(texts: list[str], source: str) -> Batch:
    """Texts of several lengths, padded."""
    zeros = torch.zeros(len(texts)).numpy()
    split: Split = tokenise([texts], zeros, zeros.astype("int64"), models.load_tokenizer(source, padding=True), 32)
    return split.batch(range(len(texts)))


def answers(source: str, texts: list[str]) -> torch.Tensor:
    model = models.load_model(source, pooling=models.read_pooling(source)).eval()
    with torch.no_grad():
        found = models.run(model, batch(texts, source), EMBEDDING).logits
    assert found is not None
    return found


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_a_folder_gives_the_embeddings_that_sentence_transformers_gives(pooling: Pooling, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    source = encoders.saved(tmp_path / "ours", pooling=pooling)
    texts = encoders.sentences(5)
    theirs = library.SentenceTransformer(source, device="cpu")
    assert theirs.max_seq_length == 32
    expected = theirs.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(answers(source, texts), expected, rtol=1e-5, atol=1e-6)
    theirs.save_pretrained(str(tmp_path / "theirs"))  # its present layout, which has other names
    assert models.read_pooling(str(tmp_path / "theirs")) == pooling
    torch.testing.assert_close(answers(str(tmp_path / "theirs"), texts), expected, rtol=1e-5, atol=1e-6)


def test_poolings_are_plain_sums_over_tokens() -> None:
    states = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask, rows = torch.tensor([[1, 1, 0], [1, 1, 1]]), [states[0, :2].tolist(), states[1].tolist()]
    states[0, 2] = torch.inf  # padding
    for mode, by in {"mean": lambda c: sum(c) / len(c), "cls": lambda c: c[0], "max": max}.items():
        expected = torch.tensor([[by(column) for column in zip(*row, strict=True)] for row in rows])  # type: ignore[operator]
        found = Pooling(mode)(states, mask)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected.double())
        unit = Pooling(mode, normalise=True)(states, mask)  # type: ignore[arg-type]
        torch.testing.assert_close(unit, found / found.square().sum(1, keepdim=True).sqrt())


def test_an_encoder_is_cut_counted_and_saved_like_other_models(tmp_path: Path) -> None:
    whole = encoders.encoder(layers=4, pooling=Pooling("max"))
    make = models.from_layers(whole, 2)
    cut = make()
    assert models.pooling_of(cut.config) == Pooling("max")
    assert (models.shape_of(cut).layers, models.shape_of(cut).classes) == (2, 16)
    price = [Meter(one)(EMBEDDING) for one in (cut, whole)]
    assert price[1].per_token == pytest.approx(2 * price[0].per_token)
    models.save_encoder(tmp_path, cut, small.tokenizer(pad_token="[PAD]"), 16)
    assert "pooling" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    assert models.pooling_of(cut.config) == Pooling("max")  # as before
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == "BertModel"


def test_a_plain_encoder_and_a_classifier_are_pooled_by_the_mean_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = models.from_config(models.small_config(small.VOCABULARY, 2, layers=2, width=16, heads=2))()
    models.save_model(tmp_path, model, small.tokenizer(pad_token="[PAD]"))
    with caplog.at_level(logging.WARNING, "ackd"):
        found = answers(str(tmp_path), encoders.sentences(3))
    assert "is no model of sentence-transformers" in caplog.text
    body = AutoModelForSequenceClassification.from_pretrained(tmp_path).bert.eval()
    given = batch(encoders.sentences(3), str(tmp_path))
    with torch.no_grad():
        states = body(**given.inputs).last_hidden_state
    mask = given.mask[..., None]
    torch.testing.assert_close(found, (states * mask).sum(1) / mask.sum(1))


def test_a_model_at_hand_becomes_an_encoder_and_a_classifier_does_not(tmp_path: Path) -> None:
    source = encoders.saved(tmp_path, pooling=Pooling("cls", normalise=True))
    plain = AutoModel.from_pretrained(source)
    found = models.as_encoder(plain)
    assert found is plain
    assert models.pooling_of(found.config) == Pooling("cls", normalise=True)  # of its folder
    inputs = batch(encoders.sentences(2), source).inputs
    with torch.no_grad():
        by_name, by_place = found(**inputs), found(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(by_name.logits, by_place.logits)
    assert torch.equal(by_name[0], by_name.last_hidden_state)  # what it answered before is there
    with pytest.raises(InputError, match="has a head and returns no embeddings"):
        models.as_encoder(models.from_config(models.small_config(50, 2))())


def test_weights_that_are_missing_are_told_but_for_the_pooler(tmp_path: Path) -> None:
    source = encoders.saved(tmp_path / "whole")
    bare = AutoModel.from_pretrained(source, add_pooling_layer=False)
    models.save_model(tmp_path / "bare", bare, small.tokenizer(pad_token="[PAD]"))
    first, again = (models.load_model(tmp_path / "bare", pooling=Pooling()) for _ in range(2))
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in first.state_dict().items())
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(InputError, match="do not belong together"):
        models.load_model(tmp_path / "bare", pooling=Pooling())


def test_a_config_that_names_a_pooling_of_its_own_is_a_config_like_any_other(tmp_path: Path) -> None:
    for strange in ({"mode": "x", "normalise": 1}, {"mode": "mean"}, 7, {}):
        config = models.small_config(50, 2)
        config.sentence_pooling = strange
        assert models.pooling_of(config) is None
        assert not models.pools(models.from_config(config)())


def edited(source: str, name: str, content: Any) -> str:
    (Path(source) / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return source


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("modules.json", [{"path": "", "type": "a.Transformer"}, {"path": "2_Dense", "type": "a.Dense"}], "Dense"),
        ("modules.json", [{"path": "", "type": "a.StaticEmbedding"}], "StaticEmbedding"),
        ("modules.json", [], "has the modules"),
        ("modules.json", "{", "is damaged"),
        ("modules.json", [{"path": "../x", "type": "Transformer"}, {"path": "", "type": "Pooling"}], "has the modules"),
        (
            "modules.json",
            [{"path": "", "type": "Transformer"}, {"path": "../1", "type": "Pooling"}],
            "has no 1_Pooling",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "mean"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ("1_Pooling/config.json", {"pooling_mode": 7}, "7"),
        ("config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"}, "prompt"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "lower case"),
    ],
)
def test_what_is_not_supported_is_refused_with_a_sentence(name: str, content: Any, said: str, tmp_path: Path) -> None:
    source = edited(encoders.saved(tmp_path), name, content)
    with pytest.raises(InputError, match=said) as caught:
        models.read_pooling(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["distilbert", "funnel", "gpt2", "modernbert", "mpnet", "roberta"])
def test_other_families_are_pooled_over_their_last_states(kind: str) -> None:
    """Of all 104 families one each of those that differ in their layers, hooks and outputs."""
    model = models.from_config(models.pooling_config(config_of(kind), Pooling()))().eval()
    ids = torch.randint(6, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    ids[1, 4:] = 0
    given = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    with torch.no_grad():
        states = model(**given).last_hidden_state
        found = models.run(model, Batch(torch.arange(2), given, torch.zeros(2)), EMBEDDING).logits
    torch.testing.assert_close(found, torch.stack([states[0].mean(0), states[1, :4].mean(0)]))
