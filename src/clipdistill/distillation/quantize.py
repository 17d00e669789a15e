"""quantize: a finished student -> the same student in INT8, without training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core import metrics
from ..core.errors import InputError, OptionError, OutputError
from ..core.locks import locked
from ..core.progress import track
from ..core.results import Result, Table, list_some
from ..core.wording import many, percent
from ..formats.cards import Calibration, Compression, StudentCard
from ..formats.embeddings import Failure, load_embeddings, match_rows
from ..formats.student import (
    CHECKPOINT,
    SAMPLE_IMAGES,
    is_student,
    load_card,
    origin,
    save_card,
    save_samples,
    save_weights,
)
from ..formats.text import TextEmbeddings, load_text
from ..images.loading import default_workers, load_pixels
from ..images.sources import ImageItem, list_images
from ..models.embedder import Embedder
from .options import CALIBRATION

if TYPE_CHECKING:
    import torch

    from ..models.compression import Compressed
    from ..models.torch_embedder import TorchEmbedder

HELD_OUT, MOST_HELD_OUT = 0.2, 500
"""Share of the images, and the most, that are not calibrated on but measured on."""
SAME_LABELS = 0.99
"""Share of images with the same label from which INT8 lost nothing."""


@dataclass(frozen=True)
class QuantizedState:
    """How near a state of the student was to a reference, on the held-out images.

    Attributes:
        state: "before" (as it was) or "calibrated" (INT8).
        cosine: mean cosine with the student as it was.
        teacher_cosine: mean cosine with the teacher; None without --embeddings.
        same_label: share of images on which it chooses the label that the student chose as it was;
            None without --text.
    """

    state: str
    cosine: float
    teacher_cosine: float | None
    same_label: float | None


@dataclass(frozen=True, repr=False)
class QuantizeResult(Result):
    """What `quantize` did.

    Attributes:
        out: the INT8 student's folder.
        arch: timm's name.
        compression: what was done to the network.
        held_out: images that were measured on.
        states: before and after.
        worst_cosine: least cosine of an image with the student as it was.
        failures: images that could not be used, each with its reason.
        seconds: it took.
    """

    out: Path
    arch: str
    compression: Compression
    held_out: int
    states: tuple[QuantizedState, ...]
    worst_cosine: float
    failures: tuple[Failure, ...]
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        from ..models.compression import describe, float_adds_note

        int8 = self.compression.int8
        assert int8 is not None
        lines: list[str | Table] = [
            f"{self.arch}: {describe(self.compression)}, calibrated on "
            f"{many(int8.calibration_images, 'image')} ({int8.method}), {self.seconds:.1f} s.",
            *list_some("Not quantised:", [f"{name}: {why}" for name, why in int8.skipped], 5),
            *float_adds_note(self.compression),
            self._table(),
            f"Least cosine of an image with the student as it was: {self.worst_cosine:.3f}.",
            self._cost(),
            *list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures]),
        ]
        return [*lines, f"Student: {self.out} (clipdistill export writes the INT8 file)"]

    @property
    def lost_nothing(self) -> bool:
        """Whether INT8 cost nothing, so that a training with `distill --qat` has nothing to gain.

        Nearness to the teacher decides; without it, nearness to the student as it was.  With class
        vectors, the labels must be the same as well.
        """
        before, after = self.states
        teacher = before.teacher_cosine, after.teacher_cosine
        pair = (before.cosine, after.cosine) if None in teacher else teacher
        labels = 1.0 if after.same_label is None else after.same_label
        return metrics.lost_nothing(*pair) and labels >= SAME_LABELS

    def _cost(self) -> str:
        if self.lost_nothing:
            return "INT8 lost nothing: training it with `clipdistill distill --qat` is not needed."
        before, after = self.states
        if before.teacher_cosine is None or after.teacher_cosine is None:
            now = f"is {after.cosine:.4f} to the student as it was"
        else:
            now = f"with the teacher went from {before.teacher_cosine:.4f} to "
            now += f"{after.teacher_cosine:.4f}"
        same = after.same_label
        labels = "" if same is None else f", and {percent(1 - same)} of the labels changed"
        return (
            f"INT8 cost something: the cosine {now}{labels}. `clipdistill distill --qat` trains "
            "it, and keeps the result only where it is nearer to the teacher."
        )

    def _table(self) -> Table:
        names = {"before": "as it was", "calibrated": "INT8, calibrated, not trained"}
        columns = ["state", ">cosine with the student as it was"]
        columns += [">with the teacher"] if self.states[0].teacher_cosine is not None else []
        columns += [">same label as it was"] if self.states[0].same_label is not None else []
        rows = []
        for one in self.states:
            figures = (one.cosine, one.teacher_cosine, one.same_label)
            shown = [f"{value:.4f}" for value in figures if value is not None]
            rows.append((names[one.state], *shown))
        return Table(
            f"On {many(self.held_out, 'image')} that it was not calibrated on",
            tuple(columns),
            tuple(rows),
        )


@dataclass(frozen=True)
class _Pictures:
    """Decoded images: uint8 (N, S, S, 3), which they are, and those that failed."""

    items: list[ImageItem]
    pixels: NDArray[np.uint8]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class _References:
    """What to compare with: the teacher's vectors, of which held-out images, and the classes."""

    teacher: NDArray[np.floating] | None
    rows: NDArray[np.intp]
    text: TextEmbeddings | None


