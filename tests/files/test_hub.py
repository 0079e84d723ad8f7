"""Policies of the hub, read through `huggingface_hub` from a stand-in: what is named, downloaded, kept and refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ackd.agents import SetNetwork, save
from ackd.agents.library import SHIPPED
from ackd.agents.store import CARD, FILES, WEIGHTS
from ackd.agents.weights import MAX_WEIGHTS
from ackd.errors import InputError
from ackd.files.hub import Repo, pinned, repo_of
from ackd.mdp.observations import FEATURES, GLOBALS
from tests.hub import Client, StandIn, client_of, serving

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("hf:me/policy", Repo("me/policy")),
        ("me/policy", Repo("me/policy")),
        ("hf:me/policy@main", Repo("me/policy")),
        ("hf:me/pol.icy-1@v1.0", Repo("me/pol.icy-1", "v1.0")),
        ("hf:me/policy@refs/pr/1", Repo("me/policy", "refs/pr/1")),
        (f"hf:me/policy@{COMMIT}", Repo("me/policy", COMMIT)),
    ],
)
def test_a_repository_is_named(name: str, repo: Repo) -> None:
    assert repo_of(name) == repo
    assert repo_of(str(repo)) == repo
    assert repo.pinned == name.endswith(COMMIT)


@pytest.mark.parametrize(
    "name",
    [
        *("hf:", "hf:policy", "hf:me/policy/policy", "hf:me/../x", "hf:../x", "hf:me/po licy", "hf:me/policy@"),
        *("hf:/policy", "hf:me/policy@../x", "hf:me/policy@/x", "hf:me/policy@a b", "hf:me/policy.git"),
        *("hf:me/\x1b[2J", "hf:https://x/y"),
    ],
)
def test_what_names_no_repository_is_told(name: str) -> None:
    with pytest.raises(InputError, match=r"names no repository of the hub: write USER/REPO, or USER/REPO@REVISION"):
        repo_of(name)


def test_a_commit_is_what_was_recorded() -> None:
    for text in (
        "all",
        "runs/hf:x",
        "./hf:me/policy",
        "preset:kd",
        "all,labels:0.25",
        "hidden+attention",
        f"hf:a/b@{OTHER}",
    ):
        assert pinned(text, FILES, "policy", [f"hf:me/policy@{COMMIT}"]) == text
    recorded = [None, "all", f"replay:hf:me/policy@{COMMIT}", f"agent=hf:me/policy@{OTHER}:refine"]
    for text, commit in {
        "hf:me/policy": COMMIT,  # the first
        "replay:hf:me/policy": COMMIT,
        "agent=hf:me/policy:refine": OTHER,  # under the same name
        "agent=hf:me/policy@main:refine": OTHER,
    }.items():
        whole = text.replace("@main", "").replace("me/policy", f"me/policy@{commit}")
        assert pinned(text, FILES, "policy", recorded) == whole
        assert pinned(whole, FILES, "policy", recorded) == whole


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(server: StandIn, home: Path) -> Iterator[Client]:
    with client_of(server, home, ACKD_POLICIES=str(home / "policies")) as made:
        yield made


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The two files of one."""
    folder = tmp_path_factory.mktemp("policies") / "small"
    network = SetNetwork(len(GLOBALS), len(FEATURES), 4)
    save(folder, network, name="small", algorithm="a2c", knowledge=("logits", "hidden"), k_max=4)
    return {name: (folder / name).read_bytes() for name in (CARD, WEIGHTS)}


def downloads(server: StandIn) -> list[str]:
    return [path.split("/")[-1] for method, path in server.asked if method == "GET" and "/resolve/" in path]


