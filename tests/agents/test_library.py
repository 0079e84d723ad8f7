"""The policy store: what goes out comes in again, and nothing that is damaged or misnamed ever does."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ackd.agents import SetNetwork, SetWeights, library, load, save
from ackd.agents.weights import PREFIX, pack, unpack
from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS, SCHEMA

SHIPPED = library.SHIPPED  # before any test puts another in its place
FILES = ("README.md", "policy.json", "policy.safetensors")


def saved(folder: Path, *, seed: int = 0, width: int = 8, kind: type[SetNetwork] = SetNetwork, **card: Any) -> Path:
    network = kind(len(GLOBALS), len(FEATURES), width)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    about: dict[str, Any] = {"algorithm": "a2c", "knowledge": ("logits", "hidden"), "k_max": 8, "name": "small"} | card
    save(folder, network, **about)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and nothing that comes with the package."""
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("ACKD_POLICIES", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert library.home() == tmp_path / "home"
    monkeypatch.delenv("ACKD_POLICIES")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert library.home() == tmp_path / "data" / "ackd" / "policies"
    monkeypatch.setenv("HOME", str(tmp_path))
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", nothing)
        assert library.home() == tmp_path / ".local" / "share" / "ackd" / "policies"

    def homeless(_: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(InputError, match="ACKD_POLICIES"):
        library.home()


def test_what_is_shipped_lies_in_the_package() -> None:
    assert Path(library.__file__).parent / "policies" == SHIPPED
    config = (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert "ackd.agents = policies/*/*" in config


def test_policies_are_found_by_name(tmp_path: Path, home: Path) -> None:
    assert library.entries() == []
    with pytest.raises(InputError, match=r"'small': the store is empty; `ackd policies import`"):
        library.find("small")
    saved(tmp_path / "shipped" / "default", name="default")
    library.import_(saved(tmp_path / "policy"))
    (home / ".hidden").mkdir()
    (home / "file").touch()
    assert [(entry.name, entry.shipped) for entry in library.entries()] == [("default", True), ("small", False)]
    assert library.entries()[1].card().algorithm == "a2c"
    assert library.find("default") == tmp_path / "shipped" / "default"
    assert library.find("small") == home / "small"
    for name in ("smal", "../home/small", "small/", ""):
        with pytest.raises(InputError, match=r"unknown policy .* \(known: default, small\)$"):
            library.find(name)


def test_a_name_with_two_policies_is_refused(tmp_path: Path, home: Path) -> None:
    saved(tmp_path / "shipped" / "small")
    with pytest.raises(InputError, match="ackd comes with a policy 'small': choose another --name"):
        library.import_(saved(tmp_path / "policy"), overwrite=True)
    shutil.copytree(tmp_path / "policy", home / "small")  # as a later version may ship it
    with pytest.raises(InputError, match="two policies 'small'"):
        library.find("small")


@given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 20),
    kind=st.sampled_from([SetNetwork, SetWeights]),
    notes=st.dictionaries(st.text(), st.text() | st.integers(-(10**18), 10**18) | st.floats(-1e6, 1e6)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_exported_and_imported_it_is_the_same(
    tmp_path: Path, home: Path, seed: int, width: int, kind: type[SetNetwork], notes: dict[str, Any]
) -> None:
    folder = saved(home / "small", seed=seed, width=width, kind=kind, metrics=notes, instances=[notes])
    before = contents(folder)
    library.export("small", tmp_path / "small.safetensors", overwrite=True)
    assert len((tmp_path / "small.safetensors").read_bytes()) % 4 == 0
    shutil.rmtree(folder)
    assert library.import_(tmp_path / "small.safetensors") == "small"
    assert contents(folder) == before
    assert sorted(path.name for path in home.iterdir()) == ["small"]
    assert library.import_(folder, "copy", overwrite=True) == "copy"
    card, copy = load(folder).card, load(home / "copy").card
    assert (copy.name, copy.metrics, copy.instances) == ("copy", card.metrics, card.instances)
    assert (home / "copy" / "policy.safetensors").read_bytes() == before["policy.safetensors"]
    shutil.rmtree(home / "copy")


def test_an_exported_file_is_safetensors_with_the_json_in_it(tmp_path: Path, home: Path) -> None:
    folder = saved(home / "small")
    file = tmp_path / "other.safetensors"
    library.export("small", file)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"ackd.policy": (folder / "policy.json").read_text()}
    tensors, original = safetensors.torch.load_file(file), safetensors.torch.load_file(folder / "policy.safetensors")
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensors[name], original[name]) for name in original)
    assert (PREFIX + int.from_bytes(file.read_bytes()[:PREFIX], "little")) % 8 == 0


