"""Refinement inside one run: weights go where the rewards point, never far, and back where exploring was worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ackd.agents.card import FORMAT, Card
from ackd.agents.learned import Actor, LearnedPolicy
from ackd.agents.policy import Observations, Transition
from ackd.agents.refine import BOUND, MIN_GROUPS, Group, OnlineFinetuning
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import ProbeRule, Schedule
from ackd.agents.set_network import SetNetwork, SetWeights
from ackd.agents.store import load, save
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.envs.recording import Recording
from ackd.errors import InputError
from ackd.experiments.episodes import run_episode
from ackd.experiments.policies import arm
from ackd.experiments.results import save_refined
from ackd.mdp.action_spaces import DOUBLINGS, weights_of
from ackd.mdp.observations import FAMILIES, FEATURES, GLOBALS, SCHEMA

MEMBERS = ("labels", "logits", "hidden", "attention")
BY_HAND: dict[str, Sequence[float]] = {
    "labels": [0.5, 0.5, 0.5],
    "logits": [0.5, 2, 2],
    "hidden": [2, 1, 1],
    "attention": [2, 1, 0],
}
Response = Callable[[NDArray[np.float64], float], float]  # (log2 of the weights of MEMBERS, progress) -> earned


CARD = Card(
    format=FORMAT,
    name="test",
    kind="schedule",
    choice="weights",
    schema=SCHEMA,
    globals=list(GLOBALS),
    features=list(FEATURES),
    sizes={"knots": 3},
    knowledge=MEMBERS[1:],
    k_max=5,
    algorithm="by hand",
    instances=(),
    metrics={},
    cost={},
    license="Apache-2.0",
    versions={},
    sha256="",
)


def saved(folder: Path, network: Actor, algorithm: str = "by hand") -> LearnedPolicy:
    save(folder, network, algorithm=algorithm, knowledge=MEMBERS[1:], k_max=5)
    return load(folder)


@pytest.fixture
def policy(tmp_path: Path) -> LearnedPolicy:
    return saved(tmp_path / "policy", Schedule.of(BY_HAND))


def observation(done: int, decisions: int, **told: float) -> Observations:
    overview = dict.fromkeys(GLOBALS, 0.0) | {"progress": done / decisions, "horizon": math.log1p(decisions - done)}
    features = np.zeros((len(MEMBERS) + 1, len(FEATURES)), np.float32)
    for row, family in zip(features, MEMBERS, strict=False):
        row[FEATURES.index(f"is_{family}")] = 1.0
    return {
        "globals": np.array(list((overview | told).values()), np.float32),
        "knowledge": features.reshape(-1),
        "mask": np.array([1] * len(MEMBERS) + [0], np.int8),
    }


def run(refining: OnlineFinetuning, decisions: int, response: Response, **told: float) -> list[NDArray[np.float32]]:
    """A run in which a decision earns what `response` says of its weights; the actions taken."""
    taken = []
    for i in range(decisions):
        now, then = observation(i, decisions, **told), observation(i + 1, decisions, **told)
        action, _ = refining.predict(now)
        logs = np.log2(np.maximum(weights_of(action[: len(MEMBERS)]), 2.0**-DOUBLINGS))
        earned = np.array([response(logs, i / decisions)], np.float32)
        row, following = ({name: value[None] for name, value in one.items()} for one in (now, then))
        refining.update(Transition(row, action[None], earned, following, np.array([i == decisions - 1])))
        taken.append(action)
    return taken


def towards(better: float, noise: float = 0.0, seed: int = 0) -> Response:
    """A student that learns less and less, and by a tenth faster for each doubling of types against labels."""
    rng = np.random.default_rng(seed)
    return lambda logs, progress: (
        math.exp(-2 * progress) * (1 + better * 0.1 * (logs[1:3].mean() - logs[0]) + noise * rng.normal())
    )


@pytest.mark.parametrize("better", [-1.0, 1.0])
def test_weights_move_towards_a_better_ratio(policy: LearnedPolicy, better: float) -> None:
    moved = []  # doublings of the ratio, where it did not fall back by chance
    for seed in range(12):
        refining = OnlineFinetuning(policy, phase=1, seed=seed)
        run(refining, 50, towards(better, 0.03, seed))
        labels, logits, hidden = refining.shift[:3]
        if not refining.fallen_back:
            moved.append(better * ((logits + hidden) / 2 - labels))
    assert len(moved) >= 6
    assert min(moved) > 1


def test_weights_hardly_move_where_nothing_is_better(policy: LearnedPolicy) -> None:
    shifts = []
    for seed in range(12):
        refining = OnlineFinetuning(policy, phase=1, seed=seed)
        run(refining, 50, towards(0.0, 0.1, seed))
        shifts.append(refining.shift)
    assert abs(np.mean([shift[1:3].mean() - shift[0] for shift in shifts])) < 0.25
    assert np.mean(np.abs(shifts)) < 0.2


def test_a_steady_decline_is_no_evidence(policy: LearnedPolicy) -> None:
    refining = OnlineFinetuning(policy, phase=1)
    run(refining, 60, lambda logs, progress: 2.0 ** (-8 * progress))  # by the same share in each group
    assert len(refining.groups) > MIN_GROUPS
    assert not refining.shift.any()


@settings(max_examples=15, deadline=None)
@given(rewards=st.lists(st.floats(-100, 100, width=32), min_size=30, max_size=30), seed=st.integers(0, 99))
def test_no_weight_leaves_its_bound(rewards: list[float], seed: int) -> None:
    network = Schedule.of(BY_HAND)
    refining = OnlineFinetuning(LearnedPolicy(network, CARD), phase=1, seed=seed)
    left = iter(rewards)
    actions = run(refining, 30, lambda logs, progress: next(left))
    for i, action in enumerate(actions):
        frozen, _ = refining.frozen.predict(observation(i, 30), deterministic=True)
        both = (action > 0) & (frozen > 0)
        assert np.abs((action - frozen)[both]).max() <= BOUND / (2 * DOUBLINGS) + 1e-6
        assert action[-1] == 0  # the masked one
    refined = refining.refined().state_dict()["values"]
    assert float((refined - network.values).abs().max()) <= BOUND + 1e-6
    off = network.values < -2.5
    assert torch.equal(refined[off], network.values[off])
    assert not bool((refined[~off] < -2.5).any())


def test_the_frozen_policy_decides_where_exploring_costs(policy: LearnedPolicy) -> None:
    def best(logs: NDArray[np.float64], progress: float) -> float:
        usual = weights_of(policy.predict(observation(round(progress * 60), 60))[0][: len(MEMBERS)])
        return 1.0 - float(np.abs(logs - np.log2(np.maximum(usual, 2.0**-DOUBLINGS))).mean())

    refining = OnlineFinetuning(policy, phase=1, seed=1)
    actions = run(refining, 60, best)
    assert refining.fallen_back
    assert len(refining.groups) == MIN_GROUPS
    for i in range(3 * MIN_GROUPS, 60):
        assert actions[i].tolist() == policy.predict(observation(i, 60))[0].tolist()
    refined = refining.refined()
    assert isinstance(refined, Schedule)
    assert isinstance(policy.network, Schedule)
    assert torch.equal(refined.values, policy.network.values)


@pytest.mark.parametrize(("advantages", "costs"), [((-0.5, 0.0, -0.4), True), ((-0.5, 0.3, -0.1), False)])
def test_exploring_ends_where_it_costs_more_than_one_standard_error(
    policy: LearnedPolicy, advantages: Sequence[float], costs: bool
) -> None:
    """A mean of -0.30 with a standard error of 0.15, and one of -0.10 with one of 0.23."""
    error = float(np.std(advantages, ddof=1) / math.sqrt(3))
    assert (-2 * error < np.mean(advantages) < -error) == costs
    earned = []
    for advantage in advantages:  # ((first + last) / 2 - kept) / mean of the three, with first = last = 1
        kept = (3 - 2 * advantage) / (3 + advantage)
        earned += [1.0, kept, 1.0]
    left = iter([*earned, 1.0])  # nothing is learned from a run's last decision
    refining = OnlineFinetuning(policy, phase=1, explore=0.8)
    run(refining, len(earned) + 1, lambda logs, progress: next(left))
    assert [group.advantage for group in refining.groups] == pytest.approx(list(advantages), abs=1e-5)
    assert refining.fallen_back == costs


def test_a_phase_that_earns_more_than_the_frozen_one_is_an_advantage() -> None:
    signs = np.ones(4)
    assert Group(signs, first=3.0, kept=1.0, last=2.0).advantage == pytest.approx(0.75)
    assert Group(signs, first=3.0, kept=1.0, last=2.0).difference == pytest.approx(0.5)
    assert Group(signs, first=-3.0, kept=1.0, last=-2.0).advantage == pytest.approx(-1.75)


def test_the_end_of_the_run_does_not_explore(policy: LearnedPolicy) -> None:
    refining = OnlineFinetuning(policy, phase=2, explore=0.5, seed=3)
    actions = run(refining, 60, towards(1.0))
    refined = LearnedPolicy(refining.refined(), policy.card)
    assert refining.shift.any()
    for i in range(36, 60):  # the last group begins before decision 30 and takes six decisions
        assert actions[i].tolist() == refined.predict(observation(i, 60))[0].tolist()


def test_a_gate_that_leaves_the_labels_alone_is_left_alone(tmp_path: Path) -> None:
    rule = Schedule.of(BY_HAND).values
    refining = OnlineFinetuning(saved(tmp_path / "rule", ProbeRule(3, rule)), phase=1, seed=0)
    first, *actions = run(refining, 30, towards(1.0), overtaken=1.2)
    assert all(first[:3] > 0)
    assert all(action.tolist() == [0.5, 0, 0, 0, 0] for action in actions)
    assert refining.groups == []
    assert not refining.shift.any()
    run(refining, 30, towards(1.0), overtaken=0.2)
    assert refining.groups != []


def test_a_correction_of_a_schedule_keeps_its_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResidualNetwork(len(GLOBALS), len(FEATURES), 8, 3, Schedule.of(BY_HAND).values)
    policy = saved(tmp_path / "policy", network)
    refining = OnlineFinetuning(policy, phase=1, seed=0)
    run(refining, 50, towards(1.0))
    before, after = policy.network.state_dict(), refining.refined().state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["schedule.values"]


def test_the_same_seed_is_the_same_run(policy: LearnedPolicy) -> None:
    one, other, third = (run(OnlineFinetuning(policy, phase=2, seed=seed), 30, towards(1.0)) for seed in (7, 7, 8))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_rewards_that_are_not_numbers_teach_nothing(policy: LearnedPolicy) -> None:
    refining = OnlineFinetuning(policy, phase=1)
    run(refining, 30, lambda logs, progress: math.nan)
    assert refining.groups == []


def test_types_that_are_not_there_do_not_move(policy: LearnedPolicy) -> None:
    refining = OnlineFinetuning(policy, phase=1)
    run(refining, 60, towards(1.0))
    ratio = refining.centre[0]
    assert ratio > 0
    assert refining.centre[FAMILIES.index("relation")] == 0


@pytest.mark.parametrize("kind", [SetNetwork, SetWeights])
def test_what_has_no_schedule_is_refused(tmp_path: Path, kind: type[SetNetwork] | type[SetWeights]) -> None:
    bits = saved(tmp_path / "policy", kind(len(GLOBALS), len(FEATURES), 8), algorithm="ppo")
    sentence = "only policies that give weights by a schedule can be refined, not one of ppo: use it as it is"
    with pytest.raises(InputError, match=sentence):
        OnlineFinetuning(bits, phase=1)
    with pytest.raises(InputError, match=sentence):
        arm(f"{tmp_path / 'policy'}:refine", MEMBERS[1:])


def test_bad_input(policy: LearnedPolicy) -> None:
    with pytest.raises(InputError, match="a phase has 0 decisions"):
        OnlineFinetuning(policy, phase=0)
    with pytest.raises(InputError, match="and 2 of the run explores"):
        OnlineFinetuning(policy, phase=1, explore=2)
    two = {name: np.stack([value, value]) for name, value in observation(0, 4).items()}
    with pytest.raises(InputError, match="one student"):
        OnlineFinetuning(policy, phase=1).update(
            Transition(two, np.zeros((2, 5)), np.zeros(2, np.float32), two, np.zeros(2, bool))
        )


@pytest.mark.parametrize("how", ["replay", "probe-rule"])
def test_what_is_made_of_a_policy_can_be_refined(tmp_path: Path, how: str) -> None:
    saved(tmp_path / "policy", Schedule.of(BY_HAND))
    env = tiny(reward_every=None)
    chosen = arm(f"{how}:{tmp_path / 'policy'}:refine", env.knowledge)
    refining = chosen.make(chosen.within(env), 0)
    assert isinstance(refining, OnlineFinetuning)
    assert refining.network.kind == ("schedule" if how == "replay" else "probe-rule")


def played(name: str, folder: Path) -> tuple[CostTracker, object]:
    """What a run of the tiny environment under a saved policy spends, and who decided."""
    env = tiny(steps=160, decision_interval=10, reward_every=None)
    chosen = arm(name, env.knowledge)
    env = chosen.within(env)
    policy = chosen.make(env, 0)
    with closing(Recording(env, folder, dev=False)) as recording:
        run_episode(recording, policy, seed=0, learner=chosen.learner(policy))
    return recording.costs, policy


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> CostTracker:
    """What a run spends that transfers everything throughout."""
    return played("all", tmp_path_factory.mktemp("all"))[0]


def test_a_decision_costs_two_passes_as_torch_counts_them(tmp_path: Path) -> None:
    network = ResidualNetwork(len(GLOBALS), len(FEATURES), 64, 3, Schedule.of(BY_HAND).values)
    refining = OnlineFinetuning(saved(tmp_path / "policy", network), phase=1)
    shown = {name: torch.as_tensor(value)[None] for name, value in observation(0, 4).items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.distribution(shown)
        network.distribution(shown)
    types = shown["mask"].shape[1]
    assert refining.flops(types) == counter.get_total_flops() + 2 * network.schedule.flops(types)


@pytest.mark.parametrize("kind", ["schedule", "residual"])
def test_a_run_costs_a_tenth_more_at_most(tmp_path: Path, kind: str, everything: CostTracker) -> None:
    table = Schedule.of(BY_HAND | {"attention": [2, 1, 1]}).values
    network = Schedule(3, table) if kind == "schedule" else ResidualNetwork(len(GLOBALS), len(FEATURES), 64, 3, table)
    saved(tmp_path / "policy", network)
    refined, policy = played(f"{tmp_path / 'policy'}:refine", tmp_path / "refined")
    assert sum(refined.flops.values()) <= 1.10 * sum(everything.flops.values())
    assert refined.flops["student"] == everything.flops["student"]
    assert isinstance(policy, OnlineFinetuning)
    assert policy.groups != []


def test_what_is_saved_acts_as_it_ended(tmp_path: Path, policy: LearnedPolicy) -> None:
    refining = OnlineFinetuning(policy, phase=1, seed=0)
    run(refining, 50, towards(1.0))
    metrics = {"mean_log2_weights": [[0.0] * 5], "mine": 1}
    save_refined(tmp_path / "again", refining, replace(policy.card, metrics=metrics))
    again = load(tmp_path / "again")
    assert (again.card.kind, again.card.choice) == ("schedule", "weights")
    assert set(again.card.metrics) == {"mine", "refined_phases", "fallen_back", "refined_log2"}
    assert again.card.metrics["refined_log2"] == pytest.approx(
        dict(zip(FAMILIES, refining.shift, strict=True)), abs=1e-4
    )
    now = observation(49, 50)
    assert again.predict(now)[0].tolist() == refining.predict(now)[0].tolist()
