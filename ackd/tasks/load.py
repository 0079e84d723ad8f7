"""Loads a task with its three splits by name."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError, unknown
from ackd.split import Split
from ackd.tasks.cut import LEAST, Pool, part_of
from ackd.tasks.data_sets import Data, is_named
from ackd.tasks.embedded import EMBEDDED, generate
from ackd.tasks.glue import GLUE
from ackd.tasks.language import LANGUAGE
from ackd.tasks.own import is_own, own_spec, own_task
from ackd.tasks.rows import Rows, glue_rows
from ackd.tasks.seen import NOTHING, Seen
from ackd.tasks.sentences import EMBEDDINGS, interleaved, sentence_spec, sentence_task
from ackd.tasks.spec import TaskSpec
from ackd.tasks.task import TRAIN, Task
from ackd.tasks.tokenise import tokenise

logger = logging.getLogger("ackd")

REWARD_EXAMPLES, REWARD_SHARE = 256, 8  # default size of the reward split: min(256, rows / 8)
DEV_EXAMPLES, DEV_SHARE = 2000, 0.2
OWN = "give --data with a file, a folder that save_to_disk wrote, or a name on the hub (USER/NAME)"
INSTEAD = (
    "measure rewards on a part of dev (--reward-from dev:0.5), or name a teacher that leaves some out (ackd finetune)"
)


def spec_of(
    name: str, *, data: Data | None = None, text_columns: Sequence[str] = (), label_column: str | None = None
) -> TaskSpec:
    """The specification of a task, without tokenising its data.

    Raises:
        InputError: if the task is unknown, or the user's own data is invalid.
    """
    if name == EMBEDDINGS:
        return sentence_spec()
    if name == LANGUAGE.name:
        return LANGUAGE
    if data is not None and is_own(data, text_columns, label_column):
        return own_spec(name, data, text_columns, label_column)
    if text_columns or label_column:
        raise InputError(f"columns are named, but no data: {OWN}")
    assert data is None or is_named(data)
    known: dict[str, TaskSpec] = GLUE if data is not None else {**EMBEDDED, **GLUE}
    if data is not None and name in EMBEDDED:
        raise InputError(f"the task {name} is generated and takes no data: leave --data away")
    if name not in known:
        raise unknown("task", name, {**EMBEDDED, **GLUE, EMBEDDINGS: None, LANGUAGE.name: None})
    return known[name]


def load(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    data: Data | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    dev_data: Data | None = None,
    max_examples: int | None = None,
    reward_examples: int | None = None,
    reward_from: str = TRAIN,
    wrong_labels: float = 0.0,
    max_length: int = 128,
    seed: int = 0,
    seen: Seen = NOTHING,
) -> Task:
    """Loads and tokenises a task with its train, reward and dev splits.

    Held-out splits are drawn from the whole training data, before `max_examples` is applied, among rows that no model
    of the run has learned from. Rows that share text with them are left out of the other splits.

    Args:
        name: a GLUE task, a generated task, embeddings, or any name for the user's own data.
        tokenizer: of teacher and student.
        data: a folder of GLUE in the hub's layout; or the user's own data: a file, a folder written by `save_to_disk`,
            USER/NAME[:CONFIG] on the hub, a `Dataset` or a `DatasetDict`. None: GLUE from the hub, or a generated task.
        text_columns: one or two text columns of the user's own data.
        label_column: label column of the user's own data.
        dev_data: a file or a `Dataset` to report on, for the user's own data. None: the dev split of `data`, or a
            random fifth of it.
        max_examples: number of training examples, drawn from the rows that the held-out splits leave.
        reward_examples: size of the reward split, at most half of the training data; 0: none. None: 256, or an eighth
            of the training data if that is less.
        reward_from: train, or dev:PART (e.g. dev:0.5): a random part of the first dev split becomes the reward split,
            and dev keeps the rest.
        wrong_labels: share of labels in the train and reward splits that are changed to a random other class, to study
            label noise; dev is not changed.
        max_length: most tokens of an example.
        seed: of all random choices above.
        seen: training data of the teachers and of the models that students start from.

    Raises:
        InputError: if an argument or the data is missing or invalid.
    """
    share = part_of_dev(reward_from)
    _check(tokenizer, reward_examples, max_length, seed)
    dev_seed, reward_seed, train_seed, wrong_seed = np.random.SeedSequence(seed).spawn(4)
    spec, rows, dev = _source(name, data, text_columns, label_column, dev_data)
    least = 4 * spec.num_labels
    if len(rows) < least:
        raise InputError(f"{name} has {len(rows)} training examples: it needs at least {least}")
    if max_examples is not None and max_examples < least:
        raise InputError(f"--max-examples is {max_examples}: {name} needs at least {least}")
    pool = Pool(rows, name, seen)
    if dev is None:
        count = min(DEV_EXAMPLES, round(DEV_SHARE * len(rows)))
        dev = {"validation": rows.select(pool.hold_out("dev", count, dev_seed, "name a file with --dev-data"))}
    if share is None:
        held = pool.hold_out("reward", held_out_size(reward_examples, len(pool.left), name), reward_seed, INSTEAD)
        reward = rows.select(held)
    else:
        reward, dev = _divided(dev, share, reward_seed)
    left = pool.left
    if max_examples is not None and max_examples < len(left):
        left = np.sort(np.random.default_rng(train_seed).choice(left, max_examples, replace=False))
    train = rows.select(left)
    if wrong_labels:
        rng = np.random.default_rng(wrong_seed)
        train, reward = _wrong(spec, train, wrong_labels, rng), _wrong(spec, reward, wrong_labels, rng)
    learned = np.zeros(len(rows), np.bool_)
    learned[left] = True

    def tokenised(rows: Rows) -> Split:
        rows = interleaved(rows) if spec.sentences else rows
        return tokenise(rows.texts, rows.labels, rows.ids, tokenizer, max_length)

    reports = {split: tokenised(those) for split, those in dev.items()}
    learned_from = tokenised(train)
    rewards = tokenised(reward) if len(reward) else learned_from.select([])
    known = seen.plus(pool.data, learned)
    return Task(spec, learned_from, rewards, reports, reward_from, known, tokenizer, max_length=max_length)


def held_out_size(wanted: int | None, there: int, name: str) -> int:
    """The size of the reward split, from the wanted size and the available rows."""
    if wanted is None:
        return max(min(REWARD_EXAMPLES, there // REWARD_SHARE), 1)
    if wanted > there // 2:
        logger.warning(
            "--reward-examples is %d, and %s has %d training examples: half of them are set aside", wanted, name, there
        )
    return min(wanted, max(there // 2, 1))


def _check(tokenizer: PreTrainedTokenizerBase, reward_examples: int | None, max_length: int, seed: int) -> None:
    """Refuses numbers that are out of range."""
    if seed < 0:
        raise InputError(f"the seed of the data must be 0 or more, got {seed}")
    if reward_examples is not None and reward_examples < 0:
        raise InputError(f"the reward split needs at least 1 example, or 0 for none, got {reward_examples}")
    check_max_length(tokenizer, max_length)


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Checks the maximum length of texts against the model's limit.

    Raises:
        InputError: if it is too small or too large.
    """
    longest = min(tokenizer.model_max_length, 10**6)
    if not 4 <= max_length <= longest:
        raise InputError(f"the maximum length is {max_length}: this model takes 4 to {longest} tokens")