def quantize(
    student: Path,
    images: Path,
    out: Path,
    /,
    *,
    calibration_images: int = 512,
    calibration: Calibration = CALIBRATION,
    text: Path | None = None,
    embeddings: Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    num_workers: int | None = None,
    device: str = "auto",
    arch: str | None = None,
    image_size: int | None = None,
) -> QuantizeResult:
    """Make a finished student INT8 without training, calibrated on a folder of images.

    The weights become INT8 per channel; the ranges of the activations come from the images, a fifth
    of which (500 at most) is held out to measure what it cost.  Where that is not nothing, training
    with `distill --qat` can recover some of it.  A 2:4 sparse student stays sparse.

    Args:
        student: a student's folder or checkpoint (.pth), dense or sparse, in floating point.
        images: folder of images like those that it will see.
        out: folder for the INT8 student.
        calibration_images: how many show the ranges.
        calibration: what of them is the range: max, percentile (the 99.99th) or entropy.
        text: text embeddings from `clipdistill embed-text`: also measure how often the label
            changes.
        embeddings: the teacher's embeddings of the same folder: also measure how near the student
            is to the teacher, before and after.
        batch_size: images per forward pass.
        seed: of the choice of images.
        num_workers: threads for decoding; one a processor unless given.
        device: auto, cpu, cuda ...
        arch: timm's model name, only for checkpoints that do not tell (the older scripts').
        image_size: side of the input in pixels, only for checkpoints that do not contain it.

    Raises:
        InputError: no such student, it is quantised already, it cannot be INT8, or there are too
            few images.
        MismatchError: text or embeddings are another teacher's, or the student is of another
            architecture or image size than was given.
        OutputError: `out` holds another student, or another process is writing to it.
        MissingExtraError: ModelOpt is not installed.
    """
    start = time.monotonic()
    student, images, out = Path(student), Path(images), Path(out)
    if calibration_images < 1 or batch_size < 1:
        raise OptionError("--calibration-images and --batch-size should be 1 or more.")
    card, embedder = _open(student, arch, image_size, device)
    with locked(out, "quantize"):
        _check_out(out, student)
        workers = default_workers() if num_workers is None else num_workers
        shown, held = _choose(list_images(images), calibration_images, seed)
        measured = _load(held, card, workers)
        references = _references(embedder, measured, text, embeddings)
        calibrating = _load(shown, card, workers)
        if not len(calibrating.items) or not len(measured.items):
            raise InputError(
                f"{images}: too few of its images can be read to calibrate and measure."
            )

        before = _embed(embedder, measured.pixels, batch_size)
        done = _calibrate(embedder, card, calibrating.pixels, calibration, batch_size)
        after = _embed(embedder, measured.pixels, batch_size)
        states = tuple(
            _measure(state, vectors, before, references)
            for state, vectors in (("before", before), ("calibrated", after))
        )
        settings = {
            "from": origin(student),
            "calibration_images": len(calibrating.items),
            "calibration": calibration,
            "held_out": len(measured.items),
            "cosine": states[1].cosine,
        }
        new = replace(
            card, compression=done.compression, training={**card.training, "quantized": settings}
        )
        _save(out, new, done.network, calibrating.pixels[:SAMPLE_IMAGES])
        return QuantizeResult(
            out=out,
            arch=card.arch,
            compression=done.compression,
            held_out=len(measured.items),
            states=states,
            worst_cosine=float(metrics.cosines(after, before).min()),
            failures=(*calibrating.failures, *measured.failures),
            seconds=time.monotonic() - start,
        )


def _open(
    student: Path, arch: str | None, image_size: int | None, device: str
) -> tuple[StudentCard, TorchEmbedder]:
    """Load the student.

    Raises:
        InputError: there is none, or it is quantised already.
        MismatchError: it is of another architecture or image size than was given.
    """
    from ..models.student import check_description, load_student
    from .fine_tuning import already_quantized

    card, embedder = load_student(
        student, arch=arch, image_size=image_size, device=device, precision="fp32"
    )
    check_description(card, student, arch=arch, image_size=image_size)
    if card.compression is not None and card.compression.int8 is not None:
        raise InputError(already_quantized(student))
    return card, embedder


