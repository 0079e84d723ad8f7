"""A stand-in of the Hugging Face hub: as much of its HTTP interface as `huggingface_hub` uses to upload and to read."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

OWNER, TOKEN, STRANGER = "me", "hf_me", "hf_stranger"  # who may write below me/, and tokens of the two
MANY = 1000  # bytes from which a file is stored apart, where files are


@dataclass
class Repository:
    """What the hub knows of one.

    Args:
        commits: files by their paths, for each commit.
        branches: the commit of each.
        private: only its owner sees it.
        gated: nobody reads its files, though all see their names.
        sizes: what it says of the sizes of files, where it lies.
        told: the commit that it says it has, where it lies.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    sizes: dict[str, Any] = field(default_factory=dict)
    told: Any = ""

    def add(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A commit with these files besides those that are there."""
        before = self.branches.get(branch, "")
        whole = {**self.commits.get(before, {}), **files}
        told = json.dumps([before, *sorted((name, hashlib.sha1(data).hexdigest()) for name, data in whole.items())])
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = whole, commit
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        """What its main branch has."""
        return self.commits[self.branches["main"]]


class StandIn(ThreadingHTTPServer):
    """The server, on a port of its own.

    Args:
        lfs: whether files of `MANY` bytes and more are uploaded and stored apart, as git-lfs does.
    """

    daemon_threads = True

    def __init__(self, *, lfs: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lfs = lfs
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []  # method and path
        self.faults: dict[str, int] = {}  # by a pattern for "METHOD path": a status, or 0 for an endless redirect

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def make(self, name: str, files: Mapping[str, bytes], **about: Any) -> Repository:
        """A repository with one commit."""
        made = self.repositories[name] = Repository(**about)
        made.add(files)
        return made

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked may have gone."""


@contextmanager
def serving(*, lfs: bool = False) -> Iterator[StandIn]:
    """A stand-in while this lasts."""
    server = StandIn(lfs=lfs)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):  # noqa: N818
    def __init__(self, status: int, code: str = "", message: str = "no") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        self.server.asked.append((self.command, path))
        for pattern, status in self.server.faults.items():
            if re.search(pattern, f"{self.command} {path}"):
                self._answer(status or 307, b"", {} if status else {"Location": self.path})
                return
        try:
            for method, route, answer in ROUTES:
                if method == self.command and (found := re.fullmatch(route, path)) is not None:
                    answer(self, **found.groupdict())
                    return
            raise _Refused(404)
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._answer(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _who(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return {TOKEN: OWNER, STRANGER: "stranger"}.get(token, "")

    def _repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and self._who() != name.split("/")[0]):
            raise _Refused(404 if self._who() else 401, "RepoNotFound", "Repository not found")
        return found

    def _written(self, name: str) -> Repository:
        found = self._repository(name)
        if not self._who():
            raise _Refused(401, message="Invalid credentials in Authorization header")
        if self._who() != name.split("/")[0]:
            raise _Refused(403, message="you have no rights")
        return found

    @staticmethod
    def _commit_of(found: Repository, revision: str) -> str:
        commit = found.branches.get(revision, revision)
        if commit not in found.commits and not (revision == "main" and not found.commits):
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        return commit

    def whoami(self) -> None:
        """Whose token it is."""
        if not self._who():
            raise _Refused(401, message="Invalid credentials in Authorization header")
        self._json({"type": "user", "name": self._who(), "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        """A repository, if it is not there."""
        given = json.loads(self.body)
        owner = self._who()
        if not owner:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        name = f"{given.get('organization') or owner}/{given['name']}"
        if name.split("/")[0] != owner:
            raise _Refused(403, message="you have no rights")
        if name in self.server.repositories:
            body = json.dumps({"error": "it is there", "url": f"{self.server.endpoint}/{name}"})
            self._answer(409, body.encode(), {"X-Error-Message": "it is there"})
            return
        hidden = bool(given.get("private")) or given.get("visibility") == "private"
        self.server.make(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=hidden)
        self._json({"url": f"{self.server.endpoint}/{name}", "name": name})

    def card(self) -> None:
        """Whether a card's front matter is in order."""
        if not json.loads(self.body)["content"].startswith("---\n"):
            raise _Refused(400, message="no front matter")
        self._json({"errors": [], "warnings": []})

    def info(self, name: str, revision: str = "main") -> None:
        """What a repository has; sizes only where they are asked for."""
        found = self._repository(name)
        commit = self._commit_of(found, revision)
        files = []
        for path, data in found.commits.get(commit, {}).items():
            sizes = {"size": found.sizes.get(path, len(data)), "blobId": hashlib.sha1(data).hexdigest()}
            files.append({"rfilename": path, **(sizes if "blobs" in self.path else {})})
        about = {"id": name, "private": found.private, "gated": "manual" if found.gated else False}
        self._json({**about, "sha": found.told or commit, "siblings": files, "tags": []})

    def branch(self, name: str, branch: str) -> None:
        """A branch as the main one is."""
        found = self._written(name)
        if branch in found.branches:
            raise _Refused(409, message="Reference already exists")
        found.branches[branch] = found.branches["main"]
        self._json({})

    def preupload(self, name: str, revision: str) -> None:
        """How each file is to be uploaded."""
        self._commit_of(self._written(name), revision)
        modes = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if self.server.lfs and one["size"] >= MANY else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(self.body)["files"]
        ]
        self._json({"files": modes})

    def batch(self, name: str) -> None:
        """Where large files are to be put."""
        self._written(name)
        given = json.loads(self.body)["objects"]
        places = [{"upload": {"href": f"{self.server.endpoint}/stored/{one['oid']}"}} for one in given]
        self._json(
            {"transfer": "basic", "objects": [{**one, "actions": at} for one, at in zip(given, places, strict=True)]}
        )

    def put(self, oid: str) -> None:
        """A large file's bytes."""
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, message="another hash")
        self.server.objects[oid] = self.body
        self._json({})

    def stored(self, oid: str) -> None:
        """The same, read."""
        self._answer(200, self.server.objects[oid], {"ETag": f'"{oid}"'})

    def commit(self, name: str, revision: str) -> None:
        """Files that were sent, and files that were put."""
        found, files = self._written(name), {}
        self._commit_of(found, revision)
        for line in self.body.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = found.add(files, revision)
        url = f"{self.server.endpoint}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def resolve(self, name: str, revision: str, path: str) -> None:
        """A file; one that is stored apart is redirected to, as the hub does."""
        found = self._repository(name)
        if found.gated:
            raise _Refused(403, "GatedRepo", "Access to this resource is restricted")
        commit = self._commit_of(found, revision)
        if (data := found.commits[commit].get(path)) is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        oid = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if oid in self.server.objects:
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            elsewhere = f"http://localhost:{self.server.server_port}/stored/{oid}"
            self._answer(302, b"", {**headers, "Location": elsewhere})
        else:
            self._answer(200, data, headers)


NAME, REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.card),
    ("GET", f"/api/models/{NAME}/revision/{REVISION}", _Handler.info),
    ("GET", f"/api/models/{NAME}", _Handler.info),
    ("POST", f"/api/models/{NAME}/branch/(?P<branch>.+)", _Handler.branch),
    ("POST", f"/api/models/{NAME}/preupload/{REVISION}", _Handler.preupload),
    ("POST", f"/{NAME}\\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/stored/(?P<oid>.+)", _Handler.put),
    ("GET", "/stored/(?P<oid>.+)", _Handler.stored),
    ("POST", f"/api/models/{NAME}/commit/{REVISION}", _Handler.commit),
    ("HEAD", f"/{NAME}/resolve/{REVISION}/(?P<path>.+)", _Handler.resolve),
    ("GET", f"/{NAME}/resolve/{REVISION}/(?P<path>.+)", _Handler.resolve),
]


