"""Soft labels without a teacher, from what an autoencoder of the training data holds to be alike.

    Sim[a][b] = mean over pairs of examples of a and of b, each of them once, of cos(code, code)
    q_a       = softmax over b of (Sim[a][b] + boost [a = b]) / temperature

The autoencoder sees no labels; they only sort the codes into classes.

References:
    Doshi, Kim, ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation, 2023,
    https://arxiv.org/abs/2404.09886
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.numerics.streams import fork_rng
from ackd.teachers.labels import LabelTeacher

Indices: TypeAlias = NDArray[np.int64]
Inputs: TypeAlias = Callable[[Indices], Tensor]  # the examples at some places, [R, ...]

STEPS, BATCH, LR = 600, 128, 3e-3
CHANNELS = (12, 24, 48)
MARGIN = 1e-4  # by which the own class leads after the least boost: enough to outlast rounding to float32
EPS = 1e-8  # of a cosine, as the authors have it


class Autoencoder(nn.Module):
    """Codes of examples, and the examples from their codes.

    Args:
        encode: [R, ...] to codes, [R, k].
        decode: back.
        mean: what is taken from an example before it is encoded.
        spread: what it is then divided by.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, encode: nn.Module, decode: nn.Module, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.encode, self.decode = encode, decode
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def codes(self, examples: Tensor) -> Tensor:
        """[R, k], none below 0."""
        codes: Tensor = self.encode((examples - self.mean) / self.spread)
        return codes

    def forward(self, examples: Tensor) -> Tensor:
        """The squared error of what comes back, a mean over all of it: 0-d."""
        sought = (examples - self.mean) / self.spread
        return F.mse_loss(self.decode(self.encode(sought)), sought)


def of_images(side: int) -> Autoencoder:
    """The published one: three convolutions, each halving the side, and their mirror image with a sigmoid at its end.

    Images are [R, 1, side, side] in [0, 1], which a sigmoid can give back; the authors' are normalised, which it
    cannot.

    Raises:
        InputError: if `side` cannot be halved three times.
    """
    if side % 8:
        raise InputError(f"images of side {side} cannot be halved three times: give a multiple of 8")
    widths = (1, *CHANNELS)
    encode = [
        part for i in range(3) for part in (nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1), nn.ReLU())
    ]
    decode = [
        part
        for i in (3, 2, 1)
        for part in (
            nn.ConvTranspose2d(widths[i], widths[i - 1], 4, stride=2, padding=1),
            nn.ReLU() if i > 1 else nn.Sigmoid(),
        )
    ]
    code = nn.Unflatten(1, (CHANNELS[-1], side // 8, side // 8))
    return Autoencoder(
        nn.Sequential(*encode, nn.Flatten()), nn.Sequential(code, *decode), torch.zeros(()), torch.ones(())
    )


def of_vectors(sample: Tensor) -> Autoencoder:
    """One of dense layers, d -> d/2 -> d/4 and back, for vectors like those of `sample`, [R, d].

    They are brought to mean 0 and spread 1 in each direction, and the code is rectified, as that of images is.
    """
    width = sample.shape[1]
    half, quarter = max(width // 2, 2), max(width // 4, 2)
    encode = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, quarter), nn.ReLU())
    decode = nn.Sequential(nn.Linear(quarter, half), nn.ReLU(), nn.Linear(half, width))
    return Autoencoder(encode, decode, sample.mean(0), sample.std(0, correction=0).clamp_min(1e-6))


def fit(autoencoder: Autoencoder, inputs: Inputs, count: int, *, steps: int, rng: np.random.Generator) -> float:
    """Learns to give the examples back, by Adam on batches of the places 0 to `count` in random order, over and over.

    Returns:
        FLOPs, of which those of the first step are counted, since counting takes longer than the step.
    """
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=LR)
    size, counter = min(BATCH, count), FlopCounterMode(display=False)
    order: Indices = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(count)])
        indices, order = order[:size], order[size:]
        optimizer.zero_grad()
        with counter if step == 0 else nullcontext():
            autoencoder(inputs(indices)).backward()
        optimizer.step()
    return float(steps * counter.get_total_flops())


