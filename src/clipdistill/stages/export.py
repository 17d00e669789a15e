"""export: a student (or a teacher's image tower) -> one ONNX file, checked against torch."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..embedder import EmbedderSpec
from ..errors import ClipDistillError, InputError
from ..files import atomic_path
from ..formats.classifier import EMBEDDINGS, INPUT, OnnxCard, check_output
from ..formats.student import load_samples
from ..formats.text import TextEmbeddings, load_text
from ..images.loading import load_one
from ..images.preprocess import Preprocess
from ..images.sources import list_images
from ..metrics import cosines
from ..progress import message
from ..results import Table, list_some
from ..runtime import OnnxEmbedder, kind_of, needs_training_extra, open_embedder

if TYPE_CHECKING:
    import torch

    from ..torch_embedder import TorchEmbedder

MIN_COSINE = 0.9999
"""Least cosine between torch's and ONNX Runtime's embedding of one picture."""
CHECK_PICTURES = 8
"""Pictures that are compared: the first one alone (batch 1), then all together."""
NOT_ENOUGH_READABLE = 64
"""Pictures of a folder that are tried before giving up on finding `CHECK_PICTURES`."""


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote.

    Attributes:
        out: the ONNX file.
        arch: the network in it.
        role: "student" or "teacher".
        dim: length of an embedding.
        image_size: side of the input in pixels.
        opset: of ONNX.
        labels: the classes it carries; empty for a bare embedder.
        size_mb: of the file, in 10^6 bytes.
        min_cosine: least cosine with torch's embedding of the same picture.
        checked_on: which pictures were compared.
        seconds: it took, without loading the model.
    """

    out: Path
    arch: str
    role: str
    dim: int
    image_size: int
    opset: int
    labels: tuple[str, ...]
    size_mb: float
    min_cosine: float
    checked_on: str
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        side = self.image_size
        lines: list[str | Table] = [
            f"{self.out}: {self.arch}, {self.dim}-d, {side}x{side} px, opset {self.opset}, "
            f"{self.size_mb:.1f} MB, {self.seconds:.1f} s.",
            f"Reloaded in ONNX Runtime: cosine with torch at least {self.min_cosine:.6f} "
            f"on {self.checked_on}.",
        ]
        if self.labels:
            lines += list_some(f"A classifier of {len(self.labels)} labels:", self.labels)
            return [*lines, f"Try it: clipdistill predict {self.out} IMAGE"]
        return [*lines, f"It carries no labels: clipdistill predict {self.out} IMAGE --text TEXT"]


@dataclass(frozen=True)
class _Checks:
    """The pictures that both runtimes embed: uint8 (N, S, S, 3), and where they come from."""

    pixels: NDArray[np.uint8]
    source: str


def export(
    student: str,
    out: Path,
    /,
    *,
    text: Path | None = None,
    teacher: bool = False,
    images: Path | None = None,
    arch: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
) -> ExportResult:
    """Write a student as an FP32 ONNX file (opset 17, any batch size).

    With --text the file is a whole classifier: it answers with probabilities, and its metadata
    holds labels, text embeddings, temperature and preprocessing.  It is reloaded in ONNX Runtime
    at once and compared with torch; a file that differs is not kept.

    Args:
        student: A student's folder or checkpoint (.pth); with --teacher a teacher
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER).
        out: the .onnx file.
        text: text embeddings from `clipdistill embed-text`, to make it a classifier.
        teacher: export an OpenCLIP teacher's image tower instead of a student.
        images: pictures to compare on; the student's own samples unless given.
        arch: timm's model name, only for checkpoints that do not tell (the older scripts').
        image_size: side of the input in pixels, likewise.
        device: where torch runs: auto, cpu, cuda ...

    Raises:
        InputError: no such student, or the arguments are in another order.
        MismatchError: the text embeddings are another teacher's.
        ClipDistillError: torch cannot export this network, or the file computes something else.
    """
    check_output(out)
    _check_kind(student, teacher)
    with needs_training_extra("Exporting"):
        from ..onnx_graph import OPSET, check_head
    source, card = _load(student, arch, image_size, device)
    if text is not None:
        classes = load_text(text)
        source.spec.check_space(classes.teacher, text)
        card = replace(card, text=classes)
    checks = _choose_pictures(student, images, card.preprocess)
    started = time.perf_counter()
    with atomic_path(out) as temporary:
        _write(source, card, temporary)
        written = OnnxEmbedder(temporary, device="cpu")
        cosine = _compare(source, written, checks.pixels)
        check_head(written, checks.pixels)
        size = written.spec.size_bytes
        del written  # Windows cannot rename an open file
    return ExportResult(
        out, card.arch, card.role, card.dim, card.preprocess.size, OPSET, _labels(card.text),
        size / 1e6, cosine, checks.source, time.perf_counter() - started,
    )  # fmt: skip


def _labels(text: TextEmbeddings | None) -> tuple[str, ...]:
    return () if text is None else text.labels


