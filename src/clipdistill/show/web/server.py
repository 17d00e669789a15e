"""The web page of `demo --web`: gradio, on this machine alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...core.errors import ImageError, MissingExtraError
from ...core.progress import message
from ...images.decode import decode
from ...models.recognizer import Recognizer
from .classes import ClassLists, Encode, Models
from .guard import Guard

if TYPE_CHECKING:
    from starlette.applications import Starlette

EXAMPLES = 12
"""Examples at most."""
EXAMPLE_SIDE = 512
"""Pixels of an example's longer side."""


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
        examples: pictures to choose from; the page gets copies.
        port: on 127.0.0.1; 0: any that is free.
        threshold: probability below which the answer is "unknown"; None: the student's own.

    Raises:
        InputError: it cannot listen there.
        MissingExtraError: gradio is not installed.
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
    from ...core.serving import running_service

    least = student.threshold if threshold is None else threshold
    lists = ClassLists(Models(student, teacher), encode)
    for model in filter(None, (student, teacher)):
        _warm_up(model)
    with _environment() as folder:
        copies = _copy_examples(examples, folder)
        guard = Guard(_application(lists, copies, least))
        with running_service(guard, port=port) as url:
            try:
                yield url
            finally:
                guard.leave()


@contextlib.contextmanager
def _environment() -> Iterator[Path]:
    """Keep gradio quiet and its files in a folder of our own, which goes when the page goes."""
    with tempfile.TemporaryDirectory(prefix="clipdistill-page-") as folder:
        values = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield Path(folder).resolve()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value


def _application(lists: ClassLists, examples: Sequence[Path], least: float) -> Starlette:
    """The page.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    try:
        import gradio
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingExtraError("gradio", "demo", "The page") from error
    from .layout import MAX_UPLOAD, Page, build
    from .look import head, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    blocks = build(Page(lists), examples, least)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name="127.0.0.1",
        allowed_paths=[],
        show_error=False,
        footer_links=[],
        run_history=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        head=head(),
    )
    # Only launch() sets this, and without it gradio lets requests name any file of the machine.
    blocks.has_launched = True
    return app


def _copy_examples(examples: Sequence[Path], folder: Path) -> list[Path]:
    """Small copies for the page, without names and notes of the files; unreadable ones are left."""
    copies: list[Path] = []
    for path in examples:
        with contextlib.suppress(ImageError, OSError):
            image = decode(path.read_bytes(), at_least=EXAMPLE_SIDE)
            image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
            copy = folder / f"example_{len(copies) + 1}.png"
            Image.fromarray(np.asarray(image)).save(copy)
            copies.append(copy)
        if len(copies) == EXAMPLES:
            break
    return copies


def _warm_up(model: Recognizer) -> None:
    """The first answer is slow; nobody should wait for it, or read its latency."""
    side = model.preprocess.size
    model.probabilities(np.zeros((1, side, side, 3), dtype=np.uint8))