def similarity(codes: Sequence[Tensor]) -> Tensor:
    """Mean cosines by pair of classes, [C, C] in float64: between classes, of all pairs; within, of different examples.

        Sim[a][b] = mean(u_a)^T mean(u_b)     Sim[a][a] = (|sum u_a|^2 - sum |u_a|^2) / (m (m - 1))

    with `u` the codes over their lengths and `m` the examples of a class; no pair has to be looked at.

    Args:
        codes: of each class, [m, k] with at least two examples.
    """
    units = [code.double() / code.double().norm(dim=1, keepdim=True).clamp_min(EPS) for code in codes]
    means = torch.stack([unit.mean(0) for unit in units])
    within = torch.stack(
        [(unit.sum(0).square().sum() - unit.square().sum()) / (len(unit) * (len(unit) - 1)) for unit in units]
    )
    return (means @ means.T).diagonal_scatter(within)


def least_boost(similarities: Tensor) -> float:
    """What has to be added to the diagonal for each row to be largest there, by a hair; 0 if each is."""
    others = similarities.clone().fill_diagonal_(-torch.inf).amax(1)
    return max(float((others - similarities.diagonal()).max()) + MARGIN, 0.0)


def soft_labels(
    inputs: Inputs,
    labels: NDArray[np.int64],
    classes: int,
    *,
    images: bool,
    per_class: int = 40,
    boost: float | None = None,
    temperature: float = 0.1,
    steps: int = STEPS,
    seed: int = 42,
    costs: CostTracker | None = None,
) -> LabelTeacher:
    """The teacher whose soft labels an autoencoder of these examples gives.

    Everything random about it follows from `seed`, and nothing else is drawn from or changed.

    Args:
        inputs: the examples at some places: images [R, 1, s, s] in [0, 1], or vectors [R, d].
        labels: [N], of all of them.
        classes: C.
        images: whether they are images.
        per_class: examples of each class whose codes are compared; all of a class that has fewer.
        boost: what is added to the diagonal; the least that makes each row's largest its own class, if None.
        temperature: of the softmax over similarities.
        steps: of the fitting.
        seed: of the weights, the batches and the examples that are compared.
        costs: is told what fitting and comparing took.

    Raises:
        InputError: for fewer than two classes, a class with fewer than two examples, or a number out of range.
    """
    if classes < 2:
        raise InputError(f"soft labels are for classes, and there is {classes} here, as for a regression")
    if per_class < 2:
        raise InputError(f"{per_class} of each class cannot be compared with each other: draw at least 2")
    if steps < 1:
        raise InputError(f"an autoencoder is fitted in at least 1 step, got {steps}")
    if not 0 < temperature < float("inf"):
        raise InputError(f"the temperature of the similarities must be above 0, got {temperature}")
    if boost is not None and not 0 <= boost < float("inf"):
        raise InputError(f"the diagonal is boosted by 0 or more, got {boost}")
    rng = np.random.default_rng(seed)
    drawn = []
    for label in range(classes):
        those = np.flatnonzero(labels == label)
        if len(those) < 2:
            raise InputError(
                f"class {label} has {len(those)} training examples, and soft labels compare at least 2 of each class: "
                "give more data"
            )
        drawn.append(rng.choice(those, min(per_class, len(those)), replace=False))
    counter = FlopCounterMode(display=False)
    with fork_rng(seed), torch.enable_grad():
        some = inputs(rng.permutation(len(labels))[:4096])
        autoencoder = of_images(some.shape[-1]) if images else of_vectors(some)
        spent = fit(autoencoder, inputs, len(labels), steps=steps, rng=rng)
        with torch.no_grad(), counter:
            similarities = similarity([autoencoder.codes(inputs(indices)) for indices in drawn])
    if costs is not None:
        costs.add_flops("teacher", spent + counter.get_total_flops())
    more = least_boost(similarities) if boost is None else boost
    scores = similarities + more * torch.eye(classes, dtype=torch.float64)
    return LabelTeacher((scores / temperature).log_softmax(1))
