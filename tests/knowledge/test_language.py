"""The losses of language models, token by token, against NumPy; and of classifiers, which are the same over classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge import (
    Attention,
    AttentionKL,
    JensenShannon,
    Logits,
    LogitsCosine,
    LogitsMse,
    LogitsSoftCrossEntropy,
    ReverseKL,
    Tokens,
    TopK,
    TopTokens,
    build,
)
from ackd.types import NO_TOKEN, Batch, Knowledge, ModelDims, Outputs

Array = NDArray[np.float64]
DIMS = ModelDims(layers=2, width=6, heads=3, classes=11, vocabulary=11)
LENGTHS, LONGEST = [5, 3, 1], 6


def softmax(z: Array, tau: float) -> Array:
    powers = np.exp(z / tau - (z / tau).max())
    return np.asarray(powers / powers.sum())


def forward(p: Array, q: Array) -> float:
    return float((p * np.log(p / q)).sum())


def kl(s: Array, t: Array) -> float:
    return 4 * forward(softmax(t, 2), softmax(s, 2))


def reverse(s: Array, t: Array) -> float:
    return 4 * forward(softmax(s, 2), softmax(t, 2))


def jensen_shannon(s: Array, t: Array, beta: float = 0.3) -> float:
    p, q = softmax(t, 2), softmax(s, 2)
    m = beta * p + (1 - beta) * q
    return 4 * (beta * forward(p, m) + (1 - beta) * forward(q, m))


def top(s: Array, t: Array, k: int = 4) -> float:
    p, q = softmax(t, 2), softmax(s, 2)
    best = np.argsort(-t)[:k]
    both = [np.append(one[best], 1 - one[best].sum()) for one in (p, q)]
    return 4 * forward(*both)


CASES: dict[str, tuple[Knowledge, Any]] = {
    "logits": (Logits(temperature=2.0), kl),
    "reverse-kl": (ReverseKL(temperature=2.0), reverse),
    "jsd": (JensenShannon(beta=0.3, temperature=2.0), jensen_shannon),
    "top-k": (TopK(k=4, temperature=2.0), top),
    "logits-mse": (LogitsMse(), lambda s, t: np.square(s - t).mean()),
    "logits-cosine": (LogitsCosine(DIMS, DIMS), lambda s, t: 1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t)),
    "logits-soft-ce": (LogitsSoftCrossEntropy(), lambda s, t: -(softmax(t, 1) * np.log(softmax(s, 1))).sum()),
    "tokens": (Tokens(), lambda s, t: -(softmax(t, 1) * np.log(softmax(s, 1))).sum()),
}
every = pytest.mark.parametrize("name", CASES)


def drawn(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts() -> Batch:
    """Three texts, one of which ends within."""
    mask = (torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]).long()
    labels = torch.arange(3 * LONGEST).view(3, LONGEST) % 11
    labels = labels.where(mask.bool(), NO_TOKEN)
    labels[0, 2] = NO_TOKEN
    return Batch(torch.arange(3), {"attention_mask": mask}, labels)


@every
def test_the_loss_of_a_text_is_the_mean_over_its_next_tokens(name: str) -> None:
    loss, plain = CASES[name]
    batch, (ours, theirs) = texts(), (3 * drawn(3, LONGEST, 11, seed=k) for k in (0, 1))
    expected = [
        np.mean([plain(ours[i, t].numpy(), theirs[i, t].numpy()) for t in range(LONGEST) if batch.labels[i, t] >= 0])
        for i in range(3)
    ]
    torch.testing.assert_close(loss(Outputs(ours), Outputs(theirs), batch), torch.tensor(expected, dtype=torch.float64))


@every
def test_neither_padding_nor_what_no_token_follows_counts(name: str) -> None:
    loss, _ = CASES[name]
    batch, (ours, theirs) = texts(), (drawn(3, LONGEST, 11, seed=k) for k in (0, 1))
    spoiled = torch.where((batch.labels == NO_TOKEN)[..., None], 1e6 * drawn(3, LONGEST, 11, seed=2), ours)
    leaf = spoiled.clone().requires_grad_()
    value = loss(Outputs(leaf), Outputs(theirs), batch)
    torch.testing.assert_close(value.detach(), loss(Outputs(ours), Outputs(theirs), batch))
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    assert torch.isfinite(grad).all()
    assert not grad[batch.labels == NO_TOKEN].any()
    short = batch.rows([2])
    alone = loss(Outputs(ours[2:, :1]), Outputs(theirs[2:, :1]), short)
    torch.testing.assert_close(alone, value.detach()[2:])


@every
def test_a_padded_vocabulary_is_cut(name: str) -> None:
    loss, _ = CASES[name]
    batch, (ours, theirs) = texts(), (drawn(3, LONGEST, 11, seed=k) for k in (0, 1))
    wide = torch.cat([theirs, 50 + drawn(3, LONGEST, 4, seed=3)], -1)
    torch.testing.assert_close(
        loss(Outputs(ours), Outputs(wide), batch), loss(Outputs(ours), Outputs(theirs), batch)
    )  # fmt: skip
    wide = torch.cat([ours, 50 + drawn(3, LONGEST, 4, seed=3)], -1)
    torch.testing.assert_close(
        loss(Outputs(wide), Outputs(theirs), batch), loss(Outputs(ours), Outputs(theirs), batch)
    )  # fmt: skip


@pytest.mark.parametrize("name", ["reverse-kl", "jsd", "top-k"])
def test_classes_are_compared_as_tokens_are(name: str) -> None:
    loss, plain = CASES[name]
    batch = Batch(torch.arange(4), {"attention_mask": torch.ones(4, 2)}, torch.zeros(4, dtype=torch.int64))
    ours, theirs = (3 * drawn(4, 5, seed=k) for k in (0, 1))
    expected = [plain(s.numpy(), t.numpy()) for s, t in zip(ours, theirs, strict=True)]
    torch.testing.assert_close(loss(Outputs(ours), Outputs(theirs), batch), torch.tensor(expected, dtype=torch.float64))
    one = Outputs(ours[:, :1]), Outputs(theirs[:, :1])
    torch.testing.assert_close(loss(*one, batch), (ours - theirs)[:, 0].square())


def test_limits_are_the_other_divergences() -> None:
    batch, (ours, theirs) = texts(), (Outputs(drawn(3, LONGEST, 11, seed=k)) for k in (0, 1))
    forwards, backwards = (one(ours, theirs, batch) for one in (Logits(temperature=2), ReverseKL(temperature=2)))
    for beta, expected, part in ((1e-6, forwards, 1e-6), (1 - 1e-6, backwards, 1e-6)):
        found = JensenShannon(beta=beta, temperature=2)(ours, theirs, batch) / part
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    symmetric = JensenShannon(beta=0.5, temperature=2)
    torch.testing.assert_close(symmetric(ours, theirs, batch), symmetric(theirs, ours, batch))
    for k in (10, 11, 50):
        torch.testing.assert_close(TopK(k=k, temperature=2)(ours, theirs, batch), forwards)
    parts = [TopK(k=k, temperature=2)(ours, theirs, batch) for k in (1, 2, 4, 8)]
    for less, more in zip(parts, [*parts[1:], forwards], strict=True):
        assert (less <= more + 1e-12).all()  # a coarser partition never tells more


def test_half_precision_is_compared_in_float32() -> None:
    batch, (ours, theirs) = texts(), (drawn(3, LONGEST, 11, seed=k).bfloat16() for k in (0, 1))
    for loss, _ in CASES.values():
        found = loss(Outputs(ours), Outputs(theirs), batch)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(Outputs(ours.float()), Outputs(theirs.float()), batch))


@pytest.mark.parametrize("name", ["attention", "attention-kl"])
def test_attention_to_later_tokens_is_no_knowledge(name: str) -> None:
    """Scores of keys after the query are computed, but a causal model never uses them."""
    batch = texts()
    (loss,) = build([name], DIMS, DIMS, layers="0:0,1:1")
    assert isinstance(loss, Attention | AttentionKL)
    scores = [drawn(2, 3, 3, LONGEST, LONGEST, seed=k) for k in (0, 1)]
    later = torch.ones(LONGEST, LONGEST).triu(1).bool()

    def given(values: Tensor) -> Outputs:
        return Outputs(attention=dict(enumerate(values)))

    found = loss(given(scores[0]), given(scores[1]), batch)
    spoiled = [one.masked_fill(later, 7.0 * k) for k, one in enumerate(scores)]
    torch.testing.assert_close(loss(given(spoiled[0]), given(spoiled[1]), batch), found)
    expected = []
    for i, n in enumerate(LENGTHS):
        rows = []
        for layer in range(2):
            for head in range(3):
                for q in range(n):
                    s, t = (one[layer, i, head, q, : q + 1].numpy() for one in scores)
                    rows.append(np.square(s - t) if name == "attention" else [forward(softmax(t, 1), softmax(s, 1))])
        expected.append(np.mean(np.concatenate(rows)))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, float("nan")])
def test_what_is_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(InputError, match="beta is"):
        JensenShannon(beta=beta)
    with pytest.raises(InputError, match="k is 0"):
        TopK(k=0)
    with pytest.raises(InputError, match="the temperature must be above 0"):
        ReverseKL(temperature=0)


@pytest.mark.parametrize("by", ["student", "teacher"])
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_share_of_the_tokens_is_that_of_the_largest_entropy(by: Any, share: float) -> None:
    batch, (ours, theirs) = texts(), (3 * drawn(3, LONGEST, 11, seed=k) for k in (0, 1))
    loss = TopTokens(ReverseKL(temperature=2), share=share, by=by)
    expected = []
    for i in range(3):
        told = [t for t in range(LONGEST) if batch.labels[i, t] >= 0]
        p = [softmax((ours if by == "student" else theirs)[i, t].numpy(), 1) for t in told]
        order = np.argsort([(one * np.log(one)).sum() for one in p])  # the largest entropy first
        kept = [told[place] for place in order[: int(np.ceil(share * len(told)))]]
        expected.append(np.mean([reverse(ours[i, t].numpy(), theirs[i, t].numpy()) for t in kept]))
    spoiled = torch.where((batch.labels == NO_TOKEN)[..., None], 0.0, ours)  # the largest entropy there is
    found = loss(Outputs(spoiled), Outputs(theirs), batch)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert loss.name == f"reverse-kl-uncertain-{by}"


def test_an_answer_of_a_classifier_always_counts() -> None:
    batch = Batch(torch.arange(4), {"attention_mask": torch.ones(4, 2)}, torch.zeros(4, dtype=torch.int64))
    ours, theirs = (Outputs(drawn(4, 5, seed=k)) for k in (0, 1))
    loss = TopTokens(Logits(temperature=2), share=0.1)
    torch.testing.assert_close(loss(ours, theirs, batch), Logits(temperature=2)(ours, theirs, batch))
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="the share of the tokens is"):
            TopTokens(Logits(), share=share)
    with pytest.raises(InputError, match="unknown model to take the entropy of"):
        TopTokens(Logits(), by="both")  # type: ignore[arg-type]
