"""Surgery on ONNX files, with the onnx package alone: no torch, no runtime but for checks.

links       a graph with its links; everything else works on it
files       loading a stranger's file with care; checking and writing ours
tidy        what torch's exporter leaves behind
head        the zero-shot head and the metadata, shared by `export` and `relabel`
quantized   the INT8 file that TensorRT and OpenVINO like: Q/DQ around every layer
cpu         the INT8 file that ONNX Runtime's CPU provider likes, made from the former
ranges      which values a tensor takes on pictures, for `cpu`
half        FP16, strongly typed
weights     2:4 patterns and multiplications of the stored weights
lint        whether a file is ready for its target
"""

from __future__ import annotations

from ...core.errors import MissingExtraError

try:
    import onnx as _onnx  # noqa: F401
except ImportError as _error:
    raise MissingExtraError("onnx", "train", "Working on an ONNX file") from _error

from .files import IR_VERSION, OPSET, load_graph, save_graph
from .head import change_classes, check_head, describe, set_head
from .tidy import tidy

__all__ = [
    "IR_VERSION",
    "OPSET",
    "change_classes",
    "check_head",
    "describe",
    "load_graph",
    "save_graph",
    "set_head",
    "tidy",
]
