"""Which row of embeddings is of each image: names are streamed, and only the keys are in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.texts import Index, Texts

MANY = 2
"""Rows whose paths end with a key are counted up to so many: then the key stands for none."""


class RowFinder:
    """Finds the row of each key among names that are added in the order of their rows.

    A key that occurs several times has the last row.  It takes 16 bytes per key (20 with 2^31 rows
    and more), 5 more with `by_ends`, and 8 of each other name with `count_others`.

    Args:
        keys: names of N images below the images folder.
        stored: number of rows, at most.
        by_ends: whether a key that is not there itself stands for the only row whose path ends with
            it: pools without a card may hold whole paths.
        count_others: whether names that are none of the keys shall be counted.
    """

    def __init__(
        self,
        keys: Sequence[str],
        stored: int,
        *,
        by_ends: bool = False,
        count_others: bool = False,
    ) -> None:
        kind = np.int32 if stored < 1 << 31 else np.int64
        self._index = Index(keys)
        self._rows: NDArray[np.integer] = np.full(len(keys), -1, kind)
        self._ends: NDArray[np.uint8] | None = None
        if by_ends:
            self._ends = np.zeros(len(keys), np.uint8)
            self._last: NDArray[np.integer] = np.full(len(keys), -1, kind)
        self._others: list[NDArray[np.int64]] | None = [] if count_others else None

    def add(self, rows: NDArray[np.integer], names: Texts) -> NDArray[np.intp]:
        """Look at further rows, int (n,), and their names; returns the place of each among the
        keys, int (n,), -1 where it is none of them.
        """
        places = self._index.find(names)
        there = places >= 0
        self._rows[places[there]] = rows[there]
        if not there.all():
            others = np.flatnonzero(~there)
            if self._ends is not None:
                self._add_ends(rows, names, others, self._ends)
            if self._others is not None:
                hashes = (hash(names[number]) for number in others.tolist())
                self._others.append(np.fromiter(hashes, np.int64, len(others)))
        return places

    def _add_ends(
        self,
        rows: NDArray[np.integer],
        names: Texts,
        others: NDArray[np.intp],
        ends: NDArray[np.uint8],
    ) -> None:
        tails: list[str] = []
        owners: list[int] = []
        for number in others.tolist():
            parts = names[number].replace("\\", "/").split("/")
            tails += ["/".join(parts[-length:]) for length in range(1, len(parts))]
            owners += [number] * (len(parts) - 1)
        places = self._index.find(tails)
        hits = np.flatnonzero(places >= 0)
        found = places[hits]
        some, counts = np.unique(found, return_counts=True)
        ends[some] = np.minimum(ends[some] + counts, MANY)
        self._last[found] = rows[np.array(owners, np.intp)[hits]]

    def rows(self) -> NDArray[np.integer]:
        """The row of each key, int (N,); -1 where there is none."""
        if self._ends is not None:
            only = (self._rows < 0) & (self._ends == 1)
            self._rows[only] = self._last[only]
        return self._rows

    def others(self) -> int:
        """How many different names are none of the keys; 0 where they are not counted."""
        return len(np.unique(np.concatenate([np.empty(0, np.int64), *(self._others or [])])))
