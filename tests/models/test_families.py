"""Every family that transformers builds for sequence classification, as teacher and as student, or refused."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ackd
from ackd import models
from ackd.errors import InputError
from ackd.models import Meter, Model, cost
from ackd.types import EMBEDDINGS, Batch, OutputRequest, Selection
from tests.models.families import ALL, LAYERS, can_cut, config_of, gives
from tests.models.small import SPECIAL, VOCABULARY, save, settings, tokenizer, write_sentences

DOCS = Path(__file__).parents[2] / "docs" / "knowledge.md"
# whose layers know how deep they lie or how many there are, so that a cut student scales them otherwise
SCALED_BY_DEPTH = {"diffllama", "esmc", "minicpm3"}
# whose layers hand on more than one stream of states, or are not called as modules
NOT_TO_BE_SKIPPED = {"flaubert", "lilt", "squeezebert", "xlm", "zamba", "zamba2"}
REFUSED = {
    "a sequence classifier with an encoder and a decoder": "encoder-decoder",
    "more than text": "reads more than text",
    "padding changes its answers": "takes padding for a part of the text",
    "no vocabulary or no layers": "does not say its sizes",
    "texts of one length only": "cannot read texts of",
    "a library that is not installed": "cannot be made here",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("data") / "sentences.csv")


def make(kind: str) -> Model:
    """A tiny model, with biases that are not 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.from_config(config_of(kind))()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@dataclass(frozen=True)
class Outcome:
    """What came of a family: the model, or why there is none."""

    model: Model | None
    row: str  # of the table
    cut: bool


@cache
def outcome_of(kind: str) -> Outcome:
    try:
        model = make(kind)
        models.shape_of(model)
        models.padding_of(model, tokenizer(pad_token="[PAD]"))
    except InputError as error:
        return Outcome(None, next(row for row, part in REFUSED.items() if part in str(error)), False)
    return Outcome(model, gives(copy.deepcopy(model)), can_cut(model))


