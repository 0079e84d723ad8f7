from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

hypothesis.settings.register_profile("ackd", deadline=None)  # a busy machine is no mistake
hypothesis.settings.load_profile("ackd")
torch.set_num_threads(1)  # tiny models are faster so, and equalities need one thread count everywhere

from ackd import models
from ackd.models import Model
from ackd.types import Batch
from tests.brief import brief
from tests.processes import Forked, workers_of

brief()


def pytest_configure(config: pytest.Config) -> None:
    """`--device auto` finds no GPU where bits are compared; tests/test_cuda.py has one if it is named by itself."""
    if not any("test_cuda" in one for one in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


SHARED = Path(os.environ.get("ACKD_SHARED", Path(__file__).parents[1] / ".." / "shared")).resolve()


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking through millions of objects for garbage took a seventh of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and models, where they are at hand."""
    if not (SHARED / "glue").is_dir():
        pytest.skip(f"needs the real data under {SHARED}: set ACKD_SHARED to the folder that holds glue/ and models/")
    return SHARED


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Workers of the backend subproc begin with everything imported. How they are spawned is tested in distributed/."""
    with workers_of(Forked(all_of_dev=False)):
        yield


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Small models with random weights from a seed."""

    def make(*, layers: int = 4, width: int = 16, heads: int = 2, classes: int = 2, seed: int = 0) -> Model:
        config = models.small_config(50, classes, layers=layers, width=width, heads=heads, dropout=0.1)
        config.initializer_range = 0.3  # so that layers matter and no loss is lost in rounding
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return models.from_config(config)()

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Random batches whose examples have the given lengths."""

    def make(lengths: tuple[int, ...] = (7, 3, 5), *, classes: int = 2, seed: int = 0, extra: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        longest = max(lengths) + extra
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        tokens = [torch.randint(5, 50, (length,), generator=generator) for length in lengths]
        ids = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in tokens])
        labels = torch.randint(0, max(classes, 2), (len(lengths),), generator=generator)
        return Batch(
            torch.arange(len(lengths)),
            {"input_ids": ids, "attention_mask": mask},
            labels.float() if classes == 1 else labels,
        )

    return make
