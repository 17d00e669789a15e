"""What `evaluate` and `benchmark` share: classes, embeddings, scores and latency."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core import metrics
from ..core.errors import InputError, OptionError, did_you_mean
from ..core.model_names import short_names
from ..core.progress import track
from ..core.wording import many
from ..core.zeroshot import Logits, normalized, probabilities
from ..formats.embeddings import Failure
from ..formats.label_table import ENDINGS, is_label_table, load_label_table
from ..formats.text import TextEmbeddings, load_text
from ..images.loading import batched, load_pixels, stack
from ..images.sources import ImageItem, list_images
from ..models.embedder import Embedder, EmbedderSpec

WARM_UP_RUNS, TIMED_RUNS = 3, 20
"""Untimed and timed runs of a latency; the median of 20 varies by a few percent."""


@dataclass(frozen=True)
class Task:
    """What is the same for every model.

    Attributes:
        items: the images.
        truth: int (N,), index of the true class of each image; None without labels, or where an
            image has several or none.
        truths: bool (N, C), whether each image has each label; None without labels.
        text: the classes.
        batch_size: images per batch.
        workers: threads that decode images.
    """

    items: Sequence[ImageItem]
    truth: NDArray[np.intp] | None
    text: TextEmbeddings
    batch_size: int
    workers: int
    truths: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Labels:
    """The labels of images.

    Attributes:
        items: the images.
        truths: bool (N, C), whether each image has each label.
        truth: int (N,), where every image has one; else None.
        empty: class folders without images.
    """

    items: Sequence[ImageItem]
    truths: NDArray[np.bool_]
    truth: NDArray[np.intp] | None
    empty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a model.

    Attributes:
        rows: int (N,), indices of the items that could be read.
        vectors: float32 (N, D), their embeddings.
        failures: the other items, each with its reason.
    """

    rows: NDArray[np.intp]
    vectors: NDArray[np.float32]
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The embeddings that agreement and cosine compare with, and their name."""

    name: str
    embedded: Embedded


def choose_text(
    opened: Sequence[tuple[EmbedderSpec, TextEmbeddings | None]], text: Path | None
) -> TextEmbeddings:
    """Return the given classes, otherwise those of the first model that contains classes.

    Raises:
        InputError: there are no classes.
        MismatchError: a model has another embedding space.
    """
    own = [(spec.name, carried) for spec, carried in opened if carried is not None]
    if text is not None:
        source, classes = str(text), load_text(text)
    elif own:
        source, classes = own[0]
    else:
        raise OptionError(
            "No classes given. Add --text with text embeddings, made with: clipdistill embed-text"
        )
    for spec, _ in opened:
        spec.check_space(classes.teacher, source)
    return classes


def _true_classes(
    root: Path, items: Sequence[ImageItem], labels: Sequence[str]
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Return the true class of each image (int (N,)), and the class folders without images."""
    loose = [item.key for item in items if "/" not in item.key]
    if loose:
        raise InputError(
            f"{root}: {loose[0]} is in no class folder. Expected FOLDER/<class>/<image>. For "
            "images without labels use --images."
        )
    known = {label: index for index, label in reversed(list(enumerate(labels)))}
    loosely = {_plain(label): index for label, index in known.items()}
    here = sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    used = [item.key.partition("/")[0] for item in items]
    index_of: dict[str, int] = {}
    for name in sorted({*here, *used}):
        index = known.get(name, loosely.get(_plain(name)))
        if index is None:
            raise InputError(
                f"{root / name}: the name of this folder is none of the "
                f"{many(len(labels), 'label')}."
                f"{did_you_mean(name, labels)} Rename the folder, or use text embeddings "
                "that have this label."
            )
        index_of[name] = index
    empty = tuple(name for name in here if name not in set(used))
    return np.array([index_of[name] for name in used], dtype=np.intp), empty


def true_labels(labelled: Path, images: Path | None, labels: Sequence[str]) -> Labels:
    """Read the labels of images: folders named like their class, or a table.

    Args:
        labelled: folder with one folder per class, or a table of labels.
        images: folder that the table's names are below; None: the table's own, of which --images
            names another.
        labels: the classes.

    Raises:
        InputError: no such images, an image is in no class folder, or a name is no label.
        FormatError: the table cannot be read.
    """
    if not is_label_table(labelled):
        if labelled.exists() and not labelled.is_dir():
            raise InputError(
                f"{labelled}: expected a folder with one folder of images per class, or a table of "
                f"labels ({', '.join(ENDINGS)})."
            )
        listed = list_images(labelled)
        truth, empty = _true_classes(labelled, listed, labels)
        return Labels(listed, truth[:, None] == np.arange(len(labels)), truth, empty)
    table = load_label_table(labelled)
    root = labelled.parent if images is None else images
    items = [item for item in list_images(root) if item.key in table]
    missing = sorted(table.keys() - {item.key for item in items})
    if missing:
        advice = (
            "Give the folder of the images with --images."
            if images is None
            else "The names count from that folder."
        )
        raise InputError(
            f"{labelled}: {missing[0]} is no image below {root} ({len(missing)} of "
            f"{many(len(table), 'image')} missing). {advice}"
        )
    known = {_plain(label): index for index, label in reversed(list(enumerate(labels)))}
    truths = np.zeros((len(items), len(labels)), bool)
    for row, item in enumerate(items):
        for name in table[item.key]:
            index = known.get(_plain(name))
            if index is None:
                raise InputError(
                    f"{labelled}: {name!r} (of {item.key}) is none of the "
                    f"{many(len(labels), 'label')}.{did_you_mean(name, labels)} Change the table, "
                    "or use text embeddings that have this label."
                )
            truths[row, index] = True
    single = bool((truths.sum(axis=1) == 1).all())
    return Labels(items, truths, truths.argmax(axis=1) if single else None)


def _plain(name: str) -> str:
    """Normalise a label for comparison: case, `_`, `-`, spaces and Unicode forms do not count."""
    plain = unicodedata.normalize("NFC", name)  # macOS writes names of folders in NFD
    return re.sub(r"[\s_-]+", " ", plain).strip().casefold()


def embed(embedder: Embedder, task: Task) -> Embedded:
    """Embed the images, with the model's own preprocessing.

    Raises:
        InputError: none of the images could be read.
    """
    index_of = {(item.path, item.key): index for index, item in enumerate(task.items)}
    loaded = load_pixels(task.items, embedder.spec.preprocess, workers=task.workers)
    rows: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    failures: list[Failure] = []
    with track(
        f"embedding with {short_names([embedder.spec.name])[0]}", len(task.items), "images"
    ) as step:
        for good, failed in batched(loaded, task.batch_size):
            failures += [Failure(one.item.key, one.reason) for one in failed]
            if good:
                rows += [index_of[one.item.path, one.item.key] for one in good]
                vectors.append(embedder.embed_pixels(stack(good)))
            step(len(good) + len(failed))
    if not vectors:
        raise none_readable(len(task.items), failures)
    return Embedded(np.array(rows, dtype=np.intp), np.concatenate(vectors), tuple(failures))


def none_readable(count: int, failures: Sequence[Failure]) -> InputError:
    """Return the error for a folder of which no image could be read."""
    reasons = "; ".join(f"{one.image_path}: {one.reason}" for one in failures[:3])
    return InputError(f"None of {many(count, 'image')} could be read: {reasons}.")


def scores_of(
    vectors: NDArray[np.float32], text: TextEmbeddings, logits: Logits | None = None
) -> NDArray[np.float32]:
    """Return probabilities float32 (N, C) of embeddings (N, D) of any length.

    Args:
        vectors: the embeddings.
        text: the classes.
        logits: what turns cosines into probabilities; None: the teacher's own.
    """
    return probabilities(normalized(vectors), text.vectors, logits or text.teacher_logits)


def share_right(
    scores: NDArray[np.float32], truths: NDArray[np.bool_], best: int = 1
) -> float | None:
    """Share of the images with labels of which one is among the best; None without such images.

    Args:
        scores: probabilities, float32 (N, C).
        truths: whether each image has each label, (N, C).
        best: number of labels that count as an answer; with one it is the accuracy.
    """
    return metrics.any_right(scores, truths, best) if truths.any() else None


def against(
    embedded: Embedded,
    scores: NDArray[np.float32],
    reference: Reference | None,
    text: TextEmbeddings,
) -> tuple[float | None, float | None]:
    """Return agreement and mean cosine on the images of both; None without such images."""
    if reference is None:
        return None, None
    _, mine, theirs = np.intersect1d(embedded.rows, reference.embedded.rows, return_indices=True)
    if not len(mine):
        return None, None
    vectors = reference.embedded.vectors[theirs]
    return (
        metrics.agreement(scores[mine], scores_of(vectors, text)),
        metrics.mean_cosine(embedded.vectors[mine], vectors),
    )


def latency_ms(embedder: Embedder, pixels: NDArray[np.uint8]) -> float:
    """Return the median milliseconds of `embed_pixels` on uint8 (1, S, S, 3), after a warm-up."""
    for _ in range(WARM_UP_RUNS):
        embedder.embed_pixels(pixels)
    times = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        embedder.embed_pixels(pixels)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))
