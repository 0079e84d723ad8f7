"""Label revision, its siblings and data partitioning: each preset against its formula, from the models' own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import Selection, distill, models, prepare, tasks
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import Meter, Model, shape_of
from ackd.presets import Material, Preset, preset
from ackd.tasks import Split
from ackd.teachers import ModelTeacher, Partitioned, Revised, Swapped
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import ModelDims, OutputRequest, StepMetrics

CLASSES, SIZE = 3, 24
CPU = torch.device("cpu")


def make(layers: int, seed: int) -> Model:
    config = models.small_config(50, CLASSES, layers=layers, width=16, heads=2)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(config)().eval()


@pytest.fixture
def split() -> Split:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, SIZE)
    tokens, offsets = rng.integers(5, 50, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
    return Split({"input_ids": tokens}, offsets, rng.integers(0, CLASSES, SIZE), np.arange(SIZE), {"input_ids": 0})


def logits(model: Model, split: Split) -> Tensor:
    """[N, C] in float64, by the model's own library."""
    with torch.no_grad():
        answer: Tensor = model(**split.batch(range(len(split))).inputs).logits.double()
    return answer


def made(name: str, split: Split, **options: Any) -> tuple[Preset, Material, Model, Model]:
    teacher, student = make(3, seed=1), make(2, seed=2)
    found = preset(name, shape_of(student), [shape_of(teacher)], **options)
    return found, Material(split, CLASSES, models.from_layers(student, 2), CPU), teacher, student


def learned(name: str, split: Split, **options: Any) -> float:
    """The loss of one step over all of a split."""
    found, material, teacher, student = made(name, split, **options)
    named = [ModelTeacher(teacher)]
    assert found.revise is not None
    distiller = Distiller(
        Student(student, found.knowledge, steps=10),
        found.revise(named, material),
        found.knowledge,
        meter=Meter(student),
        costs=CostTracker(),
        scale_steps=0,
        weighting=found.weigh(named, material) if found.weigh is not None else None,
    )
    return distiller.step([split.batch(range(len(split)))], found.stages[0].selection).loss.item()


def revised(p: Tensor, y: Tensor, eta: float) -> Tensor:
    beta = (eta / (p.amax(-1) - p[range(len(p)), y] + 1))[:, None]
    return beta * p + (1 - beta) * F.one_hot(y, CLASSES)


def kd(s: Tensor, target: Tensor, y: Tensor, alpha: float, tau: float) -> Tensor:
    """With the target as probabilities, of which the temperature is taken."""
    soft = target.pow(1 / tau) / target.pow(1 / tau).sum(-1, keepdim=True)
    divergence = F.kl_div((s / tau).log_softmax(-1), soft, reduction="batchmean")
    return (1 - alpha) * F.cross_entropy(s, y) + alpha * tau**2 * divergence


@pytest.fixture
def both(split: Split) -> tuple[Tensor, Tensor, Tensor]:
    s, t = logits(make(2, seed=2), split), logits(make(3, seed=1), split)
    return s, t, torch.from_numpy(split.labels)


Both = tuple[Tensor, Tensor, Tensor]


@pytest.mark.parametrize("where", ["wrong", "all"])
def test_label_revision(where: str, split: Split, both: Both) -> None:
    s, t, y = both
    wrong = t.argmax(-1) != y
    assert 4 < wrong.sum() < SIZE - 4
    p = t.softmax(-1)
    target = torch.where(wrong[:, None] | (where == "all"), revised(p, y, 0.7), p)
    expected = kd(s, target, y, 0.4, 3.0)
    given = {"eta": 0.7, "where": where, "alpha": 0.4, "tau": 3.0}
    assert learned("label-revision", split, **given) == pytest.approx(float(expected), rel=1e-5)


