"""What can be named can be handed over: models, tokenizers, data sets, knowledge types, teachers, rewards, policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from safetensors.torch import load_file
from stable_baselines3 import A2C
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import ackd
import ackd.agents
from ackd import models, tasks
from ackd.agents import load
from ackd.agents.actor_critic import make_agent
from ackd.cli import main
from ackd.costs import CostTracker
from ackd.envs.make import distill as make_env
from ackd.knowledge import Logits
from ackd.mdp.episode import Episode
from ackd.mdp.rewards import RewardTerms
from ackd.teachers import ModelTeacher
from ackd.types import Batch, ModelDims, OutputRequest, Outputs

CLASSES = ["good", "bad"]
HOW: dict[str, Any] = {"student_layers": 1, "steps": 4, "batch_size": 8, "lr": 1e-3, "decision_interval": 1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher with random weights, whose classes have the names of the data's."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=2, width=16, heads=2))()
    model.config.id2label = dict(enumerate(CLASSES))
    models.save_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    """Two splits of generated sentences."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=CLASSES)})

    def some(split: str, count: int) -> Dataset:
        rows = tasks.embedded.generate("polarity", split)
        columns = {"text": list(rows.texts[0][:count]), "label": rows.labels[:count].tolist()}
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(train=some("train", 200), validation=some("validation", 60))


