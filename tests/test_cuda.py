"""What only a GPU can show: inside a decision the host never waits for it, and it computes what the CPU does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ackd import Selection, models, tasks
from ackd.cli import main
from ackd.cohort.cohort import Cohort
from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.knowledge import NAMES, build
from ackd.numerics.streams import RngStreams
from ackd.presets import METHODS
from ackd.teachers import Cached, ModelTeacher, with_cache
from ackd.teachers.cache.ahead import ReadAhead
from ackd.teachers.cache.store import Cache, Examples
from ackd.training.distillation import Distillation
from ackd.training.sampler import LengthGroupedSampler
from ackd.types import Teacher, means, union
from tests.learned import weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def strict() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def distillation(
    device: str, *, cache: Path | None = None, precision: Precision = "fp32", near: float = 0.0
) -> Distillation:
    tokenizer = tasks.embedded_tokenizer("polarity")
    task = tasks.load("polarity", tokenizer, max_examples=600)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = models.small_config(len(tokenizer), 2, layers=4, width=64, heads=4, dropout=0.0)
        teacher = ModelTeacher(models.from_config(config)().to(device), precision=precision)
    make = models.from_layers(teacher.model, 2)
    shape = models.shape_of(make())
    answering: Teacher = teacher
    if cache is not None:
        fields = union(one.teacher_needs for one in build(NAMES, shape, teacher.shape)).fields
        examples = Examples(task.train.ids, task.train.lengths, task.train.fingerprint)
        answering = Cached(
            teacher,
            Cache(
                cache,
                name="polarity",
                teacher=teacher.fingerprint,
                shape=teacher.shape,
                examples=examples,
                fields=fields,
            ),
            device_memory=near,
        )
        answering.ahead = ReadAhead(answering.cache, torch.device(device))
    return Distillation(
        task,
        [answering],
        make,
        lambda: build(NAMES, shape, teacher.shape),
        steps=40,
        batch_size=16,
        device=device,
        precision=precision,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.usefixtures("strict")
def test_the_host_never_waits_inside_a_decision(tmp_path: Path, cached: bool, precision: Precision) -> None:
    run = distillation("cuda", cache=tmp_path if cached else None, precision=precision)
    selection = Selection.of(*NAMES)
    run.advance(selection, 2)  # kernels and workspaces are made
    torch.cuda.set_sync_debug_mode("error")
    reports = []  # a wait would raise
    for _ in range(4):
        batch = run.task.train.batch(run.trainer.order.next()).to(run.device)
        reports.append(run.distiller.step([batch], selection))
    torch.cuda.set_sync_debug_mode("default")
    assert means(reports)[0].finite


def test_a_gpu_computes_what_a_cpu_does(tmp_path: Path) -> None:
    reports = [distillation(device).advance(Selection.of(*NAMES), 3) for device in ("cpu", "cuda")]
    for name in NAMES:
        assert reports[0].losses[name] == pytest.approx(reports[1].losses[name], rel=2e-2), name


def test_the_cache_is_filled_from_a_gpu_and_read_back(tmp_path: Path) -> None:
    run = distillation("cuda", cache=tmp_path)
    first = run.advance(Selection.of(*NAMES), 40)
    run.reset(0)
    again = run.advance(Selection.of(*NAMES), 40)
    assert run.costs.cached_queries > 0
    assert again.loss == pytest.approx(first.loss, rel=1e-2)


@pytest.mark.parametrize("near", [1e-7, 1 / 3])
def test_outputs_from_the_memory_of_the_gpu_are_those_from_the_disk(tmp_path: Path, near: float) -> None:
    """Some rows fit, or all; and what a thread read ahead, or not."""
    run = distillation("cuda", cache=tmp_path)
    run.advance(Selection.of(*NAMES), 40)
    plain, close = (distillation("cuda", cache=tmp_path, near=share) for share in (0.0, near))
    for one in (plain, close):
        (cached,) = one.teachers
        assert isinstance(cached, Cached)
        if one is plain:
            cached.ahead = None
        one.reset(0)
        one.advance(Selection.of(*NAMES), 39)
    batch = run.task.train.batch(np.arange(32)).to(torch.device("cuda"))
    needs = union(one.teacher_needs for one in run.distiller.knowledge.values())
    answers = [one.teachers[0](batch, needs, CostTracker()) for one in (plain, close)]
    assert all(torch.equal(answers[0][field], answers[1][field]) for field in needs.fields)


def test_the_choice_is_measured_on_the_gpu(tmp_path: Path) -> None:
    run = distillation("cuda")
    cached = with_cache(
        run.teachers[0],
        list(run.distiller.knowledge.values()),
        run.task.train,
        folder=str(tmp_path),
        name="x",
        budget=10**9,
        dtype="float16",
        reads="auto",
        device=run.device,
    )
    assert isinstance(cached, Cached)
    assert cached.ahead is not None
    assert cached.prices is not None
    assert cached.prices.device == torch.cuda.get_device_name()
    assert all(seconds > 0 for seconds in cached.prices.read.values())


def test_a_batch_that_is_there_already_stays() -> None:
    batch = distillation("cpu").task.train.batch(np.arange(4)).to(torch.device("cuda:0"))
    assert torch.equal(batch.to(torch.device("cuda")).inputs["input_ids"], batch.inputs["input_ids"])


def test_nothing_that_a_gpu_answered_is_lost(tmp_path: Path) -> None:
    for queries in (2 * 16, 0):
        run = distillation("cuda", cache=tmp_path)
        run.advance(Selection.of(*NAMES), 2)
        assert run.costs.teacher_queries == queries


def test_a_run_goes_on_where_it_was_saved() -> None:
    selection = Selection.of(*NAMES)
    run, again = distillation("cuda"), distillation("cuda")
    run.advance(selection, 10)
    state = io.BytesIO()
    torch.save(run.state_dict(), state)
    state.seek(0)
    again.load_state_dict(torch.load(state, weights_only=True))
    reports = [one.advance(selection, 10) for one in (run, again)]
    assert reports[1].loss == pytest.approx(reports[0].loss, rel=1e-4)
    torch.testing.assert_close(weights(again.student), weights(run.student), rtol=1e-4, atol=1e-5)


def test_a_cohort_is_its_students() -> None:
    """On equal batches, since a cohort has the order of its first student."""
    pattern = distillation("cuda")
    seeds = [5, 3, 8]
    cohort, alone = Cohort(pattern, len(seeds)), [pattern.fork() for _ in seeds]
    cohort.reset(seeds)
    for one, seed in zip(alone, seeds, strict=True):
        one.reset(seed)
        one.trainer.order = LengthGroupedSampler(one.task.train.lengths, one.batch_size, RngStreams(seeds[0]).order)
    selections = [Selection.of("logits"), Selection.of(*NAMES), Selection()]
    found = cohort.advance(selections, 4)
    for place, (one, selection) in enumerate(zip(alone, selections, strict=True)):
        assert found[place].loss == pytest.approx(one.advance(selection, 4).loss, rel=1e-3)
        torch.testing.assert_close(weights(cohort.stacked.students[place]), weights(one.student), rtol=1e-3, atol=1e-3)


SHORT = ["--task", "polarity", "--max-examples", "400", "--device", "cuda"]
STUDENT = [*SHORT, "--reward-examples", "64", "--student-layers", "2", "--steps", "12", "--decision-interval", "2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("teacher") / "run")
    assert main(["finetune", *SHORT, "--epochs", "1", "--output", folder]) == 0
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("more", [[], ["--workers", "2", "--share-gpu"], ["--students", "2"]])
def test_an_agent_learns_and_is_refined(tmp_path: Path, teacher: str, precision: Precision, more: list[str]) -> None:
    setting = [*STUDENT, "--teacher", teacher, "--precision", precision, "--cache", str(tmp_path / "cache")]
    assert main(["train", *setting, "--episodes", "2", *more, "--output", str(tmp_path / "train")]) == 0
    policy = ["--policy", str(tmp_path / "train" / "policy"), "--refine"]
    assert main(["distill", *setting, *policy, "--output", str(tmp_path / "student")]) == 0
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert 0 <= result["dev_score"] <= 100
    models.load_model(str(tmp_path / "student" / "student"))  # on the CPU


def test_more_workers_than_gpus_are_refused(tmp_path: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    count = torch.cuda.device_count() + 1
    arguments = ["train", *STUDENT, "--teacher", teacher, "--episodes", str(count), "--workers", str(count)]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
    assert f"{count} workers want a GPU each" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", sorted(METHODS))
def test_every_preset_runs(tmp_path: Path, teacher: str, preset: str) -> None:
    teachers = [teacher] * max(METHODS[preset].teachers[0], 1)  # students are cut from the first
    command = ["train", "--episodes", "2"] if preset == "ksm" else ["distill"]
    setting = [*STUDENT, "--teacher", *teachers, "--preset", preset]
    assert main([*command, *setting, "--output", str(tmp_path / "run")]) == 0