def test_label_revision_as_it_was_re_implemented(split: Split, both: Both) -> None:
    s, t, y = both
    wrong = t.argmax(-1) != y
    known = F.cross_entropy(s[~wrong], y[~wrong]) + 4 * F.mse_loss(s[~wrong], t[~wrong])
    mended = F.mse_loss(s[wrong].softmax(-1), revised(t[wrong].softmax(-1), y[wrong], 0.8))
    assert learned("label-revision", split, form="mse") == pytest.approx(float(known + mended), rel=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("form", ["kd", "mse"])
def test_only_what_is_selected_is_distilled(form: str, sign: int, split: Split, both: Both) -> None:
    s, t, y = both
    with torch.no_grad():
        states = make(3, seed=1)(**split.batch(range(SIZE)).inputs, output_hidden_states=True).hidden_states
    gradients = torch.einsum("ic,id->icd", t.softmax(-1) - F.one_hot(y, CLASSES), states[-1][:, 0].double()).flatten(1)
    held = torch.arange(0, SIZE, 4)
    scores = torch.stack([sign * gradients[i] @ gradients[held[held != i]].mean(0) for i in range(SIZE)])
    best = scores.argsort(descending=True)[: SIZE // 2]
    rest = torch.tensor(sorted(set(range(SIZE)) - set(best.tolist())))
    p = t.softmax(-1)
    wrong = t.argmax(-1) != y
    if form == "kd":
        target = torch.where(wrong[:, None], revised(p, y, 0.8), p)
        apart = kd(s[best], target[best], y[best], 1.0, 4.0) / 2  # a sum over the chosen, divided by B
        expected = 0.5 * F.cross_entropy(s, y) + 0.5 * apart
    else:
        right, bad = best[~wrong[best]], best[wrong[best]]
        known = F.cross_entropy(s[right], y[right]) + 4 * F.mse_loss(s[right], t[right])
        mended = F.mse_loss(s[bad].softmax(-1), revised(p[bad], y[bad], 0.8))
        expected = (known + mended) / 2 + F.cross_entropy(s[rest], y[rest]) / 2
    select = "influence" if sign > 0 else "influence-r"
    value = learned("label-revision", split, form=form, keep=0.5, held=0.25, select=select)
    assert value == pytest.approx(float(expected), rel=1e-4)


def test_swap(split: Split, both: Both) -> None:
    s, t, y = both
    z = t.clone()
    for i, label in enumerate(y.tolist()):
        best = int(t[i].argmax())
        z[i, label], z[i, best] = t[i, best], t[i, label]
    expected = kd(s, z.softmax(-1), y, 0.5, 4.0)
    assert learned("swap", split) == pytest.approx(float(expected), rel=1e-5)


def test_refined_logits(split: Split, both: Both) -> None:
    s, t, y = both
    confidence, correlation = [], []
    for z, target, label in zip(s, t, y.tolist(), strict=True):
        a, b = float(target.softmax(-1).max()), float(z.softmax(-1)[label])
        confidence.append(a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b)))
        behind = target < target[label]
        p, q = (one[behind].div(4).softmax(-1) for one in (target, z))
        correlation.append(16 * float((p * (p / q).log()).sum()))
    expected = float(F.cross_entropy(s, y)) + np.mean(confidence) + 8 * np.mean(correlation)
    assert learned("refined-logits", split) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("by", ["label", "confidence"])
def test_data_partitioning(by: str, split: Split, both: Both) -> None:
    s, t, y = both
    p, q = t.softmax(-1), s.softmax(-1)
    rows = range(SIZE)
    better = p[rows, y] > q[rows, y] if by == "label" else p.amax(-1) > q.amax(-1)
    assert 4 < better.sum() < SIZE - 4
    expected = kd(s, torch.where(better[:, None], p, q), y, 0.9, 2.0)
    assert learned("data-partitioning", split, by=by, alpha=0.9, tau=2.0) == pytest.approx(float(expected), rel=1e-4)


