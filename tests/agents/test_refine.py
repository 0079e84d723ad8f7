"""Refinement inside one run: it learns from what phases earn, and goes back where that was worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd.agents.learned import Card, LearnedPolicy
from ackd.agents.policy import Observations, Transition
from ackd.agents.refine import MIN_EACH, Phase, Refining, _divergence
from ackd.agents.set_policy import SetNetwork, SetWeights
from ackd.errors import InputError
from ackd.signals import FEATURES, GLOBALS

K = 4


def policy(network: SetNetwork | None = None, seed: int = 0) -> LearnedPolicy:
    torch.manual_seed(seed)
    return LearnedPolicy(network or SetNetwork(len(GLOBALS), len(FEATURES), 16), CARD)


CARD = Card(
    name="test",
    knowledge=("a", "b", "c"),
    k_max=K,
    kind="set",
    sizes={"width": 16},
    choice="subset",
    schema=2,
    sha256="",
    algorithm="ppo",
    instances=(),
    metrics={},
    cost={},
    license="Apache-2.0",
    versions={},
)


def observation(progress: float = 0.0, mask: tuple[int, ...] = (1, 1, 1, 0)) -> Observations:
    rng = np.random.default_rng(0)
    overview = np.zeros(len(GLOBALS), np.float32)
    overview[0] = progress
    features = rng.normal(size=K * len(FEATURES)).astype(np.float32)
    return {"globals": overview, "knowledge": features, "mask": np.array(mask, np.int8)}


def run(refining: Refining, decisions: int, reward: dict[bytes, float] | float, *, over: bool = False) -> list[bytes]:
    """Decisions in one state, where an action earns what `reward` says of it; the actions taken."""
    taken = []
    for i in range(decisions):
        now, then = observation(i / decisions), observation((i + 1) / decisions)
        action, _ = refining.predict(now)
        earned = reward if isinstance(reward, float) else reward.get(action.tobytes(), 0.0)
        row = {name: value[None] for name, value in now.items()}
        end = np.array([over and i == decisions - 1])
        following = {name: value[None] for name, value in then.items()}
        refining.update(Transition(row, action[None], np.array([earned], np.float32), following, end))
        taken.append(action.tobytes())
    return taken


def test_without_exploration_it_acts_as_the_frozen_policy() -> None:
    frozen = policy()
    refining = Refining(frozen, phase=2, explore=0.0)
    expected, _ = frozen.predict(observation(), deterministic=True)
    assert refining.predict(observation())[0].tolist() == expected.tolist()
    assert len(run(refining, 12, 0.1)) == 12
    assert [phase.left for phase in refining.phases] == [False] * 6
    assert not refining.learned


def test_what_earns_more_becomes_likelier() -> None:
    best = np.array([1, 0, 1, 0], np.int8)
    gained = []
    for seed in range(5):
        refining = Refining(policy(), phase=1, explore=1.0, learning_rate=1e-2, anchor=0.0, seed=seed)
        rows = {name: torch.as_tensor(value[None]).float() for name, value in observation().items()}

        def likelihood(network: SetNetwork, rows: dict[str, torch.Tensor] = rows) -> float:
            with torch.no_grad():
                logits, _, mask = network.read(rows)
            signs = 2 * torch.as_tensor(best).float() - 1
            return float((torch.nn.functional.logsigmoid(signs * logits) * mask).sum())

        before = likelihood(refining.network)
        run(refining, 60, {best.tobytes(): 1.0})
        gained.append(likelihood(refining.network) - before)
    assert np.mean(gained) > 0.1


def test_it_falls_back_where_leaving_costs() -> None:
    frozen = policy()
    kept, _ = frozen.predict(observation(), deterministic=True)
    refining = Refining(frozen, phase=1, explore=0.7, anchor=0.0, seed=1)
    run(refining, 40, {kept.tobytes(): 1.0})
    assert refining.fallen_back
    phases = len(refining.phases)
    expected, _ = frozen.predict(observation(), deterministic=True)
    for _ in range(10):
        assert refining.predict(observation())[0].tolist() == expected.tolist()
    run(refining, 5, 0.0)
    assert len(refining.phases) == phases  # nothing is learned any more


def test_it_does_not_fall_back_where_leaving_pays() -> None:
    frozen = policy()
    kept, _ = frozen.predict(observation(), deterministic=True)
    refining = Refining(frozen, phase=1, explore=0.7, seed=1)
    run(refining, 40, {bytes(bits): 0.0 if bytes(bits) == kept.tobytes() else 1.0 for bits in np.ndindex(2, 2, 2, 1)})
    assert not refining.fallen_back


def test_too_few_phases_say_nothing() -> None:
    refining = Refining(policy(), phase=1)
    refining.phases = [Phase(True, -1.0)] * 10 + [Phase(False, 1.0)] * (MIN_EACH - 1)
    assert not refining._worse()
    refining.phases.append(Phase(False, 1.0))
    assert refining._worse()


def test_the_frozen_policy_never_changes() -> None:
    frozen = policy()
    before = {name: value.clone() for name, value in frozen.network.state_dict().items()}
    refining = Refining(frozen, phase=2, explore=1.0)
    run(refining, 30, 0.5, over=True)
    for name, value in frozen.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert any(not torch.equal(value, before[name]) for name, value in refining.network.state_dict().items())
    assert refining.learned


def test_the_same_seed_is_the_same_run() -> None:
    one, other = (run(Refining(policy(), phase=2, explore=1.0, seed=7), 30, 0.5) for _ in range(2))
    assert one == other


@settings(max_examples=30, deadline=None)
@given(mask=st.tuples(*[st.integers(0, 1)] * K), seed=st.integers(0, 99))
def test_masked_types_are_never_chosen(mask: tuple[int, ...], seed: int) -> None:
    refining = Refining(policy(), phase=1, explore=1.0, seed=seed)
    assert not (refining.predict(observation(mask=mask))[0] * (1 - np.array(mask))).any()


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_divergence(pairs: list[tuple[float, float]]) -> None:
    one, other = (torch.tensor([[pair[i] for pair in pairs]], dtype=torch.float64) for i in (0, 1))
    first, second = (torch.distributions.Bernoulli(logits=logits) for logits in (one, other))
    expected = float(torch.distributions.kl_divergence(first, second).sum())
    assert float(_divergence(one, other, torch.ones_like(one))) == pytest.approx(expected, abs=1e-9)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="only policies that choose subsets"):
        Refining(policy(SetWeights(len(GLOBALS), len(FEATURES), 16)), phase=1)
    with pytest.raises(InputError, match="a phase has 0 decisions"):
        Refining(policy(), phase=0)
    refining = Refining(policy(), phase=1)
    two = {name: np.stack([value, value]) for name, value in observation().items()}
    with pytest.raises(InputError, match="one student"):
        refining.update(Transition(two, np.zeros((2, K)), np.zeros(2, np.float32), two, np.zeros(2, bool)))
