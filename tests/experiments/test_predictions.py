"""Files of predictions, against the library's own models asked one text at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ackd
from ackd import models
from ackd.cli import main
from ackd.errors import InputError
from ackd.tasks import SUBMISSIONS, embedded_tokenizer
from ackd.training.measuring import answers

WORDS = sorted(word for word in embedded_tokenizer("polarity").get_vocab() if word.isalpha())
NLI = ("entailment", "neutral", "contradiction")
# As https://gluebenchmark.com/faq names files, and the hub's nyu-mll/glue their test splits, columns and classes.
PAIR = ("sentence1", "sentence2")
FILES: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "cola": ({"CoLA.tsv": "test"}, ("sentence",), ("0", "1")),
    "sst2": ({"SST-2.tsv": "test"}, ("sentence",), ("0", "1")),
    "mrpc": ({"MRPC.tsv": "test"}, PAIR, ("0", "1")),
    "stsb": ({"STS-B.tsv": "test"}, PAIR, ()),
    "qqp": ({"QQP.tsv": "test"}, ("question1", "question2"), ("0", "1")),
    "mnli": ({"MNLI-m.tsv": "test_matched", "MNLI-mm.tsv": "test_mismatched"}, ("premise", "hypothesis"), NLI),
    "qnli": ({"QNLI.tsv": "test"}, ("question", "sentence"), ("entailment", "not_entailment")),
    "rte": ({"RTE.tsv": "test"}, PAIR, ("entailment", "not_entailment")),
    "wnli": ({"WNLI.tsv": "test"}, PAIR, ("0", "1")),
    "ax": ({"AX.tsv": "test"}, ("premise", "hypothesis"), NLI),
}
MakeModel = Callable[..., str]


def saying(count: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator)) for n in lengths]


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All test splits in the hub's layout, whose labels are hidden."""
    place = tmp_path_factory.mktemp("glue")
    for task, (files, columns, _) in FILES.items():
        (place / task).mkdir()
        for seed, split in enumerate(files.values()):
            rows: dict[str, list[Any]] = {name: saying(40, 10 * seed + i) for i, name in enumerate(columns)}
            rows |= {"label": [-1.0 if task == "stsb" else -1] * 40, "idx": list(range(40))}
            datasets.Dataset.from_dict(rows).to_parquet(str(place / task / f"{split}.parquet"))
    return place


@pytest.fixture
def make(tmp_path: Path) -> MakeModel:
    """Saves small models whose answers differ from text to text."""

    def made(classes: int, *, names: Sequence[str] = (), order: Sequence[int] = (), **settings: Any) -> str:
        tokenizer = embedded_tokenizer("polarity")
        config = models.small_config(len(tokenizer), classes, layers=1, width=16, heads=2)
        config.initializer_range = 0.5
        for name, value in settings.items():
            setattr(config, name, value)
        if names:
            config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = models.from_config(config)()
        if order:
            head = model.classifier
            head.weight.data, head.bias.data = head.weight.data[list(order)], head.bias.data[list(order)]
        folder = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        models.save_model(folder, model, tokenizer)
        return str(folder)

    return made