def test_only_what_a_policy_consists_of_is_downloaded_and_only_once(
    server: StandIn, client: Client, policy: dict[str, bytes], home: Path
) -> None:
    other = {"README.md": b"x" * 100, "pytorch_model.bin": b"\x80\x04.", "policy/policy.json": b"{}", "run.py": b"1/0"}
    commit = server.make("me/small", {**policy, **other}).branches["main"]
    server.asked.clear()
    code, out, err = client.ackd("policies", "import", "hf:me/small", "--name", "mine")
    assert (code, err) == (0, "")
    assert out == f"from:    hf:me/small@{commit}\npolicy:  {home / 'policies' / 'mine'}\nuse it:  --policy mine\n"
    assert sorted(downloads(server)) == [CARD, WEIGHTS]
    taken = home / "policies" / "mine"
    assert (taken / WEIGHTS).read_bytes() == policy[WEIGHTS]
    assert json.loads((taken / CARD).read_bytes()) == json.loads(policy[CARD]) | {"name": "mine"}
    server.asked.clear()
    shown = client.ackd("policies", "show", f"hf:me/small@{commit}")
    assert shown[0] == 0
    assert shown[1].startswith("---")
    assert server.asked == []  # of a commit, everything is there
    assert client.ackd("policies", "show", "hf:me/small") == shown
    assert downloads(server) == []


def test_a_revision_is_a_branch_or_a_commit(server: StandIn, client: Client, policy: dict[str, bytes]) -> None:
    made = server.make("me/grown", policy)
    first = made.branches["main"]
    made.branches["v1"] = first
    later = json.dumps(json.loads(policy[CARD]) | {"name": "later"}).encode()
    made.add({CARD: later})
    for revision, name in (("", "later"), ("@v1", "small"), ("@main", "later"), (f"@{first}", "small")):
        code, out, _ = client.ackd("policies", "show", f"hf:me/grown{revision}")
        assert code == 0
        assert f"\n# {name}\n" in out


class Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("opened", "w")


def lying(header: dict[str, Any] | None = None, length: int | None = None) -> bytes:
    """A safetensors file whose header says something else than what follows."""
    text = json.dumps(header or {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("files", "about", "words"),
    [
        ({WEIGHTS: pickle.dumps(Danger())}, {}, "is a pickle, which can hold programs"),
        ({WEIGHTS: b"PK\x03\x04" + b"\0" * 60}, {}, "is a zip archive, which can hold programs"),
        ({CARD: pickle.dumps(Danger())}, {}, "is no policy that this version of ackd can use (it is not JSON"),
        ({WEIGHTS: lying()}, {}, "does not fit policy.json"),
        ({WEIGHTS: lying(length=1 << 62)}, {}, "is not a safetensors file, or is cut short"),
        ({WEIGHTS: b""}, {}, "is not a safetensors file, or is cut short"),
        ({}, {"sizes": {WEIGHTS: 10**12}}, f"has 1000000000000 bytes, and at most {MAX_WEIGHTS} are allowed"),
        ({}, {"sizes": {CARD: None}}, "its policy.json has null bytes"),
        ({}, {"sizes": {CARD: -1}}, "its policy.json has -1 bytes"),
        ({}, {"sizes": {CARD: "12"}}, 'its policy.json has "12" bytes'),
        ({}, {"gated": True}, "is gated: ask for access at http://127.0.0.1:"),
        ({}, {"told": "../../../x"}, "returned no valid commit for hf:me/hostile: check HF_ENDPOINT"),
        ({}, {"told": OTHER}, "me/hostile has no revision 'main' on"),
        ({}, {"told": 3}, "gave an invalid response about me/hostile"),
    ],
)
def test_a_repository_that_is_hostile_is_refused(
    server: StandIn,
    client: Client,
    policy: dict[str, bytes],
    files: dict[str, bytes],
    about: dict[str, Any],
    words: str,
) -> None:
    name = "me/hostile"
    server.make(name, {**policy, **files}, **about)
    server.asked.clear()
    code, out, err = client.ackd("policies", "show", f"hf:{name}")
    assert (code, out) == (2, "")
    assert err.startswith("ackd: ")
    assert err.count("\n") == 1
    assert words in err
    assert client.call(Path.exists, Path("opened")) is False
    if about and "told" not in about:
        assert downloads(server) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": b"{}", "model.safetensors": b""}, 'since policy.json is missing (it has "config.json, model.'),
        ({"../policy.json": b"{}", "a/../policy.json": b"{}"}, "since policy.json is missing"),
        ({CARD: b"{}"}, "since policy.safetensors is missing"),
        ({}, "since policy.json is missing (it is empty)"),
    ],
)
def test_what_holds_no_policy_is_told(server: StandIn, client: Client, files: dict[str, bytes], words: str) -> None:
    name = "me/nothing"
    server.make(name, files)
    code, out, err = client.ackd("policies", "show", f"hf:{name}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert downloads(server).count("..") == 0


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("GET /api/models/me/broken", 500, "cannot be reached for me/broken (status 500)"),
        ("GET /api/models/me/broken", 0, "cannot be reached for me/broken (Exceeded maximum allowed redirects"),
        ("HEAD /me/broken", 0, "cannot be reached for me/broken (Exceeded 20 redirects while resolving"),
        ("GET /me/broken/resolve", 500, "cannot be reached for me/broken (status 500)"),
        ("GET /me/broken/resolve", 404, "refuses hf:me/broken ("),
        ("GET /api/models/me/broken", 200, "gave an invalid response about me/broken"),
        ("GET /api/models/me/broken", 401, "there is no hf:me/broken on http://127.0.0.1:"),
        ("GET /api/models/me/broken", 403, "does not allow you to read hf:me/broken"),
    ],
)
def test_a_hub_that_answers_nonsense_is_told(
    server: StandIn, client: Client, policy: dict[str, bytes], fault: str, status: int, words: str
) -> None:
    server.make("me/broken", policy)
    server.faults[fault] = status
    try:
        code, out, err = client.ackd("policies", "show", "hf:me/broken")
    finally:
        server.faults.clear()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_what_is_not_there_is_told(server: StandIn, client: Client, policy: dict[str, bytes]) -> None:
    server.make("me/hidden", policy, private=True)
    server.make("me/seen", policy)
    for name, words in {
        "hf:me/none": "there is no hf:me/none on http://127.0.0.1:",
        "hf:me/seen@v9": "me/seen has no revision 'v9' on http://127.0.0.1:",
        "hf:seen": '"hf:seen" names no repository of the hub',
    }.items():
        code, out, err = client.ackd("policies", "show", name)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err
    assert client.ackd("policies", "show", "hf:me/hidden")[0] == 0
    server.make("me/hidden-too", policy, private=True)
    code, _, err = client.ackd("policies", "show", "hf:me/hidden-too", HF_TOKEN="")
    assert code == 2
    assert "there is no hf:me/hidden-too on http://127.0.0.1:" in err


