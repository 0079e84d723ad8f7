"""Reads repositories of the Hugging Face hub through its own client, with limits on the sizes of files.

Errors of the hub and of its client become an `InputError` with one sentence.
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
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from ackd.errors import InputError, reason, short

logger = logging.getLogger("ackd")

PREFIX, MAIN = "hf:", "main"
SECONDS = 10.0  # timeout of a request
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
NAMED = re.compile(r"(?P<before>(?:[^/:+,=]*=)?(?:[a-z-]+:)?)hf:(?P<repo>[^:]*)(?P<after>(?::.*)?)")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class UnreachableError(InputError):
    """The hub cannot be reached, or HF_HUB_OFFLINE is set."""


@dataclass(frozen=True)
class Repo:
    """A repository of the hub.

    Args:
        id: USER/REPO.
        revision: a branch, a tag or a commit; None: the main branch.
    """

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.id}" + (f"@{self.revision}" if self.revision is not None else "")

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return COMMIT.fullmatch(self.revision or "") is not None


def is_named(name: str | os.PathLike[str]) -> bool:
    """Whether a name has the form `hf:USER/REPO`."""
    return os.fspath(name).startswith(PREFIX)


def repo_of(name: str) -> Repo:
    """Parses `USER/REPO` or `USER/REPO@REVISION`, with or without `hf:` in front.

    Raises:
        InputError: if the name is invalid.
    """
    repo, sign, revision = name.removeprefix(PREFIX).partition("@")
    try:
        validate_repo_id(repo)
        valid = repo.count("/") == 1 and (not sign or REVISION.fullmatch(revision) is not None)
    except HFValidationError:
        valid = False
    if not valid:
        raise InputError(f"{short(name)} names no repository of the hub: write USER/REPO, or USER/REPO@REVISION")
    return Repo(repo, revision if sign and revision != MAIN else None)


def client() -> HfApi:
    """The hub's client, with the current value of HF_ENDPOINT."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, library_name="ackd")


def pinned(text: str, files: Mapping[str, int], what: str, recorded: Iterable[object] = ()) -> str:
    """The name of a policy, with the commit in place of its repository's revision; other names stay unchanged.

    Args:
        text: the name, such as `hf:USER/REPO`, `hf:USER/REPO@v1:refine` or `agent=replay:hf:USER/REPO`.
        files: as for `fetch`; if the hub cannot be reached, the commit is that of the cache.
        what: as for `fetch`.
        recorded: names with commits, as this function returned them earlier; a name without a revision gets the commit
            of the same repository.

    Raises:
        InputError: if there is no such repository or revision, or its commit is neither on the hub nor in the cache.
    """
    found = NAMED.fullmatch(text)
    if found is None:
        return text
    repo = repo_of(PREFIX + found["repo"])
    if not repo.pinned:
        repo = _recorded(repo, (found["before"], found["after"]), recorded) or replace(
            repo, revision=_commit(repo, files, what)
        )
    return f"{found['before']}{repo}{found['after']}"


def _recorded(repo: Repo, around: tuple[str, str], recorded: Iterable[object]) -> Repo | None:
    """A repository with its commit from `recorded`, preferably from a name with the same text around it."""
    if repo.revision is not None:
        return None
    known: dict[tuple[str, str], Repo] = {}
    for one in recorded:
        if isinstance(one, str) and (parts := NAMED.fullmatch(one)) is not None:
            earlier = repo_of(parts["repo"])
            if earlier.pinned and earlier.id == repo.id:
                known[parts["before"], parts["after"]] = earlier
    return known.get(around) or next(iter(known.values()), None)


def _commit(repo: Repo, files: Mapping[str, int], what: str) -> str:
    """The commit of a revision, from the path of its first file; from the cache if the hub cannot be reached."""
    api, revision = client(), repo.revision or MAIN
    try:
        path = _download(api, repo, files, what, list(files)[:1], revision)[0]
    except UnreachableError as error:
        cached = [try_to_load_from_cache(repo.id, name, revision=revision) for name in files]
        path = next((one for one in cached if isinstance(one, str)), "")
        if not path:
            raise
        if not constants.HF_HUB_OFFLINE:
            logger.warning("%s: using the cached commit of %s, %s", error, repo, Path(path).parent.name)
    return Path(path).parent.name