def batch(lengths: tuple[int, ...] = (7, 4, 5)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(len(SPECIAL), VOCABULARY, mask.shape, generator=generator) * mask
    return Batch(torch.arange(len(lengths)), {"input_ids": ids, "attention_mask": mask}, torch.zeros(len(lengths)))


def works(kind: str) -> Model:
    model = outcome_of(kind).model
    if model is None:
        pytest.skip(outcome_of(kind).row)
    return copy.deepcopy(model)


def test_the_table_in_the_documentation_is_what_comes_of_them() -> None:
    outcomes = {kind: outcome_of(kind) for kind in ALL}
    rows: dict[str, list[str]] = {}
    for kind, outcome in outcomes.items():
        rows.setdefault(outcome.row, []).append(kind)
    given = [f"| {row} | {', '.join(rows[row])} |" for row in ("everything", "logits, hidden states", "logits")]
    refused = [f"| refused: {row} | {', '.join(rows[row])} |" for row in REFUSED]
    whole = ", ".join(kind for kind, outcome in outcomes.items() if outcome.model is not None and not outcome.cut)
    table = "\n".join(["| gives | families |", "|---|---|", *given, *refused, f"| no `--student-layers` | {whole} |"])
    text = DOCS.read_text()
    assert text.split("<!-- families -->")[1].strip() == table, f"the table is now\n{table}"


@pytest.mark.parametrize("kind", ALL)
def test_answers_are_the_librarys_own_however_texts_are_padded(kind: str) -> None:
    model, asked = works(kind), batch()
    twin = copy.deepcopy(model)
    layers = frozenset(range(EMBEDDINGS, models.shape_of(model).layers - 1))  # the last one may be normed once more
    seen = layers if outcome_of(kind).row != "logits" else frozenset()
    with torch.no_grad():
        ours = models.run(model, asked, OutputRequest(logits=True, hidden=seen, cls=seen))
        alone = torch.cat([twin(**asked.rows([i]).inputs).logits for i in range(3)])
        theirs = twin(**asked.inputs, output_hidden_states=True).hidden_states
    assert ours.logits is not None
    torch.testing.assert_close(ours.logits, alone, rtol=1e-4, atol=1e-4)
    for layer in seen:
        there = asked.mask.bool()
        torch.testing.assert_close(ours.hidden[layer][there], theirs[layer + 1][there], rtol=1e-4, atol=1e-4)
        assert torch.equal(ours.cls[layer], ours.hidden[layer][:, 0])


@pytest.mark.parametrize("kind", ALL)
def test_costs_are_what_torch_counts_of_the_model_itself(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a twin with zeros, as of small models, and of one without values, as of large ones."""
    model, asked = works(kind), batch((32,))
    if hasattr(model.config, "_experts_implementation"):
        model.set_experts_implementation("eager")  # products that the counter knows
    near = 1e-2 if kind == "longformer" else 1e-6  # whose windows overlap: no polynomial of the length
    small = Meter(model)
    small(OutputRequest(logits=True))  # counts up to every layer
    monkeypatch.setattr(cost, "SMALL", 0)
    (large,) = cost._counts(cost._twin(type(model), model.config), (32,))
    for last in (None, EMBEDDINGS, *range(LAYERS)):
        needs = OutputRequest(logits=True) if last is None else OutputRequest(hidden=frozenset({last}))
        if last is not None and models.cannot_give(model, needs):
            continue
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            models.run(model, asked, needs)
        assert small(needs).forward(1, 32) == pytest.approx(counter.get_total_flops(), rel=near)
        assert large.get(last, large[None]) == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_a_cut_student_is_its_teacher_without_the_other_layer(kind: str) -> None:
    model = works(kind)
    if not outcome_of(kind).cut or kind in SCALED_BY_DEPTH | NOT_TO_BE_SKIPPED:
        pytest.skip("its layers cannot be picked, or not be skipped")
    student = models.from_layers(model, 1)().eval()
    ours, theirs = (next(m for m in one.modules() if isinstance(m, nn.ModuleList)) for one in (student, model))
    if len(theirs) == LAYERS:  # not ALBERT's one group
        same = [all(map(torch.equal, ours[0].state_dict().values(), one.state_dict().values())) for one in theirs]
        assert sum(same) == 1
        theirs[same.index(False)].register_forward_hook(_skipping, with_kwargs=True)
        with torch.no_grad():
            left, skipped = (models.run(one, batch(), OutputRequest(logits=True)).logits for one in (student, model))
        torch.testing.assert_close(left, skipped, rtol=1e-4, atol=1e-4)


def _skipping(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    states = args[0] if args else kwargs["hidden_states"]
    return type(output)([states, *output[1:]]) if isinstance(output, tuple | list) else states


@pytest.mark.parametrize("kind", ALL)
def test_it_teaches_and_learns(kind: str, data: Path, tmp_path: Path) -> None:
    """From a folder, through everything that `ackd distill` sets up, and one optimizer step on."""
    model, outcome = works(kind), outcome_of(kind)
    types = {"everything": ("logits", "hidden", "attention", "values"), "logits": ("logits",)}.get(
        outcome.row, ("logits", "hidden")
    )
    # its folder is read with a tokenizer of its own, of bytes, whatever lies there
    its = models.train_tokenizer(["w4 w5"], 270) if kind == "qwen2" else tokenizer(pad_token="[PAD]")
    teacher = save(tmp_path / "teacher", model, its)
    (tmp_path / "student.json").write_text(json.dumps(config_of(kind).to_dict()))
    student = {"student_layers": 1} if outcome.cut else {"student": str(tmp_path / "student.json")}
    training = ackd.prepare(**settings(data, teacher=teacher, types=types, **student))
    training.reset(0)
    before = [weight.detach().clone() for weight in training.student.model.parameters()]
    report = training.advance(Selection.of(*types), 1)
    assert report.finite
    assert set(report.losses) == set(types)
    assert any(not torch.equal(*pair) for pair in zip(before, training.student.model.parameters(), strict=True))
