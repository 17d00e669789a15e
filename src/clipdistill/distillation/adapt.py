"""adapt: text embeddings + a pool's embeddings -> class vectors that fit the pool's images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..collect.pool import Pool, open_pool
from ..core.errors import InputError, OptionError
from ..core.independent import LEAST_IMAGES, fit_pool
from ..core.locks import locked_files
from ..core.progress import Step, track
from ..core.results import Result, Table, list_some
from ..core.wording import many, percent
from ..core.zeroshot import CAUTIOUS, Floats, Independent
from ..formats.embeddings import Failure
from ..formats.text import Adaptation, TextEmbeddings, load_text, save_text, text_path
from ..images.loading import batched, default_workers, load_pixels, stack
from ..images.sources import ImageItem, list_images
from ..models.embedder import Embedder
from ..models.open import open_embedder
from .class_vectors import METHOD, ROUNDS, ClassVectors, learn, moved

TABLE_CLASSES = 40
"""Longest table that is shown to a person; the file has every class."""
COSINES_AT_ONCE = 1 << 22
"""Cosines of images with classes that are in memory at once: 16 MB, a few times over."""


@dataclass(frozen=True, repr=False)
class AdaptResult(Result):
    """What `adapt` learnt.

    Attributes:
        out: the `.npy`; its description lies beside it as `.json`.
        pool: the embeddings it was learnt from.
        teacher: whose space it is.
        labels: the classes.
        images: images of the pool nearest to each class vector, in the labels' order.
        left_out: rows of the pool that were NaN, infinite or zero.
        text_cosines: cosine of each class vector with its text vector.
        refused: labels that no image was nearest to; they only moved with the others.
        changed: share of the images that got another label than the text gave them, 0 to 1.
        kept_text: why the pool was refused as a whole; empty: it was not.
        student: whose own embeddings took part; empty: none.
        student_images: images that it embedded.
        failures: images that the student could not be shown, each with its reason.
        independent: the probabilities of each class on its own; None: every image has one label.
    """

    out: Path
    pool: Path
    teacher: str
    labels: tuple[str, ...]
    images: tuple[int, ...]
    left_out: int
    text_cosines: tuple[float, ...]
    refused: tuple[str, ...]
    changed: float
    kept_text: str = ""
    student: str = ""
    student_images: int = 0
    failures: tuple[Failure, ...] = ()
    independent: Independent | None = None

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = []
        if self.kept_text:
            lines.append(f"Text embeddings kept as they are: {self.kept_text}.")
        else:
            lines += [
                *([self._table()] if len(self.labels) <= TABLE_CLASSES else []),
                f"{len(self.labels)} class vectors learnt from {many(sum(self.images), 'image')}; "
                f"{percent(self.changed)} of them get another label than with text.",
                *list_some(
                    "No image is nearest to these labels; they moved as the others did:",
                    self.refused,
                ),
            ]
        if self.student and not self.kept_text:
            lines.append(f"{self.student} embedded {many(self.student_images, 'image')} of them.")
        if self.left_out:
            lines.append(f"Left out: {many(self.left_out, 'row')} of the pool, NaN or zero.")
        lines += list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures])
        if self.independent is not None:
            lines += _describe(self.independent)
        lines.append(f"Text embeddings: {self.out}")
        return lines

    def _table(self) -> Table:
        rows = tuple(
            (label, str(count), f"{cosine:.3f}")
            for label, count, cosine in zip(
                self.labels, self.images, self.text_cosines, strict=True
            )
        )
        return Table("Class vectors", ("label", ">images", ">cosine with text"), rows)


def adapt(
    text: Path,
    embeddings: Path,
    out: Path,
    *,
    student: Path | None = None,
    images: Path | None = None,
    independent: bool | None = None,
    keep_text: bool = False,
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str = "auto",
) -> AdaptResult:
    """Learn class vectors from an unlabelled pool.

    Every class vector moves half the way from its text to the images of the pool that are nearest
    to it.  The result is text embeddings like any others, for evaluate, export, relabel, predict
    and demo.  Where the pool cannot support it (one class; images of fewer than half the classes;
    images of other things), the text embeddings are kept and the result says why.

    With --student and --images, the means of the student's own embeddings take the place of the
    teacher's; the labels remain the teacher's.

    With --independent an image may have several labels or none: every class gets a probability on
    its own, fitted to the pool without labels.  An image has a label where its cosine stands out of
    the cosines of the images of other classes.  A class that fewer than 3 images show is named, and
    gets a cautious threshold.  Embeddings that have such probabilities get new ones.

    A calibration that the text embeddings have does not fit the new vectors and is left out: run
    `clipdistill evaluate --calibrate` again.  Embeddings that were adapted already are adapted anew
    from the text.

    Args:
        text: text embeddings, made by `clipdistill embed-text`.
        embeddings: the pool, made by `clipdistill embed` with the same teacher.
        out: file to write (.npy; a .json is written beside it).
        student: a student, or any model of `predict`, trained on this teacher; needs --images.
        images: folder of the pool's images, for the student.
        independent: a probability for each class on its own, for images of several things; default:
            where the text embeddings have such probabilities.
        keep_text: keep the class vectors of the text.
        batch_size: images per forward pass.
        num_workers: threads for decoding; one per processor unless given.
        device: of the student: auto, cpu, cuda, cuda:1.

    Raises:
        InputError: duplicate labels, an empty pool, --student without --images or the reverse, none
            of the images is in the pool, or --independent with fewer than 20 images.
        MismatchError: text, pool and student are not of one teacher.
        OutputError: `out` cannot be written, or another process is writing it.
    """
    text, embeddings, out = Path(text), Path(embeddings), Path(out)
    _check_arguments(student, images, keep_text, batch_size)
    with locked_files("adapt", text_path(out)):
        loaded = load_text(text)
        classes = _from_text(loaded, text)
        pool = open_pool(embeddings)
        classes.teacher.check_same(pool.teacher, text, embeddings)
        learner = None
        if student is not None and images is not None:
            embedder = open_embedder(str(student), device=device)
            embedder.spec.check_space(classes.teacher, text)
            learner = _StudentMeans(embedder, len(classes.labels), batch_size, num_workers)
        stream = _Stream(pool, len(classes.labels))
        with stream.reported():
            found = learn(classes.vectors, stream.blocks, keep_text=keep_text)
        if learner is not None and images is not None and not found.kept_text:
            learner.add(_chosen_items(pool, stream.rows, found, Path(images)))
            vectors, shift = moved(classes.vectors, learner.sums, learner.counts)
            found = replace(found, vectors=vectors, shift=shift)
        adaptation = _provenance(found, classes, stream, student)
        adapted = replace(classes, vectors=found.vectors, adaptation=adaptation)
        if loaded.independent is not None if independent is None else independent:
            adapted = replace(adapted, independent=_independent(adapted, stream))
        path = save_text(out, adapted)
    cosines = np.einsum("cd,cd->c", found.vectors, classes.vectors)
    return AdaptResult(
        out=path,
        pool=embeddings,
        teacher=str(classes.teacher),
        labels=classes.labels,
        images=adaptation.images,
        left_out=stream.left_out,
        text_cosines=tuple(cosines.tolist()),
        refused=adaptation.refused,
        changed=found.changed,
        kept_text=found.kept_text,
        student=adaptation.student,
        student_images=0 if learner is None else int(learner.counts.sum()),
        failures=() if learner is None else tuple(learner.failures),
        independent=adapted.independent,
    )


def _describe(found: Independent) -> list[str]:
    """Describe probabilities that were fitted to a pool."""
    return [
        "Every class has a probability on its own, so that an image may have several labels or "
        f"none; fitted to {many(found.images, 'image')}.",
        *list_some(
            f"Hardly any image shows these labels; they are given from {percent(CAUTIOUS, 0)} on:",
            found.unmatched,
        ),
    ]


def _independent(classes: TextEmbeddings, stream: _Stream) -> Independent:
    """Fit probabilities to the pool.

    Raises:
        InputError: it has too few images.
    """
    root = stream.pool.root
    with track("fitting probabilities", 2 * len(stream.pool), "rows") as stream.step:
        found = fit_pool(classes.vectors, stream.blocks, classes.labels, str(root))
    if found is None:
        raise InputError(
            f"{root}: --independent needs {LEAST_IMAGES} images or more. Embed more: clipdistill "
            "embed"
        )
    return found


def _check_arguments(
    student: Path | None, images: Path | None, keep_text: bool, batch_size: int
) -> None:
    if keep_text and student is not None:
        raise OptionError(
            "A student's images move the class vectors, and those of the text shall be kept. Leave "
            "--keep-text or --student away."
        )
    if (student is None) != (images is None):
        raise OptionError(
            "--student and --images belong together: the student embeds the pool's images. Give "
            "both, or neither."
        )
    if batch_size < 1:
        raise OptionError("--batch-size should be 1 or more.")


def _from_text(classes: TextEmbeddings, path: Path) -> TextEmbeddings:
    """The classes as their text made them.

    Raises:
        InputError: a label stands twice.
    """
    twice = [label for label, count in Counter(classes.labels).items() if count > 1]
    if twice:
        raise InputError(
            f"{path}: the label {twice[0]!r} is there {classes.labels.count(twice[0])} times, and "
            "an image can belong to one of them only. Give every label once (`label<TAB>prompt` "
            "gives a label several prompts), and run again: clipdistill embed-text"
        )
    before = classes.vectors if classes.adaptation is None else classes.adaptation.text
    return replace(classes, vectors=before, calibration=None, adaptation=None, independent=None)


class _Stream:
    """A pool's usable vectors, in blocks; counts what it leaves out.

    Attributes:
        pool: the pool.
        rows: row numbers of the vectors, from the first pass.
        left_out: rows that are NaN, infinite or zero.
        step: what is to be called with the rows of each block; None: nothing.
    """

    def __init__(self, pool: Pool, classes: int) -> None:
        self.pool = pool
        self._block = max(64, min(4096, COSINES_AT_ONCE // classes))
        self.step: Step | None = None
        self.rows: NDArray[np.int64] = np.empty(0, np.int64)
        self.left_out = 0

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Show progress, counting rows of all passes."""
        passes = 2 * ROUNDS + 1
        with track("learning class vectors", passes * len(self.pool), "rows") as self.step:
            yield

    def blocks(self) -> Iterator[Floats]:
        """One pass.

        Raises:
            InputError: not one row can be used.
        """
        rows = []
        for numbers, vectors in self.pool.blocks(self._block):
            there = vectors.any(axis=1)
            rows.append(numbers[there])
            if there.any():
                yield vectors[there]
            if self.step is not None:
                self.step(len(numbers))
        self.rows = np.concatenate(rows)
        self.left_out = len(self.pool) - len(self.rows)
        if not len(self.rows):
            raise InputError(
                f"{self.pool.root}: none of its {many(len(self.pool), 'row')} can be used (all "
                "are NaN, infinite or zero). Embed the images again: clipdistill embed"
            )


