"""What a source is, and how several prompts share what they find."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from ...formats.urls import UrlRow, one_line

Source = Callable[[str, int], Iterator[UrlRow]]
"""`source(prompt, n)`: at most n hits, the best first.

A hit without a URL that can be downloaded has the URL "", so that it can be counted.  A source that
cannot answer raises `ServiceError`; it never answers with too few hits instead.
"""
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> float32 (N, D) of unit length."""


def usable_url(value: object) -> str:
    """A URL as a list of URLs holds it; "" when it is none that `download` takes."""
    url = one_line(value) if isinstance(value, str) else ""
    return url if url.lower().startswith(("http://", "https://")) else ""


def balance(found: Sequence[Sequence[UrlRow]], n: int, taken: Collection[str] = ()) -> list[UrlRow]:
    """Share hits among prompts, so that no URL stands twice and each prompt gets at most `n`.

    A URL goes to the prompt where it ranks best; of equal ranks to the better score, then to the
    earlier prompt.  A prompt that has its `n` already leaves the URL to the next.

    Args:
        found: a list of hits a prompt, the best first; hits without a URL are left out.
        n: the most a prompt gets.
        taken: URLs that must not come again.

    Returns:
        The best of every prompt, then the second of every prompt, and so on.
    """
    seen = set(taken)
    shares: list[list[UrlRow]] = [[] for _ in found]
    for place in range(max(map(len, found), default=0)):
        at_place = [(number, rows[place]) for number, rows in enumerate(found) if len(rows) > place]
        for number, row in sorted(at_place, key=lambda one: (-_score(one[1]), one[0])):
            if row.url and row.url not in seen and len(shares[number]) < n:
                seen.add(row.url)
                shares[number].append(row)
    return [row for round_ in zip_longest(*shares) for row in round_ if row is not None]


def ranked(rows: Sequence[UrlRow]) -> list[UrlRow]:
    """The rows with their place as their rank, from 1."""
    return [replace(row, rank=place) for place, row in enumerate(rows, 1)]


def _score(row: UrlRow) -> float:
    return -np.inf if row.score is None else row.score
