"""Google Cloud Storage's JSON API on loopback, for the real client (gcsfs), with faults.

It answers what gcsfs (2026.10) requests, in the words of the API: listings by prefix and delimiter
in pages, ranges, uploads in one request and in several, preconditions on generations, errors as
JSON, and tokens of service accounts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

TOKEN = "ya29.tests"
PAGE = 7
"""Entries of a page of a listing."""
REASONS = {401: "required", 403: "forbidden", 404: "notFound", 412: "conditionNotMet"}


@dataclass
class Google:
    """The server's buckets.

    Attributes:
        port: of the server on 127.0.0.1.
        bucket: name of a bucket that is new in each test.
        buckets: name -> key -> (content, generation).
        private: whether every request needs `TOKEN`.
        refuses: whether no service account gets one.
        faults: (pattern of "METHOD path?query", status) of requests that fail, one each; with a
            status below 0 they are carried out, and only the answer is that failure.
        every: (n, status): each n-th request fails, too; (0, 0): none.
        seen: "METHOD path?query" of every request.
        settings: environment of a process that uses it.
        lock: of the buckets.
    """

    port: int = 0
    bucket: str = ""
    buckets: dict[str, dict[str, tuple[bytes, int]]] = field(default_factory=dict)
    private: bool = False
    refuses: bool = False
    faults: list[tuple[str, int]] = field(default_factory=list)
    every: tuple[int, int] = (0, 0)
    seen: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)
    sessions: dict[str, tuple[str, str, str, bytes]] = field(default_factory=dict)
    generations: Any = field(default_factory=lambda: itertools.count(1_764_000_000_000_000))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}"

    def put(self, source: Path, below: str = "") -> str:
        """Upload a file, or a folder with all it holds; returns its URL."""
        base = below or source.name
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            if path.is_file():
                inside = "" if source.is_file() else f"/{path.relative_to(source).as_posix()}"
                self.write(self.bucket, f"{base}{inside}", path.read_bytes())
        return f"{self.url}/{base}"

    def get(self, below: str) -> dict[str, bytes]:
        """The objects below a name: key without that name -> content."""
        start = f"{below}/"
        with self.lock:
            found = list(self.buckets[self.bucket].items())
        return {key[len(start) :]: one[0] for key, one in found if key.startswith(start)}

    def write(self, bucket: str, key: str, data: bytes) -> dict[str, Any]:
        self.buckets[bucket][key] = (data, next(self.generations))
        return self.about(bucket, key)

    def about(self, bucket: str, key: str) -> dict[str, Any]:
        data, generation = self.buckets[bucket][key]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": key,
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2026-11-28T00:00:00.000Z",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    google: Google
    late = 0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request()

    do_POST = do_PUT = do_DELETE = do_GET

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        if parts.path == "/token":
            if self.google.refuses:
                return self.send(400, {"error": "invalid_grant"})
            return self.send(200, {"access_token": TOKEN, "expires_in": 3600})
        status = self.google.fails(f"{self.command} {unquote(self.path)}")
        self.late = -min(0, status)
        if status > 0:
            return self.refuse(status, "The service failed.")
        if self.google.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Anonymous caller does not have storage.objects.list access.")
        asked = re.fullmatch(r"/(?:(upload|download)/)?storage/v1/b/([^/]+)(/o)?/?(.*)", parts.path)
        if not asked or unquote(asked[2]) not in self.google.buckets:
            return self.refuse(404, "The specified bucket does not exist.")
        query, bucket, key = dict(parse_qsl(parts.query)), unquote(asked[2]), unquote(asked[4])
        with self.google.lock:
            if asked[1] == "upload":
                return self.upload(bucket, query, body)
            if not asked[3]:
                return self.send(200, {"kind": "storage#bucket", "name": bucket})
            if not key:
                return self.list(bucket, query)
            return self.object(bucket, key, query)

    def list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names = set()
        for key in self.google.buckets[bucket]:
            if key.startswith(prefix):
                head, found, _ = key[len(prefix) :].partition(delimiter or "\n")
                names.add(prefix + head + found)
        after, most = query.get("pageToken", ""), min(PAGE, int(query.get("maxResults", PAGE)))
        left = sorted(name for name in names if name > after)
        page = left[:most]
        value: dict[str, Any] = {"kind": "storage#objects"}
        items = [one for one in page if one in self.google.buckets[bucket]]
        value["items"] = [self.google.about(bucket, one) for one in items]
        value["prefixes"] = [one for one in page if one not in self.google.buckets[bucket]]
        if len(left) > most:
            value["nextPageToken"] = page[-1]
        self.send(200, value)

    def object(self, bucket: str, key: str, query: dict[str, str]) -> None:
        if key not in self.google.buckets[bucket]:
            return self.refuse(404, f"No such object: {bucket}/{key}")
        if self.command == "DELETE":
            del self.google.buckets[bucket][key]
            return self.send(204, None)
        if query.get("alt") != "media":
            return self.send(200, self.google.about(bucket, key))
        data = self.google.buckets[bucket][key][0]
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(part[1]) if part else 0
        if part and start >= len(data):
            return self.refuse(416, "The requested range cannot be satisfied.")
        end = min(len(data), int(part[2] or len(data)) + 1) if part else len(data)
        return self.send(206 if part else 200, data[start:end])

    def upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        if session := query.get("upload_id"):
            return self.upload_part(session, body)
        if query["uploadType"] == "resumable":
            session = uuid.uuid4().hex
            condition = query.get("ifGenerationMatch", "")
            self.google.sessions[session] = (bucket, query["name"], condition, b"")
            place = f"{self.google.endpoint}{urlsplit(self.path).path}?upload_id={session}"
            return self.send(200, None, {"Location": place})
        boundary = re.search(r'boundary="?([^"]+)"?', self.headers["Content-Type"])
        assert boundary is not None
        _, about, rest = body.split(f"--{boundary[1]}".encode(), 2)
        data = rest.split(b"\n\n", 1)[1]
        data = data[: data.rindex(f"\n--{boundary[1]}--".encode())]
        key = json.loads(about.split(b"\n\n", 1)[1])["name"]
        return self.write(bucket, key, query.get("ifGenerationMatch", ""), data)

    def upload_part(self, session: str, body: bytes) -> None:
        bucket, key, condition, before = self.google.sessions[session]
        if self.command == "DELETE":
            return self.send(499, None)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers["Content-Range"])
        assert found is not None
        data = before[: int(found[1])] + body
        self.google.sessions[session] = (bucket, key, condition, data)
        if len(data) < int(found[3]):
            return self.send(308, None, {"Range": f"bytes=0-{len(data) - 1}"})
        return self.write(bucket, key, condition, data)

    def write(self, bucket: str, key: str, condition: str, data: bytes) -> None:
        generation = self.google.buckets[bucket].get(key, (b"", 0))[1]
        if condition and int(condition) != generation:
            return self.refuse(412, "At least one of the pre-conditions did not hold.")
        return self.send(200, self.google.write(bucket, key, data))

    def refuse(self, status: int, message: str) -> None:
        about = {"message": message, "reason": REASONS.get(status, "backendError")}
        self.send(status, {"error": {"code": status, "message": message, "errors": [about]}})

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        status, self.late = self.late or status, 0
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        data = b"" if value is None else data
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving() -> Iterator[Google]:
    """Run the server."""
    google = Google()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"google": google}))
    server.daemon_threads = True
    google.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield google
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forget_clients() -> None:
    """Make the next request read the settings anew."""
    from clipdistill.core import storage

    gcsfs = pytest.importorskip("gcsfs.core")
    storage._system.cache_clear()
    gcsfs.GCSFileSystem.clear_instance_cache()


def service_account(google: Google, path: Path) -> Path:
    """Write the key of a service account that gets its tokens from the server."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    text = key.private_bytes(*form, serialization.NoEncryption()).decode()
    about = {"type": "service_account", "project_id": "tests", "private_key_id": "1"}
    about |= {"private_key": text, "client_email": "tests@tests.iam.gserviceaccount.com"}
    path.write_text(json.dumps({**about, "token_uri": f"{google.endpoint}/token"}))
    return path


@pytest.fixture
def gs(monkeypatch, tmp_path_factory) -> Iterator[Google]:
    """A server with an empty bucket, no credentials, and an empty cache of this machine."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    retry = pytest.importorskip("gcsfs.retry")
    folder = tmp_path_factory.mktemp("google")
    monkeypatch.setattr(
        retry, "random", SimpleNamespace(random=lambda: -100.0)
    )  # no pauses within gcsfs
    with serving() as google:
        google.settings = {
            "STORAGE_EMULATOR_HOST": google.endpoint,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
            "CLOUDSDK_CONFIG": str(folder / "none"),
            "CLIPDISTILL_CACHE": str(folder / "cache"),
        }
        for name, value in google.settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        google.bucket = f"tests-{uuid.uuid4().hex[:12]}"
        google.buckets[google.bucket] = {}
        forget_clients()
        yield google
        forget_clients()
