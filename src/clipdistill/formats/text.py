"""Text embeddings: `NAME.npy` (C, D) and beside it `NAME.json`, which describes them."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, MismatchError
from ..core.files import (
    atomic_path,
    check_format,
    describing,
    read_array,
    read_json,
    sha256_of,
    write_json,
)
from ..core.results import from_json
from ..core.wording import many
from ..core.zeroshot import Calibration, Independent, Logits, LogitScale, moved_along, normalized
from ..images.preprocess import Preprocess
from .cards import TeacherCard, last_name, shipped_name

FORMAT = "clipdistill.text_embeddings"
VERSION = 1
ALIKE = 0.98
"""Cosine of two labels' embeddings above which a teacher hardly separates them."""
MOST_PAIRS = 1000
"""Most pairs of such labels that are listed."""
COMPARED = 1 << 22
"""Pairs of labels that are compared at a time."""


@dataclass(frozen=True)
class Adaptation:
    """Record of the class vectors that `adapt` fitted to a pool of images.

    Attributes:
        text: float32 (C, D) of unit length, the class vectors of the text.
        shift: float32 (D,), the movement from texts to images that the classes have in common;
            zero where the class vectors of the text were kept.
        pool: embeddings of the pool.
        teacher: name of the teacher that made them.
        method: name of the method.
        rounds: number of rounds.
        images: number of images of the pool nearest to each class vector, in label order.
        refused: labels that are nearest to no image; their class vectors have only the shift.
        left_out: number of rows of the pool that were NaN, infinite or zero.
        changed: share of the images whose label changed, 0 to 1.
        kept_text: reason why the class vectors of the text were kept; empty where they were not.
        student: student whose embeddings were used as well; empty: only the teacher's.
    """

    text: NDArray[np.float32]
    shift: NDArray[np.float32]
    pool: str
    teacher: str
    method: str
    rounds: int
    images: tuple[int, ...]
    refused: tuple[str, ...]
    left_out: int
    changed: float
    kept_text: str = ""
    student: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; arrays as base64 of float32, little-endian."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **values,
            "pool": last_name(self.pool),
            "teacher": shipped_name(self.teacher),
            "student": last_name(self.student),
            "text": _to_base64(self.text),
            "shift": _to_base64(self.shift),
            "images": list(self.images),
            "refused": list(self.refused),
        }

    @classmethod
    def from_json(cls, value: Any, shape: tuple[int, int]) -> Adaptation | None:
        """Invert `to_json` for class vectors of `shape`; None gives None.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or wrong.
        """
        if value is None:
            return None
        result = cls(
            text=normalized(_from_base64(value["text"], shape)),
            shift=_from_base64(value["shift"], shape[1:]),
            pool=str(value["pool"]),
            teacher=str(value["teacher"]),
            method=str(value["method"]),
            rounds=int(value["rounds"]),
            images=tuple(int(count) for count in value["images"]),
            refused=tuple(str(label) for label in value["refused"]),
            left_out=int(value["left_out"]),
            changed=float(value["changed"]),
            kept_text=str(value["kept_text"]),
            student=str(value["student"]),
        )
        if len(result.images) != shape[0] or not 0 <= result.changed <= 1:
            raise ValueError(f"an adaptation of {len(result.images)} classes")
        return result


