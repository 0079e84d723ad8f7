"""What a task is, apart from any data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSpec:
    """A task's columns, classes and metrics.

    Args:
        name: what it is called.
        text_columns: one or two columns that hold the text.
        label_column: the column that holds the label.
        classes: names of the classes in the order of their ids; none means regression, or a language model.
        metrics: the first is the main one.
        validation: names of the splits to report on.
        language: whether the text itself is what is learned, token after token.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[str, ...] = ("validation",)
    language: bool = False

    @property
    def regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return not self.classes and not self.language

    @property
    def num_labels(self) -> int:
        """Outputs of a model for this task: the number of classes, 1 for regression."""
        return len(self.classes) or 1
