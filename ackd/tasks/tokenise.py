"""Tokenises texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.models import unchanged
from ackd.split import Split


def tokenise(
    texts: Sequence[Sequence[str]],
    labels: NDArray[Any],
    ids: NDArray[np.int64],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Split:
    """Tokenises the examples with the text columns `texts`, truncated to `max_length` tokens.

    Raises:
        InputError: if an example has no token (e.g. an empty text, if the tokenizer adds no special tokens).
    """
    columns = [list(column) for column in texts]
    with unchanged(tokenizer):
        encoded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
    names = [name for name in tokenizer.model_input_names if name in encoded]
    lengths = [len(row) for row in encoded["input_ids"]]
    if 0 in lengths:
        row = int(ids[lengths.index(0)]) + 1
        raise InputError(f"row {row} of the data has no token for this tokenizer: leave empty texts out")
    inputs = {name: np.concatenate([np.asarray(row, np.int64) for row in encoded[name]]) for name in names}
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Split(inputs, np.concatenate([[0], np.cumsum(lengths)]), labels, ids, padding)
