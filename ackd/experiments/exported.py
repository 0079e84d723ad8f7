"""The result of an export: a comparison of the model and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ackd.experiments.comparison import BATCHES, aligned, shown
from ackd.models import INT8
from ackd.teachers.cache.budget import readable

EXPORT = "export.json"


@dataclass(frozen=True)
class Version:
    """One version of an exported model.

    Args:
        name: torch, onnx or int8.
        score: score on dev in percent; None without a dev split.
        bytes: size of the weights on disk.
        milliseconds: time of a forward pass, by number of examples.
        difference: largest difference between a logit and torch's; None for torch.
        equal: share of the decisions that equal torch's; None for torch and for regression.
    """

    name: str
    score: float | None
    bytes: int
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    difference: float | None = None
    equal: float | None = None


@dataclass(frozen=True)
class Exported:
    """An exported model, and its measurements.

    Args:
        folder: the folder of the files.
        format: format of the files.
        task: task of the dev split; empty without a dev split.
        metric: name of the score; empty without a dev split.
        examples: number of dev examples; `equal` is over these, or over the random texts if it is 0.
        random: number of random texts.
        threads: number of CPU threads in the measurements.
        versions: the versions; torch is the first.
    """

    folder: Path
    format: str
    task: str
    metric: str
    examples: int
    random: int
    threads: int
    versions: Sequence[Version]

    @property
    def score(self) -> float | None:
        """The score of the float32 file on dev in percent; None without a dev split."""
        return self.versions[1].score

    def as_dict(self) -> dict[str, Any]:
        """The content of `export.json`."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def table(self) -> str:
        """A table with a column for each version; rows without values are left out."""
        rows = [
            ["", *(one.name for one in self.versions)],
            *([name, *cells] for name, cells in self._rows() if any(cells)),
        ]
        texts = f"{self.random} random texts"
        on = (
            f"{self.examples:,} examples of dev and {texts}"
            if self.examples
            else f"{texts} only: no dev split is known"
        )
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return "\n".join([*aligned(rows), f"outputs compared on {on}; times are medians on this CPU with {threads}"])

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        """Yields the rows of the table: a name, and a cell for each version."""
        yield f"{self.metric} on dev", [shown(one.score, ".2f") for one in self.versions]
        yield "size on disk", [readable(one.bytes) for one in self.versions]
        for count in BATCHES:
            cells = [shown(one.milliseconds.get(count), ".2f") for one in self.versions]
            yield f"ms for {count} example{'s' * (count > 1)}", cells
        yield "largest difference of a logit", [shown(one.difference, ".1e") for one in self.versions]
        yield "equal decisions", [shown(one.equal, ".2%") for one in self.versions]

    def use(self) -> str:
        """How to load the files, in one line."""
        load = "optimum.onnxruntime.ORTModelForSequenceClassification.from_pretrained"
        quantised = f', file_name="{INT8}"' if len(self.versions) > 2 else ""
        return f'use it:  {load}("{self.folder}"{quantised}), or onnxruntime (docs/export.md)'
