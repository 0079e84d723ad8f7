"""Exported models against the library's own, asked by hand through onnxruntime."""

from __future__ import annotations

import csv
import inspect
import json
import re
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ackd
from ackd import models, tasks
from ackd.cli import main
from ackd.errors import InputError
from ackd.experiments import comparison, exporting
from ackd.experiments.export_options import ExportConfig
from ackd.experiments.exported import Exported, Version
from ackd.experiments.finished_run import left_by, reported
from ackd.models import INT8, ONNX, ONNX_PACKAGES
from ackd.models.families import cut_config
from ackd.tasks.embedded import generate
from tests.models import small
from tests.models.families import config_of

WITHOUT = [name for name in ONNX_PACKAGES if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(WITHOUT), reason=f'needs {", ".join(WITHOUT)}: pip install "ackd[onnx]"')
SHAPES = ((1, 3), (7, 3), (1, 33), (7, 33), (2, 1))  # texts and tokens, none of them as the exporter's own
WORDS = sorted(word for word in tasks.embedded_tokenizer("polarity").get_vocab() if word.isalpha())
NAMES: Any = ["input_ids", "token_type_ids", "attention_mask"]
Logits = NDArray[np.float32]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times few answers: how long they take is nothing here."""
    monkeypatch.setattr(comparison, "BRIEF", 0.01)


def saved(folder: Path, kind: str = "bert", classes: int = 2) -> Path:
    """A tiny model of a family that has learned nothing, with a tokenizer."""
    config = config_of(kind)
    config.num_labels = classes
    cut_config(config, [0])  # an exporter takes its time for each layer
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = models.from_config(config)()
    small.save(folder, model, small.tokenizer(pad_token="[PAD]", model_input_names=NAMES))
    return folder


def small_bert(folder: Path, classes: int = 2) -> Path:
    """A small model for sentences of the generated task's words."""
    tokenizer = tasks.embedded_tokenizer("polarity")
    config = models.small_config(len(tokenizer), classes, layers=1, width=32, heads=2)
    config.initializer_range = 0.5
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = models.from_config(config)()
    small.save(folder, model, tokenizer)
    return folder


def opened(path: Path) -> Callable[[dict[str, torch.Tensor]], Logits]:
    """The file in onnxruntime, as someone without ACKD has it."""
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [one.name for one in session.get_inputs()]

    def ask(inputs: dict[str, torch.Tensor]) -> Logits:
        answer: Logits = session.run(None, {name: inputs[name].numpy() for name in wanted})[0]
        return answer

    return ask


