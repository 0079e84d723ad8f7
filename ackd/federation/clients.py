"""Splits the training examples over the clients of a federation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError, unknown

Indices = NDArray[np.int64]

LEAST = 1e-100  # smaller concentrations underflow; this one already draws a single class


@dataclass(frozen=True)
class ClientSplit:
    """A rule that assigns each example to one client.

    `iid`: at random, in equal parts. `shards:S`: the examples are sorted by label or value and cut into S shards per
    client; each client gets S random shards. `dirichlet:A`: equal parts, and client k has the class proportions

        q_k ~ Dir(A p),  p the class shares of all examples,

    near p for a large A, and a single class for a small A. Later clients do not draw from used-up classes, so every
    example is assigned and no client is empty.

    Raises:
        InputError: if the number is out of range.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
        https://arxiv.org/abs/1602.05629 (shards)
        Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
        2019, https://arxiv.org/abs/1909.06335 (Dirichlet)
    """

    name: str  # one of `SPLITS`
    number: float = 0.0  # S or A

    def __post_init__(self) -> None:
        if self.name == "shards" and not (self.number >= 1 and float(self.number).is_integer()):
            raise InputError(f"a client cannot get {self.number:g} shards: give a whole number, as shards:2")
        if self.name == "dirichlet" and not (math.isfinite(self.number) and self.number > 0):
            raise InputError(f"a Dirichlet concentration of {self.number:g} is no number above 0: give dirichlet:0.1")

    @classmethod
    def parse(cls, text: str) -> ClientSplit:
        """Parses a rule such as `iid`, `shards:2` or `dirichlet:0.1`.

        Raises:
            InputError: if the text is not a rule.
        """
        name, colon, number = text.partition(":")
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        if bool(colon) != (name != "iid"):
            raise InputError(f"the split {text!r} cannot be read: write it as {SHOWN}")
        try:
            return cls(name, float(number or 0))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the split {text!r} has {number!r} where a number belongs: write it as {SHOWN}") from None

    def __call__(self, labels: NDArray[Any], clients: int, rng: np.random.Generator) -> list[Indices]:
        """The indices of each client's examples, ascending; each example belongs to exactly one client.

        Args:
            labels: [N], int64 classes or float values.
            clients: number of clients K.
            rng: generator for the split.

        Raises:
            InputError: for fewer than two clients, more clients or shards than examples, or class proportions of a
                regression task.
        """
        if clients < 2:
            raise InputError(f"a federation of {clients} client{'s' * (clients != 1)} is none: give at least 2 clients")
        if clients > len(labels):
            raise InputError(
                f"{clients} clients cannot share {len(labels)} examples: give fewer clients, or more examples"
            )
        return [np.sort(indices) for indices in SPLITS[self.name](labels, clients, self.number, rng)]


def _iid(labels: NDArray[Any], clients: int, number: float, rng: np.random.Generator) -> list[Indices]:
    return np.array_split(rng.permutation(len(labels)), clients)


def _shards(labels: NDArray[Any], clients: int, number: float, rng: np.random.Generator) -> list[Indices]:
    each = int(number)
    if clients * each > len(labels):
        raise InputError(
            f"{clients} clients with {each} shards each cannot share {len(labels)} examples: give fewer shards"
        )
    order = rng.permutation(len(labels))
    shards = np.array_split(order[np.argsort(labels[order], kind="stable")], clients * each)
    dealt = rng.permutation(clients * each).reshape(clients, each)
    return [np.concatenate([shards[shard] for shard in mine]) for mine in dealt]


def _dirichlet(labels: NDArray[Any], clients: int, number: float, rng: np.random.Generator) -> list[Indices]:
    if labels.dtype.kind == "f":
        raise InputError("a Dirichlet split is one over classes, and a regression has none: take shards:2, or iid")
    _, kinds, counts = np.unique(labels, return_inverse=True, return_counts=True)
    stock = [rng.permutation(np.flatnonzero(kinds == kind)) for kind in range(len(counts))]
    concentrations = np.maximum(number * counts / len(labels), LEAST)
    left, parts = counts.copy(), []
    for size in (len(part) for part in np.array_split(labels, clients)):
        shares = rng.dirichlet(concentrations)
        taken = np.zeros_like(left)
        while taken.sum() < size:
            there = left > taken
            wanted = np.where(there, shares, 0.0)
            if not wanted.sum() > 0:  # all classes with a share are used up
                wanted[there] = rng.dirichlet(concentrations[there])
            drawn = rng.multinomial(size - taken.sum(), wanted / wanted.sum())
            taken += np.minimum(drawn, left - taken)
        parts.append(np.concatenate([one[n - k : n] for one, n, k in zip(stock, left, taken, strict=True)]))
        left -= taken
    return parts


SPLITS: dict[str, Callable[[NDArray[Any], int, float, np.random.Generator], list[Indices]]] = {
    "iid": _iid,
    "shards": _shards,
    "dirichlet": _dirichlet,
}
SHOWN = "iid, shards:2 or dirichlet:0.1"


def shares(labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """The share of each class, [C] from labels [N]."""
    return np.bincount(labels, minlength=classes) / len(labels)
