"""What a command does, a function in Python does as well: from objects or names, with the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import ackd
from ackd import models, tasks
from ackd.cli import main
from ackd.experiments.federated import federate
from ackd.experiments.filling import cache
from ackd.experiments.generating import generate
from ackd.experiments.mutual import mutual
from ackd.experiments.pretraining import pretrain
from ackd.experiments.refining import refine
from ackd.experiments.scoring import score
from ackd.experiments.trained import Trained
from ackd.models import vocabulary_size
from tests.small_dev import small_dev

CLASSES = ["good", "bad"]
HOW: dict[str, Any] = {"batch_size": 8, "lr": 1e-3, "reward_examples": 32}
STEPS: dict[str, Any] = {**HOW, "steps": 4}
GRID: dict[str, Any] = {**STEPS, "student_layers": 1, "temperature": [2], "kd_weight": [0.9]}
CLIENTS: dict[str, Any] = {"clients": 2, "rounds": 1, "local_steps": 2, "own_steps": 2, "distil_steps": 2}
CLIENTS |= {**HOW, "student_layers": 1, "public_examples": 24}
TEXT = "The old farm had a horse and a hen. Every morning the horse ran to the gate. The hen slept by the fire.\n\n"
GPT = {"model_type": "gpt2", "n_positions": 32, "n_layer": 1, "n_embd": 16, "n_head": 2}


@pytest.fixture(autouse=True, scope="module")
def little_to_report() -> Iterator[None]:
    with small_dev():
        yield


def classifier(folder: Path, seed: int) -> Path:
    """The folder of a classifier with random weights."""
    tokenizer = tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=2, width=16, heads=2))()
    model.config.id2label = dict(enumerate(CLASSES))
    models.save_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("teacher"), 3)


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    features = Features({"text": Value("string"), "label": ClassLabel(names=CLASSES)})
    found = {}
    for split, count in (("train", 160), ("validation", 40)):
        rows = tasks.embedded.generate("polarity", split)
        columns = {"text": list(rows.texts[0][:count]), "label": rows.labels[:count].tolist()}
        found[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(found)


@pytest.fixture(scope="module")
def named(data: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data by their name."""
    folder = tmp_path_factory.mktemp("data") / "set"
    data.save_to_disk(folder)
    return {"task": "data", "data": folder, "text_columns": ["text"], "label_column": "label"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a model's sizes."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    (folder / "gpt.json").write_text(json.dumps(GPT), encoding="utf-8")
    return folder


def told(command: str, folder: Path, **options: Any) -> Path:
    """Runs a command with options as a function takes them; its folder."""
    words = [command]
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}")
        words += map(str, value) if isinstance(value, list) else [str(value)]
    assert main([*words, "--output", str(folder)]) == 0
    return folder


def loaded(folder: Path) -> dict[str, Any]:
    """A classifier and its tokenizer, as a user loads them."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder)}


def lasting(result: Any) -> dict[str, Any]:
    """What a run says that two runs have in common: neither names, nor seconds, nor a command."""
    left = {name: value for name, value in result.items() if name not in ("seconds", "command", "cells", "students")}
    return json.loads(json.dumps(left))  # type: ignore[no-any-return]


def check_same(ours: Trained, run: Path, tmp_path: Path, name: str = "student") -> None:
    """A function's answer is what the command left, and so is what it saves."""
    assert lasting(ours.result) == lasting(json.loads((run / "result.json").read_text()))
    assert ours.score == ours.result["dev_score"]
    assert ours.costs.flops == json.loads((run / "ledger.json").read_text())["flops"]
    ours.save(tmp_path / "saved")
    theirs = (run / name / "model.safetensors").read_bytes()
    assert (tmp_path / "saved" / "model.safetensors").read_bytes() == theirs
    saved = {path.name for path in (tmp_path / "saved").iterdir()}
    assert saved == {path.name for path in (run / name).iterdir()}


