"""Text embeddings: `NAME.npy` (C, D) and beside it `NAME.json` that says what they are."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass, fields
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
from ..core.zeroshot import Calibration, LogitScale, moved_along, normalized
from ..images.preprocess import Preprocess
from .cards import TeacherCard

FORMAT = "clipdistill.text_embeddings"
VERSION = 1
ALIKE = 0.98
"""Cosine of two labels' embeddings above which a teacher hardly tells them apart."""


@dataclass(frozen=True)
class Adaptation:
    """Where class vectors come from that `adapt` learnt, and what they were before.

    Attributes:
        text: float32 (C, D), the text vectors, of unit length.
        shift: float32 (D,), the movement from texts to images that the classes have in common;
            zero where text was kept.
        pool: the embeddings it was learnt from.
        teacher: who made them, for people.
        method: its name.
        rounds: how many.
        images: images of the pool nearest to each class vector, in the labels' order.
        refused: the labels that no image was nearest to; they only moved with the others.
        left_out: rows of the pool that were NaN, infinite or zero.
        changed: share of the images that got another label than the text gave them, 0 to 1.
        kept_text: why the pool was refused as a whole and the vectors are the text's; empty: it
            was not.
        student: whose own embeddings took part; empty: the teacher's alone.
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
        """As plain JSON values; arrays as base64 of float32, little-endian."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **values,
            "text": _to_base64(self.text),
            "shift": _to_base64(self.shift),
            "images": list(self.images),
            "refused": list(self.refused),
        }

    @classmethod
    def from_json(cls, value: Any, shape: tuple[int, int]) -> Adaptation | None:
        """The inverse of `to_json` for text vectors of `shape`; None of None.

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
    """A class list in a teacher's embedding space.

    Attributes:
        vectors: float32 (C, D), L2-normalised.
        labels: C names.
        prompts: for each label the prompts that were averaged.
        templates: the templates each prompt was put into.
        teacher: whose text tower made them.
        calibration: fitted for a student by `evaluate --calibrate`; None: the teacher's own scale.
        adaptation: how `adapt` learnt the vectors from a pool; None: they are the text's.
    """

    vectors: NDArray[np.float32]
    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    teacher: TeacherCard
    calibration: Calibration | None = None
    adaptation: Adaptation | None = None

    @property
    def logits(self) -> LogitScale:
        """What turns a student's cosines into logits."""
        return self.teacher.logits if self.calibration is None else self.calibration.logits

    @property
    def threshold(self) -> float:
        """Probability below which a student's answer is "unknown"; 0: never."""
        return 0.0 if self.calibration is None else self.calibration.threshold

    def overlapping(
        self, also: NDArray[np.bool_] | None = None
    ) -> tuple[tuple[str, str, float], ...]:
        """Pairs of labels that the teacher hardly tells apart, and their cosine, nearest first.

        `also`: bool (C, C), further pairs, above the diagonal.
        """
        cosines = self.vectors @ self.vectors.T
        near = cosines > ALIKE
        pairs = np.argwhere(np.triu(near if also is None else near | also, k=1))
        found = [(self.labels[i], self.labels[j], float(cosines[i, j])) for i, j in pairs]
        return tuple(sorted(found, key=lambda pair: -pair[2]))

    def beside(self, text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Text vectors (n, D) of other labels, made to stand beside these in one class list.

        Class vectors that were learnt from images lie nearer to all images than text vectors do, so
        a label that is added later has to move as the others did.
        """
        if self.adaptation is None:
            return text
        return moved_along(text, self.adaptation.shift)

    def to_json(self) -> dict[str, Any]:
        """Everything but the vectors, as plain JSON values."""
        values: dict[str, Any] = {
            "labels": list(self.labels),
            "prompts": [list(prompts) for prompts in self.prompts],
            "templates": list(self.templates),
            "teacher": self.teacher.to_json(),
        }
        if self.calibration is not None:
            values["calibration"] = asdict(self.calibration)
        if self.adaptation is not None:
            values["adaptation"] = self.adaptation.to_json()
        return values

    @classmethod
    def from_json(cls, value: Any, vectors: NDArray[np.float32]) -> TextEmbeddings:
        """The inverse of `to_json`.

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
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"text embeddings cannot be read: {error!r}") from error
        if vectors.shape != (len(result.labels), result.teacher.dim):
            raise FormatError(
                f"text embeddings: {len(result.labels)} labels of {result.teacher.dim} dimensions "
                f"expected, found an array of shape {vectors.shape}"
            )
        return result


