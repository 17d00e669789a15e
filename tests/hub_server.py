"""A model hub on loopback, for the real client (huggingface_hub): files, redirects, gates, faults.

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
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".bin", ".pt")
FOREVER = 1000


@dataclass
class Hub:
    """The hub's content and what was requested.

    Attributes:
        port: of the server on 127.0.0.1.
        repositories: "owner/name" -> file -> content.
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

    @property
    def storage(self) -> str:
        """The same server by another name: a client must not send its token there."""
        return f"http://localhost:{self.port}"


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
        asked = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/([^?]+)", self.path)
        stored = re.fullmatch(r"/storage/([\w.-]+/[\w.-]+)/([^?]+)\?signed", self.path)
        if asked:
            self.resolve(asked[1], asked[2], asked[3], head=head)
        elif stored:
            self.content(stored[2], self.hub.repositories[stored[1]][stored[2]], head=head)
        else:
            self.refuse(404, "")

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
        self.send_header("Location", f"{self.hub.storage}/storage/{name}/{file}?signed")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def content(self, file: str, data: bytes, *, head: bool) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        waiting = self.hub.faults.get(file)
        fault = waiting.pop(0) if waiting and not head else ""
        if not head and file.endswith(LFS):
            self.hub.seen.append(f"GET stored {file}" + (f" from {start}" if start else ""))
        if fault in ("503", "hang up"):
            return self.fail(fault)
        if fault == "whole":
            start = 0
        if fault == "flip":
            data = data[:-1] + bytes([data[-1] ^ 0x55])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        blob = b"blob %d\0" % len(data)
        self.send_header("ETag", f'"{hashlib.sha1(blob + data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not head:
            rest = data[start:]
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
