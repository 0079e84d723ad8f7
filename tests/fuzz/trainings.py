"""Readers of the states of every kind of training, each with parts that the others do not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ackd import models
from ackd.cohort.cohort import Cohort
from ackd.errors import InputError
from ackd.federation.mutual import MutualLearning
from ackd.training.distillation import Distillation
from ackd.types import Selection
from ackd.weighting.mtkd_rl import MtkdRl
from ackd.weighting.rl_kd import Rewarding, RlKd
from ackd.weighting.teacher_weights import Learning
from ackd.weighting.weighting import Weighting
from tests.fuzz.readers import READERS, Reader, build_training, model, tokenizer, train

NOW = Learning(every=2, warmup=0.0)
TAUGHT = Selection.of("logits", "logits-1")


@lru_cache
def _cohort() -> Cohort:
    return Cohort(build_training(("logits", "hidden")), 2)


@lru_cache
def _one_of_peers() -> MutualLearning:
    config = models.small_config(len(tokenizer()), 2, layers=1, width=8, heads=1)
    students = [models.from_layers(model(), 1), models.from_config(config)]
    return MutualLearning(build_training().task, students, steps=4, batch_size=4)


def _peers() -> MutualLearning:
    peers = _one_of_peers()
    peers._begin(0)  # a copy would share its students
    return peers


@lru_cache
def _weighted(kind: str) -> Distillation:
    def make() -> Weighting:
        if kind == "mtkd-rl":
            return MtkdRl(2, 2, learning=NOW)
        return RlKd(
            2, 2, width=8, layer=0, rewarding=Rewarding(credit="visit" if "visit" in kind else "next"), learning=NOW
        )

    return build_training(teachers=2, make_weighting=make)


def _reader(make: Callable[[], Any], begin: Any, asked: tuple[Any, ...], *modules: str) -> Reader:
    def read(folder: Path) -> None:
        try:
            run(folder, 4)
        except FloatingPointError as error:  # how learning from each other says that it diverged
            raise InputError(str(error)) from error

    run = partial(train, make=make, begin=begin, asked=asked)
    return Reader(lambda folder: run(folder, 3, seconds=0), read, modules)


PARTLY = [Selection.of("logits"), Selection.of("hidden")]  # so that some parameters are moved student by student
LEARNED = ("ackd.weighting.rl_kd", "ackd.weighting.mtkd_rl", "ackd.weighting.teacher_weights")
STATEFUL: dict[str, Reader] = {
    "journal": READERS["journal"],
    "cohort": _reader(_cohort, [3, 4], (PARTLY, 1), "ackd.cohort.cohort", "ackd.cohort.stacked", "ackd.cohort.mixture"),
    "mutual": _reader(_peers, 3, (1,), "ackd.federation.mutual", "ackd.training.loop"),
    **{
        kind: _reader(partial(_weighted, kind), 3, (TAUGHT, 1), *LEARNED)
        for kind in ("rl-kd", "rl-kd-visit", "mtkd-rl")
    },
}
