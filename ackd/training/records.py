"""What trainings are asked and answer, as JSON: its names are those of files, and stay when an attribute is renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ackd.files.reading import matches_schema
from ackd.mdp.episode import Facts
from ackd.tasks import Split
from ackd.types import EvalResult, Selection, StepMetrics

Answer = StepMetrics[float] | EvalResult | Facts
# of each kind of answer the names of its fields in files, and of its attributes
KINDS: Mapping[str, tuple[type[Answer], Mapping[str, str]]] = {
    "report": (
        StepMetrics,
        {
            "loss": "loss",
            "labels": "labels",
            "grad_norm": "grad_norm",
            "uncertainty": "uncertainty",
            "accuracy": "accuracy",
            "losses": "losses",
            "cosines": "cosines",
            "norms": "norms",
        },
    ),
    "standing": (
        EvalResult,
        {
            "loss": "loss",
            "score": "score",
            "scores": "scores",
            "probability": "probability",
            "divergence": "divergence",
            "teacher_correlation": "teacher_correlation",
            "label_correlation": "label_correlation",
        },
    ),
    "facts": (
        Facts,
        {
            "agreement": "agreement",
            "confidence": "confidence",
            "probe": "probe",
            "chance": "chance",
            "examples_per_parameter": "examples_per_parameter",
            "epochs": "epochs",
        },
    ),
}
TABLES = {"losses", "cosines", "norms", "scores"}  # fields that are several numbers by their names


def plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, Selection):
        return {"weights": dict(value.weights), "labels": value.labels}
    if isinstance(value, Split):
        return value.fingerprint
    for kind, (made, names) in KINDS.items():
        if isinstance(value, made):
            fields = {name: getattr(value, attribute) for name, attribute in names.items()}
            return {kind: {name: dict(one) if name in TABLES else one for name, one in fields.items()}}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def answer(given: Mapping[str, Any], wanted: str | None = None) -> Answer:
    """What `plain` made an answer of, of the kind that is wanted, or of any.

    Raises:
        KeyError, TypeError, ValueError: if it is another, or damaged.
    """
    ((kind, fields),) = given.items()
    made, names = KINDS[kind]
    numbers = {name: _zeros(one) if name in TABLES else 0.0 for name, one in fields.items()}
    if wanted not in (None, kind) or not matches_schema(fields, numbers):
        raise ValueError(f"it is {str(given)[:120]}")
    return made(**{names[name]: one for name, one in fields.items()})


def _zeros(table: Any) -> dict[str, float]:
    return dict.fromkeys(table, 0.0) if isinstance(table, dict) else {}
