"""The cards of artefacts: teacher, student, preprocessing."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..core.errors import FormatError, MismatchError
from ..core.results import from_json
from ..core.zeroshot import LogitScale
from ..images.preprocess import Preprocess

PLACES = ("student_weights", "init_checkpoint", "prompts")
"""Options of a training that are paths."""
LONGEST_LICENSE = 64
"""Most characters of a licence's identifier; the rest of an untrusted text is cut off."""


def last_name(path: str) -> str:
    """Return the last component of a path, whatever system it is of; "" for ""."""
    if path in (".", "..") or path.endswith(("/.", "/..")):
        path = os.path.abspath(path)
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def shipped_name(teacher: str) -> str:
    """Return a teacher's name, "local-dir:" with the last component of the folder's path."""
    scheme, _, folder = teacher.partition(":")
    return f"local-dir:{last_name(folder)}" if scheme == "local-dir" else teacher


def shipped_training(training: dict[str, Any]) -> dict[str, Any]:
    """Return a student's training for a file that is passed on; see `StudentCard.to_json`."""
    value = dict(training)
    if isinstance(options := value.get("options"), dict):
        value["options"] = {
            name: last_name(one) if name in PLACES and isinstance(one, str) else one
            for name, one in options.items()
        }
    for row in ("best", "best_trained"):
        if isinstance(best := value.get(row), dict):
            value[row] = {name: one for name, one in best.items() if name != "images_per_second"}
    if isinstance(quantized := value.get("quantized"), dict) and "from" in quantized:
        value["quantized"] = {**quantized, "from": last_name(str(quantized["from"]))}
    return value


def _check_dim(dim: int) -> None:
    if not 1 <= dim <= 1 << 20:
        raise FormatError(f"the dimension of an embedding should be 1 to 1,048,576, found {dim}")


TEACHER_CONFIG, TEACHER_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
"""Files of a teacher's folder, in open_clip's format."""
MODEL_CARD = "README.md"
"""Model card in the format of Hugging Face."""


