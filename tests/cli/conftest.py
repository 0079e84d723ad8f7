"""One fine-tuned teacher for all commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from ackd.cli import main


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "polarity"
    arguments = ["finetune", "--task", "polarity", "--max-examples", "800", "--epochs", "2", "--lr", "1e-3"]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder
