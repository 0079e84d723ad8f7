"""Checks of an environment's arguments and actions, and masks of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.mdp.action_spaces import Action, Choice

ROUNDING = 1e-6  # tolerance for entries outside the range of a `Box`


class NothingToSee(InputError, TypeError):  # noqa: N818 - it says what is wrong
    """An unsupported render mode; a TypeError, so that stable-baselines3's `make_vec_env` retries without one."""


def check_render_mode(mode: str | None) -> None:
    """Rejects every render mode.

    Raises:
        NothingToSee: if a render mode is given.
    """
    if mode is not None:
        raise NothingToSee(f"there is nothing to see of a training, so render_mode cannot be {mode!r}: leave it away")


def check_action(space: spaces.Space[Any], action: Any) -> Action:
    """The action as an array of the space's shape and type.

    Raises:
        InputError: if the shape differs, or an entry is not a number or out of range.
    """
    bounds = _bounds(space)
    if bounds is None or space.shape is None:
        if not space.contains(action):
            raise InputError(f"the action {_short(action)} is not in {space}: give one that is")
        return np.asarray(action)
    given = _numbers(action)
    if given is None:
        raise InputError(f"the action {_short(action)} is no array of numbers: give one of shape {space.shape}")
    if given.shape != space.shape:
        raise InputError(f"the action has the shape {given.shape}: give one of shape {space.shape}, as {space} has it")
    low, high, whole = bounds
    right = (low <= given) & (given <= high)  # NaN is not
    if whole:
        right &= given == np.round(given)
    if not right.all():
        place = tuple(int(i) for i in np.argwhere(~right)[0])
        where = f"entry {', '.join(map(str, place))} of the action" if place else "the action"
        ends = [np.broadcast_to(end, given.shape)[place] for end in (low, high)]
        slack = 0 if whole else ROUNDING
        raise InputError(
            f"{where} is {given[place]:g}: give {'whole numbers' if whole else 'numbers'} "
            f"from {ends[0] + slack:g} to {ends[1] - slack:g}"
        )
    return (given if whole else given.clip(low + ROUNDING, high - ROUNDING)).astype(space.dtype)


def check_actions(space: spaces.Space[Any], actions: Any, count: int) -> Action:
    """One action for each of several environments, [count, *shape].

    Raises:
        InputError: if the number of actions is wrong, or an action is invalid; the message names it.
    """
    try:
        given = len(actions)
    except TypeError:
        given = 0
    if given != count:
        said = f"the shape {actions.shape}" if isinstance(actions, np.ndarray) else _short(actions)
        raise InputError(f"{count} environments take one action each, got {said}: give a row for each")
    rows = []
    for place, action in enumerate(actions):
        try:
            rows.append(check_action(space, action))
        except InputError as error:
            raise InputError(f"environment {place}: {error}") from None
    return np.stack(rows)


def action_masks(choice: Choice) -> NDArray[np.bool_]:
    """The allowed values of each action entry, concatenated, as sb3-contrib's MaskablePPO reads them.

    Returns:
        [2 K] (off and on for each bit), [sum of levels], or [actions].

    Raises:
        InputError: if the action space is not discrete.
    """
    space, mask = choice.space, choice.mask
    if isinstance(space, spaces.MultiBinary):
        return np.stack([mask != 1, mask != 0], axis=1).reshape(-1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(np.concatenate(mask) != 0)
    if isinstance(space, spaces.Discrete):
        return np.asarray(mask != 0)
    raise InputError(f"{space} has no single values that could be masked: take the choice subset or levels")


def _bounds(space: spaces.Space[Any]) -> tuple[Any, Any, bool] | None:
    """Lowest and highest value of the entries, and whether they are integers; None for other spaces."""
    if isinstance(space, spaces.MultiBinary):
        return 0, 1, True
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1, True
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1, True
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return space.low.astype(np.float64) - ROUNDING, space.high.astype(np.float64) + ROUNDING, False
    return None


def _numbers(action: Any) -> NDArray[np.float64] | None:
    try:
        given = np.asarray(action)
    except ValueError:  # rows of different lengths
        return None
    return given.astype(np.float64) if given.dtype.kind in "biuf" else None


def _short(value: Any) -> str:
    said = " ".join(repr(value).split())
    return said if len(said) <= 60 else said[:57] + "..."
