"""Options in YAML: what is written is read again, by us and by others, and nothing else than options is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ackd.errors import InputError
from ackd.files.yaml_file import read_entries, yaml_text

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["1e3", "5e-5", "1:30", "0:0.05", "no", "null", "~", "", "010", "0x10", "1_000", ".inf", "2020-01-01"]
    ),
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
NAMES = st.from_regex(r"[a-z]+(_[a-z]+)*", fullmatch=True)


def content(path: Path) -> dict[str, Any]:
    return {one.key: one.value for one in read_entries(path)}


@given(settings=st.dictionaries(NAMES, st.one_of(PLAIN, st.lists(PLAIN))))
def test_what_is_written_is_read_again(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    path.write_bytes(yaml_text(settings).encode())
    for read in (content(path), yaml.safe_load(path.read_bytes()) or {}):  # ours, and YAML 1.1
        assert read == settings
        assert {name: type(value) for name, value in read.items()} == {n: type(value) for n, value in settings.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5), ("1e3", 1000.0), (".5", 0.5), ("3.", 3.0), ("-2", -2), ("+7", 7), ("true", True),
        ("~", None), ("", None), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("0:0.05", "0:0.05"), ("0x10", "0x10"),
        ("010", "010"), ("1_000", "1_000"), ("2020-01-01", "2020-01-01"), ("'5'", "5"), ("cuda:1", "cuda:1"),
        ("[1, two, 3.0]", [1, "two", 3.0]),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"key: {text}  # as the specification has it\n")
    read = content(tmp_path / "x.yaml")["key"]
    assert read == value
    assert type(read) is type(value)


def test_nothing_is_in_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# nothing\n")
    assert read_entries(tmp_path / "x.yaml") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: [1\n", "line 2 is no YAML"),
        ("lr: 1\n\tsteps: 2\n", "line 2 is no YAML"),
        ("- lr\n- 1\n", "has no keys"),
        ("lr\n", "has no keys"),
        ("lr: {value: 1}\n", "line 1: lr has values inside of values"),
        ("\nlr: [[1]]\n", "line 2: lr has values inside of values"),
        ("1: 2\n", "line 1: a key has to be the name of an option"),
        ("[lr]: 2\n", "line 1: a key has to be the name of an option"),
        ("lr: !!python/object/apply:os.system ['true']\n", "line 1: lr has values inside"),
        ("lr: !!python/name:os.system\n", "is no YAML"),
        ("a: 1\n---\nb: 2\n", "is no YAML"),
        ("a: *b\n", "is no YAML"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("[" * 500, "cannot be read"),
        ("a: \x00\n", "is no YAML"),
        ("a" * 2**20 + ": 1\n", "has more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_what_holds_no_options_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError) as told:
        read_entries(tmp_path / "x.yaml")
    assert words in str(told.value)
    assert str(told.value).startswith(str(tmp_path / "x.yaml"))
    assert "\n" not in str(told.value)


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"lr: \xff\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_entries(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="is a folder"):
        read_entries(tmp_path)
    for nothing in (tmp_path / "none.yaml", Path("/dev/zero")):
        with pytest.raises(InputError, match="there is no file"):
            read_entries(nothing)
