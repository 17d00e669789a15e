"""engine: build a TensorRT engine of an ONNX file and compare it with ONNX Runtime."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from ..core.errors import ClipDistillError, InputError, OptionError
from ..core.files import ensure_folder, sha256_of
from ..core.locks import locked_files
from ..core.metrics import cosines
from ..core.progress import message
from ..core.results import Result, Table, list_some
from ..core.wording import many, percent
from ..formats.classifier import OnnxCard, check_output
from ..formats.engine import ENGINE, EngineCard, Gpu, card_path, save_engine
from ..formats.onnx_wire import STANDARD_DOMAINS, OnnxFacts, read_onnx, sparse_share
from ..images.loading import load_one
from ..images.preprocess import Preprocess
from ..images.sources import list_images
from ..images.synthetic import smooth_pixels
from ..models.open import OnnxEmbedder
from ..models.runtimes.cuda_memory import open_memory
from ..models.runtimes.tensorrt import TensorrtEmbedder, import_tensorrt
from .tensorrt_build import BuildOptions, Built, build, trtexec_lines

MIN_COSINE = 0.99
"""Least cosine with ONNX Runtime, above the rounding of TF32, FP16 and INT8 kernels."""
CHECK_PICTURES = 8
MAX_BATCH = 4096


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        sparse: let TensorRT try 2:4 sparse kernels; it uses those that are faster.
        batch: least, best and most images per batch; "8" sets all three.
        workspace: most scratch memory per layer in MB; all of the GPU's memory unless given.
        timing_cache: file with timings of kernels, read and updated; it makes the next build
            faster.
        any_gpu: build one engine for all GPUs since Ampere, somewhat slower; not for Jetson.
        images: images to check the engine on; synthetic ones unless given.
        device: GPU to build for: auto, cuda, cuda:1 ...
    """

    sparse: bool = False
    batch: str = "1,8,32"
    workspace: int | None = None
    timing_cache: Path | None = None
    any_gpu: bool = False
    images: Path | None = None
    device: str = "auto"


@dataclass(frozen=True, repr=False)
class EngineResult(Result):
    """What `engine` built.

    Attributes:
        out: the engine file.
        tensorrt: version of TensorRT that built it.
        gpu: GPU it was built for.
        precision: precision of the ONNX file: "fp32", "fp16", "int8", "int8+fp16".
        strongly_typed: whether the file alone decided the precisions.
        batch: least, best and most images per batch.
        layers: number of layers of the engine, after fusion.
        int8_layers: layers that compute in INT8; None where TensorRT does not report it.
        sparse_asked: whether sparse kernels were allowed.
        sparse_layers: layers that use sparse kernels.
        eligible: number of layers whose weights TensorRT found 2:4; None where not reported.
        stored_sparse: share of the file's weights that are 2:4.
        size_mb: size of the engine in 10^6 bytes.
        min_cosine: least cosine with ONNX Runtime's embedding of the same image.
        checked_on: description of the compared images.
        seconds: time of the build.
    """

    out: Path
    tensorrt: str
    gpu: Gpu
    precision: str
    strongly_typed: bool
    batch: tuple[int, int, int]
    layers: int
    int8_layers: tuple[str, ...] | None
    sparse_asked: bool
    sparse_layers: tuple[str, ...]
    eligible: int | None
    stored_sparse: float
    size_mb: float
    min_cosine: float
    checked_on: str
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        least, best, most = self.batch
        typing = "strongly typed" if self.strongly_typed else "precisions by builder flags"
        return [
            f"{self.out}: {self.precision}, {typing}, batch {least} to {most} (best at {best}), "
            f"{self.size_mb:.1f} MB, built in {self.seconds:.0f} s by TensorRT {self.tensorrt} "
            f"for {self.gpu.name} ({self.gpu.capability}); card: {card_path(self.out).name}.",
            f"Reloaded: cosine with ONNX Runtime at least {self.min_cosine:.6f} on "
            f"{self.checked_on}.",
            *self._int8(),
            *self._sparse(),
            f"Try it: clipdistill predict {self.out} IMAGE",
        ]

    def _int8(self) -> list[str]:
        wanted = "int8" in self.precision
        if self.int8_layers is None:
            return ["TensorRT does not report the layers' precisions here."] if wanted else []
        if wanted and not self.int8_layers:
            return [f"INT8 did not engage: none of {many(self.layers, 'layer')} computes in INT8."]
        title = f"INT8 engaged in {len(self.int8_layers)} of {many(self.layers, 'layer')}:"
        return list_some(title, self.int8_layers)

    def _sparse(self) -> list[str]:
        stored = f"{percent(self.stored_sparse, 0)} of the file's weights are 2:4"
        if not self.sparse_asked:
            return [f"{stored}; --sparse lets TensorRT use that."] if self.stored_sparse > 0 else []
        found = (
            ""
            if self.eligible is None
            else f", TensorRT found {many(self.eligible, 'layer')} eligible"
        )
        if not self.sparse_layers:
            hint = (
                " FP32 has no sparse kernels: use `clipdistill export --fp16`, or an INT8 student."
                if self.precision == "fp32"
                else " TensorRT tried them, and the dense kernels were faster on this GPU."
                if self.eligible
                else ""
            )
            return [f"2:4 sparsity did not engage in any layer ({stored}{found}).{hint}"]
        title = (
            f"2:4 sparsity engaged in {many(len(self.sparse_layers), 'layer')} ({stored}{found}):"
        )
        return list_some(title, self.sparse_layers)


