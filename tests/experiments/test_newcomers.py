"""What docs/own.md calls one file outside of the package is one: each is written down as it stands there, and runs."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import ackd

PAGE = Path(__file__).parents[2] / "docs" / "own.md"
FILE = re.compile(r"# (\w+)\.py\n")
NOUNS, WORDS = "film room soup street".split(), {0: "bad dull poor wet".split(), 1: "good fine kind dry".split()}
FEWER = {"steps=40": "steps=8", '"steps": 40': '"steps": 8', "decision_interval=10": "decision_interval=2"}
FEWER |= {'decision_interval": 10': 'decision_interval": 2', "episodes=8, students=4": "episodes=4, students=2"}
HOW: dict[str, Any] = {"student_layers": 1, "steps": 4, "decision_interval": 1, "batch_size": 8, "lr": 1e-3}


def blocks(heading: str) -> list[str]:
    """The Python under a heading of the page; of its beginning, if that is empty."""
    page = PAGE.read_text(encoding="utf-8")
    parts = dict(part.split("\n", 1) for part in page.split("\n## ")[1:]) | {"": page.split("\n## ")[0]}
    return re.findall(r"^```python\n(.*?)^```$", parts[heading], re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    """Sentences whose last word says the class."""
    rng = np.random.default_rng(0)

    def some(count: int) -> Dataset:
        labels = rng.integers(0, 2, count).tolist()
        texts = [f"the {rng.choice(NOUNS)} was {rng.choice(WORDS[label])}" for label in labels]
        features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
        return Dataset.from_dict({"text": texts, "label": labels}, features=features)

    return DatasetDict(train=some(96), validation=some(120))


@pytest.fixture
def models(data: DatasetDict) -> dict[str, Any]:
    """A teacher with random weights and its tokenizer, made with public libraries alone."""
    words = sorted({word for row in data["train"]["text"] for word in row.split()})
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    made = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(vocab_size=len(vocabulary), **sizes, **dropout))
    model.config.id2label = {0: "no", 1: "yes"}
    return {
        "teacher": model,
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **names),
    }


Place = Callable[[str], ModuleType]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Writes the first block under a heading into a folder, as the file that it names; what that file has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(heading: str) -> ModuleType:
        code = blocks(heading)[0]
        (name,) = FILE.findall(code)
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return write


@pytest.mark.parametrize("heading", ["A knowledge type", "A reward", "A rule", "A task"])
def test_what_the_page_says_runs_as_it_is_written(
    heading: str, place: Place, models: dict[str, Any], data: DatasetDict, capsys: pytest.CaptureFixture[str]
) -> None:
    place(heading)
    known: dict[str, Any] = {"model": models["teacher"], "tokenizer": models["tokenizer"], "data": data}
    for block in (blocks("")[0], *blocks(heading)[1:]):
        for long, short in FEWER.items():
            block = block.replace(long, short)
        exec(compile(block, heading, "exec"), known)
    assert capsys.readouterr().out


def logits(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> Any:
    """What transformers answers to texts, [N, C]."""
    with torch.no_grad():
        return model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.double()


def test_the_knowledge_type_is_what_is_minimised(place: Place, models: dict[str, Any], data: DatasetDict) -> None:
    own = place("A knowledge type").Margin
    student, texts = type(models["teacher"])(models["teacher"].config), list(data["train"]["text"])
    answers = [logits(one, models["tokenizer"], texts) for one in (student, models["teacher"])]
    ours, theirs = (one[:, 0] - one[:, 1] for one in answers)
    expected = float(((ours - theirs) ** 2).mean())
    # all of the training data in each batch, and nothing of it set aside: the first loss is that of the first weights
    how: dict[str, Any] = {"steps": 30, "batch_size": 96, "decision_interval": 1, "lr": 1e-3, "reward_from": "dev:0.5"}
    trainer = ackd.DistillationTrainer(
        **models, student=student, train_dataset=data, knowledge=["hidden", own],
        policy=ackd.Selection({"margin": 1.0}, labels=0.0), args=ackd.DistillationConfig(**how),
    )  # fmt: skip
    rows = trainer.train().decisions
    assert {(row["select/margin"], row["select/hidden"], row["select/labels"]) for row in rows} == {(1.0, 0.0, 0.0)}
    losses = [row["loss/margin"] for row in rows]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] / 10
    mine = logits(trainer.student, models["tokenizer"], texts)
    assert float((mine[:, 0] - mine[:, 1] - theirs).square().mean()) < losses[0] / 10


def test_the_reward_is_what_decisions_earn(place: Place, models: dict[str, Any], data: DatasetDict) -> None:
    own = place("A reward").labels_learned
    args = ackd.DistillationConfig(**HOW)
    trainer = ackd.DistillationTrainer(**models, train_dataset=data, reward=own, policy="ucb", args=args)
    rows = trainer.train().decisions
    left = [row["reward_loss"] for row in rows]
    assert [row["reward"] for row in rows[1:]] == pytest.approx([before - after for before, after in pairwise(left)])

    def after(episode: ackd.Episode) -> float:
        """What the reward neg-loss says, written anew."""
        eval_result = episode.phases[-1].eval_result
        return -eval_result.loss if eval_result else 0.0

    setting = {**models, "data": data, **HOW}
    how: dict[str, Any] = {"settings": setting, "episodes": 4, "seed": 3}
    mine = ackd.train_agent("ppo", reward=after, **how)
    named = ackd.train_agent("ppo", **{**how, "settings": {**setting, "reward": "neg-loss"}})
    theirs = named.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.network.state_dict().items())


def test_the_rule_trains_the_student_that_its_selections_do(
    place: Place, models: dict[str, Any], data: DatasetDict
) -> None:
    own = place("A rule").soft_landing
    how = {**HOW, "decisions": None}
    trainer = ackd.DistillationTrainer(
        **models, train_dataset=data, policy=own, args=ackd.DistillationConfig(**how), seed=1000
    )
    result = trainer.train()
    rows = result.decisions
    logit_losses = [row.get("loss/logits", 1.0) for row in rows]
    weights = [(row["select/labels"], row["select/hidden"], row["select/logits"]) for row in rows]
    assert weights[:3] == [(0.25, 1.0, 0.0), (0.25, 1.0, 0.0), (0.25, 1.0, 2.0)]  # no loss of logits is known yet
    assert weights[3] == (0.25, 1.0, 0.5 if logit_losses[2] < 0.1 else 2.0)
    plain = {name: value for name, value in HOW.items() if name != "decision_interval"}
    by_hand = ackd.prepare(**models, data=data, **plain)
    chosen = [ackd.Selection({"hidden": one[1], "logits": one[2]}, labels=one[0]) for one in weights]
    ackd.distill(by_hand, lambda done: chosen[done], seed=1000, interval=1)
    expected = by_hand.student.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.student.state_dict().items())
    table = ackd.evaluate({"mine": own, "labels": "labels"}, settings=[{**models, "data": data, **how}], seeds=1)
    row = table.rows[0]
    assert (row["policy"], row["dev_score"], row["flops_share"]) == ("mine", result.score, result.flops_share)


def test_the_tasks_score_is_its_own_metric(place: Place, models: dict[str, Any], tmp_path: Path) -> None:
    task = place("A task")
    own, its = task.complaints(), {"tokenizer": models["tokenizer"], "compute_metrics": task.balanced}
    teacher = ackd.finetune(models["teacher"].config, own, **its, steps=20, batch_size=8, lr=3e-3)
    trainer = ackd.DistillationTrainer(
        teacher=teacher.model, train_dataset=own, **its, policy="all", args=ackd.DistillationConfig(**HOW)
    )
    result = trainer.train()
    trainer.save(tmp_path / "student")
    ackd.predict(tmp_path / "student", "complaints", tmp_path / "answers", data=own["test"])
    with (tmp_path / "answers" / "complaints.tsv").open(encoding="utf-8") as file:
        answers = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
    names = own["test"].features["label"].names
    labels = [names[label] for label in own["test"]["label"]]
    expected = 100 * balanced_accuracy_score(labels, answers)
    assert result.score == pytest.approx(expected, abs=1e-3)
    assert result.result["metric"] == "balanced_accuracy"
    accuracy = 100 * accuracy_score(labels, answers)
    assert result.result["dev_scores"]["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-3)
    table = ackd.evaluate(["all"], settings={"teacher": teacher.model, "data": own, **its, **HOW}, seeds=1)
    assert {row["metric"] for row in table.rows} == {"balanced_accuracy"}


def squared(prediction: Any) -> dict[str, float]:
    """Of a regression: minus the mean squared distance."""
    return {"closeness": -float(np.square(prediction.predictions[:, 0] - prediction.label_ids).mean())}


def test_a_regression_has_a_metric_of_its_own(models: dict[str, Any], data: DatasetDict) -> None:
    rows = Dataset.from_dict(
        {"text": list(data["train"]["text"]), "label": [len(one) / 10 for one in data["train"]["text"]]}
    )
    its = {"tokenizer": models["tokenizer"], "compute_metrics": squared, "dev_data": rows.select(range(20))}
    result = ackd.finetune(models["teacher"].config, rows, **its, steps=4)
    values = logits(result.model, models["tokenizer"], list(rows["text"])[:20])[:, 0].numpy()
    assert result.score == pytest.approx(-100 * np.square(values - np.array(rows["label"])[:20]).mean(), rel=1e-4)


# Wrong objects


def kind(**changes: Any) -> type[ackd.Knowledge]:
    """A knowledge type with something else in a place or two; what is None is missing."""

    def start(self: Any, student: Any, teacher: Any) -> None:
        ackd.Knowledge.__init__(self)
        self.student_needs = self.teacher_needs = ackd.OutputRequest(logits=True)

    def forward(self: Any, student: Any, teacher: Any, batch: Any) -> Any:
        return (student.logits - teacher.logits).square().mean(1)

    own = {"name": "mine", "family": "logits", "__init__": start, "forward": forward, "flops": lambda *sizes: 0.0}
    return type("Mine", (ackd.Knowledge,), {name: one for name, one in {**own, **changes}.items() if one is not None})


class Acting:
    """A policy whose `predict` answers an action alone."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        return observation["mask"]


