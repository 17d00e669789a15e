"""Durations as people type them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.core.durations import parse_duration
from clipdistill.core.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2 h 10 min", 7800),
        ("1.5h", 5400),
        ("1D", 86400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "0m", "-5m", "10 years", "5mm", "9" * 400 + "d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(OptionError, match="expected a duration"):
        parse_duration(text, "--time-budget")


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    with contextlib.suppress(OptionError):
        assert 0 < parse_duration(text, "--time-budget") <= 1e9
