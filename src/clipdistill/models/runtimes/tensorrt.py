"""Run a TensorRT engine with its card on an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, InputError, MismatchError, MissingExtraError, first_line
from ...formats.classifier import INPUT
from ...formats.engine import EngineCard, Gpu, load_engine
from ..embedder import EmbedderSpec
from .carded import CardedEmbedder, check_graph
from .cuda_memory import open_memory


class TensorrtEmbedder(CardedEmbedder):
    """An Embedder around an engine made by `clipdistill engine`.

    Batches above the engine's maximum are split.  Batches below its minimum are padded with copies
    of their last image.

    Args:
        path: engine file, for messages.
        data: bytes of the engine; they must match the card (`open_engine` checks it).
        card: contents of OUT.engine.json.
        device: "auto" and "cuda" mean the first GPU, "cuda:1" the second.

    Attributes:
        engine_card: contents of OUT.engine.json.

    Raises:
        InputError: there is no GPU, or TensorRT does not start on it.
        FormatError: TensorRT cannot load the engine, or the card does not fit it.
        MismatchError: the engine was built by another TensorRT, or for another GPU.
        MissingExtraError: TensorRT is not installed.
    """

    def __init__(self, path: Path, data: bytes, card: EngineCard, *, device: str = "auto") -> None:
        trt = import_tensorrt()
        check_version(path, card, str(trt.__version__))
        self._memory = open_memory(device)
        check_gpu(path, card, self._memory.gpu)
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = start(trt, "Runtime", self._log)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise FormatError(
                f"{path}: TensorRT {trt.__version__} cannot load it, although the file is intact. "
                "Build it again on this machine with: clipdistill engine"
            )
        inputs, outputs = _io(trt, self._engine)
        check_graph(path, card.onnx, inputs, outputs)
        self._outputs = {name: int(str(shape[-1])) for name, shape in outputs.items()}
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise FormatError(f"{path}: TensorRT cannot run it here. Check the GPU's free memory.")
        self.engine_card = card
        onnx = card.onnx
        spec = EmbedderSpec(
            name=str(path),
            runtime="tensorrt",
            role=onnx.role,
            teacher=onnx.teacher,
            dim=onnx.dim,
            preprocess=onnx.preprocess,
            size_bytes=len(data),
            arch=onnx.arch,
            precision=card.precision,
            device=card.gpu.name,
        )
        super().__init__(spec, onnx)

    def compute(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `CardedEmbedder.compute`."""
        least, _, most = self.engine_card.batch
        parts = []
        for start in range(0, len(pixels), most):
            part = pixels[start : start + most]
            filled = part
            if len(part) < least:
                filled = np.concatenate([part, np.repeat(part[-1:], least - len(part), axis=0)])
            parts.append(self._once(output, filled)[: len(part)])
        return np.concatenate(parts)

    def _once(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Execute once: every output needs a buffer, one of them is copied back."""
        count = len(pixels)
        context, memory = self._context, self._memory
        done = context.set_input_shape(INPUT, pixels.shape)
        done &= context.set_tensor_address(INPUT, memory.buffer(INPUT, pixels.nbytes))
        for name, width in self._outputs.items():
            address = memory.buffer(name, 4 * count * width)
            done &= context.set_tensor_address(name, address)
        memory.upload(INPUT, pixels)
        if not (done and context.execute_async_v3(memory.stream)):
            raise FormatError(
                f"{self.spec.name}: TensorRT cannot run a batch of {count}. "
                "Build it again on this machine with: clipdistill engine"
            )
        result = np.empty((count, self._outputs[output]), np.float32)
        memory.download(output, result)
        return result


def open_engine(path: Path, *, device: str = "auto") -> TensorrtEmbedder:
    """Open an engine and the card beside it.

    Raises:
        InputError: the engine or its card is missing.
        FormatError: a file is damaged, or the two do not belong together.
    """
    data, card = load_engine(path)
    return TensorrtEmbedder(path, data, card, device=device)


def import_tensorrt() -> Any:
    """Import the package `tensorrt`.

    Raises:
        MissingExtraError: the package or its libraries are not installed.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: libnvinfer is missing
        raise MissingExtraError("tensorrt", "tensorrt", "TensorRT") from error
    return tensorrt


def start(trt: Any, name: str, log: Any) -> Any:
    """Make a `trt.Builder` or a `trt.Runtime`.

    Raises:
        InputError: TensorRT does not start here.
    """
    try:
        made = getattr(trt, name)(log)
    except (TypeError, RuntimeError) as error:  # TypeError: what pybind11 makes of a null pointer
        raise _cannot_start(trt, first_line(error)) from error
    if made is None:
        raise _cannot_start(trt, f"{name} is null")
    return made


def _cannot_start(trt: Any, reason: str) -> InputError:
    return InputError(
        f"TensorRT {trt.__version__} cannot start here ({reason}). Check that the machine has an "
        "NVIDIA GPU that this version supports, and a driver for its CUDA (nvidia-smi shows both)."
    )


def check_version(path: Path, card: EngineCard, here: str) -> None:
    """Check the version of TensorRT: an engine runs in the version that built it.

    Raises:
        MismatchError: this version is another.
    """
    if here != card.tensorrt:
        raise MismatchError(
            f"{path}: built by TensorRT {card.tensorrt}, but this machine has {here}, and an "
            "engine runs in its own version only. Build it again here from the .onnx with: "
            "clipdistill engine"
        )


def check_gpu(path: Path, card: EngineCard, here: Gpu) -> None:
    """Check the GPU: an engine runs on the model it was built for, unless built for any GPU.

    Raises:
        MismatchError: this GPU is another.
    """
    if card.any_gpu:
        if float(here.capability) < 8.0:
            raise MismatchError(
                f"{path}: built for Ampere GPUs and newer (compute capability 8.0), but this is a "
                f"{here.name} ({here.capability}). Build it again here with: clipdistill engine"
            )
    elif here != card.gpu:
        raise MismatchError(
            f"{path}: built for a {card.gpu.name} (compute capability {card.gpu.capability}), but "
            f"this is a {here.name} ({here.capability}). Build it again here from the .onnx with: "
            "clipdistill engine"
        )


def _io(trt: Any, engine: Any) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    """Read the engine's inputs and outputs: name -> type and shape without N."""
    inputs: dict[str, list[object]] = {}
    outputs: dict[str, list[object]] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = "float32" if engine.get_tensor_dtype(name) == trt.float32 else "other"
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        side[name] = [kind, *(int(size) for size in tuple(engine.get_tensor_shape(name))[1:])]
    return inputs, outputs
