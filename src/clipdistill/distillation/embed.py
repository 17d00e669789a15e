"""embed: images -> the teacher's embeddings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ImageError, InputError, OptionError
from ..core.locks import locked
from ..core.progress import message, track
from ..core.results import Result, Table, list_some
from ..core.stopping import postponed
from ..core.wording import many
from ..formats.embeddings import EmbeddingStore, Failure, Header, Row, load_embeddings, npy_path
from ..images.loading import Loaded, batched, default_workers, load_pixels, stack
from ..images.sources import ImageItem, content_id, list_images
from ..images.views import MOST_VIEWS, ViewSpec
from ..models.teachers import DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED, license_note

if TYPE_CHECKING:
    from ..models.teacher import Teacher


@dataclass(frozen=True, repr=False)
class EmbedResult(Result):
    """What `embed` did.

    Attributes:
        out: the folder of embeddings.
        teacher: teacher that made them.
        license: of the teacher's weights, an SPDX-like identifier; empty when unknown.
        images: images found.
        embedded: images embedded in this run.
        kept: images that were embedded before.
        moved: images whose bytes were embedded before under another name.
        gone: embeddings whose image is no longer there (kept; `distill` leaves them out).
        failures: images that could not be used, each with its reason.
        seconds: of embedding, without loading the teacher.
    """

    out: Path
    teacher: str
    license: str
    images: int
    embedded: int
    kept: int
    moved: int
    gone: int
    failures: tuple[Failure, ...]
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        rate = f" ({self.embedded / self.seconds:.0f} images/s)" if self.seconds > 0.1 else ""
        lines: list[str | Table] = [
            f"{many(self.embedded, 'image')} embedded{rate}, {self.kept} kept from before, "
            f"{self.moved} found again under a new name, {len(self.failures)} failed; "
            f"teacher {self.teacher}.",
        ]
        if self.gone:
            lines.append(f"{self.gone} embeddings belong to images that are gone; they are kept.")
        lines += list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures])
        lines.append(f"Embeddings: {self.out}")
        return lines


@dataclass(frozen=True)
class _Plan:
    """What is to be done: decided from names, sizes and times, or from content where those moved.

    `moved` pairs the new row with the name under which its content was embedded before.
    """

    todo: list[ImageItem]
    kept: int
    moved: list[tuple[Row, str]]
    failures: list[Failure]


def embed(
    images: Path,
    out: Path,
    *,
    model_name: str = DEFAULT_MODEL_NAME,
    pretrained: str = DEFAULT_PRETRAINED,
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    layout: Literal["clip-retrieval", "npy"] = "clip-retrieval",
    dtype: Literal["float16", "float32"] = "float16",
    normalize: bool = True,
    shard_size: int = 4096,
    views: int = 0,
    view_seed: int = 0,
    recheck: bool = False,
) -> EmbedResult:
    """Embed images with a teacher.

    Can be stopped and run again at any time: what is embedded is kept, new images are appended,
    changed ones are embedded anew, renamed ones are recognised by their content.

    Args:
        images: folder of images (searched recursively), or WebDataset tars.
        out: folder for the embeddings.
        model_name: open_clip's name of the teacher, hf-hub:ORG/REPO or local-dir:FOLDER.
        pretrained: open_clip's weights tag or a weights file (not for hf-hub and local-dir).
        batch_size: images a forward pass.
        num_workers: threads that decode; default: one a processor.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the forward pass; auto is fp16 on CUDA, fp32 elsewhere.
        layout: clip-retrieval's shards, or one .npy an image (the older scripts').
        dtype: of the stored vectors (layout npy: always float32).
        normalize: store vectors of unit length.
        shard_size: embeddings per shard; a kill loses at most these.
        views: views per image to embed as well, for `distill` to replay: seeded crops, mirrorings
            and mild colour changes. Each costs as much as the image itself. 0: none.
        view_seed: seed of the views.
        recheck: compare the content of every image with what was embedded, also where name, size
            and time are the same.

    Raises:
        InputError: the folder is missing, empty, or no image can be read.
        ModelNotFoundError: the teacher is unknown or cannot be fetched.
        MismatchError: `out` holds embeddings of another teacher.
        OutputError: `out` cannot be written to, or another process is writing to it.
    """
    images, out = Path(images), Path(out)
    spec = _view_spec(views, view_seed, layout)
    items = list_images(images)
    with locked(out, "embed"):
        from ..models.teacher import load_teacher

        teacher = load_teacher(model_name, pretrained, device=device, precision=precision)
        note = license_note(str(teacher.card), teacher.card.license)
        if note:
            message(note)
        header = Header(
            teacher.card, layout, "float32" if layout == "npy" else dtype, normalize, spec
        )
        workers = default_workers() if num_workers is None else num_workers
        store = EmbeddingStore(out, header)
        plan = _plan(items, store, recheck)
        if plan.kept:
            message(f"{plan.kept} of {len(items)} images are embedded already.")
        _append_moved(store, plan.moved)
        start = time.monotonic()
        failures = [
            *plan.failures,
            *_embed_all(teacher, store, plan.todo, batch_size, workers, shard_size),
        ]
        seconds = time.monotonic() - start
        _check_any(images, items, store, failures)
        store.finish(failures)
    present = {item.key for item in items}
    known = {row.image_path for row in store.all_rows()}
    return EmbedResult(
        out=out,
        teacher=str(teacher.card),
        license=teacher.card.license,
        images=len(items),
        embedded=len(plan.todo) - len(failures) + len(plan.failures),
        kept=plan.kept,
        moved=len(plan.moved),
        gone=len(known - present),
        failures=tuple(failures),
        seconds=seconds,
    )


def _view_spec(views: int, seed: int, layout: str) -> ViewSpec | None:
    """The views to embed; None: none.

    Raises:
        InputError: the options cannot be used.
    """
    if views == 0:
        return None
    if not 1 <= views <= MOST_VIEWS:
        raise OptionError(f"--views {views}: expected 0 to {MOST_VIEWS}.")
    if seed < 0:
        raise OptionError(f"--view-seed {seed}: expected 0 or more.")
    if layout == "npy":
        raise OptionError(
            "--views needs --layout clip-retrieval: layout npy has one vector per image."
        )
    return ViewSpec(views, seed)


def _check_any(
    images: Path, items: Sequence[ImageItem], store: EmbeddingStore, failures: Sequence[Failure]
) -> None:
    """Refuse to call a store complete that holds nothing."""
    if not store.all_rows():
        reasons = [f"{f.image_path}: {f.reason}" for f in failures]
        raise InputError(
            "\n".join(
                [
                    f"{images}: none of its {many(len(items), 'image')} can be read.",
                    *list_some("The first:", reasons, 5),
                ]
            )
        )


def _plan(items: Sequence[ImageItem], store: EmbeddingStore, recheck: bool) -> _Plan:
    """Sort out what is embedded already.

    Reads only files whose name, size or time is new; with `recheck`, all of them.
    """
    rows = store.all_rows()
    by_path = {row.image_path: row for row in rows}
    # Only rows that hold: the vector of an image that changed is the new one's.
    by_content = {row.content: row.image_path for row in by_path.values() if row.content}
    plan = _Plan([], 0, [], [])
    kept = 0
    taken: dict[Path, str] = {}
    for item in items:
        if store.header.layout == "npy":
            path = npy_path(store.root, item.key)
            if path in taken:
                plan.failures.append(
                    Failure(
                        item.key,
                        f"{taken[path]} has the same name, and layout npy keeps one file a name",
                    )
                )
                continue
            taken[path] = item.key
        row = by_path.get(item.key)
        same = row is not None and (row.size, row.mtime_ns) == (item.size, item.mtime_ns)
        if same and not recheck:
            kept += 1
            continue
        content = _content(item) if rows else ""
        if row is not None and content == row.content:
            kept += 1
        elif content and content in by_content:
            moved = Row(item.key, content, item.size, item.mtime_ns)
            plan.moved.append((moved, by_content[content]))
        else:
            plan.todo.append(item)
    return _Plan(plan.todo, kept, plan.moved, plan.failures)


def _content(item: ImageItem) -> str:
    try:
        return content_id(item.read())
    except ImageError:
        return ""


def _append_moved(store: EmbeddingStore, moved: Sequence[tuple[Row, str]]) -> None:
    """Give renamed images the vectors their content already has."""
    if not moved:
        return
    before = load_embeddings(store.root)
    number = before.by_image()
    places = np.array([number[known] for _, known in moved], dtype=np.intp)
    views = before.views()
    seen = None if views is None else (views.embeddings(places), views.parameters(places))
    store.append([row for row, _ in moved], before.vectors[places], seen)


def _embed_all(
    teacher: Teacher,
    store: EmbeddingStore,
    todo: Sequence[ImageItem],
    batch_size: int,
    workers: int,
    shard_size: int,
) -> list[Failure]:
    """Embed `todo` and append it shard by shard; returns the failures."""
    failures: list[Failure] = []
    shard = _Shard()
    spec = store.header.views
    # Views wait decoded as well: fewer images at once, the same memory.
    ahead = max(1, 4 * batch_size // (1 + (spec.count if spec else 0)))
    loaded = load_pixels(todo, teacher.card.preprocess, workers=workers, ahead=ahead, views=spec)
    with track("embed", len(todo), "images") as step:
        try:
            for good, bad in batched(loaded, batch_size):
                failures += [Failure(one.item.key, one.reason) for one in bad]
                if good:
                    failures += shard.add(teacher, store.header, good, batch_size)
                if len(shard.rows) >= shard_size:
                    shard.flush(store)
                step(len(good) + len(bad), f"{len(failures)} failed" if failures else "")
        except KeyboardInterrupt:
            shard.flush(store)
            raise
        shard.flush(store)
    return failures


@dataclass
class _Shard:
    """Embedded images that are not yet written.

    Attributes:
        rows: the images.
        vectors: float32 (n, D) each.
        views: (embeddings float32 (n, K, D), parameters float32 (n, K, 8)) each; none without.
    """

    rows: list[Row] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    views: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def add(
        self, teacher: Teacher, header: Header, good: Sequence[Loaded], batch_size: int
    ) -> list[Failure]:
        """Embed one batch; returns the images whose embedding is not finite."""
        tower = teacher.images
        embed_batch = tower.embed_pixels if header.normalized else tower.raw_pixels
        vectors = embed_batch(stack(good))
        # Checked as stored: raw outputs may be too large for float16.
        with np.errstate(over="ignore"):
            finite: NDArray[np.bool_] = np.isfinite(vectors.astype(header.dtype)).all(axis=1)
        seen: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        if header.views is not None:
            pixels = np.concatenate([one.views for one in good if one.views is not None])
            parts = [
                embed_batch(pixels[start : start + batch_size])
                for start in range(0, len(pixels), batch_size)
            ]
            embedded = np.concatenate(parts).reshape(len(good), header.views.count, -1)
            with np.errstate(over="ignore"):
                finite &= np.isfinite(embedded.astype(header.dtype)).all(axis=(1, 2))
            drawn = np.stack([one.parameters for one in good if one.parameters is not None])
            seen.append((embedded[finite], drawn[finite]))
        items = [(one.item, one.content) for one, fine in zip(good, finite, strict=True) if fine]
        with postponed():  # all three or none
            self.rows += [Row(it.key, content, it.size, it.mtime_ns) for it, content in items]
            self.vectors.append(vectors[finite])
            self.views += seen
        reason = "its embedding is not finite; try --precision fp32 --dtype float32"
        return [
            Failure(one.item.key, reason)
            for one, fine in zip(good, finite, strict=True)
            if not fine
        ]

    def flush(self, store: EmbeddingStore) -> None:
        """Write what there is as one shard, whole even when it is stopped meanwhile."""
        if not self.rows:
            return
        views = None
        if self.views:
            embeddings, parameters = zip(*self.views, strict=True)
            views = (np.concatenate(embeddings), np.concatenate(parameters))
        with postponed():  # what was written must not be written again
            store.append(self.rows, np.concatenate(self.vectors), views)
            self.rows.clear()
            self.vectors.clear()
            self.views.clear()
