"""The kNN client against a fake back end: what is sent, what comes back, what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest

from clipdistill.collect.sources.http import Patience, Service
from clipdistill.collect.sources.knn import KnnSettings, make_knn
from clipdistill.core.errors import InputError, ServiceError
from clipdistill.formats.urls import UrlRow
from fake_services import FakeService, Reply, fake_knn, knn_items

PATIENCE = Patience(connect=1, read=1, total=2, retries=1, backoff=0.01)


def source(fake: FakeService, settings: KnnSettings = KnnSettings(), path: str = "", **more):
    return make_knn(Service("The service", patience=PATIENCE), fake.url + path, settings, **more)


def embed(texts):
    return np.full((len(texts), 4), 0.5, np.float32)


@pytest.mark.parametrize("path", ["", "/", "/knn-service", "/knn-service/"])
def test_hits_are_as_the_service_ranks_them(path):
    with fake_knn().running() as fake:
        rows = list(source(fake, path=path.rstrip("/"))("a cat", 3))
    assert rows[0] == UrlRow(
        "https://pictures.example/a-cat/0.jpg", "a cat", 1, 0.4, "knn", "a cat 0"
    )
    assert [row.rank for row in rows] == [1, 2, 3]
    assert fake.asked[-1].path == "/knn-service"


def test_every_parameter_is_sent_by_its_name():
    settings = KnnSettings(
        indice_name="other",
        num_result_ids=70,
        use_mclip=True,
        deduplicate=False,
        use_safety_model=False,
        use_violence_detector=False,
        aesthetic_score=9,
        aesthetic_weight=0.25,
    )
    with fake_knn().running() as fake:
        assert len(list(source(fake, settings)("a cat", 5))) == 5
    assert fake.asked[-1].body == {
        "text": "a cat",
        "image": None,
        "image_url": None,
        "embedding_input": None,
        "modality": "image",
        "num_images": 5,
        "num_result_ids": 70,
        "indice_name": "other",
        "use_mclip": True,
        "deduplicate": False,
        "use_safety_model": False,
        "use_violence_detector": False,
        "aesthetic_score": 9,
        "aesthetic_weight": 0.25,
    }


def test_the_first_index_is_taken_and_no_score_is_an_empty_text():
    with fake_knn().running() as fake:
        list(source(fake)("a cat", 5))
    body = fake.asked[-1].body
    assert (body["indice_name"], body["aesthetic_score"]) == ("laion5B-L-14", "")


def test_an_unknown_index_is_refused_before_any_query():
    with (
        fake_knn().running() as fake,
        pytest.raises(
            InputError,
            match=r"no index 'laion5B'.*mean laion5B-L-14.*It has: laion5B-L-14, other",
        ),
    ):
        source(fake, KnnSettings("laion5B"))
    assert [asked.path for asked in fake.asked] == ["/indices-list"]


def test_a_named_index_needs_no_list():
    with fake_knn().running() as fake:
        fake.first = [Reply({"message": "no such page"}, 404)]
        assert list(source(fake, KnnSettings("mine"))("a cat", 1))
        fake.first = [Reply({"message": "no such page"}, 404)]
        with pytest.raises(ServiceError, match="404"):
            source(fake)


def test_something_else_than_a_list_of_indices():
    with fake_knn().running() as fake:
        fake.first = [Reply({"hello": 1}), Reply([])]
        for _ in range(2):
            with pytest.raises(ServiceError, match="expected a list of index names"):
                source(fake)


def test_hits_without_urls_are_distinguished():
    items = knn_items("x", 4)
    del items[1]["url"]
    items[2]["url"] = float("nan")  # pandas' idea of a missing text
    items[3]["caption"] = None
    with fake_knn(lambda prompt: items).running() as fake:
        rows = list(source(fake)("x", 4))
    assert [bool(row.url) for row in rows] == [True, False, False, True]
    assert rows[3].caption == ""


def test_columns_in_other_cases_and_licences():
    item = {
        "id": 1,
        "similarity": 0.5,
        "URL": "https://x/1",
        "TEXT": "words",
        "license": "https://creativecommons.org/licenses/by/2.0/",
        "author": "Ann",
    }
    with fake_knn(lambda prompt: [item]).running() as fake:
        [row] = source(fake)("x", 4)
    assert (row.url, row.caption, row.attribution) == ("https://x/1", "words", "Ann")
    assert (row.license, row.license_url) == ("CC BY 2.0", item["license"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.3", None, True, 10**400])
def test_a_similarity_that_is_no_finite_number(value):
    items = [{**knn_items("x", 1)[0], "similarity": value}]
    with (
        fake_knn(lambda prompt: items).running() as fake,
        pytest.raises(ServiceError, match=f"'x' has the similarity {repr(value)[:9]}"),
    ):
        list(source(fake)("x", 4))


@pytest.mark.parametrize("value", [{"message": "hm"}, "text", 3, None, [1, 2], ["url"]])
def test_something_else_than_results(value):
    with fake_knn().running() as fake:
        search = source(fake)
        fake.first = [Reply(value)]
        with pytest.raises(ServiceError, match="expected"):
            list(search("x", 4))


def test_no_results_are_none():
    with fake_knn(lambda prompt: []).running() as fake:
        assert list(source(fake)("x", 4)) == []


def test_by_embedding():
    with fake_knn(dim=4).running() as fake:
        rows = list(source(fake, query="embedding", embed=embed)("x", 2))
    assert len(rows) == 2
    assert fake.asked[-1].body["text"] is None
    assert fake.asked[-1].body["embedding_input"] == [0.5] * 4


def test_by_embedding_where_there_is_no_text_model():
    with fake_knn(dim=4).running() as fake:
        search = source(fake, embed=embed)
        assert list(search("x", 2))
        assert list(search("y", 2))
    texts = [asked.body["text"] for asked in fake.asked if asked.body]
    assert texts == ["x", None, None]  # the second prompt uses embeddings at once


def test_clip_retrieval_without_a_text_model_fails_with_500():
    with fake_knn().running() as fake:
        search = source(fake, embed=embed)
        fake.first = [Reply({"message": "Internal Server Error"}, 500)] * 2
        assert list(search("x", 2))
    assert fake.asked[-1].body["embedding_input"] == [0.5] * 4


def test_no_text_model_and_no_teacher():
    with fake_knn(dim=4).running() as fake:
        with pytest.raises(ServiceError, match=r"no text model.*--query embedding --model-name"):
            list(source(fake)("x", 2))
        with pytest.raises(InputError, match="--query embedding needs the teacher"):
            source(fake, query="embedding")
        with pytest.raises(ServiceError, match="no text model") as info:
            list(source(fake, query="text", embed=embed)("x", 2))
        assert "--query" not in str(info.value)


def test_a_teacher_of_another_dimension():
    with (
        fake_knn(dim=5).running() as fake,
        pytest.raises(ServiceError, match="400 Bad Request: expected a list of 5 numbers; found 4"),
    ):
        list(source(fake, query="embedding", embed=embed)("x", 2))
