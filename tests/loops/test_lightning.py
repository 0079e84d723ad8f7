"""The real `lightning.Trainer` with the losses of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ackd
from ackd.errors import InputError
from tests.test_python_docs import ROOT, blocks

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # where one is resumed
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]
X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
DATA = DataLoader(TensorDataset(X, X[:, :3].argmax(-1)), batch_size=4)
NAMES = ("labels", "logits", "hidden")
OPTIONS: dict[str, Any] = {"decision_interval": 2, "decisions": 6}


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("lightning", reason="lightning is not installed")


def losses_of(net: nn.Module, teacher: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    ours, theirs = net(batch[0]), teacher(batch[0])
    soft = F.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
    return {"labels": F.cross_entropy(ours, batch[1]), "logits": soft, "hidden": F.mse_loss(ours, theirs)}


def student(library: Any, **changes: Any) -> Any:
    """A module that notes the losses and learning rates of training; `changes` replace its methods."""

    class Student(library.LightningModule):  # type: ignore[misc]  # a class of Any
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
            self.seen: list[tuple[dict[str, float], float]] = []
            self.totals: list[float] = []

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            losses = losses_of(self.net, self.teacher, batch)
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.seen.append(({name: float(loss.detach()) for name, loss in losses.items()}, rate))
            total: Tensor = self.balancer(losses)
            self.totals.append(float(total.detach()))
            return total

        def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
            self.log("dev", self.balancer(losses_of(self.net, self.teacher, batch)))

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
            falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    return type("Student", (Student,), changes)()


def trainer(library: Any, folder: Path, policy: object, names: tuple[str, ...] = NAMES, **options: Any) -> Any:
    """Of two epochs of 6 batches, with a checkpoint after each epoch, which keeps what it logs."""
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from ackd.loops.lightning import BalancerCallback

    given = {
        "max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False,
        "enable_model_summary": False, "logger": CSVLogger(folder),
        "callbacks": [
            ModelCheckpoint(folder / "saved", "{epoch}", save_top_k=-1), BalancerCallback(policy, names, **OPTIONS)
        ],
    }  # fmt: skip
    return library.Trainer(**given | options)


def twin(policy: object, steps: int, module: Any, accumulate: int = 1) -> tuple[ackd.Balancer, list[float]]:
    """A balancer that is called with what a training reported, and its totals."""
    balancer = ackd.Balancer(policy, total_steps=steps, losses=NAMES, accumulate=accumulate, **OPTIONS)
    totals = [
        float(balancer({name: torch.tensor(value) for name, value in losses.items()}, learning_rate=rate))
        for losses, rate in module.seen
    ]
    return balancer, totals


def by_rate(episode: ackd.Episode) -> ackd.Selection:
    """A policy that shows whether it sees the learning rate and the losses."""
    last = episode.phases[-1] if episode.phases else None
    return ackd.Selection({"logits": 1.0 + (last.learning_rate + last.report.losses["logits"] if last else 0)})


def test_each_step_is_the_balancers_weighted_sum_and_validation_counts_nothing(library: Any, tmp_path: Path) -> None:
    module, fit = student(library), trainer(library, tmp_path, by_rate)
    fit.fit(module, DATA, DATA)
    balancer, totals = twin(by_rate, 12, module)
    assert module.totals == pytest.approx(totals)
    assert len(totals) == module.balancer.steps_done == 12
    assert module.balancer.log() == pytest.approx(balancer.log())
    logged = {name: float(value) for name, value in fit.logged_metrics.items() if "/" in name}
    assert logged == pytest.approx(balancer.log())
    assert "weight/logits" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()


def test_accumulated_batches_are_one_step(library: Any, tmp_path: Path) -> None:
    """Of 6 batches an epoch, 3 and 3 make a step; with 4, the last 2 make one too."""
    module, fit = student(library), trainer(library, tmp_path, "magnitude", accumulate_grad_batches=3)
    fit.fit(module, DATA, DATA)
    balancer, totals = twin("magnitude", 4, module, accumulate=3)
    assert (balancer.total_steps, module.balancer.steps_done) == (module.balancer.total_steps, 4)
    assert module.totals == pytest.approx(totals)
    uneven = trainer(library, tmp_path / "uneven", "magnitude", accumulate_grad_batches=4)
    uneven.fit(module, DATA, DATA)
    assert module.balancer.steps_done == module.balancer.total_steps == 4


def test_a_checkpoint_goes_on_bit_for_bit(library: Any, tmp_path: Path) -> None:
    whole, part = student(library), student(library)
    trainer(library, tmp_path, by_rate).fit(whole, DATA, DATA)
    saved = str(tmp_path / "saved" / "epoch=0.ckpt")
    trainer(library, tmp_path, by_rate).fit(part, DATA, DATA, ckpt_path=saved, weights_only=True)
    assert part.totals == whole.totals[6:]
    assert part.balancer.log() == whole.balancer.log()
    assert torch.equal(part.net.weight, whole.net.weight)


def test_a_checkpoint_of_another_policy_or_of_none_is_refused(library: Any, tmp_path: Path) -> None:
    trainer(library, tmp_path, "all", max_epochs=1).fit(student(library), DATA, DATA)
    saved = tmp_path / "saved" / "epoch=0.ckpt"
    with pytest.raises(InputError, match=r"of the policy 'all'.*'labels'"):
        trainer(library, tmp_path, "labels").fit(student(library), DATA, DATA, ckpt_path=saved, weights_only=True)
    state = torch.load(saved, weights_only=True)
    del state["callbacks"]["BalancerCallback"]
    torch.save(state, saved)
    with pytest.raises(InputError, match=r"epoch=0\.ckpt has no state of a balancer"):
        trainer(library, tmp_path, "all").fit(student(library), DATA, DATA, ckpt_path=saved, weights_only=True)


def test_a_module_that_never_calls_its_balancer_is_refused(library: Any, tmp_path: Path) -> None:
    def alone(self: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return losses_of(self.net, self.teacher, batch)["labels"]

    with pytest.raises(InputError, match=r"Student\.training_step does not call self\.balancer"):
        trainer(library, tmp_path, "all").fit(student(library, training_step=alone), DATA, DATA)


def test_a_loss_that_appears_later_is_refused(library: Any, tmp_path: Path) -> None:
    def growing(self: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        losses = losses_of(self.net, self.teacher, batch)
        return self.balancer({name: losses[name] for name in NAMES[: 2 + batch_idx]})

    with pytest.raises(InputError, match="the loss 'hidden' is new"):
        trainer(library, tmp_path, "all", names=()).fit(student(library, training_step=growing), DATA, DATA)


def test_what_cannot_be_weighed_or_has_no_end_is_refused(library: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ucb learns from rewards"):
        trainer(library, tmp_path, "ucb")
    with pytest.raises(InputError, match="give max_steps"):
        trainer(library, tmp_path, "all", max_epochs=-1).fit(student(library), DATA, DATA)


def test_the_documented_script_runs(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (script,) = (one for one in blocks(ROOT / "docs" / "balancer.md") if "ackd.loops.lightning" in one)
    known: dict[str, Any] = {}
    exec(compile(script, "docs/balancer.md", "exec"), known)
    assert known["trainer"].lightning_module.balancer.steps_done == 64
