"""The knowledge selector: its targets, its gradients, its phases, its mask, and the toy."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import Tensor, nn

from ackd.agents.ksm import Ksm, Settings
from ackd.agents.ksm_actor import KsmActor, KsmBits
from ackd.agents.online import learn
from ackd.agents.policy import Observations, Transition
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError

K = 4
SPACE = spaces.Dict(
    {
        "globals": spaces.Box(-10, 10, (5,), np.float32),
        "knowledge": spaces.Box(-10, 10, (3 * K,), np.float32),
        "mask": spaces.MultiBinary(K),
        "student_cls": spaces.Box(-10, 10, (6,), np.float32),
        "teacher_cls": spaces.Box(-10, 10, (8,), np.float32),
    }
)
SMALL: dict[str, Any] = {"feature": 8, "width": 8, "batch": 8, "warmup": 0}
masks = st.lists(st.lists(st.integers(0, 1), min_size=K, max_size=K), min_size=1, max_size=3)


def observe(seed: int, rows: int, mask: NDArray[np.int8] | None = None) -> Observations:
    rng = np.random.default_rng(seed)
    observation: Observations = {
        name: rng.normal(size=(rows, *(box.shape or ()))).astype(np.float32)
        for name, box in SPACE.spaces.items()
        if name != "mask"
    }
    return observation | {"mask": np.ones((rows, K), dtype=np.int8) if mask is None else mask}


def transition(seed: int, rows: int = 1, reward: float = 0.0, over: Any = False, **changes: Any) -> Transition:
    arguments: dict[str, Any] = {
        "observation": observe(seed, rows),
        "action": np.random.default_rng(seed).random((rows, K)).astype(np.float32),
        "reward": np.full(rows, reward, dtype=np.float32),
        "following": observe(seed + 1, rows),
        "over": np.full(rows, over),
    }
    return Transition(**arguments | changes)


def batch_of(seed: int, size: int = 5) -> dict[str, Tensor]:
    """As `Ksm` replays it, with reading the signals."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"left": 5, "right": 3 * K, "next_left": 5, "next_right": 3 * K, "action": K, "next_action": K}
    batch = {name: torch.rand(size, width, generator=generator) for name, width in widths.items()}
    batch |= {name: (torch.rand(size, K, generator=generator) < 0.7).float() for name in ("mask", "next_mask")}
    batch["reward"] = torch.randn(size, generator=generator)
    batch["over"] = (torch.rand(size, generator=generator) < 0.3).float()
    return batch


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("warmup", [0, 100])
@given(mask=masks, state=st.sampled_from(["cls", "signals"]), seed=st.integers(0, 2**31))
@settings(max_examples=30)  # of each of the eight
def test_masked_types_get_nothing(
    mask: list[list[int]], state: str, seed: int, hard: bool, deterministic: bool, warmup: int
) -> None:
    available = np.array(mask, dtype=np.int8)
    policy = Ksm(SPACE, Settings(hard=hard, feature=4, width=4, warmup=warmup), state=state, seed=seed)
    actions, _ = policy.predict(observe(seed, len(mask), available), deterministic=deterministic)
    assert (actions[available == 0] == 0).all()
    assert actions.shape == available.shape
    assert actions.dtype == (np.int8 if hard else np.float32)
    assert ((actions >= 0) & (actions <= 1)).all()
    one, _ = policy.predict({name: part[0] for name, part in observe(seed, 1, available[:1]).items()})
    assert one.shape == (K,)


def relu(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(x, 0.0))


