"""A service with clip-retrieval's protocol: `clipdistill serve`, or any other back end.

The protocol (clip-retrieval 2.45, `clip_back.py`): POST /knn-service with one of text, image and
embedding_input is answered with [{"id", "similarity", "url", "caption", ...}, ...].  Only the first
`num_images` of them have more than id and similarity.  GET /indices-list lists the indices.
"""

from __future__ import annotations

import math
import reprlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...core.errors import InputError, OptionError, ServiceError, did_you_mean
from ...core.progress import message
from ...formats.urls import UrlRow
from .hits import Embed, Source, usable_url
from .http import Service
from .licenses import first_text, rights_of

ENDPOINT = "/knn-service"
NO_TEXT = (400, 500, 501)
"""Statuses with which a service without a text model refuses a text: `clipdistill serve` answers
with 400 and a reason, clip-retrieval fails with 500."""


@dataclass(frozen=True)
class KnnSettings:
    """The settings of every query, by clip-retrieval's names.

    Attributes:
        indice_name: the index to search; None: the service's first.
        num_result_ids: number of neighbours before the service filters them.
        use_mclip: search with the multilingual model.
        deduplicate: leave out near-duplicates.
        use_safety_model: leave out images that are not safe for work.
        use_violence_detector: leave out images of violence.
        aesthetic_score: preferred aesthetic score, 0 to 9; None: no preference.
        aesthetic_weight: weight of the aesthetic score, 0 to 1.
    """

    indice_name: str | None = None
    num_result_ids: int = 3000
    use_mclip: bool = False
    deduplicate: bool = True
    use_safety_model: bool = True
    use_violence_detector: bool = True
    aesthetic_score: int | None = None
    aesthetic_weight: float = 0.5


def make_knn(
    service: Service,
    url: str,
    settings: KnnSettings,
    *,
    query: Literal["auto", "text", "embedding"] = "auto",
    embed: Embed | None = None,
) -> Source:
    """Make a source that searches a kNN service; its index is chosen and checked at once.

    Args:
        service: the HTTP client.
        url: its address, with or without /knn-service.
        settings: the settings of every query.
        query: search by text or by the text's embedding; auto: by text, and by embedding when the
            service refuses text and `embed` is given.
        embed: the teacher's text tower.

    Raises:
        InputError: there is no such index, or no teacher to embed with.
        ServiceError: the service fails, refuses, or sends an unexpected answer.
    """
    base = url.removesuffix(ENDPOINT).rstrip("/")
    index = choose_index(service, base, settings.indice_name)
    if query == "embedding" and embed is None:
        raise OptionError(
            "--query embedding needs the teacher that made the service's index. Add --model-name "
            "and --pretrained."
        )
    by_embedding = threading.Event()
    if query == "embedding":
        by_embedding.set()

    def ask(prompt: str, n: int) -> Any:
        kind = (
            {"text": prompt}
            if embed is None or not by_embedding.is_set()
            else {"embedding_input": [float(value) for value in embed([prompt])[0]]}
        )
        body = _body(kind, n, index, settings)
        try:
            return service.post(base + ENDPOINT, body).value
        except ServiceError as error:
            if "text" not in kind or query != "auto" or error.status not in NO_TEXT:
                raise
            if embed is None:
                raise _needs_teacher(error) from error
            if not by_embedding.is_set():
                by_embedding.set()
                message(f"{service.name} accepts no text; using the teacher's embeddings instead.")
        return ask(prompt, n)

    def search(prompt: str, n: int) -> Iterator[UrlRow]:
        yield from _rows(service.name, prompt, ask(prompt, n), n)

    return search


def choose_index(service: Service, base: str, name: str | None) -> str:
    """The index to search: the one named, or the service's first.

    Raises:
        InputError: the service has no index of that name.
        ServiceError: the service does not list its indices.
    """
    try:
        known = service.get(f"{base}/indices-list", {}).value
    except ServiceError as error:
        if name is not None and error.status == 404:
            return name  # some proxies let only the queries through
        raise
    if not isinstance(known, list) or not all(isinstance(one, str) for one in known) or not known:
        raise ServiceError(
            f"{service.name} ({base}/indices-list): expected a list of index names, found "
            f"{str(known)[:80]}. Is it a clip-retrieval back end, or `clipdistill serve`?"
        )
    if name is None:
        return str(known[0])
    if name not in known:
        raise InputError(
            f"{service.name} has no index {name!r} (--indice-name).{did_you_mean(name, known)} "
            f"It has: {', '.join(known)}"
        )
    return name


def _body(query: Mapping[str, Any], n: int, index: str, settings: KnnSettings) -> dict[str, Any]:
    score = settings.aesthetic_score
    return {
        "text": None,
        "image": None,
        "image_url": None,
        "embedding_input": None,
        **query,
        "modality": "image",
        "num_images": n,
        "num_result_ids": max(n, settings.num_result_ids),
        "indice_name": index,
        "use_mclip": settings.use_mclip,
        "deduplicate": settings.deduplicate,
        "use_safety_model": settings.use_safety_model,
        "use_violence_detector": settings.use_violence_detector,
        "aesthetic_score": "" if score is None else score,
        "aesthetic_weight": settings.aesthetic_weight,
    }


def _needs_teacher(error: ServiceError) -> ServiceError:
    return ServiceError(
        f"{error} If the service has no text model, use the embeddings of your own teacher: "
        "--query embedding --model-name NAME --pretrained TAG",
        error.status,
    )


def _rows(name: str, prompt: str, answer: Any, n: int) -> Iterator[UrlRow]:
    """Yield the hits of an answer, in its order."""
    if not isinstance(answer, list):
        raise ServiceError(f"{name}: expected a list of results, found {str(answer)[:80]}")
    # Those after the first n come without their metadata.
    for rank, item in enumerate(answer[:n], 1):
        if not isinstance(item, dict):
            raise ServiceError(f"{name}: expected results as JSON objects, found {str(item)[:80]}")
        plain = {str(key).lower(): value for key, value in item.items()}
        yield UrlRow(
            url=usable_url(plain.get("url")),
            prompt=prompt,
            rank=rank,
            score=_similarity(name, prompt, plain.get("similarity")),
            source="knn",
            caption=first_text(plain, "caption", "text"),
            **rights_of(plain),
        )


def _similarity(name: str, prompt: str, value: Any) -> float:
    # Whole numbers may have any number of digits, and then no float.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (isinstance(value, int) and abs(value) > 1 << 63) or not math.isfinite(value):
        raise ServiceError(
            f"{name}: a result for {prompt!r} has the similarity {reprlib.repr(value)}, expected a "
            "finite "
            "number. Its index holds damaged vectors, or another model made the query."
        )
    return float(value)
