"""Sentence encoders are distilled without labels, under every policy, and sentence-transformers loads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import ackd
from ackd import models
from ackd.cli import main
from ackd.errors import InputError
from ackd.experiments import pushing
from ackd.files.hub import repo_of
from ackd.models import Pooling
from ackd.types import OutputRequest
from tests import encoders
from tests.models import small

HOW: dict[str, Any] = {"student_layers": 2, "steps": 4, "batch_size": 8, "lr": 1e-3, "decision_interval": 1}
HOW |= {"max_length": 32, "reward_examples": 30}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return encoders.saved(tmp_path_factory.mktemp("teacher"), pooling=Pooling("mean", normalise=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return encoders.write(tmp_path_factory.mktemp("data"))


def setting(teacher: Any, files: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"task": "embeddings", "teacher": teacher, **files, **HOW, **more}


def prepared(teacher: Any, files: dict[str, str], **more: Any) -> ackd.Distillation:
    settings = setting(teacher, files, **more)
    del settings["decision_interval"]
    return ackd.prepare(**settings)


def trainer(teacher: Any, files: dict[str, str], policy: object, **more: Any) -> ackd.DistillationTrainer:
    return ackd.DistillationTrainer(
        teacher=teacher, task="embeddings", train_dataset=files["data"], eval_dataset=files["dev_data"], policy=policy,
        args=ackd.DistillationConfig(**HOW), quiet=True, **more,
    )  # fmt: skip


def encoded(folder: str | Path, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What sentence-transformers makes of texts."""
    library = pytest.importorskip("sentence_transformers")
    found = library.SentenceTransformer(str(folder), device="cpu").encode(list(texts), show_progress_bar=False)
    return np.asarray(found)


