"""Soft labels without a teacher, from class similarities in an autoencoder's codes.

    Sim[a][b] = mean of cos(code, code) over all pairs of different examples, one of class a and one of class b
    q_a       = softmax over b of (Sim[a][b] + boost [a = b]) / temperature

The autoencoder is trained without labels; labels only sort the codes into classes.

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
Inputs: TypeAlias = Callable[[Indices], Tensor]  # returns the examples at given indices, [R, ...]

STEPS, BATCH, LR = 600, 128, 3e-3
CHANNELS = (12, 24, 48)
MARGIN = 1e-4  # lead of the own class after the smallest boost; survives rounding to float32
EPS = 1e-8  # smallest norm in a cosine, as in the authors' code


class Autoencoder(nn.Module):
    """Encodes examples to codes and decodes them.

    Args:
        encode: maps examples [R, ...] to codes [R, k].
        decode: maps codes to examples.
        mean: subtracted from an example before encoding.
        spread: divisor of the centred example.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, encode: nn.Module, decode: nn.Module, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.encode, self.decode = encode, decode
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def codes(self, examples: Tensor) -> Tensor:
        """The codes, [R, k], at least 0."""
        codes: Tensor = self.encode((examples - self.mean) / self.spread)
        return codes

    def forward(self, examples: Tensor) -> Tensor:
        """The mean squared error of the reconstruction, 0-d."""
        sought = (examples - self.mean) / self.spread
        return F.mse_loss(self.decode(self.encode(sought)), sought)


def of_images(side: int) -> Autoencoder:
    """The published autoencoder: three convolutions that halve the side, and the reverse with a final sigmoid.

    Images are [R, 1, side, side] in [0, 1], the range of a sigmoid. (The authors' images are normalised, which a
    sigmoid cannot reconstruct.)

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
    """An autoencoder of dense layers, d -> d/2 -> d/4 and back, for vectors like those of `sample`, [R, d].

    Vectors are standardised to mean 0 and spread 1 in each dimension. Codes are rectified, as for images.
    """
    width = sample.shape[1]
    half, quarter = max(width // 2, 2), max(width // 4, 2)
    encode = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, quarter), nn.ReLU())
    decode = nn.Sequential(nn.Linear(quarter, half), nn.ReLU(), nn.Linear(half, width))
    return Autoencoder(encode, decode, sample.mean(0), sample.std(0, correction=0).clamp_min(1e-6))


def fit(autoencoder: Autoencoder, inputs: Inputs, count: int, *, steps: int, rng: np.random.Generator) -> float:
    """Trains the autoencoder with Adam on batches of the examples 0 to `count` - 1, in random order.

    Returns:
        FLOPs: those of the first step times the steps, because counting is slower than a step.
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
    """Mean cosines by pair of classes, [C, C] in float64; within a class, over pairs of different examples.

        Sim[a][b] = mean(u_a)^T mean(u_b)     Sim[a][a] = (|sum u_a|^2 - sum |u_a|^2) / (m (m - 1))

    with `u` the codes divided by their norms and `m` the number of examples of a class; no pair is computed by itself.

    Args:
        codes: the codes of each class, [m, k], with at least two examples.
    """
    units = [code.double() / code.double().norm(dim=1, keepdim=True).clamp_min(EPS) for code in codes]
    means = torch.stack([unit.mean(0) for unit in units])
    within = torch.stack(
        [(unit.sum(0).square().sum() - unit.square().sum()) / (len(unit) * (len(unit) - 1)) for unit in units]
    )
    return (means @ means.T).diagonal_scatter(within)


def least_boost(similarities: Tensor) -> float:
    """The smallest boost of the diagonal that makes it the largest entry of each row, by `MARGIN`; at least 0."""
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
    """Trains an autoencoder on the examples and returns a teacher with its soft labels.

    All random numbers follow from `seed`; no other random state is used or changed.

    Args:
        inputs: returns the examples at given indices: images [R, 1, s, s] in [0, 1], or vectors [R, d].
        labels: [N], labels of all examples.
        classes: C.
        images: whether the examples are images.
        per_class: number of compared examples of each class, or all if the class has fewer.
        boost: added to the diagonal of the similarities. None: the smallest one that makes it the maximum of each row.
        temperature: of the softmax over similarities.
        steps: training steps of the autoencoder.
        seed: of the weights, the batches and the choice of compared examples.
        costs: the FLOPs of training and comparison are added to it.

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