def test_a_teacher_that_is_worse_everywhere_leaves_nothing_to_learn(split: Split, both: Both) -> None:
    s, t, _ = both
    labels = (s.softmax(-1) - t.softmax(-1)).argmax(-1)  # where the student is ahead by most
    worse = Split(split.inputs, split.offsets, labels.numpy(), split.ids, split.padding)
    assert learned("data-partitioning", worse) == 0.0
    better = Split(split.inputs, split.offsets, (t - s).argmax(-1).numpy(), split.ids, split.padding)
    assert learned("data-partitioning", better) > 0.01


def shape(classes: int = 2) -> ModelDims:
    return ModelDims(2, 16, 2, classes, 50)


@pytest.mark.parametrize(
    ("name", "classes", "options", "said"),
    [
        ("label-revision", 2, {"eta": 1.0}, "eta is 1.0"),
        ("label-revision", 2, {"where": "al"}, "unknown place for a revision 'al': did you mean 'all'"),
        ("label-revision", 2, {"form": "ms"}, "did you mean 'mse'"),
        ("label-revision", 2, {"select": "influense"}, "did you mean 'influence'"),
        ("label-revision", 2, {"keep": 0.0}, "keep is 0.0"),
        ("label-revision", 2, {"held": 1.5}, "held is 1.5"),
        ("label-revision", 2, {"keep": 0.5, "alpha": 1.0}, "give alpha below 1"),
        ("label-revision", 2, {"alpha": -1.0}, "alpha is -1.0"),
        ("label-revision", 1, {}, "as for a regression"),
        ("swap", 1, {}, "as for a regression"),
        ("refined-logits", 1, {}, "as for a regression"),
        ("data-partitioning", 1, {}, "as for a regression"),
        ("data-partitioning", 2, {"by": "lable"}, "did you mean 'label'"),
    ],
)
def test_what_cannot_work_is_refused(name: str, classes: int, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        preset(name, shape(classes), [shape(classes)], **options)
    assert "\n" not in str(refused.value)


def test_of_several_teachers_each_is_revised_and_has_its_share() -> None:
    two = preset("label-revision", shape(), [shape(), shape()], alpha=0.6)
    assert [(one.name, one.teacher) for one in two.knowledge] == [("logits@1", 0), ("logits@2", 1)]
    assert two.stages[0].selection == Selection({"logits@1": 0.3, "logits@2": 0.3}, labels=0.4)
    with pytest.raises(InputError, match="form=mse learns from one teacher"):
        preset("label-revision", shape(), [shape(), shape()], form="mse")


@pytest.mark.parametrize("name", ["label-revision", "swap", "refined-logits", "data-partitioning"])
def test_texts_have_no_label_to_put_in_the_place_of_an_answer(name: str, split: Split) -> None:
    texts = Split(split.inputs, split.offsets, split.labels, split.ids, split.padding, language=True)
    found, material, teacher, _ = made(name, texts)
    assert found.revise is not None
    with pytest.raises(InputError, match="give a classification task"):
        found.revise([ModelTeacher(teacher)], material)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher on disk."""
    path, tokenizer = tmp_path_factory.mktemp("teacher"), tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=4, width=16, heads=2))()
    models.save_model(path, model, tokenizer)
    return str(path)


def ready(teacher: str, preset: str, **changes: Any) -> Distillation:
    setting: dict[str, Any] = {"student_layers": 2, "max_examples": 344, "steps": 43, "batch_size": 8, "lr": 1e-3}
    return prepare(task="polarity", teacher=teacher, preset=preset, **{**setting, **changes})


def test_an_epoch_asks_about_each_selected_example_once(folder: str) -> None:
    distillation = ready(folder, "label-revision", options={"keep": 0.3})
    assert len(distillation.task.train) == 344 == 43 * 8
    assert distillation.distiller.picks
    distill(distillation, lambda done: distillation.staged(done))
    scored, teacher, lengths = distillation.prepared, distillation.teachers[0], distillation.task.train.lengths
    assert scored.teacher_queries == 344
    assert (
        1.0 <= scored.flops["teacher"] / (344 * teacher.flops(OutputRequest(logits=True), 1, int(lengths.mean()))) < 1.5
    )
    for _ in range(2):  # each student's ledger has it
        assert distillation.costs.teacher_queries == 344 + int(0.3 * 344)
        assert distillation.costs.flops["teacher"] > scored.flops["teacher"]
        distill(distillation, lambda done: distillation.staged(done))
    everything = ready(folder, "label-revision")
    assert not everything.distiller.picks


def test_reports_compare_with_the_teacher_as_it_is(folder: str) -> None:
    plain = ready(folder, "kd")
    eval_result = plain.measure_teacher(plain.task.reward, "reward")
    for name, kind in (("label-revision", Revised), ("swap", Swapped), ("data-partitioning", Partitioned)):
        distillation = ready(folder, name)
        assert isinstance(distillation.teachers[0], kind)
        assert isinstance(distillation.reference, ModelTeacher)
        assert distillation.measure_teacher(distillation.task.reward, "reward") == eval_result


def test_a_cache_lies_inside(folder: str, tmp_path: Path) -> None:
    for queries in (2 * 8, 0):
        distillation = ready(folder, "label-revision", cache=str(tmp_path), cache_dtype="float32", steps=2)
        distill(distillation, lambda done, of=distillation: of.staged(done))  # type: ignore[misc]
        assert distillation.costs.teacher_queries == queries
        assert isinstance(distillation.reference, ModelTeacher)


def test_it_combines_with_losses_of_ones_own_and_of_other_methods(folder: str) -> None:
    own = ready(folder, "label-revision", types=["logits", "hidden"], options={"keep": 0.5}, steps=3)
    reports: list[StepMetrics[float]] = distill(own, Selection.of("logits", "hidden"))
    assert reports[0].losses["hidden"] > 0
    assert 0 < own.costs.teacher_queries - own.prepared.teacher_queries < 3 * 8
    combined = ready(folder, "label-revision,dynamickd-objective", options={"eta": 0.5, "keep": 0.5}, steps=3)
    assert isinstance(combined.teachers[0], Revised)
    assert combined.teachers[0].eta == 0.5
    assert set(combined.distiller.knowledge) == {"logits-mse", "hidden"}
    distill(combined, lambda done: combined.staged(done))
    assert 0 < combined.costs.teacher_queries - combined.prepared.teacher_queries < 3 * 8
    with pytest.raises(InputError, match="both say which losses there are"):
        ready(folder, "label-revision,refined-logits", options={"form": "mse"})


def test_a_student_that_is_drawn_anew_has_no_initial_one(folder: str, tmp_path: Path) -> None:
    config = tmp_path / "student.json"
    vocabulary = len(tasks.embedded_tokenizer("polarity"))
    config.write_text(models.small_config(vocabulary, 2, layers=2, width=16, heads=2).to_json_string())
    with pytest.raises(InputError, match="no initial student to keep to"):
        ready(folder, "data-partitioning", student_layers=None, student=str(config))


def test_the_initial_student_is_the_one_that_learns_and_stays_as_it_was(folder: str) -> None:
    distillation = ready(folder, "data-partitioning", steps=3)
    teacher = distillation.teachers[0]
    assert isinstance(teacher, Partitioned)
    batch = distillation.task.train.batch(range(5))
    before = teacher.initial(batch, OutputRequest(logits=True), CostTracker()).logits
    distillation.reset(3)
    ours = ModelTeacher(distillation._make_student())(batch, OutputRequest(logits=True), CostTracker()).logits
    distill(distillation, lambda done: distillation.staged(done))
    after = teacher.initial(batch, OutputRequest(logits=True), CostTracker()).logits
    assert before is not None
    assert ours is not None
    assert after is not None
    assert torch.equal(before, ours)
    assert torch.equal(before, after)
    assert distillation.costs.teacher_queries == 2 * 3 * 8
