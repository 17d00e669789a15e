"""Numbers, durations, sizes and untrusted strings as they are shown to people."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Invisible characters that reverse text or break lines, and those that UTF-8 cannot hold."""
UNKNOWN = "unknown"
"""Label of an image whose best probability is below the threshold."""
SHORT = 22
"""Most characters of a label in a chart."""
TEMPLATE = re.compile(
    r"(?:an?|the)\s+(?:photo|picture|image)\s+of\s+(?:(?:an?|the)\s+)?(\S.*?)\.?", re.I
)
"""The usual form of a prompt without a label, and its part that names the class."""


def valid(text: str) -> str:
    r"""Escape what UTF-8 cannot hold, lone surrogates: "\ud800"; any other text stays as it is."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def clean(text: str) -> str:
    """Replace the hidden characters of an untrusted string."""
    return HIDDEN.sub("\ufffd", text)


def escaped(text: str) -> str:
    r"""Escape the hidden characters of an untrusted string for a terminal, such as "\x1b"."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def drawn(text: str) -> str:
    """Escape a text of several lines for a terminal: tabs become blanks, line breaks stay.

    The lines after the first are indented: a line break in a name that it quotes cannot begin what
    looks like a message of its own.
    """
    first, *rest = (escaped(line.expandtabs(4)) for line in text.split("\n"))
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in rest)])


def short(text: str, most: int = SHORT) -> str:
    """Clean a string and shorten it to `most` characters."""
    text = clean(text)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def web_address(text: str) -> str:
    """Return the string if it is an http or https URL that may be linked, else an empty one."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in ("http", "https") and parts.netloc else ""


def percent(share: float | None, digits: int = 1) -> str:
    """0.5 -> "50.0%"; None -> "-"."""
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def milliseconds(value: float | None) -> str:
    """Milliseconds to three digits: "0.28", "12.5", "140"; None -> "-"."""
    if value is None:
        return "-"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def timed(value: float | None, rounds: Sequence[float] = ()) -> str:
    """Milliseconds, and the least and the largest of several rounds: "0.36 (0.34 to 0.41)"."""
    if value is None or len(rounds) < 2:
        return milliseconds(value)
    return f"{milliseconds(value)} ({milliseconds(min(rounds))} to {milliseconds(max(rounds))})"


def megabytes(value: float | None) -> str:
    """Units of 10^6 bytes: "0.5", "12.5", "599"; None -> "-"."""
    if value is None:
        return "-"
    return f"{value:.{1 if value < 100 else 0}f}"


def size(count: float) -> str:
    """Bytes, with a unit: "640 bytes", "1.6 MB", "45 MB"."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.{1 if count < 10 * limit else 0}f} {unit}"
    return many(round(count), "byte")


def duration(seconds: float) -> str:
    """Seconds with units: "12 s", "3 min", "2 h 10 min"."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.0f} days"


def many(count: int, thing: str) -> str:
    """A number of things: "1 image", "3,943 images", "20 classes"."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def times(ratio: float) -> str:
    """A ratio: "1.4 times", "31 times"."""
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


def rate(value: float) -> str:
    """Units per second: "297", "2.5"."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def clock(seconds: float) -> str:
    """Seconds as "1:02:03" or "2:03"."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def shown_labels(labels: Iterable[str]) -> dict[str, str]:
    """Map labels to the text that is displayed: the label without "a photo of a ..." around it.

    This is for display only; files keep the label itself.  Two labels never become the same: a
    label is displayed whole if its remaining text is, or could be, that of another label.
    """
    bare = {label: _without_template(label) for label in labels}
    taken = Counter(name for label, rest in bare.items() for name in {label, rest})
    return {label: rest if taken[rest] == 1 else label for label, rest in bare.items()}


def _without_template(label: str) -> str:
    found = TEMPLATE.fullmatch(label.strip())
    return found[1] if found else label
