"""The nine GLUE tasks, with the names of columns and classes of the hub's `nyu-mll/glue`."""

from __future__ import annotations

from ackd.tasks.spec import TaskSpec

HUB = "nyu-mll/glue"


def _glue(name: str, columns: str, classes: str, metrics: str, validation: str = "validation") -> TaskSpec:
    parts = (tuple(text.split()) for text in (columns, classes, metrics, validation))
    text_columns, names, measures, splits = parts
    return TaskSpec(name, text_columns, "label", names, measures, splits)


GLUE: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        _glue("cola", "sentence", "unacceptable acceptable", "matthews"),
        _glue("sst2", "sentence", "negative positive", "accuracy"),
        _glue("mrpc", "sentence1 sentence2", "not_equivalent equivalent", "accuracy f1"),
        _glue("qqp", "question1 question2", "not_duplicate duplicate", "accuracy f1"),
        _glue("stsb", "sentence1 sentence2", "", "pearson spearman"),
        _glue(
            "mnli",
            "premise hypothesis",
            "entailment neutral contradiction",
            "accuracy",
            "validation_matched validation_mismatched",
        ),
        _glue("qnli", "question sentence", "entailment not_entailment", "accuracy"),
        _glue("rte", "sentence1 sentence2", "entailment not_entailment", "accuracy"),
        _glue("wnli", "sentence1 sentence2", "not_entailment entailment", "accuracy"),
    )
}
