"""What several commands print."""

from __future__ import annotations


def nothing_left(output: str) -> None:
    """Says that a run is finished."""
    print(f"the run in {output} is finished: nothing is left to resume")
