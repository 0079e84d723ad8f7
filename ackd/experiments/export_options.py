"""The options of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ackd.config import Common


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The model, the files to write, and the data to report on."""

    model: Common[str]
    """A finished run, a folder with a sequence classifier and its tokenizer, or a hub id."""
    format: Common[str] = "onnx"
    """Format of the files: onnx."""
    int8: Common[bool] = False
    """Also write a version with 8-bit weights: a quarter of the size, faster, with slightly different
    outputs."""
    output: Common[str | None] = None
    """Folder for the files; `onnx` in the model's own folder if not given."""
    overwrite: Common[bool] = False
    """Replace an earlier export in --output."""
    task: Common[str | None] = None
    """The task to report on, if the model has no run, or not the run's task; as for `ackd finetune`."""
    data: Common[str | None] = None
    """The data to report on, as for `ackd finetune`."""
    text_columns: tuple[str, ...] = ()
    """One or two text columns of your own data."""
    label_column: str | None = None
    """The label column of your own data."""
    dev_data: str | None = None
    """Dev file of your own data."""
    max_length: int | None = None
    """Most tokens of an example; longer ones are cut. If not given: the run's, or else 128."""

    def __post_init__(self) -> None:
        if self.output is None:
            object.__setattr__(self, "output", self.beside)  # so that commands can print it

    @property
    def beside(self) -> str:
        """The default output folder."""
        return str(Path(self.model) / self.format)
