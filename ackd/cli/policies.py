"""`ackd policies`: named policies, to look at, to pass on, and to take in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro import conf


@dataclass
class ListPolicies:
    """Every policy with a name: what it selects, how well, and what its learning took."""

    def run(self) -> None:
        """Prints the table."""
        from ackd.reporting.policies import policy_table

        print(policy_table())


@dataclass
class ShowPolicy:
    """A policy's model card."""

    name: conf.Positional[str]
    """What `ackd policies list` calls it, a policy's folder, a run of `ackd train`, or hf:USER/REPO on the hub."""

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
    """A file that `ackd policies export` wrote, a policy's folder, a run of `ackd train`, or hf:USER/REPO of the hub,
    from where it is downloaded."""
    name: str | None = None
    """What to call it; its own name if not given."""
    overwrite: bool = False
    """Replace a policy of yours that has the name."""

    def run(self) -> None:
        """Copies it to the user's policies."""
        from ackd.agents import library, store

        source = store.pinned(self.file)
        name = library.import_(source, self.name, overwrite=self.overwrite)
        if source != self.file:
            print(f"from:    {source}")
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
