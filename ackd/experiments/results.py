"""The result files and printed results of the commands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ackd.agents import store
from ackd.agents.card import Card
from ackd.agents.open_loop import MEAN
from ackd.agents.refine import OnlineFinetuning
from ackd.costs import PARTS, CostTracker
from ackd.envs.recording import Recording
from ackd.experiments.comparison import FILE, Comparison, compare, use
from ackd.experiments.student_card import Origin, model_of, transferred, write_student
from ackd.mdp.observations import FAMILIES
from ackd.runs.folder import RunFolder
from ackd.tasks import Task
from ackd.teachers import choices
from ackd.teachers.cache.budget import readable
from ackd.training.distillation import Distillation
from ackd.types import EvalResult, decimals, shown_score

LARGEST = 700.0  # nats; the perplexity of a larger loss overflows


def summary(
    task: Task,
    eval_results: Mapping[str, EvalResult],
    teacher: Mapping[str, EvalResult] | None = None,
    **run: Any,
) -> dict[str, Any]:
    """The fields of `result.json`; scores are in percent, losses in nats, and None where the run diverged."""
    return {
        "task": task.spec.name,
        "metric": task.spec.metrics[0],
        "dev_score": _first(task, eval_results),
        "teacher_score": _first(task, teacher or {}),
        "dev_scores": {split: _shown(eval_result.scores) for split, eval_result in eval_results.items()},
        **(_losses(eval_results, teacher or {}) if task.spec.language else {}),
        **rewarded(task),
        **run,
    }


def _losses(eval_results: Mapping[str, EvalResult], teacher: Mapping[str, EvalResult]) -> dict[str, float | None]:
    """The loss of a language model in nats a token, its perplexity, and the teacher's loss."""
    ours, theirs = (next((one.loss for one in those.values()), None) for those in (eval_results, teacher))
    perplexity = None if ours is None else round(math.exp(min(ours, LARGEST)), 4)
    return {"dev_loss": ours, "dev_perplexity": perplexity, "teacher_loss": theirs}


def rewarded(task: Task) -> dict[str, Any]:
    """The source of rewards, and the number of examples of the dev split that `dev_score` is measured on."""
    return {"reward_from": task.reward_from, "dev_examples": task.dev_examples}


def _first(task: Task, eval_results: Mapping[str, EvalResult]) -> float | None:
    first = next(iter(eval_results.values()), None)
    return None if first is None else shown_score(task.spec.metrics[0], first.score)


def _shown(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: shown_score(name, value) for name, value in scores.items()}


def teacher_results(distillation: Distillation) -> dict[str, EvalResult]:
    """The teacher's results on each dev split; empty without a teacher."""
    if distillation.reference is None:
        return {}
    return {name: distillation.measure_teacher(split, name) for name, split in distillation.task.dev.items()}


def save_student(folder: Path, settings: Mapping[str, Any], distillation: Distillation, origin: Origin) -> None:
    """Saves the student with its card; projections and learned weights go into separate files."""
    write_student(folder, settings, origin)
    projections = distillation.student.projections.state_dict()
    if projections:
        named = dict(zip(distillation.distiller.knowledge, distillation.student.projections, strict=True))
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, module in named.items()
            for key, value in module.state_dict().items()
        }
        save_file(tensors, folder / "projections.safetensors")
    weighting = distillation.distiller.weighting
    learned = weighting.learned() if weighting is not None else {}
    if learned:
        save_file(learned, folder / "weighting.safetensors")


def episode_result(recording: Recording, **run: Any) -> dict[str, Any]:
    """The fields of `result.json` after an episode under `recording`."""
    env = recording.inner
    assert env.episode is not None
    phases = env.episode.phases
    measured = env.episode.start is not None
    return summary(
        env.distillation.task,
        recording.eval_results,
        teacher_results(env.distillation),
        seed=env.distillation.counts.seeds[0],
        steps=env.distillation.steps_done,
        reward=recording.returned if measured else None,
        flops_share=sum(p.flops for p in phases) / sum(p.flops_all for p in phases),
        error="" if recording.eval_results else "divergence",
        **run,
    )


def finish(
    folder: RunFolder, recording: Recording, *, seconds: float, timed: bool = True, **run: Any
) -> tuple[dict[str, Any], Comparison | None]:
    """Writes the result of the recording's last episode, and saves its student.

    Args:
        folder: the run's folder.
        recording: the recording of its episodes.
        seconds: duration of the run.
        timed: measure latencies.
        **run: more fields of the result.

    Returns:
        The fields of `result.json`, and the comparison of student and teacher.

    Raises:
        FloatingPointError: if the training diverged; the result records it, and no student is saved.
    """
    result = episode_result(recording, **run, seconds=round(seconds, 3))
    distillation, student, compared = recording.inner.distillation, folder.path / "student", None
    folder.write_json("ledger.json", ledger(recording.costs, distillation))
    if not result["error"]:
        origin = origin_of(recording, result)
        save_student(student, folder.settings, distillation, origin)
        compared = compare(distillation, result, recording.costs, folder=student, timed=timed)
        folder.write_json(FILE, compared.as_dict())
    folder.write_json("result.json", result)  # last, because this file marks a finished run
    check_converged(result, distillation)
    return result, compared


