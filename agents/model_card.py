"""A policy's model card: the content of `policy.json` for people. ackd does not read it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import ModelCardData

from ackd.agents.card import Card
from ackd.agents.learned import Actor
from ackd.agents.residual_network import BOUND, ResidualNetwork
from ackd.agents.schedule import ProbeRule, Schedule
from ackd.mdp.episode import LEAD

SHOWN = 20  # most instances on a card
CHOICES = {
    "subset": "any subset of them and of the labels, which are left where nothing is",
    "weights": "a weight from 0.18 to 8, or 0, for each of them and for the labels",
    "type-subset": "any subset of them, the empty one included: labels only",
    "type-shares": "a weight from 0 to 1 for each",
}


def card_text(card: Card, network: Actor) -> str:
    """Markdown with YAML front matter, as model hubs read it.

    Args:
        card: content of `policy.json`.
        network: the policy's network.
    """
    parts = (_front(card), _what(card), _weights(card, network), _learning(card), _use(card))
    return "\n".join(line for part in parts for line in part) + "\n"


def scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a policy's metrics; nested ones have names such as `dev.validation.accuracy`."""
    return {name: value for name, value in _leaves(metrics) if type(value) in (int, float)}


def shown_cost(cost: Mapping[str, float]) -> str:
    """The costs of learning, in a few words."""
    names = {"episodes": "episodes", "student_steps": "student steps", "seconds": "s"}
    parts = [f"{cost[name]:,.0f} {unit}" for name, unit in names.items() if name in cost]
    if "flops" in cost:
        parts.insert(-1 if "seconds" in cost else len(parts), f"{cost['flops'] / 1e9:,.1f} GFLOPs")
    return ", ".join(parts + [f"{name} {value:,.4g}" for name, value in cost.items() if name not in {*names, "flops"}])


def front(**data: Any) -> str:
    """YAML front matter of a model card, as hubs read it; arguments as for `huggingface_hub.ModelCardData`."""
    return f"---\n{ModelCardData(**data).to_yaml()}\n---"


def _front(card: Card) -> Iterator[str]:
    tags = ("ackd", "knowledge-distillation", "reinforcement-learning", card.algorithm)
    license = card.license.lower()  # the hub's names are in lower case
    yield front(license=license, library_name="ackd", tags=list(dict.fromkeys(tags)))


def _what(card: Card) -> Iterator[str]:
    yield from (f"# {card.name}", "")
    yield "A selection policy: while a student is distilled, it decides again and again which knowledge to transfer."
    yield from ("", "| | |", "|---|---|")
    rows = {
        "selects among": ", ".join(card.knowledge),
        "chooses": CHOICES.get(card.choice, card.choice),
        "algorithm": card.algorithm,
        "network": f"{card.kind} ({', '.join(f'{name} {size}' for name, size in card.sizes.items())})",
        "observations": f"schema {card.schema}",
        "action": f"{card.k_max} entries",
        "cost of learning": shown_cost(card.cost) or "not recorded",
        "license": card.license,
        "saved with": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }
    yield from (f"| {name} | {cell(value)} |" for name, value in rows.items())


def _weights(card: Card, network: Actor) -> Iterator[str]:
    """The weights of a schedule over time; nothing for other policies."""
    schedule = network.schedule if isinstance(network, ResidualNetwork) else network
    if not isinstance(schedule, Schedule):
        return
    yield from ("", "## Weights", "")
    if isinstance(schedule, ProbeRule):
        yield (
            "If the teacher is overtaken, only the labels from the second decision on. It is overtaken if a linear "
            "probe, on the student's initial states or on the teacher's own last states, predicts held-out labels "
            f"better than the teacher does, by {LEAD:g} standard errors. Otherwise, and in the first decision, these "
            "weights:"
        )
    elif isinstance(network, ResidualNetwork):
        yield _correction(network)
    else:
        yield "They depend on the progress of the training alone; between these, their logarithms go in straight lines."
    if len(card.instances) > 1:
        yield "The logarithms of these weights are half of those that the search over several settings found."
    rows = schedule.weights()
    knots = len(schedule.values)
    shares = [100 * knot / max(knots - 1, 1) for knot in range(knots)]
    yield from ("", f"| progress | {' | '.join(f'{share:.3g} %' for share in shares)} |", f"|{'---|' * (knots + 1)}")
    for family, weights in rows.items():
        yield f"| {family} | {' | '.join(f'{weight:.2g}' if weight else 'off' for weight in weights)} |"


def _correction(network: ResidualNetwork) -> str:
    if not network.correcting:
        return "What the policy sees changes nothing: corrections of these weights have earned no more than they did."
    most = 2**BOUND
    return (
        f"The policy multiplies each of these by a factor from {1 / most:g} to {most:g}, from what it sees of the "
        "training, and may leave the labels alone:"
    )


def _learning(card: Card) -> Iterator[str]:
    yield from ("", "## Trained on", "")
    for instance in card.instances[:SHOWN]:
        yield "    " + plain({name: value for name, value in instance.items() if value or type(value) in (int, float)})
    if not card.instances:
        yield "Not recorded."
    elif len(card.instances) > SHOWN:
        yield from ("", f"and {len(card.instances) - SHOWN} more, in policy.json.")
    yield from ("", "## Scores", "")
    rows = [f"| {cell(plain(name))} | {_shown(value)} |" for name, value in _leaves(card.metrics)]
    yield from (["| | |", "|---|---|", *rows] if rows else ["Not recorded."])


def _use(card: Card) -> Iterator[str]:
    yield from ("", "## Use", "")
    yield "`--policy` takes the folder of these files, or `hf:USER/REPO` if they are on the hub, or the name of the"
    yield "policy after an import or if it comes with ackd:"
    yield ""
    yield f"    ackd policies import FOLDER --name {card.name}"
    yield f"    ackd distill --task TASK --teacher TEACHER --student-layers 2 --policy {card.name} --output RUN"
    yield "    ackd evaluate --tasks TASK --teachers TEACHER --student-layers 2 --output TABLE \\"
    yield f"        --policies labels all agent={card.name}"
    yield from ("", "The files hold numbers and text, no programs; ackd checks all of them when it reads them.")


def _leaves(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield before + name, value


def _shown(value: object) -> str:
    return f"{value:,.4g}" if type(value) in (int, float) else cell(plain(value))


def plain(value: object) -> str:
    """The value as JSON without control characters for a terminal; text without its quotes."""
    text = json.dumps(value).replace("\x7f", "\\u007f")
    return text[1:-1] if isinstance(value, str) else text


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")
