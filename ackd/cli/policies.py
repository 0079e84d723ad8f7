"""`ackd policies`: named policies, to look at, to pass on, and to take in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro import conf

if TYPE_CHECKING:
    from ackd.agents.card import Card
    from ackd.agents.library import Entry

COLUMNS = ("name", "where", "algorithm", "knowledge", "trained on", "score", "cost")
SHOWN = 3  # names in a cell


@dataclass
class ListPolicies:
    """Every policy with a name: what it selects, how well, and what its learning took."""

    def run(self) -> None:
        """Prints the table."""
        from ackd.agents import library

        entries = library.entries()
        if not entries:
            print(f"there are no policies yet: `ackd policies import RUN --name NAME` puts one into {library.home()}")
            return
        rows = [COLUMNS, *map(_row, entries)]
        widths = [max(len(row[column]) for row in rows if len(row) > column + 1) for column in range(len(COLUMNS) - 1)]
        for row in rows:
            *cells, last = row
            print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)), last]))


@dataclass
class ShowPolicy:
    """A policy's model card."""

    name: conf.Positional[str]
    """What `ackd policies list` calls it, a policy's folder, or a run of `ackd train`."""

    def run(self) -> None:
        """Prints the card, as its policy.json has it and not as somebody may have edited it."""
        from ackd.agents import library, store
        from ackd.agents.model_card import card_text

        policy = store.load(library.locate(self.name))
        print(card_text(policy.card, policy.network), end="")


@dataclass
class ExportPolicy:
    """Write a policy as one file, to pass on."""

    name: conf.Positional[str]
    """What `ackd policies list` calls it, a policy's folder, or a run of `ackd train`."""
    file: conf.Positional[str]
    """The file to write; it ends in .safetensors."""
    overwrite: bool = False
    """Replace a file that is there."""

    def run(self) -> None:
        """Writes the file."""
        from ackd.agents import library

        library.export(self.name, self.file, overwrite=self.overwrite)
        print(f"policy:  {self.file}")


@dataclass
class ImportPolicy:
    """Take in a policy, under a name that any --policy understands. It is checked, and nothing in it is executed."""

    file: conf.Positional[str]
    """A file that `ackd policies export` wrote, a policy's folder, or a run of `ackd train`."""
    name: str | None = None
    """What to call it; its own name if not given."""
    overwrite: bool = False
    """Replace a policy of yours that has the name."""

    def run(self) -> None:
        """Copies it to the user's policies."""
        from ackd.agents import library

        name = library.import_(self.file, self.name, overwrite=self.overwrite)
        print(f"policy:  {library.home() / name}\nuse it:  --policy {name}")


Action = (
    Annotated[ListPolicies, conf.subcommand("list", prefix_name=False)]
    | Annotated[ShowPolicy, conf.subcommand("show", prefix_name=False)]
    | Annotated[ExportPolicy, conf.subcommand("export", prefix_name=False)]
    | Annotated[ImportPolicy, conf.subcommand("import", prefix_name=False)]
)


@dataclass
class Policies:
    """List, show, export and import policies by name."""

    action: Annotated[Action, conf.arg(name="")]

    def run(self) -> None:
        """Does it."""
        self.action.run()


def _row(entry: Entry) -> Sequence[str]:
    from ackd.errors import InputError

    name = entry.name if entry.name.isprintable() else ascii(entry.name)
    where = "shipped" if entry.shipped else "yours"
    try:
        return name, where, *_cells(entry.card())
    except InputError as error:
        return name, where, f"damaged: {error}"


def _cells(card: Card) -> tuple[str, ...]:
    from ackd.agents.model_card import shown_cost

    tasks = [task for instance in card.instances if isinstance(task := instance.get("task"), str)]
    trained = _few(task if task.isprintable() else ascii(task) for task in tasks)
    return card.algorithm, _few(card.knowledge), trained, _score(card.metrics), shown_cost(card.cost) or "-"


def _score(metrics: Mapping[str, Any]) -> str:
    """The reward and the first dev score, where they are recorded; the first number of all, where they are not."""
    from ackd.agents.model_card import scores

    numbers = scores(metrics)
    if not numbers:
        return "-"
    dev = [f"dev {value:.1%}" for name, value in numbers.items() if name.startswith("dev.")]
    parts = [f"reward {value:.3g}" for name, value in numbers.items() if name == "reward"] + dev[:1]
    first, value = next(iter(numbers.items()))
    return ", ".join(parts) or f"{ascii(first)[1:-1]:.20} {value:.4g}"


def _few(names: Iterable[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:SHOWN]) + f" +{len(different) - SHOWN}" * (len(different) > SHOWN) or "-"
