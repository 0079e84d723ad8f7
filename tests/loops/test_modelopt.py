"""Distillation with the real ModelOpt, and the losses of a policy."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ackd
from ackd.errors import InputError
from tests.test_python_docs import ROOT, blocks

pytestmark = [
    pytest.mark.filterwarnings("ignore:transformers .* is not tested with current version of modelopt:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning"),
]
NAMES = ("student_loss", "MSELoss_0", "LogitsDistillationLoss_1")
OPTIONS: dict[str, Any] = {"total_steps": 8, "decision_interval": 2, "decisions": 4}


@pytest.fixture
def distill() -> Any:
    """`modelopt.torch.distill`."""
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed: pip install 'ackd[modelopt]'")
    return importlib.import_module("modelopt.torch.distill")


def balancer(policy: object = "magnitude", **options: Any) -> Any:
    from ackd.loops.modelopt import PolicyLossBalancer

    return PolicyLossBalancer(policy, **OPTIONS | options)


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).relu())
        return logits


def converted(distill: Any, loss_balancer: Any) -> Any:
    soft = distill.LogitsDistillationLoss(reduction="batchmean")
    criterion = {("body", "body"): nn.MSELoss(), ("head", "head"): soft}
    config = {"teacher_model": Net(1), "criterion": criterion, "loss_balancer": loss_balancer}
    return distill.convert(Net(0), mode=[("kd_loss", config)])


def learn(model: Any, first: int, last: int) -> list[float]:
    """The losses of steps on inputs that depend on the step alone."""
    optimizer, totals = torch.optim.SGD(model.parameters(), lr=0.1), []
    for step in range(first, last):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = model.compute_kd_loss(student_loss=F.cross_entropy(model(x), x[:, :3].argmax(-1)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(float(loss.detach()))
    return totals


def test_each_step_is_the_balancers_weighted_sum(distill: Any) -> None:
    made = balancer()
    model = converted(distill, made)
    twin = ackd.Balancer("magnitude", losses=NAMES, labels="student_loss", **OPTIONS)
    student, teacher = Net(0), Net(1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for step, total in enumerate(learn(model, 0, 8)):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            theirs = teacher(x)
            hidden = teacher.body(x)
        logits = student(x)
        losses = {
            "student_loss": F.cross_entropy(logits, x[:, :3].argmax(-1)),
            "MSELoss_0": F.mse_loss(student.body(x), hidden),
            "LogitsDistillationLoss_1": F.kl_div(logits.log_softmax(-1), theirs.softmax(-1), reduction="batchmean"),
        }
        expected = twin(losses)
        expected.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert total == pytest.approx(float(expected.detach()))
    assert made.balancer.log() == pytest.approx(twin.log())
    assert made.balancer.steps_done == 8


def test_a_state_dict_goes_on_bit_for_bit(distill: Any) -> None:
    whole, part = converted(distill, balancer("famo")), converted(distill, balancer("famo"))
    learn(whole, 0, 5)
    part.load_state_dict(whole.state_dict())
    assert learn(part, 5, 8) == learn(whole, 5, 8)
    assert part.loss_balancer.balancer.log() == whole.loss_balancer.balancer.log()


def test_a_state_dict_of_a_plain_student_is_loaded_and_one_of_another_policy_refused(distill: Any) -> None:
    model = converted(distill, balancer())
    model.load_state_dict(Net(5).state_dict())
    assert torch.equal(model.body.weight, Net(5).body.weight)
    learn(model, 0, 4)
    with pytest.raises(InputError, match=r"of the policy 'magnitude'.*'all'"):
        converted(distill, balancer("all")).load_state_dict(model.state_dict())


def test_the_students_loss_is_reduced_first(distill: Any) -> None:
    made = balancer(ackd.Selection({"MSELoss_0": 1.0}, labels=0.5), losses=NAMES, scale_steps=0)
    made.set_student_loss_reduction_fn(lambda loss: loss.sum() / 4)
    losses: dict[str, Tensor] = {"student_loss": torch.arange(4.0), "MSELoss_0": torch.tensor(2.0)}
    assert float(made(losses)) == 0.5 * 6 / 4 + 2
    assert losses["student_loss"].shape == (4,)


def test_without_gradients_nothing_is_counted(distill: Any) -> None:
    made = balancer("all")
    with torch.no_grad():
        made({name: torch.tensor(1.0) for name in NAMES})
    assert made.balancer.steps_done == 0


def test_what_cannot_be_weighed_is_refused(distill: Any) -> None:
    with pytest.raises(InputError, match="ucb learns from rewards"):
        balancer("ucb", losses=NAMES)
    with pytest.raises(InputError, match="family of the loss 'L1Loss_0' cannot be derived"):
        balancer("all", losses=("student_loss", "L1Loss_0"))
    with pytest.raises(InputError, match="labels=None"):
        balancer("all")({"MSELoss_0": torch.tensor(1.0)})
    made = balancer("all", labels=None)
    made({"MSELoss_0": torch.tensor(1.0)})
    with pytest.raises(InputError, match="'MSELoss_1' is new"):
        made({"MSELoss_0": torch.tensor(1.0), "MSELoss_1": torch.tensor(1.0)})


def test_the_documented_script_runs(distill: Any) -> None:
    (script,) = (one for one in blocks(ROOT / "docs" / "balancer.md") if "ackd.loops.modelopt" in one)
    known: dict[str, Any] = {}
    exec(compile(script, "docs/balancer.md", "exec"), known)
    assert known["balancer"].balancer.steps_done == 100
