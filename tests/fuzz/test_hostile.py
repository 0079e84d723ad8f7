"""Files that somebody made on purpose: to run something, to be larger than they are, to land elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from ackd.agents import library, store, weights
from ackd.errors import InputError
from ackd.files.reading import matches_schema, read_tensors
from ackd.training.replay_log import ENTRIES, STATE, ReplayLog
from ackd.types import Selection
from tests.fuzz import readers
from tests.fuzz.mutate import change_state, mutated
from tests.fuzz.readers import READERS, Broken, Reader, attempt
from tests.fuzz.trainings import STATEFUL
from tests.fuzz.watch import watched


class Canary:
    """Makes a folder where somebody unpickles it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


PICKLED = (
    "policy",
    "archive",
    "cache",
    "journal",
    "model",
    "tuned",
    "federated",
    "corpus",
    "scores",
    "instances",
    "glue",
)


@pytest.mark.parametrize("kind", ["pickle", "zip", "torch"])
@pytest.mark.parametrize("name", PICKLED)
def test_no_pickle_is_executed(name: str, kind: str, tmp_path: Path) -> None:
    """In the place of every file that the reader reads."""
    sung = tmp_path / "sung"
    sample = tmp_path / "sample"
    sample.mkdir()
    READERS[name].make(sample)
    for path in sorted(path for path in sample.rglob("*") if path.is_file()):
        before = path.read_bytes()
        if kind == "torch":
            torch.save({"weights": Canary(sung), "entries": 1, "state": Canary(sung)}, path)
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(Canary(sung)))
        else:
            path.write_bytes(pickle.dumps(Canary(sung)))
        attempt(READERS[name], sample)
        assert not sung.exists(), path
        path.write_bytes(before)


def test_the_canary_sings_where_it_is_let(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "sung")))
    assert (tmp_path / "sung").is_dir()


@pytest.mark.parametrize(
    ("deed", "seen"),
    [
        (lambda folder: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda folder: (folder.parent / "escaped").write_text("x"), "open"),
        (lambda folder: os.mkdir(folder.parent / "escaped"), "os.mkdir"),
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: bytearray(1 << 60), "MemoryError"),
    ],
)
def test_the_watch_sees_it(deed: Callable[[Path], Any], seen: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(Broken, match=seen):
        attempt(Reader(lambda place: None, deed, ()), folder)


def spin(folder: Path) -> None:
    while True:
        pass


def test_what_hangs_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Broken, match="it hangs"):
        attempt(Reader(lambda place: None, spin, ()), tmp_path / "folder", seconds=1)


