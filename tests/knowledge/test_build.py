"""What is built for which names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ackd.errors import InputError
from ackd.knowledge import DEFAULT, NAMES, build
from ackd.types import Knowledge, ModelDims, OutputKey, OutputRequest

RELATIONS = ("values", "qkv", "fsp", "rkd", "similarity")
RESPONSE = ("reverse", "jsd", "top")
FAMILIES = {"embeddings": "hidden", **dict.fromkeys(RESPONSE, "logits"), **dict.fromkeys(RELATIONS, "relation")}


def pairs_of(loss: Knowledge) -> object:
    return loss.pairs


def test_names_and_families_are_as_told(small: ModelDims, large: ModelDims) -> None:
    made = build(NAMES, small, large)
    assert tuple(one.name for one in made) == NAMES
    assert {one.teacher for one in made} == {0}
    assert set(DEFAULT) < set(NAMES)
    for one in made:
        first = one.name.split("-")[0]
        assert one.family == FAMILIES.get(first, first), one.name


def test_each_teacher_has_its_own(small: ModelDims, large: ModelDims) -> None:
    made = build(["hidden", "logits"], small, large, teacher_place=2, suffix="@2")
    assert [(one.name, one.teacher) for one in made] == [("hidden@2", 2), ("logits@2", 2)]


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("logits-cosine", [("logits", 0)], [("logits", 0)]),
        ("embeddings", [("hidden", -1)], [("hidden", -1)]),
        ("hidden-cls", [("cls", 0), ("cls", 1)], [("cls", 1), ("cls", 3)]),
        ("hidden-cosine", [("hidden", 1)], [("hidden", 3)]),
        ("attention", [("attention", 0), ("attention", 1)], [("attention", 1), ("attention", 3)]),
        ("attention-kl", [("attention", 1)], [("attention", 3)]),
        ("qkv", [(kind, 1) for kind in ("queries", "keys", "values")], [(k, 3) for k in ("queries", "keys", "values")]),
        ("fsp", [("hidden", 0), ("hidden", 1)], [("hidden", 1), ("hidden", 3)]),
        ("rkd-angle", [("cls", 1)], [("cls", 3)]),
    ],
)
def test_needs(
    name: str, student: list[tuple[str, int]], teacher: list[tuple[str, int]], small: ModelDims, large: ModelDims
) -> None:
    (loss,) = build([name], small, large)
    assert loss.student_needs == OutputRequest.of(OutputKey(*one) for one in student)
    assert loss.teacher_needs == OutputRequest.of(OutputKey(*one) for one in teacher)


@pytest.mark.parametrize("name", ["hidden-cosine", "attention-kl", "values", "qkv"])
def test_one_layer_types_take_the_last_layers_under_any_rule_and_all_named_ones(
    name: str, small: ModelDims, large: ModelDims
) -> None:
    for layers, pairs in (("uniform", ((1, 3),)), ("last", ((1, 3),)), ("0:1,1:2", ((0, 1), (1, 2)))):
        (loss,) = build([name], small, large, layers=layers)
        assert pairs_of(loss) == pairs


def test_a_layer_map_that_nobody_needs_is_not_refused(small: ModelDims) -> None:
    shallow = replace(small, layers=1)
    last = ("hidden-cosine", "attention-kl", "values", "qkv", "similarity")
    first = ("logits", "embeddings", "rkd", *RESPONSE)
    free = [name for name in NAMES if name.split("-")[0] in first or name in last]
    assert len(build(free, small, shallow)) == 17
    for name in set(NAMES) - set(free):
        with pytest.raises(InputError, match="at least as deep as the student"):
            build([name], small, shallow)


def test_bad_names_are_refused(small: ModelDims, large: ModelDims) -> None:
    with pytest.raises(InputError, match="'atention': did you mean 'attention'"):
        build(["atention"], small, large)
    with pytest.raises(InputError, match="named twice in logits logits: name each once"):
        build(["logits", "logits"], small, large)
