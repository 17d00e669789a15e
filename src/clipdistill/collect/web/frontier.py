"""Which URL is next: limits per host, retries later, bounded memory.

Hosts take turns, so that a host with a million URLs does not delay the others.  At most `window`
URLs wait here; the others are still unread in the list.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ...formats.urls import UrlRow

DEAD_AFTER = 6
"""Failed connections in a row after which a host is not tried again in this run."""


@dataclass
class Job:
    """One URL to fetch.

    Attributes:
        row: the URL and its origin.
        host: the host of the URL.
        tries: number of tries before.
    """

    row: UrlRow
    host: str
    tries: int = 0


@dataclass
class _Host:
    waiting: deque[Job] = field(default_factory=deque)
    active: int = 0
    paused_until: float = 0.0
    failures: int = 0
    queued: bool = False


def host_of(url: str) -> str:
    """The host part of a URL in lower case; empty when it is malformed."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


class Frontier:
    """A queue of jobs for one event loop.

    Args:
        rows: the URLs to fetch, read when there is room.
        per_host: most jobs of one host at the same time.
        window: most URLs that wait here.
        clock: returns the time in seconds; another one is for tests.
    """

    def __init__(
        self,
        rows: Iterator[UrlRow],
        *,
        per_host: int,
        window: int = 8192,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._per_host = per_host
        self._window = window
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._ready: deque[str] = deque()
        self._later: list[tuple[float, int, Job | str]] = []  # a job to retry, or a host to wake
        self._numbers = itertools.count()
        self._held = 0  # waiting or to be retried
        self._active = 0
        self._exhausted = False
        self._stopped = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def next(self) -> Job | None:
        """Wait for the next job and return it; None when all jobs are done."""
        while True:
            self._wake()
            self._fill()
            job = self._take()
            if job is not None:
                if self._ready:
                    self._call_one()
                return job
            if self._exhausted and not self._held and not self._active:
                self._call_all()
                return None
            await self._wait()

    def done(
        self,
        job: Job,
        *,
        retry_in: float | None = None,
        pause_host: float = 0.0,
        reached: bool = True,
    ) -> None:
        """Report that a job is done.

        Args:
            job: a job from `next`.
            retry_in: seconds until the job is tried again; None: it is finished.
            pause_host: seconds without further jobs of the host.
            reached: whether there was a connection.
        """
        host = self._hosts[job.host]
        host.active -= 1
        self._active -= 1
        host.failures = 0 if reached else host.failures + 1
        host.paused_until = max(host.paused_until, self._clock() + pause_host)
        if retry_in is not None and not self._stopped:
            job.tries += 1
            self._held += 1
            self._put_later(self._clock() + retry_in, job)
        self._queue(job.host)
        if self._held or not self._exhausted:
            self._call_one()
        elif not self._active:
            self._call_all()

    def is_dead(self, job: Job) -> bool:
        """Whether the job's host was unreachable too often to be tried again."""
        return self._hosts[job.host].failures >= DEAD_AFTER

    def stop(self) -> None:
        """Read no further URLs and drop those that wait; running jobs may end."""
        self._exhausted = self._stopped = True
        self._ready.clear()
        self._later.clear()
        self._held = 0
        for host in self._hosts.values():
            host.waiting.clear()

    def _fill(self) -> None:
        while not self._exhausted and self._held < self._window:
            row = next(self._rows, None)
            if row is None:
                self._exhausted = True
                return
            self._add(Job(row, host_of(row.url)))
            self._held += 1

    def _add(self, job: Job) -> None:
        self._hosts.setdefault(job.host, _Host()).waiting.append(job)
        self._queue(job.host)

    def _queue(self, name: str) -> None:
        """Queue a host for its next turn, if it has waiting jobs and may run one."""
        host = self._hosts[name]
        if host.queued or not host.waiting or host.active >= self._per_host:
            if not host.waiting and not host.active and not host.failures and not host.queued:
                self._forget(name, host)
            return
        host.queued = True
        if host.paused_until > self._clock():
            self._put_later(host.paused_until, name)
        else:
            self._ready.append(name)

    def _forget(self, name: str, host: _Host) -> None:
        """Free the memory of a host without state."""
        if host.paused_until <= self._clock():
            del self._hosts[name]

    def _take(self) -> Job | None:
        while self._ready:
            name = self._ready.popleft()
            host = self._hosts[name]
            host.queued = False
            if host.paused_until > self._clock():
                self._queue(name)
                continue
            job = host.waiting.popleft()
            host.active += 1
            self._active += 1
            self._held -= 1
            self._queue(name)
            return job
        return None

    def _put_later(self, when: float, what: Job | str) -> None:
        heapq.heappush(self._later, (when, next(self._numbers), what))

    def _wake(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            what = heapq.heappop(self._later)[2]
            if isinstance(what, Job):
                self._add(what)
            else:
                self._hosts[what].queued = False
                self._queue(what)

    async def _wait(self) -> None:
        """Wait until a job is done, or the next retry or pause is due."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        timer = None
        if self._later:
            delay = max(0.0, self._later[0][0] - self._clock())
            timer = loop.call_later(delay, _resolve, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()

    def _call_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _call_all(self) -> None:
        while self._waiters:
            self._call_one()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
