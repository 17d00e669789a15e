"""The service over real sockets: every route, and what untrusted clients may send."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import socket
import tarfile
import threading
import time
import urllib.parse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.collect.pool import open_pool
from clipdistill.collect.service import ServiceLimits, create_app, media_type
from clipdistill.core.errors import InputError
from clipdistill.core.loopback import LOOPBACK, is_loopback
from clipdistill.core.serving import host_name, listen, running_service
from clipdistill.core.zeroshot import LogitScale, normalized
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images

DIM = 8
TEACHER = TeacherCard("ViT-X", "tag", "f" * 32, DIM, LogitScale(), Preprocess(32))


class Client:
    """Speaks to one server, one connection a request."""

    def __init__(self, url: str):
        self.base = url
        self.host, self.port = url.removeprefix("http://").split(":")

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=20)
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        response = connection.getresponse()
        answer = response.status, response.read(), response.headers
        connection.close()
        return answer

    def knn(self, **body):
        status, data, _ = self.ask("POST", "/knn-service", body)
        return status, json.loads(data)

    def raw(self, data: bytes, seconds: float = 5.0) -> bytes:
        """Send bytes as they are and read what comes until the server closes."""
        with socket.create_connection((self.host, int(self.port)), timeout=seconds) as link:
            link.sendall(data)
            answer = b""
            try:
                while piece := link.recv(1 << 16):
                    answer += piece
            except (TimeoutError, ConnectionResetError):
                pass
        return answer


def embed_text(text: str) -> np.ndarray:
    if text == "fail":
        raise RuntimeError("out of order")
    vector = np.zeros(DIM, np.float32)
    vector[len(text) % DIM] = 1
    return vector


def embed_image(data: bytes) -> np.ndarray:
    from clipdistill.images.decode import decode

    decode(data)
    return np.eye(DIM, dtype=np.float32)[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """images: five files with odd names, one in a tar, one that is no image, one not embedded."""
    root = tmp_path_factory.mktemp("service")
    images = root / "images"
    drawn = pictures(images, 4)
    (images / "deep").mkdir()
    drawn[1].rename(images / "deep/50% é #?&.png")
    with tarfile.open(images / "shard.tar", "w") as archive:
        archive.add(drawn[0], "first.png")
        archive.add(drawn[2], "a/inner.png")
    (images / "page.jpg").write_text("<html><script>alert(1)</script>")
    (root / "secret.txt").write_text("secret")
    return root


KEYS = [
    "picture_0.png",
    "deep/50% é #?&.png",
    "picture_2.png",
    "shard.tar/a/inner.png",
    "page.jpg",
    "gone.png",
]


@pytest.fixture(scope="module")
def vectors():
    stored = normalized(np.random.default_rng(5).standard_normal((40, DIM)))
    stored[39] = normalized(stored[:1] + 0.01)[0]  # nearly row 0
    return stored


@pytest.fixture(scope="module")
def pool(folder, vectors):
    store = EmbeddingStore(
        folder / "emb", Header(TEACHER, "clip-retrieval", "float32", normalized=True)
    )
    names = [*KEYS, *[f"other/{n}.png" for n in range(len(vectors) - len(KEYS))]]
    store.append([Row(name, "c", 1, 2) for name in names], vectors)
    store.finish([])
    return open_pool(folder / "emb")


@pytest.fixture(scope="module")
def client(pool, folder):
    app = create_app(
        pool,
        embed_text=embed_text,
        embed_image=embed_image,
        images=list_images(folder / "images"),
        allow_hosts=LOOPBACK,
        limits=ServiceLimits(max_body=20_000, max_results=30),
    )
    with running_service(app) as url:
        yield Client(url)


def message_of(answer) -> str:
    status, data, headers = answer
    assert status >= 400
    assert headers["Content-Type"] == "application/json"
    return json.loads(data)["message"]


def test_by_embedding(client, pool, vectors):
    status, items = client.knn(
        embedding_input=(vectors[5] * 3).tolist(),
        modality="image",
        num_images=4,
        num_result_ids=7,
        indice_name="pool",
    )
    assert status == 200
    expected = pool.search(vectors[5:6], 7)
    assert [item["id"] for item in items] == expected.rows[0].tolist()
    assert np.allclose([item["similarity"] for item in items], expected.scores[0], atol=1e-6)
    assert items[0]["id"] == 5
    assert items[0]["image_path"] == "gone.png"
    assert all("image_path" in item for item in items[:4])
    assert all(set(item) == {"id", "similarity"} for item in items[4:])


def test_by_text_and_by_image(client, pool, folder):
    status, items = client.knn(text="ab", num_images=3)
    assert status == 200
    assert [i["id"] for i in items] == pool.search(embed_text("ab")[None], 3).rows[0].tolist()
    data = base64.b64encode((folder / "images/picture_0.png").read_bytes()).decode()
    status, items = client.knn(image=data, num_images=2)
    assert status == 200
    assert items[0]["id"] == pool.search(np.eye(DIM, dtype=np.float32)[3:4], 1).rows[0, 0]


def test_what_every_client_sends_is_accepted(client):
    status, items = client.knn(
        text="abc",
        image=None,
        image_url=None,
        embedding_input=None,
        deduplicate=True,
        use_safety_model=True,
        use_violence_detector=True,
        indice_name="pool",
        use_mclip=False,
        aesthetic_score=9,
        aesthetic_weight=0.5,
        modality="image",
        num_images=40,
        num_result_ids=40,
    )
    assert status == 200
    assert len(items) == 29  # 30 are the most, one of them twice


def test_near_duplicates(client, vectors):
    asked = {"embedding_input": vectors[0].tolist(), "num_images": 5}
    _, items = client.knn(**asked)
    assert {items[0]["id"], items[1]["id"]} == {0, 39}
    _, items = client.knn(**asked, deduplicate=True)
    assert items[0]["id"] == 0
    assert 39 not in [item["id"] for item in items]


def test_no_more_than_there_are(client):
    assert len(client.knn(text="a", num_images=10**9)[1]) == 30


def test_indices_health_and_what_this_is(client):
    assert client.ask("GET", "/indices-list")[:2] == (200, b'["pool"]')
    assert client.ask("GET", "/health")[:2] == (200, b'"ok"')
    status, data, headers = client.ask("GET", "/")
    about = json.loads(data)
    assert status == 200
    assert (about["images"], about["pictures"]) == (40, 5)
    assert about["queries"] == ["text", "image", "embedding_input"]
    assert "ViT-X" in about["teacher"]
    assert not any(name.lower().startswith("access-control") for name in headers)


def test_metadata(client):
    status, data, _ = client.ask("POST", "/metadata", {"ids": [3, 0, 3], "indice_name": "pool"})
    assert status == 200
    found = json.loads(data)
    assert [one["id"] for one in found] == [3, 0, 3]
    assert found[1]["metadata"]["image_path"] == KEYS[0]
    assert client.ask("POST", "/metadata", {"ids": [], "indice_name": "pool"})[1] == b"[]"


def test_every_result_has_the_address_of_its_image(client, vectors, folder):
    seen = 0
    for number, key in enumerate(KEYS[:4]):
        _, items = client.knn(embedding_input=vectors[number].tolist(), num_images=1)
        url = items[0]["url"]
        assert url.startswith(f"{client.base}/images/")
        status, data, headers = client.ask("GET", url.removeprefix(client.base))
        assert status == 200
        source = folder / "images" / ("picture_2.png" if "shard" in key else key)
        assert data == source.read_bytes()
        assert headers["Content-Type"] == "image/png"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Length"] == str(len(data))
        seen += 1
    assert seen == 4
    _, items = client.knn(embedding_input=vectors[10].tolist(), num_images=1)
    assert "url" not in items[0]


def test_urls_follow_the_host_that_was_asked(client, vectors):
    body = {"embedding_input": vectors[0].tolist(), "num_images": 1}
    host = f"localhost:{client.port}"
    _, data, _ = client.ask("POST", "/knn-service", body, {"Host": host})
    assert json.loads(data)[0]["url"] == f"http://{host}/images/picture_0.png"


def test_head_and_parts_of_images(client):
    assert client.ask("HEAD", "/images/picture_0.png")[:2] == (200, b"")
    status, data, _ = client.ask("GET", "/images/picture_0.png", headers={"Range": "bytes=1-3"})
    assert (status, data) == (206, b"PNG")


@pytest.mark.parametrize(
    "path",
    [
        "..%2fsecret.txt",
        "../secret.txt",
        "..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "%2e%2e/secret.txt",
        "deep/../../secret.txt",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "picture_0.png%00",
        "..\\secret.txt",
        "..%5csecret.txt",
        "picture_3.png",
        "shard.tar",
        "shard.tar/first.png",
        "other/1.png",
        "gone.png",
        "",
        "deep",
        "%ff%fe",
        "picture_0.png/",
        "%252e%252e%252fsecret.txt",
    ],
)
def test_nothing_but_images_of_the_pool(client, path):
    answer = client.ask("GET", f"/images/{path}")
    assert answer[0] == 404
    assert b"secret" not in answer[1].replace(path.encode(), b"")


def test_a_page_that_calls_itself_an_image(client):
    assert "not an image" in message_of(client.ask("GET", "/images/page.jpg"))


def test_a_tar_that_was_cut_short_and_a_file_that_went(pool, folder, tmp_path, pictures):
    images = tmp_path / "images"
    pictures(images, 1)
    with tarfile.open(images / "shard.tar", "w") as archive:
        archive.add(images / "picture_0.png", "a/inner.png")
    app = create_app(pool, images=list_images(images))
    (images / "picture_0.png").unlink()
    (images / "shard.tar").write_bytes((images / "shard.tar").read_bytes()[:700])
    with running_service(app) as url:
        client = Client(url)
        assert "cannot be read" in message_of(client.ask("GET", "/images/picture_0.png"))
        assert "truncated" in message_of(client.ask("GET", "/images/shard.tar/a/inner.png"))
        os.mkfifo(images / "picture_0.png")
        assert "a named pipe" in message_of(client.ask("GET", "/images/picture_0.png"))


VECTOR = [0.5] * DIM


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "found none"),
        ({"text": ""}, "found none"),
        ({"text": "a", "embedding_input": VECTOR}, "text and embedding_input"),
        ({"text": 5}, "characters"),
        ({"text": "a" * 10_001}, "characters"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "a\0cat"}, "NUL"),
        ({"text": "a", "use_mclip": True}, "multilingual"),
        ({"text": "a", "modality": "text"}, "modality"),
        ({"text": "a", "modality": {}}, "modality"),
        ({"text": "a", "indice_name": "laion5B"}, "expected 'pool', found 'laion5B'"),
        ({"text": "a", "indice_name": ["x"] * 100}, "expected 'pool'"),
        ({"text": "a", "num_images": 0}, "num_images"),
        ({"text": "a", "num_images": -3}, "num_images"),
        ({"text": "a", "num_images": "many"}, "num_images"),
        ({"text": "a", "num_images": True}, "num_images"),
        ({"text": "a", "num_images": 1.5}, "num_images"),
        ({"text": "a", "num_result_ids": []}, "num_result_ids"),
        ({"text": "a", "deduplicate": "yes"}, "deduplicate"),
        ({"image_url": "http://example.org/a.jpg"}, "fetches nothing"),
        ({"image_url": "file:///etc/passwd", "text": "a"}, "fetches nothing"),
        ({"image": "no base64!"}, "base64"),
        ({"image": 7}, "base64"),
        ({"image": "ä"}, "base64"),
        ({"image": base64.b64encode(b"no image").decode()}, "not an image"),
        ({"embedding_input": VECTOR[:-1]}, "8 numbers"),
        ({"embedding_input": [VECTOR]}, "8 numbers"),
        ({"embedding_input": "0" * DIM}, "8 numbers"),
        ({"embedding_input": [True] * DIM}, "8 numbers"),
        ({"embedding_input": [None] * DIM}, "8 numbers"),
        ({"embedding_input": []}, "8 numbers"),
        ({"embedding_input": [0] * DIM}, "length is zero"),
        ({"embedding_input": [10**400] * DIM}, "too large"),
    ],
)
def test_bad_queries(client, body, says):
    status, answer = client.knn(**body)
    assert status == 400
    assert says in answer["message"]
    assert len(answer["message"]) < 500


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON"),
        (b"text=a", "JSON"),
        (b"[1]", "object"),
        (b"null", "object"),
        (b'{"text": NaN}', "NaN"),
        (b'{"embedding_input": [Infinity]}', "Infinity"),
        (b'{"embedding_input": [1e999' + b", 1" * (DIM - 1) + b"]}", "not finite"),
        (b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", "nested|JSON|none"),
        (b'{"text": "\xff"}', "JSON"),
        (b'{"num_images": ' + b"9" * 5000 + b"}", "JSON|none"),
    ],
)
def test_bad_bodies(client, body, says):
    answer = client.ask("POST", "/knn-service", body)
    assert answer[0] == 400
    assert any(word in message_of(answer) for word in says.split("|"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"indice_name": "pool"}, "list of row numbers"),
        ({"ids": "1", "indice_name": "pool"}, "list of row numbers"),
        ({"ids": [1.5], "indice_name": "pool"}, "list of row numbers"),
        ({"ids": [True], "indice_name": "pool"}, "list of row numbers"),
        ({"ids": [-1], "indice_name": "pool"}, "0 to 39"),
        ({"ids": [40], "indice_name": "pool"}, "0 to 39"),
        ({"ids": [10**30], "indice_name": "pool"}, "0 to 39"),
        ({"ids": [1] * 31, "indice_name": "pool"}, "at most 30"),
        ({"ids": [1], "indice_name": "other"}, "expected 'pool'"),
    ],
)
def test_bad_metadata_questions(client, body, says):
    answer = client.ask("POST", "/metadata", body)
    assert answer[0] == 400
    assert says in message_of(answer)


def test_other_methods_and_paths(client):
    assert client.ask("GET", "/knn-service")[0] == 405
    assert client.ask("POST", "/indices-list", b"")[0] == 405
    assert client.ask("DELETE", "/images/picture_0.png")[0] == 405
    message_of(client.ask("GET", "/nothing"))
    message_of(client.ask("GET", "/knn-service"))


def test_bodies_that_are_too_large(client):
    assert "20000 bytes" in message_of(client.ask("POST", "/knn-service", b"x" * 20_001))
    # It only says so, and sends nothing.
    head = b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    assert b" 413 " in client.raw(head % 10**15).splitlines()[0]
    for length in (b"-1", b"x", b"1, 2", b"9" * 5000):
        answer = client.raw(head.replace(b"%d", length))
        assert answer.split(b" ", 2)[1] in (b"400", b"413")


def test_chunked_bodies_without_end(client):
    head = b"POST /metadata HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    assert b" 413 " in client.raw(head + chunk * 8).splitlines()[0]


def test_a_body_shorter_than_it_says(client, monkeypatch):
    monkeypatch.setattr("clipdistill.core.serving.PART_SECONDS", 0.2)
    head = b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{}"
    assert b" 408 " in client.raw(head).splitlines()[0]


def test_a_body_longer_than_it_says_is_another_request(client):
    body = b'{"text":"a","num_images":1}'
    head = b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    answer = client.raw(head % len(body) + body + b"garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in answer


def test_clients_that_go_away(client):
    head = b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
    for _ in range(20):
        with socket.create_connection((client.host, int(client.port))) as link:
            link.sendall(head)
    assert client.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_half_sent_requests_keep_nobody_out(pool, monkeypatch, sent):
    monkeypatch.setattr("clipdistill.core.serving.MAX_CONNECTIONS", 20)
    with running_service(create_app(pool)) as url, contextlib.ExitStack() as stack:
        client = Client(url)
        for _ in range(100):
            link = stack.enter_context(socket.create_connection((client.host, int(client.port))))
            link.sendall(sent)
        for _ in range(30):
            assert client.ask("GET", "/health")[0] == 200


def test_a_head_that_does_not_come_is_given_up(pool, monkeypatch):
    monkeypatch.setattr("clipdistill.core.serving.HEAD_SECONDS", 0.3)
    with running_service(create_app(pool)) as url:
        client = Client(url)
        assert client.raw(b"GET /health HTTP/1.1\r\nHost: loc").startswith(b"HTTP/1.1 408")
        begun = client.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea", 20)
        assert begun.startswith(b"HTTP/1.1 200")  # and the connection is closed in time


def test_a_client_that_reads_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("clipdistill.core.serving.DRAIN_SECONDS", 0.3)
    gone = threading.Event()

    async def endless(scope, receive, send):
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        gone.set()

    with running_service(endless) as url:
        client = Client(url)
        with socket.create_connection((client.host, int(client.port))) as link:
            link.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert gone.wait(5)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:1234", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:80", 200),
        ("[::1]", 200),
        ("[::1]:99", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("localhost@evil.example", 400),
        ("evil.example@localhost", 400),
        ("localhost:80@evil.example", 400),
        ("localhost:1:1", 400),
        ("localhost,evil.example", 400),
        ("evil.example:1234", 400),
        ("", 400),
        ("127.0.0.1.evil.example", 400),
        ("[::2]", 400),
        ("localhost:x", 400),
        ("localhost/", 400),
        ("169.254.169.254", 400),
    ],
)
def test_only_this_machines_names_as_host(client, host, status):
    assert client.ask("GET", "/health", headers={"Host": host})[0] == status


def test_two_hosts_or_none(client):
    answer = client.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert client.raw(b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_hosts_that_are_allowed(pool):
    with running_service(create_app(pool, allow_hosts=("box.local",))) as url:
        client = Client(url)
        assert client.ask("GET", "/health", headers={"Host": "box.local:1"})[0] == 200
        assert client.ask("GET", "/health")[0] == 400
    for anyone in (None, ("*",)):
        with running_service(create_app(pool, allow_hosts=anyone)) as url:
            assert Client(url).ask("GET", "/health", headers={"Host": "any.example"})[0] == 200


def test_without_a_teacher_only_embeddings(pool):
    with running_service(create_app(pool, name="mine")) as url:
        client = Client(url)
        for kind in ("text", "image"):
            status, answer = client.knn(**{kind: "abcd", "num_images": 1})
            assert status == 400
            assert "embedding_input" in answer["message"]
            assert "ViT-X" in answer["message"]
        assert client.knn(embedding_input=VECTOR, indice_name="mine")[0] == 200
        assert client.ask("GET", "/images/picture_0.png")[0] == 404
        assert json.loads(client.ask("GET", "/")[1])["queries"] == ["embedding_input"]


def test_a_fault_of_ours_is_an_answer_too(client, caplog):
    status, answer = client.knn(text="fail", num_images=1)
    assert status == 500
    assert "RuntimeError" in answer["message"]
    assert "out of order" not in answer["message"]
    assert client.ask("GET", "/health")[0] == 200


def test_too_many_at_once_are_refused(pool, monkeypatch):
    monkeypatch.setattr("clipdistill.collect.service.MAX_WAITING", 3)
    gate = threading.Event()

    def slow(text: str) -> np.ndarray:
        gate.wait(20)
        return embed_text(text)

    with running_service(create_app(pool, embed_text=slow, limits=ServiceLimits(searches=1))) as u:
        client = Client(u)
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.knn(text="a", num_images=1)[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 10
        while len(answers) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        assert client.ask("GET", "/health")[0] == 200  # it still listens
        gate.set()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [200] * 3 + [503] * 5


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "text",
                "image",
                "embedding_input",
                "num_images",
                "num_result_ids",
                "ids",
                "modality",
                "indice_name",
                "deduplicate",
                "image_url",
                "use_mclip",
            ]
        ),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-5, 50)
            | st.floats(-3, 3)
            | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=DIM) | st.dictionaries(st.text(max_size=3), inner)
            ),
            max_leaves=12,
        ),
    )
)
def test_any_json_has_an_answer(client, body):
    for path in ("/knn-service", "/metadata"):
        status, data, _ = client.ask("POST", path, body)
        assert status in (200, 400)
        assert isinstance(json.loads(data), list if status == 200 else dict)


def test_ports_and_addresses(pool):
    with running_service(create_app(pool)) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(InputError, match="--port"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()  # it is free again
    for host, wrong in (("a..b", 0), ("127.0.0.1", 99999)):
        with pytest.raises(InputError, match="Cannot listen"):
            listen(host, wrong)


def test_small_things():
    assert host_name("[::1]:80") == "::1"
    assert host_name("A.b:1") == "a.b"
    assert host_name("a b") == host_name("") == host_name("a:b:c") == ""
    assert [is_loopback(h) for h in ("localhost", "127.1.2.3", "::1", "0.0.0.0", "::", "x")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    file = io.BytesIO()
    from PIL import Image

    for kind, expected in (
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
    ):
        file.seek(0)
        Image.new("RGB", (4, 4)).save(file, kind)
        assert media_type(file.getvalue()[:16]) == expected
    assert media_type(b"<svg ") is media_type(b"RIFF....WAVE") is None
    assert urllib.parse.quote("deep/50% é") == "deep/50%25%20%C3%A9"