def test_without_a_hub_its_cache_is_read(server: StandIn, client: Client, home: Path, policy: dict[str, bytes]) -> None:
    commit = server.make("me/kept", policy).branches["main"]
    shown = client.ackd("policies", "show", "hf:me/kept")
    assert shown[0] == 0
    nobody = "http://127.0.0.1:9"
    assert client.ackd("policies", "show", f"hf:me/kept@{commit}", HF_ENDPOINT=nobody) == shown
    code, out, err = client.ackd("policies", "show", "hf:me/kept", HF_ENDPOINT=nobody)
    assert (code, out) == shown[:2]
    assert err.startswith(f"{nobody} cannot be reached for me/kept (")
    assert err.endswith(f"): using the cached commit of hf:me/kept, {commit}\n")
    code, _, err = client.ackd("policies", "show", "hf:me/other", HF_ENDPOINT=nobody)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{nobody} cannot be reached for me/other (" in err
    with client_of(server, home, HF_HUB_OFFLINE="1") as offline:
        server.asked.clear()
        for name in (f"hf:me/kept@{commit}", "hf:me/kept"):
            assert offline.ackd("policies", "show", name) == shown
        keeps = "ackd: HF_HUB_OFFLINE is set"
        for arguments, then in (
            (("policies", "show", "hf:me/other"), ", and hf:me/other is not in the cache: unset it to download"),
            (("push", "default", "me/other"), ": unset it to upload"),
        ):
            assert offline.ackd(*arguments) == (2, "", f"{keeps}{then}\n")
        assert server.asked == []


def test_what_goes_out_comes_in(server: StandIn, client: Client, home: Path) -> None:
    for _ in range(2):  # it may be there already
        code, out, err = client.ackd("push", "default", "me/default", "--revision", "v1")
        assert (code, err) == (0, "")
        assert out == f"url:     {server.endpoint}/me/default\nuse it:  --policy hf:me/default@v1\n"
    assert set(server.repositories["me/default"].files) == {".gitattributes"}
    assert client.ackd("policies", "import", "hf:me/default@v1", "--name", "again")[0] == 0
    assert (home / "policies" / "again" / WEIGHTS).read_bytes() == (SHIPPED / "default" / WEIGHTS).read_bytes()
