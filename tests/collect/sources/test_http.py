"""Asking services that fail in every way: an error that says how, after bounded tries."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from clipdistill.collect.sources import http
from clipdistill.collect.sources.http import (
    Patience,
    Service,
    Stopped,
    check_url,
    user_agent,
)
from clipdistill.core.errors import InputError, ServiceError
from fake_services import Asked, FakeService, Reply

QUICK = Patience(connect=1, read=0.3, total=1, retries=2, backoff=0.01, longest=5)


@pytest.fixture
def fake() -> Iterator[FakeService]:
    with FakeService(lambda asked: Reply({"fine": True})).running() as one:
        yield one


def ask(fake: FakeService, patience: Patience = QUICK) -> object:
    return Service("The service", patience=patience).get(fake.url, {"q": "a b&c"}).value


def test_a_good_answer(fake: FakeService) -> None:
    assert ask(fake) == {"fine": True}
    assert fake.asked[0].query == {"q": "a b&c"}
    assert fake.asked[0].headers["user-agent"] == "clipdistill"
    packed = gzip.compress(b'{"packed": [1, 2]}')
    fake.first = [Reply(body=packed, headers={"Content-Encoding": "gzip"})]
    assert ask(fake) == {"packed": [1, 2]}


BAD = {
    "answered 500 Internal Server Error: it broke": Reply({"message": "it broke"}, 500),
    "answered 503 Service Unavailable: an HTML page": Reply(body=b"<html>no</html>", status=503),
    r"an HTML page \('Sign in'\) instead of JSON": Reply(
        body=b"<!doctype html><title>\nSign in</title>", headers={"Content-Type": "text/html"}
    ),
    "an empty body": Reply(body=b""),
    r"not JSON \('\[1, 2'\)": Reply(body=b"[1, 2"),
    "broke off": Reply(body=b"[1]", headers={"Content-Length": "300000"}),
    "sent nothing for 0.3 s": Reply([1], drip=2),
    "no complete answer within 0.5 s": Reply(body=b"[" + b" " * 100 + b"]", drip=0.05),
}


@pytest.mark.parametrize("said", BAD)
def test_a_bad_answer_is_an_error_after_bounded_tries(fake: FakeService, said: str) -> None:
    fake.answer = lambda asked: BAD[said]
    if "broke off" in said:
        fake._send = _half(fake)  # type: ignore[method-assign]
    patience = replace(QUICK, retries=1, total=0.5)
    with pytest.raises(ServiceError, match=said) as info:
        ask(fake, patience)
    assert f"{patience.retries + 1} times in a row" in str(info.value)
    assert "run the same command again" in str(info.value)
    assert fake.url in str(info.value)
    assert len(fake.asked) == patience.retries + 1
    assert info.value.exit_code == 10


def _half(fake: FakeService):
    send = type(fake)._send

    def half(handler, reply):
        send(fake, handler, reply)
        handler.close_connection = True

    return half


def test_a_failure_that_passes_is_none(fake: FakeService) -> None:
    fake.first = [Reply(body=b"", status=502), Reply(body=b"<html>", status=200)]
    assert ask(fake) == {"fine": True}
    assert len(fake.asked) == 3


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"message": "no such index"}', "answered 400 Bad Request: no such index"),
        (401, b'{"detail": "20 at most"}', "401 Unauthorized: 20 at most"),
        (403, b"<html>go away", "403 Forbidden: an HTML page"),
        (404, b"", "404 Not Found"),
    ],
)
def test_a_refusal_is_not_tried_again(fake: FakeService, status: int, body: bytes, said) -> None:
    fake.answer = lambda asked: Reply(body=body, status=status)
    with pytest.raises(ServiceError, match=said) as info:
        ask(fake)
    assert info.value.status == status
    assert len(fake.asked) == 1


def test_a_redirect_is_not_followed(fake: FakeService) -> None:
    fake.answer = lambda asked: Reply(body=b"", status=301, headers={"Location": "/v2/x?q=1"})
    with pytest.raises(ServiceError, match=rf"has moved.*{fake.url}/v2/x\?q=1"):
        ask(fake)
    assert len(fake.asked) == 1


def test_the_size_of_an_answer_is_bounded(fake: FakeService, monkeypatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 1 << 20)
    bomb = gzip.compress(b" " * (3 << 20))
    assert len(bomb) < 10_000
    fake.answer = lambda asked: Reply(body=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(ServiceError, match="more than 1 MiB"):
        ask(fake)
    assert len(fake.asked) == 1


def test_retry_after_is_waited_for_by_everybody(fake: FakeService) -> None:
    fake.first = [Reply({"detail": "slow down"}, 429, {"Retry-After": "0.6"})]
    service = Service("x", patience=QUICK)
    times: list[float] = []

    def get() -> None:
        service.get(fake.url, {})
        times.append(time.monotonic())

    start = time.monotonic()
    first = threading.Thread(target=get)
    first.start()
    while not fake.asked or fake.first:
        time.sleep(0.01)
    time.sleep(0.1)
    get()
    first.join()
    assert all(one - start >= 0.6 for one in times)
    assert len(fake.asked) == 3


def test_a_service_that_requires_a_pause_of_hours_is_not_tried_again(fake: FakeService) -> None:
    fake.answer = lambda asked: Reply({"detail": "throttled"}, 429, {"Retry-After": "7200"})
    with pytest.raises(ServiceError, match=r"429 Too Many Requests: throttled.*pause of 7200 s"):
        ask(fake)
    assert len(fake.asked) == 1


def test_pauses_are_drawn_and_grow(fake: FakeService, monkeypatch) -> None:
    most: list[float] = []
    monkeypatch.setattr(http.random, "uniform", lambda low, high: most.append(high) or 0.0)
    fake.answer = lambda asked: Reply(None, 500)
    patience = Patience(retries=5, backoff=1.0, longest=6.0)
    with pytest.raises(ServiceError):
        ask(fake, patience)
    assert most == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServiceError, match=r"cannot be reached .*refused.*, 3 times"):
        Service("The service", patience=QUICK).get(url, {})


def test_a_certificate_that_nobody_vouches_for(fake: FakeService) -> None:
    with pytest.raises(ServiceError, match=r"no secure connection|broke off"):
        Service("x", patience=replace(QUICK, retries=0)).get(fake.url.replace("http", "https"), {})


def test_proxies_of_the_environment_are_not_used(fake: FakeService, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(fake) == {"fine": True}


def test_no_more_requests_at_once_than_allowed(fake: FakeService) -> None:
    fake.slowness = 0.05
    service = Service("x", patience=QUICK, at_once=2)
    threads = [threading.Thread(target=service.get, args=(fake.url, {})) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake.asked) == 6
    assert fake.busiest == 2


def test_waiting_ends_when_the_search_does(fake: FakeService) -> None:
    fake.answer = lambda asked: Reply(None, 503, {"Retry-After": "60"})
    stop = threading.Event()
    service = Service("x", patience=replace(QUICK, longest=100), stop=stop)
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        service.get(fake.url, {})
    assert time.monotonic() - start < 2


def test_addresses() -> None:
    assert check_url("http://127.0.0.1:1234/", "--url") == "http://127.0.0.1:1234"
    for wrong in ("knn.example", "ftp://x", "http://", "http://a b", "http://x?q=1", "http://u@x"):
        with pytest.raises(InputError, match="--url"):
            check_url(wrong, "--url")


def test_the_user_agent_has_the_contact() -> None:
    assert user_agent("me@example.org").startswith("clipdistill/")
    assert "(me@example.org) urllib3/" in user_agent("me@example.org")


def test_posted_json_arrives(fake: FakeService) -> None:
    seen: list[Asked] = fake.asked
    assert Service("x", patience=QUICK).post(fake.url, {"a": "ü"}).value == {"fine": True}
    assert (seen[0].method, seen[0].body) == ("POST", {"a": "ü"})