@dataclass(frozen=True)
class TeacherCard:
    """The teacher that defines an embedding space.

    Attributes:
        model_name: open_clip's name, "hf-hub:..." or "local-dir:...".
        pretrained: open_clip's weights tag or file; empty for hf-hub and local-dir.
        fingerprint: hexadecimal digest of the weights; None when unknown (files of the older
            scripts).
        dim: dimension of an embedding.
        logits: the teacher's own logit scale and bias.
        preprocess: preprocessing that its image tower expects.
        license: licence of its weights, an SPDX-like identifier; empty when unknown.
    """

    model_name: str
    pretrained: str
    fingerprint: str | None
    dim: int
    logits: LogitScale
    preprocess: Preprocess
    license: str = ""

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        bias = 0.0 if self.logits.bias is None else self.logits.bias
        if not (math.isfinite(self.logits.scale) and math.isfinite(bias)):
            raise FormatError(f"the teacher's logit scale and bias are not finite: {self.logits}")

    def __str__(self) -> str:
        weights = f"/{self.pretrained}" if self.pretrained else ""
        return f"{self.model_name}{weights} ({self.dim}-d)"

    def check_same(self, other: TeacherCard, here: object, there: object) -> None:
        """Check that two artefacts are of the same embedding space.

        Where a fingerprint is unknown (files of the older scripts), only the dimensions are
        compared.

        Raises:
            MismatchError: they are of different spaces; `here` and `there` name the artefacts.
        """
        known = self.fingerprint is not None and other.fingerprint is not None
        if self.dim != other.dim or (known and self.fingerprint != other.fingerprint):
            raise MismatchError(
                f"{here} was made with teacher {self}, but {there} with {other}: they are not in "
                "the same embedding space. Make both with the same teacher (--model-name and "
                "--pretrained)."
            )

    def shipped(self) -> TeacherCard:
        """Return the card for a file that is passed on: names of folders and files, not places."""
        name, pretrained = shipped_name(self.model_name), last_name(self.pretrained)
        return replace(self, model_name=name, pretrained=pretrained)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; "license" only where it is known."""
        known = {"license": self.license} if self.license else {}
        return known | {
            "model_name": self.model_name,
            "pretrained": self.pretrained,
            "fingerprint": self.fingerprint,
            "dim": self.dim,
            "logit_scale": self.logits.scale,
            "logit_bias": self.logits.bias,
            "preprocess": self.preprocess.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any) -> TeacherCard:
        """Invert `to_json`.

        Raises:
            FormatError: a field is missing or of the wrong type.
        """
        try:
            bias = value.get("logit_bias")
            fingerprint = value["fingerprint"]
            scale = float(value["logit_scale"])
            return cls(
                model_name=str(value["model_name"]),
                pretrained=str(value["pretrained"]),
                fingerprint=None if fingerprint is None else str(fingerprint),
                dim=int(value["dim"]),
                logits=LogitScale(scale, None if bias is None else float(bias)),
                preprocess=Preprocess.from_json(value["preprocess"]),
                license=str(value.get("license", ""))[:LONGEST_LICENSE],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"the teacher's card cannot be read: {error!r}") from error


@dataclass(frozen=True)
class Sparsity:
    """2:4 sparsity of a student: of any four consecutive input channels, two weights are zero.

    Attributes:
        method: how the weights that stay were chosen: "magnitude", "compensated" where they took
            over what the others did (SparseGPT), or "found" in a network that was sparse already.
        layers: names of the modules that have 2:4 weights.
        skipped: (name, reason) of the other convolutions and linear layers.
        weights_share: share of the network's weights in `layers`, 0 to 1; half of them are zero.
        macs_share: share of its multiplications in `layers`, 0 to 1; only these can become faster.
    """

    method: str
    layers: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    weights_share: float
    macs_share: float


@dataclass(frozen=True)
class Quantization:
    """INT8 quantisation of a student.

    Attributes:
        method: INT8 calibration of the activations: "max", "percentile" or "entropy".
        calibration_images: number of images of the INT8 calibration.
        trained: whether its weights were trained with the quantisers (QAT).
        layers: names of the modules whose weight and input are quantised.
        residuals: names of the quantisers of the shortcuts, one per residual add that has one.
        folded: names of the batch norms that were folded into the layer before them.
        skipped: (name, reason) of the layers that stay in floating point.
        quantizers: number of enabled quantisers: two per layer and one per quantised add.
        float_adds: number of residual adds that stay in floating point.
        clipped_share: share of the weights of `layers` that lie beyond the range of their channel,
            0 to 1: the ranges stay as they were calibrated while training moves the weights; None:
            unknown.
        clipped: (name, share) of the layers with such weights, the largest share first.
    """

    method: str
    calibration_images: int
    trained: bool
    layers: tuple[str, ...]
    residuals: tuple[str, ...]
    folded: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    quantizers: int
    float_adds: int = 0
    clipped_share: float | None = None
    clipped: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Compression:
    """Compression of a student.

    Attributes:
        sparse: its 2:4 sparsity; None for a dense student.
        int8: its quantisation; None for a student in floating point.
        merged: whether its branches are merged and its standardised weights computed; a compressed
            student alone is stored so, and trained so.
    """

    sparse: Sparsity | None = None
    int8: Quantization | None = None
    merged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value: dict[str, Any] = asdict(self)
        return value

    @classmethod
    def from_json(cls, value: Any) -> Compression:
        """Invert `to_json`.

        Raises:
            FormatError: a field is missing or of the wrong type.
        """
        try:
            return from_json(cls, value)
        except ValueError as error:
            raise FormatError(f"the student's compression cannot be read: {error}") from error


@dataclass(frozen=True)
class StudentCard:
    """Network, preprocessing and origin of a student.

    Attributes:
        arch: timm's model name.
        dim: dimension of its embedding, the teacher's.
        preprocess: preprocessing that it expects.
        teacher: teacher that it was trained with; None for a checkpoint of the older scripts.
        training: settings and results of the training, to be shown and for resuming.
        compression: compression of the network; None: a plain timm network.
    """

    arch: str
    dim: int
    preprocess: Preprocess
    teacher: TeacherCard | None
    training: dict[str, Any] = field(default_factory=dict)
    compression: Compression | None = None

    def __post_init__(self) -> None:
        _check_dim(self.dim)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for a file that is passed on.

        Folders and files have names instead of places, and nothing is in it that depends on the
        speed of the machine.  "compression" is there only where there is one.
        """
        value = {
            "arch": self.arch,
            "dim": self.dim,
            "preprocess": self.preprocess.to_json(),
            "teacher": None if self.teacher is None else self.teacher.shipped().to_json(),
            "training": shipped_training(self.training),
        }
        if self.compression is not None:
            value["compression"] = self.compression.to_json()
        return value

    @classmethod
    def from_json(cls, value: Any) -> StudentCard:
        """Invert `to_json`.

        Raises:
            FormatError: a field is missing or of the wrong type.
        """
        try:
            teacher, compression = value["teacher"], value.get("compression")
            return cls(
                arch=str(value["arch"]),
                dim=int(value["dim"]),
                preprocess=Preprocess.from_json(value["preprocess"]),
                teacher=None if teacher is None else TeacherCard.from_json(teacher),
                training=dict(value["training"]),
                compression=None if compression is None else Compression.from_json(compression),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"the student's card cannot be read: {error!r}") from error


Calibration = Literal["max", "percentile", "entropy"]
"""Methods of INT8 calibration.  The range of an activation is its largest magnitude, the 99.99th
percentile of its magnitudes, or the range with the least Kullback-Leibler divergence."""
