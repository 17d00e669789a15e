"""Requests to a service over HTTP: limits, bounded retries, errors that describe the answer."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urljoin

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from ...core.errors import InputError, OptionError, ServiceError
from ..retry_after import retry_after

MAX_BODY = 64 << 20
"""Most bytes of an answer, unpacked."""
CHUNK = 1 << 16
EXCERPT = 160
"""Characters of an unexpected answer that the error shows."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of temporary failures (RFC 9110 and 6585)."""
RESUME = "What was found is kept: run the same command again later to resume."


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service.

    Attributes:
        connect: most seconds until there is a connection.
        read: most seconds without a byte.
        total: most seconds until an answer is complete.
        retries: further tries after a temporary failure.
        backoff: most seconds of the first pause; each next pause may be twice as long.  The
            duration is drawn at random ("full jitter"), so that clients do not retry all at once.
        longest: seconds of the longest pause.  When a service requires a longer pause, there is no
            further try.
    """

    connect: float = 10.0
    read: float = 60.0
    total: float = 300.0
    retries: int = 4
    backoff: float = 1.0
    longest: float = 120.0


@dataclass(frozen=True)
class Answer:
    """The answer of a service.

    Attributes:
        value: the JSON; NaN and infinite numbers as Python's floats.
        headers: headers of the answer, with names in lower case.
    """

    value: Any
    headers: Mapping[str, str]


class _Passing(Exception):
    """A temporary failure, after which the request is tried again."""

    def __init__(self, what: str, status: int = 0, wait: float | None = None) -> None:
        super().__init__(what)
        self.status, self.wait = status, wait


class Stopped(Exception):
    """The search ended while this thread was waiting."""


class Service:
    """A service that answers with JSON; may be shared by threads.

    Redirects are not followed: they raise an error that names the new address.  Proxies from the
    environment are not used.
    """

    def __init__(
        self,
        name: str,
        *,
        user_agent: str = "clipdistill",
        patience: Patience = Patience(),
        at_once: int = 32,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare the client; no request is sent yet.

        Args:
            name: name of the service in messages.
            user_agent: the User-Agent header.
            patience: how long to wait for the service.
            at_once: most requests at the same time.
            stop: when set, waiting ends with `Stopped`.
        """
        self.name, self.patience = name, patience
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }
        self._turn = threading.BoundedSemaphore(at_once)
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._pool = urllib3.PoolManager(
            maxsize=at_once,
            retries=False,
            timeout=urllib3.Timeout(
                connect=min(patience.connect, patience.total),
                read=min(patience.read, patience.total),
            ),
        )

    def get(
        self, url: str, fields: Mapping[str, str], busy: Callable[[Any], str] = lambda value: ""
    ) -> Answer:
        """GET JSON.

        Args:
            url: address without a query.
            fields: the query.
            busy: returns why an answer means that the service is busy, or an empty text.

        Raises:
            ServiceError: the service fails in spite of retries, or refuses.
            InputError: `url` is not a URL.
        """
        return self._ask("GET", f"{url}?{urlencode(fields)}" if fields else url, None, busy)

    def post(self, url: str, value: Any) -> Answer:
        """POST JSON and return the JSON of the answer; raises the errors of `get`."""
        body = json.dumps(value, allow_nan=False).encode()
        return self._ask("POST", url, body, lambda value: "")

    def rest(self, seconds: float) -> None:
        """Send no request for some seconds, from any thread."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _ask(self, method: str, url: str, body: bytes | None, busy: Callable[[Any], str]) -> Answer:
        where = f"{self.name} ({url.partition('?')[0]})"
        for turn in range(self.patience.retries + 1):
            try:
                with self._turn:
                    self._wait()
                    return self._try(where, method, url, body, busy)
            except _Passing as failure:
                self._pause(failure, turn, where)
        raise AssertionError  # `_pause` raises after the last try

    def _pause(self, failure: _Passing, turn: int, where: str) -> None:
        """Plan the pause before the next try.

        Raises:
            ServiceError: that was the last try, or the service requires a pause that is too long.
        """
        longest = self.patience.longest
        if failure.wait is not None and failure.wait > longest:
            raise ServiceError(
                f"{where} {failure}, and requires a pause of {failure.wait:.0f} s. {RESUME}",
                failure.status,
            ) from failure
        if turn == self.patience.retries:
            times = f", {turn + 1} times in a row" if turn else ""
            raise ServiceError(f"{where} {failure}{times}. {RESUME}", failure.status) from failure
        most = min(self.patience.backoff * 2**turn, longest)
        if failure.wait is not None:
            # The pause is for all threads: it is meant for the client, not for one request.
            self.rest(failure.wait + random.uniform(0, self.patience.backoff))
        elif self._stop.wait(random.uniform(0, most)):
            raise Stopped

    def _wait(self) -> None:
        """Wait until a request may be sent."""
        while True:
            with self._lock:
                left = self._not_before - time.monotonic()
            if self._stop.wait(max(0.0, left)):
                raise Stopped
            if left <= 0:
                return

    def _try(
        self, where: str, method: str, url: str, body: bytes | None, busy: Callable[[Any], str]
    ) -> Answer:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        end = time.monotonic() + self.patience.total
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                data = self._read(where, response, end)
            except BaseException:
                response.close()  # the unread rest must not be parsed as another answer
                raise
            finally:
                response.release_conn()
        except HTTPError as error:
            raise self._not_reached(where, url, error) from error
        return self._understand(where, url, response, data, busy)

    def _read(self, where: str, response: urllib3.BaseHTTPResponse, end: float) -> bytes:
        """Read the body, within its limits of time and size."""
        parts, size = [], 0
        while part := response.read1(CHUNK):
            parts.append(part)
            size += len(part)
            if size > MAX_BODY:
                raise ServiceError(
                    f"{where} answered with more than {MAX_BODY >> 20} MiB. Ask for fewer results.",
                    response.status,
                )
            if time.monotonic() > end:
                raise _Passing(f"sent no complete answer within {self.patience.total:g} s")
        return b"".join(parts)

    def _not_reached(self, where: str, url: str, error: HTTPError) -> Exception:
        """Make the error for a request without an answer."""
        if isinstance(error, LocationValueError):
            return InputError(f"{url}: not a URL ({error}).")
        if isinstance(error, SSLError):
            return ServiceError(f"{where}: no secure connection ({error})")
        if isinstance(error, ReadTimeoutError):
            return _Passing(f"sent nothing for {self.patience.read:g} s")
        if isinstance(error, NewConnectionError):
            return _Passing(f"cannot be reached ({_cause(error)})")
        if isinstance(error, ConnectTimeoutError):
            return _Passing(f"accepted no connection within {self.patience.connect:g} s")
        return _Passing(f"broke off ({_cause(error)})")

    def _understand(
        self,
        where: str,
        url: str,
        response: urllib3.BaseHTTPResponse,
        data: bytes,
        busy: Callable[[Any], str],
    ) -> Answer:
        headers = {name.lower(): value for name, value in response.headers.items()}
        status = response.status
        wait = retry_after(headers.get("retry-after", ""))
        if 300 <= status < 400:
            target = urljoin(url, headers.get("location", "nowhere"))
            raise ServiceError(
                f"{where} has moved: it redirects (status {status}) to {target}. If that address "
                "is right, give it instead.",
                status,
            )
        if status >= 400:
            answer = f"answered {status} {_phrase(status)}{_reason(data)}".rstrip()
            if status in PASSING:
                raise _Passing(answer, status, wait)
            raise ServiceError(f"{where} {answer}", status)
        value = _json(data, headers.get("content-type", ""))
        if reason := busy(value):
            raise _Passing(f"answered that it is busy: {reason}", status, wait)
        return Answer(value, headers)


def user_agent(contact: str = "") -> str:
    """The User-Agent header, in the form that Wikimedia's policy requires."""
    from importlib.metadata import version

    ours = f"clipdistill/{version('clipdistill')}"
    return f"{ours} ({contact}) urllib3/{version('urllib3')}" if contact else ours


