"""OpenVINO: the same ONNX file, fast on CPUs, above all in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, InputError, MissingExtraError
from ...formats.classifier import INPUT, OnnxCard
from ...formats.onnx_wire import STANDARD_DOMAINS, file_size, read_onnx
from ..embedder import EmbedderSpec
from .carded import CardedEmbedder, check_graph, first_line


class OpenVinoEmbedder(CardedEmbedder):
    """An Embedder around an ONNX file made by `clipdistill export`, run by OpenVINO.

    Args:
        path: the file.
        device: "auto" and "cpu" run on the CPU; others, such as "gpu" or "npu", where OpenVINO
            has them.
        threads: as many as cores unless given; CPU only.

    Raises:
        InputError: no such file, or the device is not there.
        FormatError: truncated, too large, pointing elsewhere, or not made by `clipdistill export`.
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
        except RuntimeError as error:  # all that OpenVINO raises
            raise FormatError(
                f"{path}: OpenVINO cannot read it ({_reason(error)}). It is damaged, or has "
                "operators that OpenVINO has not; make it again with: clipdistill export"
            ) from error
        self._request = compiled.create_infer_request()
        self._compiled = compiled
        spec = EmbedderSpec(
            str(path),
            "openvino",
            card.role,
            card.teacher,
            card.dim,
            card.preprocess,
            size,
            card.arch,
            facts.precision,
            place.lower(),
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
        # A copy: OpenVINO's buffers are written again by the next run.
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
    """One picture at a time as fast as it goes, and nothing written to the disk.

    The precision hint is fp32: with OpenVINO's own choice a CPU with AMX would compute FP32 files
    in bf16, and the same file would answer differently on another machine.  INT8 stays INT8.
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
    """OpenVINO's first lines are "Exception from src/...cpp:123:"; the reason comes after."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [first_line(error)])[0].strip()[:200]
