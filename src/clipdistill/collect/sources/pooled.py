"""A pool of embeddings: exact search by prompt, one pass over the pool for all prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

from ...core.errors import InputError
from ...formats.urls import UrlRow
from ..nearest import Found
from ..pool import Pool, PoolRow
from .hits import Embed, Source, usable_url
from .licenses import rights_of


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
        scores, rows = found().scores[place[prompt]][:n], found().rows[place[prompt]][:n]
        hits = [
            (row, score)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if math.isfinite(score)
        ]
        known = pool.metadata([row for row, _ in hits])
        if known and not any(usable_url(row.url) for row in known):
            raise InputError(
                f"{pool.root}: none of the {len(known)} best images for {prompt!r} has a URL, so "
                "there is nothing to download. For images on this machine use `clipdistill select`,"
                " or serve them with `clipdistill serve --images` and search that service with "
                "--source knn."
            )
        for rank, (about, (_, score)) in enumerate(zip(known, hits, strict=True), 1):
            yield _row(prompt, rank, score, about)

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
