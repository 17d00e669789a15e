"""Serving over HTTP: the check of the Host header, sockets, one server."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ClipDistillError, InputError

MAX_CONNECTIONS = 1000
STOP_SECONDS = 3
"""Time for open requests to finish when a server is stopped."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _OnlyHosts:
    """Refuses requests whose Host header names another host.

    This prevents DNS rebinding: a web page whose own host name resolves to this machine.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app = app
        self.hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = [value for key, value in scope["headers"] if key == b"host"]
        host = given[0].decode("latin-1") if len(given) == 1 else ""
        if "*" in self.hosts or host_name(host) in self.hosts:
            await self.app(scope, receive, send)
            return
        text = (
            f"This server accepts no requests for the host {host!r}. "
            "Restart it with --allow-host to accept them."
        )
        await _message(400, text)(scope, receive, send)


def host_name(header: str) -> str:
    """The name in a Host header, lower case, without port and brackets; "" when it is invalid."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", header)
    return (match[1] or match[2]).lower() if match else ""


def _message(status: int, text: str) -> Response:
    # The unread rest of a body would be parsed as the next request.
    headers = {"Connection": "close"} if status in (408, 413) else None
    return JSONResponse({"message": text}, status, headers)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to listen on; port 0 lets the system choose one.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
    """
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise InputError(f"Cannot listen on port {port}: choose a --port from 0 to 65535.")
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


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Make a server for `app` that sets up no logging and ignores proxies' headers."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            http="h11",
            ws="none",
            lifespan="on",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


@contextlib.contextmanager
def running_service(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
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
