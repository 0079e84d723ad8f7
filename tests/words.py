"""The words of a call, put together from those that tests share and those of their own."""

from __future__ import annotations

from collections.abc import Sequence


def last_said(words: Sequence[str]) -> list[str]:
    """Words in which an option that is said again displaces what was said of it before.

    Example:
        >>> last_said(["tune", "--lr", "1", "--seeds", "2", "--lr", "3"])
        ['tune', '--seeds', '2', '--lr', '3']
    """
    parts: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            parts.append([word])
        else:
            parts[-1].append(word)
    last = {part[0] if part else "": place for place, part in enumerate(parts)}
    return [word for place, part in enumerate(parts) if last[part[0] if part else ""] == place for word in part]
