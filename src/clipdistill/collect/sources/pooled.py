"""A pool of embeddings: exact search by prompt, one pass over the pool for all prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from ...core.errors import InputError
from ...formats.urls import UrlRow
from ..nearest import Found
from ..pool import Pool, PoolRow
from .hits import Embed, Source, usable_url
from .licenses import rights_of

ROWS_AT_ONCE = 1 << 16
"""Rows whose metadata is in memory; reading them may take a pass over the pool's metadata."""


def make_pooled(pool: Pool, embed: Embed, prompts: Sequence[str], n: int) -> Source:
    """Make a source that searches a pool.

    Args:
        pool: the pool.
        embed: the text tower of the pool's teacher.
        prompts: all prompts; the first query searches for all of them.
        n: most hits per prompt.
    """
    place = {prompt: index for index, prompt in enumerate(prompts)}

    @cache
    def found() -> Found:
        return pool.search(embed(prompts), n)

    def search(prompt: str, n: int) -> Iterator[UrlRow]:
        scores, rows = (some[place[prompt]][:n] for some in (found().scores, found().rows))
        usable = False
        for first in range(0, len(rows), ROWS_AT_ONCE):
            known = pool.metadata(rows[first : first + ROWS_AT_ONCE])
            for rank, about in enumerate(known, first + 1):
                row = _row(prompt, rank, float(scores[rank - 1]), about)
                usable = usable or bool(row.url)
                yield row
        if len(rows) and not usable:
            raise InputError(
                f"{pool.root}: none of the {len(rows)} best images for {prompt!r} has a URL, so "
                "there is nothing to download. For images on this machine use `clipdistill select`,"
                " or serve them with `clipdistill serve --images` and search that service with "
                "--source knn."
            )

    return search


def _row(prompt: str, rank: int, score: float, about: PoolRow) -> UrlRow:
    return UrlRow(
        url=usable_url(about.url),
        prompt=prompt,
        rank=rank,
        score=score,
        source="pool",
        caption=about.caption,
        **rights_of({name.lower(): value for name, value in about.extra.items()}),
    )
