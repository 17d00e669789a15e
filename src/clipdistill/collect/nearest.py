"""The arithmetic of exact search: blocks of rows -> float32 -> cosines -> the best (numpy).

Rows come in blocks that stay in the processor's cache.  A block is turned to float32, multiplied
with the queries in small groups, and only what beats a query's k-th best so far is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

TILE = 32
GROUP = 16
"""Queries and rows of one matrix product.  Products as small as this stay in the thread that asks
(OpenBLAS gives larger ones to threads of its own, which then fight with ours) and need no copies:
0.36 us a row of 512 and 20 queries on one core, against 0.57 to 0.67 in blocks of 1024 and more,
and 0.7 to 1.7 with OpenBLAS' threads on two (2026-11-24, 2-core AMD EPYC with AVX-512)."""
LARGEST_HALF = 65504.0
"""The largest finite float16."""


@dataclass(frozen=True)
class Found:
    """The best rows of each query, the best first; of equal scores the lower row first.

    Attributes:
        scores: float32 (Q, k), cosines, descending; fewer columns when the pool is smaller.
        rows: int64 (Q, k), row numbers.
    """

    scores: Floats
    rows: Rows


class Buffer:
    """One thread's memory: a block of rows as float32, in groups, and their products.

    Blocks are filled up to whole groups; what fills them has a scale of NaN.
    """

    def __init__(self, chunk_rows: int, dim: int) -> None:
        self.dim = dim
        most = -(-chunk_rows // GROUP)
        self.rows = np.zeros((most * GROUP, dim), np.float32)
        self.scales = np.empty((most, 1, GROUP), np.float32)
        self.scores = np.empty(most * GROUP * TILE, np.float32)

    def groups(self, source: NDArray[np.floating]) -> Floats:
        """Rows (n, D) of any float type as float32 (groups, GROUP, D)."""
        count = -(-len(source) // GROUP)
        plain = source.dtype == np.float32 and source.flags.c_contiguous
        if plain and len(source) == count * GROUP:
            return np.asarray(source).reshape(count, GROUP, self.dim)
        to_float32(source, self.rows[: len(source)])
        return self.rows[: count * GROUP].reshape(count, GROUP, self.dim)

    def spread(self, scales: Floats) -> Floats:
        """Scales (n,) as (groups, 1, GROUP)."""
        count = -(-len(scales) // GROUP)
        result = self.scales[:count]
        flat = result.reshape(-1)
        flat[: len(scales)] = scales
        flat[len(scales) :] = np.nan
        return result

    def products(self, tile: Floats, groups: Floats, scales: Floats) -> Floats:
        """Cosines (groups, Q, GROUP) of the queries (Q, D); NaN for rows that must never win."""
        shape = (len(groups), len(tile), GROUP)
        result = self.scores[: len(groups) * len(tile) * GROUP].reshape(shape)
        with np.errstate(all="ignore"):
            np.matmul(tile, groups.transpose(0, 2, 1), out=result)
            result *= scales
        return result


def to_float32(source: NDArray[np.floating], out: Floats) -> None:
    """Copy rows of any float type to `out`, float32.

    Halves are converted with whole-number instructions, which every processor has for vectors:
    0.23 us a row of 512 against numpy's 0.90 (2026-11-24, AMD EPYC).  Exact for all finite values
    (the bits of a half, moved, are the float of 2 to the 112th of it); infinities and NaN come out
    as 65536 and more.
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

    Rows have to come in ascending order: one that only equals the k-th best is then left out, and
    the lower row stays.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.floor = np.full((queries, 1), -np.inf, np.float32)
        self.query = np.empty(0, np.int64)
        self.score = np.empty(0, np.float32)
        self.row = np.empty(0, np.int64)
        self.waiting: list[tuple[NDArray[np.int64], Floats, Rows]] = []
        self.many = max(2 * queries * k, 1 << 15)
        self.count = 0

    def add(self, scores: Floats, first: int) -> None:
        """Take the scores (groups, Q, GROUP) of the rows from `first` on; NaN is never kept."""
        better = np.flatnonzero(scores > self.floor)
        if len(better):
            group, place = np.divmod(better, GROUP * len(self.floor))
            query, column = np.divmod(place, GROUP)
            self.push(query, scores.reshape(-1)[better], first + group * GROUP + column)

    def push(self, query: NDArray[np.int64], score: Floats, row: Rows) -> None:
        """Take candidates: query number, score and row of each."""
        self.waiting.append((query, score, row))
        self.count += len(query)
        if self.count >= self.many:
            self.compact()

    def compact(self) -> None:
        """Forget all but the best `k` of each query."""
        parts = [(self.query, self.score, self.row), *self.waiting]
        query, score, row = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((row, -score, query))
        query, score, row = query[order], score[order], row[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        keep = rank < self.k
        self.query, self.score, self.row = query[keep], score[keep], row[keep]
        last = rank == self.k - 1
        self.floor[query[last], 0] = score[last]
        self.waiting.clear()
        self.count = 0

    def found(self) -> Found:
        """The result; every query has found equally many."""
        self.compact()
        shape = (len(self.floor), -1)
        return Found(self.score.reshape(shape), self.row.reshape(shape))


def joined(parts: Sequence[list[Best]]) -> Found:
    """The best of several threads, all tiles below each other."""
    found = []
    for tile in zip(*parts, strict=True):
        total = Best(len(tile[0].floor), tile[0].k)
        for part in tile:
            part.compact()
            total.push(part.query, part.score, part.row)
        found.append(total.found())
    return Found(
        np.concatenate([one.scores for one in found]), np.concatenate([one.rows for one in found])
    )
