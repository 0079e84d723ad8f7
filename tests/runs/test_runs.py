from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from ackd.errors import InputError
from ackd.runs.folder import CONFIG, LOCK, REPEAT, RESULT, RunFolder


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.path.exists()  # nothing is written before everything is checked
    folder.begin("distill", {"task": "sst2"})
    config = json.loads((folder.path / "config.json").read_text())
    assert config["command"] == "distill"
    assert config["settings"] == {"task": "sst2"}
    assert config["versions"]["torch"]
    (folder.path / "touched").touch()  # others may read a run as they may read any file
    assert (folder.path / "config.json").stat().st_mode == (folder.path / "touched").stat().st_mode
    with pytest.raises(InputError, match=r"already holds a run: choose another, or add --overwrite$"):
        RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"add --resume or --overwrite"):
        RunFolder(tmp_path / "run", resume=False)
    (folder.path / "old").touch()
    path = folder.path
    del folder  # which keeps it as long as it lives
    replaced = RunFolder(tmp_path / "run", overwrite=True)
    assert (path / "old").exists()
    replaced.begin("distill", {})
    assert not (path / "old").exists()


def test_other_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InputError, match="holds other files"):
        RunFolder(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "photo.jpg")


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("train", {})

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.write_json("result.json", {"a": Unprintable()})
    assert {path.name for path in folder.path.iterdir()} == {LOCK, "config.json", "config.yaml"}


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("finetune", {})
    (folder.path / "model").mkdir()
    for name in (folder.path, folder.path / "model"):
        with pytest.raises(InputError, match="which is read"):
            RunFolder(folder.path, overwrite=True, inputs=("sst2", None, str(name)))
    RunFolder(folder.path, overwrite=True, inputs=(str(tmp_path), "labels"))


def test_a_run_is_resumed_with_the_same_settings_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"task": "sst2", "seeds": 3, "types": ("logits",), "output": "here", "resume": False}
    RunFolder(tmp_path / "run", resume=True).begin("distill", settings)  # nothing there yet: it begins
    again = RunFolder(tmp_path / "run", resume=True)
    assert again.resumed
    assert not again.finished("distill", settings)
    (again.path / "checkpoint").mkdir()
    again.begin("distill", settings | {"output": "there", "resume": True})
    assert (again.path / "checkpoint").is_dir()
    with pytest.raises(InputError, match=r"has seeds 3, and now it is 5"):
        again.begin("distill", settings | {"seeds": 5})
    again.begin("distill", settings | {"seeds": 5}, growing=["seeds"])
    with pytest.raises(InputError, match="is of ackd distill"):
        again.begin("train", settings)
    again.write_json("result.json", {})
    config = json.loads((again.path / "config.json").read_text())
    config["versions"]["torch"] = "1.0"
    again.write_json("config.json", config)
    again.begin("distill", settings, growing=["seeds"])
    assert "began with torch '1.0'" in caplog.text
    (again.path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        again.begin("distill", settings)
    with pytest.raises(InputError, match="choose one"):
        RunFolder(tmp_path / "run", resume=True, overwrite=True)


def test_a_finished_run_is_known_by_its_settings_and_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"task": "sst2", "seeds": 3, "output": "here", "resume": False}
    folder = RunFolder(tmp_path / "run", resume=True)
    folder.begin("distill", settings)
    folder.write_json(RESULT, {})
    assert not folder.finished("distill", settings)  # which is not resumed
    config = json.loads((folder.path / CONFIG).read_text())
    folder.write_json(CONFIG, config | {"versions": {"torch": "1.0"}})
    again = RunFolder(tmp_path / "run", resume=True)
    assert again.finished("distill", settings | {"output": "there", "resume": True})
    assert again.finished("distill", settings | {"seeds": 5}, growing=["seeds"])
    assert not caplog.text  # nothing goes on, whatever the versions are
    with pytest.raises(InputError, match=r"has seeds 3, and now it is 5"):
        again.finished("distill", settings | {"seeds": 5})
    with pytest.raises(InputError, match="is of ackd distill"):
        again.finished("train", settings)
    for content in (b"{", b"[]", b"", b"\xff", b"[" * 100_000):
        (folder.path / RESULT).write_bytes(content)
        with pytest.raises(InputError, match=r"result\.json is damaged \(.*\): start the run anew with --overwrite"):
            again.finished("distill", settings)


def test_half_a_config_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ".config.json.x1").write_text("{")
    RunFolder(tmp_path).begin("distill", {})
    assert json.loads((tmp_path / "config.json").read_text())["command"] == "distill"


@pytest.mark.parametrize("way", [{}, {"resume": True}, {"overwrite": True}])
def test_one_run_at_a_time(tmp_path: Path, way: dict[str, Any]) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run", **way)
    first.begin("distill", {"seed": 0})
    first.begin("distill", {"seed": 0})  # its own lock is not in its way
    third = RunFolder(tmp_path / "run", **way) if way else second
    for other in (second, third):
        with pytest.raises(InputError, match=rf"is under way, as process {os.getpid()} on .*: wait until it ends"):
            other.begin("distill", {"seed": 1})
    assert json.loads((tmp_path / "run" / CONFIG).read_text())["settings"] == {"seed": 0}
    first.write_json(RESULT, {})
    del first
    with pytest.raises(InputError, match=r"another run went to .* until just now"):
        second.begin("distill", {"seed": 0})


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        RunFolder(tmp_path / "run").begin("distill", {})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "run" / LOCK).is_file()
    RunFolder(tmp_path / "run", resume=True).begin("distill", {})


def test_a_lock_alone_is_no_run(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("1 on a machine that is no more")
    RunFolder(tmp_path).begin("distill", {})
    assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()} on ")


def test_what_is_replaced_goes_with_its_config_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin("distill", {})
    (folder.path / "student").mkdir()
    (folder.path / "elsewhere").symlink_to(tmp_path)
    del folder

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(tmp_path / "run", overwrite=True).begin("distill", {})
    monkeypatch.undo()
    RunFolder(tmp_path / "run", overwrite=True).begin("distill", {})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {CONFIG, REPEAT, LOCK}
    assert tmp_path.is_dir()


def test_a_file_system_without_locks_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    RunFolder(tmp_path / "run").begin("distill", {})
    assert "has no locks" in caplog.text