def _to_base64(values: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _from_base64(text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError("an adaptation that is not finite")
    return values.astype(np.float32)


@dataclass(frozen=True)
class TextEmbeddings:
    """Class vectors in a teacher's embedding space, with their labels.

    Attributes:
        vectors: float32 (C, D) of unit length.
        labels: C labels.
        prompts: the prompts of each label, whose embeddings were averaged.
        templates: the templates that each prompt was put into.
        teacher: teacher whose text tower made the vectors.
        calibration: calibration of a student, from `evaluate --calibrate`; None: the teacher's own
            logit scale.
        adaptation: record of `adapt`, which fitted the vectors to a pool; None: the text's own.
        independent: probabilities of the teacher for each class on its own; None: every image has
            one label.
    """

    vectors: NDArray[np.float32]
    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    teacher: TeacherCard
    calibration: Calibration | None = None
    adaptation: Adaptation | None = None
    independent: Independent | None = None

    @property
    def logits(self) -> Logits:
        """What turns a student's cosines into probabilities."""
        if self.independent is None:
            return self.single_logits
        own = None if self.calibration is None else self.calibration.independent
        return self.independent if own is None else own

    @property
    def single_logits(self) -> LogitScale:
        """The logit scale for a student's cosines where every image has one label."""
        return self.teacher.logits if self.calibration is None else self.calibration.logits

    @property
    def teacher_logits(self) -> Logits:
        """What turns the teacher's cosines into probabilities."""
        return self.teacher.logits if self.independent is None else self.independent

    @property
    def threshold(self) -> float:
        """Probability of the best label below which the answer is "unknown"; 0: never."""
        return 0.0 if self.calibration is None else self.calibration.threshold

    def overlapping(
        self, also: NDArray[np.intp] | None = None
    ) -> tuple[tuple[str, str, float], ...]:
        """Return the pairs of labels that the teacher hardly separates, at most `MOST_PAIRS`.

        Args:
            also: int (P, 2), indices of further pairs, the smaller first.

        Returns:
            (label, label, cosine), the nearest first.
        """
        count = len(self.labels)
        near = np.empty(0, np.float32)
        pairs = np.empty((0, 2), np.intp)
        rows = max(1, COMPARED // max(1, count))
        for start in range(0, count, rows):
            cosines = self.vectors[start : start + rows] @ self.vectors.T
            alike = cosines > ALIKE
            if also is not None:
                mine = also[(also[:, 0] >= start) & (also[:, 0] < start + rows)]
                alike[mine[:, 0] - start, mine[:, 1]] = True
            found = np.argwhere(np.triu(alike, k=start + 1))
            near = np.concatenate([near, cosines[found[:, 0], found[:, 1]]])
            pairs = np.concatenate([pairs, found + np.array([start, 0])])
            nearest = np.argsort(-near, kind="stable")[:MOST_PAIRS]
            near, pairs = near[nearest], pairs[nearest]
        return tuple(
            (self.labels[i], self.labels[j], cosine)
            for (i, j), cosine in zip(pairs.tolist(), near.tolist(), strict=True)
        )

    def beside(self, text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shift class vectors (n, D) of other labels, so that they fit the vectors of these labels.

        Class vectors that were fitted to images are nearer to all images than those of a text, so
        the class vector of a label that is added later needs the same shift.
        """
        if self.adaptation is None:
            return text
        return moved_along(text, self.adaptation.shift)

    def for_labels(self, labels: tuple[str, ...], vectors: NDArray[np.float32]) -> TextEmbeddings:
        """Return text embeddings of other labels with `vectors` (n, D), made to fit these.

        Labels that are in both keep prompts and probabilities; `Independent.for_labels` has the
        probabilities of the others.
        """
        prompts = dict(zip(self.labels, self.prompts, strict=True))
        own, calibration = self.independent, self.calibration
        if own is not None:
            own = own.for_labels(self.labels, labels)
        if calibration is not None and calibration.independent is not None:
            student = calibration.independent.for_labels(self.labels, labels)
            calibration = replace(calibration, independent=student)
        return replace(
            self,
            vectors=vectors,
            labels=labels,
            prompts=tuple(prompts.get(label, (label,)) for label in labels),
            calibration=calibration,
            adaptation=None,
            independent=own,
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything but the vectors, as plain JSON values for a file that is passed on.

        Folders and files have names instead of places.
        """
        values: dict[str, Any] = {
            "labels": list(self.labels),
            "prompts": [list(prompts) for prompts in self.prompts],
            "templates": list(self.templates),
            "teacher": self.teacher.shipped().to_json(),
        }
        if self.calibration is not None:
            values["calibration"] = _shipped_calibration(self.calibration)
        if self.independent is not None:
            values["independent"] = _shipped_independent(self.independent)
        if self.adaptation is not None:
            values["adaptation"] = self.adaptation.to_json()
        return values

    @classmethod
    def from_json(cls, value: Any, vectors: NDArray[np.float32]) -> TextEmbeddings:
        """Invert `to_json`.

        Raises:
            FormatError: a field is missing, or the counts do not agree.
        """
        try:
            result = cls(
                vectors=vectors,
                labels=tuple(str(label) for label in value["labels"]),
                prompts=tuple(tuple(str(p) for p in prompts) for prompts in value["prompts"]),
                templates=tuple(str(template) for template in value["templates"]),
                teacher=TeacherCard.from_json(value["teacher"]),
                calibration=_calibration(value.get("calibration")),
                adaptation=Adaptation.from_json(value.get("adaptation"), vectors.shape),
                independent=_independent(value.get("independent")),
            )
            _check_counts(result)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"text embeddings cannot be read: {error!r}") from error
        if vectors.shape != (len(result.labels), result.teacher.dim):
            raise FormatError(
                f"text embeddings: expected {len(result.labels)} labels of {result.teacher.dim} "
                f"dimensions, found an array of shape {vectors.shape}"
            )
        return result


def _shipped_calibration(found: Calibration) -> dict[str, Any]:
    """A calibration as plain values; "independent" only where there is one."""
    values = asdict(replace(found, model=last_name(found.model), independent=None))
    del values["independent"]
    if found.independent is not None:
        values["independent"] = _shipped_independent(found.independent)
    return values


def _shipped_independent(found: Independent) -> dict[str, Any]:
    values: dict[str, Any] = asdict(replace(found, source=last_name(found.source)))
    return values


def _independent(value: Any) -> Independent | None:
    return None if value is None else from_json(Independent, value)


def _check_counts(text: TextEmbeddings) -> None:
    """Check that there is a probability for each label.

    Raises:
        ValueError: there are more or fewer.
    """
    student = None if text.calibration is None else text.calibration.independent
    for found in (text.independent, student):
        if found is not None and len(found.scales) != len(text.labels):
            raise ValueError(
                f"independent probabilities of {len(found.scales)} classes for "
                f"{len(text.labels)} labels"
            )


def _calibration(value: Any) -> Calibration | None:
    if value is None:
        return None
    found = from_json(Calibration, value)
    shares = (found.threshold, found.ece_before, found.ece_after, found.coverage)
    finite = math.isfinite(found.logits.scale) and math.isfinite(found.logits.bias or 0.0)
    if not finite or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"a calibration with {found.logits} and shares {shares}")
    return found


def pair_of(path: Path) -> tuple[Path, Path]:
    """Return the `.npy` and the `.json`, given one of them or their common stem."""
    path = path if path.suffix in (".npy", ".json") else path.with_name(path.name + ".npy")
    return path.with_suffix(".npy"), path.with_suffix(".json")


def text_path(path: Path) -> Path:
    """Return the `.npy` that `save_text` writes for `path`."""
    return path if path.suffix == ".npy" else path.with_name(path.name + ".npy")


def is_prompts_file(path: Path) -> bool:
    """Whether a path is a file that is no part of text embeddings, nor their common stem."""
    part = path.suffix in (".npy", ".json") or pair_of(path)[0].is_file()
    return path.is_file() and not part


def save_text(path: Path, text: TextEmbeddings) -> Path:
    """Write the pair of files; return the path of the `.npy`."""
    path = text_path(path)
    with atomic_path(path) as temporary:
        np.save(temporary, text.vectors)
    head = {"format": FORMAT, "version": VERSION, "npy_sha256": sha256_of(path)}
    write_json(path.with_suffix(".json"), {**head, **text.to_json()})
    return path


def load_text(path: Path, labels: tuple[str, ...] = ()) -> TextEmbeddings:
    """Load text embeddings, given one of the two files or their common stem.

    A `.npy` without a `.json`, as the older scripts wrote it, gets the given `labels`, otherwise
    numbers, and CLIP's usual logit scale.

    Raises:
        InputError: there is no such file, or it is another kind of file.
        FormatError: it cannot be read, or the two files are not a pair.
        MismatchError: `labels` are given, but their number differs.
    """
    if is_prompts_file(path):
        raise InputError(
            f"{path}: expected text embeddings (.npy), found another file. Make them of prompts "
            f"with: clipdistill embed-text {path} TEXT.npy"
        )
    array_path, card_path = pair_of(path)
    vectors = load_matrix(array_path)
    if not card_path.is_file():
        return _bare(array_path, vectors, labels)
    card = read_json(card_path, "the text embeddings' description")
    check_format(card_path, card, FORMAT, VERSION)
    if card.get("npy_sha256") != sha256_of(array_path):
        raise FormatError(
            f"{array_path} and {card_path} do not belong together: one was replaced or truncated. "
            "Make them again with: clipdistill embed-text"
        )
    with describing(card_path):
        return TextEmbeddings.from_json(card, vectors)


def load_matrix(path: Path) -> NDArray[np.float32]:
    """Load a (N, D) `.npy` of finite floats and give its rows unit length; never unpickles.

    Raises:
        InputError: there is no such file.
        FormatError: it is truncated, no two-dimensional array of floats, or not finite.
    """
    remedy = "Make the text embeddings again with: clipdistill embed-text"
    try:
        array = read_array(path)
    except InputError as error:
        raise InputError(
            f"{path}: there are no such text embeddings. Make them with: clipdistill embed-text"
        ) from error
    except FormatError as error:
        raise FormatError(f"{error} {remedy}") from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind != "f":
        raise FormatError(
            f"{path}: expected floats (labels, dimension), found {array.dtype} {array.shape}. "
            f"{remedy}"
        )
    if not np.isfinite(array).all():
        raise FormatError(f"{path}: it has values that are not finite (NaN). {remedy}")
    return normalized(array)


def _bare(path: Path, vectors: NDArray[np.float32], labels: tuple[str, ...]) -> TextEmbeddings:
    if not labels:
        labels = tuple(str(index) for index in range(len(vectors)))
    if len(labels) != len(vectors):
        raise MismatchError(
            f"{path} has {many(len(vectors), 'text embedding')}, but the prompts file has "
            f"{many(len(labels), 'prompt')}. Give the prompts file that it was made from."
        )
    unknown = TeacherCard(
        model_name="unknown",
        pretrained="",
        fingerprint=None,
        dim=vectors.shape[1],
        logits=LogitScale(),
        preprocess=Preprocess(224),
    )
    return TextEmbeddings(vectors, labels, tuple((label,) for label in labels), ("{}",), unknown)
