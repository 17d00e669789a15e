"""What a source is, and how hits are shared among prompts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
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


def usable_url(value: object) -> str:
    """Return a URL in the form of a list of URLs; "" when `download` does not support it."""
    url = one_line(value) if isinstance(value, str) else ""
    usable = url.lower().startswith(("http://", "https://")) and url == valid(url)
    return url if usable else ""


def balance(found: Sequence[Sequence[UrlRow]], n: int, taken: Collection[str] = ()) -> list[UrlRow]:
    """Share hits among prompts, so that no URL occurs twice and each prompt gets at most `n`.

    A URL goes to the prompt for which it ranks best; of equal ranks to the better score, then to
    the earlier prompt.  When that prompt already has `n` URLs, the URL goes to the next.

    Args:
        found: one list of hits per prompt, the best first; hits without a URL are left out.
        n: most URLs per prompt.
        taken: URLs to leave out.

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
    """Set the rank of each row to its place, from 1."""
    return [replace(row, rank=place) for place, row in enumerate(rows, 1)]


def _score(row: UrlRow) -> float:
    return -np.inf if row.score is None else row.score
