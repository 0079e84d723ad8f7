"""Repositories of the Hugging Face hub, through its own client: read by the names of files, and each no larger than it
may be; one sentence for whatever goes wrong.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # which it says to export, but lazily
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from ackd.errors import InputError, reason, short

logger = logging.getLogger("ackd")

PREFIX, MAIN = "hf:", "main"
SECONDS = 10.0  # that the hub has for an answer
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
NAMED = re.compile(r"(?P<before>(?:[^/:+,=]*=)?(?:[a-z-]+:)?)hf:(?P<repo>[^:]*)(?P<after>(?::.*)?)")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class UnreachableError(InputError):
    """The hub does not answer, or may not be asked."""


@dataclass(frozen=True)
class Repo:
    """A repository.

    Args:
        id: USER/REPO.
        revision: a branch, a tag or a commit; its main branch if None.
    """

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.id}" + (f"@{self.revision}" if self.revision is not None else "")

    @property
    def pinned(self) -> bool:
        """Whether it is one commit, which never changes."""
        return COMMIT.fullmatch(self.revision or "") is not None


def is_named(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a repository: `hf:USER/REPO`."""
    return os.fspath(name).startswith(PREFIX)


def repo_of(name: str) -> Repo:
    """The repository in `USER/REPO` or `USER/REPO@REVISION`, with or without `hf:` before it.

    Raises:
        InputError: if it cannot be one's name.
    """
    own, sign, revision = name.removeprefix(PREFIX).partition("@")
    try:
        validate_repo_id(own)
        sound = own.count("/") == 1 and (not sign or REVISION.fullmatch(revision) is not None)
    except HFValidationError:
        sound = False
    if not sound:
        raise InputError(f"{short(name)} names no repository of the hub: write USER/REPO, or USER/REPO@REVISION")
    return Repo(own, revision if sign and revision != MAIN else None)


