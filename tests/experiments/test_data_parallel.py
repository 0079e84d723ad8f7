"""Several processes that train one student: the same student as one process trains, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ackd import knowledge, models
from ackd.cli import main
from ackd.costs import CostTracker
from ackd.distributed.process_group import ALONE, Alone, follow, joined, launched
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.experiments.data_parallel import join
from ackd.knowledge import RkdDistance
from ackd.models import Model
from ackd.training.distillation import Distillation
from ackd.types import Batch, OutputRequest, Outputs, Selection, Teacher
from ackd.weighting.influence import Distilled
from ackd.weighting.rl_kd import RlKd
from tests.learned import weights
from tests.processes import SERVER, torchrun
from tests.words import last_said

ALL = Selection.of(*knowledge.DEFAULT)
ROUNDING = 2.0**-23  # of float32, where gradients are clipped to a norm of 1
PATIENCE = 120  # seconds, after which processes hang
SHORT = ["--student-layers", "2", "--max-examples", "600", "--steps", "32", "--decision-interval", "2", "--lr", "5e-4"]
SHORT += ["--batch-size", "8", "--checkpoint-seconds", "0", "--task", "polarity"]


def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def launch(does: Callable[..., None], size: int, *args: Any, output: Path | None = None) -> list[BaseProcess]:
    """`does(*args)` in as many processes that know of each other as a launcher would tell them."""
    told = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port()}
    started: list[BaseProcess] = []
    for rank in range(size):
        environment = {name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()}
        started.append(SERVER.Process(target=begin, args=(environment, output, does, args)))
        started[-1].start()
    return started


def begin(environment: dict[str, str], output: Path | None, does: Callable[..., None], args: Sequence[Any]) -> None:
    os.environ.pop("OMP_NUM_THREADS", None)  # as who runs it may leave it
    os.environ.update(environment)
    torch.set_num_threads(1)
    if output is not None:
        said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
    does(*args)


def command(arguments: Sequence[str]) -> None:
    os._exit(main(list(arguments)))


def ends(processes: Sequence[BaseProcess]) -> list[int | None]:
    """The exit codes, once all have ended."""
    until = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging
    return [process.exitcode for process in processes]


class Still:
    """A student whose dropout is off."""

    def __init__(self, make: Callable[[], Model]) -> None:
        self.make = make

    def __call__(self) -> Model:
        model = self.make()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model


def make(*, still: bool = True, teachers: Sequence[Teacher] | None = None, **changes: Any) -> Distillation:
    """The tiny pair, with a student of another width, so that projections learn, too."""
    parts = tiny(student_width=8).distillation
    make_student = Still(parts._make_student) if still else parts._make_student
    setting = {"make_knowledge": parts._make_knowledge, "steps": 12, "batch_size": 12, "lr": 1e-3}
    return Distillation(parts.task, teachers or parts.teachers, make_student, **{**setting, **changes})


def some() -> Distillation:
    """A training that distils few examples: some processes of a step have none of them, and at times all."""
    ids = tiny().distillation.task.train.ids
    few = torch.from_numpy(np.sort(ids[::9]))
    return make(make_weighting=lambda: Distilled(few, len(few) / len(ids)), accumulate=2)


def train(training: Distillation, selection: Selection = ALL) -> dict[str, Any]:
    """What a run comes to."""
    training.reset(3)
    reward = training.task.reward
    reports = [training.advance(selection, 3), training.advance(Selection(), 2)]
    eval_results = [training.evaluate(reward, "reward"), training.measure_teacher(reward, "reward")]
    reports.append(training.advance(selection, 4))
    represented = training.represent()
    return {
        "weights": weights(training),
        "reports": reports,
        "standings": [*eval_results, training.evaluate(reward, "reward")],
        "represented": represented,
        "facts": training.facts(),
        "ledger": training.costs,
        "sums": training.distiller.scales.state_dict()["sums"],
    }


def trained(folder: Path, making: Callable[[], Distillation]) -> None:
    with joined("cpu") as group:
        training = making()
        join(training, group)
        came = train(training) if group.rank == 0 else {}
        follow(training)
        torch.save({**came, "weights": weights(training)}, folder / f"{group.rank}.pt")


def several(folder: Path, making: Callable[[], Distillation], size: int) -> list[dict[str, Any]]:
    assert ends(launch(trained, size, folder, making)) == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def with_gradients(training: Distillation) -> tuple[dict[str, Any], torch.Tensor]:
    """What a run comes to, and the first gradient of each weight that is not 0, where there is one."""
    first: dict[int, torch.Tensor] = {}

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for weight in (one for group in optimizer.param_groups for one in group["params"] if one.grad is not None):
            known = first.setdefault(id(weight), torch.zeros_like(weight))
            known.copy_(torch.where(known == 0, weight.grad, known))

    looking = register_optimizer_step_pre_hook(look)
    try:
        came = train(training)
    finally:
        looking.remove()
    parameters = training.student.parameters
    return came, torch.cat([first.get(id(one), torch.zeros_like(one)).flatten() for one in parameters])


@pytest.mark.parametrize(("making", "size"), [(make, 3), (some, 2)])
def test_they_train_the_student_that_one_process_trains(
    making: Callable[[], Distillation], size: int, tmp_path: Path
) -> None:
    first, *others = several(tmp_path, making, size)
    alone, gradients = with_gradients(making())
    for other in others:
        assert torch.equal(other["weights"], first["weights"])
    start = weights(making())
    assert (alone["weights"] - start).abs().max() > 1e-3  # so that it says something that they are near
    apart = (first["weights"] - alone["weights"]).abs()
    # Adam's first step for a weight is lr g / (|g| + 1e-8): where g is no more than rounding, it may be any up to lr
    rounded = (gradients != 0) & (gradients.abs() < ROUNDING)
    assert apart[~rounded].max() < 1e-5
    assert apart.max() < 1e-3
    assert rounded.float().mean() < 0.05
    for mine, its in zip(first["standings"], alone["standings"], strict=True):
        assert mine.score == its.score
        assert mine.loss == pytest.approx(its.loss, abs=1e-5)
    for mine, its in zip(first["reports"], alone["reports"], strict=True):
        figures = (mine.loss, mine.labels, mine.grad_norm, mine.uncertainty, mine.accuracy)
        assert figures == pytest.approx((its.loss, its.labels, its.grad_norm, its.uncertainty, its.accuracy), rel=1e-3)
        if making is make:  # a mean over the few rows that each process has is another than over all of them
            assert mine.losses == pytest.approx(its.losses, rel=1e-4, abs=1e-6)
    for name, total in first["sums"].items():
        assert float(total) == pytest.approx(float(alone["sums"][name]), rel=1e-3)
    for mine, its in zip(first["represented"], alone["represented"], strict=True):
        assert mine == pytest.approx(its, abs=1e-4)
    spent, its = first["ledger"], alone["ledger"]
    assert (spent.steps, spent.reward_passes) == (its.steps, its.reward_passes)
    assert spent.teacher_queries == its.teacher_queries > 0
    assert first["facts"] == alone["facts"] is not None
    for part in ("reward", "probe"):
        assert spent.flops[part] == its.flops[part] > 0  # the same batches
    for part in ("student", "teacher", "knowledge"):  # smaller batches, so less padding
        assert 0.7 * its.flops[part] < spent.flops[part] <= its.flops[part]


def dropping() -> Distillation:
    return make(still=False, steps=12, lr=5e-3)


def loss_after(training: Distillation) -> float:
    training.advance(Selection.of("logits"), 12)
    return training.evaluate(training.task.reward, "reward").loss


def dropped(path: Path) -> None:
    with joined("cpu") as group:
        training = dropping()
        join(training, group)
        if group.rank == 0:
            training.reset(0)
            path.write_text(str(loss_after(training)))
        follow(training)


def test_with_dropout_they_differ_as_much_as_other_dropout_does(tmp_path: Path) -> None:
    """The same start, data and order: within four deviations of what one process comes to under five dropouts."""
    assert ends(launch(dropped, 2, tmp_path / "loss")) == [0, 0]
    losses = []
    for rank in range(5):
        training, other = dropping(), Alone()
        other.rank = rank
        training.join(other)
        training.reset(0)
        other.rank = 0  # but for its dropout it is the only process
        losses.append(loss_after(training))
    noise = statistics.stdev(losses)
    assert noise > 0
    assert abs(float((tmp_path / "loss").read_text()) - statistics.mean(losses)) < 4 * noise


def goes_on(folder: Path) -> None:
    with joined("cpu") as group:
        training = make(still=False)
        join(training, group)
        if group.rank == 0:
            training.reset(1)
            training.advance(ALL, 4)
            state = training.state_dict()
            before = training.costs.as_dict()
            training.advance(ALL, 4)
            undisturbed = weights(training)
            training.load_state_dict(state)
            after = training.costs.as_dict()
            training.advance(ALL, 4)
            torch.save((undisturbed, weights(training), before["flops"], after["flops"]), folder / "went.pt")
            torch.save(state, folder / "state.pt")
        follow(training)


def test_a_state_has_the_dropout_of_all_of_them(tmp_path: Path) -> None:
    assert ends(launch(goes_on, 2, tmp_path)) == [0, 0]
    undisturbed, went, before, after = torch.load(tmp_path / "went.pt")
    assert torch.equal(undisturbed, went)
    assert before == after
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    with pytest.raises(InputError, match="one of 2 processes, and now there are 1"):
        make(still=False).load_state_dict(state)


class Pair(Alone):
    """Two processes, as one of them sees it, of which the other has something else to say."""

    size = 2

    def __init__(self, **other: Any) -> None:
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        _, mine = value
        return [value, ("elsewhere", {**mine, **self.other})]


def test_what_differs_is_named() -> None:
    training = make()
    for name in ("ackd", "torch", "training data", "reward split", "teacher 1", "first weights of the student", "--lr"):
        with pytest.raises(InputError, match=f"process 1 on elsewhere has {name} another, and process 0 on .* has "):
            join(training, Pair(**{name: "another"}), {"--lr": 1e-3})
    assert training.group is ALONE


def test_what_one_process_cannot_see_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="a batch of 15 examples cannot be shared evenly by 2 processes"):
        join(make(batch_size=15), Pair())
    shape = models.shape_of(make().student.model)
    teachers = make().teachers

    def relations() -> list[RkdDistance]:
        return [RkdDistance(shape, teachers[0].shape)]

    with pytest.raises(InputError, match="'rkd-distance' compares the examples"):
        join(make(make_knowledge=relations, batch_size=2), Pair())
    with caplog.at_level("INFO", "ackd"):
        join(make(make_knowledge=relations, batch_size=4), Pair())
    assert "rkd-distance compares within the 2 examples that each of 2 processes has" in caplog.text
    learned = make(make_weighting=lambda: RlKd(2, 2, width=8, layer=1))
    with pytest.raises(InputError, match="learns its weights from whole batches"):
        join(learned, Pair())
    training = make()
    join(training, Pair())
    with pytest.raises(ValueError, match="cannot be forked"):
        training.fork()


def test_alone_nothing_changes() -> None:
    training = make()
    join(training, ALONE)
    assert training.group is ALONE
    indices = np.arange(5)
    assert ALONE.share(indices) is indices
    value = torch.tensor(2.0)
    assert ALONE.mean(value, 0) == (value, 0)


class Grudging:
    """The tiny teacher, which refuses in one process, after some batches."""

    def __init__(self, refusing: bool) -> None:
        (self.inner,) = tiny().distillation.teachers
        self.shape, self.fingerprint, self.flops = self.inner.shape, self.inner.fingerprint, self.inner.flops
        self.left = 3 if refusing else 1000

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        self.left -= 1
        if not self.left:
            raise InputError("enough is enough")
        return self.inner(batch, needs, costs)


def refused() -> None:
    try:
        with joined("cpu") as group:
            training = make(teachers=[Grudging(group.rank == 1)])
            join(training, group)
            if group.rank == 0:
                train(training)
            follow(training)
    except InputError as error:
        print(f"ackd: {error}", flush=True)
        os._exit(2)


def test_an_error_anywhere_ends_all_and_is_said_once(tmp_path: Path) -> None:
    output = tmp_path / "said"
    codes = ends(launch(refused, 3, output=output))
    assert codes[1] == 2
    assert 0 not in codes
    said = output.read_text()
    assert [line for line in said.splitlines() if line.startswith("ackd:")] == ["ackd: enough is enough"]
    assert "OMP_NUM_THREADS" not in said  # as accelerate warns where nobody has set it


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "polarity"
    arguments = ["finetune", "--task", "polarity", "--max-examples", "300", "--epochs", "1", "--lr", "1e-3"]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder


def test_a_batch_that_they_cannot_share_is_refused_once(teacher: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "said", tmp_path / "run"
    arguments = ["distill", *SHORT, "--batch-size", "15", "--teacher", str(teacher), "--output", str(folder)]
    assert ends(launch(command, 2, last_said(arguments), output=output)) == [2, 2]
    (said,) = [line for line in output.read_text().splitlines() if line.startswith("ackd:")]
    assert "a batch of 15 examples cannot be shared evenly by 2 processes" in said
    assert not folder.exists()


def test_killed_and_resumed_they_end_as_if_undisturbed(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "run", tmp_path / "said"
    arguments = ["distill", *SHORT, "--teacher", str(teacher), "--output", str(folder), "--resume"]
    for victim, answers in ((1, 2), (0, 4)):
        processes = launch(command, 2, arguments, output=output)
        replay_log, until = folder / "checkpoint" / "journal.jsonl", time.monotonic() + PATIENCE
        while not (replay_log.exists() and len(replay_log.read_text().splitlines()) >= answers):
            assert time.monotonic() < until
            assert processes[victim].is_alive()
            time.sleep(0.005)
        os.kill(processes[victim].pid or 0, signal.SIGKILL)
        codes = ends(processes)
        assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 1)
        assert not (folder / "result.json").exists()
    assert output.read_text().count("ackd: another process of this run has ended") == 1  # what the first one says
    assert ends(launch(command, 2, arguments, output=output)) == [0, 0]
    same(folder, undisturbed)


def test_torchrun_starts_them_again_and_they_go_on(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["distill", *SHORT, "--teacher", str(teacher), "--output", str(folder)]
    launcher = torchrun(arguments, tmp_path / "ranks", restarts=1, all_of_dev=True)
    replay_log, until = folder / "checkpoint" / "journal.jsonl", time.monotonic() + PATIENCE
    while not (replay_log.exists() and len(replay_log.read_text().splitlines()) >= 2):
        assert time.monotonic() < until
        assert launcher.is_alive()
        time.sleep(0.005)
    first, *_ = (folder / ".lock").read_text().split()
    os.kill(int(first), signal.SIGKILL)
    assert ends([launcher]) == [0], (tmp_path / "ranks" / "errors").read_text()
    assert (tmp_path / "ranks" / "out").read_text().count("polarity: accuracy") == 1
    same(folder, undisturbed)


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as a user launches it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    arguments = ["distill", *SHORT, "--teacher", str(teacher), "--output", str(folder)]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port()), "-m", "ackd"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("polarity: accuracy") == done.stdout.count("to learn from") == 1
    assert done.stdout.count("distil ") == 1
    assert "cpu, 2 processes" in done.stdout
    return folder


def same(one: Path, other: Path) -> None:
    mine, its = (load_file(folder / "student" / "model.safetensors") for folder in (one, other))
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert (one / "decisions.csv").read_text() == (other / "decisions.csv").read_text()
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert len({result["dev_score"] for result in results}) == 1
    ledgers = [json.loads((folder / "ledger.json").read_text()) for folder in (one, other)]
    assert ledgers[0]["flops"] == ledgers[1]["flops"]


def test_accelerate_alone_on_a_cpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for several processes on a CPU it starts one, and says nothing."""
    assert launched() == 1
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(InputError, match="starts one process alone"):
        launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched() == 2
    with pytest.raises(InputError, match="cannot share the device 'cuda:1'"), joined("cuda:1"):
        pass


@pytest.mark.parametrize(("launcher", "value"), [("ACCELERATE_MIXED_PRECISION", "no"), ("TORCHELASTIC_RUN_ID", "1")])
def test_other_commands_are_not_copied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], launcher: str, value: str
) -> None:
    monkeypatch.setenv(launcher, value)
    assert main(["presets"]) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["presets"]) == 2
    assert "2 processes were launched of a command that works in one" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        main(["presets"])
    assert ended.value.code == 0
    assert capsys.readouterr() == ("", "")


def test_they_keep_to_a_budget_together(teacher: Path, tmp_path: Path) -> None:
    arguments = ["distill", *SHORT, "--flops-budget", "0.8", "--teacher", str(teacher)]
    shares = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        assert ends(launch(command, size, [*arguments, "--output", str(folder)])) == [0] * size
        shares.append(json.loads((folder / "result.json").read_text())["flops_share"])
    assert 0.78 < min(shares) <= max(shares) <= 0.8