def ledger(costs: CostTracker, distillation: Distillation) -> dict[str, Any]:
    """The content of `ledger.json`: the costs, and the measured choice of outputs to read from caches."""
    chosen = choices(distillation.teachers, distillation.distiller.knowledge.values())
    return costs.as_dict() | ({"cache": chosen} if chosen else {})


def check_converged(result: Mapping[str, Any], distillation: Distillation) -> None:
    """Checks that a training has not diverged.

    Raises:
        FloatingPointError: if it has.
    """
    if result["error"]:
        raise FloatingPointError(f"the training diverged after {result['steps']} steps: lower --lr ({distillation.lr})")


def said(
    result: Mapping[str, Any], costs: CostTracker, student: Path, compared: Comparison | None, columns: Any
) -> str:
    """The text about a student that a command prints: scores, costs, comparison with the teacher, and usage.

    Args:
        result: the fields of `result.json`.
        costs: costs of the run.
        student: the student's folder.
        compared: the comparison of student and teacher.
        columns: text columns of a user's own data.
    """
    beside = f"\n{compared.table()}\n{use(result['task'], student, columns)}" if compared is not None else ""
    reward = "" if result["reward"] is None else f"reward {result['reward']:.3f}, "
    places = decimals(result["metric"])
    teacher = "no teacher" if result["teacher_score"] is None else f"teacher {result['teacher_score']:.{places}f}"
    score = f"{result['metric']} {result['dev_score']:.{places}f}"
    if "dev_perplexity" in result:
        score += f", which is a perplexity of {result['dev_perplexity']:.2f},"
    return (
        f"{result['task']}: {score} on dev ({teacher}), "
        f"{reward}{result['flops_share']:.0%} of the FLOPs of transferring everything\n"
        f"{ledger_lines(costs)}{beside}\nstudent: {student}"
    )


def origin_of(recording: Recording, result: Mapping[str, Any]) -> Origin:
    """The facts for the model card of the last episode's student."""
    distillation, episode = recording.inner.distillation, recording.inner.episode
    assert episode is not None
    return Origin(
        distillation.task,
        distillation.student.model,
        result,
        recording.costs,
        {"transferred": transferred(episode.phases)},
        model_of(distillation),
    )


def save_refined(path: Path, policy: OnlineFinetuning, card: Card) -> str:
    """Saves a refined policy, or the original policy if the refinement fell back to it; returns a message."""
    shift = {family: round(float(by), 4) for family, by in zip(FAMILIES, policy.shift, strict=True)}
    told = {"refined_phases": 3 * len(policy.groups), "fallen_back": policy.fallen_back, "refined_log2": shift}
    moved = bool(policy.shift.any())
    kept = {name: value for name, value in card.metrics.items() if not (moved and name == MEAN)}  # old weights
    store.save(
        path,
        policy.refined(),
        algorithm=card.algorithm,
        name=card.name,
        knowledge=card.knowledge,
        k_max=card.k_max,
        instances=card.instances,
        metrics=kept | told,
        cost=card.cost,
        license=card.license,
    )
    ending = ", which told nothing, and left the policy as it was"
    if policy.fallen_back:
        ending = ", and fell back to the policy as it was"
    elif moved:
        ending = ", and moved log2 of " + ", ".join(f"{name} by {by:+.2f}" for name, by in shift.items() if by)
    return f"refined over {told['refined_phases']} phases{ending}: {path}"


def ledger_lines(costs: CostTracker) -> str:
    """The time, FLOPs and bytes of each part of a run, one line per part."""
    seconds, flops = sum(costs.seconds.values()), sum(costs.flops.values())
    rows = [
        f"  {part:<10}{costs.seconds[part]:9.1f} s {costs.seconds[part] / seconds:6.1%}"
        f"{costs.flops[part] / 1e9:12.1f} GFLOPs {costs.flops[part] / flops:6.1%}{readable(costs.bytes[part]):>12}"
        for part in PARTS
        if costs.seconds[part] or costs.flops[part]
    ]
    asked = (
        f"  {costs.steps} steps; a teacher computed answers for {costs.teacher_queries} examples, and the cache had "
        f"them for {costs.cached_queries}; {costs.reward_passes:g} passes over the reward split"
    )
    return "\n".join(["spent:", *rows, asked])
