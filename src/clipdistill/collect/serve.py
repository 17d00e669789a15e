"""serve: a pool as a small search service with clip-retrieval's protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from ..core.errors import MissingExtraError, OptionError
from ..core.loopback import LOCALHOST, LOOPBACK, is_loopback
from ..core.progress import message
from ..core.results import Result, Table
from ..core.wording import many
from ..images.decode import decoded
from ..images.sources import ImageItem, list_images
from .pool import Pool, open_pool, teacher_names

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..models.teacher import Teacher
    from .service import EmbedImage, EmbedText

QUERY_PIXELS = 50_000_000
"""Most pixels (width x height) of a query image."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address to listen on; 127.0.0.1 is reachable from this machine only.
        port: port of the service; 0: any free port.
        name: name of the pool for clients (indice_name).
        allow_host: host name that requests may have in their Host header; repeatable; * allows any.
            Default: localhost when the service is reachable from this machine only, else any.
        max_body: most bytes of a request's body.
        max_results: most results per query; further results are cut off.
        searches: number of searches that run at the same time.
        text: load the teacher, so that clients can search with texts and images.
        model_name: open_clip's name of the pool's teacher; needed only for a pool that does not
            name it.
        pretrained: open_clip's weights tag or a weights file of that teacher.
        device: device of the teacher: auto, cpu, cuda, cuda:1, mps.
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
        url: base URL of the service.
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

    The service answers POST /knn-service (by text, image or embedding) and /metadata, GET
    /indices-list and, with --images, /images/KEY.  It runs until Ctrl-C.  The safety, violence and
    aesthetic settings of clip-retrieval's clients have no effect, because the service has no such
    models.

    There are no passwords: anyone who reaches the port can search the pool and see its images.

    Args:
        pool: embeddings, made by `clipdistill embed` or published in clip-retrieval's layout.
        images: folder or tar of the pool's images, to serve them under /images/KEY.
        options: how to serve.

    Raises:
        InputError: there is no such pool, or the service cannot listen on that address.
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
                "passwords. Use it only in a network you trust."
            )
        url = url_of(listener)
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
            message(
                f"Serving {many(len(opened), 'image')} as {options.name!r} at {url} (Ctrl-C stops)"
            )
            make_server(app).run([listener])
    return ServeResult(opened.root, url)


def build_service(pool: Pool, images: Path | None, options: ServeOptions) -> Starlette:
    """Make the application that `serve` runs.

    Raises:
        InputError: the images do not exist.
        MismatchError: the teacher is not the pool's.
        ModelNotFoundError: the teacher cannot be fetched.
    """
    from .service import ServiceLimits, create_app

    items: Sequence[ImageItem] = [] if images is None else list_images(Path(images))
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
        raise OptionError("--max-body, --max-results and --searches should be 1 or more.")
    if not options.name.strip():
        raise OptionError("--name should not be empty.")


def _hosts(options: ServeOptions, alone: bool) -> tuple[str, ...] | None:
    if not options.allow_host:
        return LOOPBACK if alone else None
    return (*options.allow_host, *(LOOPBACK if alone else ()))


def _embedders(pool: Pool, options: ServeOptions) -> tuple[EmbedText | None, EmbedImage | None]:
    """The teacher's two towers; None without `text`, or when it is unknown or not installed."""
    if not options.text:
        return None, None
    if options.model_name is None and pool.teacher.fingerprint is None:
        message(
            "The pool does not name its teacher, so clients can only search with embeddings. Name "
            "the teacher with --model-name and --pretrained."
        )
        return None, None
    name, tag = teacher_names(pool, options.model_name, options.pretrained)
    try:
        from ..models.teacher import load_teacher
    except (MissingExtraError, ModuleNotFoundError) as error:
        message(f"Clients can only search with embeddings: {error}")
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
        with decoded(data, at_least=preprocess.size, max_pixels=QUERY_PIXELS) as image:
            pixels = preprocess.to_pixels(image)
        vector: NDArray[np.float32] = teacher.images.embed_pixels(np.stack([pixels]))[0]
        return vector

    return embed
