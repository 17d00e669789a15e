"""How prompts share what they find: properties that hold for whatever they find."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.collect.sources import hits
from clipdistill.collect.sources.hits import Hits, balance, in_turn, ranked, usable_url
from clipdistill.formats.urls import UrlRow

PROMPTS = ("one", "two", "three", "four")
URLS = [f"http://x/{index}" for index in range(8)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "HITS_AT_ONCE", 7)


@st.composite
def findings(draw: st.DrawFn) -> list[list[UrlRow]]:
    found = []
    for prompt in PROMPTS[: draw(st.integers(1, 4))]:
        urls = draw(st.lists(st.sampled_from(["", *URLS]), max_size=10))
        scores = draw(st.lists(st.sampled_from([None, 0.1, 0.2]), min_size=10, max_size=10))
        rows = [UrlRow(url, prompt=prompt, score=s) for url, s in zip(urls, scores, strict=False)]
        found.append(list(ranked(rows)))
    return found


def shared(found: list[list[UrlRow]], n: int, taken: set[str] = frozenset()) -> list[UrlRow]:
    """The rows that `balance` chooses, in the list's order."""
    columns = []
    for rows in found:
        columns.append(Hits())
        for place, row in enumerate(rows):
            columns[-1].add(row, place)
    keys = np.array([hash(url) for url in taken], np.int64)
    return [found[prompt][number] for prompt, number in in_turn(balance(columns, n, keys))]


def best_place(rows: list[UrlRow], url: str) -> tuple[int, float]:
    """Rank and score at which a prompt found a URL first."""
    row = next(row for row in rows if row.url == url)
    return row.rank, -(row.score if row.score is not None else -1)


@given(findings(), st.integers(1, 5), st.sets(st.sampled_from(URLS), max_size=3))
def test_no_url_stands_twice_and_no_prompt_gets_more_than_its_share(found, n, taken):
    rows = shared(found, n, taken)
    urls = [row.url for row in rows]
    assert len(set(urls)) == len(urls)
    assert not set(urls) & (taken | {""})
    assert all(count <= n for count in Counter(row.prompt for row in rows).values())
    assert all(row in found[PROMPTS.index(row.prompt)] for row in rows)


@given(findings(), st.integers(1, 5), st.sets(st.sampled_from(URLS), max_size=3))
def test_nothing_is_left_over_that_a_prompt_could_still_take(found, n, taken):
    rows = shared(found, n, taken)
    counts = Counter(row.prompt for row in rows)
    used = taken | {row.url for row in rows} | {""}
    for prompt, own in zip(PROMPTS, found, strict=False):
        assert counts[prompt] == n or all(row.url in used for row in own)


@given(findings(), st.integers(1, 5))
def test_a_url_goes_where_it_ranks_best_unless_that_prompt_has_enough(found, n):
    rows = shared(found, n)
    counts = Counter(row.prompt for row in rows)
    for row in rows:
        for place, (prompt, own) in enumerate(zip(PROMPTS, found, strict=False)):
            if prompt == row.prompt or all(other.url != row.url for other in own):
                continue
            mine = (
                *best_place(found[PROMPTS.index(row.prompt)], row.url),
                PROMPTS.index(row.prompt),
            )
            assert mine < (*best_place(own, row.url), place) or counts[prompt] == n


@given(findings(), st.integers(1, 5))
def test_the_best_of_every_prompt_come_first(found, n):
    rows = shared(found, n)
    places = Counter()
    order = []
    for row in rows:
        order.append((places[row.prompt], PROMPTS.index(row.prompt)))
        places[row.prompt] += 1
    assert order == sorted(order)
    for prompt in PROMPTS:
        ranks = [row.rank for row in rows if row.prompt == prompt]
        assert ranks == sorted(ranks)


def test_only_urls_that_can_be_downloaded_count():
    assert usable_url(" https://x/a b,ü\n") == "https://x/a b,ü"
    assert usable_url("HTTP://x/") == "HTTP://x/"
    assert [usable_url(one) for one in ("file:///etc/passwd", "ftp://x", "", None, 3)] == [""] * 5
