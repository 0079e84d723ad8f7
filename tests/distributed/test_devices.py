"""What `--device auto` is of workers, of processes that train one student, and of those that share out their work."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import torch

from ackd.distributed import process_group, workers
from ackd.distributed.shards import own_device
from ackd.experiments.workers import WorkerConfig


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("RAY_ADDRESS", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@dataclass(frozen=True)
class Case:
    """Workers, and what `auto` is of them."""

    backend: str
    count: int
    device: str
    share_gpu: bool = False
    address: str | None = None


@pytest.mark.parametrize(
    "case",
    [
        Case("subproc", 2, "cuda"),
        Case("subproc", 3, "cpu"),
        Case("subproc", 3, "cuda", share_gpu=True),
        Case("dummy", 3, "cpu"),
        Case("ray", 2, "cuda"),
        Case("ray", 2, "cpu", address="host:6379"),
    ],
)
def test_workers_have_a_gpu_each_or_none(
    case: Case, gpus: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ackd")
    found = workers.automatic(case.backend, case.count, address=case.address, share_gpu=case.share_gpu)
    assert found == case.device
    assert len(caplog.messages) == (case.device == "cpu")  # GPUs that stand by are told of
    if case.address is None:
        workers.check(case.backend, case.count, device=found, share_gpu=case.share_gpu)  # and what it is can be had
    assert all("--device auto is cpu" in line for line in caplog.messages)


def test_without_a_gpu_it_is_the_cpu_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert workers.automatic("subproc", 2) == "cpu"
    assert WorkerConfig(workers=2).check_workers("auto") == "cpu"
    assert caplog.messages == []


def test_of_one_process_it_stays_auto_and_of_torchruns_ranks_those_of_a_machine_count(gpus: pytest.MonkeyPatch) -> None:
    assert WorkerConfig().check_workers("auto") == "auto"
    assert WorkerConfig(workers=2).check_workers("auto") == "cuda"
    assert WorkerConfig(workers=2).check_workers("cpu") == "cpu"
    gpus.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers.automatic("torchrun", 8) == "cuda"
    gpus.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers.automatic("torchrun", 8) == "cpu"


def test_processes_of_one_student_have_a_gpu_each_or_none(gpus: pytest.MonkeyPatch) -> None:
    assert process_group.automatic("auto") == "auto"
    for local, device in (("2", "cuda"), ("4", "cpu")):
        gpus.setenv("WORLD_SIZE", "4")
        gpus.setenv("LOCAL_WORLD_SIZE", local)
        assert process_group.automatic("auto") == device
        assert process_group.automatic("cuda:1") == "cuda:1"
    gpus.setenv("LOCAL_WORLD_SIZE", "2")
    gpus.setenv("ACCELERATE_USE_CPU", "true")
    assert process_group.automatic("auto") == "cpu"


def test_processes_that_share_out_their_work_have_a_gpu_each_or_none(gpus: pytest.MonkeyPatch) -> None:
    assert own_device("auto") == "auto"
    for local, device in (("2", "cuda:1"), ("4", "cpu")):
        gpus.setenv("LOCAL_RANK", "1")
        gpus.setenv("LOCAL_WORLD_SIZE", local)
        assert own_device("auto") == device
        assert own_device("cuda") == "cuda:1"
