"""Runs tests in a copy of the source tree: finds the tests for a file, the functions they enter, and failures."""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutation

PACKAGES = {"ackd": "ackd", "envs": "ackd.envs", "agents": "ackd.agents"}
COPIED = (*PACKAGES, "tests", "benchmarks", "docs")
MEMORY = 24 << 30  # bytes of address space
START = 60.0  # extra seconds for a run of tests, in addition to their time on the unchanged code
Entered = set[tuple[str, str]]  # pairs of file and function


@dataclass(frozen=True)
class Test:
    """How a test went on the code as it is; `enters` are functions, each with its file."""

    name: str
    seconds: float
    enters: frozenset[tuple[str, str]]

    def meets(self, path: str, function: str) -> bool:
        """Whether it enters a function; what runs at import every test meets."""
        return not function or (path, function) in self.enters


@dataclass(frozen=True)
class Ended:
    """How a run of tests ended: caught by which test, and what that said; empty for a run that passed."""

    by: str
    said: str
    seconds: float


# Which tests


def module_of(path: str) -> str:
    """The module that a file of the tree holds."""
    folder, _, rest = path.removesuffix(".py").partition("/")
    return ".".join([PACKAGES.get(folder, folder), *rest.split("/")]).removesuffix(".__init__")


@cache
def imported(path: Path) -> frozenset[str]:
    """What a file imports, with the names that it takes out of modules, and what modules of `tests` import for it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    root = next((parent.parent for parent in path.parents if parent.name == "tests"), None)
    for name in sorted(names):
        if root and name.startswith("tests.") and (root / f"{name.replace('.', '/')}.py").exists():
            names |= imported(root / f"{name.replace('.', '/')}.py")
    return frozenset(names)


def groups(root: Path, path: str, function: str) -> list[list[Path]]:
    """Test files for a function: of its file's name; that import that or have its users' names; its package's; others.

    In each group those that name the function are first, then those that name the file, then the shortest; the fuzzing
    of tests/fuzz, which imports everything, takes long and sees little but what crashes, is last.
    """
    module = module_of(path)
    package, _, stem = module.rpartition(".")
    folder = package.rpartition(".")[2]
    ours = {module_of(f.relative_to(root).as_posix()): f for part in PACKAGES for f in (root / part).rglob("*.py")}
    users = {f"test_{name.rpartition('.')[2]}" for name, file in ours.items() if module in imported(file)}
    tests: tuple[Callable[[Path], bool], ...] = (
        lambda file: file.stem in (f"test_{stem}", f"test_{stem}_command") or file.parent.name == stem,
        lambda file: not fuzzing(file) and (module in imported(file) or file.stem.removesuffix("_command") in users),
        lambda file: file.stem == f"test_{folder}" or file.parent.name == folder,
        lambda file: True,
    )
    name = function.rpartition(".")[2].strip("_") or stem

    def fuzzing(file: Path) -> bool:
        return file.parent.name == "fuzz"

    def order(file: Path) -> tuple[bool, bool, bool, int, Path]:
        text = file.read_text(encoding="utf-8")
        unnamed = stem not in text and stem.replace("_", "-") not in text
        return fuzzing(file), name not in text, unnamed, len(text), file

    left = sorted((root / "tests").rglob("test_*.py"), key=order)
    found = []
    for test in tests:
        found.append([file for file in left if test(file)])
        left = [file for file in left if file not in found[-1]]
    return found


# One run, in its own process


class Watch:
    """A plugin of pytest that runs some tests only and notes how they end; where it runs all, also what they enter."""

    def __init__(self, tests: Sequence[str] | None, known: Sequence[str]) -> None:
        self.tests, self.known = tests, set(known)
        self.entered: dict[str, Entered] = defaultdict(set)
        self.fixtures: dict[str, Entered] = defaultdict(set)
        self.using: dict[str, list[str]] = {}
        self.seconds: Counter[str] = Counter()
        self.ends: dict[str, str] = {}
        self.failure = ("", "")
        self.now: Entered = set()

    def note(self, path: str, function: str) -> None:
        """A function is entered."""
        self.now.add((path, function))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leaves the tests that are asked for, and those that there are not on the code as it is."""
        self.using = {item.nodeid: list(getattr(item, "fixturenames", ())) for item in items}
        if self.tests is not None:
            asked = set(self.tests)
            items[:] = [item for item in items if item.nodeid in asked or item.nodeid not in self.known]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """What is entered from now on, this test enters."""
        self.now = self.entered[nodeid]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """What a fixture of several tests enters, each of them enters."""
        outer, self.now = self.now, set()
        try:
            return (yield)
        finally:
            outer |= self.now
            if fixturedef.scope != "function":
                self.fixtures[fixturedef.argname] |= self.now
            self.now = outer

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes how a part of a test ended."""
        self.seconds[report.nodeid] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.ends[report.nodeid] = report.outcome
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        """Keeps the first failure."""
        if report.failed and not self.failure[0]:
            said = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
            self.failure = report.nodeid, " ".join(said.split())[:200]

    def content(self) -> dict[str, Any]:
        """What came out, for JSON."""
        tests = {}
        for name, end in self.ends.items():
            enters = self.entered[name].union(*(self.fixtures[one] for one in self.using.get(name, ())))
            tests[name] = {"end": end, "seconds": round(self.seconds[name], 3), "enters": sorted(enters)}
        return {"tests": tests, "failure": self.failure}


def die_with_parent() -> None:
    """Linux ends this process with the one that started it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def copied(root: Path, path: Path) -> Path:
    """A copy of a tree at a path; a folder in it, where the packages are where they are imported from."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in root.iterdir():
        if file.is_file():
            shutil.copy(file, path)
    links = path / "build" / "types"
    (links / "ackd").mkdir(parents=True)
    for file in (*(path / "ackd").iterdir(), path / "envs", path / "agents"):
        (links / "ackd" / file.name).symlink_to(file)
    for name in ("tests", "benchmarks"):
        (links / name).symlink_to(path / name)
    return links


class Tree:
    """Two copies of the tree under a folder: one that mutants are made in, and one that notes what is entered."""

    def __init__(self, root: Path, folder: Path, known: Path, patience: float) -> None:
        self.path, self._noting = folder / "tree", folder / "noting"
        self.links = copied(root, self.path)
        copied(root, self._noting)
        for file in (file for name in PACKAGES for file in (self._noting / name).rglob("*.py")):
            name = file.relative_to(self._noting).as_posix()
            file.write_text(mutation.noted(file.read_text(encoding="utf-8"), name), encoding="utf-8")
        self._folder, self._known, self._patience = folder, known, patience
        self._made = 0
        known.mkdir(parents=True, exist_ok=True)
        files = sorted(f for name in (*PACKAGES, "tests") for f in (self.path / name).rglob("*.py"))
        shared = (f for f in files if not f.name.startswith("test_"))
        self._shared = hashlib.sha256(b"".join(file.read_bytes() for file in shared)).hexdigest()

    @contextlib.contextmanager
    def holding(self, path: str, source: str) -> Iterator[None]:
        """One file of the copy is another, inside; a time of its own, so that no compiled file is taken for it."""
        file = self.path / path
        before, times = file.read_bytes(), file.stat()
        self._made += 1
        file.write_text(source, encoding="utf-8")
        os.utime(file, (1e9 + self._made, 1e9 + self._made))
        try:
            yield
        finally:
            file.write_bytes(before)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def baseline(self, file: Path) -> list[Test]:
        """The tests of a file that pass on the code as it is; found once for all copies, and kept on disk."""
        name = file.relative_to(self.path).as_posix()
        digest = hashlib.sha256(self._shared.encode() + name.encode() + file.read_bytes()).hexdigest()[:24]
        kept = self._known / f"{digest}.json"
        with (self._known / f"{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                content = self._run(self._noting, name, None, (), 3600)
                if content is None or content["code"] not in (0, 1, 5):
                    said = (self._folder / "said.txt").read_text(errors="replace")
                    raise SystemExit(f"the code as it is does not get through {name}:\n{said[-4000:]}")
                kept.write_text(json.dumps(content["tests"]))
        tests = json.loads(kept.read_text())
        return [
            Test(one, row["seconds"], frozenset((a, b) for a, b in row["enters"]))
            for one, row in tests.items()
            if row["end"] == "passed"
        ]

    def tried(self, file: Path, tests: Sequence[Test], known: Sequence[Test]) -> Ended:
        """How those tests of a file end."""
        name, started = file.relative_to(self.path).as_posix(), time.monotonic()
        limit = START + self._patience * sum(test.seconds for test in tests)
        content = self._run(self.path, name, [test.name for test in tests], [test.name for test in known], limit)
        seconds = round(time.monotonic() - started, 1)
        if content is None:
            return Ended(name, f"did not end within {limit:.0f} seconds", seconds)
        by, said = content["failure"]
        return Ended(by or (name if content["code"] not in (0, 5) else ""), said, seconds)

    def _run(
        self, tree: Path, file: str, tests: Sequence[str] | None, known: Sequence[str], limit: float
    ) -> dict[str, Any] | None:
        """What came out of pytest in a process of its own; None if that did not end in time."""
        said = self._folder / "said.json"
        said.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            try:
                said.write_text(json.dumps(self._become(tree, file, Watch(tests, known))))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        ended, deadline = 0, time.monotonic() + limit
        while not ended and time.monotonic() < deadline:
            ended, _ = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # including processes that the tests left behind
        if not ended:
            os.waitpid(child, 0)
            return None
        content: dict[str, Any] = json.loads(said.read_text()) if said.exists() else {"tests": {}, "failure": ("", "")}
        return {"code": -1, **content}

    def _become(self, tree: Path, file: str, watch: Watch) -> dict[str, Any]:
        """The rest of this process is pytest; what came out."""
        os.setsid()
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        told = os.open(self._folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(told, stream)
        temporary = self._folder / "temporary"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        os.chdir(tree)
        links = tree / "build" / "types"
        os.environ.update(environment(links), TMPDIR=str(temporary), HYPOTHESIS_STORAGE_DIRECTORY=str(temporary))
        sys.path[:] = [str(links), *(part for part in sys.path if "site-packages" in part or "python3" in part)]
        sys.modules["__main__"] = types.ModuleType("__main__")  # child processes of tests must not import this script
        sys.argv = ["pytest"]
        vars(builtins)["__entered__"] = watch.note
        stop = ["-x"] if watch.tests is not None else []
        quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported so cannot be rewritten"]
        options = [*stop, *quiet, "--hypothesis-seed=0", "--basetemp", str(temporary / "tests")]
        code = pytest.main([*options, file], plugins=[watch])
        return {"code": int(code), **watch.content()}


def environment(links: Path) -> dict[str, str]:
    """What processes that tests start have to know."""
    shared = os.environ.get("ACKD_SHARED", str(Path(__file__).resolve().parents[2] / "shared"))
    return {"PYTHONPATH": str(links), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "ACKD_SHARED": shared}


LIST = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):  # an extra that is not installed
        importlib.import_module(name)
print(*(name for name in sys.modules if name.split(".")[0] not in ("ackd", "__main__")))
"""


def import_libraries(tree: Tree) -> None:
    """Imports every library that our modules import, and nothing of ours."""
    files = [f for folder in PACKAGES for f in (tree.path / folder).rglob("*.py") if f.name != "__main__.py"]
    ours = [module_of(file.relative_to(tree.path).as_posix()) for file in files]
    own = {**os.environ, **environment(tree.links)}
    listed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIST, *ours], env=own, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in listed:
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # names that a library generates
                importlib.import_module(name)
