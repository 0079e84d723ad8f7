"""Tokenised examples without padding, and batches of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.types import NO_TOKEN, Batch

Indices = Sequence[int] | NDArray[np.int64]
MASK = "attention_mask"


class Split:
    """Examples of a task, tokenised once and stored without padding.

    Args:
        inputs: for each of the model's inputs except the mask, the tokens of all examples, one after the other.
        offsets: [N + 1], the start of each example in `inputs`.
        labels: [N], int64 classes or float32 values; or [N, d], float32 embeddings.
        ids: [N], row numbers in the source; `select` keeps them.
        padding: the padding value of each input.
        language: whether the task is next-token prediction. A batch then has all tokens but the last of each text, and
            the following tokens as labels, [B, n]; `labels` is not used.
        end: the end-of-text token; the token after it is no label. None: the token after every token is a label.
        others: the same examples in the tokens of other tokenizers, by name; batches contain them too.
    """

    def __init__(
        self,
        inputs: Mapping[str, NDArray[Any]],
        offsets: NDArray[np.int64],
        labels: NDArray[Any],
        ids: NDArray[np.int64],
        padding: Mapping[str, int],
        *,
        language: bool = False,
        end: int | None = None,
        others: Mapping[str, Split] | None = None,
    ) -> None:
        self.inputs, self.offsets, self.labels, self.ids, self.padding = inputs, offsets, labels, ids, padding
        self.language, self.end = language, end
        self.others: Mapping[str, Split] = others or {}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N], the number of tokens of each example."""
        return np.diff(self.offsets)

    @property
    def read_lengths(self) -> NDArray[np.int64]:
        """[N], the tokens of each example that a model reads: the last one of a text is only predicted."""
        return self.lengths - int(self.language)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """[N], the number of labels of each text.

        Labels are all tokens except the first one and tokens after an end-of-text token.
        """
        if self.end is None:
            return self.lengths - 1
        ends = np.concatenate([[0], np.cumsum(self.inputs["input_ids"] == self.end)])
        inner: NDArray[np.int64] = ends[self.offsets[1:] - 1] - ends[self.offsets[:-1]]
        return self.lengths - 1 - inner

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids and tokens; it depends on the data, the tokenizer and the maximum length."""
        digest = hashlib.sha256()
        for name, values in (("ids", self.ids), ("offsets", self.offsets), *sorted(self.inputs.items())):
            digest.update(f"{name} {len(values)}".encode())
            digest.update(np.ascontiguousarray(values, dtype="<i8").data)
        return digest.hexdigest()

    def batch(self, indices: Indices) -> Batch:
        """The examples at `indices` as a batch, padded to the longest one."""
        chosen = np.asarray(indices, np.int64)
        starts = self.offsets[chosen]
        lengths = self.offsets[chosen + 1] - starts - int(self.language)
        indices = np.arange(lengths.max())
        mask = indices < lengths[:, None]
        where = np.where(mask, starts[:, None] + indices, 0)
        inputs = {
            name: torch.from_numpy(np.where(mask, flat[where], self.padding.get(name, 0)).astype(np.int64, copy=False))
            for name, flat in self.inputs.items()
        }
        inputs[MASK] = torch.from_numpy(mask.astype(np.int64))
        labels = self.labels[chosen]
        if self.language:
            tokens = self.inputs["input_ids"]
            told = mask if self.end is None else mask & (tokens[where] != self.end)
            labels = np.where(told, tokens[where + 1].astype(np.int64), NO_TOKEN)
        ids = torch.from_numpy(self.ids[chosen])
        others = {name: one.batch(chosen) for name, one in self.others.items()}
        return Batch(ids, inputs, torch.from_numpy(labels), torch.from_numpy(lengths), others)

    def select(self, indices: Indices) -> Split:
        """Only the examples at `indices`, in their order."""
        chosen = np.asarray(indices, np.int64)
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        where = np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        inputs = {name: flat[where] for name, flat in self.inputs.items()}
        labels, ids = self.labels[chosen], self.ids[chosen]
        others = {name: one.select(chosen) for name, one in self.others.items()}
        return Split(inputs, offsets, labels, ids, self.padding, language=self.language, end=self.end, others=others)

    def beside(self, name: str, other: Split) -> Split:
        """The same split with another tokenizer's tokens in its batches, under `name`.

        Raises:
            ValueError: if `other` contains other examples.
        """
        if not np.array_equal(self.ids, other.ids):
            raise ValueError("the other tokens are of other examples")
        both = copy.copy(self)
        both.others = {**self.others, name: other}
        return both

    def labelled(self, labels: NDArray[Any]) -> Split:
        """The same examples with other labels, [N, ...]."""
        other = copy.copy(self)
        other.labels = labels
        return other

    def by_length(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Yields indices in groups of at most `size`, sorted by length to reduce padding; each example once."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]
