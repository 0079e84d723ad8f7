"""MiniPLM from text to a pre-trained student, through the command line."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ackd.cli import main
from ackd.corpora import open_corpus, open_scores
from ackd.training.distiller import Distiller
from ackd.types import StepMetrics
from tests import processes
from tests.words import last_said

NURSERY = """The old farm had a {0} and a {1}. Every morning the {0} ran to the gate.

"Where is my {1}?" said the farmer. He looked behind the {0} and under the {1}. Nobody knew!

One day it rained. The {1} slept by the fire, and the {0} dreamed of the sea.
"""
ANIMALS = "horse dog cat hen goose goat cow sheep mouse duck".split()
SMALL = ["--max-length", "33", "--lr", "3e-3", "--batch-size", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, two configs, a teacher that learned it, and a reference that learned a little of it."""
    folder = tmp_path_factory.mktemp("miniplm")
    text = "\n".join(NURSERY.format(one, two) for one in ANIMALS for two in ANIMALS if one != two)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "dev.jsonl").write_text(json.dumps({"text": NURSERY.format("fox", "owl")}) + "\n", encoding="utf-8")
    sizes = {"model_type": "gpt2", "n_positions": 32, "initializer_range": 0.1}
    (folder / "large.json").write_text(json.dumps({**sizes, "n_layer": 2, "n_embd": 32, "n_head": 2}))
    (folder / "small.json").write_text(json.dumps({**sizes, "n_layer": 1, "n_embd": 16, "n_head": 2}))
    arguments = ["pretrain", "--corpus", str(folder / "text.txt"), *SMALL]
    teacher = ["--student", str(folder / "large.json"), "--vocabulary", "320", "--steps", "60"]
    assert main([*arguments, *teacher, "--output", str(folder / "teacher")]) == 0
    reference = ["--student", str(folder / "small.json"), "--tokenizer", str(folder / "teacher"), "--steps", "5"]
    assert main([*arguments, *reference, "--part", "0:0.2", "--output", str(folder / "reference")]) == 0
    score = ["score", "--max-length", "33", "--corpus", str(folder / "text.txt")]
    assert main([*score, "--model", str(folder / "teacher"), "--output", str(folder / "A")]) == 0
    score = ["score", "--model", str(folder / "reference"), "--corpus", str(folder / "A")]
    assert main([*score, "--output", str(folder / "B")]) == 0
    return folder


def result(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "result.json").read_text())
    return read


def refine(place: Path, *options: str, scores: tuple[str, str] = ("A", "B")) -> int:
    teacher, reference = (str(place / name) for name in scores)
    return main(["refine-data", "--teacher-scores", teacher, "--reference-scores", reference, *options])


