"""What stands before gradio: only this machine's own pages, only the routes the page needs.

gradio serves much more than this page uses (a proxy, fetching of URLs, run history, an editor).
Here a request has to name this machine as its host (a page that makes its own name point here, DNS
rebinding, gets nothing), has to come from this very page or from no page at all, may ask for few
paths, and may send few bytes.  The page is told to ask nobody else (Content-Security-Policy).
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("localhost", "127.0.0.1", "::1")
MAX_BODY = 32 << 20
"""Bytes of a request; an upload may have `page_layout.MAX_UPLOAD`."""
ASKED = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/assets/.+|/static/.+|"
    r"/gradio_api/(?:file=/.+|heartbeat/\w+|queue/data|startup-events|upload_progress|"
    r"theme\.css|app_id|info/?)"
)
TOLD = re.compile(
    r"/gradio_api/(?:queue/join/?|run/\w+|upload|cancel|reset/?|stream/\w+(?:/close)?)"
)
"""Paths that may be asked for (GET, HEAD) and told something (POST)."""
ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]+:", re.IGNORECASE)
"""How a URL begins (and no drive of Windows)."""
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""gradio's page writes scripts and styles into itself, and makes functions of text."""
GONE: Message = {"type": "http.disconnect"}
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """ASGI application before another; see above."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if self._leaving is None:
            self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # gradio's page uses no web sockets
            return
        refusal = refusal_of(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        take = _limited(receive, self._leaving)
        if scope["method"] == "POST" and not scope["path"].endswith("/upload"):
            body = await _whole(take)
            if names_address(body):
                await _refuse(send, 403, "This server fetches nothing.")
                return
            take = _again(body, take)
        await self.app(scope, take, _with_headers(send))

    def leave(self) -> None:
        """End the connections that pages keep open for news, from any thread.

        A server that stops would wait for them, and then complain about each.
        """
        if self._loop is not None and self._leaving is not None:
            self._loop.call_soon_threadsafe(self._leaving.set)


def refusal_of(scope: Scope) -> tuple[int, str] | None:
    """Status and sentence when a request is not answered; None: it is."""
    headers = _headers(scope)
    host = headers.get("host", "")
    if _name(f"//{host}") not in HOSTS:
        return 400, f"This page does not answer for the host {host!r}; open it as localhost."
    origin = headers.get("origin")
    foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if (origin is not None and urlsplit(origin).netloc != host) or (
        foreign and scope["path"] != "/"
    ):
        return 403, "This page answers no other pages."
    paths = {"GET": ASKED, "HEAD": ASKED, "POST": TOLD}.get(scope["method"])
    if paths is None or not paths.fullmatch(scope["path"]) or ".." in unquote(scope["path"]):
        return 404, "There is nothing here."
    said = headers.get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > MAX_BODY:
        return 413, f"A request may have {MAX_BODY >> 20} MB."
    return None


def names_address(body: bytes) -> bool:
    """Whether a JSON body gives an address where gradio expects a file: it would fetch that.

    What is no JSON counts as one, unless it is empty.
    """
    try:
        waiting = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return True
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and ADDRESS.match(path):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _headers(scope: Scope) -> dict[str, str]:
    """Name -> value; a name that comes twice has the value ""."""
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name = key.decode("latin-1")
        found[name] = "" if name in found else value.decode("latin-1")
    return found


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _limited(receive: Receive, leaving: asyncio.Event) -> Receive:
    """Ends a body that is longer than it may be, whatever its header said; ends all on leaving."""
    taken = 0

    async def take() -> Message:
        nonlocal taken
        asked, left = asyncio.ensure_future(receive()), asyncio.ensure_future(leaving.wait())
        try:
            await asyncio.wait((asked, left), return_when=asyncio.FIRST_COMPLETED)
            message = asked.result() if asked.done() else GONE
        finally:
            asked.cancel()
            left.cancel()
        taken += len(message.get("body", b""))
        return GONE if taken > MAX_BODY else message

    return take


async def _whole(receive: Receive) -> bytes:
    """A body; what there is of it when its sender leaves."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already, then whatever comes."""
    given = False

    async def take() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return take


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = {key for key, _ in HEADERS}
            theirs: list[Any] = [one for one in message["headers"] if one[0].lower() not in ours]
            message = {**message, "headers": [*theirs, *HEADERS]}
        await send(message)

    return answer


async def _refuse(send: Send, status: int, sentence: str) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": f"{sentence}\n".encode()})