@dataclass(frozen=True, repr=False)
class TrtexecResult(Result):
    """The commands of `engine --trtexec`.

    Attributes:
        commands: range of TensorRT versions -> command as one line.
    """

    commands: dict[str, str]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = []
        for versions, command in self.commands.items():
            lines += [f"{versions}:", f"  {command}"]
        return [
            *lines,
            "Such an engine has no card, so clipdistill cannot load it. It serves comparisons and "
            "other programs.",
        ]


def engine(
    classifier: Path,
    out: Path,
    /,
    *,
    trtexec: bool = False,
    options: EngineOptions = EngineOptions(),
) -> EngineResult | TrtexecResult:
    """Build a TensorRT engine of an ONNX file, on the machine that will run it.

    The file decides the precision: FP32, FP16 or INT8 is chosen when exporting.  The result lists
    the INT8 and sparse layers, as TensorRT reports them.  The engine is reloaded and compared with
    ONNX Runtime; an engine that gives other embeddings is not kept.  OUT.engine.json beside the
    engine describes it, and is needed to use it.

    Args:
        classifier: .onnx file, from `clipdistill export --target tensorrt`.
        out: .engine file to write.
        trtexec: build nothing; print the equivalent commands of NVIDIA's trtexec.
        options: see `EngineOptions`.

    Raises:
        InputError: no such file, no GPU, or CLASSIFIER and OUT are swapped.
        FormatError: the file was not made by `clipdistill export`, or TensorRT cannot read it.
        ClipDistillError: TensorRT cannot build it, or the engine gives other embeddings.
        OutputError: `out` cannot be written, or another process is writing it.
        MissingExtraError: TensorRT or cuda-python is not installed.
    """
    facts = read_onnx(classifier, domains=STANDARD_DOMAINS)
    card = OnnxCard.from_metadata(classifier, facts.metadata)
    _check_form(classifier, card, facts)
    how = _build_options(options)
    side = card.preprocess.size
    if trtexec:
        lines = trtexec_lines(classifier, out, side, facts.precision, how)
        return TrtexecResult({key: shlex.join(line) for key, line in lines.items()})
    check_output(out, ENGINE)
    with locked_files("engine", out):
        if options.timing_cache is not None:
            ensure_folder(options.timing_cache.parent)
        import_tensorrt()
        checks = _choose_pictures(options.images, card.preprocess)
        gpu = open_memory(options.device).gpu
        message(
            f"Building for {gpu.name}; TensorRT measures kernels, which takes a minute or more."
        )
        started = time.perf_counter()
        built = build(classifier, side, facts.precision, how)
        seconds = time.perf_counter() - started
        about = _describe(classifier, card, facts, built, how, gpu)
        cosine = _compare(classifier, out, about, built, checks[0], options.device)
        save_engine(out, built.data, about)
    return _result(out, about, cosine, checks[1], seconds, len(built.data))


def _check_form(classifier: Path, card: OnnxCard, facts: OnnxFacts) -> None:
    if card.target == "onnxruntime" and "int8" in facts.precision:
        raise InputError(
            f"{classifier}: found INT8 in ONNX Runtime's form (unsigned activations), which "
            "TensorRT does not support. Make it again with: "
            "clipdistill export STUDENT OUT.onnx --target tensorrt"
        )