def _check_out(out: Path, student: Path) -> None:
    """Refuse to write over anything but an earlier result of `quantize`.

    Raises:
        OutputError: `out` is the student itself, or holds a student that was trained.
    """
    same = out.exists() and out.resolve() in (student.resolve(), student.resolve().parent)
    trained = (out / CHECKPOINT).exists()
    if not same and not trained and is_student(out):
        trained = "quantized" not in load_card(out).training
    if same or trained:
        raise OutputError(
            f"{out} holds a student that was trained; it would be lost. Choose another folder for "
            "the INT8 student."
        )


def _choose(
    items: Sequence[ImageItem], count: int, seed: int
) -> tuple[list[ImageItem], list[ImageItem]]:
    """Split images into (to calibrate on, to measure on), by a hash of their names.

    Raises:
        InputError: fewer than two.
    """
    from .batches import split_rows

    if len(items) < 2:
        raise InputError(
            f"{len(items)} image is not enough to calibrate on some and measure on others. Add "
            "images: some hundred that look like those that the classifier will see."
        )
    fraction = min(max(HELD_OUT, 1 / len(items)), MOST_HELD_OUT / len(items), 0.5)
    rest, held = split_rows([item.key for item in items], fraction, seed)
    shown = np.sort(np.random.default_rng((seed, len(items))).permutation(rest)[:count])
    return [items[row] for row in shown], [items[row] for row in held]


def _load(items: list[ImageItem], card: StudentCard, workers: int) -> _Pictures:
    good: list[ImageItem] = []
    pixels: list[NDArray[np.uint8]] = []
    failures: list[Failure] = []
    with track("read", len(items), "images") as step:
        for one in load_pixels(items, card.preprocess, workers=workers):
            if one.pixels is None:
                failures.append(Failure(one.item.key, one.reason))
            else:
                good.append(one.item)
                pixels.append(one.pixels)
            step(1)
    side = card.preprocess.size
    stacked = np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)
    return _Pictures(good, stacked, tuple(failures))


def _references(
    embedder: Embedder, measured: _Pictures, text: Path | None, embeddings: Path | None
) -> _References:
    """Load what the student is compared with.

    Raises:
        InputError: no image has an embedding.
        MismatchError: text or embeddings are another teacher's.
    """
    classes = None if text is None else load_text(text)
    if classes is not None:
        embedder.spec.check_space(classes.teacher, text)
    if embeddings is None:
        return _References(None, np.array([], np.intp), classes)
    stored = load_embeddings(embeddings)
    embedder.spec.check_space(stored.teacher, embeddings)
    keys = [item.key for item in measured.items]
    found = match_rows(stored, keys)
    rows = np.array([row for row, key in enumerate(keys) if key in found], np.intp)
    if not len(rows):
        raise InputError(
            f"None of the {len(keys)} held-out images has an embedding in {embeddings}. Give the "
            "embeddings of that folder, or run `clipdistill embed`."
        )
    vectors = stored.mapped[[found[keys[row]] for row in rows]]
    return _References(vectors, rows, classes)


def _calibrate(
    embedder: TorchEmbedder,
    card: StudentCard,
    pixels: NDArray[np.uint8],
    calibration: Calibration,
    batch_size: int,
) -> Compressed:
    """Make the embedder's network INT8 in place, its ranges taken from `pixels`."""
    from ..models.compression import Compressed, add_int8

    return add_int8(
        Compressed(embedder.module, card.compression or Compression()),
        card.preprocess.size,
        card.arch,
        _batches(embedder, pixels, batch_size),
        len(pixels),
        calibration,
    )


def _batches(
    embedder: TorchEmbedder, pixels: NDArray[np.uint8], size: int
) -> Iterator[torch.Tensor]:
    import torch

    from ..models.torch_embedder import memory_layout, to_input

    with track("calibrate", len(pixels), "images") as step:
        for start in range(0, len(pixels), size):
            some = torch.from_numpy(pixels[start : start + size]).to(embedder.device)
            inputs = to_input(some, embedder.spec.preprocess)
            yield inputs.contiguous(memory_format=memory_layout(embedder.module))
            step(len(some))


def _embed(embedder: Embedder, pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    parts = [
        embedder.embed_pixels(pixels[start : start + size]) for start in range(0, len(pixels), size)
    ]
    return np.concatenate(parts)


def _measure(
    state: str,
    vectors: NDArray[np.float32],
    before: NDArray[np.float32],
    references: _References,
) -> QuantizedState:
    teacher, text = references.teacher, references.text
    return QuantizedState(
        state=state,
        cosine=metrics.mean_cosine(vectors, before),
        teacher_cosine=None
        if teacher is None
        else metrics.mean_cosine(vectors[references.rows], teacher),
        same_label=None
        if text is None
        else metrics.agreement(vectors @ text.vectors.T, before @ text.vectors.T),
    )


def _save(
    out: Path, card: StudentCard, network: torch.nn.Module, samples: NDArray[np.uint8]
) -> None:
    save_weights(out, {name: value.cpu() for name, value in network.state_dict().items()})
    save_samples(out, samples)
    save_card(out, card)
