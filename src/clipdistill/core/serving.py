"""Serving over HTTP: which hosts may be named, bodies within limits, refusals, one server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ClipDistillError, InputError, OptionError
from .loopback import LOCALHOST

MAX_CONNECTIONS = 1000
"""Open connections; fewer where the system allows a process fewer files."""
HEAD_SECONDS = 10.0
"""Time in which a request's headers have to arrive."""
PART_SECONDS = 5.0
"""Time in which the next part of a request's body has to arrive."""
DRAIN_SECONDS = 30.0
"""Time in which a client has to read some of its answer."""
STOP_SECONDS = 3
"""Time for open requests to finish when a server is stopped."""
BODY_SECONDS = 30.0
"""Time in which a request's body has to arrive."""
UNREAD = (403, 408, 413, 415, 503)
"""Statuses of refusals that come before a body was read to its end."""


class Refusal(Exception):
    """A request cannot be answered; becomes {"message": ...} with the status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class OnlyHosts:
    """Refuses requests whose Host header names another host.

    This prevents DNS rebinding: a web page whose own host name resolves to this machine.

    Args:
        app: what is protected.
        hosts: names without a port; "*" is any.
        advice: what to do about a refusal.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], advice: str = "") -> None:
        self.app, self.advice = app, advice
        self.hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = [value for key, value in scope["headers"] if key == b"host"]
        host = given[0].decode("latin-1") if len(given) == 1 else ""
        if "*" in self.hosts or host_name(host) in self.hosts:
            await self.app(scope, receive, send)
            return
        text = f"This server accepts no requests for the host {host!r}. {self.advice}".strip()
        await refused(400, text)(scope, receive, send)


def host_name(header: str) -> str:
    """The name in a Host header, lower case, without port and brackets; "" when it is invalid.

    The header is matched as a whole, so no user name, path or second port can stand beside a name.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?", header)
    return (match[1] or match[2]).lower() if match else ""


def refused(status: int, text: str) -> Response:
    """{"message": text} with this status."""
    # The unread rest of a body would be parsed as the next request.
    headers = {"Connection": "close"} if status in UNREAD else None
    return JSONResponse({"message": text}, status, headers)


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's body, and no more of it than `most` bytes.

    Raises:
        Refusal: the body is too large (whatever the headers are), or too slow.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > most:
        raise Refusal(413, f"A request's body may have at most {most} bytes.")
    try:
        return await asyncio.wait_for(_stream(request, most), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise Refusal(408, "The body did not arrive in time.") from error


async def _stream(request: Request, most: int) -> bytes:
    parts, size = [], 0
    stream = request.stream()
    while (part := await asyncio.wait_for(anext(stream, None), PART_SECONDS)) is not None:
        size += len(part)
        if size > most:
            raise Refusal(413, f"A request's body may have at most {most} bytes.")
        parts.append(part)
    return b"".join(parts)


def json_object(body: bytes) -> Mapping[str, Any]:
    """Parse a request's body as a JSON object.

    Raises:
        Refusal: it is not JSON, nested too deeply, has NaN in it, or is not an object.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise Refusal(400, "The body is nested too deeply.") from error
    except ValueError as error:
        raise Refusal(400, f"The body should be JSON, but cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"The body should be a JSON object, found {type(value).__name__}.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refusal(request: Request, error: Exception) -> Response:
    return refused(error.status if isinstance(error, Refusal) else 500, str(error))


def _http_error(request: Request, error: Exception) -> Response:
    status, detail, headers = 500, str(error), None
    if isinstance(error, HTTPException):
        status, detail, headers = error.status_code, error.detail, error.headers
    return JSONResponse({"message": detail}, status, headers)


def _gone(request: Request, error: Exception) -> Response:
    return refused(400, "The client closed the connection.")


def _our_error(request: Request, error: Exception) -> Response:
    return refused(500, str(error))


def _unexpected(request: Request, error: Exception) -> Response:
    return refused(500, f"Unexpected {type(error).__name__}; the server's log has the details.")


ERRORS_AS_ANSWERS = {
    Refusal: _refusal,
    HTTPException: _http_error,
    ClientDisconnect: _gone,
    ClipDistillError: _our_error,
    Exception: _unexpected,
}
"""Starlette's `exception_handlers`: every error is {"message": "..."}."""


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to listen on; port 0 lets the system choose one.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
    """
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise OptionError(f"Cannot listen on port {port}: choose a --port from 0 to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        remedy = "Choose another --port." if taken else "Use an address of this machine for --host."
        raise InputError(f"Cannot listen on {host}:{port} ({error}). {remedy}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The base URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Connection(H11Protocol):
    """A connection that is closed when its client keeps it without sending or reading.

    Connections without a request give way to new ones, the oldest first, so that no number of
    half-sent requests keeps others out.
    """

    opened = 0.0
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for the connection, and wait for its first request."""
        self.opened = self.loop.time()
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            idle = [one for one in self.connections if isinstance(one, _Connection) and one.idle]
            oldest = min(idle, key=lambda one: one.opened)  # this one, if no other is idle
            oldest.transport.abort()
            self.connections.discard(oldest)
        self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Pass on what came; what is no whole request yet has to be one in time."""
        super().data_received(data)
        if not self.idle:
            _cancel(self._late)
            self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def pause_writing(self) -> None:
        """Stop writing; the client has to read within a time."""
        super().pause_writing()
        self._stuck = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Write again."""
        _cancel(self._stuck)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        _cancel(self._late)
        _cancel(self._stuck)
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._late = None
        if self.idle and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
            self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def most_connections() -> int:
    """Connections that may be open: half of the files that the system allows, or fewer."""
    try:
        import resource
    except ImportError:
        return MAX_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Make a server for `app` that sets up no logging and ignores proxies' headers."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            http=_Connection,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


@contextlib.contextmanager
def running_service(app: ASGIApp, host: str = LOCALHOST, port: int = 0) -> Iterator[str]:
    """Serve `app` in a thread as long as the block runs; yield the base URL.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
        ClipDistillError: the server does not start.
    """
    with contextlib.closing(listen(host, port)) as listener:
        server = make_server(app)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.002)
        if not server.started:
            raise ClipDistillError(f"The server on {url_of(listener)} did not start.")
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()
