"""Writes a corpus with a teacher model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ackd import corpora, models
from ackd.building.checks import check_device
from ackd.config import checked
from ackd.corpora import Corpus, Writing
from ackd.corpora.of_runs import kept_in, ready
from ackd.experiments.language_options import GenerateConfig
from ackd.experiments.objects import by_name
from ackd.experiments.progress import move, progress
from ackd.experiments.texts import given_texts, language_model, language_tokenizer
from ackd.experiments.trained import read_result
from ackd.models import Model, Tokenizer
from ackd.teachers import ModelTeacher

SAMPLES = 20  # chunks that are also written as text


class Generating:
    """Continues the chunks of a corpus with a language model, in a run's folder.

    Args:
        config: options of the model, the corpus and the sampling.
        **objects: model, tokenizer and texts, if given as objects.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: GenerateConfig, **objects: Any) -> None:
        self.config, self.objects = config, objects
        self.folder = config.run_folder((config.model, config.corpus))
        self.finished = config.finished(self.folder, "generate")

    def run(self) -> dict[str, Any]:
        """Writes the corpus into the run's folder, one block at a time; returns the fields of `result.json`.

        Raises:
            InputError: if an option cannot be used.
        """
        config, folder = self.config, self.folder
        how = Writing(config.prompt, config.temperature, config.no_repeat, config.batch_size, config.seed)
        device = check_device(config.device)
        source = self.objects.get("model", config.model)
        tokenizer = language_tokenizer(source, self.objects.get("tokenizer"))
        model = language_model(source, device, config.model)
        teacher = ModelTeacher(model, precision=config.precision)
        texts = self.objects.get("texts", {}).get("corpus")
        with ready(folder, config.corpus, tokenizer, config.max_length, config.model, "source", texts) as corpus:
            models.check_length(teacher.model, int(corpus.lengths.max()) - 1, config.model)
            first, last = corpora.part(len(corpus), config.part)
            folder.begin("generate", asdict(config), by_names=not any(self.objects.values()))
            corpus = kept_in(folder, corpus)
        started = time.perf_counter()
        with progress(last - first, "generate", "chunk", quiet=config.quiet) as bar:
            written, flops = corpora.write(
                teacher, corpus, folder.path, (first, last), how, on_block=lambda done: move(bar, done)
            )
        _sample(folder.path, written, how)
        result = {
            "chunks": len(written),
            "tokens": written.header.tokens,
            "written": written.header.tokens - int(how.given(written.lengths).sum()),
            "flops": flops,
            "corpus": written.header.fingerprint,
            "seconds": round(time.perf_counter() - started, 3),
        }
        folder.write_json("result.json", result)
        return result


def _sample(folder: Path, corpus: Corpus, how: Writing) -> None:
    """Writes the first chunks as text; `>>>` marks the start of the generated part."""
    tokenizer, given = corpus.tokenizer(), how.given(corpus.lengths)
    lines = []
    for place in range(min(SAMPLES, len(corpus))):
        chunk = corpus.chunk(place)
        theirs, ours = tokenizer.batch_decode([chunk[: given[place]], chunk[given[place] :]])
        lines.append(f"=== chunk {place}\n{theirs} >>> {ours}\n")
    (folder / "samples.txt").write_text("\n".join(lines), encoding="utf-8")


def generate(
    model: str | Path | Model, corpus: Any, output: str | Path, *, tokenizer: Tokenizer | None = None, **options: Any
) -> Mapping[str, Any]:
    """Lets a causal language model continue the beginning of each chunk of a corpus, for sequence distillation.

    Args:
        model: a folder, a run that contains one, a hub id, or a transformers model, which is then frozen and converted
            to float32.
        corpus: a text file, the folder of a corpus, a `Dataset` with a column `text`, or a list of texts.
        output: folder for the new corpus; `resume=True` continues it.
        tokenizer: tokenizer of a model given as an object; if None, the one in its folder.
        **options: the other fields of `GenerateConfig`.

    Returns:
        The fields of `result.json`.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
    """
    named, texts = given_texts({"model": model, "corpus": corpus, "output": output, **options}, "corpus")
    plain, objects = by_name({**named, "tokenizer": tokenizer}, "model")
    generating = Generating(checked(GenerateConfig, plain, others=("tokenizer",)), **objects, texts=texts)
    return read_result(generating.folder) if generating.finished else generating.run()