def test_a_model_is_fine_tuned_as_by_the_command(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    run = told("finetune", tmp_path / "run", model=teacher, **named, **STEPS)
    given = loaded(teacher)
    before = {name: value.clone() for name, value in given["model"].state_dict().items()}
    ours = ackd.finetune(data=data, **given, **STEPS, output=tmp_path / "ours")
    check_same(ours, run, tmp_path, "model")
    assert all(torch.equal(value, before[name]) for name, value in given["model"].state_dict().items())
    settings = json.loads((tmp_path / "ours" / "config.json").read_text())["settings"]
    assert settings["model"] == str(teacher)
    assert models.model_folder(tmp_path / "ours")
    assert ackd.finetune(str(teacher), **named, **STEPS).score == ours.score


def test_the_best_of_a_grid_is_that_of_the_command(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    run = told("tune", tmp_path / "run", teacher=teacher, **named, **GRID)
    given = loaded(teacher)
    ours = ackd.tune(given["model"], data, tokenizer=given["tokenizer"], **GRID)
    check_same(ours, run, tmp_path)
    assert ours.result["best"]["temperature"] == 2
    assert ours.result["command"] is None  # no line can name objects
    assert ours.table.splitlines()[2].startswith("| 2 | 0.9 |")
    again = ackd.tune(teacher, **named, **GRID, output=run, resume=True)
    assert again.table == (run / "table.md").read_text().rstrip()
    again.save(tmp_path / "again")
    same = [folder / "model.safetensors" for folder in (tmp_path / "again", run / "student")]
    assert same[0].read_bytes() == same[1].read_bytes()
    weights = ours.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.model.state_dict().items())


def test_predictions_are_those_of_the_command(teacher: Path, data: DatasetDict, tmp_path: Path) -> None:
    data["validation"].select_columns("text").to_csv(tmp_path / "new.csv")
    run = told("predict", tmp_path / "run", model=teacher, task="new", data=tmp_path / "new.csv", text_columns=["text"])
    given = loaded(teacher)
    for name, some in (("whole", data["validation"]), ("split", DatasetDict(test=data["validation"]))):
        (file,) = ackd.predict(given["model"], "new", tmp_path / name, data=some, tokenizer=given["tokenizer"])
        assert file.read_bytes() == (run / "new.tsv").read_bytes()
    with pytest.raises(ackd.InputError, match="a Dataset, which has no split 'train'"):
        ackd.predict(teacher, "new", tmp_path / "other", data=data["validation"], split="train")
    with pytest.raises(ackd.InputError, match="the model is a float: give a folder"):
        ackd.predict(3.0, "new", tmp_path / "other", data=data["validation"])


def test_students_teach_each_other_as_by_the_command(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    other = classifier(tmp_path / "other", 4)
    run = told("mutual", tmp_path / "run", students=[teacher, other], **named, **STEPS)
    pair = [loaded(one) for one in (teacher, other)]
    ours = mutual([one["model"] for one in pair], data, tokenizer=pair[0]["tokenizer"], **STEPS)
    check_same(ours, run, tmp_path)
    assert [one["student"] for one in ours.result["students"]] == [str(teacher), str(other)]


def test_a_federation_is_that_of_the_command(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    run = told("federate", tmp_path / "run", teacher=teacher, **named, **CLIENTS)
    given = loaded(teacher)
    ours = federate(data, teacher=given["model"], tokenizer=given["tokenizer"], **CLIENTS)
    check_same(ours, run, tmp_path)
    assert ours.table == (run / "table.md").read_text().rstrip()


def test_texts_are_learned_scored_refined_and_written_as_by_the_commands(text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_length": 33, "batch_size": 8}
    learning: dict[str, Any] = {**options, "student": text / "gpt.json", "vocabulary": 280, "steps": 2}
    corpus = text / "text.txt"
    runs = {}
    for side in ("told", "ours"):
        place = tmp_path / side
        again: dict[str, Any] = {"corpus": place / "a", "batch_size": 8}
        if side == "told":
            told("pretrain", place / "lm", corpus=corpus, **learning)
            told("pretrain", place / "small", corpus=corpus, **learning, seed=1)
            told("score", place / "a", model=place / "lm", corpus=corpus, **options)
            told("score", place / "b", model=place / "small", **again)
            told("refine-data", place / "r", teacher_scores=place / "a", reference_scores=place / "b", inspect=1)
            told("generate", place / "g", model=place / "lm", corpus=corpus, **options)
        else:
            learned = pretrain(corpus, **learning, output=place / "lm")
            pretrain(corpus, **learning, seed=1).save(place / "small")
            found = score(place / "lm", corpus, place / "a", **options)
            assert score(place / "lm", corpus, place / "a", **options, resume=True) == found
            score(place / "small", output=place / "b", **again)
            refine([place / "a"], [place / "b"], place / "r", inspect=1)
            generate(place / "lm", corpus, place / "g", **options)
            assert learned.score == learned.result["dev_loss"]
            resumed = pretrain(corpus, **learning, output=place / "lm", resume=True)
            assert resumed.result == learned.result
            weights = learned.model.state_dict()
            assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())
        files = ["lm/student/model.safetensors", "lm/curve.csv", "a/scores.bin", "b/scores.bin"]
        files += ["r/kept.npy", "r/top.txt", "g/samples.txt"]
        runs[side] = {name: (place / name).read_bytes() for name in files}
    assert runs["ours"] == runs["told"]


def test_language_models_and_texts_are_handed_over(text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_length": 33, "batch_size": 8}
    learning: dict[str, Any] = {**options, "vocabulary": 280, "steps": 2}
    corpus = text / "text.txt"
    named = pretrain(corpus, student=text / "gpt.json", **learning, output=tmp_path / "named")
    told = [one.strip() for one in corpus.read_text().split("\n\n") if one.strip()]
    rows = Dataset.from_dict({"text": [*told, " "]})
    config = AutoConfig.for_model(**GPT, vocab_size=vocabulary_size(named.tokenizer))
    ours = pretrain(rows, student=config, **learning)
    assert _same_weights(ours, named)
    assert lasting(ours.result) == lasting(named.result)
    score(tmp_path / "named", corpus, tmp_path / "named-s", **options)
    score(ours.model, told, tmp_path / "ours-s", **options, tokenizer=ours.tokenizer)
    generate(tmp_path / "named", corpus, tmp_path / "named-g", **options)
    generate(ours.model, rows, tmp_path / "ours-g", **options, tokenizer=ours.tokenizer)
    for file in ("s/scores.bin", "g/samples.txt"):
        assert (tmp_path / f"ours-{file}").read_bytes() == (tmp_path / f"named-{file}").read_bytes()
    taught = {"teacher": tmp_path / "named" / "student", "student": tmp_path / "named" / "student"}
    expected = pretrain(corpus, **taught, **learning)
    objects = {"teacher": ours.model, "student": ours.model, "tokenizer": ours.tokenizer}
    again = pretrain(rows, **objects, **learning)
    assert _same_weights(again, expected)
    assert _same_weights(ours, named)  # the student began as a copy


def _same_weights(one: Trained, other: Trained) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.model.state_dict().items())


def test_a_cache_is_filled_as_by_the_command(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    options = {**named, "student_layers": 1, "knowledge": ["logits"]}
    run = told("cache", tmp_path / "run", teacher=teacher, **options)
    (one,) = cache(teacher=teacher, output=tmp_path / "ours", **options)
    assert one.examples == one.asked > 0
    given = loaded(teacher)
    how: dict[str, Any] = {"tokenizer": given["tokenizer"], "data": data, "student_layers": 1, "knowledge": ["logits"]}
    cache("data", given["model"], tmp_path / "objects", **how)
    ours, theirs, objects = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}
        for folder in (tmp_path / "ours", run, tmp_path / "objects")
    )
    assert ours == theirs == objects
    assert ours
    with pytest.raises(ackd.InputError, match="workers take teachers and data by their names"):
        cache("data", given["model"], tmp_path / "more", **how, workers=2)


WRONG: dict[str, Callable[[Path], object]] = {
    "unknown setting 'epoch': did you mean 'epochs'": lambda o: ackd.finetune(None, task="tally", epoch=3),
    "say which model to fine-tune": lambda o: ackd.finetune(None, task="sst2"),
    "the student is a float": lambda o: _of_a_number(),
    "did you mean 'temperature'": lambda o: ackd.tune("t", task="tally", temprature=[1]),
    "temperature has 0: give numbers above 0": lambda o: ackd.tune("t", task="tally", temperature=[0]),
    "a teacher is a float": lambda o: ackd.tune([3.0], task="tally"),
    "cannot learn from each other": lambda o: mutual([_any_model], task="tally"),
    "did you mean 'clients'": lambda o: federate(task="tally", client=3),
    "unknown start 'first'": lambda o: federate(task="tally", starts=["first"]),
    "did you mean 'vocabulary'": lambda o: pretrain(o, vocabulry=3),
    "say what the student is": lambda o: pretrain(o),
    "batch size must be above 0, got 0": lambda o: score(o, o, o / "s", batch_size=0),
    "a prompt of 1": lambda o: generate(o, o, o / "g", prompt=1),
    "corpus is a int: give a text file": lambda o: score(o, 3, o / "s"),
    "text 1 of corpus is 3: give a list of texts": lambda o: generate(o, [3], o / "g"),
    "corpus has no text": lambda o: pretrain([" "], student=o),
    "the student is a int": lambda o: pretrain(["a b"], student=3, tokenizer=tasks.embedded_tokenizer("tally")),
    "inspect is -1": lambda o: refine([o], [o], o / "r", inspect=-1),
    "unknown backend 'ra'": lambda o: cache("tally", o, o / "c", backend="ra"),
    "did you mean 'max_length'": lambda o: ackd.predict("m", "sst2", o, max_lenght=3),
}


def _of_a_number() -> object:
    given: dict[str, Any] = {"model": 3.0, "tokenizer": tasks.embedded_tokenizer("tally")}
    return ackd.finetune(task="tally", **given)


def _any_model() -> Any:
    """A function that makes a student."""
    return models.from_config(models.small_config(200, 2, layers=1, width=16, heads=2))()


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_is_told_in_one_sentence(words: str, tmp_path: Path) -> None:
    with pytest.raises(ackd.InputError) as caught:
        WRONG[words](tmp_path)
    assert words.split(": give")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
