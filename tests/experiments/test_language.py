"""Language models are distilled on the chunks of a text, under every policy, and transformers loads them."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import ackd
from ackd import models
from ackd.building.sources import model_of
from ackd.cli import main
from ackd.cohort.cohort import Cohort
from ackd.errors import InputError
from ackd.mdp.rewards import GapClosed
from ackd.types import NO_TOKEN, Selection
from tests import texts
from tests.learned import weights

HOW: dict[str, Any] = {"student_layers": 1, "steps": 4, "batch_size": 4, "lr": 1e-3, "decision_interval": 1}
HOW |= {"max_length": 24, "reward_examples": 12}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return texts.saved(tmp_path_factory.mktemp("teacher"), steps=30)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text(texts.prose(300, seed=1), encoding="utf-8")
    return str(path)


def setting(teacher: Any, text: Any, **more: Any) -> dict[str, Any]:
    return {"task": "language", "teacher": teacher, "data": text, **HOW, **more}


def prepared(teacher: Any, text: Any, **more: Any) -> ackd.Distillation:
    settings = setting(teacher, text, **more)
    del settings["decision_interval"]
    return ackd.prepare(**settings)


def trainer(teacher: Any, text: Any, policy: object, **more: Any) -> ackd.DistillationTrainer:
    return ackd.DistillationTrainer(
        teacher=teacher, task="language", train_dataset=text, policy=policy, args=ackd.DistillationConfig(**HOW),
        quiet=True, **more,
    )  # fmt: skip


def test_a_student_loads_in_transformers_and_has_the_loss_of_its_run(teacher: str, text: str, tmp_path: Path) -> None:
    """Against transformers' own loss, chunk by chunk."""
    one = trainer(teacher, text, "all")
    distilled = one.train()
    one.save(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    split = one._env.distillation.task.dev["held-out"]
    losses = []
    for place in range(len(split)):
        ids = torch.tensor(split.inputs["input_ids"][split.offsets[place] : split.offsets[place + 1]].astype(np.int64))
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        told = ids[:-1] != tokenizer.eos_token_id
        losses += F.cross_entropy(logits, ids[1:], reduction="none")[told].tolist()
    assert distilled.score == pytest.approx(-sum(losses) / len(losses), abs=1e-4)
    result = distilled.result
    assert result["dev_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert result["dev_perplexity"] == pytest.approx(math.exp(result["dev_loss"]), rel=1e-4)
    assert result["teacher_loss"] == pytest.approx(-(distilled.teacher_score or 0.0), abs=1e-4)
    assert "pipeline_tag: text-generation" in (tmp_path / "README.md").read_text()
    assert model.config.num_hidden_layers == 1
    assert "neg_loss on dev" in distilled.comparison.table()


def test_splits_are_stretches_of_the_text(teacher: str, text: str) -> None:
    task = prepared(teacher, text).task
    train, reward, dev = task.train, task.reward, task.dev["held-out"]
    assert [len(reward), len(dev)] == [12, round(0.2 * (len(train) + 12 + len(dev)))]
    ids = np.concatenate([train.ids, reward.ids, dev.ids])
    assert np.array_equal(ids, np.arange(len(ids)))  # one after the other, and nothing twice
    assert max(int(one.lengths.max()) for one in (train, reward, dev)) <= 24
    apart = prepared(teacher, text, reward_from="dev:0.25", max_examples=20).task
    assert len(apart.train) == 20
    assert len(apart.reward) == round(0.25 * len(dev))
    assert np.array_equal(np.concatenate([apart.reward.ids, apart.dev["held-out"].ids]), dev.ids)
    assert set(apart.train.ids) <= {*train.ids, *reward.ids}


def test_texts_come_as_files_lists_and_data_sets(teacher: str, text: str, tmp_path: Path) -> None:
    paragraphs = Path(text).read_text().strip().split("\n\n")
    lines = tmp_path / "text.jsonl"
    lines.write_text("\n".join(json.dumps({"text": one}) for one in paragraphs))
    tables = Dataset.from_dict({"article": paragraphs, "number": range(len(paragraphs))})
    Dataset.from_dict({"text": paragraphs}).to_parquet(tmp_path / "text.parquet")
    expected = prepared(teacher, text).task
    for given in (paragraphs, str(lines), tables, str(tmp_path / "text.parquet")):
        task = prepared(teacher, given).task
        assert task.train.fingerprint == expected.train.fingerprint
    whole, some = (Dataset.from_dict({"text": those}) for those in (paragraphs, paragraphs[:40]))
    split = prepared(teacher, DatasetDict(train=whole, validation=some)).task
    chunks = sum(map(len, (expected.train, expected.reward, expected.dev["held-out"])))
    assert len(split.train) + len(split.reward) == chunks
    apart = prepared(teacher, text, dev_data=str(lines)).task
    assert len(apart.dev["held-out"]) == len(apart.train) + len(apart.reward)


def test_a_corpus_is_taken_as_it_is(teacher: str, text: str, tmp_path: Path) -> None:
    from ackd import corpora

    corpora.tokenised(tmp_path / "corpus", text, models.load_tokenizer(teacher), 24)
    assert (
        prepared(teacher, str(tmp_path / "corpus")).task.train.fingerprint
        == prepared(teacher, text).task.train.fingerprint
    )
    with pytest.raises(InputError, match="has chunks of 24 tokens, and --max-length is 16: give --max-length 24"):
        prepared(teacher, str(tmp_path / "corpus"), max_length=16)
    corpora.tokenised(tmp_path / "other", text, models.train_tokenizer([texts.prose(50)], 270), 24)
    with pytest.raises(InputError, match="is of another tokenizer than the student"):
        prepared(teacher, str(tmp_path / "other"))


def test_a_step_is_the_plain_loss(teacher: str, text: str) -> None:
    """Cross-entropy and divergence of every next token, against torch's own functions."""
    training = prepared(teacher, text, knowledge=["logits"], temperature=2.0)
    training.reset(3)
    report = training.advance(Selection.of("logits"), 1)
    model = model_of(training.teachers[0])
    assert model is not None
    batch, student = training.trainer.last, models.from_layers(model, 1)()
    told = batch.labels != NO_TOKEN
    with torch.no_grad():
        ours, theirs = (one(**batch.inputs).logits for one in (student, model))
    ce, kl = [], []
    for place in range(len(told)):
        z, t, y = ours[place][told[place]], theirs[place][told[place]], batch.labels[place][told[place]]
        ce.append(F.cross_entropy(z, y))
        kl.append(4 * F.kl_div((z / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="batchmean"))
    assert report.labels == pytest.approx(float(torch.stack(ce).mean()), rel=1e-5)
    assert report.losses["logits"] == pytest.approx(float(torch.stack(kl).mean()), rel=1e-4)


def test_every_policy_takes_the_task(teacher: str, text: str, tmp_path: Path) -> None:
    policies = [
        "labels",
        "all",
        "scheduled",
        "default",
        "logits",
        "random",
        "preset:kd",
        "preset:tinybert",
        "preset:minilmv2",
    ]
    table = ackd.evaluate(
        policies, settings=setting(teacher, text, steps=8), seeds=1, output=tmp_path / "table", quiet=True
    )
    assert not any(row["error"] for row in table.rows)
    assert {row["metric"] for row in table.rows} == {"neg_loss"}
    assert " nats" not in table.report()
    assert f"{table.rows[0]['dev_score']:.4f}" in table.report()
    agent = ackd.train_agent("cem", settings=setting(teacher, text), episodes=8, students=4, quiet=True)
    assert trainer(teacher, text, agent).train().score < 0


def test_students_that_train_together_are_those_that_train_alone(teacher: str, text: str) -> None:
    training = prepared(teacher, text, knowledge=["logits", "reverse-kl-uncertain-student", "hidden", "attention-kl"])
    together = Cohort(training, 2)
    together.reset([1, 2])
    selection = Selection.of(*training.distiller.knowledge)
    both = together.advance([selection, Selection()], 3)
    found = together.evaluate(training.task.reward, "reward")
    training.reset(1)
    alone = training.advance(selection, 3)
    assert both[0].losses == pytest.approx(alone.losses, rel=1e-4)
    assert found[0].scores == pytest.approx(training.evaluate(training.task.reward, "reward").scores, abs=1e-4)
    apart = (weights(together.stacked.students[0]) - weights(training.student)).abs()
    assert (apart > 1e-5).float().mean() < 0.01  # rounding decides where Adam's gradients are nearly 0


def test_rewards_are_shares_of_the_gap_of_the_loss(teacher: str, text: str) -> None:
    env = ackd.envs.make.distill(**setting(teacher, text, steps=8, student_init="first"))
    assert env.reward == GapClosed(on="loss")
    env.reset(seed=0)
    earned = [env.step(env.action_space.sample())[1] for _ in range(env.decisions)]
    episode = env.episode
    assert episode is not None
    start, end, goal = (one.loss for one in (episode.start, episode.eval_result, episode.teacher))
    assert sum(earned) == pytest.approx((start - end) / (start - goal))
    assert episode.facts is None
    for name in ("kl-gap", "margin-gap", "agreement-gap", "probability-gap"):
        with pytest.raises(InputError, match=f"the reward '{name}' compares the logits of all tokens"):
            ackd.envs.make.distill(**setting(teacher, text, reward=name))


def test_students_begin_as_layers_configs_models_or_files(teacher: str, text: str, tmp_path: Path) -> None:
    model, tokenizer = models.load_model(teacher, language=True), models.load_tokenizer(teacher)
    by_name, by_object = prepared(teacher, text), prepared(model, text, tokenizer=tokenizer)
    assert by_name.task.train.fingerprint == by_object.task.train.fingerprint
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    (tmp_path / "small.json").write_text(json.dumps(config))
    other = models.language_config(tmp_path / "small.json", tokenizer)
    for start in (str(tmp_path / "small.json"), other, lambda: AutoModelForCausalLM.from_config(other), teacher, model):
        how = {"student": start, "student_layers": None, "knowledge": ["logits", "hidden"], "tokenizer": tokenizer}
        training = prepared(model, text, **how)
        assert training.advance(Selection.of("logits", "hidden"), 1).finite


def test_a_padded_vocabulary_is_cut_to_the_shared_tokens(
    teacher: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = models.load_model(teacher, language=True), models.load_tokenizer(teacher)
    model.resize_token_embeddings(len(tokenizer) + 7)
    with torch.no_grad():
        model.get_output_embeddings().weight[-7:] = 1e3  # whatever stands there
    models.save_model(tmp_path, model, tokenizer)
    training = prepared(str(tmp_path), text, student=teacher, knowledge=["logits"])
    assert f"answers with {len(tokenizer) + 7} tokens and the student with {len(tokenizer)}: they" in caplog.text
    plain = prepared(teacher, text, student=teacher, knowledge=["logits"])
    for one in (training, plain):
        one.reset(0)
    report, expected = (one.advance(Selection.of("logits"), 1) for one in (training, plain))
    assert report.losses["logits"] == pytest.approx(expected.losses["logits"], rel=1e-4)


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("distill", ["--preset", "rkd"], "compares whole examples"),
        ("distill", ["--preset", "dynamickd-data"], "needs classes"),
        ("distill", ["--knowledge", "similarity"], "compares whole examples"),
        ("distill", ["--knowledge", "hidden", "--layer-map", "0:7"], "the teacher has 2 layers"),
        ("distill", ["--student-layers", "9"], "cannot be cut from a model of 2"),
        ("distill", ["--wrong-labels", "0.1"], "leave --wrong-labels away"),
        ("distill", ["--label-column", "label"], "leave --label-column away"),
        ("distill", ["--max-length", "40"], "reads 32 tokens at once"),
        ("distill", ["--max-length", "3"], "the maximum length is 3"),
        ("distill", ["--reward", "kl-gap"], "compares the logits of all tokens"),
        ("distill", ["--data", "{short}"], "no text fills a chunk of 24 tokens"),
        ("distill", ["--data", "{few}"], "are needed"),
        ("distill", ["--data", "{none}"], "there is no folder or file of this name"),
        ("distill", ["--teacher", "{other}"], "is no causal language model"),
        ("distill", ["--student", "{stranger}"], "has another tokenizer than the student"),
        ("finetune", ["--model", "{teacher}"], "has no classes, but fine-tuning needs them"),
        ("mutual", ["--students", "{teacher}", "{teacher}"], "has no classes"),
        ("federate", ["--student", "{teacher}", "--clients", "2"], "has no classes"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(
    command: str, more: list[str], said: str, teacher: str, text: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "short.txt").write_text("The sea.\n")
    (tmp_path / "few.txt").write_text(texts.prose(12))
    known = {"teacher": teacher, "none": str(tmp_path / "none.txt")}
    known |= {"short": str(tmp_path / "short.txt"), "few": str(tmp_path / "few.txt")}
    if "{other}" in more:
        known["other"] = texts.saved_encoder(tmp_path / "other", teacher)
    if "{stranger}" in more:
        known["stranger"] = texts.saved(tmp_path / "stranger", vocabulary=280)
    more = [one.format(**known) for one in more]
    given = {"--data": text, "--max-length": "24"}
    if command == "distill":
        given |= {"--teacher": teacher, "--student-layers": "1"}
    given |= dict(zip(more[::2], more[1::2], strict=True)) if command == "distill" else {}
    words = [word for pair in given.items() for word in pair] + ([] if command == "distill" else more)
    assert main([command, "--task", "language", *words, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_text_has_to_be_given(teacher: str) -> None:
    with pytest.raises(InputError, match="the task language learns from a text: give --data"):
        prepared(teacher, None)
    with pytest.raises(InputError, match="name the column of text"):
        prepared(teacher, Dataset.from_dict({"a": ["x"] * 9, "b": ["y"] * 9}))


def test_a_command_resumes_and_a_cache_keeps_states(
    teacher: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in HOW.items()]
    run = ["distill", "--task", "language", "--teacher", teacher, "--data", text, *named, "--quiet"]
    assert main([*run, "--output", str(tmp_path / "plain")]) == 0
    cache = ["--cache", str(tmp_path / "cache"), "--cache-dtype", "float32", "--cache-reads", "all"]
    assert main([*run, "--output", str(tmp_path / "cached"), *cache]) == 0
    assert "the logits of a language model are too many to cache" in caplog.text
    assert main([*run, "--output", str(tmp_path / "again"), *cache, "--knowledge", "hidden", "attention"]) == 0
    costs = json.loads((tmp_path / "again" / "ledger.json").read_text())
    assert costs["cached_queries"] > 0
    plain, cached = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("plain", "cached"))
    assert plain["dev_loss"] == pytest.approx(cached["dev_loss"], abs=1e-4)
    assert main([*run, "--output", str(tmp_path / "plain"), "--resume"]) == 0


def test_the_command_and_the_script_of_the_page_run(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
    command, script = page.split("```python\n")[0], page.split("```python\n")[1].split("```")[0]
    assert command.startswith("# Language models\n\n    ackd distill ")
    assert len(script.splitlines()) <= 25
    texts.saved(tmp_path / "gpt2", steps=5)
    (tmp_path / "text.txt").write_text(Path(text).read_text())
    monkeypatch.chdir(tmp_path)
    (_, *words) = shlex.split(command.split("\n\n")[1].replace("\\\n", ""))
    short = {"1000": "4", "6": "1"}
    assert main([*(short.get(word, word) for word in words), "--max-length", "24", "--decision-interval", "1"]) == 0
    assert "which is a perplexity of" in capsys.readouterr().out
    script = script.replace("student_layers=6", "student_layers=1, max_length=24").replace("steps=1000", "steps=4")
    known: dict[str, Any] = {}
    exec(compile(script, "docs/language.md", "exec"), known)
    assert known["result"]["dev_loss"] > 0