def _wrong(spec: TaskSpec, rows: Rows, share: float, rng: np.random.Generator) -> Rows:
    """The rows with a random share of the labels changed to another class."""
    if not spec.classes or not 0 <= share < 1:
        raise InputError(
            f"--wrong-labels is {share} on {spec.name}: give a share from 0 up and below 1, of a task with classes"
        )
    chosen = rng.permutation(len(rows))[: round(share * len(rows))]
    labels = rows.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, spec.num_labels, len(chosen))) % spec.num_labels
    return replace(rows, labels=labels)


def part_of_dev(reward_from: str) -> float | None:
    """The share of dev that becomes the reward split; None if the reward split comes from the training data.

    Raises:
        InputError: if `reward_from` is neither train nor dev:PART.
    """
    if reward_from == TRAIN:
        return None
    start, _, part = reward_from.partition(":")
    try:
        share = float(part)
    except ValueError:
        share = 0.0
    if start != "dev" or not 0 < share < 1:
        raise InputError(
            f"--reward-from is {reprlib.repr(reward_from)}: give train, or dev:PART with a part above 0 and below 1, "
            "such as dev:0.5"
        )
    return share


def _source(
    name: str,
    data: Data | None,
    text_columns: Sequence[str],
    label_column: str | None,
    dev_data: Data | None,
) -> tuple[TaskSpec, Rows, dict[str, Rows] | None]:
    """The task's specification, whole training data, and dev data (None if train must provide dev)."""
    if name == EMBEDDINGS:
        return sentence_task(data, text_columns, label_column, dev_data)
    if data is not None and is_own(data, text_columns, label_column):
        return own_task(name, data, text_columns, label_column, dev_data)
    assert data is None or is_named(data)
    if dev_data is not None:
        raise InputError(f"--dev-data goes with data of your own, and {name} brings its own validation split")
    spec = spec_of(name, data=data, text_columns=text_columns, label_column=label_column)
    if name in EMBEDDED:
        return spec, generate(name, "train"), {"validation": generate(name, "validation")}
    train = glue_rows(spec, data, "train")
    return spec, train, {split: glue_rows(spec, data, split) for split in spec.validation}


def _divided(dev: Mapping[str, Rows], share: float, seed: np.random.SeedSequence) -> tuple[Rows, dict[str, Rows]]:
    """Splits the first dev split into a share for rewards and the rest for reports."""
    (name, first), *others = dev.items()
    held = part_of(first, share, np.random.default_rng(seed))
    rest = np.setdiff1d(np.arange(len(first)), held)
    if min(len(held), len(rest)) < LEAST:
        raise InputError(
            f"--reward-from dev:{share:g} leaves {len(held)} of the {len(first)} examples of {name} to rewards and "
            f"{len(rest)} to reports: give a part that leaves at least {LEAST} to each"
        )
    return first.select(held), {name: first.select(rest), **dict(others)}
