"""`ackd generate`: a corpus that a teacher has written."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import nothing_left
from ackd.experiments.language_options import GenerateConfig


@dataclass(frozen=True, kw_only=True)
class Generate(GenerateConfig):
    """Let a language model go on with the beginning of each chunk of a corpus: texts for sequence distillation, which
    `ackd pretrain` learns from.
    """

    def about(self) -> str:
        """What it is about to do."""
        return f"let {self.model} go on with {self.corpus}"

    def run(self) -> None:
        """Writes the corpus, block after block, to OUTPUT."""
        from ackd.experiments.generating import Generating

        generating = Generating(self)
        if generating.finished:
            nothing_left(self.output)
            return
        result = generating.run()
        given = result["tokens"] - result["written"]
        print(f"{result['chunks']} chunks, {result['tokens']} tokens, of which the model wrote all but {given}")
        print(f"corpus: {generating.folder.path}")
