"""Wikimedia Commons, faked in the shapes of MediaWiki's documentation."""

from __future__ import annotations

import threading

import pytest

from clipdistill.collect.sources.commons import AT_ONCE, contact_of, make_commons
from clipdistill.collect.sources.http import Patience, Service, user_agent
from clipdistill.core.errors import InputError, ServiceError
from fake_services import FakeService, Reply, fake_commons

PATIENCE = Patience(connect=1, read=1, total=2, retries=2, backoff=0.01)
CATS = [f"Cat {index}" for index in range(130)]


def source(fake: FakeService, **more):
    agent = user_agent("me@example.org")
    service = Service("Commons", user_agent=agent, patience=PATIENCE, at_once=AT_ONCE)
    return make_commons(service, fake.url, **more)


def test_what_is_asked_and_what_is_kept():
    with fake_commons(["Red cat", "Blue dog"]).running() as fake:
        [row] = source(fake)("a photo of a cat", 10)
    assert row.url.endswith("/500px-Red_cat.jpg")  # as the API returned it
    assert (row.prompt, row.rank, row.score, row.source) == ("a photo of a cat", 1, None, "commons")
    assert (row.license, row.attribution) == ("CC BY-SA 4.0", "Ann 0")
    assert row.license_url == "https://creativecommons.org/licenses/by-sa/4.0"
    assert row.caption == "A Red cat & more"
    ask = fake.asked[0].query
    assert ask["gsrsearch"] == "filetype:bitmap cat"
    assert (ask["gsrnamespace"], ask["maxlag"], ask["iiurlwidth"]) == ("6", "5", "500")
    assert "me@example.org" in fake.asked[0].headers["user-agent"]
    assert "gzip" in fake.asked[0].headers["accept-encoding"]


@pytest.mark.parametrize("split", [False, True])
def test_pages_follow_each_other_in_the_order_of_the_search(split):
    with fake_commons(CATS, split=split).running() as fake:
        rows = list(source(fake)("cat", 120))
        assert [row.caption for row in rows] == [f"A Cat {i} & more" for i in range(120)]
        assert [row.rank for row in rows] == list(range(1, 121))
        assert all(row.url and row.license for row in rows)
        assert len(fake.asked) == (6 if split else 3)
        assert len(list(source(fake)("cat", 1000))) == len(CATS)


def test_only_as_many_as_needed_are_asked_for():
    with fake_commons(CATS).running() as fake:
        assert len(list(source(fake)("cat", 7))) == 7
    assert [asked.query["gsrlimit"] for asked in fake.asked] == ["7"]


def test_nothing_found_is_nothing():
    with fake_commons(CATS).running() as fake:
        assert list(source(fake)("zebra", 5)) == []


def test_lagging_databases_are_waited_for():
    lag = {"error": {"code": "maxlag", "info": "Waiting for db1: 6 seconds lagged", "lag": 6}}
    with fake_commons(CATS).running() as fake:
        fake.first = [Reply(lag, headers={"Retry-After": "0", "X-Database-Lag": "6"})]
        assert len(list(source(fake)("cat", 5))) == 5
        assert len(fake.asked) == 2
        fake.answer = lambda asked: Reply(lag)
        with pytest.raises(ServiceError, match=r"busy: maxlag: Waiting for db1.*3 times in a row"):
            list(source(fake)("cat", 5))
        fake.answer = lambda asked: Reply(lag, headers={"Retry-After": "3600"})
        with pytest.raises(ServiceError, match="pause of 3600 s"):
            list(source(fake)("cat", 5))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"error": {"code": "badvalue", "info": "Unrecognized value"}}, "badvalue: Unrecognized"),
        ({}, "expected a query's answer"),
        ([1], "expected the answer of a MediaWiki API"),
        ({"batchcomplete": True, "query": {"pages": {"1": {}}}}, "expected a list of files"),
        ({"batchcomplete": True, "query": {"pages": [{"imageinfo": [3]}]}}, "imageinfo"),
        ({"batchcomplete": True, "continue": [1]}, "expected how to continue"),
    ],
)
def test_other_answers_are_errors(value, said):
    with (
        FakeService(lambda asked: Reply(value)).running() as fake,
        pytest.raises(ServiceError, match=said),
    ):
        list(source(fake)("cat", 5))


@pytest.mark.parametrize("index", [None, "x", [1], 10**400, -1, True])
def test_odd_places_and_metadata_end_nothing(index):
    info = {"url": "https://x/1.jpg", "extmetadata": [1]}
    page = {"title": "File:A.jpg", "index": index, "imageinfo": [info]}
    value = {"batchcomplete": True, "query": {"pages": [page, {**page, "title": "B", "index": 1}]}}
    with FakeService(lambda asked: Reply(value)).running() as fake:
        rows = list(source(fake)("cat", 5))
    assert {row.caption for row in rows} == {"A", "B"}


def test_paging_in_circles_ends():
    page = {"batchcomplete": True, "continue": {"gsroffset": 5, "continue": "x"}}
    with (
        FakeService(lambda asked: Reply(page)).running() as fake,
        pytest.raises(ServiceError, match="in circles"),
    ):
        list(source(fake)("cat", 5))
    assert len(fake.asked) == 2


def test_a_deleted_file_has_no_url():
    page = {"title": "File:Gone.jpg", "index": 1, "imageinfo": []}
    answer = {"batchcomplete": True, "query": {"pages": [page]}}
    with FakeService(lambda asked: Reply(answer)).running() as fake:
        [row] = source(fake)("cat", 5)
    assert (row.url, row.caption) == ("", "Gone")


def test_two_requests_at_once_over_all_prompts():
    with fake_commons(CATS).running() as fake:
        fake.slowness = 0.05
        search = source(fake)
        threads = [threading.Thread(target=lambda: list(search("cat", 60))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(fake.asked) == 10
    assert fake.busiest == 2


def test_without_a_contact_the_policy_is_named():
    assert contact_of(" me@example.org ") == "me@example.org"
    assert contact_of("https://example.org/me") == "https://example.org/me"
    for wrong in (None, "", "me", "me@x", "me@example.org (x)\r\nX: y"):
        with pytest.raises(InputError, match=r"User-Agent policy.*CLIPDISTILL_CONTACT"):
            contact_of(wrong)
