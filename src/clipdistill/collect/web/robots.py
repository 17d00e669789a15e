"""Headers that reserve the use of an image: X-Robots-Tag and tdm-reservation.

X-Robots-Tag as search engines document it: comma-separated rules, some with a value after a colon
(`max-snippet: 20`, `unavailable_after: <date>`), optionally for one robot (`otherbot: noindex`).
noai and noimageai are DeviantArt's rules, noml is Spawning's.  tdm-reservation is the header of
the TDM reservation protocol of a W3C community group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

FORBIDDING = frozenset({"noai", "noimageai", "noml", "noindex", "none", "noimageindex"})
"""Rules that reserve an image; `none` means noindex and nofollow."""
VALUED = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")
"""Rules that have a value after a colon; any other name before a colon is a robot's."""
ROBOT = "clipdistill"
"""Our name as a robot in rules."""

# A date holds commas ("Wed, 25 Jun 2025 15:00:00 GMT"), so it ends only before the next rule.
_DATED = re.compile(
    r"\s*(unavailable_after)\s*:\s*(.*?)\s*(?:,\s*(?=[a-z_-]+\s*(?:[,:]|$))|$)", re.IGNORECASE
)


def robots_rules(values: Iterable[str]) -> dict[str, str]:
    """The rules that apply to us, in lower case, each with its value (empty without one).

    Args:
        values: the values of all X-Robots-Tag headers of one answer.
    """
    rules: dict[str, str] = {}
    for value in values:
        for robot, name, detail in _parse(value):
            if robot in ("", "*", ROBOT):
                rules[name] = detail
    return rules


def _parse(value: str) -> Iterable[tuple[str, str, str]]:
    """Yield (robot, rule, value); a robot's name applies to the rest of its header."""
    robot, rest = "", value
    while rest.strip(" ,\t"):
        rest = rest.lstrip(" ,\t")
        date = _DATED.match(rest)
        if date:
            yield robot, "unavailable_after", date[2]
            rest = rest[date.end() :]
            continue
        head, _, tail = rest.partition(",")
        name, colon, detail = (part.strip() for part in head.partition(":"))
        name = name.lower()
        if colon and name not in VALUED:
            robot = name
            rest = f"{detail},{tail}" if tail else detail
            continue
        if name:
            yield robot, name, detail
        rest = tail


def reservation(
    robots: Iterable[str], tdm: Iterable[str] = (), *, now: datetime | None = None
) -> str:
    """The rule that forbids to train with an image, or an empty string.

    Args:
        robots: the values of X-Robots-Tag.
        tdm: the values of tdm-reservation.
        now: the time with which unavailable_after is compared; default: the present.
    """
    rules = robots_rules(robots)
    found = sorted(FORBIDDING & rules.keys())
    if found:
        return f"X-Robots-Tag {', '.join(found)}"
    if _is_past(rules.get("unavailable_after", ""), now or datetime.now(timezone.utc)):
        return "X-Robots-Tag unavailable_after, a date in the past"
    if any(value.strip() == "1" for value in tdm):
        return "tdm-reservation"
    return ""


def _is_past(text: str, now: datetime) -> bool:
    """Whether a date (RFC 822, RFC 850 or ISO 8601) is in the past; False for other texts."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = parse(text.strip())
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)) < now
    return False
