"""export: a student (or a teacher's image tower) -> a file for a runtime, checked.

The check has three parts: onnx's own checker, the readiness linter for the target, and the cosine
with torch's embeddings of real images.  A file that fails one is not kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ClipDistillError, FormatError, InputError, MismatchError, OptionError
from ..core.files import atomic_path, ensure_folder
from ..core.locks import locked_files
from ..core.metrics import cosines
from ..core.progress import message
from ..core.results import Result, Table, list_some
from ..core.signatures import NameOrPath
from ..core.wording import many, percent
from ..formats.cards import Compression
from ..formats.classifier import (
    CLASSIFIER,
    FilePrecision,
    FileTarget,
    OnnxCard,
    Target,
    check_output,
)
from ..formats.litert import TFLITE
from ..formats.student import SAMPLES, load_samples
from ..formats.text import TextEmbeddings, load_text
from ..images.loading import load_one
from ..images.preprocess import Preprocess
from ..images.sources import list_images
from ..models.embedder import EmbedderSpec
from ..models.open import OnnxEmbedder, kind_of, needs_training_extra, open_embedder
from .browser import find_runtime, write_page

if TYPE_CHECKING:
    import torch

    from ..models.torch_embedder import TorchEmbedder
    from .graph.lint import LintReport

ExportTarget = Literal["onnxruntime", "tensorrt", "litert", "web"]
"""What a student can be exported for: a runtime, or a page that is its own."""

MIN_COSINE: dict[FilePrecision, float] = {
    "fp32": 0.9999,
    "fp16": 0.999,
    "int8": 0.999,
    "int8+fp16": 0.999,
}
"""Least cosine between torch's embedding and the file's: of every image for floats, the mean over
images for INT8, where a value that is rounded the other way moves a whole step."""
UNSTEADY: dict[tuple[FileTarget, FilePrecision], float] = {
    ("tensorrt", "int8"): 0.5,
    ("tensorrt", "int8+fp16"): 2.0,
    ("onnxruntime", "int8"): 2.0,
    ("litert", "int8"): 2.0,
}
"""How much of what rounding does to a student its file may differ by, see `_least_cosine`: a file
that rounds in the same places by less than half of it; one that rounds in others by twice of it,
for two equal, independent errors are twice as far apart as each is from the truth."""
RUNTIME_NAMES: dict[ExportTarget, str] = {
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT and OpenVINO",
    "litert": "LiteRT",
    "web": "browsers",
}
CHECK_PICTURES = 8
"""Pictures that a file in floats is compared on: the first one alone (batch 1), then together."""
INT8_PICTURES = 32
"""Pictures that an INT8 file is compared on, and that ranges are taken from."""
NOT_ENOUGH_READABLE = 64
"""Pictures of a folder that are tried before giving up on finding enough."""


@dataclass(frozen=True, repr=False)
class ExportResult(Result):
    """What `export` wrote.

    Attributes:
        out: the file, or the folder of the page.
        arch: the network in it.
        role: "student" or "teacher".
        dim: length of an embedding.
        image_size: side of the input in pixels.
        opset: of ONNX; 0 for a LiteRT file.
        target: the runtime it was made for, or "web".
        precision: what it computes in.
        labels: the classes it carries; empty for a bare embedder.
        size_mb: of the file, or of the folder, in 10^6 bytes.
        min_cosine: least cosine with torch's embedding of the same image.
        mean_cosine: mean cosine with torch's embeddings.
        steadiness: mean cosine of torch's embeddings with and without rounding to INT8.
        checked_on: which images were compared.
        int8_share: share of the multiplications with INT8 weights.
        two_four_share: share of the multiplications with weights stored as 2:4.
        engaging_share: share of the multiplications that sparse kernels can take.
        remarks: what the linter remarked; errors would have been raised.
        seconds: it took, without loading the model.
    """

    out: Path
    arch: str
    role: str
    dim: int
    image_size: int
    opset: int
    target: ExportTarget
    precision: FilePrecision
    labels: tuple[str, ...]
    size_mb: float
    min_cosine: float
    mean_cosine: float
    steadiness: float
    checked_on: str
    int8_share: float
    two_four_share: float
    engaging_share: float
    remarks: tuple[str, ...]
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        side = self.image_size
        runtime = RUNTIME_NAMES[self.target]
        reloaded = "LiteRT" if self.target == "litert" else "ONNX Runtime"
        opset = f"opset {self.opset}, " if self.opset else ""
        lines: list[str | Table] = [
            f"{self.out}: {self.arch}, {self.dim}-d, {side}x{side} px, {self.precision} for "
            f"{runtime}, {opset}{self.size_mb:.1f} MB, {self.seconds:.1f} s.",
            f"Reloaded in {reloaded}: cosine with torch {self.mean_cosine:.6f}, at least "
            f"{self.min_cosine:.6f}, on {self.checked_on}.",
        ]
        if self.mean_cosine < MIN_COSINE[self.precision]:
            lines.append(
                f"That is below {MIN_COSINE[self.precision]}, and no more than rounding itself "
                f"does to this student (cosine {self.steadiness:.4f}): training it with `distill "
                "--qat` makes it steadier."
            )
        if self.int8_share:
            lines.append(f"INT8: {percent(self.int8_share)} of the multiplications.")
        if self.two_four_share:
            lines.append(
                f"2:4: {percent(self.two_four_share)} of the multiplications; sparse kernels can "
                f"take {percent(self.engaging_share)}."
            )
        lines += list_some("Remarks of the linter:", self.remarks)
        if self.target == "web":
            serve = f"python3 -m http.server --bind 127.0.0.1 --directory {self.out}"
            return [
                *lines,
                *list_some(f"A classifier of {len(self.labels)} labels:", self.labels),
                f"Try it: {serve}, then open http://127.0.0.1:8000. Any static host with https "
                "serves the folder as it is.",
            ]
        if self.target == "tensorrt":
            lines.append(f"Next: clipdistill engine {self.out} {self.out.with_suffix('.engine')}")
        if self.labels:
            lines += list_some(f"A classifier of {many(len(self.labels), 'label')}:", self.labels)
            return [*lines, f"Try it: clipdistill predict {self.out} IMAGE"]
        return [*lines, f"It carries no labels: clipdistill predict {self.out} IMAGE --text TEXT"]


@dataclass(frozen=True)
class _Checks:
    """The images that both runtimes embed: uint8 (N, S, S, 3), and where they come from."""

    pixels: NDArray[np.uint8]
    source: str


def export(
    student: NameOrPath,
    out: Path,
    /,
    *,
    text: Path | None = None,
    target: ExportTarget = "onnxruntime",
    fp16: bool = False,
    teacher: bool = False,
    images: Path | None = None,
    arch: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    runtime_dir: Path | None = None,
    runtime_url: str | None = None,
) -> ExportResult:
    """Write a student as a file that stands alone, in the form that a runtime likes.

    Made for --target onnxruntime it is an ONNX file that runs fast on CPUs: FP32, or for an INT8
    student uint8 activations and int8 weights.  Made for --target tensorrt, which OpenVINO likes as
    well, it is FP32, or INT8 with symmetric quantisers around every layer; --fp16 makes the rest
    FP16, for TensorRT 10 and later.

    With --text the file is a whole classifier: it answers with probabilities, and its metadata
    holds labels, text embeddings, temperature and preprocessing.  It is reloaded in ONNX Runtime
    at once, compared with torch and checked by `clipdistill lint`; a file that fails is not kept.

    Made for --target litert it is a .tflite file for phones and boards, one image at a time: FP32,
    FP16 with --fp16, or for an INT8 student INT8 with its ranges and float inputs and outputs.  It
    needs clipdistill[litert-convert], and answers with embeddings: class vectors and temperature
    are in its metadata.

    Made for --target web, OUT is a folder: a page that runs the classifier in the browser, from any
    static host and without a server of its own.  It needs --text, and onnxruntime-web from npm.

    Args:
        student: A student's folder or checkpoint (.pth); with --teacher a teacher
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER).
        out: the .onnx file; with --target litert a .tflite file, with --target web a folder.
        text: text embeddings from `clipdistill embed-text`, to make it a classifier.
        target: what shall run it: onnxruntime, tensorrt (also for OpenVINO), litert, or web, a
            page.
        fp16: FP16 where it is not INT8, strongly typed, for TensorRT 10 and later; for LiteRT FP16
            weights.
        teacher: export an OpenCLIP teacher's image tower instead of a student.
        images: images to compare on, and for INT8 in ONNX Runtime and LiteRT to take ranges from;
            the student's own samples unless given.
        arch: timm's model name, only for checkpoints that do not tell (the older scripts').
        image_size: side of the input in pixels, only for checkpoints that do not contain it.
        device: where torch runs: auto, cpu, cuda ...
        runtime_dir: for --target web, a folder with onnxruntime-web, which is copied; such as the
            one in which `npm install onnxruntime-web` was run.
        runtime_url: for --target web, the https address of onnxruntime-web's folder dist, from
            which visitors load it instead.

    Raises:
        InputError: no such student, the arguments are in another order, an INT8 student has no
            images to take ranges from, or --target web lacks its labels or its runtime.
        MismatchError: the text embeddings are another teacher's, or the model is of another
            architecture or image size than was given.
        OutputError: `out` cannot be written, or another process is writing it.
        MissingExtraError: --target litert needs litert-torch, which is not installed.
        ClipDistillError: this network cannot be exported, or the file computes something else.
    """
    request = _Request(student, text, fp16, teacher, images, arch, image_size, device)
    if target != "web":
        if runtime_dir is not None or runtime_url is not None:
            raise OptionError(
                "--runtime-dir and --runtime-url are for a page. Add --target web, or leave them "
                "away."
            )
        if target == "litert":
            return _export_litert(request, out)
        return _export_onnx(request, out, target)
    runtime = find_runtime(runtime_dir, runtime_url)
    if text is None:
        raise OptionError("--target web makes a classifier. Add --text with its text embeddings.")
    if fp16:
        raise OptionError("--fp16 is for --target tensorrt. Leave --fp16 away.")
    file = ensure_folder(out) / CLASSIFIER
    result = _export_onnx(request, file, "onnxruntime")
    size = result.size_mb + write_page(out, runtime) / 1e6
    return replace(result, out=out, target="web", size_mb=size)


@dataclass(frozen=True)
class _Request:
    """What to export; see the arguments of `export`."""

    student: str
    text: Path | None
    fp16: bool
    teacher: bool
    images: Path | None
    arch: str | None
    image_size: int | None
    device: str

    def load(self) -> tuple[TorchEmbedder, OnnxCard]:
        """Open the model; the card has its classes."""
        source, card = _load(self.student, self.arch, self.image_size, self.device)
        text = None if self.text is None else _classes(self.text, source.spec)
        return source, replace(card, text=text)


def _export_onnx(request: _Request, out: Path, target: Target) -> ExportResult:
    """Write one ONNX file; see `export`."""
    check_output(out)
    _check_kind(request.student, request.teacher, request.arch)
    if request.fp16 and target != "tensorrt":
        raise OptionError(
            "--fp16 is for --target tensorrt: CPUs have no fast FP16 kernels in ONNX Runtime. "
            "Add --target tensorrt, or leave --fp16 away."
        )
    with needs_training_extra("Exporting"):
        from .graph import check_head
    source, card = request.load()
    card = replace(card, target=target, precision="fp16" if request.fp16 else "fp32")
    checks = _choose_pictures(request.student, request.images, card)
    started = time.perf_counter()
    with locked_files("export", out), atomic_path(out) as temporary:
        card, report = _write(source, card, checks, temporary)
        cosine, steady = _compare(source, temporary, card, checks.pixels)
        written = OnnxEmbedder(temporary, device="cpu")
        check_head(written, checks.pixels[:CHECK_PICTURES])
        size = written.spec.size_bytes
        del written  # Windows cannot rename an open file
    return _result(out, card, checks, cosine, steady, size, started, report)


def _export_litert(request: _Request, out: Path) -> ExportResult:
    """Write one LiteRT file; see `export`."""
    check_output(out, TFLITE)
    _check_kind(request.student, request.teacher, request.arch)
    with needs_training_extra("Exporting"):
        from .litert import write_litert
    source, card = request.load()
    int8 = card.compression is not None and card.compression.int8 is not None
    if int8 and request.fp16:
        raise OptionError(
            f"{request.student} is an INT8 student, and LiteRT has no FP16 beside INT8. Leave "
            "--fp16 away."
        )
    precision: FilePrecision = "int8" if int8 else "fp16" if request.fp16 else "fp32"
    card = replace(card, target="litert", precision=precision)
    checks = _choose_pictures(request.student, request.images, card)
    started = time.perf_counter()
    with locked_files("export", out), atomic_path(out) as temporary:
        write_litert(source.module, card, card.preprocess.normalize(checks.pixels), temporary)
        cosine, steady = _compare(source, temporary, card, checks.pixels)
        size = temporary.stat().st_size
    return _result(out, card, checks, cosine, steady, size, started)


def _result(
    out: Path,
    card: OnnxCard,
    checks: _Checks,
    cosine: NDArray[np.float32],
    steady: float,
    size: int,
    started: float,
    report: LintReport | None = None,
) -> ExportResult:
    """What was written; `report` is the linter's, of an ONNX file."""
    return ExportResult(
        out=out,
        arch=card.arch,
        role=card.role,
        dim=card.dim,
        image_size=card.preprocess.size,
        opset=0 if report is None else report.opset,
        target=card.target,
        precision=card.precision,
        labels=() if card.text is None else card.text.labels,
        size_mb=size / 1e6,
        min_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
        steadiness=steady,
        checked_on=checks.source,
        int8_share=0.0 if report is None else report.int8_macs_share,
        two_four_share=0.0 if report is None else report.two_four_macs_share,
        engaging_share=0.0 if report is None else report.engaging_macs_share,
        remarks=() if report is None else _remarks(report),
        seconds=time.perf_counter() - started,
    )


