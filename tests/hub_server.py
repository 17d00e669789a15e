"""A model hub on loopback, for the real client (huggingface_hub): files, redirects, gates, faults.

Repositories are listed, too, `PAGE` entries at a time, as for hf:// paths.

Small files are answered at once, files in Git LFS (here: weights) with a redirect to another host
name, as the hub's storage is another host.  `Hub.faults` breaks the answers for one file:

    "503"      the status 503
    "cut"      half of the content, then the connection is closed
    "hang up"  the connection is closed without an answer
    "flip"     the content with one byte changed, of the right length
    "whole"    a request for a range gets the whole file, with the status 200
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".bin", ".pt", ".tar")
PAGE = 5
FOREVER = 1000


@dataclass
class Hub:
    """The hub's content and what was requested.

    Attributes:
        port: of the server on 127.0.0.1.
        repositories: "owner/name" of models, "datasets/owner/name" -> file -> content.
        gated: names of repositories that need a token.
        faults: file -> faults of the next contents of it that are sent, one each.
        heads: a fault of every answer about a file's metadata; empty for none.
        seen: "METHOD FILE" of every request, "GET FILE from BYTE" of one for a range.
        tokens: hosts that a token was sent to.
    """

    port: int = 0
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: dict[str, list[str]] = field(default_factory=dict)
    heads: str = ""
    seen: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, name: str, folder: Path, below: str = "") -> str:
        """Add a folder with all it holds to a repository; returns the URL of its files."""
        files = self.repositories.setdefault(name, {})
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{below}/{path.relative_to(folder).as_posix()}".strip("/")
                files[key] = path.read_bytes()
        return f"hf://{name}/{below}".rstrip("/")

    @property
    def storage(self) -> str:
        """The same server by another name: a client must not send its token there."""
        return f"http://localhost:{self.port}"


NAME = r"(?:datasets/)?[\w.-]+/[\w.-]+"


def entry(files: dict[str, bytes], path: str) -> dict[str, Any] | None:
    """What the hub tells of a file or folder; None where there is none."""
    if path in files:
        blob = hashlib.sha1(b"blob %d\0" % len(files[path]) + files[path]).hexdigest()
        return {"type": "file", "path": path, "size": len(files[path]), "oid": blob}
    if any(one.startswith(f"{path}/") for one in files):
        return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, *, head: bool) -> None:
        if self.headers.get("Authorization"):
            self.hub.tokens.add(self.headers["Host"].partition(":")[0])
        quoted, _, query = self.path.partition("?")
        path = unquote(quoted)
        asked = re.fullmatch(rf"/({NAME})/resolve/([\w.-]+)/(.+)", path)
        stored = re.fullmatch(rf"/storage/({NAME})/(.+)", path) if query == "signed" else None
        if asked:
            self.resolve(asked[1], asked[2], asked[3], head=head)
        elif stored:
            self.content(stored[2], self.hub.repositories[stored[1]][stored[2]], head=head)
        else:
            self.about()

    def do_POST(self) -> None:
        self.about()

    def about(self) -> None:
        """What the hub tells of a repository, of what is in a folder, and of one file."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        quoted, _, query = self.path.partition("?")
        kinds = "|".join(("revision", "tree", "paths-info"))
        rest = rf"/api/(?:models/)?({NAME})(?:/({kinds})/([\w.-]+)(?:/(.+))?)?"
        asked = re.fullmatch(rest, unquote(quoted))
        if not asked:
            return self.refuse(404, "")
        name, kind, revision, folder = asked.groups()
        self.hub.seen.append(f"{self.command} {kind or 'repository'} {folder or ''}".strip())
        if self.hub.heads:
            return self.fail(self.hub.heads)
        files = self.hub.repositories.get(name)
        if files is None:
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if revision not in (None, "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if kind in (None, "revision"):
            return self.send_json({"id": name.removeprefix("datasets/"), "sha": COMMIT})
        if kind == "paths-info":
            found = [entry(files, path) for path in parse_qs(body)["paths"]]
            return self.send_json([one for one in found if one])
        start = f"{folder}/" if folder else ""
        inside = sorted(
            {path[len(start) :].split("/")[0] for path in files if path.startswith(start)}
        )
        if folder and not inside:
            return self.refuse(404, "EntryNotFound")
        first = int(parse_qs(query).get("cursor", ["0"])[0])
        more = f"{self.hub.endpoint}{quoted}?cursor={first + PAGE}"
        link = f'<{more}>; rel="next"' if first + PAGE < len(inside) else ""
        page = [entry(files, start + one) for one in inside[first : first + PAGE]]
        return self.send_json(page, {"Link": link} if link else {})

    def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        for header, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(header, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def resolve(self, name: str, revision: str, file: str, *, head: bool) -> None:
        self.hub.seen.append(f"{self.command} {file}")
        if self.hub.heads and head:
            return self.fail(self.hub.heads)
        if name not in self.hub.repositories:
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if name in self.hub.gated and not self.headers.get("Authorization"):
            return self.refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if file not in self.hub.repositories[name]:
            return self.refuse(404, "EntryNotFound")
        data = self.hub.repositories[name][file]
        if not file.endswith(LFS):
            return self.content(file, data, head=head)
        self.send_response(302)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Location", f"{self.hub.storage}/storage/{name}/{quote(file)}?signed")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def content(self, file: str, data: bytes, *, head: bool) -> None:
        first, _, last = (self.headers.get("Range") or "bytes=0-")[len("bytes=") :].partition("-")
        start, end = int(first), min(len(data), int(last or len(data)) + 1)
        waiting = self.hub.faults.get(file)
        fault = waiting.pop(0) if waiting and not head else ""
        if not head and file.endswith(LFS):
            self.hub.seen.append(f"GET stored {file}" + (f" from {start}" if start else ""))
        if fault in ("503", "hang up"):
            return self.fail(fault)
        if start and start >= len(data):
            return self.refuse(416, "")
        if fault == "whole":
            start, end = 0, len(data)
        if fault == "flip":
            data = data[:-1] + bytes([data[-1] ^ 0x55])
        part = start > 0 or end < len(data)
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        blob = b"blob %d\0" % len(data)
        self.send_header("ETag", f'"{hashlib.sha1(blob + data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if not head:
            rest = data[start:end]
            self.wfile.write(rest[: len(rest) // 2] if fault == "cut" else rest)
        if fault == "cut":
            self.close_connection = True

    def fail(self, fault: str) -> None:
        if fault == "503":
            return self.refuse(503, "")
        self.close_connection = True
        return None

    def refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub; `Hub.repositories` may be filled while it runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub_store(monkeypatch, tmp_path_factory) -> Iterator[Hub]:
    """A hub for hf:// paths, and an empty cache of this machine."""
    from huggingface_hub import constants

    from clipdistill.core import storage

    folder = tmp_path_factory.mktemp("hub")
    with serving() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setenv("CLIPDISTILL_CACHE", str(folder / "cache"))
        for name in [name for name in os.environ if name.endswith("_TOKEN")]:
            monkeypatch.delenv(name)
        storage._system.cache_clear()
        yield hub
        storage._system.cache_clear()