class Client:
    """A process of its own that uses a hub: `huggingface_hub` reads what its environment says when it is imported.

    Args:
        environment: what differs there; what is empty is taken out.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(dict(environment),))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of a module of tests answers there."""
        return self._pool.submit(function, *arguments).result()

    def ackd(self, *arguments: object, **environment: str) -> tuple[int, str, str]:
        """The exit code of `ackd` with these arguments, and what it says to stdout and stderr."""
        code, out, err = self.call(_ackd, [str(one) for one in arguments], environment)
        return code, out, err

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


def _begin(environment: dict[str, str]) -> None:
    _set(environment)
    import torch

    torch.set_num_threads(1)


def _set(environment: Mapping[str, str]) -> dict[str, str]:
    before = {name: os.environ.get(name, "") for name in environment}
    for name, value in environment.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    return before


def _ackd(arguments: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    from ackd.cli import main
    from tests.small_dev import small_dev

    out, err = io.StringIO(), io.StringIO()
    before = _set(environment)
    try:
        with small_dev(), redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
    finally:
        _set(before)
    return code, out.getvalue(), err.getvalue()


@contextmanager
def client_of(server: StandIn, home: Path, **environment: str) -> Iterator[Client]:
    """A client of a stand-in, which may write to its repositories.

    Args:
        server: the stand-in.
        home: where the client keeps its cache.
        **environment: what else differs there.
    """
    own = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    client = Client({**own, "CUDA_VISIBLE_DEVICES": "", **environment})
    try:
        yield client
    finally:
        client.close()
