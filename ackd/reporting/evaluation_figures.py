"""The pictures of an evaluation, with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from ackd.reporting import comparison, pictures, trends
from ackd.reporting import comparison_pictures as versus
from ackd.reporting.html_report import Picture
from ackd.reporting.run_figures import costs, picture, steps_of
from ackd.reporting.statistics import Interval
from ackd.runs.folder import group_folder
from ackd.runs.log import Cell, Decision, Run, read_decisions
from ackd.types import decimals, unit


def of_evaluation(run: Run, cells: Sequence[Cell], folders: Mapping[str, str]) -> list[Picture]:
    """The pictures of a run of `ackd evaluate`; `folders` maps policy names in `cells` to their names in the run."""
    tasks = [scores_of(task, [cell for cell in cells if cell.task == task]) for task in comparison.names(cells, "task")]
    means = "; ".join(
        f"{one.task}: "
        + ", ".join(f"{name} {there.value:.{decimals(one.metric)}f}" for name, there in one.intervals.items())
        for one in tasks
    )
    units = dict.fromkeys("percent" if unit(one.metric) == "%" else unit(one.metric) for one in tasks)
    album = [
        picture(
            "scores",
            "Scores",
            versus.policy_scores(tasks),
            "Each dot is one student on dev, the diamond their mean and the line its 95 % bootstrap interval over "
            "seeds; the dashed line is the teacher.",
            f"Mean dev scores in {' and '.join(units)}. {means}.",
        )
    ]
    if any(one.intervals for one in tasks):
        album.append(
            picture(
                "pareto",
                "Scores against cost",
                versus.score_against_flops(tasks),
                "Up is better and left is cheaper; no policy beats those on the grey line in both. Each point is a "
                "mean over seeds, and the line through it its 95 % bootstrap interval.",
                "Mean dev score over FLOPs. "
                + "; ".join(
                    f"{one.task}: "
                    + ", ".join(f"{n} {c:.0f} % FLOPs" for n, c in one.flops.items())
                    + f"; on the front: {', '.join(one.front)}"
                    for one in tasks
                )
                + ".",
            )
        )
    return [*album, *_aggregates(comparison.compare(cells)), *_chosen(run, cells, folders), *costs(run)]


def scores_of(task: str, cells: Sequence[Cell]) -> versus.TaskScores:
    """The scores of one task, in the form for pictures."""
    groups = {policy: [cell for cell in cells if cell.policy == policy] for policy in comparison.names(cells, "policy")}
    scores = {name: [cell.score for cell in those if cell.score is not None] for name, those in groups.items()}
    return versus.TaskScores(
        task=task,
        metric=cells[0].metric,
        teacher=cells[0].teacher,
        scores=scores,
        intervals={name: comparison.mean_interval(values) for name, values in scores.items() if values},
        flops={name: 100 * sum(cell.flops_share for cell in those) / len(those) for name, those in groups.items()},
        front=comparison.fronts(cells)[task],
    )


def _said(intervals: Mapping[str, Interval]) -> str:
    return ", ".join(f"{name} {interval:.3g}" for name, interval in intervals.items()) + "."


def _aggregates(compared: comparison.Comparison) -> list[Picture]:
    album = []
    if compared.scores:
        totals = comparison.aggregates(compared)
        thresholds, curves = comparison.profiles(compared)
        album += [
            picture(
                "aggregate",
                "Over all tasks",
                versus.interval_rows({"normalised score, interquartile mean": totals}),
                f"The mean of the middle half of all runs with its 95 % interval; {compared.scale}.",
                f"Interquartile mean of normalised scores: {_said(totals)}",
            ),
            picture(
                "profiles",
                "Performance profiles",
                versus.performance_profiles(thresholds, curves),
                f"How many of a policy's runs score more than the value below; higher is better ({compared.scale}).",
                "Performance profiles of " + ", ".join(curves) + ".",
            ),
        ]
    better = comparison.improvements(compared)
    if better:
        album.append(
            picture(
                "improvement",
                "How probably better than transferring everything",
                versus.interval_rows({f"P(policy beats {comparison.BASELINE})": better}, reference=0.5),
                "The chance that a run of the policy scores more than one that transfers everything, with its 95 % "
                "interval; right of the dashed line is better, and an interval across it leaves the matter open.",
                f"Probability of improvement: {_said(better)}",
            )
        )
    scores, returns = comparison.oracle_gaps(compared)
    if scores:
        album.append(
            picture(
                "oracle",
                "Gap to the oracle",
                versus.interval_rows(
                    {"dev score less the oracle's (%)": scores, "return less the oracle's": returns}, 0.0
                ),
                "How far each policy stays behind the one that looks ahead (the dashed line), on the same seeds, with "
                "the 95 % interval.",
                f"Score differences: {_said(scores)} Return differences: {_said(returns)}",
            )
        )
    return album


def _chosen(run: Run, cells: Sequence[Cell], folders: Mapping[str, str]) -> list[Picture]:
    """A picture per task of each policy's selections."""
    album = []
    for place, task in enumerate(comparison.names(cells, "task"), start=1):
        logs = {name: _log(run.path, task, folders[name]) for name in comparison.names(cells, "policy")}
        logs = {name: decisions for name, decisions in logs.items() if decisions}
        types = list(dict.fromkeys(t for decisions in logs.values() for d in decisions[:1] for t in d.weights))
        if not types:
            continue
        steps = max(steps_of(run, decisions) for decisions in logs.values())
        groups = {name: trends.episodes_of(decisions, steps) for name, decisions in logs.items()}
        everyone = trends.aligned([episode for those in groups.values() for episode in those])
        rest = iter(everyone)
        tables = {name: trends.mean_weights(list(islice(rest, len(those))), types) for name, those in groups.items()}
        album.append(
            picture(
                f"selections-{place}",
                f"What was selected on {task}",
                pictures.heat_maps(tables, types, trends.edges(everyone, steps)),
                "For each policy a map: a row is a term of the loss, the labels first, and a column a phase of the "
                "training. A cell is the term's mean weight over the seeds: the darker the more, and grey is off in "
                "all of them.",
                f"Mean weights of {', '.join(types)} by progress for {', '.join(tables)}.",
            )
        )
    return album


def _log(folder: Path, task: str, policy: str) -> list[Decision]:
    """The decisions of a group of cells; empty if the run's folder has no such file."""
    path = group_folder(folder, task, policy) / "decisions.csv"
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # not a valid file name
        return []
    return read_decisions(path) if inside else []