def _check_kind(model: str, teacher: bool) -> None:
    """Say what is wrong before anything is loaded."""
    kind = kind_of(model)
    if kind == "onnx":
        raise InputError(f"{model} is an ONNX file already. Expected a student's folder or .pth.")
    if kind == "teacher" and not teacher:
        raise InputError(f"{model} is a teacher. Add --teacher to export its image tower.")
    if kind == "student" and teacher:
        raise InputError(f"{model} is a student. Leave --teacher away to export it.")


def _load(
    model: str, arch: str | None, image_size: int | None, device: str
) -> tuple[TorchEmbedder, OnnxCard]:
    """Load a student or a teacher in fp32, and what will be said of it."""
    if kind_of(model) == "student":
        from ..student import load_student

        card, student = load_student(
            Path(model), arch=arch, image_size=image_size, device=device, precision="fp32"
        )
        return student, _card(student.spec, card.arch, card.training)
    teacher = open_embedder(model, device=device, precision="fp32")
    from ..torch_embedder import TorchEmbedder

    assert isinstance(teacher, TorchEmbedder)  # kind_of said so
    named = teacher.spec.teacher
    return teacher, _card(teacher.spec, teacher.spec.name if named is None else named.model_name)


def _card(spec: EmbedderSpec, arch: str, training: dict[str, object] | None = None) -> OnnxCard:
    return OnnxCard(spec.role, arch, spec.dim, spec.preprocess, spec.teacher, training or {})


def _choose_pictures(student: str, images: Path | None, preprocess: Preprocess) -> _Checks:
    """Pictures to compare on: those given, the student's samples, or made-up ones."""
    if images is not None:
        items = list_images(images)[:NOT_ENOUGH_READABLE]
        loaded = (load_one(item, preprocess).pixels for item in items)
        good = [pixels for pixels in loaded if pixels is not None][:CHECK_PICTURES]
        if not good:
            raise InputError(f"{images}: none of its first {len(items)} images can be read.")
        return _Checks(np.stack(good), f"{len(good)} pictures of {images}")
    path = Path(student)
    samples = load_samples(path if path.is_dir() else path.parent)
    side = preprocess.size
    if samples is not None and len(samples) and samples.shape[1:3] == (side, side):
        chosen = samples[:CHECK_PICTURES]
        return _Checks(chosen, f"{len(chosen)} of the student's training pictures")
    from ..onnx_graph import synthetic_pixels

    message("No pictures at hand to compare on: synthetic ones are used. --images gives real ones.")
    made_up = synthetic_pixels(CHECK_PICTURES, side)
    return _Checks(made_up, f"{CHECK_PICTURES} synthetic pictures (--images gives real ones)")


def _write(source: TorchEmbedder, card: OnnxCard, path: Path) -> None:
    """Export with torch, then tidy, add head and metadata, check and write."""
    from ..onnx_graph import describe, load_graph, save_graph, tidy

    _trace(source, card.preprocess.size, card.arch, path)
    model = load_graph(path)
    tidy(model, card)
    describe(model, card)
    save_graph(model, path)


def _trace(source: TorchEmbedder, side: int, arch: str, path: Path) -> None:
    """Run torch's exporter.

    The TorchScript one: measured with torch 2.14, the newer one (dynamo=True) gives opset 18 and
    its converter to 17 fails (Resize, ReduceMean with axes as input), leaving the file at 18.
    """
    import torch

    from ..onnx_graph import OPSET

    # Two pictures: with one, networks that look at the batch size would have it baked in.
    example = torch.zeros(2, 3, side, side, device=source.device)
    batch = {0: "batch"}
    try:
        with _quiet(), torch.inference_mode():
            torch.onnx.export(
                _unit_length(source.module), (example,), str(path), dynamo=False,
                opset_version=OPSET, input_names=[INPUT], output_names=[EMBEDDINGS],
                dynamic_axes={INPUT: batch, EMBEDDINGS: batch},
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClipDistillError(
            f"torch cannot export {arch} to ONNX opset {OPSET} ({first}). "
            "Choose another architecture; ResNets, EfficientNets, MobileNets and ViTs work."
        ) from error


def _unit_length(network: torch.nn.Module) -> torch.nn.Module:
    """The network followed by L2 normalisation: float32 (N, 3, S, S) -> (N, D)."""
    import torch

    class UnitLength(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.network(pixels), dim=-1)

    return UnitLength().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings, and keep attention in operators that ONNX has."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    level = logging.getLogger("torch.onnx").level
    torch.backends.mha.set_fastpath_enabled(False)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.getLogger("torch.onnx").setLevel(level)


def _compare(source: TorchEmbedder, written: OnnxEmbedder, pixels: NDArray[np.uint8]) -> float:
    """Least cosine between the two runtimes, at batch size 1 and at several.

    Raises:
        ClipDistillError: it is below `MIN_COSINE`.
    """
    normalised = written.spec.preprocess.normalize(pixels)
    expected = source.embed_images(normalised)
    one, several = written.embed_images(normalised[:1]), written.embed_images(normalised)
    worst = min(float(cosines(one, expected[:1]).min()), float(cosines(several, expected).min()))
    if not worst >= MIN_COSINE:  # also when NaN
        raise ClipDistillError(
            f"The exported network differs from torch's: cosine {worst:.6f}, expected at least "
            f"{MIN_COSINE}. The file was not kept. Please report the architecture."
        )
    return worst
