from __future__ import annotations

import json
from pathlib import Path

import pytest

from ackd.errors import InputError
from ackd.runs import RunFolder


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.path.exists()  # nothing is written before everything is checked
    folder.begin("distill", {"task": "sst2"})
    config = json.loads((folder.path / "config.json").read_text())
    assert config["command"] == "distill"
    assert config["settings"] == {"task": "sst2"}
    assert config["versions"]["torch"]
    with pytest.raises(InputError, match=r"already holds a run: choose another, or add --overwrite$"):
        RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"add --resume or --overwrite"):
        RunFolder(tmp_path / "run", resume=False)
    (folder.path / "old").touch()
    replaced = RunFolder(tmp_path / "run", overwrite=True)
    assert (folder.path / "old").exists()
    replaced.begin("distill", {})
    assert not (folder.path / "old").exists()


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
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


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
    assert not again.finished
    (again.path / "checkpoint").mkdir()
    again.begin("distill", settings | {"output": "there", "resume": True})
    assert (again.path / "checkpoint").is_dir()
    with pytest.raises(InputError, match=r"has seeds 3, and now it is 5"):
        again.begin("distill", settings | {"seeds": 5})
    again.begin("distill", settings | {"seeds": 5}, growing=["seeds"])
    with pytest.raises(InputError, match="is of ackd distill"):
        again.begin("train", settings)
    again.write_json("result.json", {})
    assert again.finished
    config = json.loads((again.path / "config.json").read_text())
    config["versions"]["torch"] = "1.0"
    again.write_json("config.json", config)
    again.begin("distill", settings, growing=["seeds"])
    assert "began with torch 1.0" in caplog.text
    (again.path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        again.begin("distill", settings)
    with pytest.raises(InputError, match="choose one"):
        RunFolder(tmp_path / "run", resume=True, overwrite=True)


def test_half_a_config_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ".config.json.x1").write_text("{")
    RunFolder(tmp_path).begin("distill", {})
    assert json.loads((tmp_path / "config.json").read_text())["command"] == "distill"
