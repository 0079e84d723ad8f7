"""A student or a policy goes to the Hugging Face hub, with its card, and nothing else of its run."""

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
from ackd.runs.folder import CONFIG, RESULT

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
INNER = (STUDENT, "model", POLICY)  # where a run keeps what it has made
WHAT = "give a finished run, the folder of a student or policy, or a policy's name"


@dataclass(frozen=True)
class Pushed:
    """What lies on the hub now.

    Args:
        url: of the repository.
        commit: that holds it.
        use: the option or the line of Python by which others use it.
    """

    url: str
    commit: str
    use: str


@dataclass(frozen=True)
class Parcel:
    """What is to be uploaded.

    Args:
        kind: "student" or "policy".
        folder: where it lies.
        files: which of the files there.
        task: of a pipeline for it; none of a policy.
    """

    kind: str
    folder: Path
    files: Sequence[str]
    task: str = ""

    def use(self, repo: Repo) -> str:
        """How others use it, once it lies in a repository."""
        if self.kind == POLICY:
            return f"--policy {repo}"
        revision = f', revision="{repo.revision}"' if repo.revision is not None else ""
        if self.task == SENTENCES:
            return f'sentence_transformers.SentenceTransformer("{repo.id}"{revision}).encode(["A text."])'
        return f'transformers.pipeline("{self.task}", model="{repo.id}"{revision})("A text.")'


def push(run_or_policy: object, repo: str, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Uploads a student or a policy to the Hugging Face hub, to a repository that is made if it is not there.

    Of a student go model, tokenizer, names of classes and card; of a policy its weights, its JSON and its card.

    Args:
        run_or_policy: a finished run, the folder of a student or a policy, or a policy's name in the store; what
            `train_agent` or `finetune` gives back; or a `DistillationTrainer` that has trained.
        repo: USER/REPO.
        private: nobody else may see it; a repository that is there must be private already.
        revision: the branch, which is made if it is not there; the main one if None.

    Returns:
        Its `url`, the `commit`, and how to `use` it.

    Raises:
        InputError: if there is no such thing, its run is not finished, or the hub takes nothing, in one sentence.

    Example:
        print(push("runs/student", "me/polarity-student").url)
    """
    with _parcel(run_or_policy) as parcel:
        where = repo_of(repo if revision is None else f"{repo}@{revision}")
        if where.pinned:
            raise InputError(f"{where} is a commit, which nothing can be added to: name a branch with --revision")
        return _upload(parcel, where, private=private)


def _upload(parcel: Parcel, where: Repo, *, private: bool) -> Pushed:
    api = client()
    if get_token() is None:
        raise InputError(f"no token for {api.endpoint} is at hand: {LOG_IN} to one that may write")
    with asking(api, where, writes=True):
        url = api.create_repo(where.id, private=private or None, exist_ok=True)
        if private and not api.model_info(where.id, timeout=SECONDS).private:
            raise InputError(f"{url} is there already, and everybody sees it: name another, or leave --private away")
        if where.revision is not None:
            api.create_branch(where.id, branch=where.revision, exist_ok=True)
        with without_bars() if parcel.kind == POLICY else nullcontext():
            commit = api.upload_folder(
                repo_id=where.id,
                folder_path=parcel.folder,
                allow_patterns=list(parcel.files),
                revision=where.revision,
                commit_message=f"A {parcel.kind} of ackd",
            )
    return Pushed(str(url), commit.oid, parcel.use(where))


@contextmanager
def _parcel(given: object) -> Iterator[Parcel]:
    """What is to be uploaded; what is handed over lies in a folder as long as this lasts."""
    kind, folder = _found(str(given)) if isinstance(given, (str, Path)) else ("", Path())
    if kind == STUDENT:
        yield _student(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        if kind == POLICY or isinstance(given, LearnedPolicy):  # a copy: what is checked is what goes
            parts = store.packed(given) if isinstance(given, LearnedPolicy) else store.read(folder)
            store.parse(*parts, folder / store.CARD, folder / store.WEIGHTS)
            store.write(copy, *parts)
            yield Parcel(POLICY, copy, (store.CARD, store.WEIGHTS, store.README))
        else:
            _save(given, copy)
            yield _student(copy)


def _save(given: object, folder: Path) -> None:
    """Writes a student that is at hand."""
    from ackd.experiments.distillation import DistillationTrainer  # here, as no folder needs it
    from ackd.experiments.trained import Trained

    if not isinstance(given, (DistillationTrainer, Trained)):
        raise InputError(f"a {type(given).__name__} is neither a student nor a policy: {WHAT}")
    given.save(folder)


def _student(folder: Path) -> Parcel:
    saved = str(read_settings(folder / CONFIG).get("architectures"))
    task = "text-generation" if "ForCausalLM" in saved or "LMHead" in saved else "text-classification"
    task = SENTENCES if (folder / LAYOUT[0]).is_file() else task
    return Parcel(STUDENT, folder, [name for name in (*MODEL, *TOKENIZER, *LAYOUT) if (folder / name).is_file()], task)


def _found(source: str) -> tuple[str, Path]:
    """Whether a name is that of a student or of a policy, and its folder."""
    path = Path(source)
    if is_named(source):
        return POLICY, library.locate(source)
    if not source or not path.is_dir():
        if not source or path.is_file() or "/" in source or source.startswith("."):
            raise InputError(f"there is no folder {source!r}: {WHAT}")
        return POLICY, library.locate(source)
    _check_finished(path, source)
    if kind := _kind(path):
        return kind, path
    there = {name: kind for name in INNER if (kind := _kind(path / name))}
    if len(there) > 1:
        raise InputError(f"{source} holds {' and '.join(there)}: name {' or '.join(str(path / one) for one in there)}")
    if not there:
        raise InputError(f"{source} holds no student and no policy: {WHAT}")
    name, kind = next(iter(there.items()))
    return kind, path / name


def _kind(folder: Path) -> str:
    """What lies in a folder itself; empty if nothing does."""
    if (folder / store.CARD).is_file():
        return POLICY
    return STUDENT if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else ""


def _check_finished(path: Path, source: str) -> None:
    """Refuses a run that is under way, and what it has made so far."""
    whole = path.resolve()
    for run in (whole, whole.parent) if whole.name in INNER else (whole,):
        if (run / CONFIG).is_file() and not _kind(run) and not (run / RESULT).is_file():
            raise InputError(f"the run in {run} is not finished: go on with it by --resume, and then push {source}")