def _calibration(value: Any) -> Calibration | None:
    if value is None:
        return None
    scale, bias = float(value["logits"]["scale"]), value["logits"]["bias"]
    logits = LogitScale(scale, None if bias is None else float(bias))
    shares = [float(value[name]) for name in ("threshold", "ece_before", "ece_after", "coverage")]
    finite = math.isfinite(scale) and math.isfinite(logits.bias or 0.0)
    if not finite or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"a calibration with scale {scale} and shares {shares}")
    if value["method"] not in ("teacher", "labels"):
        raise ValueError(f"a calibration fitted to {value['method']!r}")
    return Calibration(
        logits=logits,
        threshold=shares[0],
        method=value["method"],
        model=str(value["model"]),
        images=int(value["images"]),
        ece_before=shares[1],
        ece_after=shares[2],
        coverage=shares[3],
    )


def pair_of(path: Path) -> tuple[Path, Path]:
    """The `.npy` and the `.json` of text embeddings, given either or their common stem."""
    path = path if path.suffix in (".npy", ".json") else path.with_name(path.name + ".npy")
    return path.with_suffix(".npy"), path.with_suffix(".json")


def save_text(path: Path, text: TextEmbeddings) -> Path:
    """Write the pair of files; returns the path of the `.npy`."""
    path = path if path.suffix == ".npy" else path.with_name(path.name + ".npy")
    with atomic_path(path) as temporary:
        np.save(temporary, text.vectors)
    head = {"format": FORMAT, "version": VERSION, "npy_sha256": sha256_of(path)}
    write_json(path.with_suffix(".json"), {**head, **text.to_json()})
    return path


def load_text(path: Path, labels: tuple[str, ...] = ()) -> TextEmbeddings:
    """Load text embeddings, given either of the two files or their common stem.

    A bare `.npy` (as the older scripts wrote it) needs `labels` and gets CLIP's usual logit scale.

    Raises:
        InputError: no such file.
        FormatError: it cannot be read, or the two files are not a pair.
        MismatchError: `labels` are given but their number differs.
    """
    array_path, card_path = pair_of(path)
    vectors = load_matrix(array_path)
    if not card_path.is_file():
        return _bare(array_path, vectors, labels)
    card = read_json(card_path, "the text embeddings' description")
    check_format(card_path, card, FORMAT, VERSION)
    if card.get("npy_sha256") != sha256_of(array_path):
        raise FormatError(
            f"{array_path} and {card_path} do not belong together (one was rewritten or cut "
            "short). Make them again with: clipdistill embed-text"
        )
    with describing(card_path):
        return TextEmbeddings.from_json(card, vectors)


def load_matrix(path: Path) -> NDArray[np.float32]:
    """Load a (N, D) `.npy` of finite floats, normalised to unit rows; never unpickles.

    Raises:
        InputError: no such file.
        FormatError: truncated, not an array of floats, not two-dimensional, NaN.
    """
    remedy = "Make the text embeddings again with: clipdistill embed-text"
    try:
        array = read_array(path)
    except InputError as error:
        raise InputError(
            f"{path}: no such text embeddings. Make them with: clipdistill embed-text"
        ) from error
    except FormatError as error:
        raise FormatError(f"{error} {remedy}") from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind != "f":
        raise FormatError(
            f"{path}: expected floats (labels, dimension), found {array.dtype} {array.shape}. "
            f"{remedy}"
        )
    if not np.isfinite(array).all():
        raise FormatError(f"{path}: contains values that are not finite. {remedy}")
    return normalized(array)


def _bare(path: Path, vectors: NDArray[np.float32], labels: tuple[str, ...]) -> TextEmbeddings:
    if not labels:
        labels = tuple(str(index) for index in range(len(vectors)))
    if len(labels) != len(vectors):
        raise MismatchError(
            f"{path} holds {len(vectors)} text embeddings, but {len(labels)} prompts were given. "
            "Give the prompts file it was made from."
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
