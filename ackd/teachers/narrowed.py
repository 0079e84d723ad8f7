"""A teacher whose sentence embeddings are projected to the student's width."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.types import Batch, ModelDims, OutputRequest, Outputs, Teacher


class Narrowed:
    """A teacher whose embeddings are projected to the student's width by principal component analysis.

        z = W e,  W [d, D] the d eigenvectors of cov(e) with the largest eigenvalues

    All other outputs are unchanged. As in the reference, the mean is not subtracted, because cosines depend on it.

    Args:
        model: the teacher.
        components: W, [d, D].

    References:
        Reimers, model_distillation.py of sentence-transformers, https://github.com/huggingface/sentence-transformers/
        blob/main/examples/sentence_transformer/training/distillation/model_distillation.py
    """

    def __init__(self, model: Teacher, components: NDArray[np.float64]) -> None:
        self.model = model
        self._components = torch.from_numpy(components).float()  # on the device of the last batch

    @property
    def shape(self) -> ModelDims:
        """The model's sizes, with the width of the projected embeddings."""
        return replace(self.model.shape, classes=len(self._components))

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint and a digest of the components."""
        digest = hashlib.sha256(self._components.cpu().contiguous().numpy().tobytes()).hexdigest()
        return f"{self.model.fingerprint}-narrowed-{digest[:16]}"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The requested outputs, with projected embeddings."""
        outputs = self.model(batch, needs, costs)
        if outputs.logits is None:
            return outputs
        with costs.timing("teacher"):
            self._components = self._components.to(outputs.logits.device)
            projected = outputs.logits.float() @ self._components.mT
        costs.add_flops("teacher", self._projection(len(projected)))
        return replace(outputs, logits=projected)

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of one pass over a padded batch, and of the projection."""
        return self.model.flops(needs, size, length) + (self._projection(size) if needs.logits else 0.0)

    def _projection(self, size: int) -> float:
        return 2.0 * size * self._components.numel()


def principal(embeddings: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The principal components of embeddings [N, D], as rows [width, D]; their largest entries are positive.

    Raises:
        InputError: if the embeddings are not wider than `width`, or not finite.
    """
    if embeddings.shape[1] <= width:
        raise InputError(
            f"the embeddings of the student have {width} numbers and those of the teacher {embeddings.shape[1]}: use a "
            "student that is at most as wide as its teacher"
        )
    if not np.isfinite(embeddings).all():
        raise InputError("the teacher's embeddings are NaN or infinite: its weights are damaged; use another copy")
    _, vectors = np.linalg.eigh(np.cov(embeddings, rowvar=False))
    rows = vectors.T[::-1][:width]
    signs = np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
    found: NDArray[np.float64] = rows * np.where(signs == 0, 1.0, signs)
    return found