def _chosen_items(
    pool: Pool, rows: NDArray[np.int64], found: ClassVectors, images: Path
) -> list[tuple[ImageItem, int]]:
    """The images that the teacher's class vectors were learnt from, with their labels.

    Raises:
        InputError: none of them is in the folder.
    """
    wanted, labels = rows[found.chosen], found.assigned.labels[found.chosen]
    label_of = dict(zip(wanted.tolist(), labels.tolist(), strict=True))
    listed = list_images(images)
    at = pool.rows_of({item.key for item in listed})
    items = [(item, label_of[at[item.key]]) for item in listed if at.get(item.key) in label_of]
    if not items:
        raise InputError(
            f"{images} has none of the images that were chosen from {pool.root}. Give --images the "
            f"folder that was embedded: clipdistill embed {images} {pool.root}"
        )
    return items


class _StudentMeans:
    """Sums of a student's own embeddings, a row per class.

    Attributes:
        sums: float32 (C, D).
        counts: int64 (C,).
        failures: images that could not be read.
    """

    def __init__(
        self, embedder: Embedder, classes: int, batch_size: int, workers: int | None
    ) -> None:
        self._embedder = embedder
        self._batch_size = batch_size
        self._workers = default_workers() if workers is None else workers
        self.sums = np.zeros((classes, embedder.spec.dim), np.float32)
        self.counts = np.zeros(classes, np.int64)
        self.failures: list[Failure] = []

    def add(self, items: list[tuple[ImageItem, int]]) -> None:
        """Embed the images and add each to its class.

        Raises:
            InputError: not one of them can be read.
        """
        label_of = {(item.path, item.key): label for item, label in items}
        loaded = load_pixels(
            [item for item, _ in items], self._embedder.spec.preprocess, workers=self._workers
        )
        with track("embedding with the student", len(items), "images") as step:
            for good, failed in batched(loaded, self._batch_size):
                self.failures += [Failure(one.item.key, one.reason) for one in failed]
                if good:
                    labels = np.array([label_of[one.item.path, one.item.key] for one in good])
                    np.add.at(self.sums, labels, self._embedder.embed_pixels(stack(good)))
                    np.add.at(self.counts, labels, 1)
                step(len(good) + len(failed))
        if not self.counts.any():
            first = self.failures[0]
            raise InputError(
                f"None of the {many(len(items), 'image')} for the student can be read; the first: "
                f"{first.image_path}: {first.reason}"
            )


def _provenance(
    found: ClassVectors, classes: TextEmbeddings, stream: _Stream, student: Path | None
) -> Adaptation:
    counts = found.assigned.counts(len(classes.labels))
    kept = bool(found.kept_text)
    return Adaptation(
        text=classes.vectors,
        shift=found.shift,
        pool=str(stream.pool.root),
        teacher=str(stream.pool.teacher.shipped()),
        method=METHOD,
        rounds=0 if kept else ROUNDS,
        images=tuple(counts.tolist()),
        refused=tuple(np.array(classes.labels, object)[found.refused].tolist()),
        left_out=stream.left_out,
        changed=found.changed,
        kept_text=found.kept_text,
        student="" if student is None or kept else str(student),
    )
