"""A training whose journal is cut off anywhere goes on to the same end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from ackd.agents.rules import rule
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.training.replay_log import ENTRIES, STATE, ReplayLog


def play(env: DistillationEnv, seeds: tuple[int, ...] = (3, 4), *, policy: str = "random") -> list[Any]:
    """Everything that two episodes say, and the last student's weights."""
    said: list[Any] = []
    chooser = rule(policy, env.knowledge, seed=1)
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        said.append({key: value.tolist() for key, value in observation.items()})
        over = False
        while not over:
            action, _ = chooser.predict(observation)
            observation, reward, over, _, info = env.step(action)
            info = {key: value.tolist() if key == "action_mask" else value for key, value in info.items()}
            said.append([{key: value.tolist() for key, value in observation.items()}, reward, info])
        few = env.distillation.task.dev["validation"].select(range(100))
        said.append(env.distillation.evaluate(few, "validation"))
    said.append({name: value.tolist() for name, value in env.distillation.student.model.state_dict().items()})
    return said


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """What an undisturbed run says, without a journal."""
    return play(tiny())


def journaled(folder: Path, *, seconds: float = 0.0, **setting: Any) -> DistillationEnv:
    env = tiny(**setting)
    env.replay(ReplayLog(folder, seconds=seconds))
    return env


class Killed(Exception):  # noqa: N818 - no error: the test's own doing
    pass


