"""Every rule against what its name says, on one observation and on many, and with stable-baselines3's evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.rules import RULES, Staged, rule
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import tiny
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.action_spaces import LEAST_SHARE, Stages, weights_of
from ackd.mdp.observations import FEATURES, GLOBALS
from ackd.stages import Stage
from ackd.types import Selection

KNOWLEDGE = ("hidden", "attention", "logits", "relation")
FAMILIES = ("hidden", "attention", "logits", "relation")
NAMES = (*RULES, "hidden", "logits+hidden")
masks = st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=4)


def observe(mask: NDArray[np.int8], progress: float = 0.0) -> dict[str, NDArray[Any]]:
    """As `ackd.mdp.observations` lays it out, with the families of `FAMILIES` in order."""
    overview = np.zeros((*mask.shape[:-1], len(GLOBALS)), dtype=np.float32)
    overview[..., GLOBALS.index("progress")] = progress
    features = np.zeros((*mask.shape, len(FEATURES)), dtype=np.float32)
    for k, family in enumerate(FAMILIES):
        features[..., k, FEATURES.index(f"is_{family}")] = 1.0
    return {"globals": overview, "knowledge": features.reshape(*mask.shape[:-1], -1), "mask": mask}


ALL = np.array([1, 1, 1, 1, 0, 0], dtype=np.int8)


@given(rows=masks, name=st.sampled_from(NAMES), progress=st.sampled_from([0.0, 0.3, 0.8]))
def test_never_chooses_a_masked_type(rows: list[list[int]], name: str, progress: float) -> None:
    mask = np.array(rows, dtype=np.int8)
    for each in (mask, mask[0]):
        policy, state = rule(name, KNOWLEDGE), None
        for _ in range(3):
            action, state = policy.predict(observe(each, progress), state)
            assert action.shape == each.shape
            assert action.dtype == (np.float32 if name.endswith("-weights") else np.int8)
            assert not action[each == 0].any()


@pytest.mark.parametrize(
    ("name", "early", "late"),
    [
        ("labels", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("all", [1, 1, 1, 1], [1, 1, 1, 1]),
        ("attention", [0, 1, 0, 0], [0, 1, 0, 0]),
        ("logits+hidden", [1, 0, 1, 0], [1, 0, 1, 0]),
        ("scheduled", [1, 1, 0, 1], [0, 0, 1, 0]),
    ],
)
def test_chooses_what_its_name_says(name: str, early: list[int], late: list[int]) -> None:
    policy = rule(name, KNOWLEDGE)
    for progress, expected in ((0.0, early), (0.49, early), (0.5, late), (1.0, late)):
        assert policy.predict(observe(ALL, progress))[0].tolist() == [*expected, 0, 0]


def uncertain(u: float, progress: float = 0.5) -> dict[str, NDArray[Any]]:
    observation = observe(ALL, progress)
    observation["globals"][GLOBALS.index("uncertainty")] = u
    return observation


@pytest.mark.parametrize(
    ("u", "progress", "bits"),
    [
        (0.0, 0.0, [1, 1, 0, 1]),  # nothing is known yet
        (0.51, 0.9, [1, 1, 0, 1]),
        (0.5, 0.1, [0, 0, 1, 0]),
        (0.0, 0.5, [0, 0, 1, 0]),
    ],
)
def test_an_uncertain_student_learns_from_representations(u: float, progress: float, bits: list[int]) -> None:
    assert rule("uncertain-hidden", KNOWLEDGE).predict(uncertain(u, progress))[0].tolist() == [*bits, 0, 0]


@given(u=st.floats(-10, 10, width=32), progress=st.sampled_from([0.0, 0.1, 1.0]))
def test_weights_follow_the_uncertainty(u: float, progress: float) -> None:
    weights = rule("uncertainty-weights", KNOWLEDGE).predict(uncertain(u, progress))[0]
    share = np.float32(min(max(u, 0.0), 1.0) if progress else 1.0)
    assert weights.dtype == np.float32
    assert weights.tolist() == [share, share, pytest.approx(1 - share), share, 0, 0]


def test_a_type_is_kept_while_its_loss_falls() -> None:
    """Falling, standing, rising, hardly falling; then as many decisions as a type needs for a slope."""
    observation = observe(ALL)
    features = observation["knowledge"].reshape(6, -1)
    features[:4, FEATURES.index("slope")] = [-0.02, 0.0, 0.1, -0.009]
    policy, overview = rule("falling", KNOWLEDGE), observation["globals"]
    for done, total in ((1, 8), (2, 8), (5, 8), (7, 8)):
        overview[GLOBALS.index("progress")] = done / total
        overview[GLOBALS.index("horizon")] = np.log1p(total - done)
        for times in range(min(done, 3) + 1):
            features[:4, FEATURES.index("usage")] = times / done
            expected = [1, 0, 0, 0] if times > 1 else [1, 1, 1, 1]
            assert policy.predict(observation)[0].tolist() == [*expected, 0, 0]


def test_what_no_longer_falls_is_dropped_in_an_episode() -> None:
    """The toy's attention loss never moves: two tries, and not again."""
    env, policy = ToyEnv(), rule("falling", ("hidden", "attention", "logits"))
    observation, _ = env.reset(seed=0)
    chosen, done = [], False
    while not done:
        observation, _, done, _, info = env.step(policy.predict(observation)[0])
        chosen.append(info["action/effective"])
    assert chosen == ["hidden+attention+logits"] * 2 + ["hidden+logits"] * 8


