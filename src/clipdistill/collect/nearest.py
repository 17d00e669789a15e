"""The arithmetic of exact search: blocks of rows -> float32 -> cosines -> the best (numpy).

Rows are processed in blocks that fit the processor's cache.  A block is converted to float32 and
multiplied with the queries in small groups.  Only scores above a query's k-th best so far are
processed further.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

TILE = 32
GROUP = 16
"""Queries and rows of one matrix product.  Products of this size run in the calling thread and need
no copies; OpenBLAS distributes larger ones to its own threads, which then compete with ours.  With
rows of 512 and 20 queries it takes 0.36 us per row on one core, against 0.57 to 0.67 in blocks of
1024 and more, and 0.7 to 1.7 with OpenBLAS' threads on two (2026-11-24, 2-core AMD EPYC with
AVX-512)."""
WAITING = 1 << 15
"""Least number of rows that wait until they are compared with the best ones so far."""
LARGEST_HALF = 65504.0
"""The largest finite float16."""


@dataclass(frozen=True)
class Found:
    """The best rows of each query, the best first; of equal scores the lower row first.

    Attributes:
        scores: float32 (Q, k), cosines, descending; fewer columns when the pool has fewer rows.
        rows: int64 (Q, k), row numbers.
    """

    scores: Floats
    rows: Rows


class Buffer:
    """One thread's memory: a block of rows as float32, in groups, and their products.

    Blocks are padded to whole groups; the padding has a scale of NaN.
    """

    def __init__(self, chunk_rows: int, dim: int) -> None:
        self.dim = dim
        most = -(-chunk_rows // GROUP)
        self.rows = np.zeros((most * GROUP, dim), np.float32)
        self.scales = np.empty((most, 1, GROUP), np.float32)
        self.scores = np.empty(most * GROUP * TILE, np.float32)

    def groups(self, source: NDArray[np.floating]) -> Floats:
        """Convert rows (n, D) of any float type to float32 (groups, GROUP, D)."""
        count = -(-len(source) // GROUP)
        plain = source.dtype == np.float32 and source.flags.c_contiguous
        if plain and len(source) == count * GROUP:
            return np.asarray(source).reshape(count, GROUP, self.dim)
        to_float32(source, self.rows[: len(source)])
        return self.rows[: count * GROUP].reshape(count, GROUP, self.dim)

    def spread(self, scales: Floats) -> Floats:
        """Arrange scales (n,) as (groups, 1, GROUP)."""
        count = -(-len(scales) // GROUP)
        result = self.scales[:count]
        flat = result.reshape(-1)
        flat[: len(scales)] = scales
        flat[len(scales) :] = np.nan
        return result

    def products(self, tile: Floats, groups: Floats, scales: Floats) -> Floats:
        """Cosines (groups, Q, GROUP) of the queries (Q, D); NaN for rows that are never found."""
        shape = (len(groups), len(tile), GROUP)
        result = self.scores[: len(groups) * len(tile) * GROUP].reshape(shape)
        with np.errstate(all="ignore"):
            np.matmul(tile, groups.transpose(0, 2, 1), out=result)
            result *= scales
        return result


def to_float32(source: NDArray[np.floating], out: Floats) -> None:
    """Copy rows of any float type to `out`, float32.

    Halves are converted with integer instructions, which every processor has for vectors: 0.23 us
    per row of 512 against numpy's 0.90 (2026-11-24, AMD EPYC).  The result is exact for all finite
    values (a half's bits, shifted, are the float of its value times 2 to the power of -112).
    Infinities and NaN become 65536 and more.
    """
    if source.dtype != np.float16:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(out, source, casting="same_kind")
        return
    bits = out.view(np.int32)
    np.left_shift(source.view(np.int16), 13, out=bits, dtype=np.int32)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # 0x8FFFE000
    np.multiply(out, np.float32(2.0**112), out=out)


class Best:
    """The best `k` rows of each query among those that were added so far.

    Each of these takes 12 bytes, and 20 more while those of its query are compared or put in order.
    Rows have to be added in ascending order: then one that only equals the k-th best is left out,
    and the lower row stays.

    Args:
        queries: number of queries, at most 256.
        k: rows per query.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.floor = np.full((queries, 1), -np.inf, np.float32)
        self._kept = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in range(queries)]
        self._waiting: list[tuple[NDArray[np.uint8], Floats, Rows]] = []
        self._many = max(queries * k // 8, WAITING)
        self._count = 0

    def add(self, scores: Floats, first: int) -> None:
        """Add the scores (groups, Q, GROUP) of the rows from `first` on; NaN is never kept."""
        better = np.flatnonzero(scores > self.floor)
        if len(better):
            group, place = np.divmod(better, GROUP * len(self.floor))
            query, column = np.divmod(place, GROUP)
            rows = first + group * GROUP + column
            self._waiting.append((query.astype(np.uint8), scores.reshape(-1)[better], rows))
            self._count += len(better)
            if self._count >= self._many:
                self._sift()

    def _sift(self) -> None:
        """Keep the best `k` of each query."""
        if not self._count:
            return
        query, score, row = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._count = 0
        order = np.argsort(query, kind="stable")
        bounds = np.searchsorted(query[order], np.arange(len(self._kept) + 1))
        for number, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            mine = order[start:stop]
            if len(mine):
                self._merge(number, score[mine], row[mine])

    def merge(self, other: Best) -> None:
        """Add the rows of another one, which is empty afterwards."""
        self._sift()
        other._sift()
        for number in range(len(self._kept)):
            self._merge(number, *other._taken(number))

    def found(self) -> Found:
        """Return the result, which leaves this empty; every query has equally many rows."""
        self._sift()
        count = min(len(score) for score, _ in self._kept)
        shape = (len(self._kept), count)
        result = Found(np.empty(shape, np.float32), np.empty(shape, np.int64))
        for number in range(len(self._kept)):
            score, row = self._taken(number)
            order = np.lexsort((row, -score))[:count]
            np.take(score, order, out=result.scores[number], mode="clip")  # without a copy
            np.take(row, order, out=result.rows[number], mode="clip")
        return result

    def _taken(self, number: int) -> tuple[Floats, Rows]:
        found = self._kept[number]
        self._kept[number] = (found[0][:0].copy(), found[1][:0].copy())
        return found

    def _merge(self, number: int, score: Floats, row: Rows) -> None:
        """Add rows to those of a query, of which the best stay in the order in which they came."""
        kept = self._taken(number)
        score, row = np.concatenate([kept[0], score]), np.concatenate([kept[1], row])
        del kept
        if len(score) > self.k:
            last = np.partition(score, len(score) - self.k)[len(score) - self.k]
            stays = score > last
            same = score == last
            room = self.k - int(np.count_nonzero(stays))
            if room < np.count_nonzero(same):
                among = row[same]
                among.partition(room - 1)
                same &= row <= among[room - 1]
                del among
            stays |= same
            del same
            score, row = score[stays], row[stays]
        self._kept[number] = (score, row)
        if len(score) == self.k:
            self.floor[number, 0] = score.min()


def joined(parts: Sequence[list[Best]]) -> Found:
    """Merge the best rows of several threads; the tiles of queries follow each other."""
    found: list[Found] = []
    for first, *others in zip(*parts, strict=True):
        for other in others:
            first.merge(other)
        found.append(first.found())
    if len(found) == 1:
        return found[0]
    return Found(
        np.concatenate([one.scores for one in found]), np.concatenate([one.rows for one in found])
    )
