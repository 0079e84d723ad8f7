"""Environments in workers keep stable-baselines3's promises, and lose nothing with a worker."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.actor_critic import make_agent
from ackd.distributed.workers import WorkerFailed, WorkerLost, Workers, start
from ackd.distributed.workers.inline import Inline
from ackd.envs.env_server import EnvServer, Registered
from ackd.envs.make import tiny
from ackd.envs.recorder import BufferedRecorder, Note
from ackd.envs.recording import Recording
from ackd.envs.remote import RemoteVecEnv
from ackd.errors import InputError
from ackd.runs import stopping
from ackd.training.replay_log import ReplayLog

TOY = Registered("ACKD/Toy-v0", count=2)


@pytest.fixture(params=["dummy", "subproc"], scope="module")
def started(request: pytest.FixtureRequest, forked_workers: None) -> Iterator[RemoteVecEnv]:
    env = RemoteVecEnv(start(request.param, TOY, 2, threads=1), seconds=60)
    yield env
    env.close()
    env.close()


@pytest.fixture
def toys(started: RemoteVecEnv) -> RemoteVecEnv:
    """Two workers with two toys each, at the beginning of an episode."""
    started.seed(0)
    started.reset()
    return started


def draws(env: RemoteVecEnv | DummyVecEnv, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (env.num_envs, *(env.action_space.shape or ()))
    return [rng.integers(0, 2, shape).astype(np.int8) for _ in range(count)]


def play(env: Any, count: int, seed: int = 0) -> list[Any]:
    """Everything that is answered to random decisions."""
    return [plain(env.step(action)) for action in draws(env, count, seed)]


def plain(value: Any) -> Any:
    """Without arrays, which do not compare, and without the time that an episode took."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name != "t"}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def test_answers_are_those_of_the_same_environments_here(toys: RemoteVecEnv) -> None:
    here = DummyVecEnv([lambda: Monitor(TOY.one()) for _ in range(4)])
    assert (toys.num_envs, toys.observation_space, toys.action_space) == (4, here.observation_space, here.action_space)
    for seed in (3, 4):
        assert toys.seed(seed) == here.seed(seed) == [seed, seed + 1, seed + 2, seed + 3]
        assert plain(toys.reset()) == plain(here.reset())
        assert plain(toys.reset_infos) == plain(here.reset_infos)
        said = play(toys, 25)
        assert said == play(here, 25)
        assert plain(toys.reset_infos) == plain(here.reset_infos)
        ends = [info for step in said for info in step[3] if "terminal_observation" in info]
        assert ends
        assert all("episode" in info and not info["TimeLimit.truncated"] for info in ends)
        types = [{name: value.dtype for name, value in cast(Any, env.reset()).items()} for env in (toys, here)]
        assert types[0] == types[1]


def test_seeds_and_options_are_used_once(toys: RemoteVecEnv) -> None:
    toys.seed(7)
    first = plain(toys.reset())
    assert plain(toys.reset_infos) != plain(DummyVecEnv([lambda: Monitor(TOY.one())]).reset_infos)
    toys.seed(7)
    assert plain(toys.reset()) == first
    toys.set_options({"nonsense": 1})
    with pytest.raises(InputError, match="nonsense"):
        toys.reset()


