"""Command lines that nobody should type, made from the commands' own dataclasses, and what has to come of them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import signal
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from ackd import corpora, models
from ackd.cli import Command, main
from tests.fuzz import readers
from tests.fuzz.readers import Broken

INTS = ("0", "-1", "1", "2", "3", "-9223372036854775809", "1180591620717411303424", "4294967296", "1.5", "1e3", "x", "")
FLOATS = (
    *("0", "-1", "0.5", "1", "2.5", "1e-5", "nan", "inf", "-inf", "1e400", "1e-320", "1e30", "-0.0", "9" * 400),
    *("x", ""),
)
TEXTS = (
    *("", " ", "x", ".", "..", "/", "/dev/null", "/proc/self/mem", "no/such/place", "-", "0", "nan", "a,b", "a=b", "="),
    *("\udcff\udcfe", "é\u202e", "\x1b[2J", "a" * 5000, "\n", "logits", "logits@2", "all", "0:1", "1/1", "cuda:99"),
    *("cpu", "meta", "mps", "0:0.5,x", "uniform", "kd", "minilmv2,kd", "1GB", "-1GB", "1e999GB", "ppo", "polarity"),
    *("sst2", "labels", "lookahead"),
)


@dataclass(frozen=True)
class Line:
    """A command line and what it names for its output."""

    words: tuple[str, ...]
    output: Path


def commands() -> dict[str, type]:
    """Every command's dataclass by its words, such as `policies import`."""
    return dict(_named(Command, ()))


def _named(union: Any, above: tuple[str, ...]) -> Iterator[tuple[str, type]]:
    for one in get_args(union):
        kind, *marks = get_args(one)
        (name,) = (mark.name for mark in marks if hasattr(mark, "name") and hasattr(mark, "prefix_name"))
        hints = get_type_hints(kind, include_extras=True)
        inner = hints.get("action")
        if inner is None:
            yield " ".join((*above, name)), kind
        else:
            yield from _named(get_args(inner)[0], (*above, name))


def parts(place: Path) -> dict[str, Path]:
    """Small files of every kind that a command reads, made in `place`, by what they are."""
    make: dict[str, Any] = {"model": "model", "data": "csv", "policy": "policy", "archive": "archive"}
    make |= {"instances": "instances", "run": "report", "table": "comparison", "scores": "scores", "corpus": "corpus"}
    found = {}
    for what, reader in make.items():
        found[what] = place / what
        found[what].mkdir()
        readers.READERS[reader].make(found[what])
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    (place / "causal.json").write_text(json.dumps(config))
    (place / "small.json").write_text(
        json.dumps(models.small_config(280, 2, layers=1, width=8, heads=2).to_diff_dict() | {"model_type": "bert"})
    )
    (place / "text.txt").write_text(readers.prose(20))
    (place / "empty").mkdir()
    with torch.random.fork_rng():
        settings = models.language_config(place / "causal.json", readers.tokenizer())
        causal = models.from_config(settings, language=True)()
    models.save_model(place / "causal", causal, readers.tokenizer())
    corpus = corpora.tokenised(place / "chunks", place / "text.txt", readers.tokenizer(), 12)
    header = {"model": "m", "corpus": corpus.header.fingerprint, "tokenizer": corpus.header.tokenizer, "first": 0}
    for name in ("scored", "scored-too"):
        (place / name).mkdir()
        values = np.random.default_rng(len(name)).random(len(corpus)).astype("<f4")
        (place / name / "scores.bin").write_bytes(values.tobytes())
        counts = {"chunks": len(corpus), "last": len(corpus), "batch_size": 8}
        (place / name / "scores.json").write_text(json.dumps(header | counts))
    return found | {name: place / name for name in NAMES}


NAMES = ("causal.json", "small.json", "text.txt", "empty", "causal", "chunks", "scored", "scored-too")


def sound(found: dict[str, Path], output: Path) -> dict[str, list[str]]:
    """A line for each command that works and takes a moment."""
    data = f"--task own --data {found['data'] / 'train.csv'} --text-columns text --label-column label --max-length 8"
    learn = "--steps 2 --batch-size 4 --reward-examples 2"
    pair = f"--teacher {found['model']} --student-layers 1 {learn}"
    table = data.replace("--task own", "--tasks own")
    there = f"--output {output}"
    lines = {
        "finetune": f"{data} --model {found['model']} --epochs 0.3 --batch-size 4 --reward-examples 2 {there}",
        "distill": f"{data} {pair} --decision-interval 1 --policy scheduled {there}",
        "predict": f"--task own --data {found['data'] / 'train.csv'} --text-columns text --max-length 8 "
        f"--model {found['model']} {there}",
        "export": f"{found['model']} --int8 {data} {there}",
        "cache": f"{data} --teacher {found['model']} --student-layers 1 --reward-examples 2 {there}",
        "pretrain": f"--corpus {found['chunks']} --student {found['causal.json']} --steps 2 --batch-size 2 "
        f"--tokenizer {found['model']} {there}",
        "score": f"--model {found['causal']} --corpus {found['text.txt']} --max-length 8 {there}",
        "refine-data": f"--teacher-scores {found['scored']} --reference-scores {found['scored-too']} "
        f"--corpus {found['chunks']} {there}",
        "generate": f"--model {found['causal']} --corpus {found['text.txt']} --max-length 8 --part 0:0.2 {there}",
        "train": f"{data} {pair} --decision-interval 1 --agent ucb --episodes 1 {there}",
        "evaluate": f"{table} --teachers {found['model']} --student-layers 1 {learn} --decision-interval 1 "
        f"--policies labels --seeds 1 {there}",
        "tune": f"{data} {pair} --temperature 2 --kd-weight 0.5 --seeds 1 {there}",
        "mutual": f"{data} --students {found['model']} {found['small.json']} {learn} {there}",
        "federate": f"{data} --teacher {found['model']} --student-layers 1 --clients 2 --split iid --rounds 1 "
        f"--local-steps 1 --own-steps 1 --distil-steps 1 --public-examples 2 --batch-size 2 --reward-examples 2 "
        f"{there}",
        "policies list": "",
        "policies show": "default",
        "policies export": f"default {output}.safetensors",
        "policies import": f"{found['policy']} --name own",
        "push": "default me/default",
        "presets": "kd",
        "report": f"{found['run']} --output {output}",
    }
    return {name: line.split() for name, line in lines.items()}