def _remarks(report: LintReport) -> tuple[str, ...]:
    """What the linter warns of, and what tells how much INT8 can gain."""
    shown = [
        one for one in report.findings if one.severity == "warning" or one.rule == "float-operators"
    ]
    return tuple(f"{one.message} {one.advice}" for one in shown)


def _classes(path: Path, spec: EmbedderSpec) -> TextEmbeddings:
    """The text embeddings at `path`.

    Raises:
        MismatchError: they are another teacher's.
    """
    text = load_text(path)
    spec.check_space(text.teacher, path)
    fitted = None if text.calibration is None else text.calibration.independent
    if text.independent is not None and fitted is None and spec.role == "student":
        message(
            "The probabilities of the classes are fitted to the teacher, and a student's cosines "
            "are others. Fit them to the student, which needs no labels: clipdistill evaluate "
            f"STUDENT TEACHER --images IMAGES --text {path} --calibrate"
        )
    return text


def _check_kind(model: str, teacher: bool, arch: str | None) -> None:
    """Say what is wrong before anything is loaded."""
    kind = kind_of(model)
    if kind in ("onnx", "litert"):
        raise InputError(f"{model} is exported already. Expected a student's folder or .pth.")
    if kind == "teacher" and not teacher:
        raise OptionError(f"{model} is a teacher. Add --teacher to export its image tower.")
    if kind == "student" and teacher:
        raise OptionError(f"{model} is a student. Leave --teacher away to export it.")
    if teacher and arch is not None:
        raise OptionError(f"{model} is a teacher, and --arch names a student's. Leave --arch away.")