def test_the_teacher_learned(place: Path) -> None:
    told = result(place / "teacher")
    assert told["metric"] == "loss"
    assert told["lower_is_better"]
    assert told["dev_loss"] < 0.8 * np.log(320)  # far better than knowing nothing
    assert told["dev_loss"] < result(place / "reference")["dev_loss"]
    assert told["dev_perplexity"] == pytest.approx(np.exp(told["dev_loss"]))
    spent = json.loads((place / "teacher" / "ledger.json").read_text())
    assert spent["flops"]["student"] == pytest.approx(told["flops"])
    curve = (place / "teacher" / "curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curve[1:]] == ["20", "40", "60"]


def test_the_held_out_loss_is_the_librarys(place: Path) -> None:
    """Of the saved folder, read by the library alone: all nll over all tokens."""
    told, corpus = result(place / "teacher"), open_corpus(place / "teacher")
    model = AutoModelForCausalLM.from_pretrained(place / "teacher" / "student").eval()
    assert AutoTokenizer.from_pretrained(place / "teacher" / "student").eos_token == "<|endoftext|>"
    summed, tokens = 0.0, 0
    for chunk in range(told["last"], len(corpus)):
        ids = torch.from_numpy(corpus.chunk(chunk))[None]
        with torch.no_grad():
            log_p = model(ids[:, :-1]).logits[0].log_softmax(-1)
        predicted = ids[0, :-1] != corpus.header.end
        summed -= float(log_p.gather(1, ids[0, 1:, None])[predicted].sum())
        tokens += int(predicted.sum())
    assert told["dev_tokens"] == tokens
    assert told["dev_loss"] == pytest.approx(summed / tokens, abs=1e-5)


def test_from_scores_to_a_student(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / "reference")
    assert refine(place, "--ratio", "0.5", "--exclude", run, "--output", str(tmp_path / "half")) == 0
    assert "chunks kept" in capsys.readouterr().out
    corpus, half = open_corpus(place / "A"), open_corpus(tmp_path / "half")
    teacher, reference = (open_scores([place / name]).values.astype(np.float64) for name in "AB")
    difference = reference - teacher
    last = result(place / "reference")["last"]
    by_hand = sorted(sorted(range(last, len(corpus)), key=lambda i: (-difference[i], i))[: (len(corpus) - last) // 2])
    assert np.load(tmp_path / "half" / "kept.npy").tolist() == by_hand
    for place_now, place_before in enumerate(by_hand):
        assert np.array_equal(half.chunk(place_now), corpus.chunk(place_before))
    told = result(tmp_path / "half")
    assert told["mean_score_kept"] == pytest.approx(difference[by_hand].mean())
    assert told["mean_score_kept"] > told["mean_score"] > 0  # the teacher knows the text better
    top = (tmp_path / "half" / "top.txt").read_text()
    best = last + int(difference[last:].argmax())
    assert top.startswith(f"=== chunk {best}, score {difference[best]:.4f}\n")
    arguments = ["pretrain", "--student", str(place / "small.json"), "--corpus", str(tmp_path / "half")]
    # the text of dev is cut as the corpus was, without --max-length
    arguments += ["--dev-data", str(place / "dev.jsonl"), "--batch-size", "8", "--output", str(tmp_path / "student")]
    assert main(arguments) == 0
    told = result(tmp_path / "student")
    assert (told["first"], told["last"]) == (0, len(half))
    assert told["steps"] == round(len(half) / 8)  # one pass
    assert (tmp_path / "student" / "student" / "model.safetensors").is_file()
    again = ["score", "--model", str(tmp_path / "student"), "--corpus", str(tmp_path / "half")]
    assert main([*again, "--output", str(tmp_path / "scores")]) == 0


def test_everything_can_be_kept_or_drawn_or_said_otherwise(place: Path, tmp_path: Path) -> None:
    assert refine(place, "--ratio", "1.0", "--output", str(tmp_path / "all")) == 0
    assert open_corpus(tmp_path / "all").header.fingerprint == open_corpus(place / "A").header.fingerprint
    random = ["--select", "random", "--seed", "3", "--output", str(tmp_path / "random")]
    assert refine(place, *random) == 0
    drawn = np.load(tmp_path / "random" / "kept.npy")
    assert len(drawn) == len(open_corpus(place / "A")) // 2
    text = str(tmp_path / "other.txt")
    Path(text).write_text("Another text, with other words. " * 20)
    other = ["pretrain", "--corpus", text, "--student", str(place / "small.json"), "--vocabulary", "280", *SMALL]
    assert main([*other, "--steps", "1", "--output", str(tmp_path / "other")]) == 0
    options = ["--retokenise", str(tmp_path / "other"), "--max-length", "100", "--normalise", "sum"]
    assert refine(place, *options, "--output", str(tmp_path / "again")) == 0
    said, meant = open_corpus(tmp_path / "again"), open_corpus(place / "A")
    kept = np.load(tmp_path / "again" / "kept.npy")
    for i in (0, len(said) - 1):
        assert said.tokenizer().decode(said.chunk(i)) == meant.tokenizer().decode(meant.chunk(int(kept[i])))


def test_the_optimizer_and_its_course_are_as_asked(place: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", "--corpus", str(place / "A"), "--student", str(place / "small.json"), *SMALL]
    own = ["--warmup", "0.1", "--schedule", "constant", "--weight-decay", "0", "--adam-betas", "0", "0"]
    own += ["--gradient-clipping", "1e9", "--epochs", "0.04", "--lr", "1e-3"]
    assert main(last_said([*arguments, *own, "--output", str(tmp_path / "own")])) == 0
    told = result(tmp_path / "own")
    assert told["steps"] == round(0.04 * told["last"] / 8) == 2
    one = [*arguments, *own[:-4], "--steps", "1", "--lr", "1e-3", "--output", str(tmp_path / "one")]
    assert main(last_said(one)) == 0
    read = [AutoModelForCausalLM.from_pretrained(tmp_path / name / "student") for name in ("own", "one")]
    moved = [after - before for after, before in zip(*(model.parameters() for model in read), strict=True)]
    sizes = torch.cat([one.detach().flatten().abs() for one in moved])
    # without memory, Adam's step is the gradient's sign: all weights that have a gradient move by the full rate
    assert ((sizes - 1e-3).abs() < 2e-5)[sizes > 2e-5].float().mean() > 0.95


def test_a_teacher_of_tokens_costs_steps(place: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", "--corpus", str(place / "A"), "--student", str(place / "small.json"), *SMALL]
    arguments += ["--flops", "1e9"]
    assert main([*arguments, "--output", str(tmp_path / "plain")]) == 0
    taught = [*arguments, "--teacher", str(place / "teacher"), "--kd-weight"]
    assert main([*taught, "0.5", "--output", str(tmp_path / "kd")]) == 0
    plain, kd = result(tmp_path / "plain"), result(tmp_path / "kd")
    assert plain["steps"] > kd["steps"] > 0
    for name in ("plain", "kd"):
        spent = json.loads((tmp_path / name / "ledger.json").read_text())["flops"]
        assert spent["student"] + spent["teacher"] == pytest.approx(result(tmp_path / name)["flops"])
        assert 0.9 * 1e9 < result(tmp_path / name)["flops"] <= 1e9
    costs = json.loads((tmp_path / "kd" / "ledger.json").read_text())["flops"]
    share = costs["student"] / (costs["student"] + costs["teacher"])  # 3 F_S / (3 F_S + F_T)
    assert kd["steps"] / plain["steps"] == pytest.approx(share, rel=0.15)
    assert kd["teacher_loss"] < kd["dev_loss"]
    step = [float(number) for number in (tmp_path / "kd" / "curve.csv").read_text().splitlines()[1].split(",")]
    assert step[1] == pytest.approx(0.5 * step[2] + 0.5 * step[3], rel=1e-4)
    assert main([*taught, "0", "--output", str(tmp_path / "unasked")]) == 0
    unasked = json.loads((tmp_path / "unasked" / "ledger.json").read_text())
    assert unasked["teacher_queries"] == 0
    weights = [(tmp_path / name / "student" / "model.safetensors").read_bytes() for name in ("plain", "unasked")]
    assert weights[0] == weights[1]


def test_a_student_goes_on_from_a_folder(place: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", "--corpus", str(place / "A"), "--student", str(place / "teacher"), *SMALL]
    assert main(last_said([*arguments, "--lr", "1e-9", "--steps", "1", "--output", str(tmp_path / "on")])) == 0
    assert result(tmp_path / "on")["dev_loss"] == pytest.approx(result(place / "teacher")["dev_loss"], abs=1e-4)


def test_a_broken_off_run_ends_like_an_undisturbed_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", "--corpus", str(place / "text.txt"), "--student", str(place / "small.json"), *SMALL]
    arguments += ["--steps", "45", "--vocabulary", "300", "--checkpoint-seconds", "0", "--resume", "--output"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    step, taken = Distiller.step, 0

    def interrupted(self: Distiller, *given: Any) -> StepMetrics[torch.Tensor]:
        nonlocal taken
        taken += 1
        if taken == 30:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Distiller, "step", interrupted)
    assert main([*arguments, str(tmp_path / "broken")]) == 130
    assert main([*arguments, str(tmp_path / "broken")]) == 0
    assert taken == 30 + 25  # the first 20 were not taken again
    for name in ("student/model.safetensors", "curve.csv", "corpus/tokens.bin"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "broken")]) == 0
    assert "nothing is left to resume" in capsys.readouterr().out
    assert main([*arguments[:-2], "--output", str(tmp_path / "broken")]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_killed_scores_are_the_same_bytes(place: Path, tmp_path: Path) -> None:
    whole = (place / "A" / "scores.bin").read_bytes()
    arguments = ["score", "--model", str(place / "teacher"), "--corpus", str(place / "text.txt"), "--max-length", "33"]
    arguments += ["--resume", "--output", str(tmp_path / "killed")]
    values = tmp_path / "killed" / "scores.bin"
    process = processes.command(arguments)
    until = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < until and not (values.is_file() and values.stat().st_size):
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert values.stat().st_size > 0
    assert main(arguments) == 0
    assert values.read_bytes() == whole


def test_shards_are_refined_together(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = []
    for part in ("1/2", "2/2"):
        shards.append(str(tmp_path / part.replace("/", "-")))
        score = ["score", "--model", str(place / "teacher"), "--corpus", str(place / "B"), "--shard", part]
        assert main([*score, "--output", shards[-1]]) == 2  # B has none of its own: it is of A's
        assert main([*score[:4], str(place / "A"), *score[5:], "--output", shards[-1]]) == 0
    with monkeypatch.context() as torchrun:
        torchrun.setenv("RANK", "1")
        torchrun.setenv("WORLD_SIZE", "2")
        ranks = ["score", "--model", str(place / "teacher"), "--corpus", str(place / "A")]
        assert main([*ranks, "--output", str(tmp_path / "ranks")]) == 0
    own = tmp_path / "ranks" / "shard-2-of-2" / "scores.bin"
    assert own.read_bytes() == (Path(shards[1]) / "scores.bin").read_bytes()
    merged = b"".join((Path(shard) / "scores.bin").read_bytes() for shard in shards)
    assert merged == (place / "A" / "scores.bin").read_bytes()
    both = ["refine-data", "--teacher-scores", *shards, "--reference-scores", str(place / "B")]
    assert main([*both, "--output", str(tmp_path / "together")]) == 0
    assert refine(place, "--output", str(tmp_path / "alone")) == 0
    assert (tmp_path / "together" / "tokens.bin").read_bytes() == (tmp_path / "alone" / "tokens.bin").read_bytes()


def test_one_model_against_itself_is_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine(place, "--output", str(tmp_path / "same"), scores=("A", "A")) == 0
    assert "are one model" in capsys.readouterr().out
    told = result(tmp_path / "same")
    assert (told["mean_score"], told["below_zero"]) == (0.0, 0.0)
    assert np.load(tmp_path / "same" / "kept.npy").tolist() == list(range(told["kept"]))


@pytest.fixture
def stranger(place: Path, tmp_path: Path) -> Path:
    """A model with a tokenizer of its own, and its scores in A."""
    arguments = ["pretrain", "--corpus", str(place / "text.txt"), "--student", str(place / "small.json"), *SMALL]
    assert main([*arguments, "--steps", "1", "--vocabulary", "280", "--output", str(tmp_path / "stranger")]) == 0
    return tmp_path / "stranger"


def test_strangers_are_refused(place: Path, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(arguments: list[str], message: str) -> None:
        out = str(tmp_path / "out")
        assert main([*arguments, "--output", out]) == 2
        assert message in capsys.readouterr().err
        assert not Path(out).exists()  # before anything was written

    score = ["score", "--model", str(stranger), "--max-length", "33", "--corpus"]
    refused([*score, str(place / "A")], "is of another tokenizer than")
    assert main([*score, str(place / "text.txt"), "--output", str(tmp_path / "C")]) == 0
    both = ["refine-data", "--teacher-scores", str(place / "A"), "--reference-scores", str(tmp_path / "C")]
    refused(both, "another tokenizer than the teacher")
    both[-1] = str(place / "B")
    refused([*both, "--corpus", str(tmp_path / "C")], "the corpus has")
    refused([*both, "--ratio", "0"], "above 0, at most 1")
    refused([*both, "--ratio", "1.5"], "above 0, at most 1")
    refused([*both, "--exclude", str(stranger)], "learned from another corpus")
    refused([*both, "--exclude", str(place)], "finished run of ackd pretrain")
    refused([*both, "--exclude", "0.1"], "cannot be read")
    refused([*both, "--max-length", "9"], "goes with --retokenise")
    pretrain = ["pretrain", "--corpus", str(place / "A"), "--student", str(place / "small.json")]
    refused([*pretrain, "--teacher", str(stranger)], "is of another tokenizer than")
    named = [*pretrain, "--tokenizer", str(place / "teacher"), "--teacher", str(stranger)]
    refused(named, "has another vocabulary than")
    refused([*pretrain, "--steps", "2", "--flops", "1e9"], "name one of them")
    refused([*pretrain, "--steps", "2", "--epochs", "1"], "name one of them")
    refused([*pretrain, "--epochs", "-1"], "the number of epochs must be above 0")
    refused([*pretrain, "--warmup", "2"], "the warm-up is 2.0")
    refused([*pretrain, "--flops", "1"], "the first step takes")
    refused([*pretrain, "--steps", "0"], "must be above 0")
    refused([*pretrain, "--dev-share", "1"], "cannot be held out")
    refused([*pretrain, "--part", "1:0"], "cannot be read")
    refused([*pretrain[:3]], "say what the student is")
    refused([*pretrain, "--kd-weight", "2", "--teacher", str(place / "teacher")], "give 0 to 1")
    refused([*pretrain[:2], str(place / "nothing"), *pretrain[3:]], "there is no folder or file")
    text = [*pretrain[:2], str(place / "text.txt"), *pretrain[3:]]
    refused([*text, "--max-length", "40"], "reads 32 tokens at once")
    refused([*text, "--max-length", "1"], "a chunk has 2 tokens or more")
    refused([*text, "--vocabulary", "9"], "has no room")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nothing is left beside


@pytest.mark.slow
def test_real_text(text_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A student that reads a novel does better on its end than one that has not begun."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, '
        '"num_attention_heads": 2, "max_position_embeddings": 64}'
    )
    novel = tmp_path / "novel.txt"
    novel.write_text(text_folder("pride_and_prejudice.txt").read_text(encoding="utf-8")[:120_000], encoding="utf-8")
    arguments = ["pretrain", "--corpus", str(novel), "--student", str(tmp_path / "config.json"), "--vocabulary", "512"]
    arguments += ["--max-length", "65", "--lr", "5e-3", "--steps"]
    assert main([*arguments, "1", "--output", str(tmp_path / "begun")]) == 0
    assert main([*arguments, "60", "--output", str(tmp_path / "read")]) == 0
    assert result(tmp_path / "read")["dev_loss"] < 0.9 * result(tmp_path / "begun")["dev_loss"]


@pytest.fixture
def text_folder(shared: Path) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (shared / "text" / name).is_file():
            pytest.skip(f"needs {name} under {shared / 'text'}")
        return shared / "text" / name

    return find