@given(card=st.text(st.characters(codec="utf-8")), length=st.integers(0, 7))
def test_packing_loses_nothing(card: str, length: int) -> None:
    weights = safetensors.torch.save({"a" * (length + 1): torch.zeros(3)})
    packed = pack(card.encode(), weights)
    assert unpack(packed, "it") == (card.encode(), weights)
    assert safetensors.torch.load(packed).keys() == {"a" * (length + 1)}


def test_export_refuses(tmp_path: Path, home: Path) -> None:
    saved(home / "small")
    file = tmp_path / "small.safetensors"
    library.export("small", file)
    with pytest.raises(InputError, match=r"small\.safetensors is there already: .* add --overwrite"):
        library.export("small", file)
    library.export("small", file, overwrite=True)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InputError, match=r"is there already: choose another name$"):
        library.export("small", tmp_path / "folder.safetensors", overwrite=True)
    with pytest.raises(InputError, match=r"end in \.safetensors"):
        library.export("small", tmp_path / "small.zip")
    with pytest.raises(InputError, match=r"nowhere cannot be written \(No such file or directory\)"):
        library.export("small", tmp_path / "nowhere" / "small.safetensors")
    with pytest.raises(InputError, match="did you mean 'small'"):
        library.export("smal", tmp_path / "new.safetensors")
    (home / "small" / "policy.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="cut short"):
        library.export("small", tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_or_a_run_is_imported(tmp_path: Path, home: Path) -> None:
    saved(tmp_path / "run" / "policy")
    (tmp_path / "run" / "policy" / "README.md").write_text("edited")
    (tmp_path / "run" / "policy" / "more").write_text("stays behind")
    assert library.import_(tmp_path / "run", "mine") == "mine"
    assert sorted(contents(home / "mine")) == list(FILES)
    assert (home / "mine" / "README.md").read_text().startswith("---\nlibrary_name: ackd\n")
    assert json.loads((home / "mine" / "policy.json").read_text())["name"] == "mine"


def test_import_replaces_only_what_it_is_told_to(tmp_path: Path, home: Path) -> None:
    first, second = saved(tmp_path / "first"), saved(tmp_path / "second", seed=1)
    library.import_(first)
    with pytest.raises(InputError, match=r"you have a policy 'small' already, .* add --overwrite"):
        library.import_(second)
    assert contents(home / "small") == contents(first)
    library.import_(second, overwrite=True)
    assert contents(home / "small") == contents(second)
    (home / "small" / "notes.txt").touch()
    with pytest.raises(InputError, match="not only a policy, so it is not replaced"):
        library.import_(first, overwrite=True)
    (home / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not only a policy"):
        library.import_(first, "link", overwrite=True)
    assert sorted(path.name for path in home.iterdir()) == ["link", "small"]


@pytest.mark.parametrize("moment", [1, 2])
def test_an_interrupted_import_leaves_the_old_policy(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    first, second = saved(tmp_path / "first"), saved(tmp_path / "second", seed=1)
    library.import_(first)
    calls, rename = [], Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        library.import_(second, overwrite=True)
    assert contents(home / "small") == contents(first)
    assert [path.name for path in home.iterdir()] == ["small"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\\b", ".a", "-a", "A", "a" * 65, "a\n", "é", "a b", "a+b"]
)
def test_names_that_are_none_are_refused(tmp_path: Path, home: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a policy's name") as caught:
        library.import_(saved(tmp_path / "policy"), name, overwrite=True)
    assert str(caught.value).isprintable()
    assert not home.exists()


@pytest.mark.parametrize("name", ["all", "random-held", "logits", "hidden-cls"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is a rule or a knowledge type"):
        library.import_(saved(tmp_path / "policy"), name)


def test_what_is_no_policy_is_not_imported(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "x.safetensors"
    good = safetensors.torch.save({"a": torch.zeros(2)})
    other = safetensors.torch.save({"a": torch.zeros(2)}, {"ackd.policy": "{}", "more": "x"})
    surrogate = b'{"__metadata__":{"ackd.policy":"\\ud800"},"a":{}}'
    cases = {
        "holds no policy": [good, other, safetensors.torch.save({}, {"format": "pt"}),
                            len(surrogate).to_bytes(8, "little") + surrogate],
        "is a pickle": [pickle.dumps([1])],
        "is a zip": [b"PK\x03\x04"],
        "not a safetensors file": [b"", b"{}", (1 << 40).to_bytes(8, "little") + b"{}"],
        "lacks": [safetensors.torch.save({"a": torch.zeros(2)}, {"ackd.policy": "{}"})],
    }  # fmt: skip
    for message, contents_ in cases.items():
        for data in contents_:
            file.write_bytes(data)
            with pytest.raises(InputError, match=message) as caught:
                library.import_(file)
            assert str(file) in str(caught.value)
    with file.open("r+b") as opened:
        opened.truncate(1 << 40)
    with pytest.raises(InputError, match="has more than"):
        library.import_(file)
    with pytest.raises(InputError, match="nowhere is not there"):
        library.import_(tmp_path / "nowhere")
    assert not home.exists()


def test_an_import_is_checked_as_loading_is(tmp_path: Path, home: Path) -> None:
    folder = saved(tmp_path / "policy")
    text, weights = (folder / "policy.json").read_bytes(), (folder / "policy.safetensors").read_bytes()
    file = tmp_path / "x.safetensors"
    for change, message in (
        ({"schema": SCHEMA + 1}, rf"x\.safetensors .*schema is {SCHEMA + 1}"),
        ({"sizes": {"width": 1 << 30}}, "it must be between 1 and 1024"),
        ({"sizes": {"width": 9}}, "does not fit"),
        ({"sha256": "0" * 64}, "damaged or cut short"),
        ({"name": ".."}, r'name is "\.\."'),
        ({"name": "all"}, "choose a --name"),
        ({"metrics": {"x": "y" * 300_000}}, "no policy has more than"),
    ):
        file.write_bytes(pack(json.dumps(json.loads(text) | change).encode(), weights))
        with pytest.raises(InputError, match=message):
            library.import_(file)
    file.write_bytes(pack(text, weights)[:-4])
    with pytest.raises(InputError, match="damaged or cut short"):
        library.import_(file)
    assert not home.exists()


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_damaged_export_is_refused_or_the_same_policy(tmp_path: Path, home: Path, data: st.DataObject) -> None:
    """Flipped or missing bytes: an `InputError`, or weights that the hash vouches for."""
    if not (tmp_path / "policy").exists():
        saved(tmp_path / "policy")
    good = pack(*((tmp_path / "policy" / name).read_bytes() for name in FILES[1:]))
    limit = data.draw(st.sampled_from([2000, len(good)])) - 1
    content, place = bytearray(good), data.draw(st.integers(0, limit))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "x.safetensors").write_bytes(bytes(content))
    try:
        library.import_(tmp_path / "x.safetensors", "mine", overwrite=True)
    except InputError:
        return
    name = "policy.safetensors"
    assert (home / "mine" / name).read_bytes() == (tmp_path / "policy" / name).read_bytes()


def test_a_store_that_cannot_be_used_is_one_sentence(tmp_path: Path, home: Path) -> None:
    folder = saved(tmp_path / "policy")
    home.write_text("a file")
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        library.entries()
    with pytest.raises(InputError, match=r"home cannot be written"):
        library.import_(folder)