def _load(
    model: str, arch: str | None, image_size: int | None, device: str
) -> tuple[TorchEmbedder, OnnxCard]:
    """Load a student or a teacher in fp32, and its card."""
    if kind_of(model) == "student":
        from ..models.student import check_description, load_student

        card, student = load_student(
            Path(model), arch=arch, image_size=image_size, device=device, precision="fp32"
        )
        check_description(card, Path(model), arch=arch, image_size=image_size)
        return student, _card(student.spec, card.arch, card.training, card.compression)
    teacher = open_embedder(model, device=device, precision="fp32")
    from ..models.torch_embedder import TorchEmbedder

    assert isinstance(teacher, TorchEmbedder)  # see kind_of
    side = teacher.spec.preprocess.size
    if image_size not in (None, side):
        raise MismatchError(
            f"{model} takes images of {side} px, not of {image_size} px. Leave --image-size away, "
            "or choose another teacher."
        )
    named = teacher.spec.teacher
    arch = teacher.spec.name if named is None else named.shipped().model_name
    return teacher, _card(teacher.spec, arch)


def _card(
    spec: EmbedderSpec,
    arch: str,
    training: dict[str, object] | None = None,
    compression: Compression | None = None,
) -> OnnxCard:
    return OnnxCard(
        spec.role,
        arch,
        spec.dim,
        spec.preprocess,
        spec.teacher,
        training or {},
        compression=compression,
    )


