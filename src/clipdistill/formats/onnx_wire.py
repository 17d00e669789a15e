"""Reads ONNX files without the onnx package: their bytes, field by field.

A device has no onnx package, and a runtime opens the other files that an ONNX file names.  So the
file is walked here before a runtime gets it: in protobuf's wire format, mapped and not copied, with
bounds on size, depth and fields.  The numbers of fields are those of onnx.proto3
(github.com/onnx/onnx, `onnx/onnx.proto3`); they never change.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..core.errors import FormatError, InputError
from ..core.two_four import GROUP, is_two_four
from .classifier import MAX_FILE_BYTES

MAX_DEPTH = 24
"""Most messages in messages; a graph in an attribute of a node in a graph has 3."""
MAX_FIELDS = 4_000_000
"""Most fields of a file.  A ResNet-18 has 2,000, the largest ViTs 30,000; this many take
seconds."""
STANDARD_DOMAINS = ("", "ai.onnx")
ONNXRUNTIME_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")
"""ONNX Runtime includes com.microsoft, which its own quantiser writes."""
QUANTIZED = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""Operators that only a quantised network has; those of com.microsoft start with QLinear, too."""
FLOAT, INT8, FLOAT16 = 1, 3, 10
"""TensorProto.DataType."""
NUMPY_TYPES = {FLOAT: "<f4", INT8: "i1", FLOAT16: "<f2"}
LEAST_USED = 0.05
"""Least share of values that are not zero in a 2:4 tensor; an empty tensor is no 2:4 weight."""
WEIGHT_SIZE = 64
"""Least values of a layer's weight, a tensor of two or more dimensions."""
HEAD = "zeroshot/"
"""Prefix of the names of the nodes and constants of the zero-shot head."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Field = tuple[int, int, int, int]
"""(number, wire type, start, end) of a value; of a varint, its value in place of the start."""

# Fields of a message whose values are messages that may contain tensors or nodes.
_CHILDREN = {
    "model": {7: "graph", 8: "opset", 14: "entry", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_DATA_TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 2, 8, 9, 13, 14


@dataclass(frozen=True)
class Weight:
    """A stored tensor of a layer.

    Attributes:
        name: name in the graph.
        dims: shape.
        data_type: number of its type in TensorProto.
        start: byte of the file at which its raw values begin; 0 when they are stored otherwise.
        end: byte of the file at which they end.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.dims, dtype=np.int64))


@dataclass
class OnnxFacts:
    """Content of an ONNX file.

    Attributes:
        metadata: key-value texts.
        opset: version of the standard operators; 0 when unknown.
        operators: kinds of the nodes; of other domains as "domain.Kind".
        domains: domains of the nodes.
        weights: weights of the layers, tensors of two or more dimensions.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    opset: int = 0
    operators: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    weights: list[Weight] = field(default_factory=list)

    @property
    def precision(self) -> str:
        """Precision of operators and weights: "fp32", "fp16", "int8" or "int8+fp16"."""
        kinds = {operator.rpartition(".")[2] for operator in self.operators}
        quantized = any(kind in QUANTIZED or kind.startswith("QLinear") for kind in kinds)
        half = any(weight.data_type == FLOAT16 for weight in self.weights)
        parts = (["int8"] if quantized else []) + (["fp16"] if half else [])
        return "+".join(parts) or "fp32"


def read_onnx(path: Path, *, domains: tuple[str, ...] = ONNXRUNTIME_DOMAINS) -> OnnxFacts:
    """Read an ONNX file, and refuse what must not reach a runtime.

    Args:
        path: the file.
        domains: domains of the operators that the runtime includes.

    Raises:
        InputError: there is no such file.
        FormatError: it is too large, damaged, names other files, or needs other operators.
    """
    with _mapped(path) as data:
        facts = OnnxFacts()
        _Walk(path, data, facts).message("model", 0, len(data), 0)
    foreign = sorted(facts.domains - set(domains))
    if foreign:
        raise FormatError(
            f"{path}: it needs operators of {', '.join(map(repr, foreign[:3]))}, which are not "
            f"part of ONNX. Expected only {', '.join(repr(d) for d in domains if d)}. Make it "
            "again with: clipdistill export"
        )
    return facts


def sparse_share(path: Path, facts: OnnxFacts) -> float:
    """Return the share of the stored weights that are 2:4, 0 to 1; NaN without weights.

    Of any four consecutive weights along the input channels, two are zero.  The input channels are
    axis I of a convolution (O, I, H, W), and either axis of a matrix.
    """
    with _mapped(path) as data:
        total = sum(weight.size for weight in facts.weights)
        sparse = sum(weight.size for weight in facts.weights if _is_sparse(weight, data))
    return sparse / total if total else float("nan")


def file_size(path: Path) -> int:
    """Return the size of an ONNX file in bytes.

    Raises:
        InputError: there is no such file.
        FormatError: it is larger than an ONNX file can be.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such ONNX file. Make one with: clipdistill export")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FormatError(
            f"{path}: expected an ONNX file of at most 2 GiB, found {size / 2**30:.1f} GiB. Choose "
            "a smaller model."
        )
    return size