def test_attributes_and_methods(toys: RemoteVecEnv) -> None:
    toys.set_attr("mark", "all")
    toys.set_attr("mark", "some", indices=[3, 0])
    assert toys.get_attr("mark") == ["some", "all", "all", "some"]
    assert toys.get_attr("mark", indices=[2, 3, 1, 3]) == ["all", "some", "all", "some"]
    assert toys.get_attr("mark", indices=-1) == ["some"]
    assert toys.has_attr("mark")
    assert not toys.has_attr("no_such_thing")
    assert toys.env_method("get_wrapper_attr", "mark", indices=[1, 3]) == ["all", "some"]
    assert toys.env_method("get_wrapper_attr", name="mark", indices=0) == ["some"]
    with pytest.raises(WorkerFailed, match=r"(?s)worker 0 .* failed:\n.*AttributeError"):
        toys.get_attr("no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):  # as DummyVecEnv does
        toys.get_attr("no_such_thing", indices=[3, 0])
    with pytest.raises(AttributeError, match="no_such_thing"):
        toys.env_method("no_such_thing", 3)
    assert toys.get_attr("mark", indices=0) == ["some"]  # nobody's answer was left over
    assert toys.env_is_wrapped(Monitor) == [True] * 4
    assert toys.env_is_wrapped(TimeLimit, indices=[1]) == [False]
    assert toys.render_mode is None
    assert plain(toys.get_attr("unwrapped", indices=1)[0].action_space.shape) == list(toys.action_space.shape or ())


@pytest.mark.parametrize("use", ["reset", "step", "get_attr", "env_method", "has_attr", "state_dict", "costs"])
def test_after_close_everything_is_refused_in_a_sentence(use: str) -> None:
    env = RemoteVecEnv(start("dummy", TOY, 2))
    env.reset()
    env.close()
    env.close()
    arguments: dict[str, list[Any]] = {"step": [np.zeros((4, 8))], "env_method": ["record"]}
    arguments |= {"get_attr": ["mark"], "has_attr": ["mark"]}
    with pytest.raises(InputError, match=r"these environments are closed, .*: make new ones"):
        getattr(env, use)(*arguments.get(use, []))


def test_a_copy_goes_on_from_a_state(toys: RemoteVecEnv) -> None:
    play(toys, 3)
    state = pickle.loads(pickle.dumps(toys.state_dict()))
    said = play(toys, 9, seed=1)
    toys.load_state_dict(state)
    assert without_returns(play(toys, 9, seed=1)) == without_returns(said)


def without_returns(steps: list[Any]) -> list[Any]:
    """Monitor counts by itself, and its count is no part of the state."""
    return [[*step[:3], [{k: v for k, v in info.items() if k != "episode"} for info in step[3]]] for step in steps]


@pytest.mark.parametrize("started", ["subproc"], indirect=True)
def test_a_lost_worker_costs_nothing_but_time(
    toys: RemoteVecEnv, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = RemoteVecEnv(start("dummy", TOY, 2, threads=1))
    for env in (undisturbed, toys):
        env.seed(5)
    assert plain(toys.reset()) == plain(undisturbed.reset())
    assert play(toys, 7) == play(undisturbed, 7)
    toys.set_attr("mark", 1, indices=3)
    os.kill(int(toys.workers.about[1]["pid"]), signal.SIGKILL)
    assert play(toys, 7, seed=1) == play(undisturbed, 7, seed=1)
    assert toys.get_attr("mark", indices=3) == [1]
    assert "was killed by SIGKILL" in caplog.text
    os.kill(int(toys.workers.about[0]["pid"]), signal.SIGSTOP)
    monkeypatch.setattr(toys, "_seconds", 2.0)
    assert play(toys, 7, seed=2) == play(undisturbed, 7, seed=2)
    assert "did not answer within 2 s" in caplog.text


class Dying(Inline):
    """Answers all but decisions."""

    def get(self, seconds: float | None) -> bytes:
        if pickle.loads(self._request)[0] == "step":
            raise WorkerLost("is gone")
        return super().get(seconds)


def test_a_worker_that_is_lost_again_and_again_ends_the_run() -> None:
    opened: list[int] = []

    def open_one(worker: int) -> Dying:
        opened.append(worker)
        return Dying(worker)

    env = RemoteVecEnv(Workers(open_one, TOY, 2))
    env.reset()
    with pytest.raises(InputError, match=r"worker 0 .* is gone, .* 3 times over at the same step: .*--step-timeout"):
        play(env, 1)
    assert opened == [0, 1, 0, 0, 1, 1]


def test_a_signal_ends_the_repetition_of_a_lost_workers_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, asked = 0, False

    class Restarted(Dying):
        """A signal comes as it is restarted, and is forgotten with the first repeated call."""

        def __init__(self, worker: int) -> None:
            nonlocal begun, asked
            super().__init__(worker)
            begun += 1
            asked = begun > 1

        def put(self, request: bytes) -> None:
            nonlocal asked
            asked = asked and pickle.loads(request)[0] not in ("reset", "step")
            super().put(request)

    env = RemoteVecEnv(Workers(Restarted, TOY, 1))
    env.reset()
    monkeypatch.setattr(stopping, "_asked", signal.SIGTERM)
    monkeypatch.setattr("ackd.envs.remote.stop_asked", lambda: asked)
    with pytest.raises(stopping.Stopped):
        play(env, 1)
    assert begun == 2


def test_a_signal_saves_what_was_learned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = RemoteVecEnv(start("dummy", partial(tiny_with_journal, tmp_path), 2))
    env.reset()
    env.step(draws(env, 1)[0])
    assert not list(tmp_path.glob("*/state.pt"))
    monkeypatch.setattr(stopping, "_asked", signal.SIGTERM)
    monkeypatch.setattr("ackd.training.replay_log.stop_asked", lambda: False)  # these are elsewhere, and get no signal
    with pytest.raises(stopping.Stopped):
        env.step(draws(env, 1)[0])
    assert len(list(tmp_path.glob("*/state.pt"))) == 2


def tiny_with_journal(folder: Path, worker: int) -> EnvServer:
    env, replay_log = tiny(), ReplayLog(folder / str(worker), seconds=1e9)
    env.replay(replay_log)
    recording = Recording(env, BufferedRecorder(worker, 2))
    return EnvServer(DummyVecEnv([lambda: Monitor(recording)]), course=recording, replay_log=replay_log)


def test_an_agent_learns_the_same_wherever_its_environments_are(toys: RemoteVecEnv) -> None:
    def learned(env: Any) -> list[float]:
        agent = make_agent("a2c", env, seed=1, n_steps=5, episodes=16)
        agent.learn(200)
        return [float(value) for tensor in agent.policy.state_dict().values() for value in tensor.flatten()]

    assert learned(toys) == learned(DummyVecEnv([lambda: Monitor(TOY.one()) for _ in range(4)]))


def strange(worker: int) -> EnvServer:
    return EnvServer(DummyVecEnv([lambda: tiny(k_max=5 + worker)]), fingerprints={"training data": "abc"})


def test_other_data_is_refused() -> None:
    workers = start("dummy", strange, 1)
    with pytest.raises(InputError, match=r"worker 0 .* has another training data \(abc\) than the learner \(xyz\)"):
        RemoteVecEnv(workers, fingerprints={"training data": "xyz"})


def test_other_spaces_are_refused() -> None:
    with pytest.raises(InputError, match=r"worker 1 .* has other observations or actions"):
        RemoteVecEnv(start("dummy", strange, 2))


def test_episodes_are_numbered_in_turn() -> None:
    """Each of 3 workers with 2 students side by side, three rounds."""
    tapes = [BufferedRecorder(worker, 3, 2) for worker in range(3)]
    numbers = []
    for _ in range(3):
        for tape in tapes:
            first = tape.episodes
            for student in (0, 1):
                tape.write(Note(first + student, {}))
            numbers += [note.episode for note in tape.take()]
    assert numbers == list(range(18))
    assert tapes[0].take() == []
