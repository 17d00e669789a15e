"""Opening any MODEL as an Embedder: an ONNX file, a student, a teacher.

An ONNX file needs only numpy and onnxruntime; torch and its friends are imported when a student
or a teacher is opened, not before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from .embedder import Embedder, EmbedderSpec
from .errors import (
    FormatError,
    InputError,
    MismatchError,
    MissingExtraError,
    ModelNotFoundError,
)
from .formats.classifier import (
    EMBEDDINGS,
    INPUT,
    MAX_FILE_BYTES,
    PROBABILITIES,
    OnnxCard,
)
from .formats.student import CARD, CHECKPOINT
from .formats.text import TextEmbeddings

if TYPE_CHECKING:
    from .torch_embedder import Precision

Kind = Literal["onnx", "student", "teacher"]

CHECKPOINT_ENDINGS = (".pth", ".pt")
TEACHER_CONFIG = "open_clip_config.json"
TRAIN_MODULES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open_clip_torch",
    "safetensors": "safetensors",
}
"""Module -> package of the extra "train" that students and teachers need."""

_ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""ONNX Runtime's errors; they share no base class but Exception."""


class OnnxEmbedder:
    """An Embedder around an ONNX file made by `clipdistill export`.

    Attributes:
        spec: what it is.
        card: its metadata.

    Args:
        path: the file.
        device: "auto" and "cpu" run on the CPU, "cuda" on the first GPU.

    Raises:
        InputError: no such file, or the device is not there.
        FormatError: truncated, too large, or not made by `clipdistill export`.
    """

    def __init__(self, path: Path, *, device: str = "auto") -> None:
        size = _checked_size(path)
        self._session = _open_session(path, _providers(device))
        self.card = OnnxCard.from_metadata(path, self._session.get_modelmeta().custom_metadata_map)
        _check_graph(path, self._session, self.card)
        self.spec = EmbedderSpec(
            str(path), "onnxruntime", self.card.role, self.card.teacher, self.card.dim,
            self.card.preprocess, size,
        )  # fmt: skip

    @property
    def text(self) -> TextEmbeddings | None:
        """The classes it carries; None for a bare embedder."""
        return self.card.text

    def embed_images(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Embedder.embed_images`."""
        return self._run(EMBEDDINGS, pixels)

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Embedder.embed_pixels`."""
        return self._run(EMBEDDINGS, self.spec.preprocess.normalize(pixels))

    def classify_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The file's own answer: uint8 (N, H, W, 3) -> probabilities float32 (N, C).

        Raises:
            InputError: it carries no classes.
        """
        if self.text is None:
            raise InputError(
                f"{self.spec.name} carries no labels. Give --text, or export it with --text."
            )
        return self._run(PROBABILITIES, self.spec.preprocess.normalize(pixels))

    def _run(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        side = self.spec.preprocess.size
        if pixels.shape[1:] != (3, side, side):
            raise MismatchError(
                f"{self.spec.name} takes pictures of shape (N, 3, {side}, {side}), found "
                f"{pixels.shape}. Prepare them with its own preprocessing."
            )
        try:
            result: NDArray[np.float32] = self._session.run([output], {INPUT: pixels})[0]
        except _ORT_ERRORS as error:
            raise FormatError(
                f"{self.spec.name}: ONNX Runtime cannot run it ({_first_line(error)}). "
                "Make it again with: clipdistill export"
            ) from error
        return result


def kind_of(model: str) -> Kind | None:
    """Tell what MODEL stands for from its name and what lies there; None when it is nothing."""
    path = Path(model)
    if model.startswith(("local-dir:", "hf-hub:")):
        return "teacher"
    if path.suffix.lower() == ".onnx":
        return "onnx"
    if path.is_dir():
        if (path / CARD).is_file() or (path / CHECKPOINT).is_file():
            return "student"
        return "teacher" if (path / TEACHER_CONFIG).is_file() else None
    if path.suffix.lower() in CHECKPOINT_ENDINGS:
        return "student"
    return "teacher" if _names_teacher(model) else None


def open_embedder(
    model: str,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> Embedder:
    """Open a MODEL.

    Args:
        model: an `.onnx` file; a student's folder or checkpoint (`.pth`, `.pt`); a teacher as
            NAME/PRETRAINED, "hf-hub:ORG/REPO", "local-dir:FOLDER" or a folder in open_clip's
            format.
        arch: timm's name, only for checkpoints that do not tell (the older scripts').
        image_size: side of the input in pixels, likewise.
        device: "auto", "cpu", "cuda" ...
        precision: of a torch model's forward pass.

    Raises:
        InputError: MODEL is none of these, or is not there.
        FormatError: it is there but damaged or foreign.
        ModelNotFoundError: a teacher whose weights cannot be had.
        MissingExtraError: torch, timm or open_clip is needed and not installed.
    """
    kind = kind_of(model)
    if kind == "onnx":
        return OnnxEmbedder(Path(model), device=device)
    if kind == "student":
        with needs_training_extra("A student that is not an ONNX file"):
            from .student import load_student
        return load_student(
            Path(model), arch=arch, image_size=image_size, device=device, precision=precision
        )[1]
    if kind == "teacher":
        with needs_training_extra("A teacher"):
            from .teacher import load_teacher
        name, pretrained = _teacher_name(model)
        return load_teacher(name, pretrained, device=device, precision=precision).images
    raise InputError(
        f"{model}: {'no model in it' if Path(model).exists() else 'no such model'}. MODEL may be "
        "an .onnx file, a student's folder or checkpoint (.pth, .pt), or a teacher: "
        "NAME/PRETRAINED (such as ViT-B-32/laion2b_s34b_b79k), hf-hub:ORG/REPO, local-dir:FOLDER."
        + _near_teachers(model)
    )


@contextmanager
def needs_training_extra(purpose: str) -> Iterator[None]:
    """Turn a missing package of the extra "train" into a `MissingExtraError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in TRAIN_MODULES:
            raise
        raise MissingExtraError(TRAIN_MODULES[module], "train", purpose) from error


def _teacher_name(model: str) -> tuple[str, str]:
    """MODEL -> open_clip's model name and weights tag (empty where the name says it all)."""
    if model.startswith(("local-dir:", "hf-hub:")):
        return model, ""
    if Path(model).is_dir():
        return f"local-dir:{model}", ""
    name, _, pretrained = model.partition("/")
    if not pretrained:
        raise ModelNotFoundError(
            f"Teacher {model!r} does not say which weights. Write it as {model}/PRETRAINED, such "
            "as ViT-B-32/laion2b_s34b_b79k; `open_clip.list_pretrained()` lists them."
        )
    return name, pretrained


def _names_teacher(model: str) -> bool:
    return model.partition("/")[0] in _open_clip_models(model)


def _near_teachers(model: str) -> str:
    """' Did you mean ...?' when MODEL looks like a misspelt open_clip name."""
    name, _, pretrained = model.partition("/")
    by_fold = {known.lower(): known for known in _open_clip_models(model)}
    near = difflib.get_close_matches(name.lower(), by_fold, n=3, cutoff=0.7)
    tail = f"/{pretrained or 'PRETRAINED'}"
    return f" Did you mean {', '.join(by_fold[found] + tail for found in near)}?" if near else ""


def _open_clip_models(model: str) -> list[str]:
    """open_clip's names; none when MODEL looks like a path, or open_clip is not installed."""
    if model.startswith((".", "/", "~")) or "\\" in model or Path(model).exists():
        return []
    if Path(model).suffix and "/" not in model:
        return []
    try:
        import open_clip
    except ImportError:
        return []
    return list(open_clip.list_models())


def _checked_size(path: Path) -> int:
    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file. Make one with: clipdistill export")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FormatError(
            f"{path}: {size / 2**30:.1f} GiB is over the 2 GiB that one ONNX file can hold."
        )
    return size


def _providers(device: str) -> list[str]:
    """ONNX Runtime's execution providers, best first."""
    if device in ("auto", "cpu"):
        return ["CPUExecutionProvider"]
    known = onnxruntime.get_available_providers()
    if device.partition(":")[0] != "cuda" or "CUDAExecutionProvider" not in known:
        raise InputError(
            f"Device {device!r} cannot be used with an ONNX file here: ONNX Runtime offers "
            f"{', '.join(known)}. Use --device cpu, or install onnxruntime-gpu for cuda."
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _open_session(path: Path, providers: list[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning about a stranger's graph helps nobody
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _ORT_ERRORS as error:
        raise FormatError(
            f"{path}: not a readable ONNX file, it is truncated or of another kind "
            f"({_first_line(error)})."
        ) from error


def _check_graph(path: Path, session: Any, card: OnnxCard) -> None:
    """Check that the graph has the input and outputs that its metadata promises."""
    side = card.preprocess.size
    inputs = {item.name: item for item in session.get_inputs()}
    shapes = {item.name: list(item.shape[1:]) for item in session.get_outputs()}
    wanted: dict[str, list[int]] = {EMBEDDINGS: [card.dim]}
    if card.text is not None:
        wanted[PROBABILITIES] = [len(card.text.labels)]
    fits = (
        list(inputs) == [INPUT]
        and inputs[INPUT].type == "tensor(float)"
        and list(inputs[INPUT].shape[1:]) == [3, side, side]
        and all(shapes.get(name) == shape for name, shape in wanted.items())
    )
    if not fits:
        raise FormatError(
            f"{path}: its network does not fit its metadata (expected {INPUT} (N, 3, {side}, "
            f"{side}) and outputs {wanted}, found {list(inputs)} and {shapes}). "
            "Make it again with: clipdistill export"
        )


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:200]
