"""Durations as people type them."""

from __future__ import annotations

import re

from .errors import OptionError

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
"""Unit -> its seconds."""
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)\s*")


def parse_duration(text: str, option: str) -> float:
    """Parse a duration such as "90s", "10m", "1h30m" or "2d" to seconds, above 0.

    Args:
        text: numbers, each with one of `UNITS`.
        option: that it was given with, for the message.

    Raises:
        OptionError: it is not a duration, or it is 0.
    """
    rest, seconds = text.strip().lower(), 0.0
    while found := _PART.match(rest):
        seconds += float(found[1]) * UNITS[found[2]]
        rest = rest[found.end() :]
    if rest or not seconds or seconds > 1e9:
        raise OptionError(f"{option} {text}: expected a duration, such as 90s, 10m or 1h30m.")
    return seconds
