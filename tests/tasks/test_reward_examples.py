"""How many examples are set aside for rewards: few of few, never in silence, and never those that a teacher knows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import ackd
from ackd.errors import InputError
from ackd.tasks import Task, check_rewards, embedded_tokenizer, load
from ackd.tasks.embedded import generate

COLUMNS: dict[str, Any] = {"text_columns": ["text"], "label_column": "label"}
STEPS: dict[str, Any] = {"steps": 1, "batch_size": 4, "quiet": True}


def write(folder: Path, count: int) -> Path:
    """A file of so many sentences, none of which is in another."""
    rows = generate("polarity", "train")
    path = folder / f"{count}.csv"
    texts = enumerate(zip(rows.texts[0], rows.labels, strict=True))
    lines = [f'"{number} {text} end{number}",{label}' for number, (text, label) in texts]
    path.write_text("\n".join(["text,label", *lines[:count]]) + "\n")
    return path


def own(folder: Path, count: int, **changes: Any) -> Task:
    path = write(folder, count)
    return load("own", embedded_tokenizer("polarity"), data=path, dev_data=path, **COLUMNS, **changes)


@pytest.mark.parametrize(("count", "held"), [(8, 1), (160, 20), (2047, 255), (2048, 256), (4000, 256)])
def test_an_eighth_of_few_and_256_of_many(count: int, held: int, tmp_path: Path) -> None:
    task = own(tmp_path, count)
    assert (len(task.reward), len(task.train)) == (held, count - held)


def test_more_than_half_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ackd")
    assert len(own(tmp_path, 100, reward_examples=50).reward) == 50
    assert caplog.messages == []
    assert len(own(tmp_path, 100, reward_examples=60).reward) == 50
    (said,) = caplog.messages
    assert "--reward-examples is 60, and own has 100 training examples" in said


def test_none_can_be_set_aside(tmp_path: Path) -> None:
    task = own(tmp_path, 100, reward_examples=0)
    assert (len(task.train), len(task.reward)) == (100, 0)
    assert task.seen.parts[0].size == 100
    with pytest.raises(InputError, match="--reward-examples 0 sets none aside"):
        check_rewards(task)
    with pytest.raises(InputError, match="got -1"):
        own(tmp_path, 100, reward_examples=-1)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that was fine-tuned on a file of 400 rows."""
    folder = tmp_path_factory.mktemp("taught")
    data = write(folder, 400)
    tokenizer = embedded_tokenizer("polarity")
    config = ackd.models.small_config(len(tokenizer), 2, layers=2, width=16, heads=2)
    ackd.finetune(config, data, tokenizer=tokenizer, dev_data=data, output=folder / "run", **COLUMNS, **STEPS)
    return folder


def test_a_teacher_of_a_small_file_leaves_a_later_run_its_reward_split(taught: Path) -> None:
    """Which no explicit number is needed for: both count alike."""
    data = taught / "400.csv"
    how: dict[str, Any] = {"data": data, "dev_data": data, **COLUMNS}
    task = ackd.prepare(task="own", teacher=taught / "run", student_layers=1, **how).task
    seen = ackd.tasks.read_seen(taught / "run")
    assert seen is not None
    (known,) = seen.parts
    rows = seen.rows(known.data, 400)
    assert rows.sum() == 350
    assert len(task.reward) == 50
    assert not rows[task.reward.ids].any()


def test_a_static_run_can_do_without_and_what_earns_rewards_cannot(taught: Path) -> None:
    data = taught / "400.csv"
    how: dict[str, Any] = {"data": str(data), "dev_data": str(data), **COLUMNS, "reward_examples": 0}
    teacher = str(taught / "run")
    args = ackd.DistillationConfig(
        student_layers=1, steps=2, batch_size=4, reward_examples=0, text_columns=("text",), label_column="label"
    )
    for policy in ("all", "default"):
        trainer = ackd.DistillationTrainer(
            teacher=teacher, train_dataset=str(data), eval_dataset=str(data), policy=policy, args=args, quiet=True
        )
        assert 0 <= trainer.train().score <= 100
    setting = {"task": "own", "teacher": teacher, "student_layers": 1, "steps": 2, "batch_size": 4, **how}
    for refused in (
        lambda: ackd.evaluate(["all"], settings=[setting], seeds=1),
        lambda: ackd.train_agent("cem", settings=setting, episodes=4),
        lambda: ackd.tune(
            teacher, str(data), student_layers=1, **STEPS, dev_data=str(data), **COLUMNS, reward_examples=0
        ),
    ):
        with pytest.raises(InputError, match="--reward-examples 0 sets none aside"):
            refused()