def layers(x: NDArray[Any], names: list[str], source: dict[str, NDArray[Any]]) -> NDArray[Any]:
    for i, name in enumerate(names):
        x = (relu(x) if i else x) @ source[f"{name}.weight"].T + source[f"{name}.bias"]
    return x


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 1), target=st.sampled_from(["sarsa", "printed"]))
def test_targets_are_those_of_the_formula(seed: int, gamma: float, target: Any) -> None:
    """With numpy, from the weights of the targets, for both forms and both next actions."""
    batch = batch_of(seed)
    for following in ("actor", "taken"):
        chosen: Any = following
        policy = Ksm(SPACE, Settings(gamma=gamma, target=target, following=chosen, feature=8, width=8), state="signals")
        weights = {name: value.double().numpy() for name, value in policy.actor.state_dict().items()}
        x = {name: value.double().numpy() for name, value in batch.items()}
        encoded = [
            relu(layers(x[part], [f"encoders.{i}.0", f"encoders.{i}.2"], weights))
            for i, part in enumerate(("next_left", "next_right"))
        ]
        state = np.concatenate(encoded, axis=1)
        action = x["next_action"]
        if following == "actor":
            action = 1 / (1 + np.exp(-layers(state, ["mu.0", "mu.2", "mu.4"], weights)))
        judge = {name: value.double().numpy() for name, value in policy.critic.state_dict().items()}
        q = layers(np.concatenate([state, action * x["next_mask"]], axis=1), ["0", "2", "4"], judge)[:, 0]
        q = q * (1 - x["over"])
        expected = x["reward"] + gamma * q if target == "sarsa" else gamma * x["reward"] + q
        np.testing.assert_allclose(policy.targets(batch).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoders", ["actor", "both"])
def test_the_actor_teaches_encoders_through_its_weights_alone(encoders: Any) -> None:
    """What the critic makes of a state is no reason to change the state: only of the weights that are chosen in it."""
    policy = Ksm(SPACE, Settings(encoders=encoders, inverting=False, feature=8, width=8), state="signals", seed=1)
    last = policy.actor.mu[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight)
    batch = batch_of(3)
    taught = list(policy.actor.encoders.parameters())
    found = torch.autograd.grad(policy.actor_loss(batch), taught)
    state = policy.actor.state([batch["left"], batch["right"]])
    weights = policy.actor.mu(state).sigmoid() * batch["mask"]
    seen, other_way = torch.cat([state.detach(), weights], 1), torch.cat([state, weights.detach()], 1)
    expected = torch.autograd.grad(-policy.critic(seen).mean(), taught, retain_graph=True)
    through = torch.autograd.grad(-policy.critic(other_way).mean(), taught)
    for one, other, wrong in zip(found, expected, through, strict=True):
        assert torch.allclose(one, other, atol=1e-7)
        assert wrong.abs().max() > 1e-5


class Bowl(nn.Module):
    """Q = -sum (a - best)^2, whatever the state."""

    def __init__(self, best: Tensor) -> None:
        super().__init__()
        self.best = best

    def forward(self, inputs: Tensor) -> Tensor:
        return -(inputs[:, -K:] - self.best).square().sum(1, keepdim=True)


@pytest.mark.parametrize("inverting", [False, True])
def test_the_actor_climbs_a_known_q(inverting: bool) -> None:
    """Its gradient is that of the chain rule by hand, and its steps end at the best action; masked ones stay at 0."""
    best = torch.tensor([0.9, 0.2, 0.5, 0.7])
    policy = Ksm(SPACE, Settings(inverting=inverting, actor_rate=1e-2, encoders="actor"), state="signals")
    policy.critic = nn.Sequential(Bowl(best))
    batch = batch_of(0) | {"mask": torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(5, 1)}
    last = policy.actor.mu[-1]
    assert isinstance(last, nn.Linear)
    policy.actor_loss(batch).backward()
    weights = KsmActor.act(policy.actor, {"globals": batch["left"], "knowledge": batch["right"]} | batch, True)
    slope = 2 * (weights - best) * batch["mask"] / 5  # of minus the mean Q, by each weight
    squash = torch.where(slope < 0, 1 - weights, weights) if inverting else weights * (1 - weights)
    torch.testing.assert_close(last.bias.grad, (slope * squash).sum(0))
    for _ in range(300):
        policy._actor_step.zero_grad()
        policy.actor_loss(batch).backward()
        policy._actor_step.step()
    reached = KsmActor.act(policy.actor, {"globals": batch["left"], "knowledge": batch["right"]} | batch, True)
    torch.testing.assert_close(reached[:, :3], best[:3].repeat(5, 1), atol=0.03, rtol=0)
    assert (reached[:, 3] == 0).all()


@pytest.mark.parametrize("learner", ["critic", "actor", "both"])
def test_the_state_is_taught_by_whom_it_should_be(learner: Any) -> None:
    policy = Ksm(SPACE, Settings(encoders=learner), state="signals")
    batch = batch_of(1)
    for name, loss in (
        ("actor", policy.actor_loss(batch)),
        ("critic", policy.value(policy._state(batch, "critic"), batch["action"]).sum()),
    ):
        policy.actor.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in policy.actor.encoders.parameters()]
        assert any(grad is not None and bool(grad.any()) for grad in gradients) == (learner in (name, "both"))


@pytest.mark.parametrize(("credit", "rewards"), [("all", [6.0, 6.0, 6.0]), ("last", [0.0, 0.0, 6.0])])
def test_a_phase_earns_its_reward_together(credit: Any, rewards: list[float]) -> None:
    """Nothing is learned before its end; an episode's end ends it too."""
    policy = Ksm(SPACE, Settings(phase=3, credit=credit, **SMALL))
    layer = cast(nn.Linear, policy.critic[0])
    before = layer.weight.clone()
    for step, reward in enumerate((1.0, 2.0)):
        policy.update(transition(step, reward=reward))
    assert not policy._replay
    assert torch.equal(layer.weight, before)
    policy.update(transition(2, reward=3.0))
    assert [row["reward"] for row in policy._replay] == rewards
    assert not torch.equal(layer.weight, before)
    policy.update(transition(3, reward=5.0, over=True))
    assert policy._replay[-1]["reward"] == 5.0


