"""One fine-tuned teacher for all commands, and little to report on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ackd.cli import main
from tests.small_dev import small_dev


@pytest.fixture(autouse=True, scope="module")
def little_to_report() -> Iterator[None]:
    """Modules that compare with processes that know nothing of it override this."""
    with small_dev():
        yield


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "polarity"
    arguments = ["finetune", "--task", "polarity", "--max-examples", "800", "--epochs", "2", "--lr", "1e-3"]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder
