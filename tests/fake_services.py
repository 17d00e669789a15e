"""Services on loopback: a scripted one, and fakes of kNN back ends, Commons and Openverse that
answer in the shapes of their documentation.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """An answer: JSON, or bytes as they are."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    drip: float = 0.0
    """Seconds between single bytes of the body."""

    def data(self) -> bytes:
        return json.dumps(self.value).encode() if self.body is None else self.body


class FakeService:
    """A server; `first` are the answers to the first requests, `answer` gives the others."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.first: list[Reply] = []
        self.asked: list[Asked] = []
        self.busiest = 0
        self.slowness = 0.0
        self._now = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                fake._handle(self)

            def do_POST(self) -> None:
                fake._handle(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeService]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        raw = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        asked = Asked(
            handler.command,
            parts.path,
            {name: values[0] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in handler.headers.items()},
            json.loads(raw) if raw else None,
        )
        with self._lock:
            self.asked.append(asked)
            reply = self.first.pop(0) if self.first else None
            self._now += 1
            self.busiest = max(self.busiest, self._now)
        try:
            time.sleep(self.slowness)
            self._send(handler, reply or self.answer(asked))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._now -= 1

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        data = reply.data()
        handler.send_response(reply.status)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **reply.headers,
        }
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if not reply.drip:
            handler.wfile.write(data)
        for index in range(len(data) if reply.drip else 0):
            handler.wfile.write(data[index : index + 1])
            handler.wfile.flush()
            time.sleep(reply.drip)


def knn_items(prompt: str, count: int) -> list[dict[str, Any]]:
    """Results as clip-retrieval gives them: the best first."""
    slug = prompt.replace(" ", "-")
    return [
        {
            "id": index,
            "similarity": 0.4 - 0.01 * index,
            "caption": f"{prompt} {index}",
            "url": f"https://pictures.example/{slug}/{index}.jpg",
        }
        for index in range(count)
    ]


def fake_knn(
    results: Callable[[str], list[dict[str, Any]]] | None = None,
    *,
    indices: tuple[str, ...] = ("laion5B-L-14", "other"),
    dim: int | None = None,
) -> FakeService:
    """A clip-retrieval back end; with `dim` one that takes embeddings of that length only."""
    results = results or (lambda prompt: knn_items(prompt, 100))

    def answer(asked: Asked) -> Reply:
        if asked.path == "/indices-list":
            return Reply(list(indices))
        if asked.path != "/knn-service" or asked.method != "POST":
            return Reply({"message": "no such page"}, 404)
        body = asked.body
        if dim is not None and body["text"] is not None:
            return Reply({"message": "text: this server has no text model."}, 400)
        if dim is not None and len(body["embedding_input"]) != dim:
            found = len(body["embedding_input"])
            return Reply({"message": f"expected a list of {dim} numbers; found {found}"}, 400)
        found = results(body["text"] or "by embedding")[: body["num_result_ids"]]
        # Only the first num_images carry their metadata (clip_back.py, map_to_metadata).
        bare = [{"id": one["id"], "similarity": one["similarity"]} for one in found]
        return Reply(found[: body["num_images"]] + bare[body["num_images"] :])

    return FakeService(answer)


def commons_file(index: int, title: str) -> dict[str, Any]:
    """A file as `prop=imageinfo` describes it (formatversion 2)."""
    name = title.replace(" ", "_")
    base = "https://upload.wikimedia.org/wikipedia/commons"
    return {
        "pageid": 1000 + index,
        "ns": 6,
        "title": f"File:{title}.jpg",
        "index": index + 1,
        "imagerepository": "local",
        "imageinfo": [
            {
                "size": 4_000_000,
                "width": 4000,
                "height": 3000,
                "mime": "image/jpeg",
                "mediatype": "BITMAP",
                "thumburl": f"{base}/thumb/a/ab/{name}.jpg/500px-{name}.jpg",
                "thumbwidth": 500,
                "thumbheight": 375,
                "url": f"{base}/a/ab/{name}.jpg",
                "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{name}.jpg",
                "extmetadata": {
                    "LicenseShortName": {"value": "CC BY-SA 4.0", "source": "commons-desc-page"},
                    "LicenseUrl": {"value": "https://creativecommons.org/licenses/by-sa/4.0"},
                    "Artist": {"value": f'<a href="//x" title="U">Ann&nbsp;{index}</a>'},
                    "ImageDescription": {
                        "value": f"<p>A {title} &amp; more</p><style>p{{}}</style>"
                    },
                },
            }
        ],
    }


def fake_commons(titles: list[str], *, split: bool = False) -> FakeService:
    """Commons' api.php: finds titles that hold every word.

    Args:
        titles: of the files.
        split: give the imageinfo of each batch in two answers, as MediaWiki does when one would be
            too long.
    """

    def answer(asked: Asked) -> Reply:
        ask = asked.query
        if "@" not in asked.headers.get("user-agent", ""):
            return Reply(body=b"<html><title>Please set a user-agent</title></html>", status=403)
        words = ask["gsrsearch"].removeprefix("filetype:bitmap ").lower().split()
        found = [title for title in titles if all(word in title.lower() for word in words)]
        start, limit = int(ask.get("gsroffset", 0)), int(ask["gsrlimit"])
        pages = [commons_file(start + i, t) for i, t in enumerate(found[start : start + limit])]
        value: dict[str, Any] = {}
        half = len(pages) // 2
        if split and pages and "iicontinue" not in ask:
            pages = pages[:half] + [{**page, "imageinfo": []} for page in pages[half:]]
            for page in pages[half:]:
                del page["imageinfo"]
            value["continue"] = {
                "iicontinue": "Half|2024",
                "gsroffset": start,
                "continue": "gsroffset||",
            }
        else:
            if split and pages:
                for page in pages[:half]:
                    del page["imageinfo"]
            value["batchcomplete"] = True
            if start + limit < len(found):
                value["continue"] = {"gsroffset": start + limit, "continue": "gsroffset||"}
        if pages:
            value["query"] = {"pages": pages[::-1]}  # by page id, not by rank
        return Reply(value)

    return FakeService(answer)


def openverse_image(query: str, index: int) -> dict[str, Any]:
    """A result of /v1/images/."""
    return {
        "id": f"{index:08d}-0000-4000-8000-000000000000",
        "title": f"{query} {index}",
        "url": f"https://live.staticflickr.com/{query.replace(' ', '_')}/{index}_b.jpg",
        "foreign_landing_url": f"https://www.flickr.com/photos/x/{index}",
        "creator": "Bo",
        "creator_url": "https://www.flickr.com/photos/x",
        "license": "by-sa",
        "license_version": "2.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/2.0/",
        "provider": "flickr",
        "source": "flickr",
        "filetype": "jpg",
        "filesize": None,
        "tags": [{"name": "x", "accuracy": None}],
        "attribution": f'"{query} {index}" by Bo is licensed under CC BY-SA 2.0.',
        "fields_matched": ["title"],
        "mature": False,
        "height": 683,
        "width": 1024,
        "thumbnail": "https://api.openverse.org/v1/images/1/thumb/",
    }


def fake_openverse(count: int, *, available: int = 20) -> FakeService:
    """Openverse without a key: 20 a page, 240 a query, rate limits in headers."""
    left = [available]

    def answer(asked: Asked) -> Reply:
        ask = asked.query
        size, page = int(ask.get("page_size", 20)), int(ask.get("page", 1))
        if asked.path != "/images/":
            return Reply({"detail": "Not found."}, 404)
        if size > 20 or size * page > 240:
            return Reply({"detail": "may not exceed 20 for anonymous requests"}, 401)
        left[0] -= 1
        total = min(count, 240)
        start = size * (page - 1)
        results = [openverse_image(ask["q"], i) for i in range(start, min(start + size, total))]
        value = {
            "result_count": total,
            "page_count": -(-total // size),
            "page_size": size,
            "page": page,
            "results": results,
        }
        limits = {
            "X-RateLimit-Limit-anon_burst": "20/min",
            "X-RateLimit-Available-anon_burst": str(max(0, left[0])),
            "X-RateLimit-Limit-anon_sustained": "200/day",
            "X-RateLimit-Available-anon_sustained": "150",
        }
        return Reply(value, headers=limits)

    return FakeService(answer)
