"""Run ONNX files in ONNX Runtime, on the CPU, CUDA or its TensorRT provider."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from ...core.errors import FormatError, InputError, first_line
from ...formats.classifier import INPUT, OnnxCard
from ...formats.onnx_wire import file_size, read_onnx
from ..embedder import EmbedderSpec
from .carded import CardedEmbedder, check_graph

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
"""ONNX Runtime's errors; their only common base class is Exception."""
_CPU, _CUDA, _TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)
_CHAINS = {"cuda": (_CUDA,), "tensorrt": (_TENSORRT, _CUDA)}
"""Device -> providers, best first; the CPU runs the operators that they do not support."""


class OnnxEmbedder(CardedEmbedder):
    """An Embedder around an ONNX file made by `clipdistill export`, run by ONNX Runtime.

    Args:
        path: .onnx file.
        device: "auto" and "cpu" run on the CPU; "cuda", "cuda:1", "tensorrt", "tensorrt:1" run on a
            GPU and need onnxruntime-gpu.
        threads: CPU threads per operator; one per core unless given.

    Raises:
        InputError: no such file or device.
        FormatError: the file is truncated or too large, keeps its weights in other files, or was
            not made by `clipdistill export`.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        size, facts = file_size(path), read_onnx(path)
        providers = _providers(device)
        self._session = _open_session(path, providers, threads)
        _check_device(device, providers, self._session.get_providers())
        card = OnnxCard.from_metadata(path, facts.metadata)
        check_graph(
            path, card, _shapes(self._session.get_inputs()), _shapes(self._session.get_outputs())
        )
        spec = EmbedderSpec(
            name=str(path),
            runtime="onnxruntime",
            role=card.role,
            teacher=card.teacher,
            dim=card.dim,
            preprocess=card.preprocess,
            size_bytes=size,
            arch=card.arch,
            precision=facts.precision,
            device="cpu" if device == "auto" else device,
        )
        super().__init__(spec, card)

    def compute(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `CardedEmbedder.compute`."""
        try:
            result: NDArray[np.float32] = self._session.run([output], {INPUT: pixels})[0]
        except _ORT_ERRORS as error:
            raise FormatError(
                f"{self.spec.name}: ONNX Runtime cannot run it ({_reason(error)}). "
                "Make it again with: clipdistill export"
            ) from error
        return result


def run_file(path: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run an ONNX file without metadata on the CPU: float32 (N, 3, S, S) -> its first output.

    Raises:
        FormatError: ONNX Runtime cannot open or run it.
    """
    session = _open_session(path, _providers("cpu"), None)
    try:
        result: NDArray[np.float32] = session.run(None, {INPUT: pixels})[0]
    except _ORT_ERRORS as error:
        raise FormatError(f"{path}: ONNX Runtime cannot run it ({_reason(error)}).") from error
    return result


def time_file(path: Path, pixels: NDArray[np.float32], runs: int) -> list[float]:
    """Time an ONNX file without metadata on the CPU: the seconds of each run.

    Args:
        path: the file.
        pixels: float32 (N, 3, S, S).
        runs: how many, one after the other.

    Raises:
        FormatError: ONNX Runtime cannot open it.
    """
    session = _open_session(path, _providers("cpu"), None)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {INPUT: pixels})
        seconds.append(time.perf_counter() - start)
    return seconds


def _providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """Choose ONNX Runtime's execution providers with their options, best first."""
    kind, _, number = device.partition(":")
    if device in ("auto", "cpu"):
        return [(_CPU, {})]
    known = onnxruntime.get_available_providers()
    chain = _CHAINS.get(kind, ())
    if not chain or chain[0] not in known or not (number.isdecimal() or ":" not in device):
        raise InputError(
            f"Device {device!r} cannot be used with an ONNX file here: expected auto, cpu, cuda, "
            f"cuda:1 or tensorrt, and this ONNX Runtime has {', '.join(known)}. Use --device cpu, "
            "or install onnxruntime-gpu for cuda and tensorrt."
        )
    options = {"device_id": number or "0"}
    return [*((name, options) for name in chain if name in known), (_CPU, {})]


def _check_device(device: str, wanted: list[tuple[str, dict[str, str]]], active: list[str]) -> None:
    """Raise where ONNX Runtime fell back to the CPU, which it only logs."""
    if wanted[0][0] not in active:
        raise InputError(
            f"Device {device!r} cannot be used: ONNX Runtime has {wanted[0][0]}, but it did not "
            f"start (active: {', '.join(active)}). Check the GPU's driver and the versions of "
            "CUDA, cuDNN and TensorRT that it needs, or use --device cpu."
        )


def _open_session(
    path: Path, providers: list[tuple[str, dict[str, str]]], threads: int | None
) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings about an untrusted graph are of no use
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _ORT_ERRORS as error:
        raise FormatError(
            f"{path}: not a readable ONNX file; it is truncated or of another kind "
            f"({_reason(error)}). Make it again with: clipdistill export"
        ) from error


def _shapes(items: Any) -> dict[str, list[object]]:
    types = {"tensor(float)": "float32"}
    return {item.name: [types.get(item.type, item.type), *item.shape[1:]] for item in items}


def _reason(error: Exception) -> str:
    return first_line(error).removeprefix("[ONNXRuntimeError] : ")
