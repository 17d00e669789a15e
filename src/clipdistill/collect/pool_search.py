"""pool search: texts or images -> the most similar images of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from ..core.errors import InputError, OptionError
from ..core.results import Result, Table
from ..core.signatures import NameOrPath, PathOrUrl
from ..core.wording import many
from ..formats.prompts import Prompts, load_prompts
from ..formats.text import load_text
from ..images.loading import default_workers, load_pixels, stack
from ..images.sources import match_images
from .pool import Pool, open_pool, teacher_names

Query = tuple[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Attributes:
        score: cosine with the query.
        row: row number in the pool.
        image_path: key below the images folder; empty when unknown.
        url: URL of the image; empty when unknown.
        caption: caption of the image; empty when unknown.
        extra: the other columns of the pool's metadata.
    """

    score: float
    row: int
    image_path: str
    url: str
    caption: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The images that one query found.

    Attributes:
        query: the text, or the query image's name.
        hits: the most similar images, the best first.
    """

    query: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, repr=False)
class PoolSearchResult(Result):
    """What `pool_search` found.

    Attributes:
        pool: the folder.
        images: number of images in the pool.
        broken: number of rows that hold NaN or infinite values and were left out.
        answers: one answer per query, in the order given.
    """

    pool: Path
    images: int
    broken: int
    answers: tuple[Answer, ...]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = [_table(answer) for answer in self.answers]
        if self.broken:
            lines.append(
                f"Left out, with NaN or infinite values: {many(self.broken, 'row')} of {self.pool}."
            )
        return lines


def pool_search(
    pool: PathOrUrl,
    /,
    *texts: str,
    prompts: Path | None = None,
    image: Sequence[NameOrPath] = (),
    text: Path | None = None,
    top_k: Annotated[int, Parameter(name=("--top-k", "-k"))] = 10,
    model_name: str | None = None,
    pretrained: str | None = None,
    device: str = "auto",
) -> PoolSearchResult:
    """Search a pool of embedded images with texts or images.

    The search is exact, and needs little memory however large the pool is.

    Args:
        pool: embeddings, made by `clipdistill embed` or published in clip-retrieval's layout; or
            their URL, of which a copy is kept on this machine.
        texts: texts to search for, each its own query, such as "a red fish".
        prompts: prompts file; each label is one query.
        image: image file to search similar images for; repeatable.
        text: text embeddings of `clipdistill embed-text`; each label is one query, and no teacher
            is needed.
        top_k: number of images to show per query.
        model_name: open_clip's name of the pool's teacher; needed only for a pool that does not
            name it.
        pretrained: open_clip's weights tag or a weights file of that teacher.
        device: device of the teacher: auto, cpu, cuda, cuda:1, mps.

    Raises:
        InputError: there is no query, no such pool, or the pool does not name its teacher.
        MismatchError: the teacher is not the pool's.
        ModelNotFoundError: the teacher cannot be fetched.
    """
    opened = open_pool(pool)
    queries = _stored_queries(opened, text)
    wanted = _texts(texts, prompts)
    if wanted.labels or image:
        queries += _embedded_queries(opened, wanted, image, model_name, pretrained, device)
    if not queries:
        raise OptionError(
            f'Nothing to search for. Expected: pool search {pool} "a red fish" ..., --prompts FILE,'
            " --image FILE or --text FILE"
        )
    found = opened.search(np.stack([vector for _, vector in queries]), top_k)
    answers = [
        Answer(name, _hits(opened, rows, scores))
        for (name, _), rows, scores in zip(queries, found.rows, found.scores, strict=True)
    ]
    return PoolSearchResult(opened.root, len(opened), opened.broken, tuple(answers))


def _texts(texts: Sequence[str], prompts: Path | None) -> Prompts:
    """Make prompts of every text, once, and of the prompts file."""
    alone = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    labels = alone
    lines: tuple[tuple[str, ...], ...] = tuple((text,) for text in alone)
    if prompts is not None:
        loaded = load_prompts(Path(prompts))
        labels, lines = labels + loaded.labels, lines + loaded.prompts
    return Prompts(labels, lines)


def _stored_queries(pool: Pool, text: Path | None) -> list[Query]:
    if text is None:
        return []
    known = load_text(Path(text))
    known.teacher.check_same(pool.teacher, text, pool.root)
    return list(zip(known.labels, known.vectors, strict=True))


def _embedded_queries(
    pool: Pool,
    wanted: Prompts,
    image: Sequence[str],
    model_name: str | None,
    pretrained: str | None,
    device: str,
) -> list[Query]:
    """The texts and images of the queries, embedded by the pool's teacher."""
    items = match_images([str(one) for one in image]) if image else []
    name, tag = teacher_names(pool, model_name, pretrained)
    from ..models.teacher import embed_classes, load_teacher

    teacher = load_teacher(name, tag, device=device)
    teacher.card.check_same(pool.teacher, f"teacher {name}", pool.root)
    queries: list[Query] = []
    if wanted.labels:
        queries += zip(wanted.labels, embed_classes(teacher, wanted).vectors, strict=True)
    if items:
        workers = min(default_workers(), len(items))
        loaded = list(load_pixels(items, teacher.card.preprocess, workers=workers))
        for one in loaded:
            if one.pixels is None:
                raise InputError(f"{one.item.key}: {one.reason}.")
        queries += zip(
            [item.key for item in items], teacher.images.embed_pixels(stack(loaded)), strict=True
        )
    return queries


def _hits(pool: Pool, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[Hit, ...]:
    about = pool.metadata(rows)
    return tuple(
        Hit(score, row, one.image_path, one.url, one.caption, one.extra)
        for score, row, one in zip(scores.tolist(), rows.tolist(), about, strict=True)
    )


def _table(answer: Answer) -> Table:
    captions = any(hit.caption for hit in answer.hits)
    rows = [
        (f"{hit.score:.3f}", hit.image_path or hit.url or f"row {hit.row}", hit.caption)
        for hit in answer.hits
    ]
    if captions:
        return Table(answer.query, (">score", "image", "caption"), tuple(rows))
    return Table(answer.query, (">score", "image"), tuple(row[:2] for row in rows))
