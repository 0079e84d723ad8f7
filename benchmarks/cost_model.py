"""Predicts seconds, FLOPs and bytes of an agent's training over many students, from a few measured constants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ackd.teachers.cache.budget import row_sizes
from ackd.training.distillation import Distillation
from ackd.types import ModelDims, OutputRequest

STEP = ("student", "teacher", "knowledge", "cache")  # the parts of an optimizer step's time
HALF = 2  # bytes per number in the cache


@dataclass(frozen=True)
class Line:
    """Seconds of one part of an optimizer step: `fixed + work / rate`.

    Work is in FLOPs, or in bytes of the answers for the cache, which reads them, and the losses, which compare them.
    """

    fixed: float
    rate: float

    def seconds(self, work: float) -> float:
        """For so much work; nothing where there is none."""
        return self.fixed + work / self.rate if work else 0.0

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """The line through two points (work, seconds); the one from the origin where that makes no sense."""
        (x0, y0), (x1, y1) = sorted(points)
        slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
        fixed = y0 - slope * x0
        return cls(fixed, 1 / slope) if slope > 0 and fixed >= 0 else cls(0.0, (x0 + x1) / (y0 + y1))


@dataclass(frozen=True)
class Constants:
    """What is measured."""

    lines: Mapping[str, Line]  # of STEP
    measuring: float  # FLOP/s of passes that only measure the student
    decide: float  # seconds of the learner for one student's decision, including its share of the updates
    transport: float  # seconds for sending one decision to a worker and back
    start: float  # seconds until a new process has loaded its task and models
    spread: float  # standard deviation of a phase's seconds, as a share of their mean

    def faster(self, times: float) -> Constants:
        """The same on devices of so many times the rate, where a step's fixed part stays what it is."""
        lines = {part: Line(line.fixed, line.rate * times) for part, line in self.lines.items()}
        lines["cache"] = self.lines["cache"]
        return Constants(lines, self.measuring * times, self.decide, self.transport, self.start, self.spread)


@dataclass(frozen=True)
class Data:
    """A task's sizes."""

    examples: int
    tokens: float  # mean tokens of an example
    padded: float  # mean tokens of an example, with padding
    dev: int


@dataclass(frozen=True)
class Run:
    """How an agent is trained."""

    steps: int  # steps of a student
    interval: int  # steps between two decisions
    reward: int  # examples of the reward measurement after each decision
    episodes: int

    @property
    def decisions(self) -> int:
        """In an episode."""
        return -(-self.steps // self.interval)


@dataclass(frozen=True)
class Work:
    """What a student's training takes with everything transferred."""

    step: Mapping[str, float]  # FLOPs of an optimizer step by part; for losses and cache, bytes of outputs
    example: float  # FLOPs of evaluating the student on one example
    taught: float  # FLOPs of evaluating the teacher on one example

    @classmethod
    def of(cls, distillation: Distillation, tokens: float, *, cached: bool) -> Work:
        """As this distillation's models would have it on examples of so many tokens."""
        distiller, size, length = distillation.distiller, distillation.batch_size, round(tokens)
        chosen = list(distiller.knowledge.values())
        asked = [(distillation.teachers[m], needs) for m, needs in distiller.asked(chosen).items()]
        whole = distiller.meter(OutputRequest(logits=True))
        answers = float(size * sum(answer_bytes(teacher.shape, needs, length) for teacher, needs in asked))
        step = {"student": 3 * whole.forward(size, length), "knowledge": answers}  # backward = 2 forward
        if cached:
            step["cache"] = answers
        else:
            step["teacher"] = sum(teacher.flops(needs, size, length) for teacher, needs in asked)
        taught = sum(teacher.flops(OutputRequest(logits=True), 1, length) for teacher in distillation.teachers)
        return cls(step, whole.forward(1, length), taught)


def answer_bytes(shape: ModelDims, needs: OutputRequest, length: int) -> int:
    """Of one example's answers in the cache."""
    lengths = np.array([length])
    return HALF * sum(int(row_sizes(field, shape, lengths)[0]) for field in needs.fields)


def phase_seconds(work: Work, run: Run, constants: Constants) -> float:
    """A worker's time from one decision to the next."""
    step = sum(constants.lines[part].seconds(amount) for part, amount in work.step.items())
    return run.interval * step + run.reward * work.example / constants.measuring


def seconds(work: Work, data: Data, run: Run, constants: Constants, workers: int) -> float:
    """The wall time of `ackd train`: all episodes on so many workers, which decide together, then one more student.

        2 prepare + E / W (reward + D (phase (1 + spread sqrt(2 ln W)) + W (decide + transport)))
        + reward + D phase + dev

    A round waits for the slowest of W; `prepare` has the teacher's pass over the reward split, `dev` those of student
    and teacher over the dev split.
    """
    phase, rate = phase_seconds(work, run, constants), constants.measuring
    prepare, reward = constants.start + run.reward * work.taught / rate, run.reward * work.example / rate
    waiting = 1 + constants.spread * math.sqrt(2 * math.log(workers))
    decision = phase * waiting + workers * (constants.decide + constants.transport)
    rounds = -(-run.episodes // workers) * (reward + run.decisions * decision)
    return 2 * prepare + rounds + reward + run.decisions * phase + data.dev * (work.example + work.taught) / rate


def saturation(work: Work, run: Run, constants: Constants) -> float:
    """The workers with which the learner takes as long as they do: more than some of these are wasted."""
    return phase_seconds(work, run, constants) / (constants.decide + constants.transport)