def exported(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    READERS["archive"].make(folder)
    return folder / "small.safetensors"


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/b", "..", ".", "", "\\..\\x", "a\0b", "~", "x\n"])
def test_no_policy_lands_outside_the_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, home = exported(tmp_path / "theirs"), tmp_path / "home"
    monkeypatch.setenv("ACKD_POLICIES", str(home))
    text, tensors = weights.unpack(file.read_bytes(), file)
    file.write_bytes(weights.pack(json.dumps(json.loads(text) | {"name": name}).encode(), tensors))
    before = sorted(tmp_path.rglob("*"))
    for chosen in (None, name):
        with pytest.raises(InputError, match="cannot be a policy's name"):
            library.import_(file, chosen)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_the_store_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, home, outside = exported(tmp_path / "theirs"), tmp_path / "home", tmp_path / "outside"
    monkeypatch.setenv("ACKD_POLICIES", str(home))
    home.mkdir()
    outside.mkdir()
    (home / "small").symlink_to(outside)
    with pytest.raises(InputError):
        library.import_(file, overwrite=True)
    assert not list(outside.iterdir())


def test_links_in_a_policy_are_copied_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, home = tmp_path / "theirs", tmp_path / "home"
    theirs.mkdir()
    READERS["policy"].make(theirs)
    (tmp_path / "secret").write_text("of the user")
    (theirs / store.README).unlink()
    (theirs / store.README).symlink_to(tmp_path / "secret")
    monkeypatch.setenv("ACKD_POLICIES", str(home))
    name = library.import_(theirs)
    assert sorted(path.name for path in (home / name).iterdir()) == sorted([store.CARD, store.README, store.WEIGHTS])
    assert not any(path.is_symlink() for path in (home / name).iterdir())
    assert "of the user" not in (home / name / store.README).read_text()


GIANTS: dict[str, tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "many words": ("model", "config.json", lambda config: config | {"vocab_size": 10**9}),
    "wide": ("model", "config.json", lambda config: config | {"hidden_size": 2**20}),
    "deep": ("model", "config.json", lambda config: config | {"num_hidden_layers": 10**9}),
    "many outputs": ("model", "config.json", lambda config: config | {"num_labels": 10**9}),
    "many places": ("model", "config.json", lambda config: config | {"max_position_embeddings": 10**10}),
    "a wide student": ("config", "classifier.json", lambda config: config | {"hidden_size": 2**20}),
    "a deep student": ("config", "classifier.json", lambda config: config | {"num_hidden_layers": 10**9}),
    "a student of many words": ("config", "causal.json", lambda config: config | {"vocab_size": 10**11}),
    "a wide policy": ("policy", "policy.json", lambda card: card | {"sizes": {"width": 10**6}}),
    "a long corpus": ("corpus", "corpus/corpus.json", lambda header: header | {"tokens": 10**12}),
    "a corpus of many words": ("corpus", "corpus/corpus.json", lambda header: header | {"chunks": 10**15}),
    "many scores": ("scores", "one/scores.json", lambda header: header | {"chunks": 10**15, "last": 10**15}),
}


@pytest.mark.parametrize("giant", GIANTS)
def test_sizes_that_a_file_only_claims_take_no_memory(giant: str, tmp_path: Path) -> None:
    name, file, change = GIANTS[giant]
    folder = tmp_path / "folder"
    folder.mkdir()
    READERS[name].make(folder)
    (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert attempt(READERS[name], folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_header_that_claims_a_giant_takes_no_memory(tmp_path: Path) -> None:
    """Under a limit, in a process of its own: what took the memory would die."""
    for name in ("model", "policy"):
        (tmp_path / name).mkdir()
        READERS[name].make(tmp_path / name)
        (path,) = (tmp_path / name).glob("*.safetensors")
        header = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        from tests.fuzz.readers import READERS, attempt
        from tests.fuzz.watch import limit_memory
        limit_memory(1 << 29)
        for name in ("model", "policy"):
            assert attempt(READERS[name], Path({str(tmp_path)!r}) / name), name
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


def test_states_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"x": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(InputError, match="larger than itself"):
        read_tensors(path)
    torch.save({"x": torch.zeros(10**6)}, path)
    assert read_tensors(path)["x"].shape == (10**6,)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in whole.infolist():
            archive.writestr(entry.filename, whole.read(entry))
    with pytest.raises(InputError, match="larger than it is"):
        read_tensors(packed)


def test_states_that_hold_themselves_are_read_once(tmp_path: Path) -> None:
    """In a circle, and a list of lists that would have 2^60 entries."""
    circle: dict[str, Any] = {"x": torch.zeros(2)}
    circle["itself"] = [circle]
    many: list[Any] = [torch.zeros(2)]
    for _ in range(60):
        many = [many, many]
    for content in (circle, {"many": many}):
        torch.save(content, tmp_path / STATE)
        with watched(tmp_path, seconds=10):
            assert read_tensors(tmp_path / STATE).keys() == content.keys()


def spots(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a state that holds something."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    found = [(tree, key) for key, _ in items]
    return found + [spot for _, value in items if isinstance(value, dict | list) for spot in spots(value)]


@lru_cache
def kept_by(kind: str) -> dict[str, bytes]:
    """The files of a training of that kind that was interrupted."""
    with TemporaryDirectory() as folder:
        STATEFUL[kind].make(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def attempt_changed(kind: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """What becomes of going on from such a state once it is changed."""
    for name, content in kept_by(kind).items():
        (folder / name).write_bytes(content)
    saved = torch.load(folder / STATE, weights_only=True)
    change(saved)
    torch.save(saved, folder / STATE)
    return attempt(STATEFUL[kind], folder)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", STATEFUL)
def test_states_of_another_training_end_in_no_traceback(kind: str, seed: int, tmp_path: Path) -> None:
    """Whole files, in which one value is of another kind, shape or range."""
    attempt_changed(kind, tmp_path, lambda saved: change_state(saved, random.Random(seed)))


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_state_that_nobody_changed_is_gone_on_from(kind: str, tmp_path: Path) -> None:
    """Also after one that was refused."""
    assert attempt_changed(kind, tmp_path, lambda saved: saved["state"].clear())
    assert attempt_changed(kind, tmp_path, lambda saved: None) == ""


def test_a_weight_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / STATE
    torch.save({"weights": torch.full((100,), 1.5)}, path)
    content = path.read_bytes()
    at = content.index(struct.pack("100f", *[1.5] * 100))
    path.write_bytes(content[: at + 40] + b"\1" + content[at + 41 :])
    with pytest.raises(InputError, match=r"damaged \(the checksum of .*does not fit\)"):
        read_tensors(path)


def moments(state: Any) -> list[dict[str, Any]]:
    """Those of every parameter of every optimizer."""
    return [given[key] for given, key in spots(state) if isinstance(given[key], dict) and "exp_avg" in given[key]]


@pytest.mark.parametrize(
    ("name", "value"), [("step", None), ("step", -1.0), ("exp_avg", None), ("exp_avg_sq", None), ("exp_avg_sq", 0.0)]
)
@pytest.mark.parametrize("kind", STATEFUL)
def test_moments_that_do_not_fit_are_refused(kind: str, name: str, value: float | None, tmp_path: Path) -> None:
    """Of the first parameter and of the last, which may be another optimizer's; what is too small would be overrun."""
    for place in (0, -1):

        def change(saved: dict[str, Any], place: int = place) -> None:
            theirs = moments(saved)[place]
            if value is None:
                theirs.pop(name)
            else:
                theirs[name] = torch.tensor(value)

        assert "does not fit this training" in attempt_changed(kind, tmp_path, change)


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", None), ("fused", False), ("differentiable", True), ("betas", (0.9, 0.9)), ("weight_decay", 0.5)],
)
@pytest.mark.parametrize("kind", STATEFUL)
def test_optimizers_of_other_options_are_refused(kind: str, option: str, value: Any, tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        kept = [where[key] for where, key in spots(saved) if key == ("base_lrs" if option == "lr" else "param_groups")]
        if option == "lr":
            kept[-1].pop()
        else:
            kept[-1][-1][option] = value

    assert "does not fit this training" in attempt_changed(kind, tmp_path, change)


def test_answers_of_another_kind_are_refused(tmp_path: Path) -> None:
    READERS["journal"].make(tmp_path)
    lines = (tmp_path / ENTRIES).read_text().splitlines()
    entry = json.loads(lines[1])
    assert entry["verb"] == "advance"
    answers: tuple[Any, ...] = (
        None,
        3,
        [],
        [entry["answer"]],
        {"standing": {"loss": 1.0, "score": 1.0}},
        {"report": {}},
        {"report": None},
        "x",
    )
    for answer in answers:
        told = [lines[0], json.dumps(entry | {"answer": answer}), *lines[2:]]
        (tmp_path / ENTRIES).write_text("\n".join(told) + "\n")
        training = readers._training()
        training.replay(ReplayLog(tmp_path, seconds=0))
        training.reset(3)
        with pytest.raises(InputError, match="cannot be read"):
            training.advance(Selection.of("logits"), 1)
        training.replay(None)


@pytest.mark.parametrize("last", [torch.tensor([0, 32]), torch.tensor([-1]), torch.zeros(2), torch.zeros(1, 1).long()])
def test_places_that_are_not_there_are_refused(last: torch.Tensor, tmp_path: Path) -> None:
    """Of a batch that an agent may ask about before the next step; there are 32 examples."""

    def change(saved: dict[str, Any]) -> None:
        saved["state"]["last"] = last

    assert "the order of the examples" in attempt_changed("journal", tmp_path, change)


@pytest.mark.parametrize("place", [ENTRIES, STATE])
def test_counts_of_another_cohort_are_refused(place: str, tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        if place == STATE:
            saved["state"]["counters"]["prices"].pop()
        else:
            lines = [json.loads(line) for line in (tmp_path / ENTRIES).read_text().splitlines()]
            lines[saved["entries"] - 1]["counters"]["prices"].pop()  # the last that counts
            (tmp_path / ENTRIES).write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert "for other students than these 2" in attempt_changed("cohort", tmp_path, change)


@pytest.mark.parametrize("taken", [-1, 5, 65536])
def test_steps_that_are_not_there_are_refused(taken: int, tmp_path: Path) -> None:
    """The training has four."""
    READERS["journal"].make(tmp_path)
    lines = (tmp_path / ENTRIES).read_text().splitlines()
    entry = json.loads(lines[2])
    told = [*lines[:2], json.dumps(entry | {"counters": entry["counters"] | {"steps_done": taken}}), *lines[3:]]
    (tmp_path / ENTRIES).write_text("\n".join(told) + "\n")
    assert f"it has taken {taken} of 4 steps" in attempt(READERS["journal"], tmp_path)


def test_alike() -> None:
    own: dict[str, Any] = {"steps": 3, "price": 0.0, "names": ["a"], "ledger": {"x": 1.0}}
    assert matches_schema({"steps": 9, "price": 2, "names": [], "ledger": {"x": -1.0}}, own)
    wrongs: list[Any] = [None, [], own | {"steps": 3.0}, own | {"steps": True}, own | {"price": "1"}]
    for wrong in (*wrongs, own | {"price": 10**400}, own | {"steps": 2**70}):
        assert not matches_schema(wrong, own)
    assert not matches_schema(own | {"names": [1]}, own)
    assert not matches_schema(own | {"more": 1}, own)
    pair, tensor = (0.9, 0.999), torch.zeros(2, 3)
    assert matches_schema([0.5, 1], pair)
    assert not any(matches_schema(wrong, pair) for wrong in ([], [0.9], [0.9, 0.9, 0.9], ["0.9", 0.9], None))
    assert matches_schema(tensor.double(), tensor)
    assert not any(
        matches_schema(wrong, tensor) for wrong in (tensor.T, tensor.long(), tensor[0], [[0.0] * 3] * 2, None)
    )
    assert not matches_schema({name: own[name] for name in ("steps", "price")}, own)


def test_damage_is_damage() -> None:
    """Most changes change something, and the same seed makes the same."""
    sample = json.dumps({"a": [1, 2, {"b": None}], "c": "text"}).encode()
    made = [mutated(sample, random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 120
    assert made == [mutated(sample, random.Random(seed)) for seed in range(200)]

    assert mutated(b"", random.Random(0))
