"""The pictures of a training, with captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ackd.files.schema import LARGEST
from ackd.reporting import pictures, trends
from ackd.reporting.html_report import Picture
from ackd.reporting.trends import Episode
from ackd.runs.log import Decision, Run
from ackd.types import LABELS

MOST = 1e300  # seconds or FLOPs that can be added up


def picture(name: str, title: str, figure: Figure, caption: str, alt: str) -> Picture:
    """Converts a figure to a picture of a report."""
    return Picture(name, title, caption, alt, pictures.png(figure))


def of_training(run: Run, decisions: Sequence[Decision]) -> list[Picture]:
    """The pictures of a run of `ackd train` or `ackd distill`."""
    steps = steps_of(run, decisions)
    episodes, final = learned_from(run, trends.aligned(trends.episodes_of(decisions, steps)))
    types = list(decisions[0].weights)
    trained = _name(run)
    album = _rewards(run, episodes, final) if run.command == "train" else _reward_within(run, episodes[0], steps)
    if types:
        album.append(_selections(episodes, final, types, steps, trained))
    everyone = [*episodes, *final]
    curves = trends.relative_losses(everyone, [name for name in types if name != LABELS])
    if curves:
        album.append(
            picture(
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
    return [*album, *_split(episodes, final, steps, trained), *costs(run)]


def steps_of(run: Run, decisions: Sequence[Decision]) -> int:
    """The optimizer steps of one student's training."""
    most = max((decision.steps_done for decision in decisions), default=1)
    # instances have their own budgets
    steps = None if run.settings.get("instances") else run.settings.get("steps")
    return steps if isinstance(steps, int) and most <= steps < LARGEST else most


def learned_from(run: Run, episodes: Sequence[Episode]) -> tuple[list[Episode], list[Episode]]:
    """Splits the episodes into those of the agent's training and the one after it, if any."""
    count, seed = run.settings.get("episodes"), run.settings.get("seed")
    last = episodes[-1]
    if run.command == "train" and isinstance(count, int) and last.number >= count > 0 and last.seed == seed:
        return list(episodes[:-1]), [last]
    return list(episodes), []


def _name(run: Run) -> str:
    """The name of the trained policy: its given name, or the agent's name."""
    given = (run.settings.get("policy_name"), run.settings.get("agent"), run.result.get("policy"))
    name = next((one for one in given if isinstance(one, str) and one not in ("", "policy")), "policy")
    return pictures.shortened([f"trained {name}"])[0]


def _unit(run: Run, what: str = "return") -> str:
    """The axis label of returns, with the unit."""
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
    ended = "" if after is None else f"; that of the {_name(run)} is {after:.3f}"
    return [
        picture(
            "rewards",
            "Reward curve",
            pictures.reward_curve(
                returns, [episode.diverged for episode in complete], band, after, _unit(run), _name(run)
            ),
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
        picture(
            "rewards",
            "Reward",
            pictures.reward_within(progress, sums, _unit(run, "return so far")),
            "The line is what the training has earned so far, costs taken off, at each point where it was measured; "
            "where it is steep, the student came closer to the teacher.",
            f"The return grows to {sums[-1]:.3f}.",
        )
    ]


def _selections(
    episodes: Sequence[Episode], final: Sequence[Episode], types: Sequence[str], steps: int, trained: str
) -> Picture:
    quarter = episodes[-max(1, len(episodes) // 4) :]
    count = f"{len(quarter)} episode{'s' * (len(quarter) > 1)}"
    panels = {"all episodes": episodes, f"last quarter ({count})": quarter, trained: final}
    if len(episodes) < 4:
        panels = {"this training" if len(episodes) == 1 else "all episodes": episodes, trained: final}
    tables = {title: trends.mean_weights(those, types) for title, those in panels.items() if those}
    shown = trends.column_means(next(reversed(tables.values())).T)
    return picture(
        "selections",
        "What was selected",
        pictures.heat_maps(tables, types, trends.edges([*episodes, *final], steps)),
        "A row is a term of the loss, the labels first, and a column a phase of the training. A cell is the term's "
        "mean weight there: the darker the more, and grey is off in every training.",
        "Mean weight: " + ", ".join(f"{name} {value:.2f}" for name, value in zip(types, shown, strict=True)) + ".",
    )


def _split(episodes: Sequence[Episode], final: Sequence[Episode], steps: int, trained: str) -> list[Picture]:
    groups = {"this training" if len(episodes) == 1 and not final else "mean of the episodes": episodes}
    groups |= {trained: final} if final else {}
    scores = {name: trends.measured(those, steps, lambda d: d.reward_score) for name, those in groups.items()}
    losses = {name: trends.measured(those, steps, lambda d: d.reward_loss) for name, those in groups.items()}
    most = max(len(band.x) for band in (*scores.values(), *losses.values()))
    if not most:
        return []
    if most == 1 and len(episodes) > 1:
        return _ends(episodes, final, trained)
    last = next((band.middle[-1] for band in scores.values() if len(band.x)), float("nan"))
    return [
        picture(
            "reward_split",
            "On the reward split",
            pictures.reward_split(scores, losses),
            "How well the student does on the examples set aside for the reward, after each decision where it was "
            "measured (the label loss is in nats, for regression a squared error); the band holds the middle half of "
            "the episodes.",
            f"Score and label loss on the reward split by progress; the score ends at {last:.3f}.",
        )
    ]


def _ends(episodes: Sequence[Episode], final: Sequence[Episode], trained: str) -> list[Picture]:
    """A picture of the reward split at the end of each episode, for runs without other measurements."""

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
    after = "" if last is None else f"; that of the {trained} is {last:.3f}"
    return [
        picture(
            "reward_split",
            "On the reward split",
            pictures.reward_split_ends(panels, max(5, len(scored) // 10), trained),
            "How well each student does at its end on the examples set aside for the reward (the label loss is in "
            "nats, for regression a squared error); the line is the running mean.",
            f"Score and label loss on the reward split at the end of {len(scored)} episodes; the last score is "
            f"{scored[-1]:.3f}{after}.",
        )
    ]


def costs(run: Run) -> list[Picture]:
    """A picture of the run's costs by part; empty without `ledger.json`."""
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
        picture(
            "costs",
            "What it cost",
            pictures.cost_split(amounts),
            "Each bar is the whole of what the run spent, cut into the parts that spent it: the student's learning, "
            "the teacher's answers, the losses (knowledge), the passes for the reward, the report on dev, the agent.",
            "; ".join(said) + ".",
        )
    ]
