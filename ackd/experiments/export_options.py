"""What can be set of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ackd.config import Common


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A classifier that is written for others to run, and what it is reported on."""

    model: Common[str]
    """A finished run, or a folder that holds a sequence classifier and its tokenizer, or a hub id."""
    format: Common[str] = "onnx"
    """What to write: onnx."""
    int8: Common[bool] = False
    """Write it with weights of 8 bits as well: a quarter of the size, faster, and not quite the same
    answers."""
    output: Common[str | None] = None
    """Folder for the files; `onnx` in the model's own folder if not given."""
    overwrite: Common[bool] = False
    """Replace an earlier export in --output."""
    task: Common[str | None] = None
    """The task to report on, another than the run's, or that of a model which has no run: as for `ackd finetune`."""
    data: Common[str | None] = None
    """Its data, as for `ackd finetune`."""
    text_columns: tuple[str, ...] = ()
    """One or two text columns of data of your own."""
    label_column: str | None = None
    """The label column of data of your own."""
    dev_data: str | None = None
    """File to report on, of data of your own."""
    max_length: int | None = None
    """Tokens of an example; longer ones are cut. The run's, or else 128."""

    def __post_init__(self) -> None:
        if self.output is None:
            object.__setattr__(self, "output", self.beside)  # so that a command can say it

    @property
    def beside(self) -> str:
        """Where the files go if nobody says."""
        return str(Path(self.model) / self.format)
