"""The steps that turn torch's export into the file of a target, in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ...formats.classifier import FilePrecision, OnnxCard
from .cpu import to_cpu_form
from .files import IR_VERSION
from .half import to_half
from .links import Graph
from .quantized import is_quantized, quantize_in_front_of_pools, store_int8_weights
from .ranges import measure


def precision_of(model: Any, *, half: bool) -> FilePrecision:
    """Precision of a file made of this network."""
    if is_quantized(model):
        return "int8+fp16" if half else "int8"
    return "fp16" if half else "fp32"


def prepare(model: Any, card: OnnxCard, pixels: NDArray[np.float32]) -> OnnxCard:
    """Turn a tidied network into the form for `card.target` and `card.precision`, in place.

    Args:
        model: network from torch's exporter, after `tidy`.
        card: target and precision of the file.
        pixels: normalised images, float32 (N, 3, S, S), for the ranges of INT8 tensors that have
            no trained quantiser; used for ONNX Runtime only.

    Returns:
        The card with the precision of the file.

    Raises:
        FormatError: the network cannot be converted.
    """
    model.ir_version = min(model.ir_version, IR_VERSION)
    half = "fp16" in card.precision
    precision = precision_of(model, half=half)
    if card.target == "tensorrt":
        _spell_out_hard_swish(model)
    if is_quantized(model):
        store_int8_weights(model)
        if card.target == "tensorrt":
            quantize_in_front_of_pools(model)
        if card.target == "onnxruntime":
            to_cpu_form(model, lambda probed, names: measure(probed, names, pixels))
    if half:
        to_half(model)
    return replace(card, precision=precision)


def _spell_out_hard_swish(model: Any) -> None:
    """Replace HardSwish by its definition, x * clip(x + 3, 0, 6) / 6.

    TensorRT 8 has no importer for HardSwish.  OpenVINO fuses this form into HardSwish again, but
    not a form with HardSigmoid, for which its CPU plug-in has no fast kernel (measured 2026-11,
    OpenVINO 2026.4).
    """
    graph = Graph(model)
    values = {"3": 3.0, "0": 0.0, "6": 6.0, "sixth": 1 / 6}
    three, zero, six, sixth = (f"hard_swish/{name}" for name in values)  # constants, shared by all
    for node in [node for node in graph.nodes if node.op_type == "HardSwish"]:
        for name, value in values.items():
            graph.add_constant(f"hard_swish/{name}", np.array(value, np.float32))
        name, source = node.output[0], node.input[0]
        node.output[0] = f"{name}/replaced"
        steps = (
            ("Add", [source, three]),
            ("Clip", [f"{name}/Add", zero, six]),
            ("Mul", [source, f"{name}/Clip"]),
        )
        graph.insert(
            [
                *(
                    helper.make_node(kind, inputs, [f"{name}/{kind}"], f"{node.name}/{kind}")
                    for kind, inputs in steps
                ),
                helper.make_node("Mul", [f"{name}/Mul", sixth], [name], f"{node.name}/Sixth"),
            ]
        )
    graph.finish()
