"""Everything that is read from disk: a valid sample of each, and what reads it as the commands do."""

from __future__ import annotations

import copy
import csv
import hashlib
import inspect
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from ackd import corpora, knowledge, models, tasks
from ackd.agents import SetNetwork, library, store, weights
from ackd.agents.model_card import card_text
from ackd.envs.instance_files import read_instances
from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS
from ackd.models import Model, Tokenizer
from ackd.reporting import comparison, comparison_pictures, pictures
from ackd.runs.folder import RunFolder
from ackd.runs.log import open_run, read_decisions, read_table
from ackd.tasks.sentences import interleaved, sentence_task
from ackd.tasks.sts import pair_metrics
from ackd.teachers import ModelTeacher
from ackd.teachers.cache.store import Cache, Examples
from ackd.training.distillation import Distillation
from ackd.training.replay_log import ReplayLog
from ackd.types import Batch, Knowledge, ModelDims, OutputKey, OutputRequest, Selection
from tests.fuzz.mutate import mutated
from tests.fuzz.watch import watched

WORDS = "the sea was calm and old men sat by it with their nets while children ran along sand".split()
OWN: dict[str, Any] = {"text_columns": ("text",), "label_column": "label", "reward_examples": 4, "max_length": 8}
SHAPE = ModelDims(layers=2, width=4, heads=2, classes=3, vocabulary=50)
LENGTHS = np.array([3, 1, 4, 2], np.int64)


@dataclass(frozen=True)
class Reader:
    """Something that reads a folder.

    Args:
        make: writes a valid sample into an empty folder.
        read: reads it as a command would.
        modules: whose lines lead a search for inputs that do something new.
        fixed: files of the sample that stay as they are.
        seal: makes checksums right again, so that what lies behind them is reached as well.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    modules: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    seal: Callable[[Path], None] = lambda folder: None


class Broken(AssertionError):  # noqa: N818 - as in: it is broken
    """A reader did what none may do."""


def attempt(reader: Reader, folder: Path, *, seconds: int = 20) -> str:
    """What became of reading a folder: empty if it was accepted, or the sentence with which it was refused.

    Raises:
        Broken: for any other end.
    """
    said = ""
    with watched(folder, seconds=seconds) as trespasses:
        try:
            reader.read(folder)
        except InputError as error:
            said = str(error) or repr(error)
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, MemoryError | TimeoutError) or "DefaultCPUAllocator" in str(cause):
                    raise Broken(f"it took memory or time before it was refused: {cause!r:.300}") from error
                cause = cause.__cause__ or cause.__context__
        except BaseException as error:  # also the panics of libraries
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Broken(f"{type(error).__name__}: {error!s:.300}") from error
    if trespasses:
        raise Broken(f"while it read: {trespasses[:3]}")
    if "Traceback" in said:
        raise Broken(f"that is no sentence: {said!r:.300}")
    return said


def damaged(reader: Reader, sample: Path, folder: Path, rng: random.Random, changes: int = 1) -> dict[str, bytes]:
    """Puts a sample into `folder` with one of its files changed, if any is; the changed file by its name."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(sample, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() not in reader.fixed)
    path = rng.choice(files)
    changed = path.read_bytes()
    for _ in range(changes):
        changed = mutated(changed, rng)
    path.write_bytes(changed)
    if changes and rng.randrange(2):
        reader.seal(folder)
    return {path.relative_to(folder).as_posix(): changed}


def prose(sentences: int, seed: int = 0) -> str:
    """Paragraphs of random sentences."""
    dice = random.Random(seed)
    lines = [" ".join(dice.choices(WORDS, k=dice.randint(3, 9))) + "." for _ in range(sentences)]
    return "\n\n".join(" ".join(lines[start : start + 3]) for start in range(0, sentences, 3)) + "\n"


@lru_cache
def tokenizer() -> Tokenizer:
    return models.train_tokenizer([prose(50)], 270)


@lru_cache
def model() -> Model:
    config = models.small_config(len(tokenizer()), 2, layers=2, width=8, heads=2)
    config.pad_token_id = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.from_config(config)()


def _save_policy(folder: Path) -> None:
    network = SetNetwork(len(GLOBALS), len(FEATURES), 4)
    its: dict[str, Any] = {"algorithm": "a2c", "knowledge": ("hidden", "logits"), "k_max": 4, "name": "small"}
    store.save(folder, network, **its, instances=[{"task": "sst2"}], metrics={"dev": {"x": 0.5}}, cost={"episodes": 4})


