"""A student's model card: origin, scores and costs. No code reads the card back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ackd.agents.model_card import cell, front, plain
from ackd.costs import CostTracker
from ackd.files.writing import write_whole
from ackd.mdp.episode import Phase
from ackd.models import Model, model_folder
from ackd.tasks import Task, TaskSpec, save_trained
from ackd.teachers import ModelTeacher, unwrap
from ackd.teachers.cache.budget import readable
from ackd.training.distillation import Distillation
from ackd.types import LABELS, decimals

CARD, WEIGHTS = "README.md", "model.safetensors"
LARGEST = 1 << 16  # bytes of a card to search for its licence
LICENSE = re.compile(r"^license:\s*['\"]?([A-Za-z0-9][A-Za-z0-9.+_-]{0,63})['\"]?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Origin:
    """Facts about a student's training for its card, besides the options.

    Args:
        task: the student's task.
        model: the student.
        result: the fields of `result.json`.
        costs: costs of the run.
        rows: further rows of the card, such as `transferred`.
        teacher: the teacher that it is compared with, if any.
        peers: the models of mutual learning, including the student.
    """

    task: Task
    model: Model
    result: Mapping[str, Any]
    costs: CostTracker
    rows: Mapping[str, str]
    teacher: Model | None = None
    peers: Sequence[str] = ()


def write_student(folder: Path, settings: Mapping[str, Any], origin: Origin) -> None:
    """Writes a student with its tokenizer, class names and card; same arguments as `write_card`."""
    save_trained(folder, origin.model, origin.task)
    write_card(folder, settings, origin)


def write_card(folder: Path, settings: Mapping[str, Any], origin: Origin) -> None:
    """Writes `README.md` into a student's folder, which already contains the weights.

    Args:
        folder: the student's folder.
        settings: the given options of the run.
        origin: further facts for the card.
    """
    sources = _sources(settings, origin)
    licenses = sorted({known for name in sources if (known := license_of(name)) is not None})
    size = (folder / WEIGHTS).stat().st_size
    parts = (
        _front(sources, licenses, origin.task.spec),
        _origin(settings, origin, licenses, size),
        _scores(origin),
        _use(origin.task.spec),
    )
    write_whole(folder / CARD, ("\n".join(line for part in parts for line in part) + "\n").encode())


def license_of(source: str) -> str | None:
    """The licence in a model's card, from its folder or the hub's cache; None if there is none."""
    try:
        path: Any = Path(model_folder(source)) / CARD
        if not Path(source).exists():
            path = try_to_load_from_cache(source, CARD)
        with Path(path).open("rb") as file:
            text = file.read(LARGEST).decode("utf-8", "replace")
    except (OSError, ValueError, TypeError):  # there is no card
        return None
    start, front, _ = (*text.split("---", 2), "", "")[:3]
    found = LICENSE.search(front) if not start.strip() else None
    return found[1].lower() if found is not None else None


def transferred(phases: Sequence[Phase]) -> str:
    """The share of the steps that used each knowledge type, and the labels."""
    steps = sum(phase.steps for phase in phases)
    shares = dict.fromkeys((LABELS, *(name for phase in phases for name in phase.selection.weights)), 0.0)
    for phase in phases:
        for name, weight in {LABELS: phase.selection.labels, **phase.selection.weights}.items():
            shares[name] += phase.steps / steps * (weight > 0)
    return ", ".join(f"{name} in {share:.0%} of the steps" for name, share in shares.items() if share)


def model_of(distillation: Distillation) -> Model | None:
    """The first teacher that is a model."""
    asked = (unwrap(one) for one in distillation.teachers)
    return next((one.model for one in asked if isinstance(one, ModelTeacher)), None)


def _teachers(settings: Mapping[str, Any]) -> list[str]:
    """The teachers as the user named them."""
    teacher = settings.get("teacher") or ()
    return [teacher] if isinstance(teacher, str) else list(teacher)


def _sources(settings: Mapping[str, Any], origin: Origin) -> list[str]:
    """The named models, without configs for random weights."""
    typed = [*_teachers(settings), *origin.peers, *([settings["student"]] if settings.get("student") else [])]
    return [name for name in typed if not name.endswith(".json")]


def _shown(source: str) -> str:
    """A hub id or a path as the user named it, without absolute folders of this machine."""
    return plain(Path(source).name if Path(source).is_absolute() else source)


def _pipeline(spec: TaskSpec) -> str:
    """The name of the task on the hub."""
    if spec.language:
        return "text-generation"
    return "sentence-similarity" if spec.sentences else "text-classification"


def _front(sources: Sequence[str], licenses: Sequence[str], spec: TaskSpec) -> Iterator[str]:
    hub = dict.fromkeys(name for name in sources if not Path(name).exists())
    yield front(
        license=licenses[0] if len(licenses) == 1 else None,
        base_model=list(hub) or None,
        library_name="sentence-transformers" if spec.sentences else "transformers",
        pipeline_tag=_pipeline(spec),
        tags=["ackd", "knowledge-distillation"],
    )


def _origin(settings: Mapping[str, Any], origin: Origin, licenses: Sequence[str], size: int) -> Iterator[str]:
    task, result, spec = origin.task, origin.result, origin.task.spec
    yield f"# A student for {plain(spec.name)}"
    what = "sentence encoder" if spec.sentences else "language model" if spec.language else "text classifier"
    yield from ("", f"A {what} that was distilled with ackd, as listed below.", "", "| | |", "|---|---|")
    rows = {
        "task": f"{spec.name}: " + (f"classes {', '.join(spec.classes)}" if spec.classes else spec.kinds),
        "distilled from": ", ".join(map(_shown, _teachers(settings))),
        "begins as": _beginning(settings),
        "policy": str(result.get("policy") or ""),
        **origin.rows,
        "learning": _learning(settings, result),
        "data": f"{_shown(settings.get('data') or spec.name)}, {len(task.train):,} training examples",
        "size": _size(origin, size),
        "cost of the run": f"{sum(origin.costs.flops.values()) / 1e9:,.4g} GFLOPs, "
        f"{sum(origin.costs.seconds.values()):,.1f} s",
        "license": ", ".join(licenses) or "its source models name none",
    }
    yield from (f"| {name} | {cell(plain(value))} |" for name, value in rows.items() if value)


def _beginning(settings: Mapping[str, Any]) -> str:
    layers, start = settings.get("student_layers"), settings.get("student")
    whole = _shown(start) if start else "the teacher"
    return f"{layers} layer{'s' * (layers > 1)} of {whole}" if layers else whole if start else ""


def _learning(settings: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    parts = [f"{result['steps']:,} steps"] if result.get("steps") else []
    for name, words in (("batch_size", "of {} examples"), ("lr", "peak learning rate {:g}"), ("preset", "preset {}")):
        if settings.get(name):
            parts.append(words.format(settings[name]))
    if result.get("seed") is not None:
        parts.append(f"seed {result['seed']}")
    return ", ".join(parts)


def _size(origin: Origin, size: int) -> str:
    own = f"{_parameters(origin.model):,} parameters, {readable(size)}"
    return own + (f" (teacher: {_parameters(origin.teacher):,} parameters)" if origin.teacher is not None else "")


def _parameters(model: Model) -> int:
    return sum(one.numel() for one in model.parameters())


def _scores(origin: Origin) -> Iterator[str]:
    result, main = origin.result, origin.task.spec.metrics[0]
    teacher = result.get("teacher_score")
    yield from ("", "## Scores", "", "| | student | teacher |", "|---|---|---|")
    for place, (split, scores) in enumerate(result.get("dev_scores", {}).items()):
        for name, value in scores.items():
            form = f".{decimals(name)}f"
            theirs = format(teacher, form) if teacher is not None and name == main and place == 0 else ""
            yield f"| {cell(plain(split))} {cell(plain(name))} | {value:{form}} | {theirs} |"
    losses = ", losses in nats per token" if origin.task.spec.language else ""
    yield from ("", f"In percent{losses}; no choice in the training depends on these data.")


def _use(spec: TaskSpec) -> Iterator[str]:
    if spec.sentences:
        yield from ("", "## Use", "", "    from sentence_transformers import SentenceTransformer", "")
        yield '    SentenceTransformer("FOLDER").encode(["A text."])  # the folder of this file'
        return
    yield from ("", "## Use", "", "    from transformers import pipeline", "")
    yield f'    pipeline("{_pipeline(spec)}", "FOLDER")("A text.")  # the folder of this file'
