"""ONNX files of `export`: the network, and in its metadata everything needed to use it.

    input          "input"          float32 (N, 3, S, S), preprocessed as in the card
    outputs        "probabilities"  float32 (N, C), the first output, of classifiers only
                   "embeddings"     float32 (N, D), unit length

    clipdistill.format           "clipdistill.onnx"
    clipdistill.version          "1"
    clipdistill.card             json: role, arch, dim, preprocess, teacher, training, target,
                                 precision, compression
    clipdistill.labels           json, of classifiers only: labels, prompts, templates, teacher,
                                 and the calibration if there is one
    clipdistill.text_embeddings  base64 of float32 little-endian (C, D), unit length
    clipdistill.temperature      logit = temperature * cosine + logit_bias, unless the labels have
                                 independent probabilities with scales and biases of their own
    clipdistill.logit_bias       only where the teacher is a sigmoid model (SigLIP)

Reading does not need the onnx package: ONNX Runtime gives the metadata as a dictionary.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, OutputError
from ..core.files import ensure_folder
from ..core.zeroshot import LogitScale, normalized
from ..images.preprocess import Preprocess
from .cards import Compression, TeacherCard, shipped_training
from .text import TextEmbeddings

FORMAT = "clipdistill.onnx"
VERSION = 1
PREFIX = "clipdistill."

Target = Literal["onnxruntime", "tensorrt"]
"""Runtime that a file was made for; files for TensorRT suit OpenVINO as well."""
FileTarget = Literal["onnxruntime", "tensorrt", "litert"]
"""What a file was made for; a LiteRT file has the metadata of an ONNX file (see `litert`)."""
FilePrecision = Literal["fp32", "fp16", "int8", "int8+fp16"]
"""Precision of a file; layers that are not in INT8 compute in FP32, unless FP16 is named."""

CLASSIFIER = "classifier.onnx"
"""Name of the classifier in the folder of a run, and in that of `export --target web`."""
OPSET = 17
"""Newest operator set that the TensorRT of every JetPack reads (8.5 and later)."""
INPUT = "input"
EMBEDDINGS = "embeddings"
PROBABILITIES = "probabilities"

MAX_FILE_BYTES = 2**31 - 1
"""Protobuf's limit for one message, and so for an ONNX file without external data."""
MAX_JSON = 64 << 20
"""Most characters of a json entry; 20,000 classes with 80 prompts each need far fewer."""
MAX_TEXT_VALUES = 1 << 26
"""Most numbers in the text matrix (256 MiB): 100,000 classes of 640 dimensions fit."""


