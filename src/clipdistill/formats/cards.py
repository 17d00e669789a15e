"""The cards that travel with artefacts: which teacher, which student, which preprocessing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..core.errors import FormatError, MismatchError
from ..core.results import from_json
from ..core.zeroshot import LogitScale
from ..images.preprocess import Preprocess

LONGEST_LICENSE = 64
"""Characters of a licence's identifier; what an untrusted file has more is cut off."""


def _check_dim(dim: int) -> None:
    if not 1 <= dim <= 1 << 20:
        raise FormatError(f"the dimension of an embedding should be 1 or more, found {dim}")


TEACHER_CONFIG, TEACHER_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
"""Files of a teacher's folder, in open_clip's own format."""
MODEL_CARD = "README.md"
"""A page about a model, as Hugging Face has it."""


@dataclass(frozen=True)
class TeacherCard:
    """Who made an embedding space.

    Attributes:
        model_name: open_clip's name, "hf-hub:..." or "local-dir:...".
        pretrained: open_clip's weights tag or file; empty for hf-hub and local-dir.
        fingerprint: hex digest of the weights; None when unknown (files of the older scripts).
        dim: length of an embedding.
        logits: the teacher's own logit scale and bias.
        preprocess: what its image tower expects.
        license: of its weights, an SPDX-like identifier; empty when unknown.
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
        """Check that two artefacts share one embedding space.

        Unknown fingerprints (the older scripts' files) are compared by dimension alone.

        Raises:
            MismatchError: they do not; `here` and `there` name the two artefacts.
        """
        known = self.fingerprint is not None and other.fingerprint is not None
        if self.dim != other.dim or (known and self.fingerprint != other.fingerprint):
            raise MismatchError(
                f"{here} was made with teacher {self}, but {there} with {other}: "
                "they do not live in the same embedding space. Make both with the same teacher "
                "(--model-name and --pretrained)."
            )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; "license" only where it is known."""
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
        """The inverse of `to_json`.

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
    """How a student's weights were made 2:4: of any four consecutive input channels, two are zero.

    Attributes:
        method: how the weights that stay were chosen: "magnitude".
        layers: names of the modules whose stored weights are 2:4.
        skipped: (name, reason) of the convolutions and linear layers that are not.
        weights_share: share of the network's weights that lie in `layers` (half of those are zero).
        macs_share: share of its multiplications that `layers` do: where hardware can gain at all.
    """

    method: str
    layers: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    weights_share: float
    macs_share: float


@dataclass(frozen=True)
class Quantization:
    """How a student was made INT8.

    Attributes:
        method: calibration of the activations: "max", "percentile" or "entropy".
        calibration_images: pictures it was calibrated on.
        trained: whether it was trained with quantisers in it afterwards (QAT).
        layers: names of the modules whose weight and input are quantised.
        residuals: names of the quantisers of the shortcuts, one a residual add.
        folded: names of the batch norms that were folded into the layer before them.
        skipped: (name, reason) of the layers that stay in floating point.
        quantizers: enabled quantisers: two a layer and one a residual add.
    """

    method: str
    calibration_images: int
    trained: bool
    layers: tuple[str, ...]
    residuals: tuple[str, ...]
    folded: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    quantizers: int


@dataclass(frozen=True)
class Compression:
    """How a student was compressed.

    Attributes:
        sparse: its 2:4 sparsity; None when dense.
        int8: its quantisation; None when in floating point.
    """

    sparse: Sparsity | None = None
    int8: Quantization | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        value: dict[str, Any] = asdict(self)
        return value

    @classmethod
    def from_json(cls, value: Any) -> Compression:
        """The inverse of `to_json`.

        Raises:
            FormatError: a field is missing or of the wrong type.
        """
        try:
            return from_json(cls, value)
        except ValueError as error:
            raise FormatError(f"the student's compression cannot be read: {error}") from error


@dataclass(frozen=True)
class StudentCard:
    """What a student is: enough to build it, feed it and know where it came from.

    Attributes:
        arch: timm's model name.
        dim: length of its embedding, the teacher's.
        preprocess: what it expects.
        teacher: whose embeddings it learnt; None for a bare checkpoint of the older scripts.
        training: the settings and what came out of them, for people and for resuming.
        compression: what was done to the network besides training; None: a plain timm network.
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
        """As plain JSON values; "compression" only where there is one."""
        value = {
            "arch": self.arch,
            "dim": self.dim,
            "preprocess": self.preprocess.to_json(),
            "teacher": None if self.teacher is None else self.teacher.to_json(),
            "training": self.training,
        }
        if self.compression is not None:
            value["compression"] = self.compression.to_json()
        return value

    @classmethod
    def from_json(cls, value: Any) -> StudentCard:
        """The inverse of `to_json`.

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
"""How the range of an activation is found: its largest magnitude, the 99.99th percentile of them,
or the range with the least Kullback-Leibler divergence."""
