"""Embeddings of a wide teacher for a narrow student, against scikit-learn's principal components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import run
from ackd.teachers import ModelTeacher, Narrowed, principal
from ackd.types import Batch, OutputRequest
from tests import encoders

EMBEDDING = OutputRequest(logits=True)


def batch() -> Batch:
    ids = torch.randint(4, 64, (6, 5), generator=torch.Generator().manual_seed(0))
    return Batch(torch.arange(6), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.zeros(6))


def test_components_are_those_of_scikit_learn() -> None:
    found = np.random.default_rng(0).normal(size=(40, 6)) * [9, 1, 5, 3, 7, 2] + 1
    ours, theirs = principal(found, 3), PCA(3).fit(found).components_
    assert np.abs((ours * theirs).sum(1)) == pytest.approx(np.ones(3))
    assert (ours[np.arange(3), np.abs(ours).argmax(1)] > 0).all()


def test_only_embeddings_are_projected() -> None:
    teacher = ModelTeacher(encoders.encoder())
    embeddings = np.random.default_rng(0).normal(size=(40, 16))
    narrow = Narrowed(teacher, principal(embeddings, 4))
    costs, asked = CostTracker(), OutputRequest(logits=True, hidden=frozenset({1}))
    answer, whole = narrow(batch(), asked, costs), run(teacher.model, batch(), asked)
    assert whole.logits is not None
    expected = whole.logits @ torch.from_numpy(principal(embeddings, 4)).float().T
    torch.testing.assert_close(answer.logits, expected)
    assert torch.equal(answer.hidden[1], whole.hidden[1])
    assert (narrow.shape.classes, narrow.shape.width) == (4, 16)
    assert costs.flops["teacher"] == narrow.flops(asked, 6, 5) > teacher.flops(asked, 6, 5)
    assert narrow.fingerprint != Narrowed(teacher, principal(embeddings[:20], 4)).fingerprint


def test_what_cannot_be_projected_is_told() -> None:
    with pytest.raises(InputError, match="at most as wide as its teacher"):
        principal(np.ones((3, 4)), 4)
    with pytest.raises(InputError, match="damaged"):
        principal(np.full((3, 4), np.nan), 2)
