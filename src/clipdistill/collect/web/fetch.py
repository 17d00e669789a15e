"""Fetching one URL from a server that may be hostile, with limits of time and size."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import aiohttp

from ..retry_after import retry_after
from .addresses import CheckedResolver, Refused, checked_url
from .options import DownloadOptions
from .robots import reservation

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
MEMORY_A_BODY = 1 << 20
"""Bytes of a body kept in memory; longer ones are written to a temporary file."""
MIN_RATE = 1024
"""Least average rate of a body in bytes per second, checked after `RATE_AFTER`."""
RATE_AFTER = 5.0
"""Seconds of a body before its rate is checked."""
MAX_HEADER = 1 << 17
"""Bytes of a header; some servers send policies and cookies of 64 KB, which browsers read."""
RESOLVERS = 32
"""Threads that resolve names; the system's resolver blocks."""


@dataclass
class Fetched:
    """The outcome of one try.

    Attributes:
        reason: why there is no body, "kind: detail"; empty when there is one.
        refused: the reason is a rule, not a failure: the URL must not be fetched.
        http_status: HTTP status of the last answer; 0 without an answer.
        received: bytes of the body that were received.
        retry_after: pause that the server requires, in seconds; None without one.
        unreachable: there was no connection at all.
    """

    reason: str = ""
    refused: bool = False
    http_status: int = 0
    received: int = 0
    retry_after: float | None = None
    unreachable: bool = False
    _body: IO[bytes] | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """Return the whole body; may be called once."""
        if self._body is None:
            return b""
        with self._body as body:
            body.seek(0)
            return body.read()


class Fetcher:
    """Fetches images; made by `open_fetcher`."""

    def __init__(self, session: aiohttp.ClientSession, options: DownloadOptions, spool: Path):
        self._session = session
        self._options = options
        self._spool = spool

    async def fetch(self, url: str) -> Fetched:
        """Try once to fetch `url`; failures of servers and networks raise nothing."""
        state = Fetched()
        options = self._options
        try:
            await asyncio.wait_for(self._follow(url, state), options.total_timeout)
        except Refused as error:
            state.reason, state.refused = str(error), True
        except (TimeoutError, asyncio.TimeoutError) as error:
            detail = str(error) or f"not done within {options.total_timeout:g} s"
            state.reason = f"timeout: {detail}"
            state.unreachable = isinstance(error, aiohttp.ConnectionTimeoutError)
        except aiohttp.ClientConnectorError as error:
            _explain_connector(error, state)
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError, UnicodeError) as error:
            state.reason = f"connection: {_one_line(error)}"
        return state

    async def _follow(self, url: str, state: Fetched) -> None:
        """Send the request and follow redirects; every target is checked like the first."""
        for _ in range(MAX_REDIRECTS + 1):
            target = checked_url(url, allow_private=self._options.allow_private)
            async with self._asking(target) as answer:
                state.http_status = answer.status
                if answer.status in REDIRECTS and "Location" in answer.headers:
                    url = urljoin(str(target), _location(answer.headers["Location"]))
                    continue
                await self._receive(answer, state)
                return
        state.reason = f"redirect: more than {MAX_REDIRECTS} redirects"

    @contextlib.asynccontextmanager
    async def _asking(self, target: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        # Time for a connection and one wait; headers that are sent byte by byte exceed it.
        patience = 2 * self._options.timeout
        try:
            answer = await asyncio.wait_for(
                self._session.get(target, allow_redirects=False), patience
            )
        except aiohttp.ServerTimeoutError:
            raise
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise asyncio.TimeoutError(f"no headers within {patience:g} s") from error
        try:
            yield answer
        finally:
            # A connection with an unread rest is closed.
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()

    async def _receive(self, answer: aiohttp.ClientResponse, state: Fetched) -> None:
        state.retry_after = retry_after(answer.headers.get("Retry-After", ""))
        if answer.status != 200:
            state.reason = f"http: {answer.status}"
            return
        if self._options.respect_robots:
            reserved = reservation(
                answer.headers.getall("X-Robots-Tag", []),
                answer.headers.getall("tdm-reservation", []),
            )
            if reserved:
                state.reason, state.refused = f"robots: {reserved}", True
                return
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            state.reason = f"encoding: expected identity, found {encoding[:40]!r}"
            return
        await self._receive_body(answer, state)

    async def _receive_body(self, answer: aiohttp.ClientResponse, state: Fetched) -> None:
        limit = self._options.max_bytes
        too_large = f"size: more than {limit} bytes"
        if (answer.content_length or 0) > limit:
            state.reason = too_large
            return
        body = tempfile.SpooledTemporaryFile(MEMORY_A_BODY, dir=str(self._spool))  # noqa: SIM115
        start = time.monotonic()
        try:
            async for piece in answer.content.iter_any():
                state.received += len(piece)
                if state.received > limit:
                    state.reason = too_large
                    return
                body.write(piece)
                passed = time.monotonic() - start
                if passed > RATE_AFTER and state.received < passed * MIN_RATE:
                    state.reason = f"timeout: slower than {MIN_RATE} bytes per second"
                    return
            state._body = body
        finally:
            if state._body is None:
                body.close()


@contextlib.asynccontextmanager
async def open_fetcher(options: DownloadOptions, spool: Path) -> AsyncIterator[Fetcher]:
    """Open a fetcher; `spool` is a folder for large bodies."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve"))
    connector = aiohttp.TCPConnector(
        limit=options.max_workers,
        limit_per_host=0,  # the frontier limits it
        resolver=CheckedResolver(allow_private=options.allow_private),
        ttl_dns_cache=60,
        ssl=options.verify_tls,
    )
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=options.timeout, sock_read=options.timeout
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        trust_env=options.env_proxy,
        headers={
            "User-Agent": options.user_agent,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        },
    ) as session:
        yield Fetcher(session, options, spool)


def _location(header: str) -> str:
    """A redirect's target, its bytes that are not UTF-8 percent-encoded, as browsers do it."""
    return re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", header)


def _explain_connector(error: aiohttp.ClientConnectorError, state: Fetched) -> None:
    cause = error.os_error
    if isinstance(error.__cause__, Refused) or isinstance(cause, Refused):
        state.reason, state.refused = str(error.__cause__ or cause), True
    elif isinstance(cause, socket.gaierror):
        state.reason, state.unreachable = "dns: the name has no address", True
    elif isinstance(
        error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError)
    ):
        state.reason = f"tls: {_one_line(error)}"
    else:
        state.reason, state.unreachable = f"connection: {_one_line(cause)}", True


def _one_line(error: BaseException) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return text[:200]
