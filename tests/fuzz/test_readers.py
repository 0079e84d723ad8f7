"""Whatever lies on disk is read, or refused with a sentence."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, attempt, damaged

# what takes tens of milliseconds a time is tried less often here, and as often as the others by benchmarks/fuzz.py
SLOW = {"journal": 15, "report": 15, "comparison": 25, "model": 40, "config": 60, "text": 60, "glue": 40}
SLOW |= dict.fromkeys(("csv", "jsonl", "parquet", "saved", "columns", "sentences"), 40)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    indices = {name: tmp_path_factory.mktemp(name) / "sample" for name in READERS}
    for name, place in indices.items():
        place.mkdir()
        READERS[name].make(place)
    return indices


@pytest.fixture(autouse=True)
def quiet() -> object:
    """What is logged of a damaged file is no part of this."""
    logger = logging.getLogger("ackd")
    logger.disabled = True
    yield
    logger.disabled = False


# pandas leaves a file open where it fails
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # in memory, where there is such a place


@pytest.mark.parametrize("name", READERS)
def test_a_sound_one_is_accepted(name: str, samples: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    damaged(READERS[name], samples[name], folder, random.Random(0), changes=0)
    assert attempt(READERS[name], folder) == ""


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_one_is_read_or_refused_with_a_sentence(name: str, samples: dict[str, Path]) -> None:
    refused = 0

    @settings(
        max_examples=SLOW.get(name, 200), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        nonlocal refused
        with tempfile.TemporaryDirectory(dir=PLACE) as place:
            folder = Path(place) / "folder"
            damaged(READERS[name], samples[name], folder, random.Random(seed))
            refused += bool(attempt(READERS[name], folder))

    check()
    assert refused or name == "federated"  # which makes anew what it cannot read


@pytest.mark.parametrize("depth", [300, 700, 980, 1500])
def test_what_nests_deep_can_be_damaged_further(depth: int) -> None:
    assert all(isinstance(mutated(b"[" * depth + b"1" + b"]" * depth, random.Random(i)), bytes) for i in range(100))
