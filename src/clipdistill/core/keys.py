"""A growing map from digests to small numbers, in columns instead of a dictionary.

An entry takes 12 bytes, its number and some 3 bytes more; in a dictionary it takes 100 and more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKET = 256
"""Digests are evenly spread over sorted columns of so many, so that an insertion moves few of them;
the arrays of a bucket take some 500 bytes themselves."""
KEY_BYTES = 12
"""Bytes of a digest that count: among 10^9 two agree with a probability of 10^-11."""

_Bucket = tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.integer]]
"""The first 8 bytes of digests, ascending; the 4 bytes after them; their numbers."""


class Keys:
    """Maps digests, bytes of which the first 12 are as good as random, to integers.

    Args:
        kind: type of the integers.
    """

    def __init__(self, kind: type[np.integer]) -> None:
        self._bits = 0
        self._buckets: list[_Bucket] = [
            (np.empty(0, np.uint64), np.empty(0, np.uint32), np.empty(0, kind))
        ]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes, default: int = 0) -> int:
        """The number of a digest; `default` where there is none."""
        bucket, place, there = self._find(key)
        return int(self._buckets[bucket][2][place]) if there else default

    def __contains__(self, key: bytes) -> bool:
        return self._find(key)[2]

    def __setitem__(self, key: bytes, value: int) -> None:
        bucket, place, there = self._find(key)
        if there:
            self._buckets[bucket][2][place] = value
            return
        head, rest = _parts(key)
        heads, rests, values = self._buckets[bucket]
        self._buckets[bucket] = (
            np.insert(heads, place, np.uint64(head)),
            np.insert(rests, place, np.uint32(rest)),
            np.insert(values, place, value),
        )
        self._count += 1
        if self._count > BUCKET << self._bits:
            self._split()

    def _split(self) -> None:
        """Divide each bucket in two."""
        self._bits += 1
        left, self._buckets = self._buckets[::-1], []
        while left:
            heads, rests, values = left.pop()
            middle = np.uint64(len(self._buckets) + 1 << 64 - self._bits)
            cut = int(np.searchsorted(heads, middle))
            for part in (slice(cut), slice(cut, None)):
                self._buckets.append((heads[part].copy(), rests[part].copy(), values[part].copy()))

    def _find(self, key: bytes) -> tuple[int, int, bool]:
        """The bucket of a digest, its place or that where it belongs, and whether it is there."""
        head, rest = _parts(key)
        bucket = head >> (64 - self._bits)
        heads, rests, _ = self._buckets[bucket]
        place = int(np.searchsorted(heads, np.uint64(head)))
        while place < len(heads) and heads[place] == head and rests[place] != rest:
            place += 1
        return bucket, place, place < len(heads) and int(heads[place]) == head


def _parts(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[8:KEY_BYTES], "big")
