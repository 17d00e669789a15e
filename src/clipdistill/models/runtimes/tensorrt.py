"""TensorRT: an engine and its card, on an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, MismatchError, MissingExtraError
from ...formats.classifier import INPUT
from ...formats.engine import EngineCard, Gpu, load_engine
from ..embedder import EmbedderSpec
from .carded import CardedEmbedder, check_graph
from .cuda_memory import open_memory


class TensorrtEmbedder(CardedEmbedder):
    """An Embedder around an engine made by `clipdistill engine`.

    Batches that are larger than the engine's most are cut, those that are smaller than its least
    are filled up with their last picture.

    Args:
        path: the engine, for messages.
        data: its bytes; they must be those that the card describes (`open_engine` sees to it).
        card: all that its json says.
        device: "auto" and "cuda" are the first GPU, "cuda:1" the second.

    Attributes:
        engine_card: all that its json says.

    Raises:
        InputError: there is no GPU.
        FormatError: TensorRT cannot load it, or it is another network's.
        MismatchError: built by another TensorRT, or for another GPU.
        MissingExtraError: TensorRT is not installed.
    """

    def __init__(self, path: Path, data: bytes, card: EngineCard, *, device: str = "auto") -> None:
        trt = import_tensorrt()
        check_version(path, card, str(trt.__version__))
        self._memory = open_memory(device)
        check_gpu(path, card, self._memory.gpu)
        self._log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise FormatError(
                f"{path}: TensorRT {trt.__version__} cannot load it, although it is the engine "
                "that was written. Build it again on this machine: clipdistill engine"
            )
        inputs, outputs = _io(trt, self._engine)
        check_graph(path, card.onnx, inputs, outputs)
        self._outputs = {name: int(str(shape[-1])) for name, shape in outputs.items()}
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise FormatError(f"{path}: TensorRT cannot run it here; is the GPU's memory full?")
        self.engine_card = card
        onnx = card.onnx
        spec = EmbedderSpec(
            str(path),
            "tensorrt",
            onnx.role,
            onnx.teacher,
            onnx.dim,
            onnx.preprocess,
            len(data),
            onnx.arch,
            card.precision,
            card.gpu.name,
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
        """One execution; every output needs a place, one is copied back."""
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
                f"{self.spec.name}: TensorRT did not run a batch of {count}. "
                "Build it again on this machine: clipdistill engine"
            )
        result = np.empty((count, self._outputs[output]), np.float32)
        memory.download(output, result)
        return result


def open_engine(path: Path, *, device: str = "auto") -> TensorrtEmbedder:
    """Open an engine with its card, which lies beside it.

    Raises:
        InputError: engine or card is missing.
        FormatError: they are damaged or not a pair.
    """
    data, card = load_engine(path)
    return TensorrtEmbedder(path, data, card, device=device)


def import_tensorrt() -> Any:
    """The package `tensorrt`.

    Raises:
        MissingExtraError: it is not installed, or its libraries are not.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: libnvinfer is missing
        raise MissingExtraError("tensorrt", "tensorrt", "TensorRT") from error
    return tensorrt


def check_version(path: Path, card: EngineCard, here: str) -> None:
    """An engine belongs to one version of TensorRT.

    Raises:
        MismatchError: this is another.
    """
    if here != card.tensorrt:
        raise MismatchError(
            f"{path}: built by TensorRT {card.tensorrt}, but this machine has {here}, and engines "
            "do not move between versions; build it again here from the .onnx: clipdistill engine"
        )


def check_gpu(path: Path, card: EngineCard, here: Gpu) -> None:
    """An engine belongs to one kind of GPU, unless it was built for many.

    Raises:
        MismatchError: this is another.
    """
    if card.any_gpu:
        if float(here.capability) < 8.0:
            raise MismatchError(
                f"{path}: built for Ampere GPUs and newer (compute capability 8.0), but this is a "
                f"{here.name} ({here.capability}); build it again here: clipdistill engine"
            )
    elif here != card.gpu:
        raise MismatchError(
            f"{path}: built for a {card.gpu.name} (compute capability {card.gpu.capability}), but "
            f"this is a {here.name} ({here.capability}); build it again here from the .onnx: "
            "clipdistill engine"
        )


def _io(trt: Any, engine: Any) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    """The engine's inputs and outputs: name -> type and shape without N."""
    inputs: dict[str, list[object]] = {}
    outputs: dict[str, list[object]] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = "float32" if engine.get_tensor_dtype(name) == trt.float32 else "other"
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        side[name] = [kind, *(int(size) for size in tuple(engine.get_tensor_shape(name))[1:])]
    return inputs, outputs
