"""`ackd policies`: lists, shows, exports and imports named policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro import conf


@dataclass
class ListPolicies:
    """List every named policy: what it selects, its scores, and the cost of its training."""

    def run(self) -> None:
        """Prints the table."""
        from ackd.reporting.policies import policy_table

        print(policy_table())


@dataclass
class ShowPolicy:
    """Show a policy's model card."""

    name: conf.Positional[str]
    """A name in `ackd policies list`, a policy's folder, a run of `ackd train`, or hf:USER/REPO on the hub."""

    def run(self) -> None:
        """Prints the card from policy.json, not an edited copy of the card."""
        from ackd.agents import library, store
        from ackd.agents.model_card import card_text

        policy = store.load(library.locate(self.name))
        print(card_text(policy.card, policy.network), end="")


@dataclass
class ExportPolicy:
    """Write a policy to one file, for sharing."""

    name: conf.Positional[str]
    """A name in `ackd policies list`, a policy's folder, or a run of `ackd train`."""
    file: conf.Positional[str]
    """The file to write; it ends in .safetensors."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> None:
        """Writes the file."""
        from ackd.agents import library

        library.export(self.name, self.file, overwrite=self.overwrite)
        print(f"policy:  {self.file}")


@dataclass
class ImportPolicy:
    """Import a policy under a name that --policy accepts. The policy is checked; none of its content is executed."""

    file: conf.Positional[str]
    """A file from `ackd policies export`, a policy's folder, a run of `ackd train`, or hf:USER/REPO on the
    hub."""
    name: str | None = None
    """The new name; the policy's own name if not given."""
    overwrite: bool = False
    """Replace your policy of the same name."""

    def run(self) -> None:
        """Copies the policy to the user's policies."""
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
        """Runs the subcommand."""
        self.action.run()