def test_the_next_action_is_the_one_that_was_taken() -> None:
    """In each environment; after an episode's end there is none, and a reset between episodes breaks the trail."""
    policy = Ksm(SPACE, Settings(following="taken", **SMALL))
    first, second = transition(0, rows=2), transition(5, rows=2, over=np.array([True, False]))
    policy.update(first)
    assert not policy._replay
    policy.update(second)
    following = [row["next_action"] for row in policy._replay]
    assert len(following) == 3  # the second one of the second environment waits
    np.testing.assert_array_equal(following[0], second.action[0])
    np.testing.assert_array_equal(following[2], second.action[1])
    policy.predict(observe(9, 2), episode_start=np.array([True, True]))
    policy.update(transition(9, rows=2))
    assert len(policy._replay) == 3


def trained(seed: int, **settings: Any) -> Ksm:
    hard = settings.get("hard", False)
    env = DummyVecEnv([lambda: ToyEnv(choice="subset" if hard else "type-shares")] * 2)
    env.seed(seed)
    policy = Ksm(env.observation_space, Settings(**{"warmup": 40, **settings}), state="signals", seed=seed)
    learn(policy, env, 120)
    return policy


@pytest.mark.parametrize("options", [{}, {"hard": True, "phase": 4}, {"buffer": 0, "following": "taken"}])
def test_the_same_seed_gives_the_same_run(options: dict[str, Any]) -> None:
    first, again, other = (trained(seed, **options).network.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("hard", [False, True])
def test_the_network_can_be_rebuilt_from_its_sizes(hard: bool) -> None:
    """It holds all that its action depends on, threshold included."""
    policy = Ksm(SPACE, Settings(hard=hard, threshold=0.25), seed=3)
    network = policy.network
    twin = (KsmBits if hard else KsmActor)(**network.sizes)
    twin.load_state_dict(network.state_dict())
    observation = observe(0, 3)
    batch = {name: torch.as_tensor(part) for name, part in observation.items()}
    actions, _ = policy.predict(observation, deterministic=True)
    np.testing.assert_array_equal(twin.act(batch, deterministic=True).detach().numpy(), actions)
    assert network.kind == ("ksm-bits" if hard else "ksm")
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_a_weight_at_the_threshold_is_no_bit() -> None:
    network = Ksm(SPACE, Settings(hard=True, threshold=0.5), seed=3).network
    assert isinstance(network, KsmBits)
    batch = {name: torch.as_tensor(part) for name, part in observe(0, 3).items()}
    for bias, bit in ((0.0, 0.0), (1e-3, 1.0)):
        for parameter in network.mu.parameters():
            torch.nn.init.zeros_(parameter)
        last = network.mu[-1]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.constant_(last.bias, bias)  # the sigmoid of 0 is 1/2
        assert network.act(batch, deterministic=True)[0, :3].tolist() == [bit] * 3


def test_refuses_what_it_cannot_read() -> None:
    bare = spaces.Dict({"globals": SPACE["globals"], "knowledge": SPACE["knowledge"], "mask": SPACE["mask"]})
    with pytest.raises(InputError, match="state 'cls' reads student_cls, and the observations have globals"):
        Ksm(bare)
    with pytest.raises(InputError, match="unknown state 'signal': did you mean 'signals'"):
        Ksm(bare, state="signal")
    for name, value in (("phase", 0), ("gamma", 1.5), ("noise", float("nan")), ("target", "sarsas")):
        with pytest.raises(InputError, match=name):
            Ksm(bare, Settings(**{name: value}), state="signals")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True])
def test_reaches_the_optimum_of_the_toy(hard: bool) -> None:
    env = DummyVecEnv([lambda: ToyEnv(choice="subset" if hard else "type-shares")] * 4)
    env.seed(0)
    policy = Ksm(env.observation_space, Settings(hard=hard), state="signals", seed=0)
    learn(policy, env, 800)
    fresh = range(50_000, 50_010)
    vector = VecMonitor(DummyVecEnv([lambda: ToyEnv(choice=policy.choice)] * len(fresh)))
    vector.seed(fresh.start)
    predictor: Any = policy
    returns, _ = evaluate_policy(predictor, vector, len(fresh), return_episode_rewards=True)
    assert np.mean(returns) >= 0.95 * np.mean([ToyEnv().optimum(seed) for seed in fresh])


def test_an_actor_says_what_it_cannot_read() -> None:
    actor = KsmActor(left=3, right=4, types=2, feature=8, width=8, cls=0)
    batch = {"globals": torch.zeros(1, 3), "knowledge": torch.zeros(1, 4), "mask": torch.ones(1, 2)}
    assert actor.act(batch, True).shape == (1, 2)
    with pytest.raises(InputError, match="reads 3 and 4 numbers and 2 types, and got 3 of globals, 5 of knowledge"):
        actor.act(batch | {"knowledge": torch.zeros(1, 5)}, True)
    with pytest.raises(InputError, match="0 of globals"):
        actor.act({name: value for name, value in batch.items() if name != "globals"}, True)