def _choose_pictures(student: str, images: Path | None, card: OnnxCard) -> _Checks:
    """Images to compare on: those given, the student's samples, or synthetic ones.

    Raises:
        InputError: none of those given can be read, or there are only synthetic ones, and an INT8
            file for ONNX Runtime needs others.
    """
    int8 = card.compression is not None and card.compression.int8 is not None
    count = INT8_PICTURES if int8 else CHECK_PICTURES
    checks = _given_pictures(student, images, card.preprocess, count)
    if checks is not None:
        return checks
    if int8 and card.target != "tensorrt":
        raise InputError(
            f"{student}: an INT8 file for {RUNTIME_NAMES[card.target]} needs images to take ranges "
            f"from, and this student has no {SAMPLES}. Add --images FOLDER with some of those it "
            "will see."
        )
    from ..images.synthetic import smooth_pixels

    message("No images at hand to compare on: synthetic ones are used. --images gives real ones.")
    made_up = smooth_pixels(CHECK_PICTURES, card.preprocess.size)
    return _Checks(made_up, f"{CHECK_PICTURES} synthetic images (--images gives real ones)")


def _given_pictures(
    student: str, images: Path | None, preprocess: Preprocess, count: int
) -> _Checks | None:
    """The first that can be read of `images`, or the student's samples; None without any."""
    if images is not None:
        items = list_images(images)[:NOT_ENOUGH_READABLE]
        loaded = (load_one(item, preprocess).pixels for item in items)
        good = [pixels for pixels in loaded if pixels is not None][:count]
        if not good:
            found = many(len(items), "image")
            raise InputError(f"{images}: none of its first {found} can be read.")
        return _Checks(np.stack(good), f"{many(len(good), 'image')} of {images}")
    path = Path(student)
    samples = load_samples(path if path.is_dir() else path.parent)
    side = preprocess.size
    if samples is not None and len(samples) and samples.shape[1:3] == (side, side):
        chosen = samples[:count]
        return _Checks(chosen, f"{len(chosen)} of the student's training images")
    return None


