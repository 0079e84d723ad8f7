"""`ackd score`: what a language model makes of each chunk of a corpus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ackd.config import Precision
from ackd.experiments.options import ResumableConfig
from ackd.experiments.progress import move, progress

if TYPE_CHECKING:
    from ackd.corpora import Corpus
    from ackd.models import Tokenizer
    from ackd.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Score(ResumableConfig):
    """Score each chunk of a corpus by a causal language model's mean loss, for `ackd refine-data`."""

    model: str
    """The model: folder, a run that holds one, or a hub id."""
    corpus: str
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder of ours."""
    max_length: int = 257
    """Of a text file: tokens of a chunk, one more than the model reads at once."""
    batch_size: int = 8
    """Chunks that the model is asked about at a time."""
    shard: str | None = None
    """Score one part of the corpus, as 1/4 to 4/4; `refine-data` takes the folders of all of them together. Processes
    that torchrun starts take a part each, and leave OUTPUT/shard-1-of-4 and so on."""
    device: str = "cpu"
    """Where the model is: cpu, cuda, cuda:1."""
    precision: Precision = "fp32"
    """What it computes in."""

    def run(self) -> None:
        """Writes the scores, block after block, to OUTPUT/scores.bin."""
        from ackd import corpora, models
        from ackd.building.checks import check_device
        from ackd.distributed.shards import own_device, own_shard
        from ackd.errors import InputError
        from ackd.teachers import ModelTeacher

        if self.shard is None:
            shard, output = own_shard(), self.output
            if shard != "1/1":
                output = str(Path(output) / f"shard-{shard.replace('/', '-of-')}")
            replace(self, shard=shard, device=own_device(self.device), output=output).run()
            return
        folder = self.run_folder((self.model, self.corpus))
        if self.finished(folder, "score"):
            return
        if self.batch_size < 1:
            raise InputError(f"the batch size must be above 0, got {self.batch_size}")
        device = check_device(self.device)
        tokenizer = models.load_tokenizer(self.model)
        model = models.load_model(self.model, device=device, language=True)
        models.check_causal(model, self.model)
        with ready(folder, self.corpus, tokenizer, self.max_length, self.model) as corpus:
            models.check_length(model, int(corpus.lengths.max()) - 1, self.model)
            part = corpora.shard(len(corpus), self.shard)
            folder.begin("score", asdict(self))
            corpus = kept_in(folder, corpus)
        started = time.perf_counter()
        teacher = ModelTeacher(model, precision=self.precision)
        with progress(part[1] - part[0], "score", "chunk") as bar:
            flops = corpora.score(
                teacher,
                corpus,
                folder.path,
                part,
                batch_size=self.batch_size,
                device=device,
                on_block=lambda done: move(bar, done),
            )
        values = corpora.read_values(folder.path, part[1] - part[0])
        result = {
            "chunks": part[1] - part[0],
            "tokens": int(corpus.lengths[slice(*part)].sum()),
            "mean_loss": float(values.mean()),
            "flops": flops,
            "corpus": str(corpus.folder.resolve()),
            "seconds": round(time.perf_counter() - started, 3),
        }
        folder.write_json("result.json", result)
        print(f"{result['chunks']} of {len(corpus)} chunks, {result['tokens']} tokens: mean loss {values.mean():.4f}")
        print(f"scores: {folder.path}")


@contextmanager
def ready(
    folder: RunFolder, source: str, tokenizer: Tokenizer, max_length: int, model: str, name: str = "corpus"
) -> Iterator[Corpus]:
    """The corpus that is named, or a text file made one: beside the run's folder, which is not begun yet.

    Raises:
        InputError: if it cannot be used, or is of another tokenizer than `model`'s.
    """
    from ackd import corpora, models
    from ackd.errors import InputError

    own = corpora.find_corpus(folder.path / name) if folder.resumed else None
    if own is not None or not Path(source).is_file():
        corpus = corpora.open_corpus(own or source)
        if corpus.header.tokenizer != models.tokenizer_fingerprint(tokenizer):
            raise InputError(
                f"the corpus {source} is of another tokenizer than {model}: give the text itself, or a corpus that was "
                "converted with ackd refine-data --retokenise"
            )
        yield corpus
        return
    beside = next(parent for parent in folder.path.absolute().parents if parent.exists())
    with TemporaryDirectory(prefix=f".{folder.path.name}.", dir=beside, ignore_cleanup_errors=True) as place:
        yield corpora.tokenised(Path(place) / name, source, tokenizer, max_length)


def kept_in(folder: RunFolder, corpus: Corpus) -> Corpus:
    """The same corpus; one that was made for this run moves into its folder."""
    home = folder.path / corpus.folder.name
    if not corpus.folder.parent.name.startswith(f".{folder.path.name}."):
        return corpus
    corpus.folder.replace(home)
    return replace(corpus, folder=home)  # what is mapped stays mapped


def corpus_of(scores: str) -> str | None:
    """The corpus that some scores are of, if it is where it was."""
    from ackd import corpora

    if corpora.find_corpus(scores) is not None:
        return scores
    try:
        place = json.loads((Path(scores) / "result.json").read_text(encoding="utf-8"))["corpus"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return place if isinstance(place, str) and corpora.find_corpus(place) is not None else None
