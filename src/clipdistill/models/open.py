"""Opening any MODEL as an Embedder: an ONNX file, an engine, a student, a teacher.

An ONNX file needs only numpy and onnxruntime, an engine only numpy and TensorRT.  torch, timm and
open_clip are imported only when a student or a teacher is opened.

The name selects the runtime: `.onnx` runs in ONNX Runtime, `.engine` in TensorRT, the rest in
torch.  `openvino:classifier.onnx` selects another one.  The runtime is part of MODEL and not an
option, because one command may compare several MODELs.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.errors import InputError, MissingExtraError, ModelNotFoundError, did_you_mean
from ..core.packages import EXTRA_PACKAGES
from ..formats.cards import TEACHER_CONFIG
from ..formats.engine import ENGINE
from ..formats.litert import TFLITE
from ..formats.student import CARD, CHECKPOINT
from .embedder import Embedder
from .runtimes.ort import OnnxEmbedder
from .teachers import DEFAULT_TEACHER

if TYPE_CHECKING:
    from ..formats.cards import StudentCard
    from .torch_embedder import Precision

__all__ = ["OnnxEmbedder", "kind_of", "open_embedder"]

Kind = Literal["onnx", "engine", "litert", "student", "teacher"]

CHECKPOINT_ENDINGS = (".pth", ".pt")
RUNTIMES: dict[Kind, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "engine": ("tensorrt",),
    "litert": ("litert",),
    "student": ("torch",),
    "teacher": ("torch",),
}
"""Runtimes of each kind of MODEL, the default first."""
MODULES = {"litert": "ai_edge_litert"}
"""Runtime -> its module, where it is not of the same name."""


def split_runtime(model: str) -> tuple[str, str]:
    """Split "openvino:classifier.onnx" into ("openvino", "classifier.onnx"); "": none given."""
    name, colon, rest = model.partition(":")
    known = {runtime for runtimes in RUNTIMES.values() for runtime in runtimes}
    return (name, rest) if colon and name in known else ("", model)


def kind_of(model: str) -> Kind | None:
    """Recognise the kind of MODEL by its name and the files there; None: not a model."""
    model = split_runtime(model)[1]
    path = Path(model)
    if model.startswith(("local-dir:", "hf-hub:")):
        return "teacher"
    if path.suffix.lower() == ".onnx":
        return "onnx"
    if path.suffix.lower() == ENGINE:
        return "engine"
    if path.suffix.lower() == TFLITE:
        return "litert"
    if path.is_dir():
        if (path / CARD).is_file() or (path / CHECKPOINT).is_file():
            return "student"
        return "teacher" if (path / TEACHER_CONFIG).is_file() else None
    if path.suffix.lower() in CHECKPOINT_ENDINGS:
        return "student"
    return "teacher" if _names_teacher(model) else None


def installed_runtimes(kind: Kind) -> tuple[str, ...]:
    """List the installed runtimes for a kind of MODEL, the default first."""
    return tuple(
        name
        for name in RUNTIMES[kind]
        if importlib.util.find_spec(MODULES.get(name, name)) is not None
    )


def open_embedder(
    model: str,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
) -> Embedder:
    """Open a MODEL.

    Args:
        model: an `.onnx` file; an `.engine` file; a `.tflite` file; a student's folder or
            checkpoint (`.pth`, `.pt`); a teacher as NAME/PRETRAINED, "hf-hub:ORG/REPO",
            "local-dir:FOLDER" or a folder in open_clip's format. A prefix selects the
            runtime: "openvino:classifier.onnx".
        arch: timm's model name; only for the older scripts' checkpoints, which do not record it.
        image_size: side of the input in pixels; only for the older scripts' checkpoints.
        device: "auto", "cpu", "cuda", "cuda:1"; "tensorrt" for ONNX Runtime's TensorRT.
        precision: precision of the forward pass in torch.
        threads: CPU threads per inference; the runtime's default unless given. In torch the number
            applies to the whole process.

    Raises:
        InputError: MODEL is none of these, or does not exist.
        FormatError: the file is damaged, or was not made by clipdistill.
        MismatchError: the engine was built by another TensorRT or for another GPU.
        ModelNotFoundError: the teacher's weights cannot be fetched.
        MissingExtraError: torch, timm, open_clip, OpenVINO or TensorRT is needed and not installed.
    """
    runtime, name = split_runtime(model)
    kind = kind_of(name)
    if kind is None or (kind in ("onnx", "engine", "litert") and _unknown_runtime(name)):
        raise _no_such_model(name)
    if runtime and runtime not in RUNTIMES[kind]:
        raise InputError(_cannot_run(runtime, name, kind))
    if kind == "onnx":
        if runtime == "openvino":
            from .runtimes.openvino import OpenVinoEmbedder

            return OpenVinoEmbedder(Path(name), device=device, threads=threads)
        return OnnxEmbedder(Path(name), device=device, threads=threads)
    if kind == "engine":
        from .runtimes.tensorrt import open_engine

        return open_engine(Path(name), device=device)
    if kind == "litert":
        from .runtimes.litert import LiteRtEmbedder

        return LiteRtEmbedder(Path(name), device=device, threads=threads)
    return _open_torch(
        name,
        kind,
        arch=arch,
        image_size=image_size,
        device=device,
        precision=precision,
        threads=threads,
    )


def _open_torch(
    model: str,
    kind: Kind,
    *,
    arch: str | None,
    image_size: int | None,
    device: str,
    precision: Precision,
    threads: int | None,
) -> Embedder:
    """Open a student or a teacher in torch."""
    if kind == "student":
        with needs_training_extra("A student that is not an ONNX file"):
            from .student import load_student
        card, embedder = load_student(
            Path(model), arch=arch, image_size=image_size, device=device, precision=precision
        )
        named, stored = card.arch, _stored_precision(card)
    else:
        with needs_training_extra("A teacher"):
            from .teacher import load_teacher
        name, pretrained = teacher_name(model)
        embedder = load_teacher(name, pretrained, device=device, precision=precision).images
        named, stored = embedder.spec.name, ""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    embedder.spec = dataclasses.replace(
        embedder.spec,
        arch=named,
        precision=stored or embedder.precision,
        device=str(embedder.device),
    )
    return embedder


def _stored_precision(card: StudentCard) -> str:
    """Return "int8" for an INT8 student, else "": the precision of the forward pass counts."""
    compression = getattr(card, "compression", None)
    return "int8" if compression is not None and compression.int8 is not None else ""


def _unknown_runtime(model: str) -> str:
    """Return the word before a colon, unless it belongs to a file's name or is a drive letter."""
    prefix, colon, _ = model.partition(":")
    return (
        prefix
        if colon and prefix.isalnum() and len(prefix) > 1 and not Path(model).exists()
        else ""
    )


