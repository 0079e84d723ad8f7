from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ackd.types import EMBEDDINGS, Batch, OutputKey, OutputRequest, Outputs, Selection, StepMetrics, means, union


def test_selections() -> None:
    selection = Selection({"a": 0.5, "b": 0.0})
    assert selection.chosen == ("a",)
    assert Selection.of("a", "b").weights == {"a": 1.0, "b": 1.0}
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="'a' must be finite and not negative"):
            Selection({"a": weight})


def test_the_labels_have_a_weight() -> None:
    assert Selection().labels == Selection.of("a").labels == 1.0
    assert Selection({"a": 1.0}, labels=0.0).chosen == ("a",)
    with pytest.raises(ValueError, match="not even the labels"):
        Selection({"a": 0.0}, labels=0.0)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="'labels' must be finite and not negative"):
            Selection({"a": 1.0}, labels=weight)


def test_needs_add_up() -> None:
    one, other = (
        OutputRequest(hidden=frozenset({1})),
        OutputRequest(logits=True, hidden=frozenset({2}), keys=frozenset({0})),
    )
    assert union([one, other]) == one | other == OutputRequest(True, hidden=frozenset({1, 2}), keys=frozenset({0}))
    assert union([]) == OutputRequest()
    assert not OutputRequest()
    assert one


@pytest.mark.parametrize(
    ("fields", "last"),
    [
        ([], EMBEDDINGS),
        ([OutputKey("hidden", EMBEDDINGS)], EMBEDDINGS),
        ([OutputKey("cls", 2), OutputKey("hidden", 0), OutputKey("attention", 1)], 2),
        ([OutputKey("queries", 0), OutputKey("keys", 3), OutputKey("values", 1)], 3),
        ([OutputKey("logits"), OutputKey("cls", 1)], None),
    ],
)
def test_needs_are_fields_and_end_at_a_layer(fields: list[OutputKey], last: int | None) -> None:
    needs = OutputRequest.of(fields)
    assert set(needs.fields) == set(fields)
    assert len(needs.fields) == len(fields)
    assert OutputRequest.of(reversed(fields)) == needs
    assert needs.last_layer == last
    assert bool(needs) == bool(fields)


def test_outputs_answer_by_field() -> None:
    tensors = {
        OutputKey(kind, layer): torch.rand(2) for kind, layer in (("logits", 0), ("cls", 1), ("hidden", EMBEDDINGS))
    }
    outputs = Outputs.of(tensors)
    assert all(outputs[field] is value for field, value in tensors.items())
    assert outputs.hidden == {EMBEDDINGS: tensors[OutputKey("hidden", EMBEDDINGS)]}
    assert not outputs.attention
    with pytest.raises(KeyError):
        outputs[OutputKey("cls", 0)]


def test_batches_know_their_lengths_on_the_host(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch((7, 3, 5), extra=2)
    assert batch.lengths.tolist() == [7, 3, 5]
    assert batch.shape == (3, 9)
    assert batch.padded
    assert not make_batch((4, 4)).padded
    assert batch.to(torch.device("cpu")) is batch
    meta = batch.to(torch.device("meta"))  # stands for a device: ids and lengths stay on the host
    assert meta.mask.device.type == meta.labels.device.type == "meta"
    assert meta.ids.device.type == meta.lengths.device.type == "cpu"
    assert meta.padded


def test_some_rows_of_a_batch_are_cut_to_the_longest(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch((7, 3, 5))
    rows = batch.rows([2, 1])
    assert rows.ids.tolist() == [2, 1]
    assert rows.lengths.tolist() == rows.mask.sum(1).tolist() == [5, 3]
    assert torch.equal(rows.inputs["input_ids"], batch.inputs["input_ids"][[2, 1], :5])
    assert torch.equal(rows.labels, batch.labels[[2, 1]])
    assert batch.rows([0]).padded is False


def test_embeddings_are_labels_that_no_length_cuts(make_batch: Callable[..., Batch]) -> None:
    labels = torch.arange(27.0).reshape(3, 9)
    batch = replace(make_batch((7, 3, 5)), labels=labels)
    assert torch.equal(batch.rows([1, 2]).labels, labels[1:])


def test_the_mean_of_reports() -> None:
    def row(i: float) -> StepMetrics[torch.Tensor]:
        figures = [torch.tensor(value) for value in (i, i + 1, i + 2, 0.5, i)]
        return StepMetrics(figures[0], figures[1], figures[2], figures[3], figures[4], {"a": torch.tensor(2 * i)})

    rows = [row(0.0), row(1.0), row(2.0)]
    (whole,) = means(rows)
    assert whole == StepMetrics(1.0, 2.0, 3.0, 0.5, 1.0, {"a": 2.0})
    assert whole.finite
    assert not means([*rows, row(math.nan)])[0].finite
    with pytest.raises(ValueError, match="no report"):
        means([])


def test_layers_may_be_any_that_can_be_gone_through() -> None:
    assert OutputRequest(hidden={1, 2}, cls=[0]) == OutputRequest(hidden=frozenset({1, 2}), cls=frozenset({0}))  # type: ignore[arg-type]
    assert hash(OutputRequest(hidden={1}) | OutputRequest(hidden={2})) == hash(OutputRequest(hidden=frozenset({1, 2})))  # type: ignore[arg-type]
