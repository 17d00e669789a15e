"""A real S3 server on loopback (moto's), with faults: for the real client (s3fs).

`Store.faults` makes the next requests whose method and path fit fail with a status, one each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
    "<Message>{code}</Message></Error>"
)
SLOW = 1
"""Instead of a status: the answer comes after two seconds."""
CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Store:
    """The server, and one bucket of it.

    Attributes:
        endpoint: its URL.
        bucket: name of a bucket that is new in each test.
        faults: (pattern of "METHOD /path", status) of requests that fail, one each.
        every: (n, status): each n-th request fails, too; (0, 0): none.
        seen: "METHOD /path" of every request.
        settings: environment of a process that uses it.
    """

    endpoint: str
    bucket: str = ""
    faults: list[tuple[str, int]] = field(default_factory=list)
    every: tuple[int, int] = (0, 0)
    seen: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint)

    def put(self, source: Path, below: str = "") -> str:
        """Upload a file, or a folder with all it holds; returns its URL."""
        client = self.client()
        base = below or source.name
        if source.is_file():
            client.upload_file(str(source), self.bucket, base)
        for path in sorted(source.rglob("*")):
            if path.is_file():
                key = f"{base}/{path.relative_to(source).as_posix()}"
                client.upload_file(str(path), self.bucket, key)
        return f"{self.url}/{base}"

    def get(self, below: str) -> dict[str, bytes]:
        """The objects below a name: key without that name -> content."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{below}/"
        )
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {
            key[len(below) + 1 :]: client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
        }

    def fails(self, request: str) -> int:
        """The status with which a request fails; 0: it does not."""
        self.seen.append(request)
        for fault in self.faults:
            if re.search(fault[0], request):
                self.faults.remove(fault)
                return fault[1]
        count, status = self.every
        return status if count and len(self.seen) % count == 0 else 0


def _faulty(app: Callable[..., Any], store: Store) -> Callable[..., Any]:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        status = store.fails(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        if status == SLOW:
            time.sleep(2)
        if status in (0, SLOW):
            return app(environ, start)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"].read(length)
        body = ERROR.format(code=CODES[status]).encode()
        start(f"{status} {CODES[status]}", [("Content-Type", "application/xml")])
        return [body]

    return answer


@contextlib.contextmanager
def serving() -> Iterator[Store]:
    """Run the server."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Store("")
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _faulty(app, store), threaded=True)
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()


def elsewhere(settings: dict[str, str], target: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Call `target` in a process that was started before the settings were made."""
    os.environ.update(settings)
    return target(*args, **more)


def forget_clients() -> None:
    """Make the next request read the settings anew."""
    import s3fs

    from clipdistill.core import storage

    storage._system.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def s3_process() -> Iterator[Store]:
    """The server of all tests; they are skipped where its packages are missing."""
    for package in ("s3fs", "moto", "flask_cors"):
        pytest.importorskip(package)
    with serving() as store:
        yield store


@pytest.fixture
def s3(s3_process, monkeypatch, tmp_path_factory) -> Iterator[Store]:
    """The server with an empty bucket, credentials for it, and an empty cache of this machine."""
    store = s3_process
    store.settings = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "CLIPDISTILL_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    for name, value in store.settings.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    store.bucket, store.faults, store.every = f"tests-{uuid.uuid4().hex[:12]}", [], (0, 0)
    store.client().create_bucket(Bucket=store.bucket)
    store.seen.clear()
    yield store
    store.faults, store.every = [], (0, 0)
