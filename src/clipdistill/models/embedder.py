"""The interface that all models share: an Embedder turns images into embeddings.

Teachers, students in PyTorch, ONNX files in any runtime and TensorRT engines are Embedders, so
predict, evaluate and benchmark work with, and compare, all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MismatchError
from ..formats.cards import TeacherCard
from ..formats.text import TextEmbeddings
from ..images.preprocess import Preprocess


@dataclass(frozen=True)
class EmbedderSpec:
    """Description of an Embedder.

    Attributes:
        name: file, folder or model name, for tables and messages.
        runtime: "torch", "onnxruntime", "openvino", "tensorrt" or "litert".
        role: "teacher" or "student".
        teacher: teacher that defines its embedding space; None when unknown (older checkpoints).
        dim: dimension of an embedding.
        preprocess: preprocessing that turns an image into its input.
        size_bytes: size of its weights on disk (or in memory, for a teacher from a hub).
        arch: timm's name of the network; empty when unknown.
        precision: precision of the computation: "fp32", "fp16", "bf16", "int8", "int8+fp16"; empty
            when unknown.
        device: device it runs on; empty when unknown.
    """

    name: str
    runtime: str
    role: str
    teacher: TeacherCard | None
    dim: int
    preprocess: Preprocess
    size_bytes: int
    arch: str = ""
    precision: str = ""
    device: str = ""

    def check_space(self, other: TeacherCard, what: object) -> None:
        """Check that `other`, the teacher of `what`, defines this Embedder's embedding space.

        Raises:
            MismatchError: it is another teacher, or the dimensions differ.
        """
        if self.teacher is not None:
            self.teacher.check_same(other, self.name, what)
        elif self.dim != other.dim:
            raise MismatchError(
                f"{self.name} gives embeddings of {self.dim} dimensions, but {what} has "
                f"{other.dim}. Use the text embeddings of the teacher it was trained with."
            )


class Embedder(Protocol):
    """A model that turns images into embeddings."""

    @property
    def spec(self) -> EmbedderSpec:
        """Description of the model: name, runtime, teacher, preprocessing."""

    def embed_images(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed normalised float32 (N, 3, H, W); returns float32 (N, D) of unit length."""

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed resized and cropped uint8 (N, H, W, 3); returns float32 (N, D) of unit length."""


@runtime_checkable
class Classifier(Embedder, Protocol):
    """An Embedder whose file can also contain classes."""

    @property
    def text(self) -> TextEmbeddings | None:
        """Classes in the file; None for a bare embedder."""

    def classify_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file's own head: uint8 (N, H, W, 3) -> probabilities float32 (N, C).

        Raises:
            InputError: the file has no classes.
        """


def carried_text(embedder: Embedder) -> TextEmbeddings | None:
    """Return the classes in the Embedder's own file, if any."""
    return embedder.text if isinstance(embedder, Classifier) else None
