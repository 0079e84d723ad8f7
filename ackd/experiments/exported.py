"""What came of an export: the model before and after, side by side."""

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
    """A model in one form.

    Args:
        name: torch, onnx or int8.
        score: on dev, in percent; None without one.
        bytes: of its weights on disk.
        milliseconds: of an answer to so many examples at once.
        difference: largest, of a logit from torch's.
        equal: share of the decisions that are torch's; None of torch itself, and of a regression.
    """

    name: str
    score: float | None
    bytes: int
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    difference: float | None = None
    equal: float | None = None


@dataclass(frozen=True)
class Exported:
    """A model that was written for others to run.

    Args:
        folder: where it lies.
        format: in which form.
        task: that it was reported on; empty if it is not known.
        metric: what the score is.
        examples: of dev; `equal` is over these, or over the random texts if there are none.
        random: texts of random tokens that it was asked about as well.
        threads: of the CPU that the answers were timed with.
        versions: as it was first, in torch.
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
        """What was written has this on dev, in percent, with all of its bits; None without dev."""
        return self.versions[1].score

    def as_dict(self) -> dict[str, Any]:
        """As `export.json` has it."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def table(self) -> str:
        """The versions side by side, a row for each number that is known."""
        rows = [
            ["", *(one.name for one in self.versions)],
            *([name, *cells] for name, cells in self._rows() if any(cells)),
        ]
        texts = f"{self.random} random texts"
        on = (
            f"{self.examples:,} examples of dev and {texts}"
            if self.examples
            else f"{texts} alone: no dev split is known"
        )
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return "\n".join([*aligned(rows), f"answers compared on {on}; times are medians on this CPU with {threads}"])

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        """What is told of each version, in its order."""
        yield f"{self.metric} on dev", [shown(one.score, ".2f") for one in self.versions]
        yield "size on disk", [readable(one.bytes) for one in self.versions]
        for count in BATCHES:
            cells = [shown(one.milliseconds.get(count), ".2f") for one in self.versions]
            yield f"ms for {count} example{'s' * (count > 1)}", cells
        yield "largest difference of a logit", [shown(one.difference, ".1e") for one in self.versions]
        yield "equal decisions", [shown(one.equal, ".2%") for one in self.versions]

    def use(self) -> str:
        """How others load it."""
        load = "optimum.onnxruntime.ORTModelForSequenceClassification.from_pretrained"
        quantised = f', file_name="{INT8}"' if len(self.versions) > 2 else ""
        return f'use it:  {load}("{self.folder}"{quantised}), or onnxruntime alone (docs/export.md)'
