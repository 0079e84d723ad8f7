"""What things cost: counted figures against closed forms."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AlbertConfig

from ackd import costs as ledger_module
from ackd import models
from ackd.costs import PARTS, CostTracker
from ackd.envs.make import tiny
from ackd.models import Cost, Meter, Model, cost
from ackd.models.cost import LENGTHS
from ackd.training.budget import type_prices
from ackd.training.distillation import Distillation
from ackd.types import EMBEDDINGS, Batch, OutputKey, OutputRequest, Outputs, Selection


def bert(layers: int, width: int, *, classes: int = 0) -> Cost:
    """Of so many layers with a feed-forward twice as wide, 2 FLOPs a multiply-add; and of the head, if it runs."""
    return Cost(
        per_example=2.0 * width**2 + 2 * width * classes if classes else 0.0,  # pooler and classifier
        # query, key, value, output (d x d each) and the two feed-forward products
        per_token=layers * (2.0 * 4 * width**2 + 2 * 2 * width * (2 * width)),
        per_pair=layers * 2.0 * 2 * width,  # scores, and probabilities times values
    )


@pytest.mark.parametrize(("layers", "width", "heads"), [(2, 16, 2), (4, 32, 4)])
def test_the_counted_cost_equals_the_closed_form(
    make_model: Callable[..., Model], layers: int, width: int, heads: int
) -> None:
    model = make_model(layers=layers, width=width, heads=heads, classes=3).train()
    meter = Meter(model)
    cost = meter(OutputRequest(logits=True))
    assert cost == bert(layers, width, classes=3)
    assert cost.forward(5, 11) == 5 * (cost.per_example + 11 * cost.per_token + 121 * cost.per_pair)
    assert model.training
    for last in range(EMBEDDINGS, layers):
        for kind in ("hidden", "cls", "queries", "attention") if last >= 0 else ("hidden", "cls"):
            assert meter(OutputRequest.of([OutputKey(kind, last)])) == bert(last + 1, width)
    assert meter(OutputRequest(logits=True, attention=frozenset({0}))) == cost  # to keep what runs anyway is free
    assert meter(OutputRequest(hidden=frozenset({0}), values=frozenset({1}))) == bert(2, width)


def test_shared_layers_cost_as_much_as_others() -> None:
    """ALBERT computes what a BERT of its sizes does, and takes its narrow embeddings to the layers' width."""
    config = AlbertConfig(
        vocab_size=50, embedding_size=6, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    meter = Meter(models.from_config(config)())
    entry = 2.0 * 6 * 16
    for needs, expected in (
        (OutputRequest(logits=True), bert(3, 16, classes=3)),
        (OutputRequest(cls=frozenset({1})), bert(2, 16)),
        (OutputRequest(hidden=frozenset({EMBEDDINGS})), bert(0, 16)),
    ):
        assert meter(needs) == Cost(expected.per_example, expected.per_token + entry, expected.per_pair)


class Times:
    """A clock that the test sets."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def tick(self, seconds: float) -> float:
        self.now += seconds
        return self.now


def test_time_inside_a_part_belongs_to_the_part_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, costs = Times(), CostTracker()
    monkeypatch.setattr(ledger_module, "time", clock)
    with costs.timing("cache"):
        clock.now += 1
        with costs.timing("teacher"):
            clock.now += 10
        clock.now += 2
    with pytest.raises(KeyError), costs.timing("knowledge"):
        raise KeyError(clock.tick(100))
    assert costs.seconds == {**dict.fromkeys(PARTS, 0.0), "cache": 3.0, "teacher": 10.0, "knowledge": 100.0}


def test_ledgers_add_up_and_survive_json() -> None:
    costs = CostTracker(steps=2, teacher_queries=16, cached_queries=5, reward_passes=1)
    costs.add_flops("teacher", 7.0)
    costs.move("cache", 9.0)
    costs.account(5.0, 2.0, picked=1.0)
    costs.account(3.0, 2.0, scored=10.0)
    again = CostTracker(**json.loads(json.dumps(costs.as_dict())))
    assert again == costs
    again.add(costs)
    assert (again.steps, again.teacher_queries, again.cached_queries, again.reward_passes) == (4, 32, 10, 2)
    assert again.flops["teacher"] == 14.0
    assert again.bytes["cache"] == 18.0
    assert costs.accounts == {"as_run": 10 + 2 + 10 + 6 + 2, "as_in_paper": 5 + 1 + 2 + 10 + 3 + 2}
    assert again.accounts == {"as_run": 60.0, "as_in_paper": 46.0}
    assert again.share(4).accounts == {"as_run": 15.0, "as_in_paper": 11.5}
    old = {name: value for name, value in costs.as_dict().items() if name != "accounts"}
    assert CostTracker(**old).accounts == {"as_run": 0.0, "as_in_paper": 0.0}


TYPES = ("logits", "embeddings", "hidden", "attention")
PHASES = (
    Selection(),
    Selection.of("logits"),
    Selection({"embeddings": 1.0, "hidden": 0.0}),
    Selection({"hidden": 1.0, "attention": 0.5}, labels=0.0),
    Selection.of(*TYPES),
)


def make_distillation(**changes: Any) -> Distillation:
    """A student of 2 layers of width 8, a teacher of 4 layers of width 16, two heads and two classes each."""
    parts = tiny(knowledge=TYPES, student_width=8).distillation
    return Distillation(
        parts.task,
        parts.teachers,
        parts._make_student,
        parts._make_knowledge,
        **{"steps": 10, "batch_size": 4, "accumulate": 2, "lr": 1e-3, **changes},
    )


def test_a_runs_figures_are_those_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    distillation = make_distillation()
    train, shapes = distillation.task.train, list[tuple[int, int]]()
    make_batch = train.batch

    def batch(indices: Any) -> Any:
        made = make_batch(indices)
        shapes.append((len(made.inputs["input_ids"]), len(made.inputs["input_ids"][0])))
        return made

    monkeypatch.setattr(train, "batch", batch)
    student, teacher = bert(2, 8, classes=2), bert(4, 16, classes=2)
    flops, moved, queries = dict.fromkeys(("student", "teacher", "knowledge"), 0.0), 0, 0
    price = price_of_all = 0.0
    for selection in PHASES:
        shapes.clear()
        distillation.advance(selection, 2)
        assert len(shapes) == 4  # two steps of two batches
        for size, length in shapes:
            chosen = selection.chosen
            whole = 3 * student.forward(size, length)
            if "logits" in chosen:
                answer = teacher.forward(size, length)
            elif "hidden" in chosen:  # all layers, but not the head
                answer = bert(4, 16).forward(size, length)
            else:
                answer = 0.0
            projected = 3 * 2.0 * size * length * 8 * 16
            losses = projected * (("embeddings" in chosen) + 2 * ("hidden" in chosen))
            for part, value in (("student", whole), ("teacher", answer), ("knowledge", losses)):
                flops[part] += value
            moved += 4 * size * 2 * ("logits" in chosen)
            moved += 4 * size * length * 16 * (("embeddings" in chosen) + 2 * ("hidden" in chosen))
            moved += 4 * size * 2 * length**2 * 2 * ("attention" in chosen)
            queries += size * bool(chosen)
            price += whole + answer + losses
            price_of_all += whole + teacher.forward(size, length) + 3 * projected
    costs = distillation.costs
    assert {part: costs.flops[part] for part in flops} == pytest.approx(flops, rel=1e-12)
    assert costs.bytes["teacher"] == moved
    assert costs.teacher_queries == queries
    assert costs.steps == 10
    assert distillation.counts.price == pytest.approx(price, rel=1e-12)
    assert distillation.counts.price_of_all == pytest.approx(price_of_all, rel=1e-12)
    assert costs.flops["reward"] == costs.flops["report"] == costs.flops["cache"] == 0


def test_the_price_of_each_type_is_a_share_of_the_price_of_all() -> None:
    distillation = make_distillation()
    shape = 4, round(float(distillation.task.train.lengths.mean()))
    whole = 3 * bert(2, 8, classes=2).forward(*shape)
    projected = 3 * 2.0 * shape[0] * shape[1] * 8 * 16
    full, layers = bert(4, 16, classes=2).forward(*shape), bert(4, 16).forward(*shape)
    prices = {
        "labels": 0.0,
        "logits": full,
        "embeddings": projected,
        "hidden": layers + 2 * projected,
        "attention": layers,
    }
    everything = whole + full + 3 * projected
    expected = {name: (whole + own) / everything for name, own in prices.items()}
    assert type_prices(distillation) == pytest.approx(expected)


def test_a_pass_over_a_split_is_on_the_bill_of_its_part() -> None:
    distillation = make_distillation()
    split = distillation.task.reward
    expected = sum(
        bert(2, 8, classes=2).forward(len(group), int(split.lengths[group].max())) for group in split.by_length(32)
    )
    distillation.measure_teacher(split, "reward")  # the teacher's own pass is nobody's choice
    before = distillation.costs.flops["reward"]
    distillation.evaluate(split, "reward")
    assert distillation.costs.flops["reward"] - before == pytest.approx(expected, rel=1e-12)
    assert distillation.costs.reward_passes == 1
    distillation.evaluate(split, "validation")
    assert distillation.costs.flops["report"] >= expected
    assert distillation.costs.reward_passes == 1
    assert distillation.costs.flops["student"] == distillation.costs.flops["teacher"] == 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths at which models are counted from here on, of which none is known."""
    lengths: list[int] = []

    def noticed(model: Model, batch: Batch, needs: OutputRequest) -> Outputs:
        lengths.append(batch.shape[1])
        return models.run(model, batch, needs)

    monkeypatch.setattr(cost, "_KNOWN", defaultdict(dict))
    monkeypatch.setattr(cost, "run", noticed)
    return lengths


@pytest.mark.parametrize("small", [True, False])
def test_models_that_are_built_alike_are_counted_once(
    small: bool, make_model: Callable[..., Model], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(cost, "SMALL", 0)
    model, others = make_model(seed=0), (make_model(layers=3), make_model(width=32), make_model(classes=5))
    known = Meter(model)(OutputRequest(logits=True))
    assert Meter(make_model(seed=1))(OutputRequest(logits=True)) == known
    assert Meter(model)(OutputRequest(hidden=frozenset({0}))) != known  # up to a layer is counted on the way
    assert counted == [*LENGTHS]
    assert len({known, *(Meter(other)(OutputRequest(logits=True)) for other in others)}) == 4
    assert counted == [*LENGTHS] * 4


def test_models_for_short_texts_cost_what_others_do(
    make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "_KNOWN", defaultdict(dict))
    model = make_model()
    known = Meter(model)(OutputRequest(logits=True))
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = LENGTHS[0]
    assert Meter(type(model)(config))(OutputRequest(logits=True)) == known


def test_counting_leaves_the_model_and_torchs_generator_alone(
    make_model: Callable[..., Model], counted: list[int]
) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    Meter(model)(OutputRequest(logits=True))
    assert counted
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
