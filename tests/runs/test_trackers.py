"""Trackers elsewhere: what accelerate's adapters call, recorded, and what the real packages keep, where installed."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ackd.errors import InputError
from ackd.runs import trackers
from ackd.runs.curves import Curves, Plain
from ackd.runs.trackers import ELSEWHERE, check_trackers, opened

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
OPTIONS: dict[str, Plain] = {"lr": 1e-3, "policy": "all", "compile": False}


class Fake(ModuleType):
    """A package that writes down which of its functions are called with what; a dotted name is an object's method."""

    def __init__(self, name: str, fails: Sequence[str] = ()) -> None:
        super().__init__(name)
        self.calls: list[Call] = []
        self.fails = fails

    def function(self, name: str, answer: Any = None) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, given, named))
            if name in self.fails:
                raise RuntimeError(f"{name} is not reached\nsecond line")
            return answer

        return call

    def put(self, **members: Any) -> None:
        self.__dict__.update(members)


def fake(kind: str, fails: Sequence[str] = ()) -> Fake:
    package = Fake(kind, fails)
    methods = {name: package.function(f"run.{name}") for name in ("log", "finish", "define_metric")}
    run = SimpleNamespace(**methods)
    if kind == "mlflow":
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
        package.put(utils=SimpleNamespace(validation=limits))
        package.put(search_experiments=package.function("search_experiments", []), start_run=package.function("init"))
        names = ("create_experiment", "log_params", "log_metrics", "end_run")
        package.put(**{name: package.function(name) for name in names})
    else:
        package.put(init=package.function("init", run), config=SimpleNamespace(update=package.function("config")))
    return package