def cut_off(folder: Path, after: int, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A run that dies after so many lines of its journal."""
    env = journaled(folder, seconds=seconds)
    replay_log = env.distillation.replay_log
    assert replay_log is not None
    append, lines = replay_log._append, 0

    def count(entry: dict[str, Any]) -> None:
        nonlocal lines
        lines += 1
        if lines > after:
            raise Killed
        append(entry)

    with monkeypatch.context() as patch:
        patch.setattr(replay_log, "_append", count)
        with pytest.raises(Killed):
            play(env)


@pytest.mark.parametrize(
    ("after", "seconds"), [(0, 0.0), (2, 0.0), (4, 0.0), (7, 0.0), (15, 0.0), (16, 0.0), (20, 0.0), (7, 1e9), (20, 1e9)]
)
def test_a_run_that_was_cut_off_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[Any], after: int, seconds: float
) -> None:
    cut_off(tmp_path, after, monkeypatch, seconds)
    assert play(journaled(tmp_path, seconds=seconds)) == expected


def test_being_cut_off_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[Any]) -> None:
    for _ in range(5):
        cut_off(tmp_path, 7, monkeypatch, 0.0)  # 7 more lines each time
    env = journaled(tmp_path)
    assert env.distillation.replay_log is not None
    assert env.distillation.replay_log.replaying
    assert play(env) == expected


def test_what_the_journal_has_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[Any]
) -> None:
    assert play(journaled(tmp_path)) == expected
    env = journaled(tmp_path)
    steps = 0
    step = type(env.distillation.distiller).step

    def counted(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(*args)

    monkeypatch.setattr(type(env.distillation.distiller), "step", counted)
    assert play(env) == expected
    assert steps == 0


def test_the_ledger_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = tiny()
    play(undisturbed)
    cut_off(tmp_path, 20, monkeypatch, 0.0)
    env = journaled(tmp_path)
    play(env)
    one, other = undisturbed.distillation.costs, env.distillation.costs
    for part in ("student", "knowledge", "teacher"):
        assert one.flops[part] == other.flops[part]
    assert (one.steps, one.reward_passes, one.teacher_queries) == (
        other.steps,
        other.reward_passes,
        other.teacher_queries,
    )


def test_a_torn_line_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[Any]) -> None:
    cut_off(tmp_path, 9, monkeypatch, 0.0)
    with (tmp_path / ENTRIES).open("a") as file:
        file.write('{"verb": "advance", "asked": [{"wei')
    assert play(journaled(tmp_path)) == expected


@pytest.mark.parametrize("damage", [b"", b"PK", b"\x80\x04K\x01.", b"garbage" * 100])
def test_a_damaged_state_costs_the_episode_under_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected: list[Any],
    damage: bytes,
) -> None:
    cut_off(tmp_path, 20, monkeypatch, 0.0)
    (tmp_path / STATE).write_bytes(damage)
    with caplog.at_level(logging.WARNING, "ackd"):
        env = journaled(tmp_path)
    assert "begins again" in caplog.text
    assert play(env) == expected


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_a_state_is_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cut_off(tmp_path, 20, monkeypatch, 0.0)
    torch.save({"entries": 15, "state": Trap()}, tmp_path / STATE)
    play(journaled(tmp_path))
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("line", ["[]", "{}", "garbage", '"verb"', "[" * 5000])
def test_a_garbled_line_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / ENTRIES).write_text(line + "\n")
    with pytest.raises(InputError, match="damaged in line 1"):
        ReplayLog(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answer", {"report": {"loss": 1}}),
        ("answer", {"nothing": {}}),
        ("answer", {}),
        ("counters", {}),
        ("counters", 3),
    ],
)
def test_an_answer_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    cut_off(tmp_path, 9, monkeypatch, 0.0)
    lines = [json.loads(line) for line in (tmp_path / ENTRIES).read_text().splitlines()]
    lines[1][field] = value
    (tmp_path / ENTRIES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=rf"journal\.jsonl (has an answer to measure|is damaged in line 2).*{field}"):
        play(journaled(tmp_path))


def test_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(tmp_path, 9, monkeypatch, 0.0)
    with pytest.raises(InputError, match=r"cannot be resumed: it had advance .*start it anew"):
        play(journaled(tmp_path), policy="all")
    with pytest.raises(InputError, match=r"it had reset \[3\], and now reset \[5\]"):
        play(journaled(tmp_path), (5,))


def test_a_full_disk_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, expected: list[Any]
) -> None:
    env = journaled(tmp_path)
    replay_log = env.distillation.replay_log
    assert replay_log is not None
    saves, save = 0, torch.save

    def full(*args: Any, **kwargs: Any) -> None:
        nonlocal saves
        saves += 1
        if saves > 3:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "ackd"):
        patch.setattr(torch, "save", full)
        said = play(env)
    assert said == expected  # the run itself goes on
    assert caplog.text.count("cannot be written") == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert torch.load(tmp_path / STATE, weights_only=True)["entries"] > 0
    again = journaled(tmp_path)
    assert again.distillation.replay_log is not None
    assert again.distillation.replay_log.replaying
    assert play(again) == said


def test_lines_are_plain_json(tmp_path: Path) -> None:
    play(journaled(tmp_path), (3,))
    verbs = [json.loads(line)["verb"] for line in (tmp_path / ENTRIES).read_text().splitlines()]
    assert verbs == ["reset", "measure", "measure_teacher", "inspect", *["advance", "measure"] * 6, "measure"]


def test_a_finished_journal_answers_everything_again_and_nothing_else(tmp_path: Path) -> None:
    env = journaled(tmp_path)
    said = play(env, (3,))[:-1]  # the weights are gone with the state
    assert env.distillation.replay_log is not None
    env.distillation.replay_log.finish()
    assert [path.name for path in tmp_path.iterdir()] == [ENTRIES]
    for _ in range(2):
        again = journaled(tmp_path)
        assert play(again, (3,))[:-1] == said
        assert again.distillation.replay_log is not None
        again.distillation.replay_log.finish()
    with pytest.raises(InputError, match="is finished, and has no answer to reset"):
        again.reset(seed=5)


def test_forks_are_not_written_down(tmp_path: Path) -> None:
    env = journaled(tmp_path)
    observation, _ = env.reset(seed=3)
    action, _ = rule("all", env.knowledge).predict(observation)
    before = (tmp_path / ENTRIES).read_text()
    env.fork().step(action)
    assert (tmp_path / ENTRIES).read_text() == before
    env.step(action)
    again = journaled(tmp_path)
    with pytest.raises(ValueError, match="cannot be forked"):
        again.fork()


def test_first_token_states_are_journaled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = play(tiny(observe_cls=True, student_width=8))
    assert play(journaled(tmp_path, observe_cls=True, student_width=8)) == expected
    assert play(journaled(tmp_path, observe_cls=True, student_width=8)) == expected


@pytest.mark.parametrize("answer", [None, [[0.0] * 8], [[0.0] * 8, [0.0] * 7], [["x"], [0.0, [1]]]])
def test_first_token_states_of_other_models_are_refused(answer: Any, tmp_path: Path) -> None:
    play(journaled(tmp_path, observe_cls=True, student_width=8), (3,))
    lines = [json.loads(line) for line in (tmp_path / ENTRIES).read_text().splitlines()]
    told = [line | ({"answer": answer} if line["verb"] == "represent" else {}) for line in lines]
    (tmp_path / ENTRIES).write_text("".join(json.dumps(line) + "\n" for line in told))
    with pytest.raises(InputError, match="start the run anew"):
        play(journaled(tmp_path, observe_cls=True, student_width=8), (3,))
