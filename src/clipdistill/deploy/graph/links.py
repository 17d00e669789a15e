"""A graph with its links: the maker and the users of each tensor, and the constants."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"


class Graph:
    """An ONNX graph to read and to edit.

    Nodes are protobuf messages, identified by the name of their first output, which is unique in a
    graph.  Links are those of the last `refresh`; the editing methods keep them up to date.

    Attributes:
        model: the whole `ModelProto`.
        proto: `GraphProto` of the model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.proto = model.graph
        self.refresh()

    def refresh(self) -> None:
        """Read the links again after the protobuf was edited directly."""
        self.constants = {tensor.name: tensor for tensor in self.proto.initializer}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._makers: dict[str, Any] = {}
        self._users: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in node.output:
                self._makers[name] = node
            for name in dict.fromkeys(node.input):
                if name:
                    self._users[name].append(node)

    @property
    def nodes(self) -> list[Any]:
        """Nodes in the file's order."""
        return list(self.proto.node)

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [output.name for output in self.proto.output]

    def maker(self, name: str) -> Any | None:
        """Return the node that computes a tensor; None for inputs and constants."""
        return self._makers.get(name)

    def users(self, name: str) -> list[Any]:
        """Return the nodes that use a tensor."""
        return list(self._users.get(name, ()))

    def only_user(self, name: str) -> Any | None:
        """Return the only node that uses a tensor; None with several users or for an output."""
        users = self._users.get(name, ())
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the values of a constant; None for anything else."""
        if name not in self.constants:
            return None
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self.constants[name])
        return self._arrays[name]

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer unless one has that name; returns the name."""
        if name not in self.constants:
            tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
            self.proto.initializer.append(tensor)
            self.constants[name] = self.proto.initializer[-1]
        return name

    def redirect(self, old: str, new: str, among: Iterable[Any] | None = None) -> None:
        """Make the users of `old` (or the nodes in `among`) use `new` instead."""
        for node in self.users(old) if among is None else list(among):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
            self._users[old] = [one for one in self._users[old] if one is not node]
            if all(one is not node for one in self._users[new]):
                self._users[new].append(node)

    def insert(self, nodes: Iterable[Any]) -> None:
        """Add nodes; a later `finish` sorts them."""
        self.proto.node.extend(nodes)
        self.refresh()

    def remove(self, nodes: Iterable[Any]) -> None:
        """Remove nodes and their links."""
        gone = {node.output[0] for node in nodes}
        keep(self.proto.node, lambda node: node.output[0] not in gone)
        self.refresh()

    def finish(self) -> None:
        """Drop unused nodes and constants, sort the nodes, and drop inferred shapes."""
        needed: set[str] = set()
        names = list(self.outputs)
        while names:
            node = self.maker(names.pop())
            if node is not None and node.output[0] not in needed:
                needed.add(node.output[0])
                names += node.input
        keep(self.proto.node, lambda node: node.output[0] in needed)
        used = {name for node in self.proto.node for name in node.input} | set(self.outputs)
        keep(self.proto.initializer, lambda tensor: tensor.name in used)
        del self.proto.value_info[:]
        self._sort()
        self.refresh()

    def _sort(self) -> None:
        """Order the nodes so that each comes after its inputs; ties keep their order."""
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.proto.node]
        made = {name: index for index, node in enumerate(nodes) for name in node.output}
        state = [0] * len(nodes)
        order: list[int] = []
        for start in range(len(nodes)):
            stack = [start]
            while stack:
                index = stack[-1]
                if state[index] == 0:
                    state[index] = 1
                    before = [made[name] for name in nodes[index].input if name in made]
                    stack += [other for other in reversed(before) if state[other] == 0]
                else:
                    stack.pop()
                    if state[index] == 1:
                        state[index] = 2
                        order.append(index)
        del self.proto.node[:]
        self.proto.node.extend(nodes[index] for index in order)


def keep(repeated: Any, wanted: Callable[[Any], bool]) -> None:
    """Drop the entries of a protobuf list that are not wanted."""
    # Deleting one by one preserves the identity of the others.
    for index in reversed(range(len(repeated))):
        if not wanted(repeated[index]):
            del repeated[index]


def is_dequantize(node: Any | None) -> bool:
    """Whether a node is a DequantizeLinear; False for None."""
    return node is not None and node.op_type == DEQUANTIZE


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, or `default`."""
    for one in node.attribute:
        if one.name == name:
            return onnx.helper.get_attribute_value(one)
    return default


def inferred_shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """Infer the shapes of all tensors with onnx; None stands for a dynamic side."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for info in [*inferred.input, *inferred.value_info, *inferred.output]:
        if info.type.tensor_type.HasField("shape"):
            sides = info.type.tensor_type.shape.dim
            shapes[info.name] = tuple(
                side.dim_value if side.HasField("dim_value") else None for side in sides
            )
    return shapes


def opset_of(model: Any) -> int:
    """Return the version of ONNX's own operators that a model requires; 0 when unknown."""
    return max(
        (item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0
    )


def volume(shape: Iterable[int]) -> int:
    """Return the number of values in a tensor of this shape."""
    return math.prod(shape)