def ragged(texts: int, tokens: int) -> dict[str, torch.Tensor]:
    """Random tokens, each text shorter than the one before."""
    generator = torch.Generator().manual_seed(100 * texts + tokens)
    lengths = torch.tensor([max(tokens - 3 * row, 1) for row in range(texts)])
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    ids = torch.randint(4, small.VOCABULARY, (texts, tokens), generator=generator) * mask
    second = torch.randint(0, 2, (texts, tokens), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": second}


def asked(folder: Path, texts: Sequence[Sequence[str]], ask: Any = None) -> Logits:
    """[N, C], in groups of 32 by length: of the library's own model, or of `ask`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = (
        AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval() if ask is None else None
    )
    lengths = [len(ids) for ids in tokenizer(*map(list, texts))["input_ids"]]
    order, found = np.argsort(lengths, kind="stable"), dict[int, Logits]()
    for start in range(0, len(order), 32):
        rows = order[start : start + 32].tolist()
        inputs = tokenizer(*[[column[row] for row in rows] for column in texts], padding=True, return_tensors="pt")
        with torch.no_grad():
            answer = ask(inputs) if model is None else model(**inputs).logits.numpy()
        found |= dict(zip(rows, answer, strict=True))
    return np.stack([found[row] for row in range(len(order))])


@needs_onnx
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "deberta-v2", "gpt2"])
def test_a_file_answers_as_torch_does_whatever_the_number_of_texts_and_tokens(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", kind)
    found = ackd.export(folder, "onnx")
    assert found.folder == folder / "onnx"
    ask = opened(folder / "onnx" / ONNX)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    known = [one for one in NAMES if one in inspect.signature(model.forward).parameters]
    model.config.pad_token_id = 0
    for texts, tokens in SHAPES:
        inputs = ragged(texts, tokens)
        with torch.no_grad():
            expected = model(**{name: inputs[name] for name in known}).logits.numpy()
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(ask(inputs), expected, rtol=1e-4, atol=1e-5)
    assert found.versions[1].difference is not None
    assert found.versions[1].difference < 1e-4


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model of no run, in 32 and in 8 bits."""
    folder = tmp_path_factory.mktemp("once") / "model"
    return ackd.export(small_bert(folder, classes=3), int8=True)


@needs_onnx
def test_the_folder_is_what_others_load(once: Exported) -> None:
    folder, there = once.folder.parent, once.folder
    assert {path.name for path in there.iterdir()} >= {ONNX, INT8, "config.json", "tokenizer.json"}
    config = json.loads((there / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert len(config["id2label"]) == 3
    graph = import_module("onnx").load(str(there / ONNX)).graph
    axes = {one.name: [size.dim_param for size in one.type.tensor_type.shape.dim] for one in graph.input}
    assert axes == {name: ["batch", "sequence"] for name in NAMES}
    assert [one.name for one in graph.output] == ["logits"]
    inputs = AutoTokenizer.from_pretrained(there)(["good"], ["bad"], return_tensors="pt")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = plain(**inputs).logits.numpy()
    np.testing.assert_allclose(opened(there / ONNX)(inputs), expected, atol=1e-5)


@needs_onnx
def test_the_python_of_the_page_runs(
    once: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    shutil.copytree(once.folder.parent, tmp_path / "runs" / "student")
    monkeypatch.chdir(tmp_path)
    by_hand, ours = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = {}
    exec(by_hand, found)
    assert found["logits"].shape == (2, 3)
    monkeypatch.setattr(exporting, "export", lambda *_, **__: once)
    exec(ours)
    assert once.table() in capsys.readouterr().out


@needs_onnx
def test_without_a_task_answers_are_compared_on_random_texts_and_a_line_says_so(once: Exported) -> None:
    assert [one.score for one in once.versions] == [None] * 3
    assert "on dev" not in once.table()
    assert "64 random texts only: no dev split is known" in once.table()
    assert once.versions[1].equal == 1


@needs_onnx
def test_a_run_is_reported_on_its_dev_split_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    how = "--task polarity --student-layers 1 --max-examples 200 --steps 40 --lr 1e-3 --reward-examples 50"
    teacher = small_bert(tmp_path / "teacher")
    assert main(["distill", "--teacher", str(teacher), *how.split(), "--output", str(run)]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--int8"]) == 0
    said, errors = capsys.readouterr()
    assert "Traceback" not in errors
    told = json.loads((run / "onnx" / "export.json").read_text())
    torches, onnx, int8 = told["versions"]
    rows = generate("polarity", "validation")
    labels = rows.labels
    expected = asked(run / "student", rows.texts)
    assert torches["score"] == pytest.approx(json.loads((run / "result.json").read_text())["dev_score"], abs=1e-3)
    assert torches["score"] == pytest.approx(100 * (expected.argmax(1) == labels).mean())
    for version, name in ((onnx, ONNX), (int8, INT8)):
        path = run / "onnx" / name
        answers = asked(run / "student", rows.texts, opened(path))
        assert version["score"] == pytest.approx(100 * (answers.argmax(1) == labels).mean(), abs=0.11)
        assert version["equal"] == pytest.approx((answers.argmax(1) == expected.argmax(1)).mean(), abs=0.0011)
        assert version["difference"] >= 0.99 * np.abs(answers - expected).max() - 1e-5
        assert version["bytes"] == path.stat().st_size
        assert f"{version['score']:.2f}" in said
        assert set(version["milliseconds"]) == {"1", "32"}
    assert onnx["equal"] == 1
    assert int8["bytes"] < onnx["bytes"]
    assert torches["bytes"] == (run / "student" / "model.safetensors").stat().st_size
    assert (told["task"], told["metric"], told["examples"]) == ("polarity", "accuracy", len(labels))


@needs_onnx
def test_a_regression_over_pairs_of_a_file_is_reported_on_what_its_run_cut_for_dev(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [
        [" ".join(rng.choice(WORDS, 5)), " ".join(rng.choice(WORDS, 4)), f"{rng.random() * 5:.2f}"] for _ in range(400)
    ]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["one", "other", "near"], *lines])
    columns: dict[str, Any] = {"text_columns": ("one", "other"), "label_column": "near"}
    start = small_bert(tmp_path / "start", classes=1)
    run, data = tmp_path / "run", str(tmp_path / "pairs.csv")
    trained = ackd.finetune(start, data, task="near", output=run, steps=3, quiet=True, **columns)
    told: list[tuple[int, int]] = []
    found = ackd.export(run, int8=True, on_batch=lambda done, total: told.append((done, total)))
    assert found.examples == trained.result["dev_examples"] == 80
    assert told[-1] == (3 * 80, 3 * 80)  # torch and two files
    assert told == sorted(told)
    assert found.metric == trained.result["metric"]
    assert found.versions[0].score == pytest.approx(trained.score, abs=1e-3)
    assert [one.equal for one in found.versions] == [None] * 3
    assert "equal decisions" not in found.table()
    given = ackd.export(run / "model", task="all", dev_data=data, data=data, output=tmp_path / "all", **columns)
    assert given.examples == 400
    answers = asked(run / "model", tuple(zip(*[line[:2] for line in lines], strict=True)))
    labels = [float(line[2]) for line in lines]
    metric = {
        "spearman": spearmanr(answers[:, 0], labels).statistic,
        "pearson": np.corrcoef(answers[:, 0], labels)[0, 1],
    }
    assert given.score == pytest.approx(100 * metric[given.metric], abs=1e-2)


@needs_onnx
def test_what_is_handed_over_needs_no_folder_and_classes_are_taken_by_their_names(tmp_path: Path) -> None:
    folder = small_bert(tmp_path / "model")
    model, tokenizer = models.load_model(folder), models.load_tokenizer(folder)
    names = ["positive", "negative"]  # not in the order of the task
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    data = datasets.Dataset.from_dict(
        {"text": [f"{word} {word}" for word in WORDS] * 4, "label": [i % 2 for i in range(4 * len(WORDS))]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
        ),
    )
    found = ackd.export(model, "onnx", tokenizer=tokenizer, data=data, dev_data=data, output=tmp_path / "there")
    answers = asked(folder, (data["text"],))
    assert found.score == pytest.approx(100 * (1 - answers.argmax(1) == np.array(data["label"])).mean())
    assert {path.name for path in tmp_path.iterdir()} == {"model", "there"}
    with pytest.raises(InputError, match="is not a local folder: name a folder for the files with --output"):
        ackd.export(model, "onnx", tokenizer=tokenizer)


def test_a_run_whose_data_is_gone_has_no_dev_split_until_somebody_says_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, folder = small.write_sentences(tmp_path / "own.csv"), saved(tmp_path / "start")
    how: dict[str, Any] = {"text_columns": ["text"], "label_column": "label", "reward_examples": 0}
    ackd.finetune(folder, data, task="own", output=tmp_path / "run", steps=1, quiet=True, **how)
    data.rename(tmp_path / "moved.csv")
    left, tokenizer = left_by(str(tmp_path / "run")), models.load_tokenizer(tmp_path / "run")
    assert reported(left, ExportConfig(model=left.name), tokenizer) is None
    assert "cannot be read" in caplog.text
    with pytest.raises(InputError, match="there is no file"):
        reported(left, ExportConfig(model=left.name, data=str(tmp_path / "nowhere.csv")), tokenizer)
    again = reported(left, ExportConfig(model=left.name, data=str(tmp_path / "moved.csv")), tokenizer)
    assert again is not None
    assert (again.spec.metrics[0], again.spec.name) == ("accuracy", "own")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@needs_onnx
def test_what_ends_half_way_leaves_nothing_and_what_was_there_stays(
    once: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(once.folder.parent, tmp_path / "model"))
    there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(models, "write_onnx", lambda model, path, inputs: shutil.copy(once.folder / ONNX, path))
    monkeypatch.setattr(models, "write_int8", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ackd.export(folder, int8=True, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        ackd.export(folder, int8=True, output=tmp_path / "new" / "onnx")
    with pytest.raises(InputError, match="already holds an export: choose another, or add --overwrite"):
        ackd.export(folder)
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)  # less than rounding
    with pytest.raises(InputError, match="has other logits than torch"):
        ackd.export(folder, output=tmp_path / "new")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == there
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@needs_onnx
def test_a_family_that_the_exporter_cannot_write_gets_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "model", "longformer")  # whose blocks of tokens depend on what is read
    before, _ = sorted(tmp_path.rglob("*")), capfd.readouterr()
    with pytest.raises(
        InputError, match=r"^torch 2\S* cannot write a longformer as ONNX \(.*\): use a supported family"
    ):
        ackd.export(folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


@needs_onnx
def test_weights_too_many_for_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.onnx_files, "LARGE", 0)
    folder = saved(tmp_path / "model")
    found = ackd.export(folder, int8=True)
    assert (found.folder / f"{ONNX}.data").is_file()
    model, inputs = AutoModelForSequenceClassification.from_pretrained(folder).eval(), ragged(7, 33)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(opened(found.folder / ONNX)(inputs), expected, rtol=1e-4, atol=1e-5)
    assert found.versions[1].bytes > (found.folder / ONNX).stat().st_size


def run_folder(place: Path, *, finished: bool) -> Path:
    """What a run of agents alone leaves."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"command": "evaluate", "settings": {}, "versions": {}}))
    if finished:
        (place / "result.json").write_text(json.dumps({"task": "polarity"}))
    return place


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda place: saved(place), {"format": "onxx"}, "unknown format 'onxx': did you mean 'onnx'? (known: onnx)"),
        (lambda place: run_folder(place, finished=False), {}, "is not finished: finish it with --resume"),
        (
            lambda place: run_folder(place, finished=True),
            {},
            "is of ackd evaluate and contains no student: name another",
        ),
        (lambda place: place, {"output": "there"}, "there is no folder"),
        (lambda place: saved(place), {"output": "pyproject.toml"}, "is a file: choose a folder"),
        (lambda place: saved(place), {"output": "docs"}, "holds other files: choose a new or empty folder"),
        (lambda place: "user/name", {}, "is not a local folder: name a folder for the files with --output"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_sentence(
    make: Callable[[Path], Path | str],
    options: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "check_onnx", lambda: None)
    monkeypatch.chdir(Path(__file__).parents[2])
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(InputError) as error:
        ackd.export(make(tmp_path / "source"), **options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "source" / "onnx").exists()
    assert sorted(Path.cwd().iterdir()) == before


def test_a_missing_package_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models.onnx_files, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert main(["export", str(saved(tmp_path / "model"))]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == 'ackd: writing ONNX needs onnxscript, not installed here: pip install "ackd[onnx]"'


def test_versions_stand_side_by_side() -> None:
    versions = [
        Version("torch", 90.0, 2_000_000, {1: 3.0}),
        Version("onnx", 90.0, 2_100_000, {1: 1.5}, 2e-6, 1.0),
    ]
    table = Exported(Path("there"), "onnx", "own", "accuracy", 1200, 64, 2, versions).table()
    assert [line.split() for line in table.splitlines()[:3]] == [
        ["torch", "onnx"],
        ["accuracy", "on", "dev", "90.00", "90.00"],
        ["size", "on", "disk", "2.0", "MB", "2.1", "MB"],
    ]
    assert "2.0e-06" in table
    assert "100.00%" in table
    assert "1,200 examples of dev and 64 random texts; times are medians on this CPU with 2 threads" in table