def strange(name: str, found: dict[str, Path], output: Path, rng: random.Random) -> Line:
    """A sound line with one to three options changed, taken away or of another command."""
    known = commands()
    words = sound(found, output)[name]
    for _ in range(rng.choice((1, 1, 2, 3))):
        owner = known[rng.choice(list(known))] if rng.randrange(8) == 0 else known[name]
        fields = [field for field in dataclasses.fields(owner) if field.name != "compile"]  # which takes minutes
        if not fields:
            continue
        field = rng.choice(fields)
        hint = get_type_hints(owner, include_extras=True)[field.name]
        values = _values(hint, found, rng)
        if "Positional" in repr(get_args(hint)[1:]):
            words = values if rng.randrange(4) else [*values, *words]
            continue
        option = f"--{field.name.replace('_', '-')}"
        words = _without(words, option) if rng.randrange(6) else words
        if rng.randrange(6) < (2 if option == "--output" else 5):
            words = [*words, option, *values]
    return Line((*name.split(), *words), output)


def _values(hint: Any, found: dict[str, Path], rng: random.Random) -> list[str]:
    """Words for an option of that type; of none for a switch."""
    while get_origin(hint) is typing.Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        hint = rng.choice([one for one in get_args(hint) if one is not NoneType])
    if get_origin(hint) is Literal:
        return [rng.choice((*map(str, get_args(hint)), "x"))]
    if get_origin(hint) is tuple:
        return [word for _ in range(rng.choice((0, 1, 1, 2, 3))) for word in _values(get_args(hint)[0], found, rng)]
    if hint is bool:
        return rng.choice(([], ["x"]))
    if hint is int:
        return [rng.choice(INTS)]
    if hint is float:
        return [rng.choice(FLOATS)]
    assert hint is str, f"nothing is known of options of the type {hint}"
    every = [*found.values(), *(path for one in found.values() if one.is_dir() for path in one.rglob("*"))]
    return [rng.choice((*TEXTS, *map(str, rng.sample(every, 8))))]


def _without(words: list[str], option: str) -> list[str]:
    if option not in words:
        return words
    at = words.index(option)
    end = next((i for i in range(at + 1, len(words)) if words[i].startswith("--")), len(words))
    return words[:at] + words[end:]


def run(line: Line, place: Path, *, seconds: float = 20.0) -> tuple[int, str]:
    """Runs a line in `place`; its status, -1 where it was stopped at work, and what it said last.

    Raises:
        Broken: for a traceback, a status that means nothing, or files that a refusal left.
    """
    before = _files(place)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=how) for how in ("strict", "backslashreplace"))
    status, late = -1, False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal late
        late = True
        raise KeyboardInterrupt

    kinds = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 12 * seconds))
    ended = [signal.signal(number, stop) for number, _, _ in kinds]  # of its own work, and of all time
    for _, timer, most in kinds:
        signal.setitimer(timer, most)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(line.words))
    except BaseException as error:
        if not late:  # a library may turn an interruption into an error of its own
            raise Broken(f"{type(error).__name__}: {error!s:.300}") from error
    finally:
        for (number, timer, _), handler in zip(kinds, ended, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        err.flush()
    said = err.buffer.getvalue().decode(errors="replace")
    status = -1 if late else status
    if status not in (0, 1, 2, -1):
        raise Broken(f"status {status}, {said[-300:]!r}")
    if late and line.words[0] != "report" and not (line.output / "config.json").is_file():
        raise Broken(f"it hangs before it begins, {said[-300:]!r}")
    if status == 2:
        _check_refusal(said, before, _files(place), line)
    return status, said.strip().split("\n")[-1]


def _check_refusal(said: str, before: set[str], after: set[str], line: Line) -> None:
    sentences = [one for one in said.splitlines() if one.startswith("ackd: ")]
    if "Traceback" in said or len(sentences) != 1:
        raise Broken(f"that is no sentence: {said[-300:]!r}")
    if after - before:
        raise Broken(f"it refused ({said[-200:]!r}) and left {sorted(after - before)[:4]}")


def _files(place: Path) -> set[str]:
    return {str(path) for path in place.rglob("*")} | {str(path) for path in Path.cwd().glob("*")}


def private(place: Path) -> dict[str, str]:
    """The environment in which a user's policies lie in `place`, and nothing goes to the network."""
    return {"ACKD_POLICIES": str(place / "policies"), "HF_HUB_OFFLINE": "1"}
