"""`ackd refine-data`: the part of a corpus that a teacher knows better than a small reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ackd.experiments.options import OutputConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ackd.corpora import Corpus


@dataclass(frozen=True, kw_only=True)
class RefineData(OutputConfig):
    """Keep the part of a corpus that a teacher knows best compared with a small reference model (MiniPLM)."""

    teacher_scores: tuple[str, ...]
    """Scores of the teacher by `ackd score`; of a corpus in shards, all of them."""
    reference_scores: tuple[str, ...]
    """Scores of the reference, likewise."""
    ratio: float = 0.5
    """The share of the chunks to keep."""
    corpus: str | None = None
    """The corpus that was scored, if it lies elsewhere now."""
    normalise: Literal["mean", "sum"] = "mean"
    """Difference of the losses a token, or of those of a whole chunk."""
    exclude: str | None = None
    """Chunks to leave out, since the reference was trained on them: its run by `ackd pretrain`, or shares such as
    0:0.05."""
    select: Literal["difference", "random"] = "difference"
    """Which chunks to keep; random keeps as many, as a control."""
    seed: int = 0
    """Of --select random."""
    retokenise: str | None = None
    """Write the corpus in the tokens of this model or tokenizer folder instead."""
    max_length: int | None = None
    """With --retokenise: tokens of a chunk; as in the corpus if not given."""
    inspect: int = 100
    """Chunks with the highest and with the lowest score to write as text."""

    def run(self) -> None:
        """Writes the kept chunks to OUTPUT, in their order."""
        import numpy as np

        from ackd import corpora, models
        from ackd.cli.score import corpus_of
        from ackd.errors import InputError
        from ackd.runs.folder import RunFolder

        places = (*self.teacher_scores, *self.reference_scores)
        folder = RunFolder(self.output, overwrite=self.overwrite, inputs=(*places, self.corpus, self.exclude))
        if self.max_length is not None and (self.retokenise is None or self.max_length < 2):
            raise InputError(
                "--max-length goes with --retokenise, and is 2 or more: chunks keep their lengths otherwise"
            )
        if self.inspect < 0:
            raise InputError(f"--inspect is {self.inspect}: give 0 or more")
        teacher, reference = corpora.open_scores(self.teacher_scores), corpora.open_scores(self.reference_scores)
        source = self.corpus or next(filter(None, map(corpus_of, places)), None)
        if source is None:
            raise InputError("the corpus that was scored is not where it was: name it with --corpus")
        corpus = corpora.open_corpus(source)
        scores = corpora.differences(teacher, reference, corpus.split(0, len(corpus)).predicted, self.normalise)
        if corpus.header.fingerprint != teacher.header.corpus:
            raise InputError(f"the scores are of another corpus than {source}: name the one that was scored")
        allowed = self._allowed(corpus)
        kept = corpora.kept(scores, self.ratio, allowed, seed=self.seed if self.select == "random" else None)
        old = corpus.tokenizer()
        new = old if self.retokenise is None else models.load_tokenizer(self.retokenise)
        models.end_token(new)
        folder.begin("refine-data", asdict(self))
        chunks: Iterator[NDArray[np.int64]] = (corpus.chunk(place) for place in kept)
        longest = self.max_length or corpus.header.max_length
        if self.retokenise is not None:
            chunks = corpora.retokenised(chunks, old, new, longest)
        refined = corpora.write_corpus(folder.path, chunks, new, longest)
        np.save(folder.path / "kept.npy", kept, allow_pickle=False)
        self._inspect(folder.path, corpus, scores, allowed)
        result = self._result(scores, kept, allowed, refined, teacher.values, reference.values)
        folder.write_json("result.json", result)
        if teacher.header.model == reference.header.model:
            print("the teacher and the reference are one model: every score is 0, and the first chunks were kept")
        print(
            f"{len(kept)} of {result['candidates']} chunks kept, {refined.header.tokens} tokens: mean score "
            f"{result['mean_score_kept']:.4f} of those, {result['mean_score']:.4f} of all; "
            f"{result['below_zero']:.1%} of all are below 0"
        )
        print(f"corpus: {folder.path}")

    def _allowed(self, corpus: Corpus) -> NDArray[np.bool_]:
        """[N], which chunks may be kept."""
        import numpy as np

        from ackd import corpora

        allowed = np.ones(len(corpus), np.bool_)
        if self.exclude is not None:
            run = Path(self.exclude).is_dir()
            first, last = trained_on(self.exclude, corpus) if run else corpora.part(len(corpus), self.exclude)
            allowed[first:last] = False
        return allowed

    def _inspect(self, folder: Path, corpus: Corpus, scores: NDArray[np.float64], allowed: NDArray[np.bool_]) -> None:
        """Writes the texts with the highest and the lowest scores."""
        import numpy as np

        tokenizer, places = corpus.tokenizer(), np.flatnonzero(allowed)
        order = places[np.argsort(-scores[places], kind="stable")]
        for name, chosen in (("top", order[: self.inspect]), ("bottom", order[::-1][: self.inspect])):
            texts = tokenizer.batch_decode([corpus.chunk(place) for place in chosen]) if len(chosen) else []
            rows = zip(chosen, texts, strict=True)
            written = [f"=== chunk {place}, score {scores[place]:.4f}\n{text}\n" for place, text in rows]
            (folder / f"{name}.txt").write_text("\n".join(written), encoding="utf-8")

    def _result(
        self,
        scores: NDArray[np.float64],
        kept: NDArray[np.int64],
        allowed: NDArray[np.bool_],
        refined: Corpus,
        teacher: NDArray[np.float32],
        reference: NDArray[np.float32],
    ) -> dict[str, Any]:
        """What `result.json` says."""
        import numpy as np

        every = scores[allowed]
        shares = (0, 0.1, 1, 10, 50, 90, 99, 99.9, 100)
        return {
            "candidates": len(every),
            "kept": len(kept),
            "tokens": refined.header.tokens,
            "mean_score": float(every.mean()),
            "mean_score_kept": float(scores[kept].mean()),
            "teacher_loss_kept": float(teacher[kept].mean(dtype=np.float64)),
            "reference_loss_kept": float(reference[kept].mean(dtype=np.float64)),
            "below_zero": float((every < 0).mean()),
            "percentiles": {f"{share:g}": float(np.percentile(every, share)) for share in shares},
        }


def trained_on(run: str, corpus: Corpus) -> tuple[int, int]:
    """The chunks of the corpus that a model of `ackd pretrain` learned from.

    Raises:
        InputError: if it is no such run, or it learned from another corpus.
    """
    import json

    from ackd.errors import InputError

    try:
        result = json.loads((Path(run) / "result.json").read_text(encoding="utf-8"))
        its, first, last = result["corpus"], result["first"], result["last"]
        if not (type(first) is type(last) is int and 0 <= first < last):
            raise ValueError("no part of the corpus")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{run} is no finished run of ackd pretrain: give one, or shares such as 0:0.05") from error
    if its != corpus.header.fingerprint:
        raise InputError(f"{run} learned from another corpus than the one that was scored: nothing is to be left out")
    if last > len(corpus):
        raise InputError(f"{run} is damaged: it learned from {last} chunks, and the corpus has {len(corpus)}")
    return first, last
