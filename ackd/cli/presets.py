"""`ackd presets`: the published methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the published methods, or show what is known of one."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """One of them; all if none is named."""

    def run(self) -> None:
        """Prints them."""
        from ackd.presets import METHODS, named

        if self.name is None:
            width = max(map(len, METHODS))
            for one in METHODS.values():
                print(f"{one.name:<{width}}  {one.year}  {one.does}; {one.cost}")
            print("\nackd presets NAME shows one; ackd distill --preset NAME runs it, and NAME,OTHER both at once")
            return
        for one in named(self.name):
            least, most = one.teachers
            teachers = f"{least}" if least == most else f"{least} to {most}"
            options = ", ".join(f"{name}={_shown(value)}" for name, value in one.defaults.items())
            lines = {
                "paper": f"{one.paper}, {one.year}, {one.link}",
                "does": one.does,
                "teachers": teachers,
                "options": options or "none",
                "cost": one.cost,
                "known": one.known,
                "unknown": one.unknown or "nothing that matters here",
            }
            print(one.name)
            print("\n".join(f"  {what:<9} {said}" for what, said in lines.items()))


def _shown(value: object) -> str:
    return "its own" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