def test_weights_reach_the_student() -> None:
    env = tiny(knowledge=("logits", "hidden"), steps=4, choice="type-shares")
    observation, _ = env.reset(seed=0)
    policy = rule("uncertainty-weights", env.knowledge)
    env.step(policy.predict(observation)[0])
    second = env.step(policy.predict(env.signals.observe(env.episode))[0])[0] if env.episode else {}
    u = float(second["globals"][GLOBALS.index("uncertainty")])
    assert env.episode is not None
    first, last = (phase.selection.weights for phase in env.episode.phases)
    assert first == {"hidden": 1.0}
    assert 0.0 < last["hidden"] <= 1.0
    assert sum(last.values()) == pytest.approx(1.0, abs=LEAST_SHARE)  # the smaller one may be too small to be paid for
    assert 0.0 < u <= 1.0


def test_a_batch_is_decided_row_by_row() -> None:
    both = observe(np.stack([ALL, ALL]))
    both["globals"][1, GLOBALS.index("progress")] = 0.7
    assert rule("scheduled", KNOWLEDGE).predict(both)[0].tolist() == [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_a_fixed_subset_fits_into_fewer_bits() -> None:
    assert rule("hidden+relation", KNOWLEDGE).predict(observe(np.ones(4, dtype=np.int8)))[0].tolist() == [1, 0, 0, 1]


def test_random_takes_each_available_type_half_of_the_time() -> None:
    policy = rule("random", KNOWLEDGE, seed=3)
    draws = policy.predict(observe(np.tile(ALL, (4000, 1))))[0]
    assert np.abs(draws.mean(0) - [0.5, 0.5, 0.5, 0.5, 0, 0]).max() < 0.04  # 5 standard deviations
    assert np.abs(np.corrcoef(draws[:, :4].T) - np.eye(4)).max() < 0.08


TERMS = ("labels", "hidden", "attention", "logits")


def of_terms(progress: float) -> dict[str, NDArray[Any]]:
    """Labels and three types, and entries for two more."""
    observation = observe(ALL, progress)
    features = observation["knowledge"].reshape(6, -1)
    features[:] = 0
    for row, family in zip(features, ("labels", "hidden", "attention", "logits"), strict=False):
        row[FEATURES.index(f"is_{family}")] = 1.0
    return observation


@pytest.mark.parametrize(
    ("name", "early", "late"),
    [
        ("labels", [1, 0, 0, 0], [1, 0, 0, 0]),
        ("all", [1, 1, 1, 1], [1, 1, 1, 1]),
        ("hidden+logits", [1, 1, 0, 1], [1, 1, 0, 1]),
        ("all,labels:0.25", [0.25, 1, 1, 1], [0.25, 1, 1, 1]),
        ("all,labels:0", [0, 1, 1, 1], [0, 1, 1, 1]),
        ("hidden+attention:2,logits:0.5", [1, 2, 2, 0.5], [1, 2, 2, 0.5]),
        ("scheduled", [1, 1, 1, 0], [1, 0, 0, 1]),
        ("scheduled,labels:0.25", [0.25, 1, 1, 0], [0.25, 0, 0, 1]),
        ("hidden+attention,labels:0.25,then,all,labels:4", [0.25, 1, 1, 0], [4, 1, 1, 1]),
    ],
)
def test_labels_and_types_are_weighed(name: str, early: list[float], late: list[float]) -> None:
    policy = rule(name, TERMS)
    for progress, expected in ((0.0, early), (0.49, early), (0.5, late), (0.9, late)):
        action, _ = policy.predict(of_terms(progress))
        weights = weights_of(action) if getattr(policy, "choice", "subset") == "weights" else action
        assert weights.tolist() == [*expected, 0, 0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hidden:-1", "the weight '-1' of hidden cannot be"),
        ("hidden:inf", "the weight 'inf'"),
        ("hidden:nan", "the weight 'nan'"),
        ("hidden:9", "the weight '9'"),
        ("hidden:0.01", "the weight '0.01'"),
        ("hidden:x", "the weight 'x'"),
        ("hidden:", "the weight ''"),
        ("hidden,then", "has a part without any weight"),
        ("labels:0", "has a part without any weight"),
        ("hidden,hidden:2", "weighs hidden twice"),
        ("hiden:2", "unknown knowledge type 'hiden'"),
        ("scheduled,logits:2", "unknown knowledge type 'logits'"),
        ("al", "unknown policy 'al'"),
    ],
)
def test_weights_that_cannot_be_are_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rule(name, TERMS)


