"""Saved policies: weights in safetensors, the rest in JSON. A policy is data; nothing read here is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ackd.agents.learned import Card, LearnedPolicy
from ackd.agents.set_policy import SetNetwork
from ackd.agents.weights import read_weights
from ackd.errors import InputError
from ackd.signals import FEATURES, GLOBALS, SCHEMA

FORMAT = 1
CARD, WEIGHTS = "policy.json", "policy.safetensors"
MAX_CARD = 1 << 20  # bytes
MAX_WIDTH, MAX_K = 1024, 1024
PACKAGES = ("ackd", "torch", "stable-baselines3", "gymnasium", "safetensors")
FIELDS: dict[str, type] = {
    "format": int,
    "kind": str,
    "schema": int,
    "globals": list,
    "features": list,
    "knowledge": list,
    "k_max": int,
    "width": int,
    "algorithm": str,
    "instances": list,
    "metrics": dict,
    "versions": dict,
    "sha256": str,
}


def save(
    path: str | os.PathLike[str],
    network: SetNetwork,
    *,
    algorithm: str,
    knowledge: Sequence[str],
    k_max: int,
    instances: Sequence[Mapping[str, Any]] = (),
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a policy as the folder `path` with `policy.safetensors` and `policy.json`.

    Each file is written under another name and renamed; `policy.json` comes last and holds the hash of the weights, so
    an interrupted save leaves the old policy, or one that `load` refuses, and never half a file.

    Raises:
        InputError: if a weight is NaN or infinite, or something of the rest is not JSON.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"the policy is not saved: {broken[0]} holds NaN or infinity, so its training diverged")
    weights = safetensors.torch.save(tensors)
    fields = {
        "format": FORMAT,
        "kind": "set",
        "schema": SCHEMA,
        "globals": list(GLOBALS),
        "features": list(FEATURES),
        "knowledge": list(knowledge),
        "k_max": k_max,
        "width": network.width,
        "algorithm": algorithm,
        "instances": [dict(instance) for instance in instances],
        "metrics": dict(metrics or {}),
        "versions": {package: version(package) for package in PACKAGES},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        text = json.dumps(fields, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the policy is not saved: its instances or metrics are not JSON ({error})") from error
    _card(fields, Path(path))  # what could not be loaded is not written
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS, weights)
    _write(folder / CARD, text.encode())


def load(path: str | os.PathLike[str], *, k_max: int | None = None, seed: int = 0) -> LearnedPolicy:
    """Read a policy that `save` wrote.

    Args:
        path: the folder.
        k_max: bits of the action where it is going to act, if other than in its training.
        seed: of the generator for its draws.

    Raises:
        InputError: if it is not such a folder, was made for other observations, or is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        other = "a file; stable-baselines3's zip is never read" if folder.is_file() else "not there"
        raise InputError(f"{folder} is {other}: give the folder that holds {CARD} and {WEIGHTS}")
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no saved policy: {name} is missing")
    fields = _fields(folder / CARD)
    if k_max is not None:
        fields["k_max"] = k_max
    card = _card(fields, folder / CARD)
    with torch.device("meta"):  # only shapes so far
        network = SetNetwork(len(GLOBALS), len(FEATURES), card.width)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(read_weights(folder / WEIGHTS, shapes, fields["sha256"]), assign=True)
    return LearnedPolicy(network, card, seed=seed)


def _fields(path: Path) -> dict[str, Any]:
    """The JSON's fields: the right ones, each of its type."""
    size = path.stat().st_size
    if size > MAX_CARD:
        raise InputError(f"{path} has {size} bytes, and no policy's has more than {MAX_CARD}: it is something else")
    try:
        fields = json.loads(path.read_bytes().decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): save the policy again") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} is not a policy's: it holds a JSON {type(fields).__name__}, not an object")
    # Before the names of the fields, which another format may have changed.
    for name, known in (("format", FORMAT), ("schema", SCHEMA), ("kind", "set")):
        if name in fields and fields[name] != known:
            raise InputError(
                f"{path} has {name} {fields[name]!r}, this version of ackd reads {known!r}: "
                "use the version that saved it, or train the policy again"
            )
    missing, surplus = sorted(FIELDS.keys() - fields), sorted(fields.keys() - FIELDS)
    if missing or surplus:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(surplus)}"] * bool(surplus)
        raise InputError(f"{path} {' and '.join(parts)}: save the policy again")
    for name, kind in FIELDS.items():
        if type(fields[name]) is not kind:  # not isinstance: true is no number
            raise InputError(f"{path} has a {name} of type {type(fields[name]).__name__}, not {kind.__name__}")
    return fields


def _card(fields: Mapping[str, Any], path: Path) -> Card:
    """The JSON's contents, checked."""
    for name, known in (("globals", GLOBALS), ("features", FEATURES)):
        if fields[name] != list(known):
            raise InputError(_difference(f"{path}: the policy was made for other {name}", fields[name], known))
    for name, most in (("width", MAX_WIDTH), ("k_max", MAX_K)):
        if not 1 <= fields[name] <= most:
            raise InputError(f"{path} has {name} {fields[name]}: it must be between 1 and {most}")
    knowledge = fields["knowledge"]
    if not all(isinstance(name, str) for name in knowledge) or len(set(knowledge)) < len(knowledge):
        raise InputError(f"{path} has the knowledge types {knowledge}: they must be different names")
    if len(knowledge) > MAX_K or not all(isinstance(instance, dict) for instance in fields["instances"]):
        raise InputError(f"{path} has too many knowledge types, or instances that are not JSON objects")
    return Card(
        knowledge=tuple(knowledge),
        k_max=fields["k_max"],
        width=fields["width"],
        algorithm=fields["algorithm"],
        instances=tuple(fields["instances"]),
        metrics=fields["metrics"],
        versions=fields["versions"],
    )


def _difference(what: str, has: Sequence[Any], known: Sequence[str]) -> str:
    ours, theirs = [name for name in known if name not in has], [str(name) for name in has if name not in known]
    if not ours and not theirs:  # only the order or a repetition differs: show all of it
        ours, theirs = list(known), [str(name) for name in has]
    return f"{what}: it has {', '.join(theirs) or 'none besides'}, this version has {', '.join(ours) or 'none besides'}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _write(path: Path, data: bytes) -> None:
    """The whole file or nothing of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
