"""Finds examples that share text: a phrase of another, a passage, a premise, a question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

WORDS = 4  # fewest words of a text that counts as a phrase inside another text
HEADING_ROWS, HEADING_SHARE = 50, 0.01  # a short text in more than so many rows is a heading
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
PAIRS = 2**22  # pairs that are compared at a time


class Overlap:
    """Finds rows that share text, ignoring case and white space.

    Two rows share text if they have a text in common, in any columns. With one column, they also share text if one
    text is a phrase inside the other and has at least 4 words. With two columns, a text of fewer than 4 words in more
    than 50 rows and more than 1 % of the rows is a heading ("food", "yes"). A heading joins only rows with all texts
    equal.

    Args:
        texts: the columns, each with N texts.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        columns = [[" ".join(text.lower().split()) for text in column] for column in texts]
        self._lines = columns[0] if len(columns) == 1 else None
        ids: dict[str, int] = {}
        keys = np.array([[ids.setdefault(text, len(ids)) for text in column] for column in columns], np.int64)
        joins = np.ones(len(ids), np.bool_)
        if len(columns) > 1:
            rows = np.bincount(keys.ravel(), minlength=len(ids))
            often = rows > max(HEADING_ROWS, HEADING_SHARE * keys.shape[1])
            joins = ~(often & np.array([text.count(" ") < WORDS - 1 for text in ids], np.bool_))
            whole = np.unique(keys, axis=1, return_inverse=True)[1].reshape(1, -1)
            keys = np.concatenate([keys, len(ids) + whole])
            joins = np.concatenate([joins, np.ones(int(whole.max(initial=0)) + 1, np.bool_)])
        self._keys, self._joins = keys, joins

    def touching(self, rows: Mask) -> Mask:
        """[N], True for rows that share text with one of `rows`, and for `rows` themselves."""
        marked = np.zeros(len(self._joins), np.bool_)
        marked[self._keys[:, rows]] = True
        found: Mask = rows | (marked & self._joins)[self._keys].any(0)
        return found if self._phrases is None else found | self._phrases.touching(rows)

    def groups(self) -> Indices:
        """[N], the group number of each row; a group's rows have texts in common, directly or through other rows."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        kinds, count = self._keys.shape
        rows, keys = np.tile(np.arange(count), kinds), self._keys.ravel()
        there = self._joins[keys]
        size = count + len(self._joins)
        edges = coo_array((np.ones(there.sum(), np.int8), (rows[there], count + keys[there])), shape=(size, size))
        groups: Indices = connected_components(edges, directed=False)[1][:count].astype(np.int64)
        return groups

    @cached_property
    def _phrases(self) -> _Phrases | None:
        return None if self._lines is None else _Phrases(self._lines)


class _Phrases:
    """Finds texts inside other texts, by hashes of their words.

    The hash of n words from index i on is `H(i, n) = sum_j x_{i+j} b^j` modulo 2^64, with a random number x for each
    word; it is a difference of two cumulative sums. Equal texts have equal hashes, so none is missed. Different texts
    have equal hashes with a probability of about 2^-64 (Karp and Rabin, Efficient randomized pattern-matching
    algorithms, 1987, https://doi.org/10.1147/rd.312.0249).
    """

    def __init__(self, lines: Sequence[str]) -> None:
        ids: dict[str, int] = {}
        rows = [[ids.setdefault(word, len(ids)) for word in line.split()] for line in lines]
        self.lengths = np.array([len(row) for row in rows], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        total = int(self.lengths.sum())
        words = np.fromiter(chain.from_iterable(rows), np.int64, total)
        numbers = np.random.default_rng(0).integers(2**64, size=len(ids) + 1, dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(numbers[words] * _powers(BASE, total))])
        self._back = _powers(pow(BASE, -1, 2**64), total)
        self._long = self.lengths >= WORDS
        self._whole = np.zeros(len(rows), np.uint64)
        self._whole[self._long] = self._hash(self.starts[self._long], self.lengths[self._long])

    def _hash(self, indices: Indices, lengths: Indices | int) -> NDArray[np.uint64]:
        """H(i, n) for each index and length."""
        hashes: NDArray[np.uint64] = (self._sums[indices + lengths] - self._sums[indices]) * self._back[indices]
        return hashes

    def touching(self, rows: Mask) -> Mask:
        """[N], True for rows that are inside one of `rows`, or contain one."""
        everything, mine = np.flatnonzero(self._long), np.flatnonzero(self._long & rows)
        found = np.zeros(len(rows), np.bool_)
        if len(mine):
            found[self._found(mine, everything)[0]] = True
            found |= self._long & np.isin(self._whole, self._found(everything, mine)[1])
        return found

    def _found(self, needles: Indices, hay: Indices) -> tuple[Indices, NDArray[np.uint64]]:
        """The rows of `hay` that contain a text of `needles`, and the hashes of the found texts.

        Only places with a needle's first four words are compared, once for each length of such needles.
        """
        wholes = np.unique(self._whole[needles])
        starts = np.stack([self._hash(self.starts[needles], WORDS), self.lengths[needles].astype(np.uint64)])
        firsts, lengths = np.unique(starts, axis=1)
        heads, begins, counts = np.unique(firsts, return_index=True, return_counts=True)
        reach = self.lengths[hay] - WORDS + 1
        rows = np.repeat(hay, reach)
        indices = np.arange(len(rows)) - np.repeat(np.cumsum(reach) - reach, reach) + self.starts[rows]
        head = self._hash(indices, WORDS)
        group = np.minimum(np.searchsorted(heads, head), len(heads) - 1)
        begun = np.flatnonzero(heads[group] == head)
        found_rows, found_hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        for part in np.array_split(begun, 1 + int(counts[group[begun]].sum()) // PAIRS):
            several = counts[group[part]]
            place, row = np.repeat(indices[part], several), np.repeat(rows[part], several)
            nth = np.arange(len(place)) - np.repeat(np.cumsum(several) - several, several)
            length = lengths[np.repeat(begins[group[part]], several) + nth].astype(np.int64)
            fits = place + length <= self.starts[row] + self.lengths[row]
            place, row, length = place[fits], row[fits], length[fits]
            hashes = self._hash(place, length)
            same = _among(hashes, wholes)
            found_rows.append(np.unique(row[same]))
            found_hashes.append(np.unique(hashes[same]))
        return np.concatenate(found_rows), np.concatenate(found_hashes)


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """1, b, b^2, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)


def _among(values: NDArray[Any], known: NDArray[Any]) -> Mask:
    """Whether each of `values` is in `known`, which is sorted and not empty."""
    same: Mask = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return same
