"""Openverse: openly licensed images of many collections, without a key.

Limits of a client without a key (https://docs.openverse.org/api/reference/, and Openverse's own
`throttle.py` and `pagination.py`): 20 results per page, 240 per query, 20 requests per minute and
200 per day.  The headers X-RateLimit-Limit-NAME and X-RateLimit-Available-NAME of each answer hold
the remaining requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...core.errors import OptionError, ServiceError
from ...formats.urls import UrlRow
from .hits import Source, usable_url
from .http import Service
from .keywords import keywords
from .licenses import license_name, short_name

API = "https://api.openverse.org/v1"
AT_ONCE = 1
A_PAGE = 20
DEPTH = 240
"""Most results of one query."""
MAX_QUERY = 200
"""Most characters of a query; Openverse cuts longer ones."""
LICENSES = (
    "by",
    "by-sa",
    "by-nc",
    "by-nd",
    "by-nc-sa",
    "by-nc-nd",
    "cc0",
    "pdm",
    "sampling+",
    "nc-sampling+",
)
LICENSE_TYPES = ("all", "all-cc", "commercial", "modification")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_REST = 60.0
"""Longest pause in seconds for a used-up limit; longer ones end in status 429 and its message."""


def make_openverse(
    service: Service, api: str = API, *, license: str = "", license_type: str = ""
) -> Source:
    """Make a source that searches Openverse.

    Args:
        service: the HTTP client.
        api: address of the API.
        license: Openverse's codes of the licences to search for, separated by commas.
        license_type: uses that the licences have to allow, separated by commas.

    Raises:
        OptionError: there is no such licence or use.
    """
    only = {
        "license": _checked("--license", license, LICENSES),
        "license_type": _checked("--license-type", license_type, LICENSE_TYPES),
    }
    only = {name: value for name, value in only.items() if value}

    def search(prompt: str, n: int) -> Iterator[UrlRow]:
        most = min(n, DEPTH)
        rank = 0
        for number in range(1, DEPTH // A_PAGE + 1):
            fields = {
                "q": keywords(prompt)[:MAX_QUERY],
                "page": str(number),
                "page_size": str(A_PAGE),
                **only,
            }
            answer = service.get(f"{api}/images/", fields)
            service.rest(rest_of(answer.headers))
            results, pages = _page(service.name, answer.value)
            for item in results:
                rank += 1
                yield _row(service.name, prompt, rank, item)
                if rank >= most:
                    return
            if number >= pages:
                return

    return search


def rest_of(headers: Mapping[str, str]) -> float:
    """Seconds to wait before the next request, so that no limit is exceeded.

    A used-up limit "20/min" allows the next request when its oldest request is a minute old; with
    evenly spaced requests, that is after three seconds.
    """
    waits = [0.0]
    for name, left in headers.items():
        if name.startswith("x-ratelimit-available-") and left.strip() in ("0", "-1"):
            rate = headers.get(name.replace("-available-", "-limit-"), "")
            match = re.match(r"(\d{1,9})\s*/\s*(\d{0,9})\s*([smhd])", rate.strip().lower())
            if match and int(match[1]):
                seconds = int(match[2] or 1) * _UNITS[match[3]]
                waits.append(seconds / int(match[1]))
    return max(wait for wait in waits if wait <= LONGEST_REST)


def _checked(option: str, value: str, known: tuple[str, ...]) -> str:
    parts = [part.strip().lower() for part in value.split(",") if part.strip()]
    for part in parts:
        if part not in known:
            raise OptionError(f"{option} {part!r}: expected one of {', '.join(known)}.")
    return ",".join(parts)


def _page(name: str, value: Any) -> tuple[list[Any], int]:
    results = value.get("results") if isinstance(value, dict) else None
    pages = value.get("page_count") if isinstance(value, dict) else None
    if not isinstance(results, list) or not isinstance(pages, int):
        raise ServiceError(
            f"{name}: expected a page with results and page_count, found {str(value)[:80]}"
        )
    return results, pages


def _row(name: str, prompt: str, rank: int, item: Any) -> UrlRow:
    if not isinstance(item, dict):
        raise ServiceError(f"{name}: expected results as JSON objects, found {str(item)[:80]}")
    text = {key: value for key, value in item.items() if isinstance(value, str)}
    license_url = text.get("license_url", "")
    code = short_name(text.get("license", ""), text.get("license_version", ""))
    return UrlRow(
        url=usable_url(text.get("url")),
        prompt=prompt,
        rank=rank,
        source="openverse",
        caption=text.get("title", ""),
        license=code or license_name(license_url),
        license_url=license_url,
        attribution=text.get("attribution") or text.get("creator", ""),
    )