def logits(folder: str, texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """[N, C], each text for itself."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(*row, return_tensors="pt")).logits[0] for row in zip(*texts, strict=True)]
    return torch.stack(rows)


def constant(folder: str, value: float) -> None:
    """Makes a model answer one number to everything."""
    model, tokenizer = models.load_model(folder), models.load_tokenizer(folder)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.fill_(value)
    models.save_model(folder, model, tokenizer)


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_every_task_has_its_files() -> None:
    for task, one in SUBMISSIONS.items():
        assert {f"{name}.tsv": split for name, split in one.splits.items()} == FILES[task][0]
    assert SUBMISSIONS.keys() == FILES.keys()


@pytest.mark.parametrize("task", FILES)
def test_files_have_what_the_model_says_of_each_row(task: str, glue: Path, make: MakeModel, tmp_path: Path) -> None:
    files, columns, words = FILES[task]
    model = make(len(words) or 1)
    found = ackd.predict(model, task, tmp_path / "out", data=str(glue))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(files)
    for name, split in files.items():
        table = datasets.Dataset.from_parquet(str(glue / task / f"{split}.parquet"))
        expected = logits(model, [table[column][:] for column in columns])
        raw = (tmp_path / "out" / name).read_text()
        assert raw.startswith("index\tprediction\n0\t")
        assert raw.endswith("\n")
        header, *rows = read(tmp_path / "out" / name)
        assert header == ["index", "prediction"]
        assert [int(index) for index, _ in rows] == list(range(40))
        if words:
            assert [said for _, said in rows] == [words[i] for i in expected.argmax(1).tolist()]
            assert len({said for _, said in rows}) > 1
        else:
            assert [float(said) for _, said in rows] == pytest.approx(expected[:, 0].clamp(0, 5).tolist(), abs=1e-4)
        assert found[tmp_path / "out" / name] == [said for _, said in rows]


@pytest.mark.parametrize(("value", "written"), [(7.5, "5"), (-1.0, "0"), (2.5, "2.5")])
def test_similarity_is_cut_to_its_scale(
    value: float, written: str, glue: Path, make: MakeModel, tmp_path: Path
) -> None:
    model = make(1)
    constant(model, value)
    (said,) = ackd.predict(model, "stsb", tmp_path / "out", data=str(glue)).values()
    assert set(said) == {written}


@pytest.mark.parametrize(
    ("task", "names", "order"),
    [
        ("mnli", ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"), (2, 0, 1)),
        ("ax", ("neutral", "contradiction", "entailment"), (1, 2, 0)),
        ("rte", ("Not entailment", "Entailment"), (1, 0)),
        ("sst2", ("POSITIVE", "NEGATIVE"), (1, 0)),
        ("mrpc", ("0", "1"), (0, 1)),  # numbers, which are the task's
    ],
)
def test_the_models_names_say_which_class_is_which(
    task: str, names: Sequence[str], order: Sequence[int], glue: Path, make: MakeModel, tmp_path: Path
) -> None:
    plain, other = make(len(names)), make(len(names), names=names, order=order)
    one = ackd.predict(plain, task, tmp_path / "one", data=str(glue))
    two = ackd.predict(other, task, tmp_path / "two", data=str(glue))
    assert list(one.values()) == list(two.values())


def test_strange_names_are_told_of(
    glue: Path, make: MakeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ackd.predict(make(2, names=("up", "down")), "sst2", tmp_path / "out", data=str(glue))
    assert "calls its classes up, down: they are taken for negative, positive" in caplog.text


def test_rows_go_by_the_index_of_the_data(glue: Path, make: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "glue" / "sst2").mkdir(parents=True)
    table = datasets.Dataset.from_parquet(str(glue / "sst2" / "test.parquet"))
    mixed = table.shuffle(seed=1)
    assert mixed["idx"][:] != table["idx"][:]
    mixed.to_parquet(str(tmp_path / "glue" / "sst2" / "test.parquet"))
    model = make(2)
    one, two = (
        ackd.predict(model, "sst2", tmp_path / data.parent.name, data=str(data)) for data in (glue, tmp_path / "glue")
    )
    assert list(one.values()) == list(two.values())


@pytest.mark.parametrize(
    ("classes", "task", "changes", "message"),
    [
        (3, "sst2", {}, "has 3 outputs, but sst2 is 2 classes"),
        (2, "stsb", {}, "has 2 outputs, but stsb is a regression"),
        (2, "ax", {}, "has 2 outputs, but ax is 3 classes"),
        (2, "sst", {}, "unknown task 'sst': did you mean 'sst2'"),
        (2, "polarity", {"data": None}, "polarity is generated and has no test split"),
        (2, "cola", {"data": "here"}, r"there is no test split in .*: expected test\.parquet, found train\.parquet"),
        (2, "sst2", {"data": "nowhere"}, "there is no data folder"),
        (2, "sst2", {"split": "train"}, "--split go with data of your own"),
        (2, "sst2", {"data": None, "text_columns": ("a",)}, "go with data of your own"),
        (2, "sst2", {"text_columns": ("a",)}, "is no file, nor a folder that save_to_disk wrote"),
        (2, "sst2", {"max_length": 3}, "the maximum length is 3"),
        (2, "sst2", {"device": "tpu"}, "unknown device"),
        (2, "a/b", {"data": "mine.csv", "text_columns": ("words",)}, "gives its file its name"),
        (2, "../up", {"data": "mine.csv", "text_columns": ("words",)}, "gives its file its name"),
        (2, "own", {"data": "three.csv"}, r"--text-columns \(one or two\): it has one, two, three"),
        (2, "own", {"data": "mine.csv", "text_columns": ("text",)}, "no column 'text': it has words, number"),
        (2, "own", {"data": "mine.csv", "text_columns": ("number",)}, "no text in 'number', row 1"),
        (2, "own", {"data": "mine.csv", "text_columns": ("words",), "split": "test"}, "is a file, which has no split"),
    ],
)
def test_one_sentence_for_bad_input(
    classes: int, task: str, changes: Mapping[str, Any], message: str, glue: Path, make: MakeModel, tmp_path: Path
) -> None:
    (tmp_path / "here" / "cola").mkdir(parents=True)
    (tmp_path / "here" / "cola" / "train.parquet").touch()
    (tmp_path / "mine.csv").write_text("words,number\nwe liked it,3\n")
    (tmp_path / "three.csv").write_text("one,two,three\na,b,c\n")
    given = {"data": str(glue), **changes}
    if given["data"] in ("here", "nowhere", "mine.csv", "three.csv"):
        given["data"] = str(tmp_path / given["data"])
    with pytest.raises(InputError, match=message) as caught:
        ackd.predict(make(classes), task, tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_damaged_weights_and_strange_models_are_refused(glue: Path, make: MakeModel, tmp_path: Path) -> None:
    model = make(2)
    constant(model, float("nan"))
    with pytest.raises(InputError, match="answers NaN or infinity"):
        ackd.predict(model, "sst2", tmp_path / "out", data=str(glue))
    (tmp_path / "mine.csv").write_text("words\nwe liked it\n")
    several = make(3, problem_type="multi_label_classification")
    with pytest.raises(InputError, match="several labels at once"):
        ackd.predict(several, "own", tmp_path / "out", data=str(tmp_path / "mine.csv"), text_columns=["words"])
    few = make(2)
    tokenizer = models.load_tokenizer(few)
    tokenizer.add_tokens(["liked it"])
    tokenizer.save_pretrained(few)
    with pytest.raises(InputError, match=r"a vocabulary of .* they do not belong together"):
        ackd.predict(few, "own", tmp_path / "out", data=str(tmp_path / "mine.csv"), text_columns=["words"])
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept_unless_overwritten(glue: Path, make: MakeModel, tmp_path: Path) -> None:
    model, out = make(3), tmp_path / "out"
    out.mkdir()
    (out / "MNLI-mm.tsv").write_text("mine")
    (out / "SST-2.tsv").write_text("another task's")
    with pytest.raises(InputError, match=r"MNLI-mm\.tsv is there already.*--overwrite"):
        ackd.predict(model, "mnli", out, data=str(glue))
    assert sorted(path.name for path in out.iterdir()) == ["MNLI-mm.tsv", "SST-2.tsv"]
    assert (out / "MNLI-mm.tsv").read_text() == "mine"
    ackd.predict(model, "mnli", out, data=str(glue), overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["MNLI-m.tsv", "MNLI-mm.tsv", "SST-2.tsv"]
    assert len(read(out / "MNLI-mm.tsv")) == 41
    assert (out / "SST-2.tsv").read_text() == "another task's"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="or a file"):
        ackd.predict(model, "mnli", tmp_path / "file", data=str(glue))


def test_nothing_is_written_before_all_is_known(
    glue: Path, make: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stopped(*given: Any) -> Any:
        asked.append(given)
        if len(asked) == 2:  # MNLI-mm
            raise KeyboardInterrupt
        return answers(*given)

    monkeypatch.setattr("ackd.experiments.predictions.answers", stopped)
    with pytest.raises(KeyboardInterrupt):
        ackd.predict(make(3), "mnli", tmp_path / "out", data=str(glue))
    assert not (tmp_path / "out").exists()


def test_a_file_of_ones_own_gets_the_models_names(make: MakeModel, tmp_path: Path) -> None:
    texts, replies = saying(30, 5), saying(30, 6)
    rows = [{"a": one, "b": other, "label": "whatever"} for one, other in zip(texts, replies, strict=True)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = make(3, names=("so\tso", "GOOD", "not good"))
    data: dict[str, Any] = {"data": str(tmp_path / "mine.jsonl"), "text_columns": ["a", "b"]}
    found = ackd.predict(model, "mine", tmp_path / "out", **data)
    assert list(found) == [tmp_path / "out" / "mine.tsv"]
    names = ("so\tso", "GOOD", "not good")
    expected = [names[i] for i in logits(model, [texts, replies]).argmax(1).tolist()]
    assert read(tmp_path / "out" / "mine.tsv") == [
        ["index", "prediction"],
        *([str(i), said] for i, said in enumerate(expected)),
    ]
    (numbers,) = ackd.predict(make(3), "mine", tmp_path / "numbers", **data).values()
    assert numbers == [str(names.index(said)) for said in expected]
    (values,) = ackd.predict(make(1), "mine", tmp_path / "values", **data).values()
    assert [float(one) for one in values] == pytest.approx(logits(make(1), [texts, replies])[:, 0].tolist(), abs=1e-4)


def test_which_split_of_a_data_set(make: MakeModel, tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_dict({"a": saying(n, n)}) for name, n in (("train", 5), ("test", 7), ("x", 3))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    datasets.DatasetDict(x=parts["x"], y=parts["train"]).save_to_disk(str(tmp_path / "two"))
    parts["x"].save_to_disk(str(tmp_path / "one"))
    model = make(2)

    def count(folder: str, split: str | None = None) -> int:
        place, data = tmp_path / f"{folder}-{split}", str(tmp_path / folder)
        (said,) = ackd.predict(model, "own", place, data=data, text_columns=["a"], split=split).values()
        return len(said)

    assert [count("d"), count("d", "train"), count("one"), count("two", "y")] == [7, 5, 3, 5]
    with pytest.raises(InputError, match="has no split test: it has x, y; name one with --split"):
        count("two")
    with pytest.raises(InputError, match="has no split none: it has train, test, x"):
        count("d", "none")


def test_the_real_test_splits(shared: Path) -> None:
    sizes = {"cola": 1063, "mrpc": 1725, "rte": 3000, "sst2": 1821, "stsb": 1379}
    for task, size in sizes.items():
        rows = SUBMISSIONS[task].rows(shared / "glue", "test")
        assert rows.ids.tolist() == list(range(size))


def test_from_a_saved_data_set_to_a_submission(
    glue: Path, tmp_path: Path, make: MakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way on the command line: classes keep their names from the data to the model to the predictions."""
    kinds = {"a": datasets.Value("string"), "mood": datasets.ClassLabel(names=["up", "down"])}
    columns = {"a": [f"{text} {i}" for i, text in enumerate(saying(80, 1))], "mood": [0, 1] * 40}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    datasets.DatasetDict(train=table, test=table.select(range(6))).save_to_disk(str(tmp_path / "d"))
    own = ["--data", str(tmp_path / "d"), "--text-columns", "a"]
    run = ["--model", make(2), "--epochs", "0.5", "--output", str(tmp_path / "run")]
    assert main(["finetune", "--task", "moods", *own, "--label-column", "mood", "--reward-examples", "8", *run]) == 0
    assert "dev is its split test" in capsys.readouterr().err
    model = models.load_model(tmp_path / "run")
    assert model.config.id2label == {0: "up", 1: "down"}
    out = str(tmp_path / "out")
    assert main(["predict", "--model", str(tmp_path / "run"), "--task", "moods", *own, "--output", out]) == 0
    assert "6 predictions (" in capsys.readouterr().out
    assert {said for _, said in read(tmp_path / "out" / "moods.tsv")[1:]} <= {"up", "down"}
    glue_too = ["predict", "--model", make(2), "--task", "sst2", "--data", str(glue), "--output", out]
    assert main(glue_too) == 0
    assert "40 predictions (0: " in capsys.readouterr().out
    assert main(glue_too) == 2
    assert "SST-2.tsv is there already" in capsys.readouterr().err
