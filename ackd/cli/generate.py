"""`ackd generate`: a corpus that a teacher has written."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ackd.config import Precision
from ackd.experiments.options import ResumableConfig
from ackd.experiments.progress import move, progress

if TYPE_CHECKING:
    from ackd.corpora import Corpus, Writing

SAMPLES = 20  # chunks that are written as text, to look at


@dataclass(frozen=True, kw_only=True)
class Generate(ResumableConfig):
    """Let a language model go on with the beginning of each chunk of a corpus: texts for sequence distillation, which
    `ackd pretrain` learns from.
    """

    model: str
    """The teacher that writes: folder, a run that holds one, or a hub id."""
    corpus: str
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder of ours."""
    max_length: int = 257
    """Of a text file: tokens of a chunk, one more than the model reads at once."""
    part: str = "0:1"
    """Use this part of the corpus alone, as two shares."""
    prompt: float = 0.75
    """The share of each chunk that the model is given; it writes as many tokens as the rest had."""
    temperature: float = 1.0
    """Of what it writes; 0 takes the likeliest token each time."""
    no_repeat: int = 6
    """No run of so many tokens comes twice in a chunk; 0 lets any."""
    batch_size: int = 8
    """Chunks that are written at a time."""
    seed: int = 0
    """Of what is drawn."""
    device: str = "cpu"
    """Where the model is: cpu, cuda, cuda:1."""
    precision: Precision = "fp32"
    """What it computes in."""

    def run(self) -> None:
        """Writes the corpus, block after block, to OUTPUT."""
        from ackd import corpora, models
        from ackd.building.checks import check_device
        from ackd.cli.score import kept_in, ready
        from ackd.teachers import ModelTeacher

        folder = self.run_folder((self.model, self.corpus))
        if self.finished(folder, "generate"):
            return
        how = corpora.Writing(self.prompt, self.temperature, self.no_repeat, self.batch_size, self.seed)
        device = check_device(self.device)
        tokenizer = models.load_tokenizer(self.model)
        model = models.load_model(self.model, device=device, language=True)
        models.check_causal(model, self.model)
        teacher = ModelTeacher(model, precision=self.precision)
        with ready(folder, self.corpus, tokenizer, self.max_length, self.model, "source") as corpus:
            models.check_length(teacher.model, int(corpus.lengths.max()) - 1, self.model)
            first, last = corpora.part(len(corpus), self.part)
            folder.begin("generate", asdict(self))
            corpus = kept_in(folder, corpus)
        started = time.perf_counter()
        with progress(last - first, "generate", "chunk") as bar:
            written, flops = corpora.write(
                teacher, corpus, folder.path, (first, last), how, on_block=lambda done: move(bar, done)
            )
        given = int(how.given(written.lengths).sum())
        _sample(folder.path, written, how)
        folder.write_json(
            "result.json",
            {
                "chunks": len(written),
                "tokens": written.header.tokens,
                "written": written.header.tokens - given,
                "flops": flops,
                "corpus": written.header.fingerprint,
                "seconds": round(time.perf_counter() - started, 3),
            },
        )
        print(f"{len(written)} chunks, {written.header.tokens} tokens, of which the model wrote all but {given}")
        print(f"corpus: {folder.path}")


def _sample(folder: Path, corpus: Corpus, how: Writing) -> None:
    """Writes the first chunks as text, with a mark where the teacher begins."""
    tokenizer, given = corpus.tokenizer(), how.given(corpus.lengths)
    lines = []
    for place in range(min(SAMPLES, len(corpus))):
        chunk = corpus.chunk(place)
        theirs, ours = tokenizer.batch_decode([chunk[: given[place]], chunk[given[place] :]])
        lines.append(f"=== chunk {place}\n{theirs} >>> {ours}\n")
    (folder / "samples.txt").write_text("\n".join(lines), encoding="utf-8")
