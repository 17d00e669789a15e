"""The web page of `demo --web`: one static page and a few routes, on this machine alone.

    GET  /, /page.css, /page.js, /source.js   the page
    GET  /about                   the models, their classes, limits
    GET  /examples/N              an image to choose, 1 to the number of examples
    POST /predict?classes=KEY&teacher=0|1   an encoded image -> {"answers": [...]}
    POST /classes                 {"classes": [...]} -> {"classes": [...], "key": KEY}

An image or a class list that cannot be used gives {"problem": "..."}; a request that cannot be
answered gives {"message": "..."} with its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...core.errors import ClipDistillError, ImageError
from ...core.loopback import LOOPBACK
from ...core.model_names import short_name
from ...core.page import PageFile, page_file
from ...core.progress import message
from ...core.serving import (
    ERRORS_AS_ANSWERS,
    OnlyHosts,
    Refusal,
    json_object,
    read_body,
    running_service,
)
from ...core.wording import UNKNOWN
from ...images.decode import decode, decoded
from ...models.recognizer import Recognizer
from .answers import answer
from .class_lists import LONGEST_NAME, MOST_CLASSES, ClassLists, Encode, Models, check_classes
from .guard import Guard

EXAMPLES = 12
"""Examples at most."""
EXAMPLE_SIDE = 512
"""Pixels of an example's longer side."""
MAX_UPLOAD = 20 << 20
"""Bytes of an encoded image."""
MAX_PIXELS = 50_000_000
"""Pixels (width x height) of an image."""
MAX_CLASSES_BODY = 1 << 20
"""Bytes of a class list; the longest one that is allowed has a third of it."""
MAX_READING = 8
"""Requests whose body is being read; for another one, the one that began first gives way."""
MAX_WAITING = 8
"""Requests that wait for the models with a whole body; more are refused."""
IMAGE_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
"""What POST requests have to be; a form of a foreign page can send neither."""
PAGE: dict[str, tuple[PageFile, str]] = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""Path -> file of the page and its type."""


def serve_page(
    student: Recognizer,
    *,
    teacher: Recognizer | None = None,
    encode: Encode | None = None,
    examples: Sequence[Path] = (),
    port: int = 7860,
    threshold: float | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        student: the model.
        teacher: answers beside it.
        encode: class names -> text embeddings in the student's space; None: its classes are fixed.
        examples: image files to choose from; the page gets copies.
        port: on 127.0.0.1; 0: any that is free.
        threshold: probability below which the answer is "unknown"; None: the student's own.

    Raises:
        InputError: it cannot listen there.
    """
    running = running_page(
        student, teacher=teacher, encode=encode, examples=examples, port=port, threshold=threshold
    )
    with contextlib.suppress(KeyboardInterrupt), running as url:  # the way to stop it
        message(f"The page is at {url} (Ctrl-C stops)")
        threading.Event().wait()


@contextlib.contextmanager
def running_page(
    student: Recognizer,
    *,
    teacher: Recognizer | None = None,
    encode: Encode | None = None,
    examples: Sequence[Path] = (),
    port: int = 0,
    threshold: float | None = None,
) -> Iterator[str]:
    """Serve the page as long as the block runs; yields its address.  See `serve_page`."""
    own = student.threshold if student.thresholds is None else None
    least = own if threshold is None else threshold
    lists = ClassLists(Models(student, teacher), encode)
    for model in filter(None, (student, teacher)):
        _warm_up(model)
    page = _Page(lists, _copies(examples), least)
    with running_service(Guard(page.application()), port=port) as url:
        yield url