def _mapped(path: Path) -> mmap.mmap:
    if not file_size(path):
        raise _damaged(path, "it is empty")
    with open(path, "rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def _damaged(path: Path, reason: str) -> FormatError:
    return FormatError(
        f"{path}: not a readable ONNX file: it is truncated or of another kind ({reason}). Copy it "
        "again, or make it again with: clipdistill export"
    )


class _Walk:
    """One pass over a file's fields."""

    def __init__(self, path: Path, data: mmap.mmap, facts: OnnxFacts) -> None:
        self.path, self.data, self.facts = path, data, facts
        self.visited = 0

    def message(self, kind: str, start: int, end: int, depth: int) -> None:
        """Read a message and the messages in it."""
        if depth > MAX_DEPTH:
            raise _damaged(self.path, f"nested more than {MAX_DEPTH} deep")
        if kind == "tensor":
            self._tensor(start, end)
        elif kind == "opset":
            self._opset(start, end)
        elif kind == "entry":
            self._entry(start, end)
        else:
            children = _CHILDREN[kind]
            if kind == "node":
                self._node(start, end)
            for number, wire, first, last in self._fields(start, end):
                child = children.get(number)
                if child and wire == _BYTES:
                    self.message(child, first, last, depth + 1)

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        at = start
        while at < end:
            self.visited += 1
            if self.visited > MAX_FIELDS:
                raise _damaged(self.path, f"more than {MAX_FIELDS:,} fields")
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield number, wire, value, at
                continue
            length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
            if wire == _BYTES:
                length, at = self._varint(at, end)
            if length < 0 or at + length > end or not number:
                raise _damaged(self.path, f"byte {at} cannot be read")
            yield number, wire, at, at + length
            at += length

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at
        raise _damaged(self.path, f"byte {at} cannot be read")

    def _text(self, start: int, end: int) -> str:
        return self.data[start:end].decode(errors="replace")

    def _node(self, start: int, end: int) -> None:
        kind = domain = ""
        for number, wire, first, last in self._fields(start, end):
            if number == 4 and wire == _BYTES:
                kind = self._text(first, last)
            elif number == 7 and wire == _BYTES:
                domain = self._text(first, last)
        self.facts.domains.add(domain)
        own = domain in STANDARD_DOMAINS
        self.facts.operators.add(kind if own else f"{domain}.{kind}")

    def _opset(self, start: int, end: int) -> None:
        domain, version = "", 0
        for number, wire, first, last in self._fields(start, end):
            if number == 1 and wire == _BYTES:
                domain = self._text(first, last)
            elif number == 2 and wire == _VARINT:
                version = first
        if domain in STANDARD_DOMAINS:
            self.facts.opset = version

    def _entry(self, start: int, end: int) -> None:
        texts = {
            number: self._text(first, last)
            for number, wire, first, last in self._fields(start, end)
            if wire == _BYTES
        }
        self.facts.metadata[texts.get(1, "")] = texts.get(2, "")

    def _tensor(self, start: int, end: int) -> None:
        name, dims, data_type, raw = "", [], 0, (0, 0)
        for number, wire, first, last in self._fields(start, end):
            if number == 1 and wire == _VARINT:
                dims.append(first)
            elif number == 1 and wire == _BYTES:
                dims += self._packed(first, last)
            elif number == _DATA_TYPE and wire == _VARINT:
                data_type = first
            elif number == _NAME and wire == _BYTES:
                name = self._text(first, last)
            elif number == _RAW and wire == _BYTES:
                raw = (first, last)
            elif number == _EXTERNAL or (number == _LOCATION and first):
                raise FormatError(
                    f"{self.path}: refused: some of its values are in another file (external "
                    "data), and a runtime would read any path that it names. Give a file that "
                    "`clipdistill export` made, which has everything in it."
                )
        weight = Weight(name, tuple(dims), data_type, *raw)
        plausible = 1 < len(dims) <= 8 and max(dims) < 2**31
        if plausible and weight.size >= WEIGHT_SIZE and not name.startswith(HEAD):
            self.facts.weights.append(weight)

    def _packed(self, start: int, end: int) -> list[int]:
        values = []
        while start < end:
            value, start = self._varint(start, end)
            values.append(value)
        return values


def _is_sparse(weight: Weight, data: mmap.mmap) -> bool:
    kind = NUMPY_TYPES.get(weight.data_type)
    if kind is None or weight.end - weight.start != weight.size * np.dtype(kind).itemsize:
        return False
    # A copy: a view would keep the mapping open.
    values = np.frombuffer(data[weight.start : weight.end], dtype=kind).reshape(weight.dims) != 0
    return float(values.mean()) > LEAST_USED and any(
        weight.dims[axis] % GROUP == 0 and is_two_four(values, axis)
        for axis in ((0, 1) if len(weight.dims) == 2 else (1,))
    )