@dataclass(frozen=True)
class OnnxCard:
    """Description of an ONNX file.

    Attributes:
        role: "student" or "teacher".
        arch: timm's name of the student, or the teacher's model name.
        dim: dimension of an embedding.
        preprocess: preprocessing that its input expects.
        teacher: teacher that defines its embedding space; None when unknown.
        training: summary of the student's training, to be shown.
        text: classes of a classifier; None for a file that only gives embeddings.
        target: runtime that it was made for.
        precision: precision that it computes in.
        compression: compression of the student; None: none.
    """

    role: str
    arch: str
    dim: int
    preprocess: Preprocess
    teacher: TeacherCard | None
    training: dict[str, Any] = field(default_factory=dict)
    text: TextEmbeddings | None = None
    target: FileTarget = "onnxruntime"
    precision: FilePrecision = "fp32"
    compression: Compression | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return the key-value texts for an ONNX file."""
        card = {
            "role": self.role,
            "arch": self.arch,
            "dim": self.dim,
            "preprocess": self.preprocess.to_json(),
            "teacher": None if self.teacher is None else self.teacher.shipped().to_json(),
            "training": shipped_training(self.training),
            "target": self.target,
            "precision": self.precision,
        }
        if self.compression is not None:
            card["compression"] = self.compression.to_json()
        values = {"format": FORMAT, "version": str(VERSION), "card": _dump(card)}
        if self.text is not None:
            vectors = np.ascontiguousarray(self.text.vectors, dtype="<f4")
            logits = self.text.single_logits
            values["labels"] = _dump(self.text.to_json())
            values["text_embeddings"] = base64.b64encode(vectors.tobytes()).decode("ascii")
            values["temperature"] = repr(logits.scale)
            if logits.bias is not None:
                values["logit_bias"] = repr(logits.bias)
        return {PREFIX + key: value for key, value in values.items()}

    @classmethod
    def from_metadata(cls, path: Path, metadata: Mapping[str, str]) -> OnnxCard:
        """Invert `to_metadata`; `path` names the file in messages.

        Raises:
            FormatError: `export` did not write the file, it is of a newer version, or its metadata
                is damaged.
        """
        values = {
            key.removeprefix(PREFIX): value
            for key, value in metadata.items()
            if key.startswith(PREFIX)
        }
        _check_kind(path, values)
        card = _parse(path, values, "card")
        try:
            teacher, compression = card["teacher"], card.get("compression")
            result = cls(
                role=str(card["role"]),
                arch=str(card["arch"]),
                dim=int(card["dim"]),
                preprocess=Preprocess.from_json(card["preprocess"]),
                teacher=None if teacher is None else TeacherCard.from_json(teacher),
                training=dict(card["training"]),
                text=_text(path, values) if "labels" in values else None,
                # Files of clipdistill 0.1 do not have these: all were FP32.
                target=card.get("target", "onnxruntime"),
                precision=card.get("precision", "fp32"),
                compression=None if compression is None else Compression.from_json(compression),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _damaged(path, f"the card cannot be read: {error!r}") from error
        except FormatError as error:
            raise _damaged(path, str(error)) from error
        if result.role not in ("student", "teacher") or result.dim < 1:
            raise _damaged(path, f"role {result.role!r} with {result.dim} dimensions")
        known = result.target in get_args(FileTarget)
        if not known or result.precision not in get_args(FilePrecision):
            raise _damaged(path, f"precision {result.precision!r} for {result.target!r}")
        if result.text is not None and result.text.vectors.shape[1] != result.dim:
            raise _damaged(path, f"text of {result.text.vectors.shape[1]} dimensions")
        return result


def check_output(out: Path, ending: str = ".onnx") -> None:
    """Check the output path of a command that makes an `.onnx` file or an engine.

    Raises:
        InputError: it does not end in `ending`, perhaps because the arguments are out of order.
        OutputError: it cannot be written.
    """
    if out.suffix.lower() != ending:
        raise InputError(
            f"{out}: the output should be named like classifier{ending}. "
            "Check that the arguments are in the right order."
        )
    ensure_folder(out.parent)
    if out.is_dir():
        raise OutputError(
            f"{out} should be a file, but a folder of that name is in the way. Choose another "
            "output, or move that folder."
        )


def _check_kind(path: Path, values: Mapping[str, str]) -> None:
    if values.get("format") != FORMAT:
        raise FormatError(
            f"{path}: this ONNX file has no clipdistill metadata (preprocessing, classes). Give a "
            "file that `clipdistill export` made."
        )
    version = values.get("version", "")
    if not version.isdecimal() or len(version) > 9 or int(version) > VERSION:
        raise FormatError(
            f"{path}: {FORMAT} version {version[:20]!r} is newer than this clipdistill reads "
            f"({VERSION}). Update clipdistill."
        )


def _damaged(path: Path, reason: str) -> FormatError:
    return FormatError(
        f"{path}: its metadata is damaged ({reason}). Make it again with: clipdistill export"
    )


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parse(path: Path, values: Mapping[str, str], key: str) -> dict[str, Any]:
    text = values.get(key, "")
    if len(text) > MAX_JSON:
        raise _damaged(path, f"{key} is {len(text):,} characters long")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{key} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"{key} should be an object, found {type(value).__name__}")
    return value


def _text(path: Path, values: Mapping[str, str]) -> TextEmbeddings:
    described = _parse(path, values, "labels")
    shape = (len(described["labels"]), TeacherCard.from_json(described["teacher"]).dim)
    vectors = _matrix(path, values.get("text_embeddings", ""), shape)
    text = TextEmbeddings.from_json(described, vectors)
    if len(text.prompts) != len(text.labels) or not text.labels:
        raise _damaged(path, f"{len(text.labels)} labels, {len(text.prompts)} lists of prompts")
    bias = values.get("logit_bias")
    found = LogitScale(float(values["temperature"]), None if bias is None else float(bias))
    if found != text.single_logits or not math.isfinite(found.scale):
        raise _damaged(
            path, f"temperature {found.scale} and bias {found.bias} differ from those of its labels"
        )
    return text


def _matrix(path: Path, text: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Decode base64 of float32 little-endian; the length is checked before anything is decoded."""
    count = shape[0] * shape[1]
    expected = 4 * ((4 * count + 2) // 3)
    if not 0 < count <= MAX_TEXT_VALUES or len(text) != expected:
        raise _damaged(path, f"text embeddings of shape {shape} in {len(text):,} characters")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _damaged(path, f"text embeddings are not base64: {error}") from error
    vectors = np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise _damaged(path, "text embeddings are not finite")
    return normalized(vectors)
