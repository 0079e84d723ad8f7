"""Texts that a teacher has written, against its plain next-token distributions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ackd import corpora, models
from ackd.corpora import BLOCK, Corpus, Writing
from ackd.errors import InputError
from ackd.models import Tokenizer
from ackd.teachers import ModelTeacher
from ackd.types import OutputRequest

LINE = "The old man went to sea, and the sea was calm. He sat by the net."
LENGTHS = (2, 12, 9, 3, 12, 7)
GREEDY = Writing(temperature=0.0, no_repeat=0, batch_size=4)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return models.train_tokenizer([LINE], 270)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Corpus:
    """More than two blocks of chunks of all lengths."""
    dice = np.random.default_rng(0)
    chunks = (dice.integers(0, 257, LENGTHS[place % len(LENGTHS)]) for place in range(2 * BLOCK + 9))
    return corpora.write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", chunks, tokenizer, 16)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Any:
    """With more outputs than the tokenizer has tokens, as models often have."""
    sizes = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    if request.param == "llama":
        sizes = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 24, "max_position_embeddings": 32}
    path = tmp_path_factory.mktemp("configs") / "config.json"
    path.write_text(json.dumps({**sizes, "vocab_size": 300, "initializer_range": 0.6}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ModelTeacher(models.from_config(models.language_config(path, tokenizer), language=True)())


def write(
    teacher: ModelTeacher, corpus: Corpus, folder: Path, how: Writing, part: tuple[int, int] | None = None
) -> Corpus:
    folder.mkdir(exist_ok=True)
    return corpora.write(teacher, corpus, folder, part or (0, len(corpus)), how)[0]


def one_by_one(
    teacher: ModelTeacher, ids: list[int], count: int, choose: Callable[[NDArray[Any], int, list[int]], int]
) -> list[int]:
    """Each token from a whole pass over the text so far, without padding, batch or cache."""
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = teacher.model(torch.tensor([ids])).logits[0, -1].double().numpy()[:270]
        ids = [*ids, choose(logits, len(ids) - start, ids)]
    return ids


def chances(logits: NDArray[Any], temperature: float) -> NDArray[Any]:
    shares: NDArray[Any] = np.exp((logits - logits.max()) / temperature)
    shares /= shares.sum()
    return shares


def test_chunks_are_the_teachers_likeliest_words(teacher: ModelTeacher, corpus: Corpus, tmp_path: Path) -> None:
    written = write(teacher, corpus, tmp_path, GREEDY, (3, 3 + 12))
    assert len(written) == 12
    assert written.lengths.tolist() == corpus.lengths[3:15].tolist()
    assert corpora.open_corpus(tmp_path).header == written.header
    for place in range(12):
        theirs = corpus.chunk(3 + place)
        given = max(1, int(0.75 * len(theirs)))
        expected = one_by_one(
            teacher, theirs[:given].tolist(), len(theirs) - given, lambda logits, at, ids: int(logits.argmax())
        )
        assert written.chunk(place).tolist() == expected
    changed = [not np.array_equal(written.chunk(k), corpus.chunk(3 + k)) for k in range(12)]
    assert sum(changed) > 6


def test_what_is_drawn_follows_the_distribution_and_the_draws(
    teacher: ModelTeacher, corpus: Corpus, tmp_path: Path
) -> None:
    how = Writing(prompt=0.4, temperature=0.7, no_repeat=0, batch_size=5, seed=7)
    written = write(teacher, corpus, tmp_path / "a", how, (0, 12))
    for place in range(12):
        theirs = corpus.chunk(place)
        given = max(1, int(0.4 * len(theirs)))
        draws = np.random.default_rng([7, place]).random(len(theirs) - given)

        def choose(logits: NDArray[Any], at: int, ids: list[int], draws: NDArray[Any] = draws) -> int:
            return int(np.searchsorted(chances(logits, 0.7).cumsum(), draws[at], "right"))

        expected = one_by_one(teacher, theirs[:given].tolist(), len(theirs) - given, choose)
        assert written.chunk(place).tolist() == expected
    other = write(teacher, corpus, tmp_path / "b", replace(how, seed=8), (0, 12))
    assert other.header.fingerprint != written.header.fingerprint


def test_draws_cover_the_distribution(teacher: ModelTeacher) -> None:
    """Evenly spread draws meet each token as often as its chance says."""
    text = np.array([5, 9, 2])
    count = 2000
    draws = [np.array([(k + 0.5) / count]) for k in range(count)]
    written = models.generate_tokens(teacher.model, [text] * count, draws, vocabulary=270, temperature=1.3)
    with torch.no_grad():
        logits = teacher.model(torch.from_numpy(text)[None]).logits[0, -1].double().numpy()[:270]
    counted = np.bincount([int(one[0]) for one in written], minlength=270) / count
    assert np.abs(counted - chances(logits, 1.3)).max() <= 1.5 / count


def test_no_run_comes_twice(teacher: ModelTeacher) -> None:
    """A run of two that stood in the text already is passed over for the likeliest token that makes none."""
    text = [3, 4, 3, 4, 3]

    def choose(logits: NDArray[Any], at: int, ids: list[int]) -> int:
        runs = set(pairwise(ids))
        return next(int(token) for token in np.argsort(-logits) if (ids[-1], int(token)) not in runs)

    draws = [np.zeros(12)]
    (written,) = models.generate_tokens(
        teacher.model, [np.array(text)], draws, vocabulary=270, temperature=0.0, no_repeat=2
    )
    assert [*text, *written.tolist()] == one_by_one(teacher, text, 12, choose)
    whole = [*text[-1:], *written.tolist()]
    assert len(set(pairwise(whole))) == 12


def test_broken_off_texts_are_the_same_bytes(teacher: ModelTeacher, corpus: Corpus, tmp_path: Path) -> None:
    how = Writing(temperature=1.0, batch_size=16)
    whole = write(teacher, corpus, tmp_path / "a", how)
    bytes_ = (tmp_path / "a" / "tokens.bin").read_bytes()
    block = 2 * int(corpus.offsets[BLOCK])
    for size in (0, 5, block - 1, block, block + 7, len(bytes_), len(bytes_) + 4):
        (tmp_path / "a" / "corpus.json").unlink()
        (tmp_path / "a" / "tokens.bin").write_bytes((bytes_ + b"1234")[:size])
        with pytest.raises(InputError, match="there is no corpus"):
            corpora.open_corpus(tmp_path / "a")
        assert write(teacher, corpus, tmp_path / "a", how).header == whole.header
        assert (tmp_path / "a" / "tokens.bin").read_bytes() == bytes_
    with pytest.raises(InputError, match="another model's or of another corpus"):
        write(teacher, corpus, tmp_path / "a", replace(how, seed=1))


def test_a_part_has_the_chunks_that_the_whole_has(teacher: ModelTeacher, corpus: Corpus, tmp_path: Path) -> None:
    how = Writing(temperature=1.0)
    whole = write(teacher, corpus, tmp_path / "whole", how)
    part = write(teacher, corpus, tmp_path / "part", how, (BLOCK, BLOCK + 5))
    assert [part.chunk(k).tolist() for k in range(5)] == [whole.chunk(BLOCK + k).tolist() for k in range(5)]


def test_the_cost_is_one_pass_over_every_chunk(teacher: ModelTeacher, corpus: Corpus, tmp_path: Path) -> None:
    tmp_path.joinpath("a").mkdir()
    _, flops = corpora.write(teacher, corpus, tmp_path / "a", (0, 6), replace(GREEDY, batch_size=1))
    assert flops == sum(teacher.flops(OutputRequest(logits=True), 1, length - 1) for length in LENGTHS)


def test_a_teacher_that_answers_nonsense_is_told(teacher: ModelTeacher, corpus: Corpus, tmp_path: Path) -> None:
    parameters: Iterator[torch.nn.Parameter] = iter(teacher.model.parameters())
    weight = next(parameters)
    kept = weight.detach().clone()
    weight.data.fill_(torch.nan)
    try:
        for temperature in (0.0, 1.0):
            with pytest.raises(InputError, match="NaN or infinity"):
                write(teacher, corpus, tmp_path / f"{temperature}", Writing(temperature=temperature), (0, 3))
    finally:
        weight.data.copy_(kept)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": 0.0}, "a share in between"),
        ({"prompt": 1.0}, "a share in between"),
        ({"prompt": float("nan")}, "a share in between"),
        ({"temperature": -1.0}, "give 0 or more"),
        ({"temperature": float("inf")}, "give 0 or more"),
        ({"no_repeat": -1}, "give 0 or more"),
        ({"batch_size": 0}, "above 0"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Writing(**changed)


def test_a_model_that_sees_what_follows_is_none(teacher: ModelTeacher, tokenizer: Tokenizer, tmp_path: Path) -> None:
    models.check_causal(teacher.model, "the teacher")
    sizes = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "intermediate_size": 24, "initializer_range": 0.3}))
    encoder = models.from_config(models.language_config(tmp_path / "config.json", tokenizer), language=True)()
    learning = encoder.training
    with pytest.raises(InputError, match="encoder is no causal language model: its tokens see what follows"):
        models.check_causal(encoder, "encoder")
    assert encoder.training == learning
