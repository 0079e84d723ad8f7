"""Texts in chunks on disk, scores of them, and what difference sampling keeps."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ackd import corpora, models
from ackd.corpora import BLOCK, Corpus, Scores
from ackd.corpora.scores import HEADER, VALUES, Header
from ackd.corpora.text import Document
from ackd.errors import InputError
from ackd.models import SentenceEnds, Tokenizer
from ackd.teachers import ModelTeacher
from ackd.types import NO_TOKEN

WORDS = "the sea was calm and old men sat by it with their nets while children ran along sand".split()


def prose(sentences: int, seed: int = 0) -> str:
    """Paragraphs of random sentences."""
    dice = random.Random(seed)
    lines = [" ".join(dice.choices(WORDS, k=dice.randint(3, 9))).capitalize() + "." for _ in range(sentences)]
    return "\n\n".join(" ".join(lines[start : start + 4]) for start in range(0, sentences, 4)) + "\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return models.train_tokenizer([prose(200)], 300)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(prose(400), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, text: Path, tokenizer: Tokenizer) -> Corpus:
    return corpora.tokenised(tmp_path_factory.mktemp("corpora") / "corpus", text, tokenizer, 24)


@pytest.fixture(scope="module")
def make_teacher(tokenizer: Tokenizer) -> Callable[[int], ModelTeacher]:
    def make(seed: int) -> ModelTeacher:
        settings = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return ModelTeacher(models.from_config(config_of(settings, tokenizer), language=True)())

    return make


def config_of(settings: dict[str, Any], tokenizer: Tokenizer) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({**settings, "initializer_range": 0.3}))
        return models.language_config(Path(folder) / "config.json", tokenizer)


def test_documents_from_text_and_json_lines(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("\ufeff\n \none\nmore\n\n\t\n two \n", encoding="utf-8")
    assert list(corpora.documents(plain)) == [("one\nmore", ""), (" two ", "")]
    lines.write_text('{"text": "a\\n\\nb"}\n\n{"text": " ", "x": 1}\n{"text": "ü"}\n', encoding="utf-8")
    assert list(corpora.documents(lines)) == [("a\n\nb", ""), ("ü", "")]
    lines.write_text(
        '{"text": "a", "domain": "law"}\n{"text": "b", "meta": {"pile_set_name": "USPTO"}}\n{"text": "c", "meta": 3}\n'
    )
    assert list(corpora.documents(lines)) == [("a", "law"), ("b", "USPTO"), ("c", "")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe\xff", "no UTF-8 text"),
        ("a.txt", b" \n\n", "has no text"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "in line 2"),
        ("a.jsonl", b'["text"]\n', "no list of JSON objects: look at number 1"),
        ("a.jsonl", b"null\n", "no JSON object in line 1"),
        ("a.jsonl", b'{"text": 3}\n', "that is no string"),
        ("a.jsonl", b"{", "in line 1"),
        ("a.jsonl", b"[" * 100_000, "no list of JSON objects"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(corpora.documents(tmp_path / name))


def by_hand(always: set[int], perhaps: set[int] = frozenset(), joined: set[int] = frozenset()) -> SentenceEnds:  # type: ignore[assignment]
    """Ends among ten tokens; no space stands between one that may end a sentence and those that are `joined` to it."""
    tokens = np.arange(10)
    return SentenceEnds(
        np.isin(tokens, list(always)), np.isin(tokens, list(perhaps)), lambda _, then: then not in joined
    )


def documents(*texts: list[int], domain: str = "") -> list[tuple[NDArray[np.int64], str]]:
    return [(np.array(ids), domain) for ids in texts]


def test_chunks_are_cut_by_hand() -> None:
    """With 9 as the end of a text, 5 as that of a sentence, and at most 4 tokens."""
    texts = documents([1, 2, 5, 3, 9], [4, 4, 4, 4, 4, 9], [5, 1, 1, 1, 9], [9, 2, 2])
    expected = [[1, 2, 5], [3, 9], [4, 4, 4, 4], [4, 9, 5], [1, 1, 1, 9]]  # the 9 alone, and 2 2, are left out
    found = corpora.cut(texts, by_hand({9}, {5}), 4)
    assert [chunk.tolist() for chunk in found] == expected


def test_a_stop_within_a_word_ends_no_chunk() -> None:
    texts = documents([1, 5, 2, 5, 7, 5, 3, 1, 1])
    ends = by_hand({9}, {5}, joined={7})
    assert [chunk.tolist() for chunk in corpora.cut(texts, ends, 5)] == [[1, 5], [2, 5, 7, 5]]
    texts = documents([1, 5, 2, 3, 5, 7, 1, 1, 1, 1])
    # the fifth token may end a sentence, but what follows it, beyond the chunk, speaks against
    assert [chunk.tolist() for chunk in corpora.cut(texts, ends, 5)] == [[1, 5], [2, 3, 5, 7, 1]]


def test_domains_have_chunks_of_their_own_and_a_first_token_counts() -> None:
    texts = [*documents([1, 1, 9], domain="a"), *documents([2, 2, 9], domain="b"), *documents([3, 3, 3, 9], domain="a")]
    found = [chunk.tolist() for chunk in corpora.cut(texts, by_hand({9}), 4)]
    assert found == [[1, 1, 9], [3, 3, 3, 9]]
    texts = documents([1, 1, 9, 3, 3, 3, 3, 3, 9, 1])
    found = [chunk.tolist() for chunk in corpora.cut(texts, by_hand({9}), 4, [0])]
    assert found == [[0, 1, 1, 9], [0, 3, 3, 3], [0, 3, 3, 9]]
    assert [chunk.tolist() for chunk in corpora.cut(texts, by_hand({3, 9}), 2, [0])] == [
        [0, token] for token in texts[0][0]
    ]


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(2, 12),
    st.sets(st.integers(0, 9)),
)
def test_chunks_lose_nothing_but_lonely_tokens_and_a_rest(texts: list[list[int]], most: int, marks: set[int]) -> None:
    chunks = [chunk.tolist() for chunk in corpora.cut(documents(*texts), by_hand(marks), most)]
    left = [token for ids in texts for token in ids]
    for chunk in chunks:
        while left[: len(chunk)] != chunk:
            assert left[0] in marks  # alone between two others
            left.pop(0)
        assert 2 <= len(chunk) <= most
        assert len(chunk) == most or chunk[-1] in marks
        left = left[len(chunk) :]
    assert len([token for token in left if token not in marks]) < most


def published(ids: list[int], tokenizer: Tokenizer, most: int) -> list[list[int]]:
    """MiniPLM's rule in plain words: walk back from a chunk's last token to one that it may end with."""
    chunks = []
    while len(ids) >= most:
        place = most - 1
        while place >= 0:
            text = tokenizer.decode([ids[place]], clean_up_tokenization_spaces=False)
            both = tokenizer.decode(ids[place : place + 2], clean_up_tokenization_spaces=False)
            opened = any(a in text and b not in text for a, b in ("[]", "()", "<>", "\\{"))
            ends = any(sign in text for sign in ".!?;\n") and not opened
            if ids[place] == tokenizer.eos_token_id or (
                ends and ("\n" in text or " " in both or len(ids) == place + 1)
            ):
                break
            place -= 1
        stop = place + 1 if place >= 0 else most
        if stop > 1:
            chunks.append(ids[:stop])
        ids = ids[stop:]
    return chunks


def test_sentences_end_as_published(tokenizer: Tokenizer) -> None:
    texts = [
        "Mr. D.A. paid 3.14; then, at www.a.org, he (see it. there) said: no! Why?\nSo it was. ",
        prose(60, seed=4),
    ]
    encoded = list(corpora.encode([Document(text) for text in texts], tokenizer))
    everything = [token for ids, _ in encoded for token in ids.tolist()]
    for most in (4, 9, 24, 60):
        chunks = corpora.cut(encoded, models.sentence_ends(tokenizer), most)
        assert [chunk.tolist() for chunk in chunks] == published(everything, tokenizer, most)


def test_which_tokens_end_what(tokenizer: Tokenizer) -> None:
    ends, vocabulary = models.sentence_ends(tokenizer), tokenizer.get_vocab()
    assert ends.always[tokenizer.eos_token_id]
    assert ends.always[vocabulary["Ċ"]]  # how a byte-level vocabulary writes a line's end
    for sign in ".!?;":
        assert ends.perhaps[vocabulary[sign]]
        assert not ends.always[vocabulary[sign]]
    assert not (ends.always | ends.perhaps)[[vocabulary["a"], vocabulary[","], vocabulary["("]]].any()
    stop = vocabulary["."]
    assert ends.spaced(stop, vocabulary["Ġ"])
    assert not ends.spaced(stop, vocabulary["a"])


def test_a_learned_tokenizer_says_everything(tokenizer: Tokenizer) -> None:
    for text in ("Ünïcödé \u2603 \U0001f600\n\ttabs", prose(3)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert models.vocabulary_size(tokenizer) <= 300
    with pytest.raises(InputError, match="vocabulary of 200"):
        models.train_tokenizer(["a"], 200)


def test_a_corpus_is_its_text(corpus: Corpus, text: Path, tokenizer: Tokenizer) -> None:
    joined = corpus.tokenizer().decode(corpus.tokens.tolist(), clean_up_tokenization_spaces=False)
    texts = "".join(document.text + "<|endoftext|>" for document in corpora.documents(text))
    ends = "<|endoftext|>"
    assert texts.replace(ends, "").startswith(joined.replace(ends, ""))  # an end may be alone, and is left out then
    assert len(texts) - len(joined) < 0.02 * len(texts)
    assert corpus.header.dtype == "uint16"
    assert int(corpus.lengths.max()) <= 24
    again = corpora.open_corpus(corpus.folder)
    assert again.header == corpus.header
    assert np.array_equal(again.tokens, corpus.tokens)
    split = corpus.split(3, 7)
    batch = split.batch([2])
    assert batch.ids.tolist() == [5]
    assert batch.inputs["input_ids"][0].tolist() == corpus.chunk(5)[:-1].tolist()
    inputs, following = corpus.chunk(5)[:-1], corpus.chunk(5)[1:]
    assert batch.labels[0].tolist() == np.where(inputs == tokenizer.eos_token_id, NO_TOKEN, following).tolist()
    assert isinstance(split.inputs["input_ids"], np.memmap)  # nothing was copied


def test_types_fit_the_vocabulary(tmp_path: Path, tokenizer: Tokenizer) -> None:
    small = models.train_tokenizer([prose(20)], 257)
    chunks = [np.array([1, 2, 256])]
    assert corpora.write_corpus(tmp_path / "a", chunks, small, 8).header.dtype == "uint16"
    assert corpora.open_corpus(tmp_path / "a").chunk(0).tolist() == [1, 2, 256]


def damaged(corpus: Corpus, place: Path, spoil: Callable[[Path], None]) -> Path:
    import shutil

    shutil.copytree(corpus.folder, place)
    spoil(place)
    return place


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def go_around(path: Path) -> None:
    """Offsets that rise in steps above 0 through all whole numbers of 64 bits, and end where they should."""
    offsets = np.fromfile(path, "<i8")
    offsets[1:4] = 2**62, -(2**63), -(2**62)
    offsets[4:-1] = np.arange(-2 * len(offsets[4:-1]), 0, 2)
    assert (np.diff(offsets) > 1).all()
    offsets.tofile(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda place: (place / "tokens.bin").write_bytes(b"1234"), "has 4 bytes and should have"),
        (lambda place: (place / "tokens.bin").unlink(), "it is incomplete"),
        (lambda place: (place / "offsets.bin").write_bytes(b""), "has 0 bytes"),
        (lambda place: flip(place / "tokens.bin"), "it is not what its"),
        (lambda place: flip(place / "offsets.bin"), "damaged"),
        (lambda place: go_around(place / "offsets.bin"), "out of range"),
        (
            lambda place: rewrite(place / "corpus.json", dtype="object"),
            "dtype is .*: .* 'uint8'",
        ),
        (lambda place: rewrite(place / "corpus.json", chunks=-1), "chunks is -1: .* 0"),
        (lambda place: rewrite(place / "corpus.json", tokens=True), "tokens is true: .* integer"),
        (lambda place: rewrite(place / "corpus.json", vocabulary=3), "out of range"),
        (lambda place: rewrite(place / "corpus.json", chunks=2**50), r"should have 9007199254741000"),
        (lambda place: rewrite(place / "corpus.json", surprise=1), "unknown field surprise"),
        (lambda place: (place / "corpus.json").write_text("[" * 100_000), "is damaged"),
        (lambda place: (place / "corpus.json").unlink(), "there is no corpus in"),
    ],
)
def test_a_damaged_corpus_is_refused(
    tmp_path: Path, corpus: Corpus, spoil: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        corpora.open_corpus(damaged(corpus, tmp_path / "corpus", spoil))


def test_shards_are_whole_blocks() -> None:
    for chunks in (1, BLOCK, BLOCK + 1, 10 * BLOCK - 3):
        blocks = -(-chunks // BLOCK)
        for count in range(1, blocks + 1):
            parts = [corpora.shard(chunks, f"{i}/{count}") for i in range(1, count + 1)]
            assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
            assert parts[-1][1] == chunks
            assert all(first % BLOCK == 0 and first < last for first, last in parts)
    for text in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(InputError, match="cannot be read"):
            corpora.shard(1000, text)
    with pytest.raises(InputError, match="make no 3 shards"):
        corpora.shard(2 * BLOCK, "1/3")


def score(model: ModelTeacher, corpus: Corpus, folder: Path, part: tuple[int, int] | None = None) -> bytes:
    folder.mkdir(exist_ok=True)
    every = (0, len(corpus))
    corpora.score(model, corpus, folder, part or every, batch_size=5, device=torch.device("cpu"))
    return (folder / VALUES).read_bytes()


def test_scores_are_each_chunks_own_loss(
    tmp_path: Path, corpus: Corpus, make_teacher: Callable[[int], ModelTeacher]
) -> None:
    model = make_teacher(0)
    score(model, corpus, tmp_path / "scores")
    scores = corpora.open_scores([tmp_path / "scores"])
    assert scores.header.model == model.fingerprint
    wide = model.model.double()
    for place in (0, 17, len(corpus) - 1):
        ids = torch.from_numpy(corpus.chunk(place))
        with torch.no_grad():
            log_p = wide(ids[None, :-1]).logits[0].log_softmax(-1)
        told = ids[:-1] != corpus.header.end
        expected = -log_p[torch.arange(len(ids) - 1), ids[1:]][told].mean()
        assert scores.values[place] == pytest.approx(float(expected), abs=1e-5)


def test_broken_off_and_sharded_scores_are_the_same_bytes(
    tmp_path: Path, corpus: Corpus, make_teacher: Callable[[int], ModelTeacher]
) -> None:
    model, other = make_teacher(0), make_teacher(1)
    whole = score(model, corpus, tmp_path / "whole")
    assert len(whole) == 4 * len(corpus)
    assert len(corpus) > 2 * BLOCK
    for size in (0, 3, 4 * BLOCK, 4 * BLOCK + 9, len(whole) - 1, len(whole), len(whole) + 8):
        (tmp_path / "whole" / VALUES).write_bytes((whole + b"12345678")[:size])
        assert score(model, corpus, tmp_path / "whole") == whole
    parts = [corpora.shard(len(corpus), f"{i}/3") for i in (1, 2, 3)]
    merged = b"".join(score(model, corpus, tmp_path / f"{part}", part) for part in parts)
    assert merged == whole
    folders = [tmp_path / f"{part}" for part in parts]
    assert np.array_equal(corpora.open_scores(folders[::-1]).values, np.frombuffer(whole, "<f4"))
    with pytest.raises(InputError, match="give every shard"):
        corpora.open_scores(folders[:2])
    with pytest.raises(InputError, match="do not cover the corpus once"):
        corpora.open_scores(folders[1:])
    with pytest.raises(InputError, match="do not cover the corpus once"):
        corpora.open_scores([folders[0], folders[0]])
    score(other, corpus, tmp_path / "other", parts[1])
    with pytest.raises(InputError, match="are of two models"):
        corpora.open_scores([folders[0], tmp_path / "other", folders[2]])
    with pytest.raises(InputError, match="of another model or corpus"):
        score(other, corpus, tmp_path / "whole")
    (folders[0] / VALUES).write_bytes(whole[:8])
    with pytest.raises(InputError, match=r"unfinished, 2 of \d+"):
        corpora.open_scores(folders)
    (folders[0] / VALUES).write_bytes(whole)
    with pytest.raises(InputError, match="damaged or incomplete"):
        corpora.open_scores(folders)
    with pytest.raises(InputError, match="there are no scores in"):
        corpora.open_scores([tmp_path])
    rewrite(folders[0] / HEADER, last=10**9)
    with pytest.raises(InputError, match="damaged"):
        corpora.open_scores(folders)


def test_a_model_that_answers_nonsense_is_named(
    tmp_path: Path, corpus: Corpus, make_teacher: Callable[[int], ModelTeacher]
) -> None:
    model = make_teacher(0)
    model.model.transformer.ln_f.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match=r"NaN or infinity \(loss\) for the examples 0, 1"):
        score(model, corpus, tmp_path / "scores")
    score(make_teacher(0), corpus, tmp_path / "good")
    values = np.fromfile(tmp_path / "good" / VALUES, "<f4")
    values[7] = np.inf
    values.tofile(tmp_path / "good" / VALUES)
    with pytest.raises(InputError, match="NaN or infinity"):
        corpora.open_scores([tmp_path / "good"])


def scores_of(values: NDArray[Any], **header: Any) -> Scores:
    base = Header("model", "corpus", "tokenizer", len(values), 0, len(values), 8)
    return Scores(replace(base, **header), np.asarray(values, np.float32))


def test_differences_say_who_knows_better() -> None:
    predicted = np.array([2, 4, 1])
    teacher, reference = scores_of(np.array([1.0, 2.0, 3.0])), scores_of(np.array([1.5, 2.0, 2.0]))
    assert corpora.differences(teacher, reference, predicted).tolist() == [0.5, 0.0, -1.0]
    assert corpora.differences(teacher, reference, predicted, "sum").tolist() == [1.0, 0.0, -1.0]
    assert not corpora.differences(teacher, teacher, predicted).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer": "x", "corpus": "y"}, "another tokenizer than the teacher"),
        ({"corpus": "y"}, "are of two corpora"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(changed: dict[str, str], message: str) -> None:
    values = np.ones(3)
    with pytest.raises(InputError, match=message):
        corpora.differences(scores_of(values), scores_of(values, **changed), np.full(3, 4))
    with pytest.raises(InputError, match="the corpus has 4 chunks"):
        corpora.differences(scores_of(values), scores_of(values), np.full(4, 4))


finite = st.floats(-5, 5, width=32)


@given(st.lists(finite, min_size=1, max_size=40), st.floats(0.01, 1.0), st.integers(2, 50))
def test_the_best_are_kept_in_their_order(values: list[float], ratio: float, length: int) -> None:
    scores = np.array(values)
    count = int(ratio * len(scores) + 1e-9)
    if not count:
        with pytest.raises(InputError, match="keeps none"):
            corpora.kept(scores, ratio)
        return
    kept = corpora.kept(scores, ratio)
    by_hand = sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])
    assert kept.tolist() == by_hand
    summed = scores * (length - 1)  # chunks of one length rank alike
    assert corpora.kept(summed, ratio).tolist() == by_hand
    assert corpora.kept(scores, 1.0).tolist() == list(range(len(values)))
    control = corpora.kept(scores, ratio, seed=3)
    assert len(set(control.tolist())) == count
    assert control.tolist() == sorted(control)
    assert control.tolist() == corpora.kept(scores, ratio, seed=3).tolist()


def test_excluded_chunks_neither_stay_nor_count() -> None:
    allowed = np.array([False, True, True, False, True, True])
    assert corpora.kept(np.array([9.0, 1.0, 3.0, 8.0, 2.0, 0.0]), 0.5, allowed).tolist() == [2, 4]
    assert set(corpora.kept(np.zeros(6), 0.5, allowed, seed=0).tolist()) <= {1, 2, 4, 5}


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_ratios_out_of_range_are_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="above 0, at most 1"):
        corpora.kept(np.zeros(10), ratio)


def test_scores_that_are_no_numbers_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="chunk 1 is no finite number"):
            corpora.kept(np.array([0.0, bad]), 0.5)


def test_retokenised_chunks_say_the_same(corpus: Corpus, tokenizer: Tokenizer) -> None:
    other = models.train_tokenizer([prose(50, seed=9)], 280)
    chunks = [corpus.chunk(place) for place in range(20)]
    again = list(corpora.retokenised(chunks, tokenizer, other, 1000))
    for before, after in zip(chunks, again, strict=True):
        assert tokenizer.decode(before) == other.decode(after)  # both write the end of a text alike
        assert (before == tokenizer.eos_token_id).sum() == (after == other.eos_token_id).sum()
    assert max(map(len, corpora.retokenised(chunks, tokenizer, other, 9))) == 9
    whole = np.concatenate(chunks)
    assert [ids.tolist() for ids in corpora.retokenised([whole], tokenizer, tokenizer, 10**6)] == [whole.tolist()]


def test_a_token_in_front_comes_where_the_tokenizer_has_the_habit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    habitual = models.train_tokenizer([prose(20)], 270)
    habitual.bos_token = "a"
    assert not models.first_tokens(habitual)
    start = habitual.get_vocab()["a"]
    habitual.backend_tokenizer.post_processor = TemplateProcessing(single="a $A", special_tokens=[("a", start)])
    assert models.first_tokens(habitual)
    (chunk,) = corpora.retokenised([np.array([40, 41, 42])], tokenizer, habitual, 50)
    assert chunk[0] == start
    text = tmp_path / "text.txt"
    text.write_text(prose(40), encoding="utf-8")
    made = corpora.tokenised(tmp_path / "corpus", text, habitual, 20)
    chunks = [made.chunk(place) for place in range(len(made))]
    assert {int(chunk[0]) for chunk in chunks} == {start}
    assert max(map(len, chunks)) == 20


def test_parts_are_shares() -> None:
    assert corpora.part(200, "0:0.05") == (0, 10)
    assert corpora.part(200, ":") == (0, 200)
    assert corpora.part(100, "0.29:") == (29, 100)
    for text in ("0.5", "a:b", "0.5:0.5", "0:2", "-1:1", "nan:1"):
        with pytest.raises(InputError, match="cannot be read"):
            corpora.part(200, text)
    with pytest.raises(InputError, match="is none"):
        corpora.part(3, "0:0.1")


def test_the_task_holds_out_the_end(corpus: Corpus) -> None:
    task, learned = corpora.language_task(corpus, (10, 50), dev_share=0.1)
    assert learned == (10, 46)
    assert task.train.ids.tolist() == list(range(10, 46))
    assert task.dev["held-out"].ids.tolist() == list(range(46, 50))
    assert not len(task.reward)
    task, learned = corpora.language_task(corpus, (10, 50), dev=corpus)
    assert learned == (10, 50)
    assert len(task.dev["held-out"]) == len(corpus)
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="cannot be held out"):
            corpora.language_task(corpus, (0, 50), dev_share=share)
    with pytest.raises(InputError, match="leaves nothing to learn from"):
        corpora.language_task(corpus, (0, 1))


def test_configs_are_read_for_a_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2}')
    config = models.language_config(path, tokenizer)
    assert (config.vocab_size, config.eos_token_id) == (models.vocabulary_size(tokenizer), tokenizer.eos_token_id)
    assert models.language_config(path, tokenizer, 512).vocab_size == 512
    path.write_text('{"model_type": "llama", "vocab_size": 20}')
    with pytest.raises(InputError, match="a vocabulary of 20"):
        models.language_config(path, tokenizer)
    for content in ("{}", "[]", '{"model_type": "nonsense"}', "{", '{"model_type": "gpt2", "n_layer": "x"}'):
        path.write_text(content)
        with pytest.raises(InputError, match="is not a model config"):
            models.language_config(path, tokenizer)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    from ackd.tasks import embedded_tokenizer

    with pytest.raises(InputError, match="no end-of-text token"):
        models.end_token(embedded_tokenizer("polarity"))