def _build_options(options: EngineOptions) -> BuildOptions:
    return BuildOptions(
        _parse_batch(options.batch),
        options.sparse,
        options.workspace,
        options.timing_cache,
        options.any_gpu,
    )


def _parse_batch(text: str) -> tuple[int, int, int]:
    """Turn "1,8,32" into (1, 8, 32), "8" into (8, 8, 8), "1,32" into (1, 32, 32)."""
    parts = text.replace(" ", "").split(",")
    numbers = [int(part) if part.isdecimal() and len(part) < 6 else 0 for part in parts]
    if not 1 <= len(numbers) <= 3 or sorted(numbers) != numbers:
        numbers = [0]
    least, best, most = numbers[0], numbers[min(1, len(numbers) - 1)], numbers[-1]
    if least < 1 or most > MAX_BATCH:
        raise OptionError(
            f"--batch {text!r}: expected least, best and most images per batch in rising order, "
            f"from 1 to {MAX_BATCH}, such as 1,8,32."
        )
    return least, best, most


def _choose_pictures(images: Path | None, preprocess: Preprocess) -> tuple[NDArray[np.uint8], str]:
    """Choose images to compare on: uint8 (N, S, S, 3), and a description of them."""
    if images is None:
        made_up = smooth_pixels(CHECK_PICTURES, preprocess.size)
        return made_up, f"{CHECK_PICTURES} synthetic images (--images gives real ones)"
    loaded = (load_one(item, preprocess).pixels for item in list_images(images)[:64])
    good = [pixels for pixels in loaded if pixels is not None][:CHECK_PICTURES]
    if not good:
        raise InputError(f"{images}: none of its first 64 images can be read. Give other --images.")
    return np.stack(good), f"{many(len(good), 'image')} of {images}"


def _describe(
    classifier: Path, card: OnnxCard, facts: OnnxFacts, built: Built, how: BuildOptions, gpu: Gpu
) -> EngineCard:
    stored = sparse_share(classifier, facts)
    return EngineCard(
        onnx=card,
        precision=facts.precision,
        tensorrt=built.tensorrt,
        gpu=gpu,
        any_gpu=how.any_gpu,
        batch=how.batch,
        strongly_typed=built.strongly_typed,
        sparse=how.sparse,
        stored_sparse=stored,
        engaged=built.engaged,
        onnx_sha256=sha256_of(classifier),
        engine_sha256=sha256(built.data).hexdigest(),
    )


def _compare(
    classifier: Path,
    out: Path,
    card: EngineCard,
    built: Built,
    pixels: NDArray[np.uint8],
    device: str,
) -> float:
    """Compute the least cosine between engine and ONNX Runtime, for one image and a batch.

    Raises:
        ClipDistillError: the cosine is below `MIN_COSINE`.
    """
    written = TensorrtEmbedder(out, built.data, card, device=device)
    expected = OnnxEmbedder(classifier, device="cpu").embed_pixels(pixels)
    one, several = written.embed_pixels(pixels[:1]), written.embed_pixels(pixels)
    worst = min(float(cosines(one, expected[:1]).min()), float(cosines(several, expected).min()))
    if not worst >= MIN_COSINE:  # also when NaN
        raise ClipDistillError(
            f"The engine's embeddings differ from ONNX Runtime's: cosine {worst:.4f}, expected at "
            f"least {MIN_COSINE}. The engine was not kept. Please report this for TensorRT "
            f"{card.tensorrt} on {card.gpu.name}."
        )
    return worst


def _result(
    out: Path, card: EngineCard, cosine: float, checked_on: str, seconds: float, size: int
) -> EngineResult:
    engaged = card.engaged
    return EngineResult(
        out=out,
        tensorrt=card.tensorrt,
        gpu=card.gpu,
        precision=card.precision,
        strongly_typed=card.strongly_typed,
        batch=card.batch,
        layers=engaged.layers,
        int8_layers=engaged.int8 if engaged.detailed else None,
        sparse_asked=card.sparse,
        sparse_layers=engaged.sparse,
        eligible=engaged.eligible,
        stored_sparse=card.stored_sparse,
        size_mb=size / 1e6,
        min_cosine=cosine,
        checked_on=checked_on,
        seconds=seconds,
    )
