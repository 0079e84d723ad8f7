"""Parses command-line arguments into a command with its options, or raises a one-sentence error."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro

import ackd
from ackd.cli.commands import CONFIG, Command, commands, options_of
from ackd.cli.config_file import read_settings, resumed_settings, with_settings
from ackd.cli.help import help_of, overview
from ackd.cli.words import check_complete, read
from ackd.errors import InputError, unknown

HELP = ("-h", "--help", "--help-all", "--help_all")


def shown(words: Sequence[str]) -> str | None:
    """Returns the help or version text if the arguments request one, else None.

    Raises:
        InputError: if help is requested for an unknown command.
    """
    if [*words] == ["--version"]:
        return f"ackd {ackd.__version__}"
    before = list(words[: words.index("--")] if "--" in words else words)
    asked = [word for word in before if word in HELP]
    if not asked:
        return None
    if before[0] in HELP:
        return overview()
    above = {name.partition(" ")[0] for name in commands()} - {*commands()}
    command = before[0] if before[0] in above and (before[1:2] or asked)[0] in HELP else split(words)[0]
    return help_of(command, everything=any(word not in HELP[:2] for word in asked))


def split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Splits the arguments into the command name and its options.

    Raises:
        InputError: if the command is unknown.
    """
    first = dict.fromkeys(name.partition(" ")[0] for name in commands())
    if not words:
        raise InputError(f"say what to do with ackd COMMAND: {', '.join(first)} (ackd --help tells what they do)")
    named, *rest = words
    if named.startswith("-"):
        raise InputError(f"{named!r} comes before a command: name the command first, as in ackd distill {named}")
    command = named.replace("_", "-")
    if command not in first:
        raise unknown("command", named, first)
    below = [name.partition(" ")[2] for name in commands() if name.startswith(f"{command} ")]
    if not below:
        return command, rest
    if not rest:
        raise InputError(f"say what to do with ackd {command}: {', '.join(below)} (ackd {command} --help tells)")
    if rest[0] not in below:
        raise unknown(f"command of ackd {command}", rest[0], below)
    return f"{command} {rest[0]}", rest[1:]


def parse(words: Sequence[str]) -> Any:
    """Parses the arguments into a command object.

    Raises:
        InputError: in one sentence, if the arguments are wrong.
    """
    if words[:1] and words[0].startswith("--tyro-"):  # tyro's completions for shells
        return tyro.cli(Command, args=list(words), prog="ackd")
    command, rest = split(words)
    kind, given = commands()[command], read(command, rest)
    path = given.words.get(CONFIG.name)
    values = {} if path is None else read_settings(command, path[0], given.words)
    said: dict[str, Any] = {**values, **{name: words[0] if words else True for name, words in given.words.items()}}
    if said.get("resume") is True and given.written.get("resume") != "--no-resume" and "output" in said:
        values = resumed_settings(command, said["output"], said) | values
    check_complete(command, {**values, **given.words})
    default: dict[str, Any] = {"default": with_settings(kind, values)} if values else {}
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(kind, args=given.again(options_of(kind)), prog=f"ackd {command}", **default)
    except SystemExit:  # for errors that only tyro finds
        text = " ".join(complaint.getvalue().translate(dict.fromkeys(map(ord, "╭╮╰╯│─•"), " ")).split())
        text = text.partition(" For full helptext")[0]
        raise InputError(f"{text}: ackd {command} --help explains") from None
