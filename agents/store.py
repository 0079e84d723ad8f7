"""Saved policies: weights in safetensors, the rest in JSON. A policy is data; nothing read here is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ackd.agents.arms import MOST_STAGES, BanditActor
from ackd.agents.card import FORMAT, LICENSE, MAX_CARD, MAX_K, Card, read_card
from ackd.agents.ksm_actor import KsmActor, KsmBits
from ackd.agents.learned import Actor, LearnedPolicy
from ackd.agents.model_card import card_text
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import MOST_KNOTS, ProbeRule, Schedule
from ackd.agents.set_network import SetNetwork, SetWeights
from ackd.agents.weights import MAX_WEIGHTS, read_weights
from ackd.errors import InputError, short
from ackd.files import hub
from ackd.files.schema import read_bytes
from ackd.files.writing import write_whole
from ackd.mdp.observations import FEATURES, GLOBALS, SCHEMA

CARD, WEIGHTS, README = "policy.json", "policy.safetensors", "README.md"
FILES = {CARD: MAX_CARD, WEIGHTS: MAX_WEIGHTS}  # the files of a policy, and their most bytes
PACKAGES = ("ackd", "torch", "stable-baselines3", "gymnasium", "safetensors")


@dataclass(frozen=True)
class Kind:
    """A kind of network that can be saved.

    Args:
        build: makes a network from its sizes, as keyword arguments.
        limits: minimum and maximum of each size; they limit the memory that a file can require.
        choice: action space, one of `ackd.mdp.action_spaces.CHOICES`.
    """

    build: Callable[..., Actor]
    limits: Mapping[str, tuple[int, int]]
    choice: str = "subset"


READS = (len(GLOBALS), len(FEATURES))
STATE = (1, 1 << 16)  # limits for the width of each part that `ksm` reads
KSM = {"left": STATE, "right": STATE, "types": (1, 1024), "feature": (1, 1024), "width": (1, 1024), "cls": (0, 1)}
KINDS: Mapping[str, Kind] = {
    "set": Kind(partial(SetNetwork, *READS), {"width": (1, 1024)}),
    "set-weights": Kind(partial(SetWeights, *READS), {"width": (1, 1024)}, "weights"),
    "schedule": Kind(Schedule, {"knots": (1, MOST_KNOTS)}, "weights"),
    "probe-rule": Kind(ProbeRule, {"knots": (1, MOST_KNOTS)}, "weights"),
    "residual": Kind(partial(ResidualNetwork, *READS), {"width": (1, 1024), "knots": (1, MOST_KNOTS)}, "weights"),
    "bandit": Kind(BanditActor, {"stages": (1, MOST_STAGES), "types": (1, 1024), "subsets": (0, 1)}, "type-subset"),
    "ksm": Kind(KsmActor, KSM, "type-shares"),
    "ksm-bits": Kind(KsmBits, KSM, "type-subset"),
}


def save(
    path: str | os.PathLike[str],
    network: Actor,
    *,
    algorithm: str,
    knowledge: Sequence[str],
    k_max: int,
    name: str = "policy",
    instances: Sequence[Mapping[str, Any]] = (),
    metrics: Mapping[str, Any] | None = None,
    cost: Mapping[str, float] | None = None,
    license: str = LICENSE,
) -> None:
    """Write a policy as the folder `path`: `policy.safetensors`, `policy.json`, and `README.md` for people.

    Each file is written under another name and then renamed. `policy.json` comes last and contains the hash of the
    weights. So an interrupted save leaves the old policy, or one that `load` rejects, and never half a file.

    Args:
        path: the folder.
        network: a network of one of `KINDS`.
        algorithm: algorithm of its training.
        knowledge: names of the knowledge types of its training, in the order of the action's entries.
        k_max: entries of the action.
        name: name in the store.
        instances: instances of its training.
        metrics: measured results.
        cost: costs of its training: episodes, student_steps, flops, seconds.
        license: license for others' use.

    Raises:
        InputError: if a weight is NaN or infinite, or `load` would reject the policy.
    """
    if network.kind not in KINDS:
        raise InputError(f"the policy is not saved: {network.kind!r} is no kind that can be loaded again")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"the policy is not saved: {broken[0]} holds NaN or infinity, so its training diverged")
    weights = safetensors.torch.save(tensors)
    card = Card(
        format=FORMAT,
        name=name,
        kind=network.kind,
        choice=KINDS[network.kind].choice,
        schema=SCHEMA,
        globals=list(GLOBALS),
        features=list(FEATURES),
        knowledge=tuple(knowledge),
        k_max=k_max,
        sizes=dict(network.sizes),
        algorithm=algorithm,
        instances=tuple(dict(instance) for instance in instances),
        metrics=dict(metrics or {}),
        cost=dict(cost or {}),
        license=license,
        versions={package: version(package) for package in PACKAGES},
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    try:
        text = json.dumps(asdict(card), indent=2, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the policy is not saved: its instances, metrics or cost are not JSON ({error})") from error
    write(Path(path), text, weights)


def load(path: str | os.PathLike[str], *, k_max: int | None = None, seed: int = 0) -> LearnedPolicy:
    """Read a policy that `save` wrote.

    Args:
        path: the policy's folder, the folder of a run with a policy, or `hf:USER/REPO`.
        k_max: entries of the action in its use, if not the same as in its training.
        seed: of the generator for its draws.

    Raises:
        InputError: if there is no policy, it was made for other observations, or it is damaged.
    """
    folder = within(path)
    policy = parse(*read(folder), folder / CARD, folder / WEIGHTS, seed=seed)
    if k_max is not None:
        if not 1 <= k_max <= MAX_K:
            raise InputError(f"k_max is {k_max}: it must be between 1 and {MAX_K}")
        policy.card = replace(policy.card, k_max=k_max)
    return policy


def packed(policy: LearnedPolicy) -> tuple[bytes, bytes]:
    """The bytes of a policy's two files, as returned by `read`."""
    tensors = {key: tensor.contiguous() for key, tensor in policy.network.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    card = replace(policy.card, sha256=hashlib.sha256(weights).hexdigest())
    return json.dumps(asdict(card), indent=2).encode() + b"\n", weights


def within(path: str | os.PathLike[str]) -> Path:
    """The policy's folder; for a run's folder, the policy's folder in it; for `hf:USER/REPO`, the folder in the cache.

    Raises:
        InputError: if a repository cannot be read.
    """
    if hub.is_named(path):
        return hub.fetch(hub.repo_of(pinned(os.fspath(path))), FILES, "policy")
    inner = Path(path) / "policy"
    return inner if os.path.isdir(inner) and not os.path.exists(Path(path) / CARD) else Path(path)


def pinned(text: str, recorded: Iterable[object] = ()) -> str:
    """A policy's name, with the commit if it names a repository of the hub; arguments as for `hub.pinned`."""
    return hub.pinned(text, FILES, "policy", recorded)


def read(folder: Path) -> tuple[bytes, bytes]:
    """The content of a policy's two files, unchecked.

    Raises:
        InputError: if one is missing or too large.
    """
    try:
        if not folder.is_dir():
            other = "a file; stable-baselines3's zip is never read" if folder.is_file() else "not there"
            raise InputError(f"{folder} is {other}: give the folder that holds {CARD} and {WEIGHTS}")
        for name in (CARD, WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(f"{folder} is no saved policy: {name} is missing")
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from error
    return read_bytes(folder / CARD, MAX_CARD), read_bytes(folder / WEIGHTS, MAX_WEIGHTS)


def parse(text: bytes, weights: bytes, where: object, weights_where: object, *, seed: int = 0) -> LearnedPolicy:
    """Parses a policy from the bytes of its two files.

    Raises:
        InputError: if the policy was made for other observations, or is damaged.
    """
    if len(text) > MAX_CARD or len(weights) > MAX_WEIGHTS:
        raise InputError(f"{where}: no policy has more than {MAX_CARD} bytes of JSON and {MAX_WEIGHTS} of weights")
    card = read_card(text, where)
    kind = KINDS.get(card.kind)
    if kind is None:
        raise InputError(
            f"{where} has the kind {short(card.kind)}, this version of ackd reads {', '.join(sorted(KINDS))}"
        )
    if card.choice != kind.choice:
        raise InputError(f"{where} has the choice {card.choice!r:.40}: the kind {card.kind!r} has {kind.choice!r}")
    if card.sizes.keys() != kind.limits.keys():
        raise InputError(f"{where} has other sizes than {', '.join(kind.limits)}, which the kind {card.kind!r} has")
    for name, (least, most) in kind.limits.items():
        if not least <= card.sizes[name] <= most:
            raise InputError(f"{where} has {name} {short(card.sizes[name])}: it must be between {least} and {most}")
    with torch.device("meta"):  # only shapes so far
        network = kind.build(**card.sizes)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(read_weights(weights, weights_where, shapes, card.sha256), assign=True)
    return LearnedPolicy(network, card, seed=seed)


def write(folder: Path, text: bytes, weights: bytes) -> Card:
    """Writes a policy's files to `folder`, after checking that they can be loaded.

    Raises:
        InputError: if they cannot be loaded.
    """
    policy = parse(text, weights, folder / CARD, folder / WEIGHTS)
    for name, data in ((WEIGHTS, weights), (README, card_text(policy.card, policy.network).encode()), (CARD, text)):
        write_whole(folder / name, data)
    return policy.card