def test_random_weights_are_uniform_and_independent() -> None:
    policy = rule("random-weights", KNOWLEDGE, seed=3)
    draws = policy.predict(observe(np.tile(ALL, (4000, 1))))[0]
    assert not draws[:, 4:].any()
    assert np.abs(np.quantile(draws[:, :4], [0.3, 0.5, 0.9], axis=0).T - [0.3, 0.5, 0.9]).max() < 0.04
    assert np.abs(np.corrcoef(draws[:, :4].T) - np.eye(4)).max() < 0.08


@pytest.mark.parametrize("name", ["random", "random-held", "random-weights"])
def test_same_seed_same_draws(name: str) -> None:
    batch = observe(np.tile(ALL, (50, 1)))
    first, again, other = (rule(name, KNOWLEDGE, seed=seed).predict(batch)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("with_state", [True, False])
def test_held_subsets_change_only_where_an_episode_starts(with_state: bool) -> None:
    policy, n = rule("random-held", KNOWLEDGE, seed=0), 64
    mask = np.tile(ALL, (n, 1))
    first, state = policy.predict(observe(mask), None, np.ones(n, dtype=bool))
    later, state = policy.predict(observe(mask, 0.4), state if with_state else None, np.zeros(n, dtype=bool))
    assert (later == first).all()
    assert len(np.unique(first, axis=0)) == 16  # all subsets of four types occur among 64 draws with this seed
    starts = np.arange(n) < n // 2
    third, state = policy.predict(observe(mask, 0.6), state if with_state else None, starts)
    assert (third[~starts] == first[~starts]).all()
    assert (third[starts] != first[starts]).any()
    fourth, _ = policy.predict(observe(mask, 0.0), state if with_state else None)
    assert (fourth != third).any()  # progress 0 begins an episode, too


def test_a_held_subset_stays_for_the_episode_in_the_environment() -> None:
    env, policy = ToyEnv(), rule("random-held", ("hidden", "attention", "logits"), seed=1)
    subsets = set()
    for episode in range(12):
        observation, _ = env.reset(seed=episode)
        chosen, done = set(), False
        while not done:
            action, _ = policy.predict(observation)  # a caller that keeps no state
            observation, _, done, _, info = env.step(action)
            chosen.add(info["action/effective"])
        assert len(chosen) == 1
        subsets |= chosen
    assert len(subsets) > 3


@pytest.mark.parametrize("name", [*RULES, "hidden", "logits+hidden"])
def test_stable_baselines_evaluates_every_rule(name: str) -> None:
    """On one environment and on two; a fixed rule earns the same as its bits played by hand."""
    choice = "weights" if name.endswith("-weights") else "subset"
    env = ToyEnv(choice=choice)
    policy: Any = rule(name, env.knowledge)
    rewards, lengths = evaluate_policy(policy, Monitor(env), 3, return_episode_rewards=True)
    assert lengths == [10, 10, 10]
    assert all(0.1 < reward < 1.0 for reward in rewards)  # type: ignore[union-attr]  # a list, as asked for
    several = DummyVecEnv([lambda: Monitor(ToyEnv(choice=choice))] * 2)
    assert evaluate_policy(policy, several, 4, return_episode_rewards=True)[1] == [10] * 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lables", r"unknown policy 'lables': did you mean 'labels'\?"),
        ("hiden", r"unknown policy 'hiden': did you mean 'hidden'\?"),
        ("hidden+logit", r"unknown knowledge type 'logit': did you mean 'logits'\?"),
        ("hidden+", "unknown knowledge type ''"),
        ("", "unknown policy ''"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rule(name, KNOWLEDGE)


STAGES = (
    Stage(0.5, Selection.of("hidden")),
    Stage(0.25, Selection({"logits": 2.0}, labels=0.0)),
    Stage(0.25, Selection()),
)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0), (0.49, 0), (0.5, 1), (np.float32(0.7), 1), (0.75, 2), (1.0, 2)]
)
def test_stages_follow_the_progress(progress: float, expected: int) -> None:
    action, _ = Staged(STAGES).predict(observe(ALL, progress))
    assert action.shape == ()
    assert action.dtype == np.int64
    assert int(action) == expected


def test_stages_of_a_batch_are_chosen_row_by_row() -> None:
    several = observe(np.tile(ALL, (3, 1)))
    several["globals"][:, GLOBALS.index("progress")] = [0.8, 0.1, 0.6]
    assert Staged(STAGES).predict(several)[0].tolist() == [2, 0, 1]


def test_stable_baselines_evaluates_stages_too() -> None:
    inner = tiny(knowledge=("logits", "hidden"), steps=8)
    env = DistillationEnv(inner.distillation, choice=Stages([stage.selection for stage in STAGES]), decision_interval=2)
    seen: list[str] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        seen.append(local["info"]["action/effective"])

    policy: Any = Staged(STAGES)
    evaluate_policy(policy, Monitor(env), 2, callback=note)
    assert seen == ["hidden", "hidden", "logits", "labels"] * 2


def test_a_mask_of_three_axes_is_refused() -> None:
    with pytest.raises(InputError, match=r"not \[1, 1, 6\]"):
        rule("all", KNOWLEDGE).predict(observe(ALL[None, None]))
