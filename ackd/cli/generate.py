"""`ackd generate`: writes a corpus with a teacher model."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import nothing_left
from ackd.experiments.language_options import GenerateConfig


@dataclass(frozen=True, kw_only=True)
class Generate(GenerateConfig):
    """Let a language model continue the beginning of each chunk of a corpus. `ackd pretrain` learns from the generated
    texts (sequence distillation).
    """

    def about(self) -> str:
        """The work in a few words."""
        return f"let {self.model} go on with {self.corpus}"

    def run(self) -> None:
        """Writes the corpus to OUTPUT, one block at a time."""
        from ackd.experiments.generating import Generating

        generating = Generating(self)
        if generating.finished:
            nothing_left(self.output)
            return
        result = generating.run()
        given = result["tokens"] - result["written"]
        print(f"{result['chunks']} chunks, {result['tokens']} tokens, of which the model wrote all but {given}")
        print(f"corpus: {generating.folder.path}")
