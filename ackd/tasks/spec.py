"""The specification of a task, without its data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSpec:
    """A task's columns, classes and metrics.

    Args:
        name: the task's name.
        text_columns: one or two columns of text.
        label_column: the column of labels.
        classes: class names in the order of their ids; empty for other tasks.
        metrics: names of the metrics; the first is the main metric.
        validation: names of the splits to report on.
        language: whether the task is language modelling (next-token prediction).
        sentences: whether the labels are a teacher's embeddings of sentences.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[str, ...] = ("validation",)
    language: bool = False
    sentences: bool = False

    @property
    def kinds(self) -> str:
        """What the task is about, where it has no classes."""
        return "next tokens" if self.language else "sentences" if self.sentences else "regression"

    @property
    def regression(self) -> bool:
        """Whether labels are numbers instead of classes."""
        return not (self.classes or self.language or self.sentences)

    @property
    def num_labels(self) -> int:
        """Outputs of a model for this task: the number of classes, 1 for regression."""
        return len(self.classes) or 1
