"""Scores each chunk of a corpus with a language model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ackd import corpora, models
from ackd.building.checks import check_device
from ackd.config import checked
from ackd.corpora.of_runs import kept_in, ready
from ackd.distributed.shards import own_device, own_shard
from ackd.errors import InputError
from ackd.experiments.language_options import ScoreConfig
from ackd.experiments.objects import by_name
from ackd.experiments.progress import move, progress
from ackd.experiments.texts import given_texts, language_model, language_tokenizer
from ackd.experiments.trained import read_result
from ackd.models import Model, Tokenizer
from ackd.teachers import ModelTeacher


class Scoring:
    """Computes the mean loss of each chunk, in a run's folder; under torchrun, each process scores one part.

    Args:
        config: options of the model and the corpus.
        **objects: model, tokenizer and texts, if given as objects.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: ScoreConfig, **objects: Any) -> None:
        if config.shard is None:
            shard, output = own_shard(), config.output
            if shard != "1/1":
                output = str(Path(output) / f"shard-{shard.replace('/', '-of-')}")
            config = replace(config, shard=shard, device=own_device(config.device), output=output)
        self.config, self.objects = config, objects
        self.folder = config.run_folder((config.model, config.corpus))
        self.finished = config.finished(self.folder, "score")
        self.of = 0  # number of chunks of the whole corpus, set by `run`

    def run(self) -> dict[str, Any]:
        """Writes the scores to the run's `scores.bin`, one block at a time; returns the fields of `result.json`.

        Raises:
            InputError: if an option cannot be used.
        """
        config, folder = self.config, self.folder
        if config.batch_size < 1:
            raise InputError(f"the batch size must be above 0, got {config.batch_size}")
        device = check_device(config.device)
        source = self.objects.get("model", config.model)
        tokenizer = language_tokenizer(source, self.objects.get("tokenizer"))
        model = language_model(source, device, config.model)
        texts = self.objects.get("texts", {}).get("corpus")
        with ready(folder, config.corpus, tokenizer, config.max_length, config.model, texts=texts) as corpus:
            models.check_length(model, int(corpus.lengths.max()) - 1, config.model)
            assert config.shard is not None
            part = corpora.shard(len(corpus), config.shard)
            folder.begin("score", asdict(config), by_names=not any(self.objects.values()))
            corpus, self.of = kept_in(folder, corpus), len(corpus)
        started = time.perf_counter()
        teacher = ModelTeacher(model, precision=config.precision)
        with progress(part[1] - part[0], "score", "chunk", quiet=config.quiet) as bar:
            flops = corpora.score(
                teacher,
                corpus,
                folder.path,
                part,
                batch_size=config.batch_size,
                device=device,
                on_block=lambda done: move(bar, done),
            )
        result = {
            "chunks": part[1] - part[0],
            "tokens": int(corpus.lengths[slice(*part)].sum()),
            "mean_loss": float(corpora.read_values(folder.path, part[1] - part[0]).mean()),
            "flops": flops,
            "corpus": str(corpus.folder.resolve()),
            "seconds": round(time.perf_counter() - started, 3),
        }
        folder.write_json("result.json", result)
        return result


def score(
    model: str | Path | Model, corpus: Any, output: str | Path, *, tokenizer: Tokenizer | None = None, **options: Any
) -> Mapping[str, Any]:
    """Scores each chunk of a corpus by a causal language model's mean loss, for `refine`.

    Args:
        model: a folder, a run that contains one, a hub id, or a transformers model, which is then frozen and converted
            to float32.
        corpus: a text file, the folder of a corpus, a `Dataset` with a column `text`, or a list of texts.
        output: folder for the scores; `resume=True` continues it.
        tokenizer: tokenizer of a model given as an object; if None, the one in its folder.
        **options: the other fields of `ScoreConfig`.

    Returns:
        The fields of `result.json`.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
    """
    named, texts = given_texts({"model": model, "corpus": corpus, "output": output, **options}, "corpus")
    plain, objects = by_name({**named, "tokenizer": tokenizer}, "model")
    scoring = Scoring(checked(ScoreConfig, plain, others=("tokenizer",)), **objects, texts=texts)
    return read_result(scoring.folder) if scoring.finished else scoring.run()