def fetch(repo: Repo, files: Mapping[str, int], what: str) -> Path:
    """Downloads files of a repository, unless they are in the hub's cache; returns their folder in the cache.

    Args:
        repo: the repository, with a commit as its revision.
        files: names of the files, and the most bytes of each; larger files are not downloaded.
        what: what the files are, for messages.

    Raises:
        InputError: if a file is missing or too large, or the repository cannot be read.
    """
    assert repo.revision is not None
    cached = [try_to_load_from_cache(repo.id, name, revision=repo.revision) for name in files]
    paths = [path for path in cached if isinstance(path, str)]
    if len(paths) < len(files):
        paths = _download(client(), repo, files, what, list(files), repo.revision)
    return Path(paths[0]).parent


def _download(
    api: HfApi, repo: Repo, files: Mapping[str, int], what: str, names: Sequence[str], revision: str
) -> list[str]:
    """Downloads `names` after checking the sizes of all files; returns the paths."""
    with asking(api, repo), without_bars():
        info = api.model_info(repo.id, revision=repo.revision, files_metadata=True, timeout=SECONDS)
        _check({one.rfilename: one.size for one in info.siblings or ()}, repo, files, what)
        commit = info.sha or ""
        valid = COMMIT.fullmatch(commit) is not None and (commit == repo.revision or not repo.pinned)
        for one in (revision, commit) if valid else ():  # for a branch the client may return an older, cached commit
            paths = [api.hf_hub_download(repo.id, name, revision=one) for name in names]
            if {Path(path).parent.name for path in paths} == {commit}:
                return paths
        raise InputError(f"{api.endpoint} returned no valid commit for {repo}: check HF_ENDPOINT")


def _check(sizes: Mapping[str, int | None], repo: Repo, files: Mapping[str, int], what: str) -> None:
    """Raises an error if a file is missing or too large."""
    for name, most in files.items():
        if name not in sizes:
            others = f"it has {short(', '.join(sorted(sizes)))}" if sizes else "it is empty"
            raise InputError(f"{repo} holds no {what}, since {name} is missing ({others}): name another repository")
        size = sizes[name]
        if type(size) is not int or not 0 <= size <= most:
            raise InputError(
                f"{repo} holds no {what}: its {name} has {short(size)} bytes, and at most {most} are allowed"
            )


@contextmanager
def asking(api: HfApi, repo: Repo, *, writes: bool = False) -> Iterator[None]:
    """Context manager that turns errors of the hub and of its client into an `InputError` with one sentence.

    Args:
        api: the client.
        repo: the repository.
        writes: whether the requests write to the repository.

    Raises:
        InputError: if the hub or its client refuses a request; `UnreachableError` if the hub cannot be reached.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # hub, client and network raise many kinds of errors
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk
        while isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # the client wraps the cause
        raise _refused(error, api.endpoint, repo, writes=writes) from error


def _refused(error: Exception, hub: str, repo: Repo, *, writes: bool) -> InputError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if writes and status == 401:
        return InputError(f"{hub} does not accept your token: {LOG_IN} to one with write access")
    if writes and (status == 403 or isinstance(error, RepositoryNotFoundError)):
        return InputError(f"your token cannot write to {repo.id} on {hub}: name your own repository, or {LOG_IN}")
    if isinstance(error, GatedRepoError):
        return InputError(f"{repo} is gated: ask for access at {hub}/{repo.id}, and {LOG_IN}")
    if isinstance(error, RepositoryNotFoundError) or status == 401:  # 401 also means that there is no repository
        return InputError(f"there is no {repo} on {hub}, or it is private: check the name, or {LOG_IN}")
    if isinstance(error, RevisionNotFoundError):
        return InputError(
            f"{repo.id} has no revision {repo.revision or MAIN!r} on {hub}: name a branch, a tag or a commit"
        )
    if isinstance(error, OfflineModeIsEnabled):
        purpose = "upload" if writes else "download"
        missing = "" if writes else f", and {repo} is not in the cache"
        return UnreachableError(f"HF_HUB_OFFLINE is set{missing}: unset it to {purpose}")
    if status == 403:
        return InputError(f"{hub} does not allow you to read {repo}: {LOG_IN}")
    if 400 <= status < 500 and status != 429:
        return InputError(f"{hub} refuses {repo} ({reason(error)})")
    if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
        return InputError(f"{hub} gave an invalid response about {repo.id} ({' '.join(str(error).split())[:300]})")
    detail = f"status {status}" if status else reason(error)
    return UnreachableError(f"{hub} cannot be reached for {repo.id} ({detail})")


@contextmanager
def without_bars() -> Iterator[None]:
    """Context manager without the client's progress bars, which appear even for small files."""
    shown = not are_progress_bars_disabled() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
