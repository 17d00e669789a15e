"""A pool of embeddings: exact search by prompt, one pass over the pool for all prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from ...core.errors import InputError
from ...formats.urls import UrlRow
from ..nearest import Found
from ..pool import Pool, PoolRow
from .hits import Embed, Source, usable_url
from .licenses import license_of


def make_pooled(pool: Pool, embed: Embed, prompts: Sequence[str], n: int) -> Source:
    """A source that searches a pool.

    Args:
        pool: what is searched.
        embed: the text tower of the pool's teacher.
        prompts: all that will be asked for; the first question searches for all.
        n: the most that will be asked for.
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
                "there is nothing to download. For images that are on this machine use `clipdistill"
                " select`, or hand them out with `clipdistill serve --images` and search that with "
                "--source knn."
            )
        for rank, (about, (_, score)) in enumerate(zip(known, hits, strict=True), 1):
            yield _row(prompt, rank, score, about)

    return search


def _row(prompt: str, rank: int, score: float, about: PoolRow) -> UrlRow:
    extra = {name.lower(): value for name, value in about.extra.items()}
    license_, license_url = license_of(_text(extra, "license"))
    return UrlRow(
        url=usable_url(about.url),
        prompt=prompt,
        rank=rank,
        score=score,
        source="pool",
        caption=about.caption,
        license=license_,
        license_url=_text(extra, "license_url") or license_url,
        attribution=_text(extra, "attribution", "author", "creator"),
    )


def _text(extra: dict[str, Any], *names: str) -> str:
    return next((extra[name] for name in names if isinstance(extra.get(name), str)), "")
