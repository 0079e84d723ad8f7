"""Standings are what independent computations say of the same answers, alone and in a cohort, and survive a journal."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from torch.nn import functional as F

from ackd.cohort.cohort import Cohort
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.mdp.episode import Episode
from ackd.models import run
from ackd.tasks import Split, Task, TaskSpec
from ackd.training.distillation import Distillation
from ackd.training.measuring import correlation, eval_result
from ackd.training.replay_log import ENTRIES, ReplayLog
from ackd.types import Batch, EvalResult, OutputRequest, Outputs, Selection

Array = NDArray[np.float64]
NEW = ("probability", "divergence", "teacher_correlation", "label_correlation")
COMPARED = ("divergence", "teacher_correlation")


def task_of(labels: NDArray[Any], classes: int, *, language: bool = False) -> Task:
    """Texts of two tokens with these labels; no class makes it a regression."""
    count = len(labels)
    split = Split({"input_ids": np.ones(2 * count, np.int64)}, np.arange(count + 1) * 2, labels, np.arange(count), {})
    metrics = ("accuracy",) if classes else ("pearson",)
    names = tuple(str(c) for c in range(classes))
    spec = TaskSpec("made", ("text",), "label", names, ("neg_loss",) if language else metrics, language=language)
    return Task(spec, split, split, {"validation": split})


def numbers(eval_result: EvalResult) -> dict[str, float]:
    return {name: getattr(eval_result, name) for name in NEW}


def drawn(classes: int, seed: int = 0, count: int = 50) -> tuple[Array, Array, NDArray[np.int64]]:
    """A student's and a teacher's logits, and labels."""
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(1.0, 2.0, (2, count, classes))
    return student, teacher, generator.integers(0, classes, count)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_classes_are_measured_as_plain_computations_say(classes: int) -> None:
    student, teacher, labels = drawn(classes)
    task = task_of(labels, classes)
    found = eval_result(task, student, task.reward, teacher)
    ours, theirs = torch.tensor(student), torch.tensor(teacher)
    divergence = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
    margins, taught = (logits - logits.mean(1, keepdims=True) for logits in (student, teacher))
    hot = F.one_hot(torch.tensor(labels), classes).numpy() - 1 / classes
    assert numbers(found) == pytest.approx(
        {
            "probability": ours.softmax(1)[torch.arange(len(labels)), torch.tensor(labels)].mean().item(),
            "divergence": divergence.item(),
            "teacher_correlation": pearsonr(margins.ravel(), taught.ravel()).statistic,
            "label_correlation": pearsonr(margins.ravel(), hot.ravel()).statistic,
        },
        rel=1e-9,
    )
    assert found.loss == pytest.approx(F.cross_entropy(ours, torch.tensor(labels)).item(), rel=1e-12)
    assert found.agreement == pytest.approx((found.teacher_correlation + found.label_correlation) / 2, rel=1e-12)


def test_embeddings_are_measured_as_plain_computations_say() -> None:
    generator = np.random.default_rng(2)
    student, teacher = generator.normal(size=(2, 12, 4))
    labels = (teacher[:, :3] + 0.1 * generator.normal(size=(12, 3))).astype(np.float32)  # of another width
    task = task_of(labels, 2)
    task = replace(task, spec=replace(task.spec, classes=(), metrics=("spearman",), sentences=True))

    def cosines(vectors: Array) -> list[float]:
        rows = torch.tensor(vectors, dtype=torch.float64)
        return [float(F.cosine_similarity(rows[i], rows[j], dim=0)) for i in range(12) for j in range(i + 1, 12)]

    found = eval_result(task, student[:, :3], task.reward, teacher[:, :3])
    ours, theirs, wanted = (cosines(one[:, :3].astype(np.float64)) for one in (student, teacher, labels))
    assert numbers(found) == pytest.approx(
        {
            "probability": F.cosine_similarity(torch.tensor(student[:, :3]), torch.tensor(labels)).mean().item(),
            "divergence": np.square(student[:, :3] - teacher[:, :3]).mean(),
            "teacher_correlation": pearsonr(ours, theirs).statistic,
            "label_correlation": pearsonr(ours, wanted).statistic,
        }
    )
    assert found.loss == pytest.approx(F.mse_loss(torch.tensor(student[:, :3]), torch.tensor(labels)).item())
    assert found.score == pytest.approx(spearmanr(ours, wanted).statistic)


def test_values_are_measured_as_plain_computations_say() -> None:
    generator = np.random.default_rng(1)
    student, teacher = generator.normal(3.0, 1.0, (2, 40, 1))
    labels = generator.uniform(0, 5, 40).astype(np.float32)
    task = task_of(labels, 0)
    found = eval_result(task, student, task.reward, teacher)
    assert numbers(found) == pytest.approx(
        {
            "probability": 0.0,
            "divergence": F.mse_loss(torch.tensor(student), torch.tensor(teacher)).item(),
            "teacher_correlation": pearsonr(student[:, 0], teacher[:, 0]).statistic,
            "label_correlation": pearsonr(student[:, 0], labels.astype(np.float64)).statistic,
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("classes", [0, 2, 5])
def test_a_teacher_agrees_with_itself(classes: int) -> None:
    logits, _, labels = drawn(classes or 1)
    task = task_of(labels if classes else labels + np.arange(50, dtype=np.float32), classes)
    found = eval_result(task, logits, task.reward, logits.copy())
    assert found.divergence == 0.0
    assert found.teacher_correlation == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("theirs", [None, np.nan, np.inf])
def test_nothing_is_compared_without_a_teacher_or_with_one_that_gives_no_numbers(theirs: float | None) -> None:
    student, teacher, labels = drawn(3)
    task = task_of(labels, 3)
    broken = None
    if theirs is not None:
        broken = teacher.copy()
        broken[4, 1] = theirs
    alone, beside = eval_result(task, student, task.reward, broken), eval_result(task, student, task.reward, teacher)
    assert [getattr(alone, name) for name in COMPARED] == [0.0, 0.0]
    assert (alone.probability, alone.label_correlation) == (beside.probability, beside.label_correlation)
    assert alone.finite


@pytest.mark.parametrize("answer", [(0.1, 0.1, 0.1), (1e300, 1e300, 1e300), (0.0, 0.0, 0.0)])
def test_constant_answers_correlate_with_nothing(answer: tuple[float, ...]) -> None:
    _, teacher, labels = drawn(3)
    task = task_of(labels, 3)
    for constant, other in ((np.tile(answer, (50, 1)), teacher), (teacher, np.tile(answer, (50, 1)))):
        assert eval_result(task, constant, task.reward, other).teacher_correlation == 0.0
    assert correlation(np.full((9, 1), answer[0]), np.arange(9.0)[:, None], axis=0) == 0.0


def test_however_sure_the_answers_they_give_numbers() -> None:
    student, teacher, labels = drawn(2)
    task = task_of(labels, 2)
    for factor in (1e-300, 1e150, 1e290):
        found = eval_result(task, student * factor, task.reward, teacher * factor)
        assert found.finite
        assert found.teacher_correlation == pytest.approx(correlation(student, teacher, axis=1), rel=1e-9)


def test_answers_that_are_no_numbers_are_no_standing() -> None:
    student, teacher, labels = drawn(2)
    task = task_of(labels, 2)
    student[3, 0] = np.nan
    assert not eval_result(task, student, task.reward, teacher).finite


@pytest.mark.parametrize("name", ["loss", "score", *NEW])
def test_a_standing_with_a_number_that_is_none_is_not_finite(name: str) -> None:
    assert EvalResult(1.0, 0.5).finite
    for value in (math.nan, math.inf):
        own: dict[str, Any] = {name: value}
        assert not replace(EvalResult(1.0, 0.5), **own).finite


def test_nothing_of_a_language_model_is_compared() -> None:
    task = task_of(np.zeros(4, np.int64), 0, language=True)
    sums = np.array([[4.0, 1.0, 2.0]] * 4)
    found = eval_result(task, sums, task.reward, sums)
    assert numbers(found) == dict.fromkeys(NEW, 0.0)
    assert found.loss == -found.score > 0


def logits_of(model: Any, split: Split) -> Array:
    model.eval()
    with torch.no_grad():
        logits = run(model, split.batch(range(len(split))), OutputRequest(logits=True)).logits
    assert logits is not None
    return logits.double().numpy()


def trained() -> Distillation:
    distillation = tiny().distillation
    distillation.reset(4)
    distillation.advance(Selection.of("logits", "hidden"), 8)
    return distillation


def test_students_are_compared_with_their_teacher_on_the_reward_split_alone() -> None:
    distillation = trained()
    task, (teacher,) = distillation.task, distillation.teachers
    theirs = logits_of(teacher.model, task.reward)  # type: ignore[attr-defined]
    found = distillation.evaluate(task.reward, "reward")
    expected = eval_result(task, logits_of(distillation.student.model, task.reward), task.reward, theirs)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-4)
    assert found.divergence > 0
    own = distillation.measure_teacher(task.reward, "reward")
    assert own.divergence == 0.0
    assert own.teacher_correlation == pytest.approx(1.0)
    assert own.label_correlation == pytest.approx(eval_result(task, theirs, task.reward).label_correlation, rel=1e-4)
    dev = distillation.evaluate(task.dev["validation"], "validation")
    assert [getattr(dev, name) for name in COMPARED] == [0.0, 0.0]
    assert dev.probability > 0


class Counted:
    """The tiny teacher, and how many examples it was asked about."""

    def __init__(self) -> None:
        (self.inner,) = tiny().distillation.teachers
        self.shape, self.fingerprint, self.flops = self.inner.shape, "counted", self.inner.flops
        self.examples = 0

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        self.examples += len(batch.ids)
        return self.inner(batch, needs, costs)


def counted() -> tuple[Distillation, Counted]:
    teacher, pair = Counted(), tiny().distillation
    return Distillation(pair.task, [teacher], pair._make_student, pair._make_knowledge, steps=12, batch_size=8), teacher


@pytest.mark.parametrize("students", [None, 3])
def test_the_teacher_is_asked_once_about_a_split(students: int | None) -> None:
    distillation, teacher = counted()
    training = distillation if students is None else Cohort(distillation, students)
    reward, size = distillation.task.reward, len(distillation.task.reward)
    spent = []
    for seed in range(3):
        training.reset(seed if students is None else [seed] * students)  # type: ignore[arg-type]
        for _ in range(2):
            training.evaluate(reward, "reward")
            training.measure_teacher(reward, "reward")
        assert teacher.examples == size
        spent.append(training.costs.flops["reward"])
    assert spent[0] > spent[1] == spent[2]  # the first has the teacher's pass on its bill
    part = distillation.evaluator.reward_part(0.25)
    training.evaluate(part, "reward")
    assert teacher.examples == size + len(part)


def test_a_pass_over_a_split_without_a_teacher_asks_nobody() -> None:
    pair = tiny().distillation
    alone = Distillation(pair.task, (), pair._make_student, steps=4)
    found = alone.evaluate(pair.task.reward, "reward")
    assert [getattr(found, name) for name in COMPARED] == [0.0, 0.0]
    assert found.finite


def test_students_of_a_cohort_stand_as_each_would_alone() -> None:
    distillation = tiny(lr=5e-3).distillation
    cohort = Cohort(distillation, 3)
    cohort.reset([5, 3, 8])
    cohort.advance([Selection.of("logits", "hidden", "attention"), Selection(), Selection({"logits": 4.0})], 12)
    reward = distillation.task.reward
    eval_results = cohort.evaluate(reward, "reward")
    for name in NEW:
        assert len({round(getattr(one, name), 9) for one in eval_results}) == 3
    for i, one in enumerate(eval_results):
        distillation.student.model.load_state_dict(cohort.model(i).state_dict())
        assert numbers(one) == pytest.approx(numbers(distillation.evaluate(reward, "reward")), abs=1e-5)
    assert cohort.measure_teacher(reward, "reward") == distillation.measure_teacher(reward, "reward")


def asked(folder: Path, distillation: Distillation) -> tuple[list[EvalResult], CostTracker]:
    """A run that measures between its steps."""
    distillation.replay(ReplayLog(folder, seconds=0))
    distillation.reset(3)
    reward = distillation.task.reward
    eval_results = [distillation.evaluate(reward, "reward"), distillation.measure_teacher(reward, "reward")]
    for _ in range(3):
        distillation.advance(Selection.of("logits"), 2)
        eval_results.append(distillation.evaluate(reward, "reward"))
    distillation.reset(4)
    eval_results += [distillation.evaluate(reward, "reward"), distillation.measure_teacher(reward, "reward")]
    return eval_results, distillation.costs


@pytest.mark.parametrize("lines", [3, 4, 5, 9, 10, 11])
def test_a_run_that_was_killed_tells_the_same_standings_and_bill(tmp_path: Path, lines: int) -> None:
    expected, bill = asked(tmp_path / "whole", tiny().distillation)
    killed = tmp_path / "killed"
    append = ReplayLog._append

    def dies(replay_log: ReplayLog, entry: dict[str, Any]) -> None:
        if replay_log.entries == lines:
            raise KeyboardInterrupt
        append(replay_log, entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplayLog, "_append", dies)
        with pytest.raises(KeyboardInterrupt):
            asked(killed, tiny().distillation)
    found, again = asked(killed, tiny().distillation)
    assert found == expected
    assert again.flops == bill.flops


def test_standings_come_back_from_a_journal_as_they_were(tmp_path: Path) -> None:
    distillation = tiny().distillation
    first, _ = asked(tmp_path, distillation)
    assert distillation.replay_log is not None
    distillation.replay_log.finish()
    lines = [json.loads(line) for line in (tmp_path / ENTRIES).read_text().splitlines()]
    assert {*NEW} < lines[1]["answer"]["standing"].keys()
    again, _ = asked(tmp_path, tiny().distillation)
    assert again == first
    assert all(one.divergence for one in first if one.teacher_correlation < 0.999)


def test_standings_of_older_journals_have_the_defaults(tmp_path: Path) -> None:
    first, _ = asked(tmp_path, tiny().distillation)
    entries = []
    for line in (tmp_path / ENTRIES).read_text().splitlines():
        entry = json.loads(line)
        if entry["verb"].startswith("measure"):
            old = {name: entry["answer"]["standing"][name] for name in ("loss", "score", "scores")}
            entry["answer"] = {"standing": old}
        entries.append(entry)
    entries.append({"verb": "end", "asked": [], "answer": None, "counters": {}})
    (tmp_path / ENTRIES).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    again, _ = asked(tmp_path, tiny().distillation)
    assert again == [EvalResult(one.loss, one.score, one.scores) for one in first]


def test_an_episode_begins_with_what_its_reward_compares() -> None:
    env = tiny()
    env.reset(seed=1)
    episode = env.episode
    assert isinstance(episode, Episode)
    assert episode.start is not None
    assert episode.teacher is not None
    assert episode.start.divergence > 0 == episode.teacher.divergence
    plain = tiny().distillation
    plain.reset(1)
    assert episode.start == plain.evaluate(plain.task.reward, "reward")
    assert episode.teacher == plain.measure_teacher(plain.task.reward, "reward")
