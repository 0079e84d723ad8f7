"""`ackd export`: a model as ONNX, which runs without torch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from ackd.config import Common
from ackd.experiments.export_options import ExportConfig

if TYPE_CHECKING:
    from ackd.experiments.progress import Bar


@dataclass(frozen=True, kw_only=True)
class Export(ExportConfig):
    """Write a model as ONNX, with its config and tokenizer, and compare the files with the model: score, size, time of
    a forward pass, and agreement of the outputs.
    """

    model: Annotated[Common[str], tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A finished run, a folder with a sequence classifier and its tokenizer, or a hub id."""

    def about(self) -> str:
        """The work in a few words."""
        return f"export {self.model} as {self.format}{', and in 8 bits' * self.int8}"

    def run(self) -> None:
        """Writes the files, and prints the comparison."""
        from ackd.experiments.exporting import export
        from ackd.experiments.progress import move, progress

        with ExitStack() as shown:
            bars: list[Bar] = []  # one bar, after the checks

            def on_batch(done: int, examples: int) -> None:
                if not bars:
                    bars.append(shown.enter_context(progress(examples, "compare", "example")))
                move(bars[0], done)

            result = export(**asdict(self), on_batch=on_batch)
        print(f"{result.table()}\n{result.use()}\n{self.format}:    {result.folder}")
