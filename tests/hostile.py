"""A server that answers as its paths say, well or badly, byte by byte if need be."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import unquote

import numpy as np
from PIL import Image

Answer = Callable[["Exchange"], Awaitable[None]]


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """A JPEG of noise; another for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def huge_png(side: int = 30000) -> bytes:
    """A valid PNG of side x side black pixels, about 100 KB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


class Exchange:
    """One request and the socket to answer on."""

    def __init__(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.headers = headers
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(
        self, body: bytes = b"", status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        """Send a whole answer; underscores in header names become dashes."""
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body) if length is None else length}"]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


class HostileServer:
    """Runs in a thread of its own on loopback; `answers` maps a path (or its first part)."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, dict[str, str]] = {}
        self.most_at_once: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The URL of a path."""
        return f"http://{host}:{self.port}/{path}"

    @contextlib.contextmanager
    def running(self) -> Iterator[HostileServer]:
        """Serve until the block ends."""
        ready = threading.Event()

        async def start() -> None:
            # Any loopback address, so that one server is many hosts.
            server = await asyncio.start_server(self._serve, "0.0.0.0", 0, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.create_task(start())
        self._thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        self._now[host] += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while (exchange := await self._read(reader, writer)) is not None:
                self.most_at_once[host] = max(self.most_at_once[host], self._now[host])
                name = exchange.path.lstrip("/").split("?")[0]
                answer = self.answers.get(name) or self.answers.get(name.split("/")[0])
                if answer is None:
                    await exchange.reply(b"no such page", 404)
                else:
                    await answer(exchange)
        self._now[host] -= 1
        writer.close()

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Exchange | None:
        line = await reader.readline()
        if not line:
            return None
        path = unquote(line.split()[1].decode("latin-1"))
        headers: dict[str, str] = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        self.asked[path] += 1
        self.headers[path] = headers
        return Exchange(path, headers, writer)


def replies(body: bytes = b"", status: int = 200, **more: object) -> Answer:
    """An answer that is always the same."""

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, status, **more)  # type: ignore[arg-type]

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, and so on; the last for the rest."""
    left = list(answers)

    async def answer(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return answer


async def drip(exchange: Exchange) -> None:
    """A body of which a byte comes now and then."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n")
    while True:
        await exchange.send(b"x")
        await asyncio.sleep(0.05)


async def drip_headers(exchange: Exchange) -> None:
    """Headers without end, slowly."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X-More: yes\r\n")
        await asyncio.sleep(0.05)


async def silence(exchange: Exchange) -> None:
    """Nothing at all."""
    await asyncio.sleep(3600)


async def endless(exchange: Exchange) -> None:
    """A chunked body that never ends."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"\xff" * 0x10000 + b"\r\n"
    while True:
        await exchange.send(piece)


async def hangs_up(exchange: Exchange) -> None:
    """Promises more than comes, and closes."""
    await exchange.reply(jpeg()[:500], length=20_000)
    exchange.writer.close()


async def garbage(exchange: Exchange) -> None:
    """Not HTTP."""
    await exchange.send(b"\x00\xff\x13\x37" * 50 + b"\r\n\r\n")
    exchange.writer.close()


def gzip_bomb() -> bytes:
    """10 MB of zeros in 10 KB."""
    return gzip.compress(bytes(10_000_000))
