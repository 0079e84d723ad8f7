"""Sequence distillation through the command line: a teacher writes texts, and a student learns from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ackd import models
from ackd.cli import main
from ackd.corpora import open_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, its held-out end, a config, and a teacher that has learned a little of the text."""
    folder = tmp_path_factory.mktemp("sequences")
    lines = [
        f"The {one} ran to the {two}. Nobody saw it!"
        for one in "horse dog cat hen".split()
        for two in "gate sea".split()
    ]
    (folder / "text.txt").write_text("\n\n".join(10 * lines), encoding="utf-8")
    (folder / "dev.txt").write_text("The dog ran to the sea.\n\nNobody saw the cat!\n\n" * 3, encoding="utf-8")
    sizes = {"model_type": "gpt2", "n_positions": 32, "n_layer": 1, "n_embd": 16, "n_head": 2}
    (folder / "config.json").write_text(json.dumps({**sizes, "initializer_range": 0.1}))
    arguments = ["pretrain", "--corpus", str(folder / "text.txt"), "--student", str(folder / "config.json")]
    arguments += ["--max-length", "33", "--lr", "5e-3", "--vocabulary", "300", "--steps", "40"]
    assert main([*arguments, "--output", str(folder / "teacher")]) == 0
    return folder


def result(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "result.json").read_text())
    return read


def generate(place: Path, corpus: str, *options: str) -> int:
    return main(["generate", "--model", str(place / "teacher"), "--corpus", str(place / corpus), *options])


def test_a_student_learns_from_what_a_teacher_wrote(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "written"
    assert generate(place, "text.txt", "--max-length", "33", "--seed", "3", "--output", str(out)) == 0
    assert "of which the model wrote" in capsys.readouterr().out
    source, written, told = open_corpus(out / "source"), open_corpus(out), result(out)
    assert written.folder == out
    assert written.lengths.tolist() == source.lengths.tolist()
    for chunk in range(len(written)):
        given = int(0.75 * len(source.chunk(chunk)))
        assert np.array_equal(written.chunk(chunk)[:given], source.chunk(chunk)[:given])
    kept = sum(max(1, int(0.75 * length)) for length in source.lengths)
    assert (told["chunks"], told["tokens"]) == (len(source), len(source.tokens))
    assert told["written"] == told["tokens"] - kept
    assert told["corpus"] == written.header.fingerprint != source.header.fingerprint
    assert (out / "samples.txt").read_text().startswith("=== chunk 0\nThe horse ran to the gate")
    arguments = ["pretrain", "--corpus", str(out), "--student", str(place / "config.json"), "--steps", "25"]
    arguments += ["--dev-data", str(place / "dev.txt"), "--lr", "5e-3", "--max-length", "33"]
    assert main([*arguments, "--output", str(tmp_path / "student")]) == 0
    assert result(tmp_path / "student")["dev_loss"] < np.log(300)
    assert result(tmp_path / "student")["corpus"] == written.header.fingerprint


def test_another_seed_writes_other_texts_and_the_likeliest_are_one(place: Path, tmp_path: Path) -> None:
    prints = {}
    for name, options in {
        "0": ("--seed", "0"),
        "again": ("--seed", "0"),
        "1": ("--seed", "1"),
        "likeliest": ("--temperature", "0"),
        "likeliest-1": ("--temperature", "0", "--seed", "1"),
    }.items():
        assert generate(place, "teacher", "--part", "0:0.2", *options, "--output", str(tmp_path / name)) == 0
        prints[name] = result(tmp_path / name)["corpus"]
    assert prints["0"] == prints["again"]
    assert prints["likeliest"] == prints["likeliest-1"]
    assert len(set(prints.values())) == 3


def test_a_broken_off_run_ends_like_an_undisturbed_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--max-length", "12", "--resume", "--output"]
    assert generate(place, "text.txt", *options, str(tmp_path / "whole")) == 0
    generate_tokens, calls = models.generate_tokens, 0

    def interrupted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 10:  # in the second block of 64 chunks, 8 at a time
            raise KeyboardInterrupt
        return generate_tokens(*given, **named)

    monkeypatch.setattr("ackd.corpora.writing.generate_tokens", interrupted)
    broken = tmp_path / "broken"
    assert generate(place, "text.txt", *options, str(broken)) == 130
    assert not (broken / "corpus.json").exists()
    (tmp_path / "x.json").write_text("{}")
    learning = ["pretrain", "--corpus", str(broken), "--student", str(tmp_path / "x.json")]
    assert main([*learning, "--output", str(tmp_path / "x")]) == 2
    assert "there is no corpus in" in capsys.readouterr().err
    assert generate(place, "text.txt", *options, str(broken)) == 0
    rest = len(open_corpus(broken)) - 64
    assert calls == 10 + -(-rest // 8)  # the first block was not written again
    for name in ("tokens.bin", "offsets.bin", "corpus.json", "samples.txt"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert generate(place, "text.txt", *options, str(broken)) == 0
    assert "nothing is left to resume" in capsys.readouterr().out


def test_mistakes_are_told_before_anything_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(corpus: str, *options: str, message: str) -> None:
        assert generate(place, corpus, *options, "--output", str(tmp_path / "out")) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    refused("text.txt", "--prompt", "1", message="a prompt of 1.0 leaves nothing")
    refused("text.txt", "--temperature", "-1", message="the temperature is -1")
    refused("text.txt", "--batch-size", "0", message="above 0")
    refused("text.txt", "--max-length", "40", message="reads 32 tokens at once")
    refused("teacher", "--part", "1", message="cannot be read")
    refused("nothing", message="there is no folder or file")
    refused("text.txt", "--device", "abacus", message="abacus")
    arguments = ["generate", "--model", str(place / "nobody"), "--corpus", str(place / "text.txt")]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
