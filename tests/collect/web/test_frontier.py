"""Whose turn it is: fairness, politeness, retries, an end."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.collect.web.frontier import Frontier, Job
from clipdistill.formats.urls import UrlRow


def rows(*urls: str) -> list[UrlRow]:
    return [UrlRow(url) for url in urls]


async def drain(frontier: Frontier, workers: int, act) -> list[str]:
    """Let workers take jobs until there are none; `act(job)` says how each is given back."""
    order: list[str] = []

    async def work() -> None:
        while (job := await frontier.next()) is not None:
            order.append(job.row.url)
            await asyncio.sleep(0)
            frontier.done(job, **act(job))

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(workers))), 20)
    return order


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99)), max_size=60),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 10),
)
def test_every_url_is_handed_out_once_and_hosts_are_spared(
    pairs: list[tuple[int, int]], per_host: int, workers: int, window: int
) -> None:
    urls = [f"http://h{host}/{page}/{n}" for n, (host, page) in enumerate(pairs)]
    active: Counter[str] = Counter()

    async def run() -> list[str]:
        frontier = Frontier(iter(rows(*urls)), per_host=per_host, window=window)
        order: list[str] = []

        async def work() -> None:
            while (job := await frontier.next()) is not None:
                active[job.host] += 1
                assert active[job.host] <= per_host
                order.append(job.row.url)
                await asyncio.sleep(0)
                active[job.host] -= 1
                frontier.done(job)

        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(workers))), 20)
        return order

    assert sorted(asyncio.run(run())) == sorted(urls)


def test_hosts_take_turns() -> None:
    urls = [f"http://many/{n}" for n in range(50)] + ["http://few/1", "http://few/2"]
    order = asyncio.run(drain(Frontier(iter(rows(*urls)), per_host=1), 1, lambda job: {}))
    assert order.index("http://few/2") < 6


def test_a_job_can_be_tried_again_later() -> None:
    def act(job: Job) -> dict[str, float]:
        return {"retry_in": 0.01} if job.tries < 2 else {}

    frontier = Frontier(iter(rows("http://a/1", "http://b/1")), per_host=2)
    order = asyncio.run(drain(frontier, 3, act))
    assert Counter(order) == {"http://a/1": 3, "http://b/1": 3}


def test_a_paused_host_waits_while_others_go_on() -> None:
    urls = [f"http://slow/{n}" for n in range(3)] + [f"http://quick/{n}" for n in range(20)]

    def act(job: Job) -> dict[str, float]:
        return {"pause_host": 0.2} if job.row.url == "http://slow/0" else {}

    order = asyncio.run(drain(Frontier(iter(rows(*urls)), per_host=1), 2, act))
    assert set(order[-2:]) == {"http://slow/1", "http://slow/2"}


def test_a_host_that_is_never_reached_is_given_up() -> None:
    dead: list[str] = []
    frontier = Frontier(iter(rows(*[f"http://dead/{n}" for n in range(20)])), per_host=1)

    def act(job: Job) -> dict[str, bool]:
        if frontier.is_dead(job):
            dead.append(job.row.url)
        return {"reached": False}

    asyncio.run(drain(frontier, 2, act))
    assert len(dead) == 14


def test_it_reads_no_further_than_its_window() -> None:
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield UrlRow(f"http://a/{read}")

    async def run() -> None:
        frontier = Frontier(endless(), per_host=1, window=10)
        job = await frontier.next()
        assert job is not None
        assert read == 10
        frontier.stop()
        frontier.done(job)
        assert await frontier.next() is None

    asyncio.run(run())
