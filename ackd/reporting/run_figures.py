"""Which pictures a run has, each with how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ackd.files.schema import LARGEST
from ackd.reporting import comparison, pictures, trends
from ackd.reporting import comparison_pictures as versus
from ackd.reporting.html_report import Picture
from ackd.reporting.statistics import Interval
from ackd.reporting.trends import Episode
from ackd.runs.folder import group_folder
from ackd.runs.log import Cell, Decision, Run, read_decisions
from ackd.types import LABELS

MOST = 1e300  # seconds or FLOPs that can be added up


def _picture(name: str, title: str, figure: Figure, caption: str, alt: str) -> Picture:
    return Picture(name, title, caption, alt, pictures.png(figure))


def of_training(run: Run, decisions: Sequence[Decision]) -> list[Picture]:
    """The pictures of a run of `ackd train` or `ackd distill`."""
    steps = steps_of(run, decisions)
    episodes, final = learned_from(run, trends.aligned(trends.episodes_of(decisions, steps)))
    types = list(decisions[0].weights)
    album = _rewards(run, episodes, final) if run.command == "train" else _reward_within(run, episodes[0], steps)
    if types:
        album.append(_selections(episodes, final, types, steps))
    everyone = [*episodes, *final]
    curves = trends.relative_losses(everyone, [name for name in types if name != LABELS])
    if curves:
        album.append(
            _picture(
                "losses",
                "Losses",
                pictures.loss_curves(curves, trends.edges(everyone, steps)[1:]),
                "Each curve is a loss, averaged over the trainings that computed it, relative to where it began "
                "(the number in brackets); lower is better, and a gap means that nobody selected the type there.",
                "; ".join(
                    f"{name}: from {first:.3g} to {_last(curve):.2g} of it" for name, (first, curve) in curves.items()
                ),
            )
        )
    return [*album, *_split(episodes, final, steps), *costs(run)]


def steps_of(run: Run, decisions: Sequence[Decision]) -> int:
    """The optimizer steps of one student's training."""
    most = max((decision.steps_done for decision in decisions), default=1)
    # instances have budgets of their own
    steps = None if run.settings.get("instances") else run.settings.get("steps")
    return steps if isinstance(steps, int) and most <= steps < LARGEST else most


