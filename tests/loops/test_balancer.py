"""A policy in a loop of one's own decides what it decides in the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

import ackd
from ackd.agents.policy import Observations
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.experiments.policies import arm
from ackd.knowledge import NAMES, build
from ackd.mdp.observations import GLOBALS
from ackd.types import LABELS, ModelDims, Selection
from tests import processes

TYPES = ("logits", "hidden", "attention")
SIZES = ModelDims(layers=2, width=4, heads=2, classes=3, vocabulary=50)
FACTS = [GLOBALS.index(name) for name in GLOBALS[GLOBALS.index("facts") :]]


class Arbitrary:
    """Weights that depend on all that is observed but the facts, which no loop knows; some of them are 0."""

    choice = "weights"

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._matrix: NDArray[np.float64] | None = None

    def predict(
        self, observation: Observations, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        overview = np.array(observation["globals"])
        overview[FACTS] = 0.0
        seen = np.concatenate([overview, observation["knowledge"]])
        if self._matrix is None:
            self._matrix = self._rng.normal(0.0, 1.0, (len(observation["mask"]), len(seen)))
        entries = 1 / (1 + np.exp(-self._matrix @ seen))
        return (entries * (observation["mask"] > 0)).astype(np.float32), state


def constant(values: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def weights_in_env(policy: Any, **setting: Any) -> tuple[ackd.DistillationEnv, list[dict[str, float]]]:
    env = tiny(choice="weights", reward_every=None, **setting)
    observation, _ = env.reset(seed=3)
    over, decided = False, []
    while not over:
        action, _ = policy.predict(observation, None, deterministic=True)
        before = env.episode.steps_done if env.episode else 0
        observation, _, over, _, _ = env.step(action)
        assert env.episode is not None
        selection = env.episode.phases[-1].selection
        steps = env.episode.steps_done - before
        decided += [{LABELS: selection.labels, **{t: selection.weights.get(t, 0.0) for t in TYPES}}] * steps
    return env, decided


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(24, 2, None), (24, 2, 4), (25, 4, 3)])
def test_the_same_numbers_give_the_same_weights_as_in_the_environment(
    seed: int, shape: tuple[int, int, int | None]
) -> None:
    steps, interval, decisions = shape
    env, decided = weights_in_env(Arbitrary(seed), steps=steps, decision_interval=interval, decisions=decisions)
    assert env.episode is not None
    balancer = ackd.Balancer(
        Arbitrary(seed), total_steps=steps, losses=[LABELS, *TYPES], decision_interval=interval,
        decisions=decisions or steps, costs=env.signals.prices, peak_learning_rate=1.0,
    )  # fmt: skip
    found = []
    for phase in env.episode.phases:
        report = phase.report
        for _ in range(phase.steps):
            found.append(balancer.weights)
            balancer(
                constant({LABELS: report.labels, **report.losses}),
                learning_rate=phase.learning_rate, grad_norm=report.grad_norm, accuracy=report.accuracy,
                uncertainty=report.uncertainty, flops=(phase.flops / phase.steps, phase.flops_all / phase.steps),
            )  # fmt: skip
    assert len(found) == len(decided) == steps
    for mine, there in zip(found, decided, strict=True):
        assert mine == pytest.approx(there, abs=1e-6)


@pytest.mark.parametrize("policy", ["default", "all", "scheduled", "magnitude", "dwa", "probe-rule:default"])
def test_what_ships_decides_alike_in_both(policy: str) -> None:
    one = arm(policy, TYPES)
    env = tiny(steps=40, decision_interval=5, decisions=4, reward_every=None).variant(**one.settings)
    acting = one.make(env, 0)
    observation, _ = env.reset(seed=1)
    episode = env.episode
    assert episode is not None
    env.trajectory.episode = type(episode)(
        None, None, episode.steps, episode.decision_interval, decisions=episode.decisions
    )
    observation, state, over = env.signals.observe(env.trajectory.episode), None, False
    while not over:
        action, state = acting.predict(observation, state, deterministic=True)
        observation, _, over, _, _ = env.step(action)
    balancer = ackd.Balancer(
        policy, total_steps=40, losses=[LABELS, *TYPES], decision_interval=5, costs=env.signals.prices
    )
    assert env.episode is not None
    for phase in env.episode.phases:
        assert balancer.weights == pytest.approx(
            {LABELS: phase.selection.labels, **{name: phase.selection.weights.get(name, 0.0) for name in TYPES}}
        )
        for _ in range(phase.steps):
            balancer(
                constant({LABELS: phase.report.labels, **phase.report.losses}),
                learning_rate=phase.learning_rate, flops=(phase.flops / phase.steps, phase.flops_all / phase.steps),
            )  # fmt: skip


def drawn(seed: int, calls: int) -> Iterator[dict[str, float]]:
    rng = np.random.default_rng(seed)
    for _ in range(calls):
        yield {name: float(value) for name, value in zip((LABELS, *TYPES), rng.gamma(2.0, size=4), strict=True)}


def test_the_sum_is_the_formula() -> None:
    chosen = {"logits": 2.0, "hidden": 0.5, "attention": 0.0}
    balancer = ackd.Balancer(Selection(chosen, labels=0.25), total_steps=100, scale_steps=3)
    seen: dict[str, list[float]] = {name: [] for name in TYPES}
    for losses in drawn(0, 8):
        total = float(balancer(constant(losses)))
        expected = 0.25 * losses[LABELS]
        for name in ("logits", "hidden"):
            seen[name] = [*seen[name], losses[name]][:3]
            expected += chosen[name] * losses[name] / float(np.mean(seen[name]))
        assert total == pytest.approx(expected, rel=1e-6)
    assert balancer.wanted == {LABELS, "logits", "hidden"}


def test_gradients_are_those_of_the_weighted_sum() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    balancer = ackd.Balancer(Selection({"logits": 2.0}, labels=0.5), total_steps=5, scale_steps=1)
    balancer({LABELS: x[0] ** 2, "logits": x[1] ** 2}).backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.5 * 2.0, 2.0 * 4.0 / 4.0])


def test_a_loss_of_weight_0_need_not_be_there() -> None:
    balancer = ackd.Balancer("logits", total_steps=10, losses=["ce", "logits", "hidden"], labels="ce")
    assert balancer.wanted == {"ce", "logits"}
    assert balancer.weights == {"ce": 1.0, "logits": 1.0, "hidden": 0.0}
    balancer(constant({"ce": 1.0, "logits": 2.0}))
    with pytest.raises(InputError, match=r"logits.*wanted"):
        balancer(constant({"ce": 1.0, "hidden": 2.0}))


def test_evaluation_weighs_and_counts_nothing() -> None:
    pair = [ackd.Balancer("all", total_steps=9, decision_interval=3, scale_steps=2) for _ in range(2)]
    for losses in drawn(1, 9):
        totals = [one(constant(losses)) for one in pair]
        assert torch.equal(*totals)
        with torch.no_grad():
            for other in drawn(2, 3):
                pair[1](constant(other))
    assert pair[0].log() == pair[1].log()
    assert pair[1].steps_done == 9


def test_accumulated_batches_make_one_step() -> None:
    whole = ackd.Balancer("magnitude", total_steps=8, decision_interval=2)
    parts = ackd.Balancer("magnitude", total_steps=8, decision_interval=2, accumulate=2)
    for losses in drawn(3, 8):
        whole(constant(losses))
        for factor in (0.5, 1.5):
            parts(constant({name: factor * value for name, value in losses.items()}))
        assert parts.weights == pytest.approx(whole.weights)
    assert parts.steps_done == 8


def test_a_loop_may_say_where_its_steps_end() -> None:
    whole = ackd.Balancer("magnitude", total_steps=8, decision_interval=2)
    parts = ackd.Balancer("magnitude", total_steps=8, decision_interval=2, accumulate=None)
    for calls, losses in enumerate(drawn(3, 8), start=1):
        whole(constant(losses))
        for _ in range(calls % 3):
            parts(constant(losses))
        parts.end_step()
    assert whole.steps_done == 8
    assert parts.steps_done == 8 - 2  # without a call there is no step


@pytest.mark.parametrize("policy", ["default", "famo", "uncertainty", "random-weights", "random-held"])
@pytest.mark.parametrize("cut", [0, 3, 7, 12])
def test_a_state_goes_on_as_if_nothing_had_happened(policy: str, cut: int, tmp_path: Path) -> None:
    def made() -> ackd.Balancer:
        return ackd.Balancer(policy, total_steps=15, decision_interval=2, losses=[LABELS, *TYPES], seed=5)

    undisturbed, first = made(), made()
    losses = list(drawn(4, 15))
    told = [float(undisturbed(constant(one))) for one in losses]
    for one in losses[:cut]:
        first(constant(one))
    torch.save(first.state_dict(), tmp_path / "state")
    second = ackd.Balancer(policy, total_steps=15, decision_interval=2, seed=5)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert [float(second(constant(one))) for one in losses[cut:]] == told[cut:]
    assert second.log() == undisturbed.log()


def test_a_learning_rate_may_be_set_and_its_peak_is_in_the_state() -> None:
    def made() -> ackd.Balancer:
        return ackd.Balancer("all", total_steps=4, decision_interval=1, losses=[LABELS, "kd"])

    losses = constant({LABELS: 1.0, "kd": 1.0})
    first, second = made(), made()
    for rate in (0.1, 0.4):
        first.learning_rate = rate
        first(losses)
    second.load_state_dict(first.state_dict())
    for rate in (0.2, 0.1):
        second(losses, learning_rate=rate)
    assert [phase.learning_rate for phase in second._named().episode.phases] == pytest.approx([1.0, 1.0, 0.5, 0.25])


def test_a_state_of_another_balancer_is_refused() -> None:
    one = ackd.Balancer("magnitude", total_steps=8, decision_interval=1)
    for losses in drawn(5, 4):
        one(constant(losses))
    with pytest.raises(InputError, match=r"magnitude.*dwa"):
        ackd.Balancer("dwa", total_steps=8).load_state_dict(one.state_dict())
    state = one.state_dict()
    state["phases"][1]["report"]["losses"]["logits"] *= 3
    with pytest.raises(InputError, match="same arguments"):
        ackd.Balancer("magnitude", total_steps=8, decision_interval=1).load_state_dict(state)


@pytest.mark.parametrize("damage", ["phases", "scales", "losses", "sums"])
def test_a_damaged_state_is_one_sentence(damage: str) -> None:
    one = ackd.Balancer("magnitude", total_steps=8, decision_interval=1)
    one(constant(dict.fromkeys([LABELS, "kd"], 1.0)))
    for state in (one.state_dict() | {damage: [3]}, {k: v for k, v in one.state_dict().items() if k != damage}):
        other = ackd.Balancer("magnitude", total_steps=8, decision_interval=1)
        with pytest.raises(InputError, match=r"damaged|no loss"):
            other.load_state_dict(state)


def test_after_its_last_step_weights_stay_and_nothing_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    balancer = ackd.Balancer("magnitude", total_steps=4, decision_interval=2)
    for losses in drawn(6, 4):
        balancer(constant(losses))
    before = balancer.weights
    for losses in drawn(7, 3):
        balancer(constant(losses))
    assert balancer.weights == before
    assert balancer.steps_done == 4
    assert caplog.text.count("past its 4 steps") == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("kd_loss", "logits"), ("KL", "logits"), ("soft-labels", "logits"), ("hidden_3", "hidden"),
        ("FeatureMSE", "hidden"), ("attn", "attention"), ("layer2.attention", "attention"), ("rkd-angle", "relation"),
        ("MSELoss_0", "hidden"), ("KLDivLoss", "logits"), ("LogitsDistillationLoss_1", "logits"),
    ],
)  # fmt: skip
def test_a_name_says_its_family(name: str, family: str) -> None:
    def rule(episode: ackd.Episode) -> Selection:
        return Selection({name: 1.0})

    balancer = ackd.Balancer(rule, total_steps=3, losses=[LABELS, name])
    other = ackd.Balancer(rule, total_steps=3, losses=[LABELS, name], families={name: family})
    assert balancer._named().signals.families == other._named().signals.families == {LABELS: LABELS, name: family}


def test_the_names_of_ackds_own_types_say_their_families() -> None:
    for one in build(NAMES, SIZES, SIZES):
        balancer = ackd.Balancer("all", total_steps=3, losses=[LABELS, one.name])
        assert balancer._named().signals.families[one.name] == one.family


def test_families_share_a_schedules_weight_whatever_the_names() -> None:
    plain = ackd.Balancer("default", total_steps=12, losses=[LABELS, *TYPES])
    named = {"ce": LABELS, "kd": "logits", "layer.1.mse": "hidden", "layer.2.mse": "hidden", "attn": "attention"}
    own = ackd.Balancer("default", total_steps=12, losses=list(named), labels="ce")
    for _ in range(12):
        for name, there in named.items():
            assert own.weights[name] == plain.weights[there]
        plain(constant(dict.fromkeys([LABELS, *TYPES], 1.0)))
        own(constant(dict.fromkeys(named, 1.0)))


def test_there_may_be_no_labels() -> None:
    balancer = ackd.Balancer("all", total_steps=4, losses=["logits", "hidden"], labels=None, scale_steps=0)
    assert float(balancer(constant({"logits": 1.0, "hidden": 2.0}))) == 3.0
    with pytest.raises(InputError, match="nothing"):
        ackd.Balancer("labels", total_steps=4, losses=["logits"], labels=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ackd.Balancer("defualt", total_steps=3, losses=[LABELS, "kd"]), "defualt"),
        (lambda: ackd.Balancer("ucb", total_steps=3, losses=[LABELS, "kd"]), r"ucb.*rewards"),
        (lambda: ackd.Balancer("lookahead", total_steps=3, losses=[LABELS, "kd"]), "lookahead"),
        (lambda: ackd.Balancer(3, total_steps=3, losses=[LABELS, "kd"]), "int"),
        (lambda: ackd.Balancer("all", total_steps=0), "total_steps is 0"),
        (lambda: ackd.Balancer("all", total_steps=3, accumulate=cast(int, 1.5)), "accumulate is 1.5"),
        (lambda: ackd.Balancer("all", total_steps=3, losses=["kd"]), "labels"),
        (lambda: ackd.Balancer("all", total_steps=3, losses=[LABELS, "mystery"]), r"mystery.*families"),
        (lambda: ackd.Balancer("all", total_steps=3, losses=[LABELS, "kd"], families={"kd": "x"}), r"kd.*'x'"),
        (lambda: ackd.Balancer("all", total_steps=3).wanted, "losses="),
        (lambda: ackd.Balancer("all", total_steps=3)(constant({LABELS: math.nan})), r"labels.*not finite"),
        (lambda: ackd.Balancer("all", total_steps=3)(constant({LABELS: 1.0, "kd": -0.5})), r"kd.*negative"),
        (lambda: ackd.Balancer("all", total_steps=3)({LABELS: torch.ones(4)}), r"labels.*\[4\]"),
        (lambda: ackd.Balancer("all", total_steps=3)({LABELS: 1.0}), r"labels.*float"),
    ],
)
def test_what_cannot_be_is_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_new_loss_is_told() -> None:
    balancer = ackd.Balancer("all", total_steps=3)
    balancer(constant({LABELS: 1.0, "kd": 1.0}))
    with pytest.raises(InputError, match=r"hidden.*new"):
        balancer(constant({LABELS: 1.0, "kd": 1.0, "hidden": 1.0}))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler looks at every tensor's
def test_a_compiled_loop_gets_the_same() -> None:
    losses = list(drawn(8, 6))

    def loop(compiled: bool) -> list[float]:
        balancer = ackd.Balancer("magnitude", total_steps=6, decision_interval=2)
        layer = nn.Linear(3, 3)
        with torch.no_grad():
            layer.weight.fill_(0.5)

        def step(x: Tensor, one: dict[str, Tensor]) -> Tensor:
            out = layer(x).square().mean()
            total: Tensor = balancer({name: value + 0 * out for name, value in one.items()})
            return total

        run = torch.compile(step, backend="eager") if compiled else step
        return [float(run(torch.ones(2, 3), constant(one)).detach()) for one in losses]

    assert loop(True) == loop(False)


def test_half_precision_is_weighed_like_the_rest() -> None:
    half, whole = (ackd.Balancer("magnitude", total_steps=6, decision_interval=2) for _ in range(2))
    for losses in drawn(9, 6):
        there = {name: torch.tensor(value).bfloat16() for name, value in losses.items()}
        assert float(half(there)) == pytest.approx(float(whole({k: v.float() for k, v in there.items()})), rel=1e-2)
        assert half.weights == whole.weights


def _rank(rank: int, place: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
    balancer = ackd.Balancer("famo", total_steps=8, decision_interval=2, scale_steps=3)
    for mine, other in zip(drawn(10, 8), drawn(11, 8), strict=True):
        balancer(constant(other if rank else mine))
    torch.save((balancer.weights, balancer.log()), place / f"{rank}")
    dist.destroy_process_group()
    os._exit(0)


def test_processes_decide_alike_from_means_over_all(tmp_path: Path) -> None:
    ranks = [processes.SERVER.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(120)
        assert one.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}", weights_only=True) for rank in range(2)]
    assert found[0] == found[1]
    alone = ackd.Balancer("famo", total_steps=8, decision_interval=2, scale_steps=3)
    for mine, other in zip(drawn(10, 8), drawn(11, 8), strict=True):
        alone(constant({name: (mine[name] + other[name]) / 2 for name in mine}))
    assert found[0][0] == pytest.approx(alone.weights, rel=1e-6)
