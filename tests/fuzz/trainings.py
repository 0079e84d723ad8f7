"""Readers of the states of every kind of training, each with parts that the others do not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ackd import models
from ackd.agents.mtkd_rl import MtkdRl
from ackd.agents.rl_kd import Rewarding, RlKd
from ackd.agents.teacher_weights import Learning
from ackd.cohort import Cohort
from ackd.errors import InputError
from ackd.loop import Distillation
from ackd.mutual import MutualLearning
from ackd.types import Selection
from ackd.weighting import Weighting
from tests.fuzz.readers import READERS, Reader, build_training, model, tokenizer, train

NOW = Learning(every=2, warmup=0.0)
TAUGHT = Selection.of("logits", "logits-1")


@lru_cache
def _cohort() -> Cohort:
    return Cohort(build_training(("logits", "hidden")), 2)


def _peers() -> MutualLearning:
    students = [models.from_layers(model(), 1), models.from_config(models.small_config(len(tokenizer()), 2, width=8))]
    return MutualLearning(build_training().task, students, steps=4, batch_size=4)


@lru_cache
def _weighted(kind: str) -> Distillation:
    def make() -> Weighting:
        if kind == "mtkd-rl":
            return MtkdRl(2, 2, learning=NOW)
        return RlKd(
            2, 2, width=8, layer=0, rewarding=Rewarding(credit="visit" if "visit" in kind else "next"), learning=NOW
        )

    return build_training(teachers=2, make_weighting=make)


def _reader(make: Callable[[], Any], begin: Any, asked: tuple[Any, ...]) -> Reader:
    def read(folder: Path) -> None:
        try:
            run(folder, 4)
        except FloatingPointError as error:  # how learning from each other says that it diverged
            raise InputError(str(error)) from error

    run = partial(train, make=make, begin=begin, asked=asked)
    return Reader(lambda folder: run(folder, 3, seconds=0), read, ())


PARTLY = [Selection.of("logits"), Selection.of("hidden")]  # so that some parameters are moved student by student
STATEFUL: dict[str, Reader] = {
    "single": READERS["journal"],
    "cohort": _reader(_cohort, [3, 4], (PARTLY, 1)),
    "mutual": _reader(_peers, 3, (1,)),
    **{kind: _reader(partial(_weighted, kind), 3, (TAUGHT, 1)) for kind in ("rl-kd", "rl-kd by visits", "mtkd-rl")},
}
