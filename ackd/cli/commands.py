"""The commands by name, and the options that each command's dataclass declares."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from ackd.cli.cache import FillCache
from ackd.cli.distill import Distill
from ackd.cli.evaluate import Evaluate
from ackd.cli.export import Export
from ackd.cli.federate import Federate
from ackd.cli.finetune import Finetune
from ackd.cli.generate import Generate
from ackd.cli.mutual import Mutual
from ackd.cli.policies import Policies
from ackd.cli.predict import Predict
from ackd.cli.presets import Presets
from ackd.cli.pretrain import Pretrain
from ackd.cli.push import Push
from ackd.cli.refine_data import RefineData
from ackd.cli.report import Report
from ackd.cli.score import Score
from ackd.cli.train import Train
from ackd.cli.tune import Tune
from ackd.config import COMMON

Command = (
    Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[FillCache, tyro.conf.subcommand("cache")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[RefineData, tyro.conf.subcommand("refine-data")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Mutual, tyro.conf.subcommand("mutual")]
    | Annotated[Federate, tyro.conf.subcommand("federate")]
    | Annotated[Policies, tyro.conf.subcommand("policies")]
    | Annotated[Push, tyro.conf.subcommand("push")]
    | Annotated[Presets, tyro.conf.subcommand("presets")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        name: name of the dataclass field.
        hint: type of the value, without annotations.
        default: default value; `dataclasses.MISSING` if the option is required.
        group: title of the option group; "" for options of the command itself.
        help: help text.
        common: whether --help shows it; --help-all shows all options.
        place: name of a positional argument, such as RUN; "" for an option with a flag.
    """

    name: str
    hint: Any
    default: Any
    group: str
    help: str
    common: bool
    place: str = ""

    @property
    def flag(self) -> str:
        """The option as written on the command line."""
        return self.place or f"--{self.name.replace('_', '-')}"

    @property
    def required(self) -> bool:
        """Whether the option is required."""
        return self.default is dataclasses.MISSING

    @property
    def kind(self) -> Any:
        """The type without None, for example `tuple[str, ...]` for `tuple[str, ...] | None`."""
        if get_origin(self.hint) in (Union, UnionType):
            (kind,) = (one for one in get_args(self.hint) if one is not NoneType)
            return kind
        return self.hint

    @property
    def most(self) -> float:
        """The largest number of values that the option takes."""
        if self.kind is bool:
            return 0
        if get_origin(self.kind) is not tuple:
            return 1
        return float("inf") if Ellipsis in get_args(self.kind) else len(get_args(self.kind))


CONFIG = Option(  # an option of every command, but not a dataclass field
    name="config",
    hint=str,
    default=None,
    group="",
    help="Take options from a YAML file, as a run leaves one, or from a recipe; those of the command line win.",
    common=True,
)


@cache
def commands() -> dict[str, type]:
    """The dataclass of each command, by command name, such as `policies import`."""
    return dict(_named(Command, ""))


def _named(union: Any, above: str) -> Iterator[tuple[str, type]]:
    for one in get_args(union):
        kind, mark = get_args(one)
        action = get_type_hints(kind, include_extras=True).get("action")
        if action is None:
            yield f"{above}{mark.name}", kind
        else:
            yield from _named(get_args(action)[0], f"{mark.name} ")


@cache
def options_of(kind: type) -> dict[str, Option]:
    """The options of a command by name: first its own, then the inherited groups."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    owners = [one for one in kind.__mro__ if dataclasses.is_dataclass(one) and vars(one).get("__annotations__")]
    own = owners[:1]
    found: dict[str, Option] = {}
    for owner in dict.fromkeys([*own, *_from_the_bottom(kind)]):
        if owner not in owners:
            continue
        texts = _texts(owner)
        group = "" if owner in own else (owner.__doc__ or "").partition(".")[0]
        for name in vars(owner)["__annotations__"]:
            if name in fields and owner is next(one for one in owners if name in vars(one)["__annotations__"]):
                hint, marks = _parts(hints[name])
                default, common = fields[name].default, COMMON in marks
                found[name] = Option(name, hint, default, group, texts.get(name, ""), common, _place(name, marks))
    return found


def _from_the_bottom(kind: type) -> Iterator[type]:
    """Yields the base classes in the order of declaration, then the class itself."""
    for base in kind.__bases__:
        yield from _from_the_bottom(base)
    yield kind


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Splits a type hint into the plain type and its annotations."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    plain, *marks = get_args(hint)
    return plain, tuple(marks)


def _place(name: str, marks: tuple[Any, ...]) -> str:
    if not any("Positional" in repr(mark) for mark in marks):
        return ""
    return next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), name.upper())


def _texts(owner: type) -> dict[str, str]:
    """The help texts of a dataclass: the strings below its fields, by field name."""
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(parsed, ast.ClassDef)
    found = {}
    for field, text in zip(parsed.body, parsed.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                found[name] = " ".join(said.split())
    return found
