"""Numbers and strangers' strings as they are shown, and the sentences at the top."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that are not seen but turn text around, break lines, or cannot be written."""
SHORT = 22
"""Characters of a label in a chart."""


def clean(text: str) -> str:
    """A stranger's string without characters that only do harm in a page."""
    return HIDDEN.sub("\ufffd", text)


def short(text: str, most: int = SHORT) -> str:
    """At most `most` characters of a cleaned string."""
    text = clean(text)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def web_address(text: str) -> str:
    """The string if a link may lead there (http, https), else an empty one."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in ("http", "https") and parts.netloc else ""


def percent(share: float | None, digits: int = 1) -> str:
    """0.5 -> "50.0%"; None -> "–"."""
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def milliseconds(value: float | None) -> str:
    """Three digits that matter: "0.28", "12.5", "140"; None -> "–"."""
    if value is None:
        return "–"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def megabytes(value: float | None) -> str:
    """10^6 bytes: "0.5", "12.5", "599"; None -> "–"."""
    if value is None:
        return "–"
    return f"{value:.{1 if value < 100 else 0}f}"


def size(count: int) -> str:
    """Bytes, with a unit: "640 bytes", "12 kB", "1.6 MB"."""
    for limit, unit, digits in ((1e9, "GB", 1), (1e6, "MB", 1), (1e3, "kB", 0)):
        if count >= limit:
            return f"{count / limit:.{digits}f} {unit}"
    return many(count, "byte")


def seconds(value: float) -> str:
    """A duration: "4 s", "12 min", "3 h 5 min"."""
    if value < 100:
        return f"{value:.0f} s" if value >= 1 else "below 1 s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def many(count: int, thing: str) -> str:
    """A number of things: "1 picture", "3,943 pictures", "20 classes"."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def times(ratio: float) -> str:
    """How many times: "1.4 times", "31 times"."""
    return f"{ratio:.{1 if ratio < 10 else 0}f} times"


def listed(words: Sequence[str], most: int = 4) -> str:
    """Words as "dog, cat and fish"; of more than `most`, the first and how many more there are."""
    shown = [short(word, 40) for word in words]
    if len(shown) > most:
        shown = [*shown[: most - 1], f"{len(words) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1] if shown else ""]))


def moment(text: str) -> str:
    """An ISO 8601 date and time: "2026-11-24 13:02 UTC"; anything else as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return short(text, 40)
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()
