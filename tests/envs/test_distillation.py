"""The environment: its contracts, its equalities, and what it does when a training diverges."""

from __future__ import annotations

import json
import logging
import math
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import ackd
from ackd import Selection, models, tasks
from ackd.envs.distillation import ERROR_RETURN, DistillationEnv
from ackd.envs.make import distill, tiny
from ackd.errors import InputError
from ackd.mdp.observations import GLOBALS
from ackd.mdp.rewards import GAPS, GapClosed
from ackd.teachers import ModelTeacher
from ackd.training.replay_log import ReplayLog
from ackd.types import EvalResult, OutputRequest
from tests.learned import weights

IDS = ("ACKD/Tiny-v0", "ACKD/Toy-v0")


def tiny_teacher(env: DistillationEnv) -> ModelTeacher:
    (teacher,) = env.distillation.teachers
    assert isinstance(teacher, ModelTeacher)
    return teacher


def play(env: DistillationEnv, actions: list[np.ndarray], *, seed: int) -> list[float]:
    env.reset(seed=seed)
    return [env.step(action)[1] for action in actions]


def random_actions(env: DistillationEnv, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2, env.signals.k_max).astype(np.int8) for _ in range(env.decisions)]


@pytest.mark.parametrize("name", IDS)
def test_both_checkers_pass(name: str) -> None:
    check_env(gymnasium.make(name).unwrapped)
    sb3_check_env(gymnasium.make(name))


@pytest.mark.parametrize("changes", [{"observe_cls": True}, {"reward_every": 3, "reward_share": 0.25}])
def test_both_checkers_pass_on_variants(changes: dict[str, Any]) -> None:
    env = gymnasium.make("ACKD/Tiny-v0").unwrapped
    assert isinstance(env, DistillationEnv)
    check_env(env.variant(**changes), skip_render_check=True)
    sb3_check_env(env.variant(**changes))


@pytest.fixture
def real_arguments(tmp_path: Path) -> dict[str, Any]:
    """Arguments of `ACKD/Distill-v0` with a small teacher in a folder."""
    tokenizer = tasks.embedded_tokenizer("polarity")
    config = models.small_config(len(tokenizer), 2, layers=2, width=16, heads=2)
    models.save_model(tmp_path / "teacher", models.from_config(config)(), tokenizer)
    return {
        "task": "polarity",
        "teacher": str(tmp_path / "teacher"),
        "student_layers": 1,
        "max_examples": 600,
        "steps": 12,
        "decision_interval": 2,
        "batch_size": 8,
    }


def test_both_checkers_pass_on_a_real_setting(real_arguments: dict[str, Any]) -> None:
    env = gymnasium.make("ACKD/Distill-v0", **real_arguments)
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"] == real_arguments
    check_env(env.unwrapped)
    sb3_check_env(env)

    other = gymnasium.make("ackd:ACKD/Distill-v0", **real_arguments)
    assert data_equivalence(env.reset(seed=1), other.reset(seed=1), exact=True)
    assert env.unwrapped.distillation.task is other.unwrapped.distillation.task  # type: ignore[attr-defined]


def test_a_stage_of_a_preset_that_would_never_come_is_refused(real_arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="12 steps with a decision every 12 leave out a stage of the 2 there are"):
        distill(**{**real_arguments, "preset": "tinybert", "decision_interval": 12})


@pytest.mark.parametrize("name", IDS)
def test_specs_are_plain_json(name: str) -> None:
    env = gymnasium.make(name)
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["id"] == name
    assert isinstance(env.spec.entry_point, str)


@pytest.mark.parametrize("name", IDS)
def test_two_environments_with_one_seed_agree_step_by_step(name: str) -> None:
    envs = [gymnasium.make(name) for _ in range(2)]
    one, other = envs
    assert data_equivalence(one.reset(seed=3), other.reset(seed=3), exact=True)
    envs[0].action_space.seed(0)
    for _ in range(2):
        ended = False
        while not ended:
            action = envs[0].action_space.sample()
            answers = [env.step(action) for env in envs]
            assert data_equivalence(answers[0], answers[1], exact=True)
            ended = answers[0][2]
        assert data_equivalence(one.reset(), other.reset(), exact=True)  # the next seed is agreed on too


