"""GPU memory for TensorRT: through cuda-python, or through torch where only that is installed.

`Memory` is the interface of both, so the engine's code depends on neither.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ClipDistillError, InputError, MissingExtraError, first_line
from ...core.wording import many
from ...formats.engine import Gpu


class Memory(Protocol):
    """Buffers and copies on one GPU."""

    @property
    def gpu(self) -> Gpu:
        """Name and compute capability."""

    @property
    def stream(self) -> int:
        """Handle of the CUDA stream for all work."""

    def buffer(self, name: str, nbytes: int) -> int:
        """Address of the buffer `name`, of at least `nbytes` bytes; it is kept for later calls."""

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """Copy `values` to the buffer `name`, which must be large enough."""

    def download(self, name: str, values: NDArray[Any]) -> None:
        """Copy the buffer `name` into `values` and wait for all work on the stream."""


def open_memory(device: str) -> Memory:
    """Open a GPU: "auto" and "cuda" mean the first one.

    Raises:
        InputError: there is no such device, no GPU or no driver.
        MissingExtraError: neither cuda-bindings nor torch is installed.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or not (number.isdecimal() or ":" not in device):
        raise InputError(
            f"Device {device!r} cannot be used with TensorRT, which runs on NVIDIA's GPUs only. "
            "Use --device cuda or --device cuda:1."
        )
    index = int(number or 0)
    runtime = _cuda_python()
    if runtime is not None:
        return CudaPythonMemory(runtime, index)
    try:
        return TorchMemory(index)
    except ImportError as error:
        raise MissingExtraError("cuda-bindings", "tensorrt", "TensorRT") from error


def _no_such_gpu(index: int, who: str, count: int) -> InputError:
    return InputError(f"Device cuda:{index} does not exist: {who} finds {many(count, 'GPU')}.")


def _cuda_python() -> Any:
    """CUDA's runtime API: `cuda.bindings` of cuda-python 12.6 and later, else `cuda.cudart`."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError:
            return None
        except (RuntimeError, OSError) as error:
            raise _unusable(InputError, "cuda-python", error) from error
    return runtime


def _unusable(kind: type[ClipDistillError], name: str, reason: Exception | str) -> ClipDistillError:
    text = first_line(reason) if isinstance(reason, Exception) else reason
    return kind(
        f"CUDA cannot be used here: {name} returned {text!r}. Check that the machine has an NVIDIA "
        "GPU, a recent driver (nvidia-smi shows both) and free GPU memory."
    )


class CudaPythonMemory:
    """Memory through cuda-python, for devices without torch."""

    def __init__(self, runtime: Any, index: int) -> None:
        self._cuda = runtime
        self._buffers: dict[str, tuple[int, int]] = {}
        count = self._call("cudaGetDeviceCount")
        if index >= count:
            raise _no_such_gpu(index, "CUDA", count)
        self._call("cudaSetDevice", index)
        found = self._call("cudaGetDeviceProperties", index)
        name = found.name.decode(errors="replace").strip("\0")
        self._gpu = Gpu(name, f"{found.major}.{found.minor}")
        self._stream = self._call("cudaStreamCreate")

    @property
    def gpu(self) -> Gpu:
        """See `Memory.gpu`."""
        return self._gpu

    @property
    def stream(self) -> int:
        """See `Memory.stream`."""
        return int(self._stream)

    def buffer(self, name: str, nbytes: int) -> int:
        """See `Memory.buffer`."""
        address, size = self._buffers.get(name, (0, 0))
        if size < nbytes:
            if address:
                self._call("cudaFree", address)
            address = int(self._call("cudaMalloc", nbytes))
            self._buffers[name] = (address, nbytes)
        return address

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """See `Memory.upload`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        address = self._buffers[name][0]
        self._call(
            "cudaMemcpyAsync", address, values.ctypes.data, values.nbytes, kind, self._stream
        )

    def download(self, name: str, values: NDArray[Any]) -> None:
        """See `Memory.download`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        address = self._buffers[name][0]
        self._call(
            "cudaMemcpyAsync", values.ctypes.data, address, values.nbytes, kind, self._stream
        )
        self._call("cudaStreamSynchronize", self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a CUDA function, which returns (status, value ...), and return the value."""
        kind = InputError if name == "cudaGetDeviceCount" else ClipDistillError
        try:
            status, *values = getattr(self._cuda, name)(*arguments)
        except (RuntimeError, OSError) as error:  # cuda-python loads the driver at the first call
            raise _unusable(kind, name, error) from error
        if int(status) != 0:
            text = self._cuda.cudaGetErrorString(status)[1]
            raise _unusable(kind, name, text.decode() if isinstance(text, bytes) else str(text))
        return values[0] if values else None


class TorchMemory:
    """Memory through torch's tensors."""

    def __init__(self, index: int) -> None:
        import torch

        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise _no_such_gpu(index, "torch", count)
        self._torch = torch
        self._device = torch.device("cuda", index)
        torch.cuda.set_device(self._device)
        found = torch.cuda.get_device_properties(self._device)
        self._gpu = Gpu(found.name, f"{found.major}.{found.minor}")
        self._own: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._buffers: dict[str, Any] = {}

    @property
    def gpu(self) -> Gpu:
        """See `Memory.gpu`."""
        return self._gpu

    @property
    def stream(self) -> int:
        """See `Memory.stream`."""
        return int(self._own.cuda_stream)

    def buffer(self, name: str, nbytes: int) -> int:
        """See `Memory.buffer`."""
        held = self._buffers.get(name)
        if held is None or held.numel() < nbytes:
            held = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
            # The allocation may be pending on the default stream.
            self._torch.cuda.synchronize(self._device)
            self._buffers[name] = held
        return int(held.data_ptr())

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """See `Memory.upload`."""
        with self._torch.cuda.stream(self._own):
            source = self._torch.from_numpy(values.reshape(-1).view(np.uint8))
            self._buffers[name][: values.nbytes].copy_(source, non_blocking=True)

    def download(self, name: str, values: NDArray[Any]) -> None:
        """See `Memory.download`."""
        with self._torch.cuda.stream(self._own):
            target = self._torch.from_numpy(values.reshape(-1).view(np.uint8))
            target.copy_(self._buffers[name][: values.nbytes])
        self._own.synchronize()
