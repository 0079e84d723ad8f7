"""Uploads a student or a policy with its card to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token

from ackd.agents import library, store
from ackd.agents.learned import LearnedPolicy
from ackd.errors import InputError
from ackd.files.hub import LOG_IN, SECONDS, Repo, asking, client, is_named, repo_of, without_bars
from ackd.models import LAYOUT
from ackd.models.guard import read_settings
from ackd.runs.folder import CONFIG
from ackd.runs.log import INNER, finished_run

WEIGHTS = "model.safetensors"
MODEL = (CONFIG, WEIGHTS, "generation_config.json", "README.md")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "dict.txt", "emoji.json", "entity_vocab.json", "normalizer.json"),
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "spm.model"),
    *("tiktoken.model", "prophetnet.tokenizer", "byte_maps.json"),
)
STUDENT, POLICY = "student", "policy"
SENTENCES = "sentence-similarity"  # the task of sentence encoders on the hub
WHAT = "give a finished run, the folder of a student or policy, or a policy's name"


@dataclass(frozen=True)
class Pushed:
    """A finished upload.

    Args:
        url: address of the repository.
        commit: commit of the upload.
        use: the option or the line of Python that loads it.
    """

    url: str
    commit: str
    use: str


@dataclass(frozen=True)
class Parcel:
    """The files to upload.

    Args:
        kind: "student" or "policy".
        folder: the folder of the files.
        files: names of the files.
        task: task of the pipeline for a student; empty for a policy.
    """

    kind: str
    folder: Path
    files: Sequence[str]
    task: str = ""

    def use(self, repo: Repo) -> str:
        """The option or the line of Python that loads it from a repository."""
        if self.kind == POLICY:
            return f"--policy {repo}"
        revision = f', revision="{repo.revision}"' if repo.revision is not None else ""
        if self.task == SENTENCES:
            return f'sentence_transformers.SentenceTransformer("{repo.id}"{revision}).encode(["A text."])'
        return f'transformers.pipeline("{self.task}", model="{repo.id}"{revision})("A text.")'


def push(run_or_policy: object, repo: str, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Uploads a student or a policy to a repository of the Hugging Face hub, which is created if it does not exist.

    Files of a student are its model, tokenizer, class names and card; those of a policy its weights, JSON and card.

    Args:
        run_or_policy: a finished run, the folder of a student or a policy, or the name of a stored policy; the result
            of `train_agent` or `finetune`; or a `DistillationTrainer` that has trained.
        repo: USER/REPO.
        private: whether to create a private repository; one that exists must be private already.
        revision: the branch, which is created if it does not exist; None: the main branch.

    Returns:
        An object with the `url`, the `commit`, and `use`: the option or the line of Python that loads it.

    Raises:
        InputError: if there is no student or policy, the run is not finished, or the hub refuses the upload.

    Example:
        print(push("runs/student", "me/polarity-student").url)
    """
    with _parcel(run_or_policy) as parcel:
        target = repo_of(repo if revision is None else f"{repo}@{revision}")
        if target.pinned:
            raise InputError(f"{target} is a commit, and commits do not change: name a branch with --revision")
        return _upload(parcel, target, private=private)


def _upload(parcel: Parcel, repo: Repo, *, private: bool) -> Pushed:
    api = client()
    if get_token() is None:
        raise InputError(f"there is no token for {api.endpoint}: {LOG_IN} to one with write access")
    with asking(api, repo, writes=True):
        url = api.create_repo(repo.id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo.id, timeout=SECONDS).private:
            raise InputError(f"{url} exists already and is public: name another repository, or omit --private")
        if repo.revision is not None:
            api.create_branch(repo.id, branch=repo.revision, exist_ok=True)
        with without_bars() if parcel.kind == POLICY else nullcontext():
            commit = api.upload_folder(
                repo_id=repo.id,
                folder_path=parcel.folder,
                allow_patterns=list(parcel.files),
                revision=repo.revision,
                commit_message=f"A {parcel.kind} of ackd",
            )
    return Pushed(str(url), commit.oid, parcel.use(repo))


@contextmanager
def _parcel(given: object) -> Iterator[Parcel]:
    """Yields the files to upload; objects and policies are saved to a temporary folder."""
    kind, folder = _located(str(given)) if isinstance(given, (str, Path)) else ("", Path())
    if kind == STUDENT:
        yield _student(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        if kind == POLICY or isinstance(given, LearnedPolicy):  # a copy, so that the checked bytes are uploaded
            parts = store.packed(given) if isinstance(given, LearnedPolicy) else store.read(folder)
            store.parse(*parts, folder / store.CARD, folder / store.WEIGHTS)
            store.write(copy, *parts)
            yield Parcel(POLICY, copy, (store.CARD, store.WEIGHTS, store.README))
        else:
            _save(given, copy)
            yield _student(copy)


def _save(given: object, folder: Path) -> None:
    """Saves a student that is given as an object."""
    from ackd.experiments.distillation import DistillationTrainer  # slow to import, and folders do not need it
    from ackd.experiments.trained import Trained

    if not isinstance(given, (DistillationTrainer, Trained)):
        raise InputError(f"a {type(given).__name__} is neither a student nor a policy: {WHAT}")
    given.save(folder)


def _student(folder: Path) -> Parcel:
    architectures = str(read_settings(folder / CONFIG).get("architectures"))
    language = "ForCausalLM" in architectures or "LMHead" in architectures
    task = "text-generation" if language else "text-classification"
    task = SENTENCES if (folder / LAYOUT[0]).is_file() else task
    return Parcel(STUDENT, folder, [name for name in (*MODEL, *TOKENIZER, *LAYOUT) if (folder / name).is_file()], task)


def _located(source: str) -> tuple[str, Path]:
    """The kind (student or policy) and the folder of a name."""
    path = Path(source)
    if is_named(source):
        return POLICY, library.locate(source)
    if not source or not path.is_dir():
        if not source or path.is_file() or "/" in source or source.startswith("."):
            raise InputError(f"there is no folder {source!r}: {WHAT}")
        return POLICY, library.locate(source)
    finished_run(path)
    if kind := _kind(path):
        return kind, path
    kinds = {name: kind for name in INNER if (kind := _kind(path / name))}
    if len(kinds) > 1:
        raise InputError(f"{source} holds {' and '.join(kinds)}: name {' or '.join(str(path / one) for one in kinds)}")
    if not kinds:
        raise InputError(f"{source} holds no student and no policy: {WHAT}")
    name, kind = next(iter(kinds.items()))
    return kind, path / name


def _kind(folder: Path) -> str:
    """The kind of a folder's own files: student, policy, or empty for others."""
    if (folder / store.CARD).is_file():
        return POLICY
    return STUDENT if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else ""