@pytest.fixture(scope="module")
def named(teacher: Path, data: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The teacher and the data by their names."""
    folder = tmp_path_factory.mktemp("data")
    data.save_to_disk(folder / "set")
    columns = {"text_columns": ("text",), "label_column": "label"}
    return {"task": "data", "teacher": str(teacher), "data": str(folder / "set"), **columns}


def given(teacher: Path, data: DatasetDict) -> dict[str, Any]:
    """The same as objects, as a user loads them."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    return {"teacher": model, "tokenizer": AutoTokenizer.from_pretrained(teacher), "data": data}


def trained(**setting: Any) -> dict[str, Tensor]:
    settings = {name: value for name, value in HOW.items() if name not in {"decision_interval", *setting}}
    distillation = ackd.prepare(**settings, **setting)
    ackd.distill(distillation, ackd.Selection.of(*distillation.distiller.knowledge), seed=5)
    return {name: value.clone() for name, value in distillation.student.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_objects_train_the_student_that_their_names_do(teacher: Path, data: DatasetDict, named: dict[str, Any]) -> None:
    expected = trained(**named)
    objects = given(teacher, data)
    assert same(trained(**objects), expected)
    assert same(trained(**{**objects, "data": data["train"], "dev_data": data["validation"]}), expected)
    assert same(trained(**{**objects, "teacher": [objects["teacher"]], "tokenizer": None}), expected)  # its folder's
    assert not same(trained(**{**objects, "data": data["train"].select(range(150))}), expected)


def test_a_student_is_a_model_a_config_or_a_function(teacher: Path, data: DatasetDict, tmp_path: Path) -> None:
    objects = given(teacher, data)
    settings = {name: value for name, value in HOW.items() if name not in ("student_layers", "decision_interval")}

    def begun(student: Any, **more: Any) -> dict[str, Tensor]:
        distillation = ackd.prepare(**objects, student=student, **settings, **more)
        distillation.reset(1)
        return dict(distillation.student.model.state_dict())

    model = objects["teacher"]
    assert same(begun(model), dict(model.state_dict()))
    cut = begun(model, student_layers=1, student_init="first")
    assert same(cut, {name: value for name, value in model.state_dict().items() if ".layer.1." not in name})
    (tmp_path / "small.json").write_text(json.dumps(model.config.to_dict()))
    drawn = begun(model.config)
    assert same(drawn, begun(str(tmp_path / "small.json")))
    assert not same(drawn, dict(model.state_dict()))
    assert same(drawn, begun(models.from_config(model.config)))


def test_a_teacher_that_is_its_own_student_still_learns(teacher: Path, data: DatasetDict) -> None:
    objects = given(teacher, data)
    before = {name: value.clone() for name, value in objects["teacher"].state_dict().items()}
    learned = trained(**objects, student=objects["teacher"], student_layers=None)
    assert not same(learned, before)
    assert same(dict(objects["teacher"].state_dict()), before)  # the teacher stayed what it was


def test_a_model_that_was_trained_on_since_does_not_say_what_its_folder_has_seen(
    teacher: Path, data: DatasetDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "does not say all that it was trained on"
    objects = given(teacher, data)
    models.save_model(tmp_path, objects["teacher"], objects["tokenizer"])
    tasks.write_seen(tmp_path, tasks.NOTHING)
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    setting = {"tokenizer": objects["tokenizer"], "data": data, "student_layers": 1}
    ackd.prepare(teacher=own, **setting)
    assert said not in caplog.text
    with torch.no_grad():
        own.classifier.bias.add_(1)
    ackd.prepare(teacher=own, **setting)
    assert said in caplog.text


def test_a_model_that_was_fine_tuned_in_memory_says_what_it_has_seen(
    teacher: Path, data: DatasetDict, caplog: pytest.LogCaptureFixture
) -> None:
    objects = given(teacher, data)
    how: dict[str, Any] = {"reward_examples": 40, "data_seed": 1}
    taught = ackd.finetune(objects["teacher"].config, data, tokenizer=objects["tokenizer"], steps=1, **how)
    setting = {"tokenizer": taught.tokenizer, "data": data, "student_layers": 1, "reward_examples": 40}
    task = ackd.prepare(teacher=taught.model, **setting).task
    whole = len(data["train"])
    ((source, _, _),) = task.seen.parts
    seen = tasks.noted_seen(taught.model)
    assert seen is not None
    assert not seen.rows(source, whole)[task.reward.ids].any()  # another data seed, and yet what it has not seen
    assert 0 < len(task.reward) <= 40
    assert not caplog.text
    with torch.no_grad():
        taught.model.classifier.bias.add_(1)
    ackd.prepare(teacher=taught.model, **setting)
    assert "does not say all that it was trained on" in caplog.text


def test_a_model_of_half_precision_is_read_as_its_folder_is(teacher: Path, data: DatasetDict, tmp_path: Path) -> None:
    half = AutoModelForSequenceClassification.from_pretrained(teacher).half()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    models.save_model(tmp_path, half, tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)  # transformers keeps the file's precision
    assert same(
        trained(teacher=model, tokenizer=tokenizer, data=data),
        trained(teacher=str(tmp_path), data=data),
    )


class Doubled(Logits):
    """A knowledge type of one's own."""

    family = "logits"

    def __init__(self, student: ModelDims, teacher: ModelDims) -> None:
        super().__init__(temperature=4.0)
        self.name = "doubled"

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return 2 * super().forward(student, teacher, batch)


def test_a_knowledge_type_of_ones_own_is_a_class_a_function_or_an_object(teacher: Path, data: DatasetDict) -> None:
    objects = given(teacher, data)
    # scaled to one size, a doubled loss teaches what the plain one does
    expected = trained(**objects, knowledge=["logits"])
    shape = models.shape_of(objects["teacher"])
    for own in (Doubled, lambda student, teacher: Doubled(student, teacher), Doubled(shape, shape)):
        learned = trained(**objects, knowledge=[own])
        assert all(torch.allclose(learned[name], expected[name], atol=1e-6) for name in expected)
    assert not same(trained(**objects, knowledge=[Doubled], scale_steps=0), expected)
    env = make_env(**objects, **HOW, knowledge=["hidden", Doubled])
    assert env.knowledge == ("hidden", "doubled")


class Wrapped:
    """A teacher of one's own: it answers as a model does, from its own code."""

    fingerprint = "a teacher of one's own"

    def __init__(self, model: models.Model) -> None:
        self.model = ModelTeacher(model)
        self.shape = self.model.shape
        self.asked = 0

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        self.asked += batch.shape[0]
        return self.model(batch, needs, costs)

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return self.model.flops(needs, size, length)


def test_a_teacher_of_ones_own_answers(teacher: Path, data: DatasetDict, tmp_path: Path) -> None:
    objects = given(teacher, data)
    expected = trained(**objects, student=str(teacher), student_layers=1)
    own = Wrapped(objects["teacher"])
    learned = trained(**{**objects, "teacher": own}, student=str(teacher), student_layers=1)
    assert same(learned, expected)
    assert own.asked >= 4 * 8
    cached = trained(
        **{**objects, "teacher": own},
        student=str(teacher),
        student_layers=1,
        cache=str(tmp_path),
        cache_dtype="float32",
    )
    assert same(cached, expected)


def test_a_reward_of_ones_own_is_what_decisions_earn(teacher: Path, data: DatasetDict) -> None:
    def steps_taken(episode: Episode) -> RewardTerms:
        return RewardTerms(float(episode.phases[-1].steps), 0.0)

    env = make_env(**given(teacher, data), **HOW, reward=steps_taken)
    env.reset(seed=0)
    earned = [env.step(np.ones(8, np.int8))[1] for _ in range(env.decisions)]
    assert sum(earned) == 4


def test_the_trainer_makes_the_student_of_the_command(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    args = ackd.DistillationConfig(**HOW)
    objects = given(teacher, data)
    trainer = ackd.DistillationTrainer(
        teacher=objects["teacher"],
        tokenizer=objects["tokenizer"],
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        policy="scheduled",
        args=args,
        seed=4,
    )
    with pytest.raises(ackd.InputError, match="train"):
        trainer.save(tmp_path / "early")
    result = trainer.train()
    trainer.save(tmp_path / "student")
    options = "--student-layers 1 --steps 4 --batch-size 8 --lr 1e-3 --decision-interval 1 --seed 4 --policy scheduled"
    where = ["--teacher", str(teacher), "--data", named["data"], "--text-columns", "text", "--label-column", "label"]
    run = tmp_path / "run"
    assert main(["distill", "--task", "data", *where, *options.split(), "--output", str(run)]) == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "student", run / "student"))
    assert same(ours, theirs)
    told = json.loads((run / "result.json").read_text())
    assert (result.score, result.teacher_score) == (told["dev_score"], told["teacher_score"])
    assert result.flops_share == told["flops_share"]
    assert len(result.decisions) == 4
    assert result.costs.steps == 4
    asked = pipeline("text-classification", str(tmp_path / "student"))
    found = asked(list(data["validation"]["text"]))
    right = [one["label"] == CLASSES[label] for one, label in zip(found, data["validation"]["label"], strict=True)]
    assert 100 * np.mean(right) == pytest.approx(result.score, abs=1e-3)
    again = trainer.train()  # anew, from the first step on
    assert again.score == result.score
    assert same(dict(trainer.student.state_dict()), ours)


def test_policies_are_handed_over(teacher: Path, data: DatasetDict, tmp_path: Path) -> None:
    objects = given(teacher, data)
    setting = {"name": "mine", **objects, **HOW}
    env = make_env(**objects, **HOW)
    agent = make_agent("a2c", env, seed=0, n_steps=4, episodes=2)
    assert isinstance(agent, A2C)
    table = ackd.evaluate(
        {
            "all": "all",
            "selection": ackd.Selection.of("logits", "hidden", "attention"),
            "sb3": agent,
            "saved": str(Path(ackd.agents.__file__).parent / "policies" / "default"),
            "loaded": load(Path(ackd.agents.__file__).parent / "policies" / "default"),
        },
        settings=[setting],
        seeds=2,
    )
    scores = {
        name: [(row["dev_score"], row["flops_share"]) for row in table.rows if row["policy"] == name]
        for name in ("all", "selection", "sb3", "saved", "loaded")
    }
    assert scores["selection"] == scores["all"]
    assert scores["loaded"] == scores["saved"]
    assert all(len(one) == 2 for one in scores.values())
    assert list(table.to_pandas()["policy"].unique()) == list(scores)
    assert "| mine | sb3 |" in table.report()
    own = ackd.DistillationTrainer(
        teacher=objects["teacher"],
        tokenizer=objects["tokenizer"],
        train_dataset=data,
        policy=ackd.Selection.of("logits", "hidden", "attention"),
        args=ackd.DistillationConfig(**HOW),
        report_to="tensorboard",
        logging_dir=tmp_path / "curves",
        seed=1000,
    )
    result = own.train()
    assert result.score == scores["all"][0][0]
    drawn = EventAccumulator(str(tmp_path / "curves"))
    drawn.Reload()
    assert [one.value for one in drawn.Scalars("phase/loss/labels")] == pytest.approx(
        [row["label_loss"] for row in result.decisions]
    )
    assert [one.value for one in drawn.Scalars("result/dev_score")] == pytest.approx([result.score])


def test_an_agent_learns_on_objects_what_it_learns_on_their_names(
    teacher: Path, data: DatasetDict, named: dict[str, Any], tmp_path: Path
) -> None:
    how: dict[str, Any] = {"episodes": 4, "students": 2, "seed": 0}
    ours = ackd.train_agent("cem", settings={**given(teacher, data), **HOW}, **how)
    instance = {"name": "one", "split": "train", "seeds": [0, 2**30], **named, **HOW}
    instance["data"] = str(named["data"])
    (tmp_path / "set.json").write_text(json.dumps({"format": 1, "instances": [instance]}))
    theirs = ackd.train_agent("cem", settings=tmp_path / "set.json", output=tmp_path / "run", **how)
    assert ours.card.name == "cem"
    state = ours.network.state_dict()
    assert same(state, theirs.network.state_dict())
    assert same(state, load(tmp_path / "run").network.state_dict())
    assert ours.card.instances[0]["teacher"] == teacher.name


def _tokens(data: DatasetDict) -> DatasetDict:
    return data.map(lambda row: {"input_ids": [1, 2, 3]}, remove_columns="text")


def _no_knowledge(student: ModelDims, teacher: ModelDims) -> Any:
    return 3


WRONG: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda o: ackd.prepare(**{**o, "teacher": 3}, student_layers=1), "a teacher is a int: give a folder"),
    (
        lambda o: ackd.prepare(**{**o, "data": _tokens(o["data"])}, student_layers=1),
        "holds tokens",
    ),
    (lambda o: ackd.prepare(**{**o, "data": None}, student_layers=1), "there is nothing to learn"),
    (lambda o: ackd.prepare(**{**o, "teacher": o["teacher"].base_model}, student_layers=1), "has no classifier"),
    (lambda o: ackd.prepare(**o, student=o["teacher"].base_model), "the student is a BertModel, which has no"),
    (lambda o: ackd.prepare(**o, student=3), "the student is a int: give a folder"),
    (lambda o: ackd.prepare(**o, student=lambda: 3), "made a int"),
    (lambda o: ackd.prepare(**{**o, "data": [1, 2]}, student_layers=1), "data is a list: give a Dataset"),
    (lambda o: ackd.prepare(**o, student_layers=1, knowledge=[_no_knowledge]), "give an ackd.Knowledge"),
    (lambda o: ackd.prepare(**o, student_layers=1, stepps=3), "unknown setting 'stepps': did you mean 'steps'"),
    (lambda o: ackd.prepare(**o, student_layers=1, lr="fast"), 'lr must be a number, not "fast"'),
    (lambda o: ackd.prepare(**o, student_layers=1, types=["logits"], knowledge=["hidden"]), "earlier name"),
    (lambda o: ackd.DistillationTrainer(args={"steps": 3}), "args is a dict: give an ackd.DistillationConfig"),  # type: ignore[arg-type]
    (lambda o: ackd.DistillationTrainer(train_dataset=o["data"]), "no teacher was named"),
    (lambda o: ackd.DistillationTrainer(report_to="wand"), "unknown tracker 'wand': did you mean 'wandb'"),
    (lambda o: ackd.train_agent("cem", settings=[{**o, **HOW}], report_to=["wand"]), "unknown tracker 'wand'"),
    (lambda o: ackd.evaluate(["all"], settings=[{**o, **HOW}], report_to=["wand"]), "unknown tracker 'wand'"),
    (lambda o: ackd.evaluate("all", settings=[o]), "give a list of them"),
    (lambda o: ackd.evaluate([3], settings=[{**o, **HOW}]), "give a name, a folder, a Selection"),
    (lambda o: ackd.evaluate(["all"], settings=[]), "no setting to evaluate on"),
    (lambda o: ackd.evaluate([ackd.Selection.of("fsp")], settings=[{**o, **HOW}]), "has the knowledge types fsp"),
    (lambda o: ackd.train_agent("cem", settings=[]), "no setting to learn on"),
    (lambda o: ackd.train_agent("cem", settings=[{**o, **HOW}], workers=2), "workers take settings by their names"),
    (lambda o: ackd.evaluate(["all"], settings=[{**o, **HOW}], workers=2), "workers take settings and policies"),
    (lambda o: ackd.train_agent("cme", settings=[{**o, **HOW}]), "unknown"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_a_wrong_object_is_told_in_one_sentence(
    wrong: Callable[[dict[str, Any]], object], words: str, teacher: Path, data: DatasetDict
) -> None:
    with pytest.raises(ackd.InputError, match=words) as caught:
        wrong(given(teacher, data))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_folder_needs_its_tokenizer(teacher: Path, data: DatasetDict) -> None:
    model = models.from_config(AutoModelForSequenceClassification.from_pretrained(teacher).config)()
    model.name_or_path = ""  # as of a model that no folder holds
    with pytest.raises(ackd.InputError, match="hand over its tokenizer"):
        ackd.prepare(teacher=model, data=data, student_layers=1)
