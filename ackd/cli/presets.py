"""`ackd presets`: lists and describes the published methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import tyro

from ackd.config.methods import COMMANDS, PUBLISHED, Published, presets_of


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the published methods, or describe one of them."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a method; all methods if not given."""

    def run(self) -> None:
        """Prints the methods."""
        if self.name is None:
            _list(PUBLISHED)
            print("\nackd presets NAME shows one; ackd distill --preset NAME runs it, and NAME,OTHER both at once\n")
            _list(COMMANDS)
            print("\nthese are commands of their own, as ackd mutual")
        elif self.name in COMMANDS:
            _show(COMMANDS[self.name], f"those of ackd {self.name}")
        else:
            for name in presets_of(self.name):
                _show(PUBLISHED[name])
                print(f"  {'options':<9} {_options(name)}")


def _list(methods: Mapping[str, Published]) -> None:
    width = max(map(len, PUBLISHED))
    for one in methods.values():
        print(f"{one.name:<{width}}  {one.year}  {one.called}: {one.does}; {one.cost}")


def _options(name: str) -> str:
    """The options of a preset, read from its builder function; the import takes seconds."""
    from ackd.presets import METHODS

    return ", ".join(f"{name}={shown(value)}" for name, value in METHODS[name].defaults.items()) or "none"


def _show(one: Published, options: str | None = None) -> None:
    least, most = one.teachers
    lines = {
        "paper": f"{one.paper}, {one.year}, {one.link}",
        "does": one.does,
        "teachers": f"{least}" if least == most else f"{least} to {most}",
        "cost": one.cost,
        "sources": one.known,
        "unknown": one.unknown or "none",
    }
    if options is not None:
        lines["options"] = options
    print(f"{one.name}: {one.called}")
    print("\n".join(f"  {what:<9} {said}" for what, said in lines.items()), flush=True)


def shown(value: object) -> str:
    """An option's default as short text."""
    return "its own" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
