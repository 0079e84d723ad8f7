from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from ackd.tasks import embedded_tokenizer

Row = Mapping[str, Any]
Write = Callable[[str, Sequence[Row]], Path]


@pytest.fixture(scope="session")
def glue(shared: Path) -> Path:
    """Real GLUE tasks in the hub's layout."""
    return shared / "glue"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return embedded_tokenizer("polarity")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as JSON lines."""

    def write(name: str, rows: Sequence[Row]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
