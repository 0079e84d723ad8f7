"""Every family as teacher and as student: what the adapter hands out, against an untouched copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AlbertConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from ackd import models
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import build
from ackd.models import Meter, Model, shape_of
from ackd.teachers import ModelTeacher
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import EMBEDDINGS, Batch, OutputKey, OutputRequest, Outputs, Selection

HEADS, LAYERS, WINDOW = 3, 4, 4
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # so that layers matter and nothing is lost in rounding
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DEBERTA_V3: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
WITH_ATTENTION: dict[str, tuple[Any, str]] = {  # with the end of the name of each layer's output projection
    "bert": (BertConfig(**SIZES), "attention.output.dense"),
    "distilbert": (
        DistilBertConfig(**SIZES, hidden_dim=32, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0),
        "attention.out_lin",
    ),
    "roberta": (RobertaConfig(**SIZES, type_vocab_size=1), "attention.output.dense"),  # as the published ones
    "electra": (ElectraConfig(**SIZES, embedding_size=12), "attention.output.dense"),
    "albert": (AlbertConfig(**SIZES, embedding_size=12, classifier_dropout_prob=0.0), "attention.dense"),
    "xlm-roberta": (XLMRobertaConfig(**SIZES, type_vocab_size=1), "attention.output.dense"),
    "modernbert": (
        ModernBertConfig(**SIZES, local_attention=2 * WINDOW, global_attn_every_n_layers=3, bos_token_id=1,
                         eos_token_id=2, cls_token_id=1, sep_token_id=2),
        "attn.Wo",
    ),
}  # fmt: skip
WITHOUT = {
    "deberta-v2": (DebertaV2Config(**SIZES), "attention.output.dense"),
    "deberta-v3": (DebertaV2Config(**SIZES, **DEBERTA_V3), "attention.output.dense"),
}
FAMILIES = WITH_ATTENTION | WITHOUT

every = pytest.mark.parametrize("family", FAMILIES)
attentive = pytest.mark.parametrize("family", WITH_ATTENTION)


def model_of(family: str, seed: int = 0) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(FAMILIES[family][0])()


def eager_copy(model: Model) -> Model:
    """A copy that the adapter has never touched."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


def projections(model: Model, family: str) -> list[nn.Module]:
    """The module of each layer that attention's result goes into; ALBERT's layers share one."""
    return [module for name, module in model.named_modules() if name.endswith(FAMILIES[family][1])]


def inputs_of(model: Model, family: str, batch: Batch, pass_: Callable[[], object]) -> list[Tensor]:
    """What goes into each output projection in turn while `pass_` runs."""
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for module in projections(model, family)
    ]
    pass_()
    for handle in handles:
        handle.remove()
    return seen


def visible(family: str, layer: int, batch: Batch) -> Tensor:
    """[B, 1, n, n], who may look at whom: every token at every token, or in a window."""
    length = batch.shape[1]
    indices = torch.arange(length)
    seen = batch.mask.bool()[:, None, None, :].expand(-1, 1, length, length)
    if family == "modernbert" and layer % 3:
        seen = seen & ((indices[:, None] - indices).abs() <= WINDOW)
    return seen


def heads(value: Tensor) -> Tensor:
    return value.reshape(*value.shape[:-1], HEADS, -1).transpose(1, 2)


@pytest.fixture(params=[0, 3], ids=["padded", "padded further"])
def batch(request: pytest.FixtureRequest, make_batch: Callable[..., Batch]) -> Batch:
    return make_batch((12, 5, 9), extra=request.param)


