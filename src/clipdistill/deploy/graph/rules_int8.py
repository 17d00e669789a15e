"""The linter's rules for INT8 layers that both targets share: stored weights, layers in float."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...core.wording import many, percent
from ...formats.onnx_wire import HEAD
from .findings import Finding, Subject, reexport
from .links import Graph, attribute
from .quantized import WEIGHTED
from .weights import channel_axes, stored_weight

SMALL_SHARE = 0.05
"""Layers in float are only a note below this share of the multiplications."""


def weighted_nodes(graph: Graph) -> Iterator[Any]:
    """Iterate over the network's convolutions and matrix products, without the head."""
    for node in graph.nodes:
        if node.op_type in WEIGHTED and len(node.input) > 1 and not node.name.startswith(HEAD):
            yield node


def stored_weights(subject: Subject) -> Iterator[Finding]:
    """Quantised weights are stored as int8, with one scale per output channel."""
    graph = subject.graph
    for node in weighted_nodes(graph):
        name, before = stored_weight(graph, node)
        if before is None:
            continue
        values = graph.array(name) if name else None
        if values is None or values.dtype != np.int8:
            found = "a computed one" if values is None else str(values.dtype)
            yield Finding(
                "warning",
                "stored-weight",
                node.name,
                f"Expected a weight stored as int8, found {found}: the file is larger than "
                "necessary.",
                reexport(subject),
            )
            continue
        scale = graph.array(before.input[1])
        outputs, _ = channel_axes(node)
        axis = int(attribute(before, "axis", 1)) % values.ndim
        if scale is not None and scale.size == 1 and values.shape[outputs] > 1:
            yield Finding(
                "warning",
                "per-channel",
                node.name,
                "Expected one scale per output channel, found one for all: that costs accuracy.",
                reexport(subject),
            )
        elif scale is not None and (axis != outputs or scale.size != values.shape[outputs]):
            yield Finding(
                "error",
                "per-channel",
                node.name,
                f"Expected {values.shape[outputs]} scales along axis {outputs}, found "
                f"{scale.size} along {axis}.",
                reexport(subject),
            )


def float_layers(subject: Subject) -> Iterator[Finding]:
    """Layers of an INT8 network that stay in float are reported with their share of the work."""
    total = sum(layer.macs or 0 for layer in subject.layers)
    left = [layer for layer in subject.layers if layer.precision not in ("int8", "uint8")]
    if not subject.quantized or not left:
        return
    uncounted = sum(layer.macs is None for layer in left)
    share = sum(layer.macs or 0 for layer in left) / total if total else 1.0
    rest = f" (without {uncounted} of them, whose shapes are unknown)" if uncounted else ""
    names = ", ".join(layer.node for layer in left[:4]) + (" ..." if len(left) > 4 else "")
    yield Finding(
        "note" if share < SMALL_SHARE and not uncounted else "warning",
        "float-layers",
        left[0].node,
        f"Left in float: {many(len(left), 'layer')} with {percent(share)} of the multiplications"
        f"{rest}: "
        f"{names}.",
        "None if these layers were left in float on purpose.",
    )
