"""What a source is, and how hits are shared among prompts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ...core.wording import valid
from ...formats.urls import UrlRow, one_line

Source = Callable[[str, int], Iterator[UrlRow]]
"""`source(prompt, n)`: at most n hits, the best first.

A hit without a URL that can be downloaded has the URL "", so that it can be counted.  A source that
fails raises `ServiceError`; it never returns too few hits instead.
"""
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> float32 (N, D) of unit length."""
HITS_AT_ONCE = 8192
"""Hits that are put in order at a time."""


def usable_url(value: object) -> str:
    """Return a URL in the form of a list of URLs; "" when `download` does not support it."""
    url = one_line(value) if isinstance(value, str) else ""
    usable = url.lower().startswith(("http://", "https://")) and url == valid(url)
    return url if usable else ""


class Hits:
    """The hits of one prompt in columns, the best first: 24 bytes each; the journal has the rows.

    Two URLs of a list are taken for one where their hashes agree, among 10^8 with a probability of
    3 in 10,000.
    """

    __slots__ = ("_keys", "_places", "_scores")

    def __init__(self) -> None:
        self._keys, self._scores, self._places = array("q"), array("d"), array("q")

    def add(self, row: UrlRow, place: int) -> None:
        """Add a hit, whose row is at `place` of the journal."""
        self._keys.append(hash(row.url))
        self._scores.append(-math.inf if row.score is None else row.score)
        self._places.append(place)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> NDArray[np.int64]:
        """Hashes of the URLs, (N,); 0, that of "", for a hit without a URL."""
        return np.frombuffer(self._keys, np.int64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Similarities with the prompt, (N,); -inf where unknown."""
        return np.frombuffer(self._scores, np.float64)

    def place(self, number: int) -> int:
        """Where the journal has the row of a hit."""
        return self._places[number]


def balance(
    found: Sequence[Hits], n: int, taken: NDArray[np.int64] = np.zeros(0, np.int64)
) -> list[Sequence[int]]:
    """Share hits among prompts, so that no URL occurs twice and each prompt gets at most `n`.

    A URL goes to the prompt for which it ranks best; of equal ranks to the better score, then to
    the earlier prompt.  When that prompt already has `n` URLs, the URL goes to the next.

    Args:
        found: the hits of each prompt; those without a URL are left out.
        n: most URLs per prompt.
        taken: hashes of URLs to leave out, (N,).

    Returns:
        the numbers of the chosen hits of each prompt, ascending; `in_turn` gives their order.
    """
    left_out = np.append(taken, 0)
    keys = np.concatenate([left_out, *(hits.keys for hits in found)])
    keys.sort()
    seen = bytearray(len(keys))  # at the first place of each key
    np.frombuffer(seen, np.uint8)[np.searchsorted(keys, left_out)] = 1
    shares = [array("q") for _ in found]
    for numbers, places, wanted in _by_rank(found):
        at = np.searchsorted(keys, wanted)
        for number, place, key in zip(numbers.tolist(), places.tolist(), at.tolist(), strict=True):
            if not seen[key] and len(shares[number]) < n:
                seen[key] = 1
                shares[number].append(place)
    return list(shares)


def _by_rank(
    found: Sequence[Hits],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]]:
    """Yield the prompts, numbers and keys of all hits in blocks, by rank, score and prompt."""
    step = max(1, HITS_AT_ONCE // max(1, len(found)))
    for first in range(0, max(map(len, found), default=0), step):
        prompts = [number for number, hits in enumerate(found) if len(hits) > first]
        columns = [(found[p].keys[first:][:step], found[p].scores[first:][:step]) for p in prompts]
        keys, scores = (np.concatenate(some) for some in zip(*columns, strict=True))
        counts = [len(some) for some, _ in columns]
        numbers = np.repeat(np.array(prompts, np.intp), counts)
        places = np.concatenate([np.arange(first, first + count) for count in counts])
        order = np.lexsort((numbers, -scores, places))
        yield numbers[order], places[order], keys[order]


def in_turn(shares: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Yield the prompt and the number of each chosen hit.

    The best of every prompt come first, then the second of every prompt, and so on.
    """
    for places in zip_longest(*shares):
        for prompt, place in enumerate(places):
            if place is not None:
                yield prompt, place


def ranked(rows: Iterable[UrlRow]) -> Iterator[UrlRow]:
    """Set the rank of each row to its place, from 1."""
    return (replace(row, rank=place) for place, row in enumerate(rows, 1))
