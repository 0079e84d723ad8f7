"""Keeps the part of a corpus that a teacher predicts better than a small reference model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd import corpora, models
from ackd.config import checked
from ackd.corpora import Corpus, Scores
from ackd.corpora.of_runs import corpus_of, trained_on
from ackd.errors import InputError
from ackd.experiments.language_options import RefineConfig

SHARES = (0, 0.1, 1, 10, 50, 90, 99, 99.9, 100)  # percentiles of the scores to report


class Refining:
    """Keeps chunks of a corpus by the scores of two models (MiniPLM), in a run's folder.

    Args:
        config: options of the scores and the share to keep.

    Raises:
        InputError: if an option in `config` cannot be used.
    """

    def __init__(self, config: RefineConfig) -> None:
        self.config = config
        places = (*config.teacher_scores, *config.reference_scores)
        self.folder = config.run_folder((*places, config.corpus, config.exclude))
        if config.max_length is not None and (config.retokenise is None or config.max_length < 2):
            raise InputError(
                "--max-length goes with --retokenise, and is 2 or more: chunks keep their lengths otherwise"
            )
        if config.inspect < 0:
            raise InputError(f"--inspect is {config.inspect}: give 0 or more")
        self.teacher = corpora.open_scores(config.teacher_scores)
        self.reference = corpora.open_scores(config.reference_scores)
        source = config.corpus or next(filter(None, map(corpus_of, places)), None)
        if source is None:
            raise InputError("the corpus that was scored is not where it was: name it with --corpus")
        self.corpus = corpus = corpora.open_corpus(source)
        tokens = corpus.split(0, len(corpus)).predicted
        self.scores = corpora.differences(self.teacher, self.reference, tokens, config.normalise)
        if corpus.header.fingerprint != self.teacher.header.corpus:
            raise InputError(f"the scores are of another corpus than {source}: name the one that was scored")
        self.allowed = _allowed(corpus, config.exclude)

    @property
    def alike(self) -> bool:
        """Whether the teacher and the reference are one model, so that every score is 0."""
        return self.teacher.header.model == self.reference.header.model

    def run(self) -> dict[str, Any]:
        """Writes the kept chunks in corpus order, and example texts; returns the fields of `result.json`.

        Raises:
            InputError: if no chunk can be kept, or the chunks cannot be retokenised.
        """
        config, corpus, path = self.config, self.corpus, self.folder.path
        seed = config.seed if config.select == "random" else None
        kept = corpora.kept(self.scores, config.ratio, self.allowed, seed=seed)
        old = corpus.tokenizer()
        new = old if config.retokenise is None else models.load_tokenizer(config.retokenise)
        models.end_token(new)
        self.folder.begin("refine-data", asdict(config))
        chunks: Iterator[NDArray[np.int64]] = (corpus.chunk(place) for place in kept)
        longest = config.max_length or corpus.header.max_length
        if config.retokenise is not None:
            chunks = corpora.retokenised(chunks, old, new, longest)
        refined = corpora.write_corpus(path, chunks, new, longest)
        np.save(path / "kept.npy", kept, allow_pickle=False)
        self._inspect(path)
        result = self._result(kept, refined)
        self.folder.write_json("result.json", result)
        return result

    def _inspect(self, folder: Path) -> None:
        """Writes the texts with the highest and the lowest scores."""
        tokenizer, places = self.corpus.tokenizer(), np.flatnonzero(self.allowed)
        order, count = places[np.argsort(-self.scores[places], kind="stable")], self.config.inspect
        for name, chosen in (("top", order[:count]), ("bottom", order[::-1][:count])):
            texts = tokenizer.batch_decode([self.corpus.chunk(place) for place in chosen]) if len(chosen) else []
            rows = zip(chosen, texts, strict=True)
            written = [f"=== chunk {place}, score {self.scores[place]:.4f}\n{text}\n" for place, text in rows]
            (folder / f"{name}.txt").write_text("\n".join(written), encoding="utf-8")

    def _result(self, kept: NDArray[np.int64], refined: Corpus) -> dict[str, Any]:
        """The fields of `result.json`."""
        every = self.scores[self.allowed]
        return {
            "candidates": len(every),
            "kept": len(kept),
            "tokens": refined.header.tokens,
            "mean_score": float(every.mean()),
            "mean_score_kept": float(self.scores[kept].mean()),
            "teacher_loss_kept": _mean(self.teacher, kept),
            "reference_loss_kept": _mean(self.reference, kept),
            "below_zero": float((every < 0).mean()),
            "percentiles": {f"{share:g}": float(np.percentile(every, share)) for share in SHARES},
        }


def _allowed(corpus: Corpus, exclude: str | None) -> NDArray[np.bool_]:
    """[N], True for chunks that may be kept."""
    allowed = np.ones(len(corpus), np.bool_)
    if exclude is not None:
        run = Path(exclude).is_dir()
        first, last = trained_on(exclude, corpus) if run else corpora.part(len(corpus), exclude)
        allowed[first:last] = False
    return allowed


def _mean(scores: Scores, kept: NDArray[np.int64]) -> float:
    return float(scores.values[kept].mean(dtype=np.float64))


def refine(
    teacher_scores: Sequence[str | Path], reference_scores: Sequence[str | Path], output: str | Path, **options: Any
) -> Mapping[str, Any]:
    """Keeps the part of a corpus that a teacher knows best compared with a small reference model (MiniPLM).

    Args:
        teacher_scores: folders that `score` wrote for the teacher; all of them for a corpus in shards.
        reference_scores: folders for the reference model, in the same way.
        output: folder for the kept corpus.
        **options: the other fields of `RefineConfig`.

    Returns:
        The fields of `result.json`.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
    """
    named = {"teacher_scores": teacher_scores, "reference_scores": reference_scores, "output": output}
    return Refining(checked(RefineConfig, {**named, **options})).run()
