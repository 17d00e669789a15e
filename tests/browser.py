"""Debian's Chromium for tests: pages that tell on every request elsewhere and every complaint.

`with launched() as chromium, opened(chromium, url) as seen:` gives a playwright page, `seen.page`;
afterwards `seen.elsewhere` and `seen.complaints` should be empty, and `seen.faults()` too.  The
fixture `chromium` of conftest.py is one browser for the tests of a module.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")
"""Tests may run as root, where Chromium's sandbox cannot; and only the page is to be watched."""
PHONE = (390, 844)
DESKTOP = (1280, 900)


def web_runtime() -> Path:
    """The folder of onnxruntime-web; skips the test where it is not installed."""
    place = Path(__file__).parents[1] / "node_modules"
    found = place / "onnxruntime-web" / "dist"
    if not found.is_dir():
        pytest.skip("onnxruntime-web is not installed (npm install --no-save onnxruntime-web)")
    return found


def executable() -> str:
    """Chromium's path; skips the test where it or playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("Chromium is not installed (Debian's package chromium)")
    return found


@contextlib.contextmanager
def launched(*flags: str) -> Iterator[Browser]:
    """A headless Chromium with these further flags."""
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """A page and what happened on it.

    Attributes:
        page: playwright's page.
        elsewhere: addresses beyond the page's own host (of a file: beyond itself) that were asked
            for; none of them was let through.
        complaints: errors of the console, and exceptions that nobody caught.
    """

    page: Page
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def faults(self, worst: tuple[str, ...] = ("serious", "critical")) -> list[str]:
        """What axe-core finds, of these impacts: "rule (impact): what; where"."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        found = axe.run(self.page).response["violations"]
        return [_fault(one) for one in found if one["impact"] in worst]


@contextlib.contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    dark: bool = False,
    size: tuple[int, int] = DESKTOP,
    permissions: tuple[str, ...] = (),
) -> Iterator[Seen]:
    """Open an address (http or file) in a context of its own and watch it."""
    context = browser.new_context(
        color_scheme="dark" if dark else "light",
        viewport={"width": size[0], "height": size[1]},
        permissions=list(permissions),
        reduced_motion="reduce",
    )
    seen = Seen(context.new_page())
    context.route("**/*", lambda route: _let_through(route, url, seen))
    seen.page.on("console", lambda said: _complain(said, seen))
    seen.page.on("pageerror", lambda error: seen.complaints.append(f"exception: {error}"))
    seen.page.on("websocket", lambda socket: seen.elsewhere.append(socket.url))
    try:
        seen.page.goto(url)
        yield seen
    finally:
        context.close()


def _let_through(route: Any, url: str, seen: Seen) -> None:
    if _belongs(route.request.url, url):
        route.continue_()
    else:
        seen.elsewhere.append(route.request.url)
        route.abort()


def _belongs(asked: str, url: str) -> bool:
    """Whether an address asked for is the page's own, or holds its data itself."""
    ours, theirs = urlsplit(url), urlsplit(asked)
    if theirs.scheme in ("data", "blob"):
        return True
    if ours.scheme == "file":
        return (theirs.scheme, theirs.path) == ("file", ours.path)
    return (theirs.scheme, theirs.netloc) == (ours.scheme, ours.netloc)


def _complain(said: Any, seen: Seen) -> None:
    if said.type == "error":  # browsers warn of much that is nobody's fault
        seen.complaints.append(f"error: {said.text} ({said.location.get('url', '')})")


def _fault(found: dict[str, Any]) -> str:
    where = " | ".join(node["html"][:200] for node in found["nodes"][:4])
    return f"{found['id']} ({found['impact']}): {found['help']}; {where}"
