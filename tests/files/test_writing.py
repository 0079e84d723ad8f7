"""Folders that are there as a whole or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ackd.files.writing import whole_folder


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_a_folder_is_there_once_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "c"
    with whole_folder(place) as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a", "a/b", "a/b/c", "a/b/c/file"]


def end_half_way(path: Path, error: type[BaseException]) -> None:
    with whole_folder(path) as folder:
        (folder / "new").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    (place / "old").write_text("old")
    for path in (place, tmp_path / "b" / "c"):
        with pytest.raises(error):
            end_half_way(path, error)
    assert names(tmp_path) == ["a", "a/old"]


def test_a_whole_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    (place / "old").write_text("old")
    with whole_folder(place) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["a", "a/new"]


def test_what_a_killed_process_left_goes_with_the_next_one_and_what_is_being_written_stays(tmp_path: Path) -> None:
    place = tmp_path / "a"
    child = os.fork()
    if not child:
        with whole_folder(place) as folder:
            (folder / "file").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert names(tmp_path) == [f".a.{child}", f".a.{child}/file"]
    ready, told = os.pipe()
    other = os.fork()
    if not other:
        with whole_folder(place) as folder:
            os.write(told, b"1")
            signal.pause()
    assert os.read(ready, 1) == b"1"
    with whole_folder(place) as folder:
        (folder / "file").write_text("whole")
    assert names(tmp_path) == [f".a.{other}", "a", "a/file"]
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
