"""Editing ONNX files with the onnx package: no torch, and a runtime only for checks.

links       a graph with its links, on which everything else works
files       loading untrusted files; checking and writing ours
tidy        cleaning up after torch's exporter
shapes      sizes that do not depend on the number of images, as constants
head        zero-shot head and metadata, shared by `export` and `relabel`
quantized   INT8 for TensorRT and OpenVINO: Q/DQ around every layer
cpu         INT8 for ONNX Runtime's CPU provider, made from the former
ranges      ranges of tensors on images, for `cpu`
half        FP16, strongly typed
weights     2:4 patterns and multiplications of the stored weights
lint        rules that check a file for its target
"""

from __future__ import annotations

from ...core.errors import MissingExtraError

try:
    import onnx as _onnx  # noqa: F401
except ImportError as _error:
    raise MissingExtraError("onnx", "train", "Working on an ONNX file") from _error

from .files import IR_VERSION, load_graph, save_graph
from .head import change_classes, check_head, describe, set_head
from .tidy import tidy

__all__ = [
    "IR_VERSION",
    "change_classes",
    "check_head",
    "describe",
    "load_graph",
    "save_graph",
    "set_head",
    "tidy",
]