def _write(
    source: TorchEmbedder, card: OnnxCard, checks: _Checks, path: Path
) -> tuple[OnnxCard, LintReport]:
    """Export with torch, turn it into the target's form, add head and metadata, check and write.

    Raises:
        ClipDistillError: the file is not what its target wants.
    """
    from ..models.tracing import trace
    from .graph import describe, load_graph, save_graph, tidy
    from .graph.lint import lint_model
    from .graph.targets import prepare

    trace(
        source.module,
        card.preprocess.size,
        card.arch,
        path,
        merging=card.compression is None,
    )
    model = load_graph(path)
    tidy(model, card)
    card = prepare(model, card, card.preprocess.normalize(checks.pixels))
    describe(model, card)
    save_graph(model, path)
    target: Target = "tensorrt" if card.target == "tensorrt" else "onnxruntime"
    report = lint_model(load_graph(path), target, card)
    errors = report.of("error")
    if errors:
        first = errors[0]
        raise FormatError(
            f"The file is not ready for {card.target} ({len(errors)} errors; {first.rule} at "
            f"{first.node or 'the file'}: {first.message}); it was not kept. Please report the "
            f"architecture, {card.arch}."
        )
    return card, report


def _compare(
    source: TorchEmbedder, path: Path, card: OnnxCard, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], float]:
    """Cosines between torch's embeddings and the file's, and how steady the student's are.

    The first image is also embedded alone.  A file for ONNX Runtime is run as it will be; one for
    another runtime as it is written, without optimisations, which say nothing about what TensorRT
    makes of it.

    Raises:
        ClipDistillError: they are below `_least_cosine`.
    """
    normalised = card.preprocess.normalize(pixels)
    expected = source.embed_images(normalised)
    embed = _embed_with(path, card.target)
    one, several = embed(normalised[:1]), embed(normalised)
    found = np.minimum(cosines(several, expected), 1)
    found[0] = min(found[0], float(cosines(one, expected[:1])[0]))
    judged = float(found.mean() if "int8" in card.precision else found.min())
    steady = _steadiness(source, card, normalised, expected)
    least = _least_cosine(card, steady)
    if not judged >= least:  # also when NaN
        raise ClipDistillError(
            f"The exported network differs from torch's: cosine {judged:.6f}, expected at least "
            f"{least:.6f}. The file was not kept. Please report the architecture, {card.arch} "
            f"({card.precision} for {card.target})."
        )
    return found, steady


