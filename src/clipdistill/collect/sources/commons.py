"""Wikimedia Commons, by MediaWiki's action API: free licences, no key.

Its rules (https://www.mediawiki.org/wiki/API:Etiquette, Wikimedia's User-Agent policy, and
https://www.mediawiki.org/wiki/Common_thumbnail_sizes): identify the client, send few requests at
once, pause when the databases lag (`maxlag`), and take thumbnails only in the standard widths, by
the URL that the API returned.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal, cast

from ...core.errors import OptionError, ServiceError
from ...formats.urls import UrlRow
from .hits import Source, usable_url
from .http import Service
from .keywords import keywords

API = "https://commons.wikimedia.org/w/api.php"
AT_ONCE = 2
"""Requests at the same time, over all prompts."""
MAX_LAG = 5
"""Seconds that the databases may lag behind, as the manual recommends for programs."""
A_PAGE = 50
"""Files per request; MediaWiki scales no more at a time (`TRANSFORM_LIMIT`)."""
DEPTH = 10_000
"""Most results of a query in CirrusSearch."""
BUSY = ("maxlag", "ratelimited", "readonly")
"""Codes of temporary errors; they are sent with status 200."""
Width = Literal[250, 330, 500, 960, 1280, 1920, 3840]
"""Widths that Wikimedia scales to (`$wgThumbnailSteps`); others are refused, or rounded up."""
CAPTION = 500
"""Characters of a description that are kept."""


def contact_of(text: str | None) -> str:
    """Check the contact for Wikimedia's User-Agent policy.

    Raises:
        OptionError: it is missing, or neither an e-mail address nor a URL.
    """
    found = (text or "").strip()
    if re.fullmatch(r"[^\s()@]+@[^\s()@]+\.[^\s()@]+|https?://[^\s()]+", found):
        return found
    raise OptionError(
        "Wikimedia's User-Agent policy requires a contact for every program, and blocks programs "
        "without one. Give your e-mail address or a URL of yours with --contact (or set "
        f"CLIPDISTILL_CONTACT); found {repr(found) if found else 'none'}."
    )


def make_commons(service: Service, api: str = API, *, width: Width = 500) -> Source:
    """Make a source that searches the images of Wikimedia Commons.

    Args:
        service: the HTTP client; its user agent has to name a contact.
        api: address of the API.
        width: width of the images in pixels; smaller originals are not scaled.
    """

    def search(prompt: str, n: int) -> Iterator[UrlRow]:
        fields = _fields(keywords(prompt), min(n, A_PAGE), width)
        pages = islice(_pages(service, api, fields), min(n, DEPTH))
        for rank, page in enumerate(pages, 1):
            yield _row(service.name, prompt, rank, page)

    return search


def _fields(words: str, limit: int, width: int) -> dict[str, str]:
    return {
        "action": "query",
        "format": "json",
        "formatversion": "2",
        "maxlag": str(MAX_LAG),
        "generator": "search",
        "gsrsearch": f"filetype:bitmap {words}",
        "gsrnamespace": "6",
        "gsrlimit": str(limit),
        "prop": "imageinfo",
        "iiprop": "url|size|mime|extmetadata|mediatype",
        "iiextmetadatafilter": "LicenseShortName|LicenseUrl|Artist|Attribution|ImageDescription",
        "iiurlwidth": str(width),
    }


def _pages(service: Service, api: str, fields: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the files found, in the order of the search.

    One batch of files may need several answers; "batchcomplete" marks its end.
    """
    batch: dict[str, dict[str, Any]] = {}
    more: dict[str, str] = {}
    while True:
        value = service.get(api, {**fields, **more}, _busy).value
        if not isinstance(value, dict) or "error" in value:
            raise ServiceError(f"{service.name} ({api}): {_error_text(value)}")
        for page in _found(service.name, value):
            batch.setdefault(str(page.get("title")), {}).update(page)
        if "batchcomplete" in value:
            yield from sorted(batch.values(), key=_place)
            batch = {}
        if "continue" not in value:
            return
        if not isinstance(value["continue"], dict):
            raise ServiceError(
                f"{service.name} ({api}): expected how to continue, found "
                f"{str(value['continue'])[:80]}"
            )
        following = {str(key): str(text) for key, text in value["continue"].items()}
        if following == more:
            raise ServiceError(f"{service.name} ({api}): its paging goes in circles.")
        more = following


def _place(page: Mapping[str, Any]) -> int:
    """The place of a file in the results; the last where the answer gives none."""
    index = page.get("index")
    return index if isinstance(index, int) else sys.maxsize


def _busy(value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and error.get("code") in BUSY:
        return f"{error['code']}: {error.get('info', '')}"
    return ""


def _error_text(value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        return f"refused the search ({error.get('code')}: {error.get('info')})"
    return f"expected the answer of a MediaWiki API, found {str(value)[:80]}"


def _found(name: str, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    # An answer without "query" means that the search found nothing.
    query = value.get("query", {})
    pages = query.get("pages", []) if isinstance(query, dict) else None
    if not isinstance(pages, list) or not all(isinstance(page, dict) for page in pages):
        raise ServiceError(f"{name}: expected a list of files, found {str(query)[:80]}")
    if "query" not in value and "batchcomplete" not in value:
        raise ServiceError(f"{name}: expected a query's answer, found {str(value)[:80]}")
    return cast("list[dict[str, Any]]", pages)


def _row(name: str, prompt: str, rank: int, page: Mapping[str, Any]) -> UrlRow:
    infos = page.get("imageinfo") or [{}]  # a file may have been deleted a moment ago
    if not isinstance(infos, list) or not isinstance(infos[0], dict):
        raise ServiceError(f"{name}: expected a file's imageinfo, found {str(infos)[:80]}")
    info = infos[0]
    about = info.get("extmetadata") or {}
    title = re.sub(r"^File:|\.\w+$", "", str(page.get("title", "")))
    return UrlRow(
        url=usable_url(info.get("thumburl") or info.get("url")),
        prompt=prompt,
        rank=rank,
        source="commons",
        caption=(_plain(about, "ImageDescription") or title)[:CAPTION],
        license=_plain(about, "LicenseShortName"),
        license_url=_plain(about, "LicenseUrl"),
        attribution=_plain(about, "Attribution") or _plain(about, "Artist"),
    )


def _plain(about: Any, name: str) -> str:
    """Return a field of the metadata without its HTML."""
    field = about.get(name) if isinstance(about, dict) else None
    value = field.get("value") if isinstance(field, dict) else None
    if not isinstance(value, (str, int)):
        return ""
    text = re.sub(r"<(style|script)\b.*?</\1\s*>", " ", str(value), flags=re.DOTALL | re.IGNORECASE)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
