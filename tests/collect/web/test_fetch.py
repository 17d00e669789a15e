"""One URL after another against a hostile server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipdistill.collect.web.fetch import Fetched, open_fetcher
from clipdistill.collect.web.options import DownloadOptions
from hostile import (
    HostileServer,
    drip,
    drip_headers,
    endless,
    garbage,
    gzip_bomb,
    hangs_up,
    in_turn,
    jpeg,
    replies,
    silence,
)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer().running() as one:
        yield one


def fetch(tmp_path: Path, url: str, **options: object) -> Fetched:
    chosen = DownloadOptions(
        **{"allow_private": True, "timeout": 1.0, "total_timeout": 3.0} | options
    )

    async def ask() -> Fetched:
        async with open_fetcher(chosen, tmp_path) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(ask())


def test_an_image_arrives_as_it_was_sent(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a.jpg"] = replies(jpeg(1))
    found = fetch(tmp_path, server.url("a.jpg"))
    assert (found.reason, found.http_status) == ("", 200)
    assert found.read() == jpeg(1)
    headers = server.headers["/a.jpg"]
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("clipdistill/")


def test_a_body_too_large_for_memory_goes_through_a_file(
    server: HostileServer, tmp_path: Path
) -> None:
    body = bytes(range(256)) * 12_000
    server.answers["big"] = replies(body)
    assert fetch(tmp_path, server.url("big")).read() == body
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("404", replies(b"gone", 404), "http: 404"),
        ("500", replies(b"oops", 500), "http: 500"),
        ("204", replies(b"", 204), "http: 204"),
        ("endless", endless, "size: more than 50000 bytes"),
        ("long", replies(b"x" * 60_000), "size: more than 50000 bytes"),
        ("lies-long", replies(b"x" * 10, length=10**12), "size: more than 50000 bytes"),
        ("hangs-up", hangs_up, "connection"),
        ("garbage", garbage, "connection"),
        ("silence", silence, "timeout"),
        ("drip", drip, "timeout"),
        ("drip-headers", drip_headers, "timeout: no headers"),
        ("gzip", replies(gzip_bomb(), Content_Encoding="gzip"), "encoding: expected identity"),
        ("noai", replies(jpeg(), X_Robots_Tag="noai"), "robots: X-Robots-Tag noai"),
        ("tdm", replies(jpeg(), tdm_reservation="1"), "robots: tdm-reservation"),
        ("loop", replies(b"", 302, Location="/loop"), "redirect: more than 5"),
        ("to-file", replies(b"", 302, Location="file:///etc/passwd"), "url: expected http"),
        ("header-bomb", replies(b"", X_Long="x" * 200_000), "connection"),
    ],
)
def test_every_attack_ends_with_a_reason_in_time(
    server: HostileServer, tmp_path: Path, name: str, answer, said: str
) -> None:
    server.answers[name] = answer
    start = time.monotonic()
    found = fetch(tmp_path, server.url(name), max_bytes=50_000)
    assert said in found.reason
    assert time.monotonic() - start < 5
    assert found.read() == b""
    assert list(tmp_path.iterdir()) == []


def test_a_body_slower_than_the_least_rate_is_given_up(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipdistill.collect.web.fetch.RATE_AFTER", 0.5)
    server.answers["drip"] = drip
    found = fetch(tmp_path, server.url("drip"), total_timeout=60.0)
    assert found.reason == "timeout: slower than 1024 bytes per second"


def test_redirects_are_followed_and_each_target_is_checked(
    server: HostileServer, tmp_path: Path
) -> None:
    server.answers["one"] = replies(b"", 301, Location="/two")
    server.answers["two"] = replies(b"", 307, Location=server.url("three", "127.0.0.2"))
    server.answers["three"] = replies(jpeg(3))
    assert fetch(tmp_path, server.url("one")).read() == jpeg(3)


def test_headers_that_browsers_read_are_read(server: HostileServer, tmp_path: Path) -> None:
    server.answers["long"] = replies(jpeg(1), Set_Cookie="x" * 65_000)
    assert fetch(tmp_path, server.url("long")).read() == jpeg(1)
    server.answers["latin"] = replies(b"", 302, Location="/caf\xe9.jpg")
    server.answers["caf\ufffd.jpg"] = replies(jpeg(2))  # how the server reads %E9
    assert fetch(tmp_path, server.url("latin")).read() == jpeg(2)


def test_without_leave_loopback_is_not_asked(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a.jpg"] = replies(jpeg())
    for host in ("127.0.0.1", "localhost", "2130706433"):
        found = fetch(tmp_path, server.url("a.jpg", host), allow_private=False)
        assert found.reason
    assert not server.asked


def test_a_public_name_that_redirects_to_loopback_is_refused(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.1 plays the public server; 127.0.0.2 stays private."""
    import ipaddress

    monkeypatch.setattr(
        "clipdistill.collect.web.addresses.is_public",
        lambda a: a == ipaddress.ip_address("127.0.0.1"),
    )
    server.answers["out"] = replies(b"", 302, Location=server.url("in", "127.0.0.2"))
    server.answers["in"] = replies(jpeg())
    found = fetch(tmp_path, server.url("out"), allow_private=False)
    assert found.refused
    assert "127.0.0.2 is not a public address" in found.reason
    assert "/in" not in server.asked


def test_a_name_that_resolves_to_loopback_is_refused(server: HostileServer, tmp_path: Path) -> None:
    found = fetch(tmp_path, server.url("a", "localhost"), allow_private=False)
    assert found.refused
    assert "not a public address" in found.reason


def test_reservations_can_be_ignored_when_asked(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a"] = replies(jpeg(), X_Robots_Tag="noai")
    assert fetch(tmp_path, server.url("a"), respect_robots=False).read() == jpeg()


def test_rules_for_other_robots_are_not_ours(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a"] = replies(jpeg(), X_Robots_Tag="otherbot: noai")
    assert fetch(tmp_path, server.url("a")).read() == jpeg()


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("soon", None), ("", None)])
def test_retry_after(
    server: HostileServer, tmp_path: Path, value: str, seconds: float | None
) -> None:
    server.answers["a"] = replies(b"", 429, Retry_After=value)
    found = fetch(tmp_path, server.url("a"))
    assert (found.reason, found.retry_after) == ("http: 429", seconds)


def test_proxies_of_the_environment_are_ignored(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["a"] = replies(jpeg())
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert not fetch(tmp_path, server.url("a")).reason
    assert fetch(tmp_path, server.url("a"), env_proxy=True).reason


def test_a_dead_port_is_unreachable(tmp_path: Path) -> None:
    found = fetch(tmp_path, "http://127.0.0.1:1/a.jpg")
    assert found.unreachable
    assert found.reason.startswith("connection:")


def test_cookies_are_not_kept(server: HostileServer, tmp_path: Path) -> None:
    server.answers["a"] = in_turn(
        replies(b"", 302, Location="/a", Set_Cookie="id=1"), replies(jpeg())
    )
    assert not fetch(tmp_path, server.url("a")).reason
    assert "cookie" not in server.headers["/a"]