def _seal_policy(folder: Path) -> None:
    card = folder / "policy.json"
    digest = hashlib.sha256((folder / "policy.safetensors").read_bytes()).hexdigest()
    fields = json.loads(card.read_bytes()) if _loads(card) else None
    if isinstance(fields, dict):
        card.write_text(json.dumps(fields | {"sha256": digest}))


def _loads(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True


def _read_policy(folder: Path) -> None:
    policy = store.load(folder, k_max=3)
    policy.predict(
        {
            "globals": np.zeros(len(GLOBALS), np.float32),
            "knowledge": np.zeros(3 * len(FEATURES), np.float32),
            "mask": np.ones(3, np.int8),
        }
    )
    card_text(policy.card, policy.network).encode()


def _make_archive(folder: Path) -> None:
    with patch.dict(os.environ, {"ACKD_POLICIES": str(folder / "home")}):
        _save_policy(folder / "home" / "small")
        library.export("small", folder / "small.safetensors")
    shutil.rmtree(folder / "home")


def _read_archive(folder: Path) -> None:
    with patch.dict(os.environ, {"ACKD_POLICIES": str(folder / "home")}):
        name = library.import_(folder / "small.safetensors")
        (there,) = (folder / "home").iterdir()
        assert there.name == name
        (entry,) = (one for one in library.entries() if not one.shipped)
        entry.card()


def _seal_archive(folder: Path) -> None:
    path = folder / "small.safetensors"
    try:
        text, data = weights.unpack(path.read_bytes(), path)
        fields = json.loads(text)
    except (InputError, ValueError, RecursionError):
        return
    if isinstance(fields, dict):
        card = json.dumps(fields | {"sha256": hashlib.sha256(data).hexdigest()})
        path.write_bytes(weights.pack(card.encode(), data))


def _cache(folder: Path) -> Cache:
    examples = Examples(np.arange(4) * 3 + 100, LENGTHS, "data")
    fields = (OutputKey("logits"), OutputKey("hidden", 1), OutputKey("attention", 0))
    return Cache(folder, name="task", teacher="teacher", shape=SHAPE, examples=examples, fields=fields)


def _answers(cache: Cache, rows: np.ndarray[Any, Any]) -> dict[OutputKey, torch.Tensor]:
    n, longest = len(rows), int(LENGTHS[rows].max())
    sizes = {"logits": (n, 3), "hidden": (n, longest, 4), "attention": (n, 2, longest, longest)}
    return {field: torch.ones(sizes[field.kind], dtype=cache.dtype) for field in cache.fields}


def _make_cache(folder: Path) -> None:
    cache = _cache(folder)
    rows = np.array([0, 2, 3])
    cache.write(rows, _answers(cache, rows))
    cache.close()
    (entry,) = folder.iterdir()
    (entry / "lock").unlink()


def _read_cache(folder: Path) -> None:
    cache = _cache(folder)
    try:
        rows = np.arange(4)
        there = rows[cache.has(cache.fields, rows)]
        for field in cache.fields if len(there) else ():
            rows_read = cache.read(field, there, int(LENGTHS[there].max()))
            for row, n in zip(rows_read, LENGTHS[there], strict=True):
                whole = row[:, :n, :n] if field.kind == "attention" else row
                assert whole.eq(1).all(), "a damaged row was read"
        cache.write(rows, _answers(cache, rows))
    finally:
        cache.close()


def build_training(types: Sequence[str] = ("logits",), teachers: int = 1, **changes: Any) -> Distillation:
    texts = prose(60).split(".")[:40]
    labels = np.arange(40) % 2
    everything = tasks.tokenise([texts], labels, np.arange(40), tokenizer(), 8)
    spec = tasks.TaskSpec("own", ("text",), "label", ("0", "1"), ("accuracy",))
    task = tasks.Task(spec, everything.select(range(32)), everything.select(range(32, 36)), {"validation": everything})
    taught = [ModelTeacher(model()) for _ in range(teachers)]
    student = models.from_layers(taught[0].model, 1)()
    shape = models.shape_of(student)

    def losses() -> list[Knowledge]:
        return [
            one
            for place, teacher in enumerate(taught)
            for one in knowledge.build(
                types, shape, teacher.shape, teacher_place=place, suffix=f"-{place}" * (place > 0)
            )
        ]

    return Distillation(
        task, taught, lambda: copy.deepcopy(student), losses, **{"steps": 4, "batch_size": 4, **changes}
    )


@lru_cache
def _training() -> Distillation:
    return build_training()


def train(
    folder: Path,
    phases: int,
    seconds: float = 60.0,
    make: Callable[[], Any] = _training,
    begin: Any = 3,
    asked: tuple[Any, ...] = (Selection.of("logits"), 1),
) -> None:
    """Resets the training that `make` makes, or takes it up from `folder`, and asks it for so many phases."""
    training = copy.copy(make())  # what one input leaves behind is not there for the next
    training.replay(ReplayLog(folder, seconds=seconds))
    try:
        training.reset(begin)
        for _ in range(phases):
            for report in _flat(training.advance(*asked)):
                assert isinstance(report.loss + report.labels + sum(report.losses.values()), float)
        for eval_result in _flat(training.evaluate(_training().task.reward, "reward")):
            assert isinstance(eval_result.loss + eval_result.score + sum(eval_result.scores.values()), float)
        assert json.dumps(training.costs.as_dict())
    finally:
        training.replay(None)


def _flat(answers: Any) -> list[Any]:
    return [one for given in answers for one in _flat(given)] if isinstance(answers, list) else [answers]


def _make_journal(folder: Path) -> None:
    train(folder, 2, seconds=0)


def _make_run(folder: Path) -> None:
    RunFolder(folder, resume=True).begin("distill", {"task": "polarity", "lr": 5e-5, "teacher": ["t"], "data": None})


def _read_run(folder: Path) -> None:
    settings = {"task": "polarity", "lr": 5e-5, "teacher": ["t"], "data": None}
    run = RunFolder(folder, resume=True)
    if not run.finished("distill", settings):
        run.begin("distill", settings)


FIXED = ["episode", "seed", "decision", "steps_done", "selection", "reward", "improvement", "cost", "bonus"]
FIXED += ["reward_loss", "reward_score", "label_loss", "grad_norm", "learning_rate", "flops", "flops_share", "error"]


def _make_training(folder: Path) -> None:
    settings = {"task": "polarity", "steps": 40, "episodes": 3, "seed": 0, "reward": "gap"}
    config = {"command": "train", "settings": settings, "versions": {"ackd": "0.1.0"}}
    costs = {"seconds": {"student": 3.0, "agent": 1.0}, "flops": {"student": 3e12, "agent": 0.0}, "steps": 40}
    result = {"task": "polarity", "dev_score": 90.5, "dev_scores": {"validation": {"accuracy": 90.5}}, "error": ""}
    for name, content in (("config", config), ("result", result), ("ledger", costs)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    with (folder / "decisions.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, [*FIXED, "select/logits", "select/hidden", "loss/logits", "loss/hidden"])
        rows.writeheader()
        for episode in range(4):
            for place in range(4):
                measured: dict[str, Any] = dict.fromkeys(FIXED, 0.1) | {"episode": episode, "seed": episode % 3}
                measured |= {"steps_done": 10 * place + 10, "selection": "logits", "decision": place, "error": ""}
                types = {"select/logits": 1.0, "select/hidden": 0.0, "loss/logits": 0.5, "loss/hidden": ""}
                rows.writerow(measured | types)


def _make_table(folder: Path) -> None:
    settings = {"tasks": ["rte"], "steps": 40, "reward": "gap"}
    config = {"command": "evaluate", "settings": settings, "versions": {"ackd": "0.1.0"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps({"task": ["rte"], "seed": [0, 1], "cells": [{}]}))
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow("task policy seed metric dev_score teacher_score reward flops_share seconds".split())
        for policy in ("all", "labels", "lookahead"):
            for seed in range(2):
                rows.writerow(["rte", policy, seed, "accuracy", 80.5 + seed, 88.0, 0.5, 0.75, 1.5])


def _read_report(folder: Path) -> None:
    """All that `ackd report` does, but for painting; and one of a few is drawn, since that takes longest."""
    from ackd.reporting import report

    few: dict[str, Any] = {"resamples": 5}
    name = "stratified_bootstrap"
    quick = [patch.object(comparison, name, _with(getattr(comparison, name), few))]
    if zlib.crc32(b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())) % DRAWN:
        quick += [patch.object(module, name, lambda *given, **named: None) for module, name in FIGURES]
    for one in quick:
        one.start()
    try:
        with (
            patch.object(pictures, "png", lambda figure: bytes(16) + struct.pack(">II", 40, 30)),
            patch.object(report, "_hang", lambda place, album: None),
            patch("builtins.print"),
        ):
            report.report(folder)
    finally:
        for one in quick:
            one.stop()


DRAWN = 8
FIGURES = [
    (module, name)
    for module in (pictures, comparison_pictures)
    for name, draw in inspect.getmembers(module, inspect.isfunction)
    if draw.__module__ == module.__name__ and draw.__annotations__["return"] == "Figure"
]


def _with(function: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
    return lambda *given, **named: function(*given, **{**named, **settings})


def _read_runlog(folder: Path) -> None:
    run = open_run(folder)
    read_decisions(folder / "decisions.csv")
    read_table(folder / "table.csv")
    assert isinstance(run.finished, bool)


def _make_instances(folder: Path) -> None:
    (folder / "polarity").mkdir()
    one = {"name": "a", "split": "train", "seeds": [0, 4], "task": "polarity", "steps": 20, "lr": 1e-3}
    two = {"name": "b", "split": "unseen", "seeds": [4, 4], "task": "own", "data": "x.csv", "text_columns": ["text"]}
    fields = {"format": 1, "name": "set", "description": "two", "defaults": {"teacher": "polarity"}}
    (folder / "set.json").write_text(json.dumps({**fields, "instances": [one, two]}))
    (folder / "polarity" / "keep").touch()


def _read_instances(folder: Path) -> None:
    for one in read_instances(folder / "set.json"):
        assert json.dumps([one.published, one.knowledge, one.seed(3)])


def _make_model(folder: Path) -> None:
    models.save_model(folder, model(), tokenizer())


def _read_model(folder: Path) -> None:
    """As a student to begin from, and as a teacher to ask."""
    its = models.load_tokenizer(folder)
    encoded = its(["the sea was calm"], truncation=True, max_length=8)["input_ids"]
    found = models.from_checkpoint(folder, 2)()
    batch = _batch(encoded[0], models.vocabulary_size(its))
    needs = OutputRequest(logits=True, hidden=frozenset({0}), attention=frozenset({0}))
    if reason := models.cannot_give(found, needs):
        raise InputError(reason)
    if models.shape_of(found).vocabulary >= models.vocabulary_size(its):
        models.run(found, batch, OutputRequest(logits=True))
    teacher = ModelTeacher(models.load_model(folder))
    assert teacher.fingerprint
    assert _price(teacher.model.config.to_json_string(), teacher) >= 0
    models.class_names(teacher.model)


def _make_seen(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    rows = np.arange(100) % 3 == 0
    tasks.write_seen(folder, tasks.NOTHING.plus("a" * 64, rows).plus("b" * 64, rows[:50]))


def _read_seen(folder: Path) -> None:
    seen = tasks.read_seen(folder)
    if seen is not None:
        assert tasks.together([seen, seen]) == seen
        assert seen.plus("c" * 64, np.ones(3, np.bool_)).rows("a" * 64, 100).shape == (100,)


def _make_layout(folder: Path) -> None:
    models.write_layout(folder, models.Pooling("mean", normalise=True), 8, 16)


def _read_layout(folder: Path) -> None:
    states = torch.arange(24.0).reshape(2, 3, 4)
    assert models.read_pooling(str(folder), models.Pooling())(states, torch.ones(2, 3)).shape == (2, 4)


def _make_sentences(folder: Path) -> None:
    (folder / "texts.txt").write_text("\n".join(WORDS[place] + " the sea" for place in range(12)) + "\n")
    rows = [f"the {one},a {one} or so,{place / 2}" for place, one in enumerate(WORDS[:8])]
    (folder / "pairs.csv").write_text("\n".join(["one,two,score", *rows]) + "\n")


def _read_sentences(folder: Path) -> None:
    _, sentences, dev = sentence_task(folder / "texts.txt", (), None, folder / "pairs.csv")
    assert len(set(sentences.texts[0])) == len(sentences) > 0
    for pairs in dev.values():
        assert len(interleaved(pairs)) == 2 * len(pairs)
        embeddings = np.random.default_rng(0).normal(size=(2 * len(pairs), 3))
        assert np.isfinite(list(pair_metrics(embeddings, np.repeat(pairs.labels, 2)).values())).all()


def _price(config: str, teacher: ModelTeacher) -> float:
    """What an answer costs; counted once for each configuration, since that is all it depends on."""
    if config not in _prices:
        _prices[config] = teacher.flops(OutputRequest(logits=True), 2, 8)
    return _prices[config]


_prices: dict[str, float] = {}


def _batch(ids: Sequence[int], vocabulary: int) -> Batch:
    assert all(0 <= one < vocabulary for one in ids)
    inputs = torch.tensor([list(ids) or [0]])
    batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
    return Batch(torch.zeros(1, dtype=torch.int64), batch, torch.zeros(1, dtype=torch.int64))


def _make_config(folder: Path) -> None:
    sizes = {"vocab_size": 280, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = {"model_type": "bert", **sizes, "intermediate_size": 16, "max_position_embeddings": 16}
    (folder / "classifier.json").write_text(json.dumps(small))
    causal = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    (folder / "causal.json").write_text(json.dumps(causal))


def _read_config(folder: Path) -> None:
    with patch("ackd.models.build.memory", lambda: 1 << 22):  # of a tiny machine: little is built here
        _use(models.from_config(models.read_config(folder / "classifier.json", 2))())
        config = models.language_config(folder / "causal.json", tokenizer())
        _use(models.from_config(config, language=True)())


def _use(drawn: Model) -> None:
    if reason := models.cannot_give(drawn, OutputRequest(logits=True)):
        raise InputError(reason)
    models.shape_of(drawn)


def _own_rows() -> list[dict[str, Any]]:
    sentences = [text.strip() for text in prose(12).replace("\n", " ").split(".")[:12]]
    return [{"text": text, "label": place % 2, "number": place / 2} for place, text in enumerate(sentences)]


def _make_csv(folder: Path) -> None:
    lines = ["text,label,number", *(f"{row['text']},{row['label']},{row['number']}" for row in _own_rows())]
    for name in ("train.csv", "dev.csv"):
        (folder / name).write_text("\n".join(lines) + "\n")


def _make_jsonl(folder: Path) -> None:
    for name in ("train.jsonl", "dev.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in _own_rows()))


def _make_parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for name in ("train.parquet", "dev.parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_own_rows()), folder / name)


def _make_saved(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    features = datasets.Features({**kinds, "number": datasets.Value("float64")})
    split = datasets.Dataset.from_list(_own_rows(), features=features)
    datasets.DatasetDict(train=split, test=split).save_to_disk(folder)


def _read_saved(folder: Path) -> None:
    numbers = any(zlib.crc32(path.read_bytes()) % 3 == 0 for path in folder.glob("train/*.arrow"))
    settings = {**OWN, "label_column": "number" if numbers else "label"}
    task = tasks.load("own", tokenizer(), **settings, data=str(folder))
    task.train.batch(range(min(len(task.train), 4)))
    tasks.own_texts("own", str(folder), ("text",), None)


def _own(ending: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        label = "number" if len((folder / f"train.{ending}").read_bytes()) % 3 == 0 else "label"
        settings = {**OWN, "label_column": label}
        files: dict[str, Any] = {"data": str(folder / f"train.{ending}"), "dev_data": str(folder / f"dev.{ending}")}
        task = tasks.load("own", tokenizer(), **settings, **files)
        task.train.batch(range(min(len(task.train), 4)))

    return read


def _make_columns(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps(_own_rows()))


def _read_columns(folder: Path) -> None:
    """Whole files of other types: lists, objects, nothing."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = json.loads((folder / "rows.json").read_bytes())
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    except (
        pyarrow.ArrowException,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InputError("no table") from error
    task = tasks.load("own", tokenizer(), **OWN, data=str(folder / "train.parquet"))
    task.train.batch(range(min(len(task.train), 4)))


def _make_glue(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for task, labels in (("sst2", [0, 1] * 6), ("stsb", [0.5, 4.0] * 6)):
        columns = {"sentence": [prose(1, seed) for seed in range(12)], "label": labels, "idx": list(range(12))}
        columns |= {"sentence1": columns["sentence"], "sentence2": columns["sentence"][::-1]}
        (folder / task).mkdir()
        for split in ("train", "validation"):
            pyarrow.parquet.write_table(pyarrow.table(columns), folder / task / f"{split}.parquet")


def _read_glue(folder: Path) -> None:
    for name in ("sst2", "stsb"):
        tasks.load(name, tokenizer(), data=folder, reward_examples=2, max_length=8)


def _make_text(folder: Path) -> None:
    (folder / "text.txt").write_text(prose(6))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": prose(2, seed)}) + "\n" for seed in range(3)))


def _read_text(folder: Path) -> None:
    for name in ("text.txt", "text.jsonl"):
        corpora.tokenised(folder / "corpus", folder / name, tokenizer(), 8)
        shutil.rmtree(folder / "corpus")


def _make_corpus(folder: Path) -> None:
    (folder / "text.txt").write_text(prose(20))
    corpora.tokenised(folder / "corpus", folder / "text.txt", tokenizer(), 12)
    (folder / "text.txt").unlink()
    shutil.rmtree(folder / "corpus" / "tokenizer")


def _seal_corpus(folder: Path) -> None:
    path = folder / "corpus" / "corpus.json"
    fields = json.loads(path.read_bytes()) if _loads(path) else None
    if not isinstance(fields, dict):
        return
    raw = (folder / "corpus" / "offsets.bin").read_bytes()
    tokens, offsets = (folder / "corpus" / "tokens.bin").read_bytes(), raw[: len(raw) // 8 * 8]
    count = len(tokens) // 2
    fields |= {"tokens": count, "chunks": len(offsets) // 8 - 1}
    digest = hashlib.sha256(f"{fields.get('tokenizer')} {count} {len(offsets) // 8}".encode(errors="replace"))
    digest.update(offsets)
    digest.update(tokens)
    path.write_text(json.dumps(fields | {"fingerprint": digest.hexdigest()}))


def _read_corpus(folder: Path) -> None:
    corpus = corpora.open_corpus(folder)
    split = corpus.split(0, len(corpus))
    split.batch(range(min(3, len(split))))
    assert (corpus.chunk(0) < corpus.header.vocabulary).all()


def _make_scores(folder: Path) -> None:
    header = {"model": "m", "corpus": "c", "tokenizer": "t", "chunks": 100, "batch_size": 8}
    for name, first, last in (("one", 0, 64), ("two", 64, 100)):
        (folder / name).mkdir()
        (folder / name / "scores.json").write_text(json.dumps({**header, "first": first, "last": last}))
        (folder / name / "scores.bin").write_bytes(np.ones(last - first, "<f4").tobytes())


def _read_scores(folder: Path) -> None:
    assert len(corpora.open_scores([folder / "one", folder / "two"]).values) == 100


def _make_pretrained(folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps({"corpus": "c", "first": 0, "last": 10}))


def _read_pretrained(folder: Path) -> None:
    """What `ackd refine-data --exclude` and its search for the corpus read."""
    from ackd.corpora.of_runs import corpus_of, trained_on

    header = corpora.corpus.Header("c", "t", 20, 100, 270, "uint16", 8, 0)
    corpus = corpora.Corpus(folder, header, np.zeros(100, np.uint16), np.arange(21) * 5)
    first, last = trained_on(str(folder), corpus)
    assert 0 <= first < last <= 20
    corpus_of(str(folder))


def _make_tuned(folder: Path) -> None:
    row = {"temperature": 1.0, "kd_weight": 0.5, "reward_score": 50.0, "reward_loss": 0.7, "reward_scores": [50.0]}
    row |= {"seconds": 1.5, "error": "", "ledger": _training().costs.as_dict()}
    (folder / "row.json").write_text(json.dumps(row))
    torch.save(model().state_dict(), folder / "student.pt")


def _read_tuned(folder: Path) -> None:
    """What `ackd tune --resume` reads."""
    from ackd.costs import CostTracker
    from ackd.experiments import grid

    row = grid.read_row(folder / "row.json", (1.0, 0.5))
    total = CostTracker()
    total.add(CostTracker(**row["ledger"]))
    assert f"{row['seconds']:.1f}"
    if not row["error"]:
        assert f"{row['reward_score']:.2f} {row['reward_loss']:.4f}"
        assert len(grid.rank(row)) == 2
    grid.read_student(folder / "student.pt", _template())


@lru_cache
def _template() -> Model:
    return copy.deepcopy(model())


def _make_federated(folder: Path) -> None:
    from ackd.files.writing import write_tensors

    row = {"start": "initial", "round": 0, "score": 50.0, "loss": 0.7, "bytes_down": 1, "bytes_up": 1, "bytes": 2}
    write_tensors(
        folder / "initial.pt", {"weights": model().state_dict(), "rows": [row], "ledger": _training().costs.as_dict()}
    )


def _read_federated(folder: Path) -> None:
    """What `ackd federate --resume` reads; what is damaged is made again."""
    from ackd.costs import CostTracker
    from ackd.federation.rounds import read_state

    state = read_state(folder / "initial.pt", model().state_dict())
    if state is not None:
        CostTracker().add(CostTracker(**state["ledger"]))
        _template().load_state_dict(state["weights"])
        for row in state["rows"]:
            assert row["score"] + row["loss"] + row["bytes"] + row["round"] is not None
        assert state["rows"][-1]["bytes"] + 2


REPORTED = ("ackd.runs.log", "ackd.reporting.trends", "ackd.reporting.run_figures", "ackd.reporting.report")
COMPARED = ("ackd.runs.log", "ackd.reporting.comparison", "ackd.reporting.evaluation_figures")
READERS: dict[str, Reader] = {
    "policy": Reader(
        _save_policy, _read_policy, ("ackd.agents.store", "ackd.agents.card", "ackd.agents.weights"), seal=_seal_policy
    ),
    "archive": Reader(
        _make_archive,
        _read_archive,
        ("ackd.agents.library", "ackd.agents.card", "ackd.agents.weights"),
        seal=_seal_archive,
    ),
    "cache": Reader(_make_cache, _read_cache, ("ackd.teachers.cache.entry", "ackd.teachers.cache.cached_field")),
    "journal": Reader(
        _make_journal, lambda folder: train(folder, 3), ("ackd.training.replay_log", "ackd.training.loop")
    ),
    "run": Reader(_make_run, _read_run, ("ackd.runs.folder",)),
    "runlog": Reader(_make_training, _read_runlog, ("ackd.runs.log",)),
    "table": Reader(_make_table, _read_runlog, ("ackd.runs.log",)),
    "report": Reader(
        _make_training,
        _read_report,
        REPORTED,
    ),
    "comparison": Reader(_make_table, _read_report, COMPARED),
    "instances": Reader(_make_instances, _read_instances, ("ackd.envs.instance_files",), fixed=("polarity/keep",)),
    "model": Reader(_make_model, _read_model, ("ackd.models.load", "ackd.models.build")),
    "seen": Reader(_make_seen, _read_seen, ("ackd.tasks.seen",), fixed=("config.json", "model.safetensors")),
    "layout": Reader(_make_layout, _read_layout, ("ackd.models.pooling",)),
    "sentences": Reader(_make_sentences, _read_sentences, ("ackd.tasks.sentences", "ackd.tasks.read")),
    "config": Reader(_make_config, _read_config, ("ackd.models.build", "ackd.models.vocabulary")),
    "csv": Reader(_make_csv, _own("csv"), ("ackd.tasks.rows", "ackd.tasks.read")),
    "jsonl": Reader(_make_jsonl, _own("jsonl"), ("ackd.tasks.rows", "ackd.tasks.read", "ackd.files.json_rows")),
    "parquet": Reader(_make_parquet, _own("parquet"), ("ackd.tasks.rows", "ackd.tasks.read")),
    "saved": Reader(_make_saved, _read_saved, ("ackd.tasks.data_sets", "ackd.tasks.own", "ackd.tasks.rows")),
    "columns": Reader(_make_columns, _read_columns, ("ackd.tasks.rows", "ackd.tasks.read")),
    "glue": Reader(_make_glue, _read_glue, ("ackd.tasks.rows", "ackd.tasks.read")),
    "text": Reader(_make_text, _read_text, ("ackd.corpora.text", "ackd.corpora.chunks", "ackd.files.json_rows")),
    "corpus": Reader(_make_corpus, _read_corpus, ("ackd.corpora.corpus",), seal=_seal_corpus),
    "scores": Reader(_make_scores, _read_scores, ("ackd.corpora.scores", "ackd.corpora.corpus")),
    "pretrained": Reader(_make_pretrained, _read_pretrained, ("ackd.corpora.of_runs",)),
    "tuned": Reader(_make_tuned, _read_tuned, ("ackd.experiments.grid",)),
    "federated": Reader(_make_federated, _read_federated, ("ackd.federation.rounds",)),
}
