"""Models and tokenizers from folders, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ackd import models
from ackd.tasks import embedded_tokenizer, tokenise


@pytest.mark.parametrize("cut", [None, 77])
def test_a_tokenizer_is_saved_as_it_was_read_whatever_it_has_cut_since(cut: int | None, tmp_path: Path) -> None:
    original = embedded_tokenizer("polarity")
    if cut is not None:
        original.backend_tokenizer.enable_truncation(cut)
        original.backend_tokenizer.enable_padding(length=cut)
    models.save_tokenizer(tmp_path / "read", original)
    tokenizer = models.load_tokenizer(tmp_path / "read")
    tokenise([["good bad good"]], np.zeros(1, np.int64), np.zeros(1, np.int64), tokenizer, 4)
    models.save_tokenizer(tmp_path / "saved", tokenizer)
    read, saved = (json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("read", "saved"))
    assert saved == read
    assert (saved["truncation"] or {}).get("max_length") == cut
