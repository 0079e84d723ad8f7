"""The command line: one dataclass a command, parsed at the edge."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import tyro

from ackd.cli.cache import FillCache
from ackd.cli.distill import Distill
from ackd.cli.evaluate import Evaluate
from ackd.cli.federate import Federate
from ackd.cli.finetune import Finetune
from ackd.cli.mutual import Mutual
from ackd.cli.policies import Policies
from ackd.cli.presets import Presets
from ackd.cli.pretrain import Pretrain
from ackd.cli.refine import RefineData
from ackd.cli.report import Report
from ackd.cli.score import Score
from ackd.cli.train import Train
from ackd.cli.tune import Tune
from ackd.errors import InputError

DESCRIPTION = "Distil small transformers, and let an agent decide which knowledge to transfer."

Command = (
    Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[FillCache, tyro.conf.subcommand("cache")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[RefineData, tyro.conf.subcommand("refine-data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Mutual, tyro.conf.subcommand("mutual")]
    | Annotated[Federate, tyro.conf.subcommand("federate")]
    | Annotated[Policies, tyro.conf.subcommand("policies")]
    | Annotated[Presets, tyro.conf.subcommand("presets")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 if it worked, 2 if its input cannot be used, 1 if a training diverged."""
    command = tyro.cli(Command, args=arguments, prog="ackd", description=DESCRIPTION)
    notes = logging.StreamHandler(sys.stderr)
    notes.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ackd")
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        command.run()
    except InputError as error:
        print(f"ackd: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"ackd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ackd: stopped", file=sys.stderr)
        return 130
    finally:
        logger.removeHandler(notes)
    return 0