def test_seeds_differ() -> None:
    env = tiny()
    actions = random_actions(env)
    assert play(env, actions, seed=1) == play(env, actions, seed=1)
    assert play(env, actions, seed=1) != play(env, actions, seed=2)


@pytest.mark.parametrize("interval", [1, 5, 12])
def test_a_static_policy_equals_the_plain_loop_bit_for_bit(interval: int) -> None:
    env = tiny(steps=12, decision_interval=interval)
    selection = Selection.of("logits", "attention")
    action = env.choice.action(selection)
    play(env, [action] * env.decisions, seed=4)
    through_env = weights(env.distillation)
    distillation = tiny(steps=12).distillation
    ackd.distill(distillation, selection, seed=4, interval=12)
    plain = torch.cat([p.detach().flatten() for p in distillation.student.parameters])
    assert torch.equal(through_env, plain)


def test_a_static_policy_equals_a_loop_written_out() -> None:
    """The same weights from the parts by hand: init, order and dropout streams, and the learning step."""
    env = tiny(student_width=8)
    selection = Selection.of("logits", "hidden")
    play(env, [env.choice.action(selection)] * env.decisions, seed=4)
    by_hand = tiny(student_width=8).distillation
    by_hand.reset(4)
    torch.manual_seed(12345)
    rng, train = np.random.default_rng(np.random.SeedSequence(4).spawn(3)[1]), by_hand.task.train
    drawn = rng.permutation(len(train)).tolist()[: len(train) - len(train) % 8]
    pools = [drawn[start : start + 64] for start in range(0, len(drawn), 64)]  # 8 batches of 8
    ordered = [place for pool in pools for place in sorted(pool, key=lambda place: train.lengths[place])]
    assert 12 <= len(ordered) // 8 <= len(train) // 8
    for which in rng.permutation(len(ordered) // 8)[:12]:
        with by_hand.trainer.streams.dropping():
            by_hand.distiller.step([train.batch(ordered[8 * which : 8 * which + 8])], selection)
    assert torch.equal(weights(env.distillation), torch.cat([p.detach().flatten() for p in by_hand.student.parameters]))


def test_the_agents_randomness_does_not_reach_the_student() -> None:
    env = tiny()
    actions = random_actions(env)
    play(env, actions, seed=0)
    expected = weights(env.distillation)
    env.reset(seed=0)
    for action in actions:
        torch.manual_seed(int(torch.randint(1000, ())))
        np.random.seed(1)  # noqa: NPY002 - the global stream is what this is about
        env.step(action)
    assert torch.equal(weights(env.distillation), expected)


class Probe(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Hands the student's weights out of a worker process before the automatic reset takes them."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        env = self.unwrapped
        assert isinstance(env, DistillationEnv)
        return observation, reward, terminated, truncated, {**info, "weights": weights(env.distillation).numpy()}


def make_probe() -> Probe:
    torch.set_num_threads(1)  # workers like this process: sums depend on the thread count
    return Probe(gymnasium.make("ACKD/Tiny-v0", disable_env_checker=True))


@pytest.mark.slow
def test_dummy_and_subproc_give_the_same_weights() -> None:
    results = []
    for kind in (DummyVecEnv, SubprocVecEnv):
        vec: VecEnv = kind([make_probe, make_probe])
        vec.seed(7)
        vec.reset()
        rng = np.random.default_rng(0)
        for _ in range(6):
            _, rewards, dones, infos = vec.step(rng.integers(0, 2, (2, 8)).astype(np.int8))
        assert dones.all()
        # one of the two hands rewards out in single precision
        results.append((rewards.astype(np.float32).tolist(), [info["weights"] for info in infos]))
        vec.close()
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(*results[0][1])  # the two students are not the same one


@pytest.mark.parametrize("name", ["gap", *GAPS])
def test_rewards_telescope(name: str) -> None:
    env = tiny(reward=name)
    rewards = play(env, random_actions(env), seed=2)
    assert env.episode is not None
    reward = env.reward
    assert isinstance(reward, GapClosed)
    assert env.episode.start is not None
    assert env.episode.eval_result is not None
    first, last = (reward.measured(env.episode, one) for one in (env.episode.start, env.episode.eval_result))
    expected = (first - last if name in ("loss-gap", "kl-gap") else last - first) / (reward.gap(env.episode) or 1.0)
    assert math.fsum(rewards) == pytest.approx(expected, abs=1e-9)
    assert first != last or name == "score-gap"  # so few steps may leave the score where it was


@pytest.mark.parametrize("every", [2, 4, 100])
def test_rewards_sum_to_the_same_however_often_they_are_measured(every: int) -> None:
    often, seldom = tiny(cost_weight=0.0), tiny(cost_weight=0.0, reward_every=every)
    rewards = play(often, random_actions(often), seed=2)
    fewer = play(seldom, random_actions(seldom), seed=2)
    assert math.fsum(fewer) == pytest.approx(math.fsum(rewards), abs=1e-12)
    assert [bool(reward) for reward in fewer] == [i % every == 0 or i == 6 for i in range(1, 7)]
    assert seldom.distillation.costs.reward_passes == 1 + -(-6 // every)


def test_what_is_observed_does_not_depend_on_measuring() -> None:
    seen = {}
    for every in (1, None):
        env = tiny(reward_every=every)
        observations = [env.reset(seed=3)[0]]
        for action in random_actions(env):
            observations.append(env.step(action)[0])
        seen[every] = observations
        if every is None:
            assert env.distillation.costs.reward_passes == 0
    for one, other in zip(seen[1], seen[None], strict=True):
        for key in one:
            assert np.array_equal(one[key], other[key])


def test_labels_only_pays_less_than_everything() -> None:
    env = tiny(cost_weight=1.0)
    shares = {}
    for name, value in (("labels", 0), ("all", 1)):
        env.reset(seed=0)
        costs = []
        for _ in range(env.decisions):
            info = env.step(np.full(8, value, np.int8))[4]
            costs.append(info["reward/cost"])
        shares[name] = math.fsum(costs)
    assert shares["all"] == pytest.approx(1.0)
    distillation = env.distillation
    shape = distillation.batch_size, round(float(distillation.task.train.lengths.mean()))
    student, teacher = (
        models.Meter(model)(OutputRequest(logits=True)).forward(*shape)
        for model in (distillation.student.model, tiny_teacher(env).model)
    )
    losses = sum(one.flops(*shape) for one in distillation.distiller.knowledge.values())
    assert shares["labels"] == pytest.approx(3 * student / (3 * student + teacher + losses), rel=0.05)


def test_states_forks_and_records() -> None:
    env = tiny()
    actions = random_actions(env)
    env.reset(seed=5)
    for action in actions[:3]:
        env.step(action)
    state, twin = env.state_dict(), env.fork()
    rest = [env.step(action)[1] for action in actions[3:]]
    expected, record = weights(env.distillation), env.record()
    assert [twin.step(action)[1] for action in actions[3:]] == rest
    assert torch.equal(weights(twin.distillation), expected)
    other = tiny()
    other.load_state_dict(state)
    assert [other.step(action)[1] for action in actions[3:]] == rest
    assert torch.equal(weights(other.distillation), expected)
    assert data_equivalence(env.reset(), other.reset(), exact=True)  # what comes next is in the state too
    assert env.validate(record)
    lie = type(record)(record.seed, record.actions, [reward + 0.1 for reward in record.rewards])
    assert not env.validate(lie)


def test_a_fork_is_independent() -> None:
    env = tiny()
    actions = random_actions(env)
    env.reset(seed=5)
    env.step(actions[0])
    before = weights(env.distillation)
    twin = env.fork()
    twin.step(1 - actions[1])
    twin.reset()
    assert torch.equal(weights(env.distillation), before)
    assert env.distillation.task is twin.distillation.task  # data is shared


def test_divergence_ends_the_episode_with_the_error_reward() -> None:
    env = tiny(lr=1e30)
    rewards = []
    env.reset(seed=0)
    ended = False
    while not ended:
        observation, reward, ended, truncated, info = env.step(np.ones(8, np.int8))
        rewards.append(reward)
        assert not truncated
        assert env.observation_space.contains(observation)
        assert all(math.isfinite(value) for value in info.values() if isinstance(value, float))
    assert len(rewards) < env.decisions
    assert info["error/type"] == "divergence"
    assert math.fsum(rewards) == pytest.approx(ERROR_RETURN)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.ones(8, np.int8))
    observation, _ = env.reset()
    assert np.isfinite(observation["globals"]).all()


SURE = EvalResult(0.5, 0.9, divergence=0.0, teacher_correlation=1.0, label_correlation=0.7)
SOME = EvalResult(1.0, 0.1, divergence=0.4, teacher_correlation=0.2, label_correlation=0.4)


@pytest.mark.parametrize(
    ("reward", "start", "teacher", "said"),
    [
        (
            "loss-gap",
            EvalResult(0.5, 0.1),
            EvalResult(1.0, 0.9),
            "a loss of 0.500 on the reward split, and the teacher has 1",
        ),
        ("loss-gap", EvalResult(1.0, 0.9), EvalResult(0.5, 0.1), ""),
        ("gap", SOME, SURE, ""),
        ("gap", SURE, SOME, "an agreement of 1.662 on the reward split, and the teacher has 0.950"),
        ("gap+explore-hard", SURE, SOME, "an agreement of 1.662"),
        ("agreement-gap", SURE, SOME, "an agreement of 0.850 on the reward split, and the teacher has 0.300"),
        ("margin-gap", SURE, SOME, "a teacher correlation of 1.000"),
        ("kl-gap", SURE, SOME, "a divergence of 0.000"),
        ("kl-gap", SOME, None, "rewards are 0: take one that needs none"),
        ("score-gap", EvalResult(0.5, 0.1), EvalResult(1.0, 0.9), ""),
        ("score-gap", EvalResult(1.0, 0.9), EvalResult(0.5, 0.1), "a score of 0.900 on the reward split"),
        ("neg-loss", EvalResult(0.5, 0.1), EvalResult(1.0, 0.9), ""),
        ("final", EvalResult(1.0, 0.9), EvalResult(0.5, 0.1), ""),
        ("gap", EvalResult(1.0, 0.9), None, "no teacher to compare with"),
        ("final", EvalResult(1.0, 0.9), None, ""),
        ("gap", None, None, ""),
    ],
)
def test_a_missing_gap_is_said_once_in_the_terms_of_the_reward(
    caplog: pytest.LogCaptureFixture, reward: str, start: EvalResult | None, teacher: EvalResult | None, said: str
) -> None:
    env = tiny(reward=reward)
    with caplog.at_level(logging.WARNING, logger="ackd"):
        for _ in range(2):
            env.begun(start, teacher, None)
    assert len(caplog.records) == bool(said)
    assert said in caplog.text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tiny(k_max=3), r"k_max is 3, but 4 terms can be weighted \(labels, logits"),
        (lambda: tiny(decisions=0), "an episode of 0 decisions"),
        (lambda: tiny(levels=(0, 1)), "only the action space levels has levels, not subset"),
        (lambda: tiny(choice="levels", levels=(0.5, 1)), "the levels are 0.5, 1: give at least two finite weights"),
        (lambda: tiny(choice="levels", levels=(0, math.inf)), "the levels are 0, inf"),
        (lambda: tiny(decision_interval=0), "at least 1 step, got 0"),
        (lambda: tiny(choice="subsets"), "did you mean 'subset'"),
        (lambda: tiny(reward="gab"), "did you mean 'gap'"),
        (lambda: tiny(steps=0), "steps must be above 0, got 0"),
        (lambda: tiny().reset(options={"speed": 3}), "no options, got speed"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric")  # weights are shares: 0 to 1
def test_soft_weights() -> None:
    env = gymnasium.make("ACKD/Tiny-v0", choice="weights")
    check_env(env.unwrapped)
    sb3_check_env(env)

    env.reset(seed=0)
    info = env.step(np.array([0.5, 1, 0.01, 0, 1, 1, 1, 1], np.float32))[4]
    assert info["action/effective"] == "logits"


def test_levels() -> None:
    env = gymnasium.make("ACKD/Tiny-v0", choice="levels", levels=(0, 0.5, 2))
    check_env(env.unwrapped)
    sb3_check_env(env)

    _, info = env.reset(seed=0)
    assert not env.action_space.sample(mask=info["action_mask"])[4:].any()
    inner = cast(DistillationEnv, env.unwrapped)
    env.step(np.array([0, 1, 2, 0, 1, 1, 1, 1]))
    assert inner.episode is not None
    assert inner.episode.phases[-1].selection == Selection({"logits": 0.5, "hidden": 2.0}, labels=0.0)


@pytest.mark.parametrize(
    ("decisions", "phases"), [(None, [1] * 7), (1, [7]), (2, [4, 3]), (3, [3, 2, 2]), (7, [1] * 7), (9, [1] * 7)]
)
def test_a_decision_holds_for_its_part_of_the_phases(decisions: int | None, phases: list[int]) -> None:
    env, every = tiny(steps=13, decisions=decisions), tiny(steps=13, decisions=None)
    observation, _ = env.reset(seed=0)
    every.reset(seed=0)
    assert env.decisions == len(phases)
    for decision, count in enumerate(phases):
        assert observation["globals"][GLOBALS.index("horizon")] == pytest.approx(math.log1p(len(phases) - decision))
        action = env.action_space.sample()
        observation, reward, terminated, _, info = env.step(action)
        answers = [every.step(action) for _ in range(count)]
        assert reward == pytest.approx(sum(answer[1] for answer in answers))
        assert info["reward/improvement"] == pytest.approx(sum(answer[4]["reward/improvement"] for answer in answers))
        assert terminated == answers[-1][2]
    assert torch.equal(weights(env.distillation), weights(every.distillation))
    assert env.validate(env.record())


def test_a_step_is_fast() -> None:
    """Against the student's own passes, since machines differ; the least of a few, since others use the machine."""
    env, ids = tiny(), torch.ones(8, 12, dtype=torch.long)
    student = models.from_layers(tiny_teacher(env).model, 2)()

    def plain() -> None:
        student(input_ids=ids, labels=torch.zeros(8, dtype=torch.long)).loss.backward()

    actions = random_actions(env)
    play(env, actions, seed=0)
    decisions, passes = [], []
    for _ in range(5):
        env.reset()
        decisions.append([process_seconds(partial(env.step, action)) for action in actions])
        passes += [process_seconds(plain) for _ in actions]
    assert np.median(np.min(decisions, axis=0)) < 20 * min(passes)  # two steps, and the reward split


def process_seconds(work: Callable[[], object]) -> float:
    """The processor's time that it takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.parametrize("kept", [False, True])
def test_a_decision_is_6_calls_away_from_its_gradients(kept: bool, tmp_path: Path) -> None:
    env = tiny(steps=1)
    if kept:
        env.replay(ReplayLog(tmp_path, seconds=0))
    env.reset(seed=1)
    stacks: list[list[str]] = []

    def note(gradient: torch.Tensor) -> None:
        frames = [frame for frame, _ in traceback.walk_stack(None)]
        stacks.append([one.f_code.co_name for one in frames if one.f_globals["__name__"].startswith("ackd.")])

    env.distillation.student.parameters[0].register_hook(note)
    env.step(np.ones(8, dtype=np.int8))
    assert stacks == [["step", "advance", "advance", "call", "_phases", "step"]]  # the innermost first