class Forgetful:
    """A policy whose `predict` takes observations alone."""

    def predict(self, observation: Any) -> Any:
        return observation["mask"], None


def no_start(self: Any, student: Any, teacher: Any) -> None:
    ackd.Knowledge.__init__(self)


WRONG: dict[str, dict[str, Any]] = {
    "knowledge is <class": {"knowledge": kind()},
    "knowledge is 'hidden': give a list": {"knowledge": "hidden"},
    "3 is a int: give the name of a knowledge type": {"knowledge": [3]},
    "the name of the knowledge type Mine is None": {"knowledge": [kind(name=None)]},
    "is 'labels': give it a `name`": {"knowledge": [kind(name="labels")]},
    r"is 'a\+b': give it a `name`": {"knowledge": [kind(name="a+b")]},
    "the family of 'mine' is None": {"knowledge": [kind(family=None)]},
    "the family of 'mine' is 'loss'": {"knowledge": [kind(family="loss")]},
    "the knowledge type Mine has no flops": {"knowledge": [kind(flops=None)]},
    "set `student_needs` in its __init__": {"knowledge": [kind(__init__=no_start)]},
    "cannot be made from two shapes": {"knowledge": [kind(__init__=lambda self: None)]},
    r"makes a tensor \[\] of 3 examples": {"knowledge": [kind(forward=lambda self, s, t, b: s.logits.mean())]},
    r"makes a tensor \[3, 2\] of 3": {"knowledge": [kind(forward=lambda self, s, t, b: s.logits)]},
    "makes a float of 3 examples": {"knowledge": [kind(forward=lambda self, s, t, b: 0.5)]},
    "the reward is 3: give a name": {"reward": 3},
    "the reward is <class": {"reward": ackd.Reward},
    "a reward answered None": {"reward": lambda episode: None, "policy": "ucb"},
    "a reward answered nan": {"reward": lambda episode: float("nan"), "policy": "ucb"},
    "is a class: hand over an object": {"policy": Acting},
    "the predict of the policy acting answers a ndarray": {"policy": Acting()},
    "the predict of the policy forgetful cannot be called": {"policy": Forgetful()},
    "the policy function answers a dict": {"policy": lambda episode: {"logits": 1.0}},
    "has the knowledge types fsp": {"policy": lambda episode: ackd.Selection.of("fsp")},
    "gives logits the weight 0.1: give 0": {"policy": ackd.Selection({"logits": 0.1})},
    "gives labels the weight 9: give 0": {"policy": lambda episode: ackd.Selection(labels=9.0)},
    "compute_metrics is 'f1': give a function": {"compute_metrics": "f1"},
    "compute_metrics answers 0.5: let it answer a dict": {"compute_metrics": lambda prediction: 0.5},
    "compute_metrics answers {}": {"compute_metrics": lambda prediction: {}},
    "compute_metrics answers nan for 'f1'": {"compute_metrics": lambda prediction: {"f1": float("nan")}},
    r"compute_metrics answers \[0.5\] for 'f1'": {"compute_metrics": lambda prediction: {"f1": [0.5]}},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_object_is_told_in_one_sentence(words: str, models: dict[str, Any], data: DatasetDict) -> None:
    args = ackd.DistillationConfig(**HOW)
    with pytest.raises(ackd.InputError, match=words) as caught:
        ackd.DistillationTrainer(**models, train_dataset=data, args=args, **WRONG[words]).train()
    assert "\n" not in str(caught.value)


def test_objects_for_all_settings_do_not_go_with_a_file(models: dict[str, Any]) -> None:
    with pytest.raises(ackd.InputError, match="reward is an object, and embedded-v1 is read as it is"):
        ackd.train_agent("cem", settings="embedded-v1", reward=lambda episode: 0.0)
    with pytest.raises(ackd.InputError, match=r"nobody knows yet what .* will be called"):
        ackd.train_agent("cem", settings={**models, **HOW}, knowledge=[lambda student, teacher: None])
