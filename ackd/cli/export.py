"""`ackd export`: a model as ONNX, for those who run it without torch."""

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
    """Write a model as ONNX, with its config and tokenizer beside it, and compare it with what it was: score, size,
    time of an answer, and how far the answers agree.
    """

    model: Annotated[Common[str], tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """A finished run, or a folder that holds a sequence classifier and its tokenizer, or a hub id."""

    def about(self) -> str:
        """What it is about to do."""
        return f"export {self.model} as {self.format}{', and in 8 bits' * self.int8}"

    def run(self) -> None:
        """Writes the files, and prints the model before and after side by side."""
        from ackd.experiments.exporting import export
        from ackd.experiments.progress import move, progress

        with ExitStack() as shown:
            bars: list[Bar] = []  # one, once all has been checked

            def told(done: int, examples: int) -> None:
                if not bars:
                    bars.append(shown.enter_context(progress(examples, "compare", "example")))
                move(bars[0], done)

            found = export(**asdict(self), on_batch=told)
        print(f"{found.table()}\n{found.use()}\n{self.format}:    {found.folder}")
