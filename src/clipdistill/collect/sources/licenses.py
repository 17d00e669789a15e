"""Licences by the short names of Creative Commons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def first_text(fields: Mapping[str, Any], *names: str) -> str:
    """The first of some fields that is a text, or ""; missing ones may be null or NaN."""
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), "")


def rights_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """The licence, its URL and the attribution of a row (names in lower case), for `UrlRow`."""
    name, url = license_of(first_text(fields, "license"))
    return {
        "license": name,
        "license_url": first_text(fields, "license_url") or url,
        "attribution": first_text(fields, "attribution", "author", "creator"),
    }


def license_of(value: str) -> tuple[str, str]:
    """Convert a table's licence to (short name, URL); either may be empty."""
    text = value.strip().strip("?")  # LAION's "?" means unknown
    if not text.lower().startswith(("http://", "https://")):
        return text, ""
    return license_name(text), text


def license_name(url: str) -> str:
    """The short name of the licence of a Creative Commons URL; "" for other URLs."""
    match = re.match(
        r"https?://(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/([\d.]+)",
        url.strip(),
        re.IGNORECASE,
    )
    if not match:
        return ""
    kind, code, version = match[1].lower(), match[2].lower(), match[3]
    if kind == "publicdomain":
        code = {"zero": "cc0", "mark": "pdm"}.get(code, code)
    return short_name(code, version)


def short_name(code: str, version: str = "") -> str:
    """Convert a code such as "by-sa" (of Openverse) and a version to "CC BY-SA 4.0"."""
    known = {"cc0": "CC0", "pdm": "Public Domain Mark", "sampling+": "CC Sampling+"}
    name = known.get(code.lower()) or (f"CC {code.upper()}" if code else "")
    return f"{name} {version}".strip()
