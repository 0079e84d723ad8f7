"""What only a GPU can show: inside a decision the host never waits for it, and it computes what the CPU does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ackd import Selection, models, tasks
from ackd.cache import Cache, Examples
from ackd.knowledge import NAMES, build
from ackd.loop import Distillation
from ackd.precision import Precision
from ackd.teachers import Cached, ModelTeacher
from ackd.types import Teacher, mean, union

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def strict() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def distillation(device: str, *, cache: Path | None = None, precision: Precision = "fp32") -> Distillation:
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
        )
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
        batch = run.task.train.batch(run.order.next()).to(run.device)
        reports.append(run.distiller.step([batch], selection))
    torch.cuda.set_sync_debug_mode("default")
    assert mean(reports).finite


def test_a_gpu_computes_what_a_cpu_does(tmp_path: Path) -> None:
    reports = [distillation(device).advance(Selection.of(*NAMES), 3) for device in ("cpu", "cuda")]
    for name in NAMES:
        assert reports[0].losses[name] == pytest.approx(reports[1].losses[name], rel=2e-2), name


def test_the_cache_is_filled_from_a_gpu_and_read_back(tmp_path: Path) -> None:
    run = distillation("cuda", cache=tmp_path)
    first = run.advance(Selection.of(*NAMES), 40)
    run.reset(0)
    again = run.advance(Selection.of(*NAMES), 40)
    assert run.ledger.cached_queries > 0
    assert again.loss == pytest.approx(first.loss, rel=1e-2)