def learned_from(run: Run, episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """The episodes that an agent learned from, and the one after its training, if it has come to that."""
    count, seed = run.settings.get("episodes"), run.settings.get("seed")
    last = episodes[-1]
    if run.command == "train" and isinstance(count, int) and last.number >= count > 0 and last.seed == seed:
        return list(episodes[:-1]), [last]
    return list(episodes), []


def _unit(run: Run, what: str = "return") -> str:
    """What returns are measured in, beside their axis."""
    share = str(run.settings.get("reward", "")).split("+")[0].endswith("gap")
    return f"{what}\n(share of the gap closed)" if share else what


def _last(curve: Any) -> float:
    return float(curve[curve == curve][-1])


def _rewards(run: Run, episodes: Sequence[Episode], final: Sequence[Episode]) -> list[Picture]:
    complete = [episode for episode in episodes if episode.complete]
    if not complete:
        return []
    returns = [episode.returned for episode in complete]
    window = max(5, len(returns) // 10)
    band = trends.running(returns, window)
    after = final[0].returned if final and final[0].complete else None
    ended = "" if after is None else f"; that of the trained policy is {after:.3f}"
    return [
        _picture(
            "rewards",
            "Reward curve",
            pictures.reward_curve(returns, [episode.diverged for episode in complete], band, after, _unit(run)),
            f"Each dot is one student's training; the line is the mean of the last {window} and the band holds the "
            "middle half of them, so a line that rises means that the agent learns.",
            f"Return over {len(returns)} episodes: the running mean ends at {band.middle[-1]:.3f}{ended}.",
        )
    ]


def _reward_within(run: Run, episode: Episode, steps: int) -> list[Picture]:
    progress, sums = trends.accumulated(episode, steps)
    if not len(sums):
        return []
    return [
        _picture(
            "rewards",
            "Reward",
            pictures.reward_within(progress, sums, _unit(run, "return so far")),
            "The line is what the training has earned so far, costs taken off, at each point where it was measured; "
            "where it is steep, the student came closer to the teacher.",
            f"The return grows to {sums[-1]:.3f}.",
        )
    ]


def _selections(episodes: Sequence[Episode], final: Sequence[Episode], types: Sequence[str], steps: int) -> Picture:
    quarter = episodes[-max(1, len(episodes) // 4) :]
    count = f"{len(quarter)} episode{'s' * (len(quarter) > 1)}"
    panels = {"all episodes": episodes, f"last quarter ({count})": quarter, "trained policy": final}
    if len(episodes) < 4:
        panels = {"this training" if len(episodes) == 1 else "all episodes": episodes, "trained policy": final}
    tables = {title: trends.mean_weights(those, types) for title, those in panels.items() if those}
    shown = trends.column_means(next(reversed(tables.values())).T)
    return _picture(
        "selections",
        "What was selected",
        pictures.heat_maps(tables, types, trends.edges([*episodes, *final], steps)),
        "A row is a term of the loss, the labels first, and a column a phase of the training. A cell is the term's "
        "mean weight there: the darker the more, and grey is off in every training.",
        "Mean weight: " + ", ".join(f"{name} {value:.2f}" for name, value in zip(types, shown, strict=True)) + ".",
    )


def _split(episodes: Sequence[Episode], final: Sequence[Episode], steps: int) -> list[Picture]:
    groups = {"this training" if len(episodes) == 1 and not final else "mean of the episodes": episodes}
    groups |= {"trained policy": final} if final else {}
    scores = {name: trends.measured(those, steps, lambda d: d.reward_score) for name, those in groups.items()}
    losses = {name: trends.measured(those, steps, lambda d: d.reward_loss) for name, those in groups.items()}
    most = max(len(band.x) for band in (*scores.values(), *losses.values()))
    if not most:
        return []
    if most == 1 and len(episodes) > 1:
        return _ends(episodes, final)
    last = next((band.middle[-1] for band in scores.values() if len(band.x)), float("nan"))
    return [
        _picture(
            "reward_split",
            "On the reward split",
            pictures.reward_split(scores, losses),
            "How well the student does on the examples set aside for the reward, after each decision where it was "
            "measured (the label loss is in nats, for regression a squared error); the band holds the middle half of "
            "the episodes.",
            f"Score and label loss on the reward split by progress; the score ends at {last:.3f}.",
        )
    ]


def _ends(episodes: Sequence[Episode], final: Sequence[Episode]) -> list[Picture]:
    """The reward split at the end of each episode, where nothing else is measured."""

    def values(those: Sequence[Episode], value: Callable[[Decision], float | None]) -> list[float]:
        return [read for one in those if (read := value(one.decisions[-1])) is not None]

    scores, losses = (lambda d: d.reward_score), (lambda d: d.reward_loss)
    panels = {
        label: (values(episodes, value), next(iter(values(final, value)), None))
        for label, value in (("score (0 to 1)", scores), ("label loss", losses))
    }
    (scored, last), _ = panels.values()
    if not scored:
        return []
    after = "" if last is None else f"; that of the trained policy is {last:.3f}"
    return [
        _picture(
            "reward_split",
            "On the reward split",
            pictures.reward_split_ends(panels, max(5, len(scored) // 10)),
            "How well each student does at its end on the examples set aside for the reward (the label loss is in "
            "nats, for regression a squared error); the line is the running mean.",
            f"Score and label loss on the reward split at the end of {len(scored)} episodes; the last score is "
            f"{scored[-1]:.3f}{after}.",
        )
    ]


def costs(run: Run) -> list[Picture]:
    """What the run cost, by part, if it has a `ledger.json`."""
    amounts, said = {}, []
    for name, unit, scale in (("seconds", "s", 1.0), ("flops", "TFLOPs", 1e12)):
        by = run.costs.get(name)
        if not isinstance(by, Mapping) or not all(
            isinstance(value, int | float) and 0 <= value < MOST for value in by.values()
        ):
            continue
        total = sum(by.values()) / scale
        label = "time" if name == "seconds" else "FLOPs"
        if total > 0:
            amounts[f"{label}\n{total:.3g} {unit}"] = by
            said.append(f"{label}: " + ", ".join(f"{part} {value / scale / total:.0%}" for part, value in by.items()))
    if not amounts:
        return []
    return [
        _picture(
            "costs",
            "What it cost",
            pictures.cost_split(amounts),
            "Each bar is the whole of what the run spent, cut into the parts that spent it: the student's learning, "
            "the teacher's answers, the losses (knowledge), the passes for the reward, the report on dev, the agent.",
            "; ".join(said) + ".",
        )
    ]


def of_evaluation(run: Run, cells: Sequence[Cell]) -> list[Picture]:
    """The pictures of a run of `ackd evaluate`."""
    tasks = [scores_of(task, [cell for cell in cells if cell.task == task]) for task in comparison.names(cells, "task")]
    means = "; ".join(
        f"{one.task}: " + ", ".join(f"{name} {there.value:.2f}" for name, there in one.intervals.items())
        for one in tasks
    )
    album = [
        _picture(
            "scores",
            "Scores",
            versus.policy_scores(tasks),
            "Each dot is one student on dev, the diamond their mean and the line its 95 % bootstrap interval over "
            "seeds; the dashed line is the teacher.",
            f"Mean dev scores in percent. {means}.",
        )
    ]
    if any(one.intervals for one in tasks):
        album.append(
            _picture(
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
    return [*album, *_aggregates(comparison.compare(cells)), *_chosen(run, cells), *costs(run)]


def scores_of(task: str, cells: Sequence[Cell]) -> versus.TaskScores:
    """One task's scores, as pictures take them."""
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
            _picture(
                "aggregate",
                "Over all tasks",
                versus.interval_rows({"normalised score, interquartile mean": totals}),
                f"The mean of the middle half of all runs with its 95 % interval; {compared.scale}.",
                f"Interquartile mean of normalised scores: {_said(totals)}",
            ),
            _picture(
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
            _picture(
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
            _picture(
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


def _chosen(run: Run, cells: Sequence[Cell]) -> list[Picture]:
    """For each task, what each policy selected."""
    album = []
    for place, task in enumerate(comparison.names(cells, "task"), start=1):
        logs = {name: _log(run.path, task, name) for name in comparison.names(cells, "policy")}
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
            _picture(
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
    """The decisions of a group of cells; none if there is no such file within the run's folder."""
    path = group_folder(folder, task, policy) / "decisions.csv"
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # no name that a file can have
        return []
    return read_decisions(path) if inside else []