def client() -> HfApi:
    """The hub's client, for what HF_ENDPOINT says by now."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its tries
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, library_name="ackd")


def pinned(text: str, files: Mapping[str, int], what: str, recorded: Iterable[object] = ()) -> str:
    """What names a policy, with the commit for its repository's revision; as it is where it names none of the hub.

    Args:
        text: such as `hf:USER/REPO`, `hf:USER/REPO@v1:refine` or `agent=replay:hf:USER/REPO`.
        files: as `fetch` takes them; where the hub cannot be reached, the commit is that of its cache.
        what: likewise.
        recorded: what was pinned before. Where no revision is named, the commit is the one there.

    Raises:
        InputError: if there is no such repository or revision, or neither hub nor cache tells its commit.
    """
    found = NAMED.fullmatch(text)
    if found is None:
        return text
    repo = repo_of(PREFIX + found["repo"])
    if not repo.pinned:
        repo = _before(repo, (found["before"], found["after"]), recorded) or replace(
            repo, revision=_commit(repo, files, what)
        )
    return f"{found['before']}{repo}{found['after']}"


def _before(repo: Repo, around: tuple[str, str], recorded: Iterable[object]) -> Repo | None:
    """What was pinned of a repository before: with the same text before and after it, if possible."""
    if repo.revision is not None:
        return None
    known: dict[tuple[str, str], Repo] = {}
    for one in recorded:
        if isinstance(one, str) and (parts := NAMED.fullmatch(one)) is not None:
            there = repo_of(parts["repo"])
            if there.pinned and there.id == repo.id:
                known[parts["before"], parts["after"]] = there
    return known.get(around) or next(iter(known.values()), None)


def _commit(repo: Repo, files: Mapping[str, int], what: str) -> str:
    """The commit that a revision is now, or was when it was read last; the client notes it with the first file."""
    api, revision = client(), repo.revision or MAIN
    try:
        path = _download(api, repo, files, what, list(files)[:1], revision)[0]
    except UnreachableError as error:
        kept = [try_to_load_from_cache(repo.id, name, revision=revision) for name in files]
        path = next((one for one in kept if isinstance(one, str)), "")
        if not path:
            raise
        if not constants.HF_HUB_OFFLINE:
            logger.warning("%s: taking %s as it was read before, at %s", error, repo, Path(path).parent.name)
    return Path(path).parent.name


def fetch(repo: Repo, files: Mapping[str, int], what: str) -> Path:
    """The folder of the hub's cache with files of a repository, which are downloaded if they are not there.

    Args:
        repo: of one commit.
        files: their names, and bytes that each may have: no larger one is downloaded.
        what: they are together.

    Raises:
        InputError: if a file is missing or too large, or the repository cannot be read.
    """
    assert repo.revision is not None
    kept = [try_to_load_from_cache(repo.id, name, revision=repo.revision) for name in files]
    paths = [path for path in kept if isinstance(path, str)]
    if len(paths) < len(files):
        paths = _download(client(), repo, files, what, list(files), repo.revision)
    return Path(paths[0]).parent


def _download(
    api: HfApi, repo: Repo, files: Mapping[str, int], what: str, names: Sequence[str], revision: str
) -> list[str]:
    """Where some of the files lie then; sizes are checked before."""
    with asking(api, repo), without_bars():
        info = api.model_info(repo.id, revision=repo.revision, files_metadata=True, timeout=SECONDS)
        _check({one.rfilename: one.size for one in info.siblings or ()}, repo, files, what)
        commit = info.sha or ""
        sound = COMMIT.fullmatch(commit) is not None and (commit == repo.revision or not repo.pinned)
        for one in (revision, commit) if sound else ():  # by its name the client may find what it has of before
            paths = [api.hf_hub_download(repo.id, name, revision=one) for name in names]
            if {Path(path).parent.name for path in paths} == {commit}:
                return paths
        raise InputError(f"{api.endpoint} does not say which commit {repo} is: look what HF_ENDPOINT names")


def _check(there: Mapping[str, int | None], repo: Repo, files: Mapping[str, int], what: str) -> None:
    """Refuses a repository by the names and sizes of its files."""
    for name, most in files.items():
        if name not in there:
            others = f"it has {short(', '.join(sorted(there)))}" if there else "it is empty"
            raise InputError(f"{repo} holds no {what}, since {name} is missing ({others}): name another repository")
        size = there[name]
        if type(size) is not int or not 0 <= size <= most:
            raise InputError(
                f"{repo} holds no {what}: its {name} has {short(size)} bytes, and no {what} has more than {most} there"
            )


@contextmanager
def asking(api: HfApi, repo: Repo, *, writes: bool = False) -> Iterator[None]:
    """Says in one sentence what goes wrong with the hub.

    Args:
        api: which asks.
        repo: what about.
        writes: whether something is written there.

    Raises:
        InputError: for whatever the hub or its client refuse; `UnreachableError` if there is no hub.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of the hub, of its client and of the network: there are many
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        while isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # what the client wraps
        raise _refused(error, api.endpoint, repo, writes=writes) from error


def _refused(error: Exception, hub: str, repo: Repo, *, writes: bool) -> InputError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if writes and status == 401:
        return InputError(f"{hub} does not accept your token: {LOG_IN} to one that may write")
    if writes and (status == 403 or isinstance(error, RepositoryNotFoundError)):
        return InputError(f"your token may not write to {repo.id} on {hub}: name a repository of your own, or {LOG_IN}")
    if isinstance(error, GatedRepoError):
        return InputError(f"{repo} is gated: ask for access at {hub}/{repo.id}, and {LOG_IN}")
    if isinstance(error, RepositoryNotFoundError) or status == 401:  # which it answers where there is none, too
        return InputError(f"there is no {repo} on {hub}, or it is private: look at its name, or {LOG_IN}")
    if isinstance(error, RevisionNotFoundError):
        return InputError(
            f"{repo.id} has no revision {repo.revision or MAIN!r} on {hub}: name a branch, a tag or a commit"
        )
    if isinstance(error, OfflineModeIsEnabled):
        then = "upload" if writes else "download"
        here = "" if writes else f", and {repo} is not in its cache"
        return UnreachableError(f"HF_HUB_OFFLINE keeps from asking the hub{here}: unset it to {then}")
    if status == 403:
        return InputError(f"{hub} does not let you read {repo}: {LOG_IN}")
    if 400 <= status < 500 and status != 429:
        return InputError(f"{hub} refuses {repo} ({reason(error)})")
    if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
        return InputError(f"{hub} answers about {repo.id} what cannot be used ({' '.join(str(error).split())[:300]})")
    told = f"it answers {status}" if status else reason(error)
    return UnreachableError(f"{hub} cannot be reached for {repo.id} ({told})")


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps the client from drawing a bar for each small file."""
    shown = not are_progress_bars_disabled() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