@pytest.fixture(autouse=True)
def begun_by_nobody() -> None:
    """Other tests of this process may have run a trainer of transformers, which leaves its state."""
    PartialState._reset_state()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    """Puts a fake in the place of a package."""

    def install(kind: str, fails: Sequence[str] = ()) -> Fake:
        package = fake(kind, fails)
        monkeypatch.setitem(sys.modules, kind, package)
        monkeypatch.setattr(trackers, "find_spec", lambda name: name)
        for name in ("WANDB_PROJECT", "TRACKIO_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "MLFLOW_TAGS"):
            monkeypatch.delenv(name, raising=False)
        return package

    return install


def draw(curves: Curves) -> None:
    """Two axes that take turns, a number that is 0 at first, one that always is, and a result."""
    for phase in (1, 2, 3, 4):
        weights = {"phase/weight/logits": float(phase > 2), "phase/weight/hidden": 0.0}
        curves.write("phase", phase, {"phase/loss/labels": 1 / phase, **weights})
        if phase % 2 == 0:
            curves.write("episode", phase // 2 - 1, {"episode/return": phase / 4})
    curves.result({"dev_score": 81.5})


DRAWN = {
    "phase/loss/labels": [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)],
    "phase/weight/logits": [(1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)],
    "episode/return": [(0, 0.5), (1, 1.0)],
    "result/dev_score": [(0, 81.5)],
}


def by_tag(points: Sequence[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, values in points:
        for tag, value in values.items():
            found.setdefault(tag, []).append((step, value))
    return {tag: sorted(those) for tag, those in found.items()}


def sequenced(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Rows of wandb, whose axis is a number among them."""
    points = []
    for row in rows:
        values = {tag: value for tag, value in row.items() if "/" in tag and not tag.startswith("_")}
        points.append((next((int(row[axis]) for axis in ("phase", "episode", "decision") if axis in row), 0), values))
    return by_tag(points)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_every_tracker_gets_the_same_names_and_steps(installed: Callable[..., Fake], tmp_path: Path, kind: str) -> None:
    package = installed(kind)
    with opened((kind, "tensorboard"), tmp_path / "tensorboard", "run/sst2/all", OPTIONS) as curves:
        draw(curves)
    calls = package.calls
    (begun,) = [named for name, _, named in calls if name == "init"]
    assert begun.get("name", begun.get("run_name")) == "run/sst2/all"
    made = [named for name, _, named in calls if name == "create_experiment"]
    assert (made[0]["name"] if made else begun["project"]) == "ackd"
    (asked,) = [given[0] for name, given, _ in calls if name in ("config", "log_params")]
    assert asked == OPTIONS
    logged: list[tuple[dict[str, float], Any]] = [
        (given[0], named.get("step")) for name, given, named in calls if name in ("run.log", "log_metrics")
    ]
    if kind == "wandb":
        assert {step for _, step in logged} == {None}
        assert sequenced([values for values, _ in logged]) == DRAWN
        axes = {given[0]: named["step_metric"] for name, given, named in calls if name == "run.define_metric"}
        assert axes == {tag: tag.split("/")[0] for tag in DRAWN if not tag.startswith("result/")}
    else:
        assert by_tag([(step, values) for values, step in logged]) == DRAWN
    assert calls[-1][0] == ("end_run" if kind == "mlflow" else "run.finish")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: sorted((e.step, e.value) for e in events.Scalars(tag)) for tag in events.Tags()["scalars"]}
    assert found.keys() == DRAWN.keys()
    for tag, points in DRAWN.items():
        assert found[tag] == [(step, pytest.approx(value)) for step, value in points]
    assert not PartialState._shared_state  # what others in this process set up for accelerate is theirs


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_tracker_that_cannot_begin_is_one_sentence(installed: Callable[..., Fake], tmp_path: Path, kind: str) -> None:
    installed(kind, ["init"])
    with (
        pytest.raises(InputError, match=rf"^{kind} could not begin \(init is not reached\): set it up, or leave it"),
        opened(("tensorboard", kind), tmp_path / "tensorboard", "run", OPTIONS),
    ):
        pass
    assert not PartialState._shared_state


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_tracker_that_fails_later_is_left_and_the_run_goes_on(
    installed: Callable[..., Fake], tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = "log_metrics" if kind == "mlflow" else "run.log"
    package = installed(kind, [log])
    with opened((kind, "tensorboard"), tmp_path / "tensorboard", "run", OPTIONS) as curves:
        draw(curves)
    assert [name for name, _, _ in package.calls].count(log) == 1
    assert caplog.messages == [f"{kind} failed ({log} is not reached): the run goes on without it"]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("phase/loss/labels")) == 4


def test_projects_can_be_named(installed: Callable[..., Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, variable in (("wandb", "WANDB_PROJECT"), ("trackio", "TRACKIO_PROJECT")):
        package = installed(kind)
        monkeypatch.setenv(variable, "mine")
        with opened((kind,), tmp_path, "run", {}):
            pass
        assert package.calls[0][2]["project"] == "mine"
    assert not list(tmp_path.iterdir())


def test_launchers_do_not_matter(
    installed: Callable[..., Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed("trackio")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)  # accelerate would wait for the other process
    with opened(("trackio",), tmp_path, "run", OPTIONS) as curves:
        draw(curves)
    assert {name for name, *_ in package.calls} >= {"init", "run.log", "run.finish"}


def test_names_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert check_trackers(["tensorboard", "tensorboard"]) == ("tensorboard",)
    assert check_trackers(["none"]) == check_trackers([]) == ()
    for names, words in {
        ("tensorbord",): r"unknown tracker 'tensorbord': did you mean 'tensorboard'\?",
        ("none", "wandb"): "--report-to is none wandb: name trackers, or none",
        ("wandb",): "--report-to wandb needs the package wandb, which is not installed: pip install wandb",
        ("tensorboard", "mlflow"): "pip install mlflow",
    }.items():
        with pytest.raises(InputError, match=words):
            check_trackers(names)


def wandb_rows(place: Path) -> dict[str, list[tuple[int, float]]]:
    """What an offline run of wandb keeps: records in the format of LevelDB's log, behind a header of 7 bytes."""
    record_of = import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    (path,) = place.rglob("*.wandb")
    data, at, whole, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that holds no head
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            record, whole = record_of(whole), b""
            if record.WhichOneof("record_type") == "history":
                rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item})
    return sequenced(rows)


def mlflow_rows(place: Path) -> dict[str, list[tuple[int, float]]]:
    with sqlite3.connect(place / "mlflow.db") as database:
        found = database.execute("select key, step, value from metrics").fetchall()
    database.close()
    return by_tag([(step, {tag: value}) for tag, step, value in found])


def trackio_rows(place: Path) -> dict[str, list[tuple[int, float]]]:
    (path,) = place.rglob("ackd.db")
    with sqlite3.connect(path) as database:
        found = database.execute("select step, metrics from metrics").fetchall()
    database.close()
    return by_tag([(step, json.loads(values)) for step, values in found])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages themselves
@pytest.mark.parametrize(
    ("kind", "rows"), [("wandb", wandb_rows), ("mlflow", mlflow_rows), ("trackio", trackio_rows)], ids=ELSEWHERE
)
def test_the_real_ones_keep_them_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rows: Callable[[Path], Any]
) -> None:
    if find_spec(kind) is None:
        pytest.skip(f"needs the package {kind}, which is not installed: pip install {kind}")
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with opened((kind,), tmp_path / "tensorboard", "run", OPTIONS) as curves:
        draw(curves)
    end = time.monotonic() + 30
    while rows(tmp_path) != DRAWN and time.monotonic() < end:  # a service of its own may still be writing
        time.sleep(0.2)
    assert rows(tmp_path) == DRAWN
