"""What files hold of a training's answers, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ackd.files.schema import parse
from ackd.mdp.episode import Facts
from ackd.training.records import answer, line_of, plain
from ackd.types import EvalResult, Selection, StepMetrics

REPORT = StepMetrics(1.5, 0.5, 2.0, 0.25, 0.75, {"logits": 0.1}, {"logits": 0.2}, {"logits": 0.3, "labels": 0.4})
# as they were first written
WRITTEN = {
    '{"report": {"loss": 1.5, "labels": 0.5, "grad_norm": 2.0, "uncertainty": 0.25, "accuracy": 0.75, '
    '"losses": {"logits": 0.1}, "cosines": {"logits": 0.2}, "norms": {"logits": 0.3, "labels": 0.4}}}': REPORT,
    '{"standing": {"loss": 0.5, "score": 0.9, "scores": {"accuracy": 0.9}, "probability": 0.8, "divergence": 0.1, '
    '"teacher_correlation": 0.7, "label_correlation": 0.6}}': EvalResult(
        0.5, 0.9, {"accuracy": 0.9}, 0.8, 0.1, 0.7, 0.6
    ),
    '{"facts": {"agreement": 0.9, "confidence": 0.8, "probe": 0.7, "chance": 0.5, "examples_per_parameter": 0.1, '
    '"epochs": 2.0, "student_lead": -1.5, "teacher_lead": 2.5}}': Facts(0.9, 0.8, 0.7, 0.5, 0.1, 2.0, -1.5, 2.5),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_answers_are_written_and_read_as_ever(text: str) -> None:
    assert json.dumps(plain(WRITTEN[text])) == text
    verb = {"report": "advance", "standing": "measure", "facts": "inspect"}[text.split('"')[1]]
    assert answered(text, verb) == WRITTEN[text]


def test_facts_that_were_written_without_leads_are_read() -> None:
    text = next(text for text in WRITTEN if "facts" in text).replace(', "student_lead": -1.5, "teacher_lead": 2.5', "")
    assert answered(text, "inspect") == Facts(0.9, 0.8, 0.7, 0.5, 0.1, 2.0)


def answered(text: str, verb: str, students: int | None = None, *, by_steps: bool = False) -> Any:
    line = f'{{"verb": "{verb}", "asked": [], "answer": {text}, "counters": {{}}}}'
    return answer(parse(line.encode(), line_of(verb, students, by_steps=by_steps)).answer)


def test_answers_of_several_students_are_lists_of_their_number() -> None:
    report = next(iter(WRITTEN))
    assert answered(f"[{report}, {report}]", "advance", 2) == [REPORT] * 2
    assert answered(f"[[{report}, {report}]]", "advance", 2, by_steps=True) == [[REPORT] * 2]
    for text, by_steps in ((f"[{report}]", False), (f"[[{report}]]", True), (report, False)):
        with pytest.raises(ValueError, match="answer"):
            answered(text, "advance", 2, by_steps=by_steps)


def test_what_is_asked_is_written() -> None:
    asked = [Selection({"logits": 2.0}, labels=0.5), (1, "reward"), None]
    assert plain(asked) == [{"weights": {"logits": 2.0}, "labels": 0.5}, [1, "reward"], None]


@pytest.mark.parametrize(
    ("changes", "verb", "place"),
    [
        ({}, "inspect", "facts"),
        ({"loss": "1"}, "measure", r'answer\.standing\.loss is "1"'),
        ({"loss": True}, "measure", r"answer\.standing\.loss is true"),
        ({"scores": [1]}, "measure", r"answer\.standing\.scores is \[1\]"),
        ({"more": 1.0}, "measure", r"unknown field answer\.standing\.more"),
    ],
)
def test_an_answer_that_is_damaged_or_of_another_kind_is_refused(
    changes: dict[str, Any], verb: str, place: str
) -> None:
    given = {"standing": {"loss": 0.5, "score": 0.9, "scores": {"accuracy": 0.9}, **changes}}
    with pytest.raises(ValueError, match=place):
        answered(json.dumps(given), verb)
