"""What stands before the page's routes: requests of other pages are refused, answers get headers.

A browser lets any web page send requests to this machine. A request is answered when its Origin, if
it has one, is the very host that it names (`OnlyHosts` has that be this machine) and when the
browser does not say that another site made it. POST requests also need a content type that no form
can send, so a foreign page's browser would first request leave (CORS), which is never given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob: 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Of every answer. The page has no script or style within its markup, so the policy needs no
exception."""


class Guard:
    """ASGI application before another; see above."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # the page uses no web sockets
            from ...core.serving import refused

            foreign = is_foreign(scope)
            app = refused(403, "This page answers no other pages.") if foreign else self.app
            await app(scope, receive, _with_headers(send))


def is_foreign(scope: Scope) -> bool:
    """Whether another page made this request; a link elsewhere may lead to the page itself."""
    hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
    own = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    sites = _values(scope, b"sec-fetch-site")
    elsewhere = any(site not in ("same-origin", "none") for site in sites)
    return any(origin not in own for origin in origins) or (elsewhere and scope["path"] != "/")


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *HEADERS]}
        await send(message)

    return answer
