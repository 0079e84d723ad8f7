"""A teacher with its own tokenizer."""

from __future__ import annotations

from ackd.costs import CostTracker
from ackd.types import Batch, ModelDims, OutputRequest, Outputs, Teacher


class OwnTokens:
    """A teacher that reads the same examples with another tokenizer than the student.

    Its outputs per example (logits, first-token vectors) can be compared with the student's, but not its outputs per
    token.

    Args:
        model: the teacher.
        tokens: the key of its tokens in `Batch.others`.
        longer: mean ratio of its number of tokens to the student's.
    """

    def __init__(self, model: Teacher, tokens: str, longer: float) -> None:
        self.model, self.tokens, self.longer = model, tokens, longer

    @property
    def shape(self) -> ModelDims:
        """The model's sizes."""
        return self.model.shape

    @property
    def fingerprint(self) -> str:
        """The teacher's fingerprint and the key of its tokens."""
        return f"{self.model.fingerprint}-reading-{self.tokens}"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The requested outputs, for the batch in the teacher's own tokens."""
        return self.model(batch.others[self.tokens], needs, costs)

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of one pass over a batch that is padded to `length` student tokens."""
        return self.model.flops(needs, size, max(round(self.longer * length), 1))
