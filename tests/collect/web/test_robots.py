"""X-Robots-Tag and tdm-reservation."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.collect.web.robots import FORBIDDING, reservation, robots_rules

NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("values", "rules"),
    [
        (["noindex"], {"noindex": ""}),
        (["NoAI, NoImageAI"], {"noai": "", "noimageai": ""}),
        (["noindex", "noml"], {"noindex": "", "noml": ""}),
        (
            ["max-snippet: 20, max-image-preview: large"],
            {"max-snippet": "20", "max-image-preview": "large"},
        ),
        (
            ["unavailable_after: 25 Jun 2010 15:00:00 PST"],
            {"unavailable_after": "25 Jun 2010 15:00:00 PST"},
        ),
        (
            ["noarchive, unavailable_after: Wed, 25 Jun 2025 15:00:00 GMT, nofollow"],
            {"noarchive": "", "unavailable_after": "Wed, 25 Jun 2025 15:00:00 GMT", "nofollow": ""},
        ),
        (["googlebot: noindex, nofollow"], {}),
        (["googlebot: noindex", "noai"], {"noai": ""}),
        (["clipdistill: noindex, noml"], {"noindex": "", "noml": ""}),
        (["*: none"], {"none": ""}),
        (
            ["unavailable_after: 2025-06-25T10:00:00+00:00, noml"],
            {"unavailable_after": "2025-06-25T10:00:00+00:00", "noml": ""},
        ),
        ([" , ,, "], {}),
    ],
)
def test_rules(values: list[str], rules: dict[str, str]) -> None:
    assert robots_rules(values) == rules


@pytest.mark.parametrize("rule", sorted(FORBIDDING))
def test_what_reserves_an_image(rule: str) -> None:
    assert rule in reservation([f"max-snippet: 5, {rule.upper()}"])


@pytest.mark.parametrize(
    ("robots", "tdm", "said"),
    [
        ([], ["1"], "tdm-reservation"),
        ([], ["0"], ""),
        ([], [], ""),
        (["index, follow"], [], ""),
        (["otherbot: noai"], [], ""),
        (["unavailable_after: Wed, 25 Jun 2025 15:00:00 GMT"], [], "in the past"),
        (["unavailable_after: Wed, 25 Jun 2036 15:00:00 GMT"], [], ""),
        (["unavailable_after: 2025-06-25"], [], "in the past"),
        (["unavailable_after: some day"], [], ""),
    ],
)
def test_reservations(robots: list[str], tdm: list[str], said: str) -> None:
    found = reservation(robots, tdm, now=NOW)
    assert (said in found) if said else not found


@given(st.lists(st.text(max_size=80), max_size=4), st.lists(st.text(max_size=5), max_size=2))
def test_no_header_breaks_the_parser(robots: list[str], tdm: list[str]) -> None:
    assert isinstance(reservation(robots, tdm, now=NOW), str)


@given(st.lists(st.sampled_from(["noai", "nofollow", "max-snippet: 3", "all"]), min_size=1))
def test_a_rule_is_found_wherever_it_stands(rules: list[str]) -> None:
    said = reservation([", ".join(rules)], now=NOW)
    assert bool(said) == ("noai" in rules)