@pytest.fixture
def unpadded(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch((12, 12))


def hidden_and_logits(family: str, expected: Any, twin: Model, layer: int, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """A layer's output and what an untouched model says it is."""
    ours = outputs.hidden[layer]
    if family == "modernbert" and layer == LAYERS - 1:  # what it calls its last hidden state is normed once more
        ours = twin.model.final_norm(ours)
    return ours, expected.hidden_states[layer + 1]


@pytest.mark.parametrize("full", [False, True])
@every
def test_logits_and_hidden_states_are_the_models_own(family: str, full: bool, batch: Batch, unpadded: Batch) -> None:
    batch = unpadded if full else batch
    model = model_of(family).eval()
    twin = copy.deepcopy(model)
    layers = frozenset(range(EMBEDDINGS, LAYERS))
    with torch.no_grad():
        outputs = models.run(model, batch, OutputRequest(logits=True, cls=layers, hidden=layers))
        expected = twin(**batch.inputs, output_hidden_states=True)
    assert outputs.logits is not None
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
    valid = batch.mask.bool()
    for layer in layers:
        ours, theirs = hidden_and_logits(family, expected, twin, layer, outputs)
        assert torch.allclose(ours[valid], theirs[valid], atol=1e-5), layer
        assert torch.equal(outputs.cls[layer], outputs.hidden[layer][:, 0])
    if family == "modernbert":
        assert not torch.allclose(outputs.hidden[LAYERS - 1][valid], expected.hidden_states[-1][valid], atol=1e-2)


@pytest.mark.parametrize("full", [False, True])
@attentive
def test_scores_queries_keys_and_values_make_up_eager_attention(
    family: str, full: bool, batch: Batch, unpadded: Batch
) -> None:
    batch = unpadded if full else batch
    model = model_of(family).eval()
    twin = eager_copy(model)
    layers = frozenset(range(LAYERS))
    needs = OutputRequest(True, attention=layers, queries=layers, keys=layers, values=layers)
    found: list[Any] = []
    with torch.no_grad():
        outputs = models.run(model, batch, needs)
        contexts = inputs_of(twin, family, batch, lambda: found.append(twin(**batch.inputs, output_attentions=True)))
    assert outputs.logits is not None
    assert torch.allclose(outputs.logits, found[0].logits, atol=1e-5)
    valid = batch.mask.bool()
    for layer in layers:
        seen, theirs = visible(family, layer, batch), found[0].attentions[layer]
        query, key, value = (heads(getattr(outputs, kind)[layer]) for kind in ("queries", "keys", "values"))
        products = query @ key.mT / query.shape[-1] ** 0.5
        assert torch.allclose(products, outputs.attention[layer], atol=1e-4)
        shares = outputs.attention[layer].masked_fill(~seen, -torch.inf).softmax(-1)
        assert torch.allclose(shares.transpose(1, 2)[valid], theirs.transpose(1, 2)[valid], atol=1e-5), layer
        context = (shares @ value).transpose(1, 2).flatten(2)
        assert torch.allclose(context[valid], contexts[layer].reshape(context.shape)[valid], atol=1e-5), layer


@every
def test_a_student_has_the_gradients_of_an_untouched_model(family: str, batch: Batch) -> None:
    model = model_of(family).train()
    twin = eager_copy(model)
    attention = frozenset({1, 2} if family in WITH_ATTENTION else ())
    outputs = models.run(model, batch, OutputRequest(True, hidden=frozenset({EMBEDDINGS, 1}), attention=attention))
    expected = twin(**batch.inputs, output_hidden_states=True, output_attentions=True)
    valid = batch.mask.bool()
    assert outputs.logits is not None
    ours = outputs.logits.square().sum() + sum(outputs.hidden[i][valid].square().sum() for i in (EMBEDDINGS, 1))
    theirs = expected.logits.square().sum() + sum(expected.hidden_states[i + 1][valid].square().sum() for i in (-1, 1))
    for layer in attention:
        shares = outputs.attention[layer].masked_fill(~visible(family, layer, batch), -torch.inf).softmax(-1)
        ours = ours + shares.transpose(1, 2)[valid].square().sum()
        theirs = theirs + expected.attentions[layer].transpose(1, 2)[valid].square().sum()
    ours.backward()
    theirs.backward()
    scale = max(float(p.grad.abs().max()) for p in twin.parameters() if p.grad is not None)
    for (name, mine), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if mine.grad is not None and other.grad is not None:
            assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-5 * scale), name


@pytest.mark.parametrize(("layer", "expected"), [(EMBEDDINGS, 0), (0, 1), (2, 3), (LAYERS - 1, LAYERS)])
@every
def test_layers_behind_the_last_one_needed_do_not_run(
    family: str, layer: int, expected: int, make_batch: Callable[..., Batch]
) -> None:
    model, batch = model_of(family).eval(), make_batch((6, 4))
    head = [module for name, module in model.named_modules() if name == "classifier" or name.endswith(".pooler")]
    with torch.no_grad():
        before = copy.deepcopy(model)(**batch.inputs).logits
        for needs in (OutputRequest(hidden=frozenset({layer})), OutputRequest(cls=frozenset({layer}))):
            heads_run: list[int] = []
            handles = [module.register_forward_pre_hook(lambda *_: heads_run.append(1)) for module in head]  # noqa: B023
            ran = inputs_of(model, family, batch, lambda: models.run(model, batch, needs))  # noqa: B023
            assert len(ran) == expected
            assert not heads_run
            for handle in handles:
                handle.remove()
        after = models.run(model, batch, OutputRequest(logits=True)).logits
        assert after is not None
        assert torch.allclose(after, before, atol=1e-5)
        assert torch.allclose(model(**batch.inputs).logits, before, atol=1e-5)


class Products(TorchDispatchMode):
    """Notes the shapes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.shapes.add(tuple(value.shape))
        return result


@attentive
def test_scores_are_made_only_where_they_are_asked_for(family: str, make_batch: Callable[..., Batch]) -> None:
    model, batch = model_of(family), make_batch((11, 7))
    layers = frozenset(range(LAYERS))
    scores = (2, HEADS, 11, 11)
    for needs, made in (
        (OutputRequest(logits=True), False),
        (OutputRequest(logits=True, cls=layers, hidden=layers, queries=layers, keys=layers, values=layers), False),
        (OutputRequest(logits=True, attention=frozenset({1})), True),
    ):
        with Products() as products:
            models.run(model, batch, needs)
        assert (scores in products.shapes) == made


@pytest.mark.parametrize("kind", ["attention", "queries", "keys", "values"])
@pytest.mark.parametrize("family", WITHOUT)
def test_a_family_without_attention_says_so(family: str, kind: str, make_batch: Callable[..., Batch]) -> None:
    model, needs = model_of(family), OutputRequest.of([OutputKey("logits"), OutputKey(kind, 1)])
    assert models.cannot_give(model, needs) == f"a deberta-v2 cannot give its {kind}"
    with pytest.raises(InputError, match=rf"^a deberta-v2 cannot give its {kind}$"):
        models.run(model, make_batch(), needs)
    assert models.cannot_give(model, OutputRequest(True, cls=frozenset({0}), hidden=frozenset({EMBEDDINGS, 3}))) == ""


@attentive
def test_the_others_give_everything(family: str) -> None:
    layers = frozenset(range(LAYERS))
    model = model_of(family).train()
    everything = OutputRequest(True, layers, layers | {EMBEDDINGS}, layers, layers, layers, layers)
    assert models.cannot_give(model, everything) == ""
    assert model.training


@pytest.mark.parametrize("bert_teaches", [False, True])
@pytest.mark.parametrize("pairs_of_texts", [False, True])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bert"])
def test_families_teach_each_other(
    family: str, bert_teaches: bool, pairs_of_texts: bool, make_batch: Callable[..., Batch]
) -> None:
    """Also with the second text's type ids, which a BERT tokenizer brings and some families do not know."""
    first, second = ("bert", family) if bert_teaches else (family, "bert")
    teacher, model = model_of(first, seed=1), model_of(second)
    batch = make_batch((6, 4))
    if pairs_of_texts:
        types = (torch.arange(6) > 2).long() * batch.mask
        batch = Batch(batch.ids, {**batch.inputs, "token_type_ids": types}, batch.labels)
    shapes = shape_of(model), shape_of(teacher)
    knowledge = build(("logits", "hidden"), *shapes)
    student = Student(model, knowledge, steps=10, lr=3e-3)
    teachers = [ModelTeacher(teacher)]
    distiller = Distiller(student, teachers, knowledge, meter=Meter(model), costs=CostTracker(), scale_steps=0)
    losses = [float(distiller.step([batch], Selection.of("logits", "hidden")).loss) for _ in range(6)]
    assert losses[-1] < losses[0]


@every
def test_students_from_layers_are_those_layers(family: str, make_batch: Callable[..., Batch]) -> None:
    """Two of four layers between the teacher's embeddings and head, the last one among them; ALBERT's are all one."""
    teacher, batch = model_of(family).eval(), make_batch((12, 5))
    twin = eager_copy(teacher)
    student = models.from_layers(teacher, 2)().eval()
    assert shape_of(student).layers == 2
    if family == "albert":
        twin.albert.encoder.config.num_hidden_layers = 2
    else:
        theirs, ours = (next(m for m in model.modules() if isinstance(m, nn.ModuleList)) for model in (twin, student))
        kept = [
            place
            for place, layer in enumerate(theirs)
            if any(torch.equal(matrix_of(layer), matrix_of(mine)) for mine in ours)
        ]
        assert len(kept) == 2
        assert kept[-1] == LAYERS - 1
        for place in reversed(range(LAYERS)):
            if place not in kept:
                del theirs[place]
    with torch.no_grad():
        assert torch.allclose(student(**batch.inputs).logits, twin(**batch.inputs).logits, atol=1e-5)


def matrix_of(layer: nn.Module) -> Tensor:
    return next(parameter for parameter in layer.parameters() if parameter.ndim == 2)