def check_url(url: str, option: str) -> str:
    """Check the address of a service, and return it without a slash at its end.

    Raises:
        OptionError: it is not an http(s) address.
    """
    if not re.match(r"https?://[^/\s?#@]+(/[^\s?#]*)?$", url, re.IGNORECASE):
        raise OptionError(
            f"{option} {url!r}: expected an address such as http://127.0.0.1:1234 or "
            "https://example.org/api"
        )
    return url.rstrip("/")


def _json(data: bytes, kind: str) -> Any:
    if not data.strip():
        raise _Passing("answered with an empty body")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        text = data.decode(errors="replace").strip()
        if "html" in kind.lower() or text.startswith("<"):
            title = re.search(r"<title[^>]*>\s*(.*?)\s*</title>", text, re.DOTALL | re.IGNORECASE)
            named = f" ({title[1][:EXCERPT]!r})" if title and title[1] else ""
            raise _Passing(f"answered with an HTML page{named} instead of JSON") from error
        raise _Passing(f"answered with something that is not JSON ({text[:EXCERPT]!r})") from error


def _reason(data: bytes) -> str:
    """The reason in the body of a refusal, in one line."""
    text = data.decode(errors="replace").strip()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        error = value.get("error")
        inner = error.get("info") if isinstance(error, dict) else error
        found = next(
            (
                one
                for one in (value.get("message"), value.get("detail"), inner)
                if isinstance(one, str) and one
            ),
            "",
        )
        text = found or text
    elif text.startswith("<"):
        text = "an HTML page"
    text = " ".join(text.split())
    return f": {text[: 3 * EXCERPT]}" if text else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _cause(error: BaseException) -> str:
    """The innermost reason; urllib3's own text contains the names of objects."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).rpartition(": ")[2] or type(error).__name__