class _Page:
    """The routes."""

    def __init__(self, lists: ClassLists, examples: Sequence[bytes], least: float | None) -> None:
        self.lists, self.examples, self.least = lists, examples, least
        self.side = max(model.preprocess.size for model in _both(lists.own))
        self.turn = asyncio.Lock()
        self.reading: list[asyncio.Task[bytes]] = []
        self.waiting = 0

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            *(Route(path, _kept(page_file(name), kind)) for path, (name, kind) in PAGE.items()),
            Route("/source.js", _kept(_source(), "text/javascript")),
            *(
                Route(f"/examples/{number}", _kept(data, "image/png"))
                for number, data in enumerate(self.examples, 1)
            ),
            Route("/about", self.about),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/classes", self.classes, methods=["POST"]),
        ]
        guard = Middleware(OnlyHosts, hosts=LOOPBACK, advice="Open it as localhost.")
        return Starlette(routes=routes, middleware=[guard], exception_handlers=ERRORS_AS_ANSWERS)

    async def about(self, request: Request) -> Response:
        """What the page reads when it is opened."""
        own = self.lists.own
        titles = ["Model"] if own.teacher is None else ["Student", "Teacher"]
        models = [
            {"title": title, "name": short_name(model.name), "runtime": model.runtime}
            for title, model in zip(titles, _both(own), strict=True)
        ]
        return JSONResponse(
            {
                "models": models,
                "classes": own.labels,
                "editable": self.lists.editable,
                "independent": own.student.thresholds is not None,
                "threshold": self.least,  # None: each label has its own
                "unknown": UNKNOWN,
                "examples": len(self.examples),
                "limits": {
                    "bytes": MAX_UPLOAD,
                    "classes": MOST_CLASSES,
                    "characters": LONGEST_NAME,
                },
            }
        )

    async def predict(self, request: Request) -> Response:
        """Classify an encoded image."""
        key = request.query_params.get("classes", "")
        both = request.query_params.get("teacher") == "1"
        return await self._in_turn(
            request, IMAGE_TYPE, MAX_UPLOAD, lambda data: self._predict(data, key, both)
        )

    async def classes(self, request: Request) -> Response:
        """Take a class list."""
        return await self._in_turn(request, JSON_TYPE, MAX_CLASSES_BODY, self._classes)

    async def _in_turn(
        self, request: Request, kind: str, most: int, work: Callable[[bytes], dict[str, Any]]
    ) -> Response:
        """Read the body, wait for the models, and answer; one request at a time has the models."""
        if request.headers.get("content-type") != kind:
            raise Refusal(415, f"Content-Type: expected {kind}.")
        body = await self._body(request, most)
        if self.waiting >= MAX_WAITING:
            raise Refusal(503, "Too many requests are waiting; try again in a moment.")
        self.waiting += 1
        try:
            async with self.turn:
                if await request.is_disconnected():  # nobody waits for this answer any more
                    raise ClientDisconnect
                return JSONResponse(await run_in_threadpool(work, body))
        except ImageError as error:
            return JSONResponse({"problem": f"This image cannot be used: {error}."})
        except ClipDistillError as error:
            return JSONResponse({"problem": str(error)})
        finally:
            self.waiting -= 1

    async def _body(self, request: Request, most: int) -> bytes:
        """Read the body; half-sent ones keep nobody out.

        Raises:
            Refusal: it is too large or too slow, or it gave way to others.
        """
        if len(self.reading) >= MAX_READING:
            self.reading.pop(0).cancel()
        task = asyncio.ensure_future(read_body(request, most))
        self.reading.append(task)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()  # if this request itself was given up
            if task in self.reading:
                self.reading.remove(task)
        if task.cancelled():
            raise Refusal(503, "Other requests came before this body was whole; send it again.")
        return task.result()

    def _predict(self, data: bytes, key: str, both: bool) -> dict[str, Any]:
        models = self.lists.find(key)
        if models is None:
            raise Refusal(409, "This class list is forgotten; send it again.")
        with decoded(data, at_least=self.side, max_pixels=MAX_PIXELS) as image:
            return {"answers": [answer(model, image) for model in _both(models)[: 1 + both]]}

    def _classes(self, body: bytes) -> dict[str, Any]:
        names = json_object(body).get("classes")
        own = self.lists.own.labels  # which may be more than a visitor may send
        labels = own if names == list(own) else check_classes(names)
        return {"classes": labels, "key": self.lists.use(labels)}


def _both(models: Models) -> list[Recognizer]:
    return [model for model in (models.student, models.teacher) if model is not None]


def _source() -> bytes:
    """The page's module that asks this server."""
    return (files(__package__) / "static" / "source.js").read_bytes()


def _kept(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """What a route calls that always sends the same, from memory."""

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind)

    return send


def _copies(examples: Sequence[Path]) -> list[bytes]:
    """Small PNG copies without names and notes of the files; unreadable ones are left out."""
    copies: list[bytes] = []
    for path in examples:
        with contextlib.suppress(ImageError, OSError):
            image = decode(path.read_bytes(), at_least=EXAMPLE_SIDE)
            image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
            file = io.BytesIO()
            Image.fromarray(np.asarray(image)).save(file, "PNG")
            copies.append(file.getvalue())
        if len(copies) == EXAMPLES:
            break
    return copies


def _warm_up(model: Recognizer) -> None:
    """The first answer is slow; nobody should wait for it, or read its latency."""
    side = model.preprocess.size
    model.probabilities(np.zeros((1, side, side, 3), dtype=np.uint8))
