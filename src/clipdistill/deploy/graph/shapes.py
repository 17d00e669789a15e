"""Sizes and constants that torch's exporter leaves to be computed, made constant.

torch traces a network for any number of images, and with it leaves sizes to be computed that depend
on the size of the images alone: positions, windows, paddings, the target of a Reshape.  No runtime
can plan with them, and onnx's inference of shapes ends at them.  A file takes images of one size,
so a value that is computed from shapes and constants alone, and is the same for two images and for
three, is a constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ...formats.classifier import INPUT
from .links import DEQUANTIZE, QUANTIZE, Graph, inferred_shapes
from .ranges import exact_session

BATCHES = (2, 3)
"""Numbers of images that values are computed for."""
LARGEST = 1 << 16
"""Most values of a tensor that becomes a constant; larger ones (masks) would fill the file."""
_SHAPE = "shape of "


def settle_shapes(graph: Graph, size: int) -> None:
    """Replace what does not depend on the number of images by constants, in place.

    Args:
        graph: network from torch's exporter, its constants stored as initializers.
        size: side of its input in pixels.
    """
    names = _computed_from_shapes(graph)
    reshapes = [
        node
        for node in graph.nodes
        if node.op_type == "Reshape" and node.input[1] not in graph.constants
    ]
    if not names and not reshapes:
        return
    after = [node.output[0] for node in reshapes]
    first, second = (_run(graph.model, names, after, size, batch) for batch in BATCHES)
    for node in reshapes:
        shape = _SHAPE + node.output[0]
        target = _target(first[shape], second[shape])
        if target is not None:
            node.input[1] = graph.add_constant(f"{node.output[0]}/target", target)
    graph.refresh()
    for name in names:
        one, other = first[name], second[name]
        if one.size <= LARGEST and one.shape == other.shape and np.array_equal(one, other):
            graph.redirect(name, graph.add_constant(f"{name}/settled", one))
    graph.finish()


def ranks(graph: Graph, names: Iterable[str], size: int) -> dict[str, int]:
    """Number of dimensions of tensors, inferred or else seen when the network runs."""
    inferred = inferred_shapes(graph.model)
    found = {name: len(inferred[name]) for name in names if name in inferred}
    missing = [name for name in names if name not in found]
    if missing:
        shapes = _run(graph.model, [], missing, size, BATCHES[0])
        found |= {name: shapes[_SHAPE + name].size for name in missing}
    return found


def _computed_from_shapes(graph: Graph) -> list[str]:
    """List the tensors that are computed from shapes and constants alone, in the file's order."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            continue
        if any(one.HasField("g") or one.graphs for one in node.attribute):
            continue
        inputs = [name for name in node.input if name]
        fixed = all(name in found or name in graph.constants for name in inputs)
        if node.op_type == "Shape" or (inputs and fixed):
            found |= dict.fromkeys(node.output)
    return list(found)


def _run(
    model: Any, values: Iterable[str], shapes: Iterable[str], size: int, batch: int
) -> dict[str, NDArray[Any]]:
    """Run the network on black images.

    Returns:
        The tensors named by `values`, and the shapes of those named by `shapes`, each under its
        name behind `_SHAPE`.
    """
    probed = onnx.ModelProto.FromString(model.SerializeToString())
    measured = [(name, _SHAPE + name) for name in shapes]
    wanted = [*values, *(shape for _, shape in measured)]
    probed.graph.node.extend(
        helper.make_node("Shape", [name], [shape], shape) for name, shape in measured
    )
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    Graph(probed).finish()  # without what they do not need
    session = exact_session(probed.SerializeToString())
    pixels = np.zeros((batch, 3, size, size), np.float32)
    needed = {INPUT: pixels} if any(one.name == INPUT for one in session.get_inputs()) else {}
    return dict(zip(wanted, session.run(wanted, needed), strict=True))


def _target(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any] | None:
    """Return the target of a Reshape from its results; None where no constant gives both."""
    if len(one) != len(other):
        return None
    changing = np.flatnonzero(one != other)
    if len(changing) > 1 or not one.all():
        return None
    target = one.copy()
    target[changing] = -1
    return target
