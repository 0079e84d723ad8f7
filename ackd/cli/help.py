"""The text of `--help` and `--help-all`: the options of a command, by group."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, get_args, get_origin

from ackd.cli.commands import CONFIG, Option, commands, options_of
from ackd.cli.config_file import recipes

DESCRIPTION = "Distil small transformers, and let an agent decide which knowledge to transfer."
WIDEST, LEFT = 100, 24  # widest line, and width of the column of option names
FEW = 12  # --help shows all options of a command with no more than this
OF_ALL = (
    ("--help", "Show the common options."),
    ("--help-all", "Show all options."),
)


def overview() -> str:
    """Lists the commands, one or two lines for each."""
    rows = [(name, _first(kind)) for name, kind in commands().items()]
    rows.append(("--version", "Show which version this is."))
    ending = "ackd COMMAND --help shows a command's common options, --help-all all of them."
    return "\n".join(["usage: ackd COMMAND [options]", "", DESCRIPTION, "", *_rows(rows), "", ending])


def help_of(command: str, *, everything: bool = False) -> str:
    """Lists the options of a command.

    Args:
        command: name, such as `distill` or `policies show`; `policies` lists its subcommands.
        everything: whether to show all options instead of the common ones.
    """
    below = {name: kind for name, kind in commands().items() if name.startswith(f"{command} ")}
    if below:
        rows = ((name, _first(kind)) for name, kind in below.items())
        return "\n".join([f"usage: ackd {command} ...", "", *_rows(rows)])
    kind, width = commands()[command], _width()
    options = list(options_of(kind).values())
    some = [one for one in options if one.common or one.required]
    shown = options if everything or len(options) <= FEW else some
    lines = [*_usage(command, options, width), ""]
    for paragraph in textwrap.dedent(_said(kind)).strip().split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    for group, members in groupby(shown, lambda one: one.group):
        lines += [*textwrap.wrap(f"{group or f'ackd {command}'}:", width), *_rows(map(_row, members)), ""]
    named = ", ".join(recipes(command))
    config = CONFIG.help + (f" Recipes: {named}." if named else "")
    lines += ["Every command:", *_rows([("--config FILE", config), *OF_ALL])]
    if len(shown) < len(options):
        lines += ["", f"ackd {command} --help-all shows all {len(options)} options."]
    return "\n".join(lines)


def _said(kind: type) -> str:
    first, _, rest = (kind.__doc__ or "").partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}"


def _first(kind: type) -> str:
    """The first sentence of a command's help."""
    return " ".join(_said(kind).split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def _width() -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _usage(command: str, options: Iterable[Option], width: int) -> list[str]:
    named = [_written(one) if one.required else f"[{one.place}]" for one in options if one.required or one.place]
    return textwrap.wrap(" ".join(["usage: ackd", command, *named, "[options]"]), width, subsequent_indent=" " * 12)


def _row(option: Option) -> tuple[str, str]:
    return _written(option), f"{option.help}{_default(option)}"


def _written(option: Option) -> str:
    """An option as written on the command line."""
    if option.place:
        return option.place
    if option.kind is bool:
        return f"--no-{option.name.replace('_', '-')}" if option.default is True else option.flag
    kind = get_args(option.kind)[0] if get_origin(option.kind) is tuple else option.kind
    if get_origin(kind) is Literal:
        value = "{" + ",".join(get_args(kind)) + "}"
    else:
        value = {int: "N", float: "X"}.get(kind, option.name.rpartition("_")[2].upper())
    return f"{option.flag} {value}" + (" ..." if option.most > 1 else "")


def _default(option: Option) -> str:
    """The default value of an option, as text."""
    if option.required:
        return " (required)"
    if option.default is True:
        return " (it is so, if not switched off)"
    if option.default in (None, False, ()):
        return ""
    values = option.default if isinstance(option.default, tuple) else (option.default,)
    return f" (default: {' '.join(f'{one:g}' if isinstance(one, float) else str(one) for one in values)})"


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Formats rows with names on the left and descriptions on the right."""
    for name, text in rows:
        lines = textwrap.wrap(text, _width() - LEFT, break_on_hyphens=False) or [""]
        if len(name) > LEFT - 4:
            yield f"  {name}"
        else:
            yield f"  {name:<{LEFT - 2}}{lines.pop(0)}"
        yield from (" " * LEFT + line for line in lines)