def _embed_with(
    path: Path, target: FileTarget
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """What computes a file's embeddings for the comparison."""
    if target == "onnxruntime":
        return OnnxEmbedder(path, device="cpu").embed_images
    if target == "litert":
        from ..models.runtimes.litert import LiteRtEmbedder

        return LiteRtEmbedder(path).embed_images
    from .graph.ranges import exact_embed

    return exact_embed(path)


def _least_cosine(card: OnnxCard, steadiness: float) -> float:
    """What a file must reach: `MIN_COSINE`, or less where the student itself is not that steady.

    Whoever adds up in another order, or rounds in one more place, rounds some values the other way,
    and the layers behind do so with more.  That cannot move an embedding further than rounding as
    such does, which is what the student's steadiness says.
    """
    least = MIN_COSINE[card.precision]
    share = UNSTEADY.get((card.target, card.precision), 0.0)
    return min(least, 1 - share * (1 - steadiness))


def _steadiness(
    source: TorchEmbedder,
    card: OnnxCard,
    normalised: NDArray[np.float32],
    expected: NDArray[np.float32],
) -> float:
    """Mean cosine of a student's embeddings with and without rounding; 1 where nothing is INT8."""
    if "int8" not in card.precision:
        return 1.0
    with _unrounded(source.module):
        floats = source.embed_images(normalised)
    return float(cosines(floats, expected).mean(dtype=np.float64))


@contextlib.contextmanager
def _unrounded(network: torch.nn.Module) -> Iterator[None]:
    """Switch the quantisers off for a while: the same weights in floats."""
    quantizers = [
        module
        for module in network.modules()
        if hasattr(module, "disable_quant") and getattr(module, "is_enabled", False)
    ]
    for quantizer in quantizers:
        quantizer.disable_quant()  # type: ignore[operator]
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enable_quant()  # type: ignore[operator]
