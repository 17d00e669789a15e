"""Licences by the short names that Creative Commons gives them."""

from __future__ import annotations

import re


def license_of(value: str) -> tuple[str, str]:
    """What a table says about a licence -> (short name, URL); either may be empty."""
    text = value.strip().strip("?")  # LAION's "?" means that it does not know
    if not text.lower().startswith(("http://", "https://")):
        return text, ""
    return license_name(text), text


def license_name(url: str) -> str:
    """The short name of the licence that a Creative Commons URL stands for; "" for others."""
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
    """A code such as "by-sa" (as Openverse has it) and a version -> "CC BY-SA 4.0"."""
    known = {"cc0": "CC0", "pdm": "Public Domain Mark", "sampling+": "CC Sampling+"}
    name = known.get(code.lower()) or (f"CC {code.upper()}" if code else "")
    return f"{name} {version}".strip()
