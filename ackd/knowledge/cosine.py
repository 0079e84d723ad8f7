"""Feature knowledge: the direction of hidden states."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge.layers import LayerMap, student_layers, teacher_layers
from ackd.knowledge.masked import masked_mean, wide
from ackd.knowledge.projection import projected, projection, projection_flops
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class HiddenCosine(Knowledge):
    """One minus the cosine between the hidden states of matched layers, over the tokens that are not padding.

        L_i = mean over pairs (l, g), tokens t of 1 - cos(W H_S[l]_t, H_T[g]_t)

    W is a linear projection, used only if the widths differ. The paper matches only the last layers. Its code takes the
    mean over all tokens of a batch, so a long text counts more than a short one. With `by_token` this is done here too:

        L_i = B n_i / (n_1 + ... + n_B) times that,  n_i the tokens of example i

    The mean of these losses over the batch is the mean over its tokens.

    References:
        Sanh et al., DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter, 2019,
        https://arxiv.org/abs/1910.01108; code: huggingface/transformers,
        examples/research_projects/distillation/distiller.py
    """

    family = "hidden"

    def __init__(
        self,
        student: ModelDims,
        teacher: ModelDims,
        pairs: LayerMap,
        *,
        by_token: bool = False,
        name: str = "hidden-cosine",
    ) -> None:
        super().__init__()
        self.name = name
        self.pairs, self.by_token = pairs, by_token
        self.projection = projection(student, teacher)
        self.student_needs = OutputRequest(hidden=student_layers(pairs))
        self.teacher_needs = OutputRequest(hidden=teacher_layers(pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        states = projected(self.projection, student.hidden, (s for s, _ in self.pairs))
        token = batch.mask[:, :, None].bool()  # padding becomes 0 first, because an overflowing norm has no gradient
        cosines = [
            F.cosine_similarity(states[s].where(token, 0.0), wide(teacher.hidden[t]).where(token, 0.0), dim=-1)
            for s, t in self.pairs
        ]
        losses = masked_mean(1 - torch.stack(cosines).mean(0), batch.mask)
        if not self.by_token:
            return losses
        tokens = batch.mask.sum(1)
        return losses * tokens / tokens.float().mean().clamp_min(1.0)

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the projection, forward and backward."""
        return projection_flops(self.projection, size * length * len(self.student_needs.hidden))
