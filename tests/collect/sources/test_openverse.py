"""Openverse, faked in the shapes of its documentation."""

from __future__ import annotations

import time

import pytest

from clipdistill.collect.sources.http import Patience, Service
from clipdistill.collect.sources.openverse import make_openverse, rest_of
from clipdistill.core.errors import InputError, ServiceError
from fake_services import FakeService, Reply, fake_openverse

PATIENCE = Patience(connect=1, read=1, total=2, retries=1, backoff=0.01, longest=2)


def source(fake: FakeService, **more):
    return make_openverse(Service("Openverse", patience=PATIENCE), fake.url, **more)


def test_what_is_kept():
    with fake_openverse(1).running() as fake:
        [row] = source(fake)("a photo of a cat", 5)
    assert row.url == "https://live.staticflickr.com/cat/0_b.jpg"
    assert (row.rank, row.score, row.source, row.caption) == (1, None, "openverse", "cat 0")
    assert row.license == "CC BY-SA 2.0"
    assert row.license_url == "https://creativecommons.org/licenses/by-sa/2.0/"
    assert row.attribution == '"cat 0" by Bo is licensed under CC BY-SA 2.0.'


def test_pages_as_large_as_a_client_without_a_key_may_have_them():
    with fake_openverse(1000).running() as fake:
        rows = list(source(fake)("cat", 50))
    assert [row.caption for row in rows] == [f"cat {index}" for index in range(50)]
    asked = [(one.query["page"], one.query["page_size"]) for one in fake.asked]
    assert asked == [("1", "20"), ("2", "20"), ("3", "20")]


def test_no_deeper_than_a_client_without_a_key_may_go():
    with fake_openverse(1000, available=99).running() as fake:
        assert len(list(source(fake)("cat", 5000))) == 240
        assert len(fake.asked) == 12
        assert len(list(source(fake)("cat", 240))) == 240


def test_the_last_page_ends_it():
    with fake_openverse(25).running() as fake:
        assert len(list(source(fake)("cat", 100))) == 25
        assert len(fake.asked) == 2
    with fake_openverse(0).running() as fake:
        assert list(source(fake)("cat", 100)) == []


def test_licences_are_asked_for():
    with fake_openverse(1).running() as fake:
        list(source(fake, license="BY, cc0", license_type="commercial")("cat", 5))
        assert fake.asked[0].query["license"] == "by,cc0"
        assert fake.asked[0].query["license_type"] == "commercial"
        with pytest.raises(InputError, match=r"--license 'mit'.*by-sa"):
            source(fake, license="by,mit")
        with pytest.raises(InputError, match="--license-type 'free'"):
            source(fake, license_type="free")


def test_a_used_up_limit_is_waited_for():
    headers = {"x-ratelimit-limit-anon_burst": "20/min", "x-ratelimit-available-anon_burst": "0"}
    assert rest_of(headers) == 3.0
    assert rest_of({**headers, "x-ratelimit-available-anon_burst": "1"}) == 0
    day = {"x-ratelimit-limit-d": "200/day", "x-ratelimit-available-d": "0"}
    assert rest_of(day) == 0  # hours; the 429 that comes says how many
    assert rest_of({"x-ratelimit-available-x": "0"}) == 0
    for odd in ("9" * 400 + "/min", "1/" + "9" * 5000 + "min", "0/min", "x"):
        assert rest_of({**headers, "x-ratelimit-limit-anon_burst": odd}) in (0, 3.0)


def test_rests_are_kept():
    fast = {"X-RateLimit-Limit-a": "8/s", "X-RateLimit-Available-a": "0"}
    with fake_openverse(45).running() as fake:
        answer = fake.answer

        def limited(asked):
            reply = answer(asked)
            return Reply(reply.value, headers=fast)

        fake.answer = limited
        start = time.monotonic()
        assert len(list(source(fake)("cat", 45))) == 45
        assert time.monotonic() - start >= 0.25  # two pauses of an eighth


def test_too_many_requests():
    with fake_openverse(5).running() as fake:
        fake.first = [Reply({"detail": "Request was throttled."}, 429, {"Retry-After": "0.2"})]
        assert len(list(source(fake)("cat", 5))) == 5
        fake.answer = lambda asked: Reply(
            {"detail": "Request was throttled. Expected available in 40000 seconds."},
            429,
            {"Retry-After": "40000"},
        )
        with pytest.raises(ServiceError, match=r"429 .*throttled.*pause of 40000 s.*same command"):
            list(source(fake)("cat", 5))


@pytest.mark.parametrize(
    "value",
    [[], {"results": 3, "page_count": 1}, {"results": []}, {"results": ["x"], "page_count": 1}],
)
def test_other_answers_are_errors(value):
    with (
        FakeService(lambda asked: Reply(value)).running() as fake,
        pytest.raises(ServiceError, match="expected"),
    ):
        list(source(fake)("cat", 5))


def test_a_refusal_says_why():
    refusal = {"detail": {"license": ["License 'x' does not exist."]}}
    with (
        FakeService(lambda asked: Reply(refusal, 400)).running() as fake,
        pytest.raises(ServiceError, match=r"400 Bad Request: .*License 'x' does not exist"),
    ):
        list(source(fake)("cat", 5))