def test_a_student_loads_in_sentence_transformers_and_scores_the_same(
    teacher: str, files: dict[str, str], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    one = trainer(teacher, files, "all")
    distilled = one.train()
    one.save(tmp_path / "student")
    first, second, scores = zip(*encoders.pairs(60), strict=True)
    found = library.SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert found.max_seq_length == 32
    for model, ours in ((found, distilled.score), (library.SentenceTransformer(teacher), distilled.teacher_score)):
        theirs = EmbeddingSimilarityEvaluator(list(first), list(second), list(scores), main_similarity="cosine")(model)
        assert ours == pytest.approx(
            100 * theirs["spearman_cosine"], abs=0.1
        )  # float32 ranks equal sentences at random
    split, student = one._env.distillation.task.dev["validation"], one.student.eval()
    with torch.no_grad():
        answer = models.run(student, split.batch(range(0, 120, 2)), OutputRequest(logits=True)).logits
    torch.testing.assert_close(torch.from_numpy(encoded(tmp_path / "student", first)), answer, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "student" / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "SentenceTransformer(" in card


def test_labels_are_the_teachers_embeddings_and_their_loss_is_sentence_transformers(
    teacher: str, files: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("sentence_transformers")
    training = prepared(teacher, files)
    training.reset(3)
    models.save_encoder(tmp_path, training.student.model, small.tokenizer(pad_token="[PAD]"), 32)
    report = training.advance(ackd.Selection(), 1)
    batch = training.trainer.last
    every = encoders.sentences(120)
    texts = [every[i] for i in batch.ids.tolist()]
    np.testing.assert_allclose(batch.labels, encoded(teacher, texts), atol=1e-6)
    expected = torch.nn.MSELoss()(*(torch.tensor(encoded(folder, texts)) for folder in (tmp_path, teacher)))
    assert report.labels == pytest.approx(float(expected), rel=1e-4)
    assert training.costs.teacher_queries == 120  # once each, before the first step


def test_the_label_loss_begins_at_the_size_of_the_others(teacher: str, files: dict[str, str]) -> None:
    training = prepared(teacher, files)
    training.reset(0)
    report = training.advance(ackd.Selection({"hidden": 1.0}), 1)
    assert report.loss == pytest.approx(2.0)  # each relative to its first value
    assert report.labels < 0.5


def test_every_policy_takes_the_task(teacher: str, files: dict[str, str], tmp_path: Path) -> None:
    policies = ["labels", "all", "scheduled", "default", "logits-mse", "random", "preset:minilm", "preset:rkd"]
    table = ackd.evaluate(
        policies, settings=setting(teacher, files), seeds=2, knowledge=["logits-mse", "similarity", "hidden"],
        output=tmp_path / "table", quiet=True,
    )  # fmt: skip
    assert len(table.rows) == 16
    assert all(not row["error"] for row in table.rows)
    assert {row["metric"] for row in table.rows} == {"spearman"}
    agent = ackd.train_agent("cem", settings=setting(teacher, files), episodes=8, students=4, quiet=True)
    assert trainer(teacher, files, agent).train().score > 0


def test_rewards_need_no_labels(teacher: str, files: dict[str, str], tmp_path: Path) -> None:
    """Measured on sentences set aside; the teacher is at 1 in each, and a student nearer to it the longer it learns."""
    spoiled = models.load_model(teacher, pooling=models.read_pooling(teacher))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for one in spoiled.parameters():
            one.add_(0.1 * torch.randn_like(one))
    models.save_encoder(tmp_path, spoiled, small.tokenizer(pad_token="[PAD]"), 32)
    training = prepared(teacher, files, steps=60, lr=3e-3, student=str(tmp_path), student_layers=None)
    reward = training.task.reward
    training.reset(0)
    start, goal = training.evaluate(reward, "reward"), training.measure_teacher(reward, "reward")
    assert (goal.score, goal.probability, goal.teacher_correlation) == pytest.approx((1.0, 1.0, 1.0))
    assert goal.loss == pytest.approx(0.0, abs=1e-9)
    training.advance(ackd.Selection(), 60)
    end = training.evaluate(reward, "reward")
    for name in ("score", "probability", "teacher_correlation", "label_correlation"):
        assert getattr(start, name) < getattr(end, name) < 1
    assert 0 < end.loss < start.loss
    assert training.facts() is None
    rows = trainer(teacher, files, "ucb", reward="score-gap").train().decisions
    assert sum(row["reward"] for row in rows) != 0


def test_students_that_train_together_are_those_that_train_alone(teacher: str, files: dict[str, str]) -> None:
    from ackd.cohort import cohort

    training = prepared(teacher, files)
    together = cohort.Cohort(training, 2)
    together.reset([1, 2])
    selection = ackd.Selection.of(*training.distiller.knowledge)
    both = together.advance([selection] * 2, 3)
    found = together.evaluate(training.task.reward, "reward")
    training.reset(1)
    alone = training.advance(selection, 3)
    assert both[0].losses == pytest.approx(alone.losses, rel=1e-4)
    assert found[0].score == pytest.approx(training.evaluate(training.task.reward, "reward").score, abs=1e-4)


def test_a_student_may_be_narrower_than_its_teacher_and_not_wider(
    teacher: str, files: dict[str, str], tmp_path: Path
) -> None:
    narrow = encoders.saved(tmp_path / "narrow", width=8, layers=2, seed=5)
    given: dict[str, Any] = {"student": narrow, "student_layers": None}
    training = prepared(teacher, files, knowledge=["logits-cosine", "similarity", "hidden"], steps=2, **given)
    assert training.task.train.labels.shape[1] == 8
    assert ackd.distill(training, ackd.Selection.of("logits-cosine", "hidden"), seed=0)[-1].finite
    goal = training.measure_teacher(training.task.reward, "reward")
    assert (goal.score, goal.probability) == pytest.approx((1.0, 1.0))
    wide = encoders.saved(tmp_path / "wide", width=32, layers=2)
    with pytest.raises(InputError, match="at most as wide as its teacher"):
        prepared(teacher, files, knowledge=["similarity"], student=wide, student_layers=None)


def test_a_sentence_transformer_is_handed_over_as_it_is(teacher: str, files: dict[str, str], tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    given = library.SentenceTransformer(teacher, device="cpu")
    by_name, by_object = prepared(teacher, files), prepared(given, files)
    assert np.array_equal(by_name.task.train.labels, by_object.task.train.labels)
    made = prepared(given, files, student=given, student_layers=None)
    ackd.distill(made, ackd.Selection(), seed=0)
    before, after = encoded(teacher, ["w4 w5"]), given.encode(["w4 w5"], show_progress_bar=False)
    np.testing.assert_array_equal(after, before)  # what was handed over is as it was
    one = trainer(given, files, "labels")
    one.train()
    one.save(tmp_path)
    assert encoded(tmp_path, ["w4 w5"]).shape == (1, 16)
    given.add_module("2", library.sentence_transformer.modules.Dense(16, 8))
    with pytest.raises(InputError, match="has the modules"):
        prepared(given, files)


def test_models_at_hand_a_config_and_a_file_of_one_start_students(
    teacher: str, files: dict[str, str], tmp_path: Path
) -> None:
    model, tokenizer = AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    by_name, by_object = prepared(teacher, files), prepared(model, files, tokenizer=tokenizer)
    assert np.array_equal(by_name.task.train.labels, by_object.task.train.labels)
    config = models.small_config(small.VOCABULARY, 2, layers=1, width=16, heads=2)
    (tmp_path / "small.json").write_text(json.dumps(config.to_dict()))
    for start in (config, str(tmp_path / "small.json"), lambda: AutoModel.from_config(config)):
        made = prepared(teacher, files, student=start, student_layers=None)
        assert models.pooling_of(made.student.model.config) == Pooling("mean", normalise=True)  # the teacher's


def test_a_cache_and_a_command_leave_what_they_do_for_other_tasks(
    teacher: str, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in {**files, **HOW}.items()]
    run = ["distill", "--task", "embeddings", "--teacher", teacher, *named, "--quiet", "--cache-dtype", "float32"]
    assert main([*run, "--output", str(tmp_path / "plain")]) == 0
    assert "sentence_transformers.SentenceTransformer(" in capsys.readouterr().out
    cache = str(tmp_path / "cache")
    assert main([*run, "--output", str(tmp_path / "cached"), "--cache", cache]) == 0
    assert main([*run, "--output", str(tmp_path / "again"), "--cache", cache]) == 0
    plain, cached, again = (
        load_file(tmp_path / name / "student" / "model.safetensors") for name in ("plain", "cached", "again")
    )
    assert all(torch.equal(cached[name], again[name]) for name in cached)
    assert all(torch.allclose(plain[name], cached[name], atol=1e-4) for name in plain)
    assert main([*run, "--output", str(tmp_path / "plain"), "--resume"]) == 0
    result = json.loads((tmp_path / "plain" / "result.json").read_text())
    assert list(result["dev_scores"]["validation"]) == ["spearman", "recall@1", "mrr"]
    costs = json.loads((tmp_path / "again" / "ledger.json").read_text())
    assert costs["cached_queries"] > 0


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("distill", ["--preset", "kd"], "compares distributions over classes"),
        ("distill", ["--preset", "dynamickd-data", "--knowledge", "hidden"], "needs classes"),
        ("distill", ["--knowledge", "logits"], "compares distributions over classes"),
        ("distill", ["--knowledge", "hidden", "--layer-map", "0:7"], "the teacher has 3 layers"),
        ("distill", ["--student-layers", "9"], "cannot be cut from a model of 3"),
        ("distill", ["--wrong-labels", "0.1"], "of a task with classes"),
        ("finetune", ["--model", "{teacher}"], "has no labels, but fine-tuning needs them"),
        ("mutual", ["--students", "{teacher}", "{teacher}"], "has no labels"),
        ("federate", ["--student", "{teacher}", "--clients", "2"], "has no labels"),
        ("tune", ["--student-layers", "1"], "compares distributions over classes"),
    ],
)
def test_what_needs_labels_or_layers_is_refused_with_a_sentence(
    command: str, more: list[str], said: str, teacher: str, files: dict[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [f"--{name.replace('_', '-')}={value}" for name, value in files.items()]
    if command in ("distill", "tune"):
        given += ["--teacher", teacher]
    if command == "distill" and "--student-layers" not in more:
        given += ["--student-layers", "1"]
    more = [one.format(teacher=teacher) for one in more]
    assert main([command, "--task", "embeddings", *given, *more, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_nobody_teaches_without_a_teacher(files: dict[str, str], teacher: str) -> None:
    with pytest.raises(InputError, match="no teacher was named"):
        prepared((), files, student=teacher, student_layers=None)


def test_the_script_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    text = (Path(__file__).parents[2] / "docs" / "embeddings.md").read_text(encoding="utf-8")
    script = text.split("```python\n")[1].split("```")[0]
    assert text.startswith("# Sentence embeddings\n\n```python\n")
    assert len(script.splitlines()) <= 25
    encoders.saved(tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2")
    first, second, scores = map(list, zip(*encoders.pairs(80), strict=True))
    rows = Dataset.from_dict({"sentence1": first, "sentence2": second, "label": scores, "idx": range(80)})
    given = DatasetDict(train=rows.select(range(50)), validation=rows.select(range(50, 80)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: given)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    script = script.replace("student_layers=3", "student_layers=2, max_length=32")
    exec(compile(script, "docs/embeddings.md", "exec"), known)
    assert known["student"].encode(["w4 w5"]).shape == (1, 16)


def test_two_workers_fill_the_table_that_one_process_does(
    forked_workers: None, teacher: str, files: dict[str, str], tmp_path: Path
) -> None:
    how = [f"--{name.replace('_', '-')}={value}" for name, value in {**files, **HOW}.items()]
    given = ["evaluate", "--tasks", "embeddings", "--teachers", teacher, *how, "--seeds", "1", "--quiet"]
    given += ["--policies", "labels", "all", "--output"]
    assert main([*given, str(tmp_path / "one")]) == 0
    assert main([*given, str(tmp_path / "two"), "--workers", "2", "--backend", "subproc"]) == 0
    one, two = (json.loads((tmp_path / name / "result.json").read_text())["cells"] for name in ("one", "two"))
    assert [cell["dev_scores"] for cell in one] == [cell["dev_scores"] for cell in two]


def test_a_teacher_with_tokens_of_its_own_teaches_whole_sentences(
    teacher: str, files: dict[str, str], tmp_path: Path
) -> None:
    model, its = models.load_model(teacher, pooling=Pooling()), small.tokenizer(pad_token="[PAD]")
    its.add_tokens(["w9 w"])  # another vocabulary
    model.resize_token_embeddings(len(its))
    models.save_encoder(tmp_path, model, its, 32)
    given: dict[str, Any] = {"student": teacher, "student_layers": None}
    training = prepared(str(tmp_path), files, knowledge=["logits-cosine", "similarity"], **given)
    assert ackd.distill(training, ackd.Selection.of("similarity"), seed=0)[-1].finite
    with pytest.raises(InputError, match="has a tokenizer of its own"):
        prepared(str(tmp_path), files, **given)


def test_a_pushed_student_has_the_whole_layout(teacher: str, files: dict[str, str], tmp_path: Path) -> None:
    one = trainer(teacher, files, "labels")
    one.train()
    one.save(tmp_path)
    parcel = pushing._student(tmp_path)
    layout = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
    assert {*parcel.files} >= layout | {"1_Pooling/config.json", "2_Normalize/config.json", "model.safetensors"}
    assert parcel.use(repo_of("me/student")) == (
        'sentence_transformers.SentenceTransformer("me/student").encode(["A text."])'
    )


def test_a_real_encoder_keeps_most_of_what_it_knows(shared: Path) -> None:
    """The score of the folder's own description, and a student of half the layers after a few steps."""
    source = shared / "models" / "minilm-l6"
    settings: dict[str, Any] = {"student_layers": 3, "steps": 3, "lr": 1e-4, "max_examples": 60, "max_length": 48}
    settings |= {"reward_examples": 20}
    training = ackd.prepare(task="embeddings", teacher=str(source), data=str(shared / "glue"), **settings)
    split = training.task.dev["validation"]
    part = split.select([2 * pair + side for pair in range(0, 1500, 15) for side in (0, 1)])
    assert training.measure_teacher(part, "part").score == pytest.approx(0.867, abs=0.05)
    ackd.distill(training, ackd.Selection(), seed=0)
    assert training.evaluate(part, "part").score > 0.7
