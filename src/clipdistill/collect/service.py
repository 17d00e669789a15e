"""A small HTTP server with clip-retrieval's protocol for a pool.

    POST /knn-service    {"text" | "image" (base64) | "embedding_input", ...} -> results
    POST /metadata       {"ids": [...], "indice_name"} -> [{"id", "metadata"}, ...]
    GET  /indices-list   ["NAME"]
    GET  /images/KEY     an image of the pool, when a folder of images was given
    GET  /health, GET /  "ok", and a description of the service

The protocol is clip-retrieval's (`clip_back.py`, 2.45), so the same clients work with both servers.
Unsupported requests are refused, not ignored: `image_url` (this server fetches nothing),
`use_mclip`, `modality` "text", an unknown `indice_name`.  Only the safety, violence and aesthetic
settings are accepted without effect, because every client sends them: this server has no such
models.  Every error is {"message": "..."}.

Near-duplicates (`deduplicate`) are results of cosine 0.94 or more with a better one that stays;
clip-retrieval joins such pairs to chains and keeps one of each chain.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import reprlib
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..core.errors import ImageError
from ..core.serving import ERRORS_AS_ANSWERS, OnlyHosts, Refusal, json_object, read_body
from ..core.texts import Index
from ..core.zeroshot import normalized
from ..images.decode import HEIF_BRANDS
from ..images.sources import ImageItem, Listing, open_regular
from .choose import without_repeats
from .pool import Pool, PoolRow

Floats = NDArray[np.float32]
EmbedText = Callable[[str], Floats]
"""A text -> float32 (D,) of unit length."""
EmbedImage = Callable[[bytes], Floats]
"""An encoded image -> float32 (D,) of unit length; raises `ImageError`."""
_Answer = TypeVar("_Answer")

SAME_ABOVE = 0.94
"""Cosine from which results are near-duplicates; clip-retrieval's (`get_non_uniques`)."""
COMPARED = 10_000
"""Results that `deduplicate` compares with each other; takes about a second on two cores."""
MAX_TEXT = 10_000
"""Most characters of a query; teachers use about 70 words of it."""
MAX_WAITING = 64
"""Requests that may wait for a thread; further ones are refused with status 503."""
TYPES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
"""First bytes of the supported image formats; WebP, AVIF and HEIC have their names later."""
PICTURE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of requests.

    Attributes:
        max_body: most bytes of a request's body.
        max_results: most results of a query; further results are cut off, not refused.
        searches: number of searches that run at the same time, each with all threads.
    """

    max_body: int = 8 << 20
    max_results: int = 100_000
    searches: int = 2


def create_app(
    pool: Pool,
    *,
    name: str = "pool",
    embed_text: EmbedText | None = None,
    embed_image: EmbedImage | None = None,
    images: Sequence[ImageItem] = (),
    allow_hosts: Sequence[str] | None = None,
    limits: ServiceLimits = ServiceLimits(),
) -> Starlette:
    """Make the ASGI application.

    Args:
        pool: the pool to search.
        name: its name for clients (`indice_name`).
        embed_text: the text tower; None: text queries are refused.
        embed_image: the image tower; None: image queries are refused.
        images: images to serve; only those with a row in the pool are served.
        allow_hosts: names that the Host header may have; None: any.
        limits: limits of requests.
    """
    service = _Service(pool, name, embed_text, embed_image, images, limits)
    routes = [
        Route("/", service.about),
        Route("/health", service.health),
        Route("/indices-list", service.indices),
        Route("/knn-service", service.knn, methods=["POST"]),
        Route("/metadata", service.metadata, methods=["POST"]),
        Route("/images/{key:path}", service.picture),
    ]
    guards = []
    if allow_hosts is not None:
        advice = "Restart it with --allow-host to accept them."
        guards = [Middleware(OnlyHosts, hosts=tuple(allow_hosts), advice=advice)]
    return Starlette(
        routes=routes,
        middleware=guards,
        exception_handlers=ERRORS_AS_ANSWERS,
        lifespan=service.lifespan,
    )


class _Service:
    """The routes."""

    def __init__(
        self,
        pool: Pool,
        name: str,
        embed_text: EmbedText | None,
        embed_image: EmbedImage | None,
        images: Sequence[ImageItem],
        limits: ServiceLimits,
    ) -> None:
        self.pool, self.name, self.limits = pool, name, limits
        self.embed_text, self.embed_image = embed_text, embed_image
        self.images = Listing.of(Path(), images)
        self.rows = pool.find(self.images.keys)
        self.places = Index(self.images.keys)
        self.by_row = np.argsort(self.rows, kind="stable")
        self.threads: ThreadPoolExecutor | None = None
        self.waiting = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Keep a pool of threads while the application runs."""
        self.threads = ThreadPoolExecutor(self.limits.searches, thread_name_prefix="service")
        try:
            yield
        finally:
            self.threads.shutdown(wait=False, cancel_futures=True)

    async def about(self, request: Request) -> Response:
        """Describe the service."""
        return JSONResponse(
            {
                "service": "clipdistill serve",
                "protocol": "clip-retrieval: POST /knn-service, POST /metadata, GET /indices-list",
                "indice_name": self.name,
                "images": len(self.pool),
                "teacher": str(self.pool.teacher),
                "queries": [
                    kind
                    for kind, there in (
                        ("text", self.embed_text),
                        ("image", self.embed_image),
                        ("embedding_input", True),
                    )
                    if there
                ],
                "pictures": int((self.rows >= 0).sum()),
            }
        )

    async def health(self, request: Request) -> Response:
        """Answer health checks."""
        return JSONResponse("ok")

    async def indices(self, request: Request) -> Response:
        """List the values that `indice_name` may have."""
        return JSONResponse([self.name])

    async def knn(self, request: Request) -> Response:
        """Answer one query with the most similar images."""
        body = await read_body(request, self.limits.max_body)
        base = str(request.base_url)
        return await self._run(lambda: self._knn(json_object(body), base))

    async def metadata(self, request: Request) -> Response:
        """Answer with the metadata of some rows."""
        body = await read_body(request, self.limits.max_body)
        return await self._run(lambda: self._metadata(json_object(body)))

    async def picture(self, request: Request) -> Response:
        """Answer with one image; only keys of the pool are valid, so no path leads elsewhere."""
        place = int(self.places.find([request.path_params["key"]])[0])
        if place < 0 or self.rows[place] < 0:
            raise Refusal(404, "There is no such image in this pool.")
        item = self.images[place]
        return await self._run(lambda: _picture(item))

    async def _run(self, work: Callable[[], _Answer]) -> _Answer:
        """Run `work` in one of a few threads, so that many requests cannot use all memory."""
        if self.waiting >= MAX_WAITING or self.threads is None:
            raise Refusal(503, "Too many requests are waiting; try again in a moment.")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, work)
        finally:
            self.waiting -= 1

    def _knn(self, asked: Mapping[str, Any], base: str) -> Response:
        self._check_index(asked)
        if asked.get("modality") not in (None, "image"):
            raise Refusal(400, 'modality: expected "image"; the pool holds no text embeddings.')
        images = _number(asked, "num_images", 100)
        most = min(_number(asked, "num_result_ids", images), self.limits.max_results)
        found = self.pool.search(self._query(asked)[None], most)
        rows, scores = found.rows[0], found.scores[0]
        if _flag(asked, "deduplicate"):
            rows, scores = self._deduplicated(rows, scores)
        known = self.pool.metadata(rows[:images])
        items: list[dict[str, Any]] = []
        for place, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True)):
            about = self._about(row, known[place], base) if place < len(known) else {}
            items.append({"id": row, "similarity": score, **about})
        return JSONResponse(items)

    def _about(self, row: int, known: PoolRow, base: str) -> dict[str, str]:
        """The fields of a result that describe the image and where it is."""
        about = {"url": known.url, "caption": known.caption, "image_path": known.image_path}
        if not known.url and (key := self._key(row)):
            about["url"] = f"{base}images/{quote(key)}"
        return {name: value for name, value in about.items() if value}

    def _key(self, row: int) -> str:
        """The key of the image of a row; empty when there is no such image."""
        at = int(np.searchsorted(self.rows, row, sorter=self.by_row))
        place = int(self.by_row[at]) if at < len(self.by_row) else -1
        return self.images.keys[place] if place >= 0 and self.rows[place] == row else ""

    def _deduplicated(
        self, rows: NDArray[np.int64], scores: Floats
    ) -> tuple[NDArray[np.int64], Floats]:
        fresh = without_repeats(self.pool.vectors(rows[:COMPARED]), SAME_ABOVE)
        keep = np.concatenate([fresh, np.arange(min(COMPARED, len(rows)), len(rows))])
        return rows[keep], scores[keep]

    def _query(self, asked: Mapping[str, Any]) -> Floats:
        """The query as float32 (D,) of unit length.

        Raises:
            Refusal: no query or several were given, or the query cannot be used.
        """
        if asked.get("image_url"):
            raise Refusal(
                400,
                "image_url: this server fetches nothing. Send the image itself as "
                '"image" (base64).',
            )
        kinds = [
            kind
            for kind in ("text", "image", "embedding_input")
            if asked.get(kind) not in (None, "")
        ]
        if len(kinds) != 1:
            raise Refusal(
                400,
                "Expected one of text, image (base64) and embedding_input, found "
                f"{' and '.join(kinds) or 'none'}.",
            )
        value = asked[kinds[0]]
        if kinds == ["text"]:
            return self._text_query(value, asked)
        return self._image_query(value) if kinds == ["image"] else self._vector_query(value)

    def _text_query(self, value: Any, asked: Mapping[str, Any]) -> Floats:
        if _flag(asked, "use_mclip"):
            raise Refusal(400, "use_mclip: this server has no multilingual model.")
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise Refusal(400, f"text: expected a text of at most {MAX_TEXT} characters.")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Refusal(400, "text: expected valid Unicode, found a lone surrogate.")
        if "\0" in value:
            raise Refusal(400, "text: expected a text without NUL bytes.")
        if self.embed_text is None:
            raise Refusal(
                400,
                "text: this server has no text model. Embed the text yourself, with "
                f"{self.pool.teacher}, and send embedding_input.",
            )
        return self.embed_text(unicodedata.normalize("NFC", value))  # as prompts are

    def _image_query(self, value: Any) -> Floats:
        if self.embed_image is None:
            raise Refusal(
                400,
                "image: this server has no image model. Embed the image yourself, with "
                f"{self.pool.teacher}, and send embedding_input.",
            )
        try:
            return self.embed_image(base64.b64decode(value, validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise Refusal(400, f"image: expected an image in base64 ({error}).") from error
        except ImageError as error:
            raise Refusal(400, f"image: {error}") from error

    def _vector_query(self, value: Any) -> Floats:
        numbers = isinstance(value, list) and all(type(one) in (int, float) for one in value)
        if not numbers or len(value) != self.pool.dim:
            found = f"{len(value)} values" if isinstance(value, list) else type(value).__name__
            raise Refusal(
                400,
                f"embedding_input: expected a list of {self.pool.dim} numbers, made "
                f"by {self.pool.teacher}; found {found}.",
            )
        try:
            vector = np.array([float(one) for one in value])
        except OverflowError as error:
            raise Refusal(400, "embedding_input: a number is too large.") from error
        largest = np.abs(vector).max()
        if not np.isfinite(largest) or largest == 0:
            raise Refusal(400, "embedding_input: its length is zero, or not finite.")
        return normalized(vector / largest)

    def _metadata(self, asked: Mapping[str, Any]) -> Response:
        self._check_index(asked)
        ids = asked.get("ids")
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise Refusal(400, "ids: expected a list of row numbers.")
        if len(ids) > self.limits.max_results:
            raise Refusal(400, f"ids: expected at most {self.limits.max_results}.")
        if any(not 0 <= one < self.pool.stored for one in ids):
            raise Refusal(400, f"ids: expected row numbers from 0 to {self.pool.stored - 1}.")
        return JSONResponse(
            [
                {"id": row, "metadata": _columns(known)}
                for row, known in zip(ids, self.pool.metadata(ids), strict=True)
            ]
        )

    def _check_index(self, asked: Mapping[str, Any]) -> None:
        if asked.get("indice_name") not in (None, "", self.name):
            given = reprlib.repr(asked["indice_name"])
            raise Refusal(400, f"indice_name: expected {self.name!r}, found {given}.")


def _columns(row: PoolRow) -> dict[str, Any]:
    named = {"image_path": row.image_path, "url": row.url, "caption": row.caption}
    return {**row.extra, **{name: value for name, value in named.items() if value}}


def _number(asked: Mapping[str, Any], name: str, default: int) -> int:
    value = asked.get(name)
    if value is None:
        return default
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:
        found = reprlib.repr(value)
        raise Refusal(400, f"{name}: expected a whole number of 1 or more, found {found}.")
    return value


def _flag(asked: Mapping[str, Any], name: str) -> bool:
    value = asked.get(name)
    if value not in (None, True, False):
        raise Refusal(400, f"{name}: expected true or false, found {reprlib.repr(value)}.")
    return bool(value)


def _picture(item: ImageItem) -> Response:
    """Answer with an image's file, or its part of a tar, with the media type of its bytes."""
    try:
        with open_regular(item.path) as file:
            file.seek(item.offset or 0)
            kind = media_type(file.read(16))
            status = os.fstat(file.fileno())
    except OSError as error:
        raise Refusal(404, "The file of this image cannot be read any more.") from error
    except ImageError as error:
        raise Refusal(415, f"This image is {error}.") from error
    if item.offset is not None and item.offset + item.size > status.st_size:
        raise Refusal(404, "The tar of this image is truncated.")
    if kind is None or item.problem:
        raise Refusal(415, "This file is not an image.")
    if item.offset is None:
        headers = dict(PICTURE_HEADERS)
        return FileResponse(item.path, media_type=kind, stat_result=status, headers=headers)
    headers = {**PICTURE_HEADERS, "Content-Length": str(item.size)}
    return StreamingResponse(_part_of(item), media_type=kind, headers=headers)


def _part_of(item: ImageItem, piece: int = 1 << 16) -> Iterator[bytes]:
    with open_regular(item.path) as file:
        file.seek(item.offset or 0)
        left = item.size
        while left > 0 and (data := file.read(min(piece, left))):
            left -= len(data)
            yield data


def media_type(start: bytes) -> str | None:
    """The media type of an image by its first 16 bytes; None for unsupported formats."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "image/avif" if brand == b"avif" else "image/heic" if brand in HEIF_BRANDS else None
    return next((kind for magic, kind in TYPES if start.startswith(magic)), None)
