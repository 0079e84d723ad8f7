"""A teacher that reads the examples in tokens of its own."""

from __future__ import annotations

from ackd.costs import CostTracker
from ackd.types import Batch, ModelDims, OutputRequest, Outputs, Teacher


class OwnTokens:
    """A model with another tokenizer than the student's, asked about the same examples.

    What it says of whole examples, logits and first-token vectors, compares with the student's; what it says of tokens
    does not.

    Args:
        model: who answers.
        tokens: the name of its tokens in `Batch.others`, which tells them apart from any others'.
        longer: how many of its tokens there are for each of the student's, on average.
    """

    def __init__(self, model: Teacher, tokens: str, longer: float) -> None:
        self.model, self.tokens, self.longer = model, tokens, longer

    @property
    def shape(self) -> ModelDims:
        """The model's sizes."""
        return self.model.shape

    @property
    def fingerprint(self) -> str:
        """The model's, and what it reads."""
        return f"{self.model.fingerprint}-reading-{self.tokens}"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The outputs asked for, of the batch in the model's own tokens."""
        return self.model(batch.others[self.tokens], needs, costs)

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of one answer, for a batch that is padded to `length` of the student's tokens."""
        return self.model.flops(needs, size, max(round(self.longer * length), 1))