def _no_such_model(model: str) -> InputError:
    prefix = _unknown_runtime(model)
    if prefix:
        known = sorted({name for names in RUNTIMES.values() for name in names})
        return InputError(
            f"{model}: unknown runtime {prefix!r}.{did_you_mean(prefix, known)} "
            f"Known: {', '.join(known)}."
        )
    reason = "no model found in it" if Path(model).exists() else "no such model"
    return InputError(
        f"{model}: {reason}. MODEL may be "
        "an .onnx file, an .engine file, a .tflite file, a student's folder or checkpoint (.pth, "
        f".pt), or a teacher: NAME/PRETRAINED (such as {DEFAULT_TEACHER}), hf-hub:ORG/REPO, "
        "local-dir:FOLDER." + _near_teachers(model)
    )


def _cannot_run(runtime: str, model: str, kind: Kind) -> str:
    able = " or ".join(RUNTIMES[kind])
    if runtime == "tensorrt":
        remedy = (
            "Build an engine of it first: `clipdistill engine`. ONNX Runtime has a TensorRT of its "
            f"own: --device tensorrt with {model}."
            if kind == "onnx"
            else "Export it first (clipdistill export), then build an engine (clipdistill engine)."
        )
    elif kind in ("student", "teacher"):
        remedy = "Export it first: clipdistill export"
    else:
        remedy = f"Remove the prefix {runtime}:."
    return f"{runtime}:{model}: {runtime} cannot run this file; {able} can. {remedy}"


@contextmanager
def needs_training_extra(purpose: str) -> Iterator[None]:
    """Turn a missing package into a `MissingExtraError` that names its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRA_PACKAGES:
            raise
        raise MissingExtraError(*EXTRA_PACKAGES[module], purpose) from error


def teacher_name(model: str) -> tuple[str, str]:
    """MODEL -> open_clip's model name and weights tag (empty for hf-hub: and local-dir:)."""
    if model.startswith(("local-dir:", "hf-hub:")):
        return model, ""
    if Path(model).is_dir():
        return f"local-dir:{model}", ""
    name, _, pretrained = model.partition("/")
    if not pretrained:
        raise ModelNotFoundError(
            f"Teacher {model!r} does not name its weights. Write it as {model}/PRETRAINED, such "
            f"as {DEFAULT_TEACHER}; `open_clip.list_pretrained()` lists them."
        )
    return name, pretrained


def _names_teacher(model: str) -> bool:
    return model.partition("/")[0] in _open_clip_models(model)


def _near_teachers(model: str) -> str:
    """Return ' Did you mean ...?' when MODEL resembles an open_clip name, else an empty string."""
    name, _, pretrained = model.partition("/")
    by_fold = {known.lower(): known for known in _open_clip_models(model)}
    near = difflib.get_close_matches(name.lower(), by_fold, n=3, cutoff=0.7)
    tail = f"/{pretrained or 'PRETRAINED'}"
    return f" Did you mean {', '.join(by_fold[found] + tail for found in near)}?" if near else ""


def _open_clip_models(model: str) -> list[str]:
    """List open_clip's models; none when MODEL is a path or open_clip is not installed."""
    if model.startswith((".", "/", "~")) or "\\" in model or Path(model).exists():
        return []
    if Path(model).suffix and "/" not in model:
        return []
    try:
        import open_clip
    except ImportError:
        return []
    return list(open_clip.list_models())
