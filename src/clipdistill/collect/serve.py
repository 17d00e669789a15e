"""serve: a pool as a small search service that speaks clip-retrieval's protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from ..core.errors import InputError, MissingExtraError
from ..core.loopback import LOCALHOST, LOOPBACK, is_loopback
from ..core.progress import message
from ..core.results import Result, Table
from ..images.decode import decode
from ..images.sources import ImageItem, list_images
from .pool import Pool, open_pool, teacher_names

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..models.teacher import Teacher
    from .service import EmbedImage, EmbedText

QUERY_PIXELS = 50_000_000
"""Largest picture (width x height) that is taken as a query."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0: any that is free.
        name: what clients call the pool (indice_name).
        allow_host: host name that requests may ask for; repeatable; * is any.  Default: localhost
            when listening on this machine alone, else any.
        max_body: bytes that a request's body may have.
        max_results: results that a query may ask for; more are cut.
        searches: searches that run at once.
        text: load the teacher, so that texts and pictures can be asked for.
        model_name: the pool's teacher, where it does not say.
        pretrained: open_clip's weights tag or a weights file, likewise.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    host: str = LOCALHOST
    port: int = 1234
    name: str = "pool"
    allow_host: Sequence[str] = ()
    max_body: int = 8 << 20
    max_results: int = 100_000
    searches: int = 2
    text: bool = True
    model_name: str | None = None
    pretrained: str | None = None
    device: str = "auto"


@dataclass(frozen=True, repr=False)
class ServeResult(Result):
    """What `serve` did until it was stopped.

    Attributes:
        pool: the folder.
        url: where it listened.
    """

    pool: Path
    url: str

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        return [f"Stopped serving {self.pool} at {self.url}."]


def serve(
    pool: Path, /, *, images: Path | None = None, options: ServeOptions = ServeOptions()
) -> ServeResult:
    """Serve a pool to clip-retrieval's clients, and to `clipdistill search --source knn`.

    Answers POST /knn-service (by text, picture or embedding) and /metadata, GET /indices-list and,
    with --images, /images/KEY.  Runs until Ctrl-C.  The safety, violence and aesthetic settings of
    clip-retrieval's clients have no effect: there are no such models here.

    There are no passwords: whoever reaches the port can search the pool and see its pictures.

    Args:
        pool: embeddings, made by `clipdistill embed` or published in clip-retrieval's layout.
        images: hand out the pool's pictures from this folder (or its tars).
        options: see `ServeOptions`.

    Raises:
        InputError: no such pool, or it cannot listen on that address.
        MismatchError: the teacher is not the pool's.
        ModelNotFoundError: the teacher cannot be fetched.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    _check(options)
    opened = open_pool(pool)
    from ..core.serving import listen, make_server, url_of

    with listen(options.host, options.port) as listener:
        app = build_service(opened, images, options)
        if not is_loopback(options.host):
            message(
                f"Warning: {options.host} can be reached from other machines, and there are no "
                "passwords. Only do this in a network you trust."
            )
        url = url_of(listener)
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
            message(f"Serving {len(opened)} images as {options.name!r} at {url} (Ctrl-C stops)")
            make_server(app).run([listener])
    return ServeResult(opened.root, url)


def build_service(pool: Pool, images: Path | None, options: ServeOptions) -> Starlette:
    """The application that `serve` runs.

    Raises:
        InputError: no such images.
        MismatchError: the teacher is not the pool's.
        ModelNotFoundError: the teacher cannot be fetched.
    """
    from .service import ServiceLimits, create_app

    items: list[ImageItem] = [] if images is None else list_images(Path(images))
    embed_text, embed_image = _embedders(pool, options)
    return create_app(
        pool,
        name=options.name,
        embed_text=embed_text,
        embed_image=embed_image,
        images=items,
        allow_hosts=_hosts(options, is_loopback(options.host)),
        limits=ServiceLimits(options.max_body, options.max_results, options.searches),
    )


def _check(options: ServeOptions) -> None:
    if min(options.max_body, options.max_results, options.searches) < 1:
        raise InputError("--max-body, --max-results and --searches should be 1 or more.")
    if not options.name.strip():
        raise InputError("--name should not be empty.")


def _hosts(options: ServeOptions, alone: bool) -> tuple[str, ...] | None:
    if not options.allow_host:
        return LOOPBACK if alone else None
    return (*options.allow_host, *(LOOPBACK if alone else ()))


def _embedders(pool: Pool, options: ServeOptions) -> tuple[EmbedText | None, EmbedImage | None]:
    """The teacher's two towers, unless it is not wanted, not known or not installed."""
    if not options.text:
        return None, None
    if options.model_name is None and pool.teacher.fingerprint is None:
        message(
            "The pool does not say who made it: only embeddings can be asked for. Name its "
            "teacher with --model-name and --pretrained."
        )
        return None, None
    name, tag = teacher_names(pool, options.model_name, options.pretrained)
    try:
        from ..models.teacher import load_teacher
    except (MissingExtraError, ModuleNotFoundError) as error:
        message(f"Only embeddings can be asked for: {error}")
        return None, None
    teacher = load_teacher(name, tag, device=options.device)
    teacher.card.check_same(pool.teacher, f"teacher {name}", pool.root)
    return _text_embedder(teacher), _image_embedder(teacher)


def _text_embedder(teacher: Teacher) -> EmbedText:
    def embed(text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = teacher.embed_texts([text])[0]
        return vector

    return embed


def _image_embedder(teacher: Teacher) -> EmbedImage:
    preprocess = teacher.card.preprocess

    def embed(data: bytes) -> NDArray[np.float32]:
        image = decode(data, at_least=preprocess.size, max_pixels=QUERY_PIXELS)
        vector: NDArray[np.float32] = teacher.images.embed_pixels(
            np.stack([preprocess.to_pixels(image)])
        )[0]
        return vector

    return embed
