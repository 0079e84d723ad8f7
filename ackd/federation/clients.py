"""How training examples are spread over the clients of a federation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError, unknown

Indices = NDArray[np.int64]

LEAST = 1e-100  # a smaller concentration underflows; it draws a single class already


@dataclass(frozen=True)
class ClientSplit:
    """A rule by which each example goes to one client.

    `iid`: at random, in equal parts. `shards:S`: the examples, sorted by label or value, are cut into S shards a
    client, and each client is dealt S of them. `dirichlet:A`: equal parts again, and client k's class proportions are

        q_k ~ Dir(A p),  p the class shares of all examples,

    near p for a large A and a single class for a small one. A class that is used up is left out of what the later
    clients draw from, so that every example goes somewhere and no client stays empty.

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
        """As it is written: `iid`, `shards:2`, `dirichlet:0.1`.

        Raises:
            InputError: if it is none of them.
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
        """The places of each client's examples, ascending; each example is some client's, and none is two's.

        Args:
            labels: [N], int64 classes or float values.
            clients: K.
            rng: what the split is drawn from.

        Raises:
            InputError: for fewer than two clients, more of them (or of their shards) than examples, or class
                proportions of values.
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
            if not wanted.sum() > 0:  # all that it asks for is used up
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
