"""Run ONNX files in OpenVINO, which is fast on CPUs, above all in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, InputError, MissingExtraError, first_line
from ...formats.classifier import INPUT, OnnxCard
from ...formats.onnx_wire import STANDARD_DOMAINS, file_size, read_onnx
from ..embedder import EmbedderSpec
from .carded import CardedEmbedder, check_graph


class OpenVinoEmbedder(CardedEmbedder):
    """An Embedder around an ONNX file made by `clipdistill export`, run by OpenVINO.

    Args:
        path: .onnx file.
        device: "auto" and "cpu" run on the CPU; others, such as "gpu" or "npu", where OpenVINO
            offers them.
        threads: CPU threads; one per core unless given.

    Raises:
        InputError: no such file or device.
        FormatError: the file is truncated or too large, keeps its weights in other files, or was
            not made by `clipdistill export`.
        MissingExtraError: OpenVINO is not installed.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        size, facts = file_size(path), read_onnx(path, domains=STANDARD_DOMAINS)
        card = OnnxCard.from_metadata(path, facts.metadata)
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", "The runtime OpenVINO") from error
        core = openvino.Core()
        place = _device(device, core.available_devices)
        try:
            model = core.read_model(str(path))
            check_graph(path, card, _shapes(model.inputs), _shapes(model.outputs))
            compiled = core.compile_model(model, place, _settings(place, threads))
        except RuntimeError as error:  # the only type that OpenVINO raises
            raise FormatError(
                f"{path}: OpenVINO cannot read it ({_reason(error)}). It is damaged, or has "
                "operators that OpenVINO does not support. Make it again with: clipdistill export"
            ) from error
        self._request = compiled.create_infer_request()
        self._compiled = compiled
        spec = EmbedderSpec(
            name=str(path),
            runtime="openvino",
            role=card.role,
            teacher=card.teacher,
            dim=card.dim,
            preprocess=card.preprocess,
            size_bytes=size,
            arch=card.arch,
            precision=facts.precision,
            device=place.lower(),
        )
        super().__init__(spec, card)

    def compute(self, output: str, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `CardedEmbedder.compute`."""
        try:
            results = self._request.infer({INPUT: pixels}, share_inputs=True)
        except RuntimeError as error:
            raise FormatError(
                f"{self.spec.name}: OpenVINO cannot run it ({_reason(error)}). "
                "Make it again with: clipdistill export"
            ) from error
        # A copy, because the next run overwrites OpenVINO's buffers.
        return np.array(results[self._compiled.output(output)], dtype=np.float32)


def _device(name: str, known: list[str]) -> str:
    place = "CPU" if name in ("auto", "cpu") else name.upper()
    if place in known or any(one.partition(".")[0] == place for one in known):
        return place
    raise InputError(
        f"Device {name!r} cannot be used with OpenVINO here: it offers "
        f"{', '.join(one.lower() for one in known)}. Use --device cpu."
    )


def _settings(place: str, threads: int | None) -> dict[str, Any]:
    """Settings for the least latency of one image, and no cache on the disk.

    The precision hint is fp32: by default OpenVINO computes FP32 files in bf16 on CPUs with AMX, so
    the same file would give other results on another machine.  INT8 stays INT8.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "CACHE_DIR": "",
    }
    if threads is not None and place == "CPU":
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _shapes(ports: Any) -> dict[str, list[object]]:
    types = {"float": "float32", "f32": "float32"}
    return {
        port.get_any_name(): [
            types.get(kind := port.get_element_type().get_type_name(), kind),
            *(
                dim.get_length() if dim.is_static else str(dim)
                for dim in list(port.get_partial_shape())[1:]
            ),
        ]
        for port in ports
    }


def _reason(error: Exception) -> str:
    """Skip OpenVINO's first lines ("Exception from src/...cpp:123:"); the reason follows them."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [first_line(error)])[0].strip()[:200]
