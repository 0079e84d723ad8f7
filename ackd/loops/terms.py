"""The families of losses, given or derived from their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ackd.errors import InputError
from ackd.types import KNOWLEDGE_FAMILIES, LABELS

# Parts of names, in lower case and without numbers, that determine the family: outputs first, then kinds of losses.
COMPARED: Mapping[str, tuple[str, ...]] = {
    "logits": ("logits", "logit", "response", "soft"),
    "hidden": ("hidden", "hiddens", "feature", "features", "embedding", "embeddings", "states"),
    "attention": ("attention", "attentions", "attn", "att"),
    "relation": (
        "relation",
        "relations",
        "relational",
        "rkd",
        "values",
        "qkv",
        "fsp",
        "similarity",
        "pairwise",
        "contrastive",
    ),
}
BY: Mapping[str, tuple[str, ...]] = {
    "logits": ("kd", "kl", "kld", "jsd", "topk", "distillation", "mft"),
    "hidden": ("mse", "cosine", "mgd"),
}


def families_of(names: Iterable[str], families: Mapping[str, str], labels: str | None) -> dict[str, str]:
    """The family of each loss.

    Args:
        names: the names of the losses.
        families: families of some losses; the others are derived from the names.
        labels: the name of the label loss, if there is one.

    Returns:
        By name, `labels` or one of `ackd.types.KNOWLEDGE_FAMILIES`; the label loss first.

    Raises:
        InputError: if a family is unknown, or cannot be derived from the name.
    """
    given = list(names)
    if labels is not None and labels not in given:
        raise InputError(
            f"there is no loss {labels!r} among {', '.join(given)}: name the label loss with labels=, or give "
            "labels=None if there is none"
        )
    for name, family in families.items():
        if family not in KNOWLEDGE_FAMILIES:
            raise InputError(f"the loss {name!r} has the family {family!r}: give {', '.join(KNOWLEDGE_FAMILIES)}")
    found = {labels: LABELS} if labels is not None else {}
    return found | {name: families.get(name) or _family(name) for name in given if name != labels}


def _family(name: str) -> str:
    parts = re.sub(r"([a-z])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3 \2\4", name)  # "MSELoss" is "MSE Loss"
    words = re.findall(r"[a-z]+", re.sub(r"top[^a-z]k(?![a-z])", "topk", parts.lower()))
    found = ({family for family, known in table.items() if {*words} & {*known}} for table in (COMPARED, BY))
    families = next((one for one in found if one), set())
    if len(families) != 1:
        raise InputError(
            f"the family of the loss {name!r} cannot be derived from its name: give families={{{name!r}: FAMILY}}, "
            f"where FAMILY is one of {', '.join(KNOWLEDGE_FAMILIES)}"
        )
    return families.pop()
