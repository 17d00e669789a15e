"""How fast a network runs as an exported file, before it is trained."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..formats.classifier import OnnxCard
from ..images.preprocess import Preprocess
from ..models.runtimes.ort import time_file

if TYPE_CHECKING:
    import torch

TIMED_RUNS = 30
"""Of a network that is timed; the first third warms up."""


def latency_ms(network: torch.nn.Module, dim: int, image_size: int, arch: str) -> float:
    """Measure a network in ONNX Runtime on the CPU: median milliseconds of one image, FP32.

    The file is the one that `export` would write, without its classes.

    Args:
        network: float32 (N, 3, S, S) -> (N, dim), on the CPU, in eval mode; computed paddings
            become constant.
        dim: length of an embedding.
        image_size: side of its input in pixels.
        arch: name of the network, for the message.

    Raises:
        ClipDistillError: torch cannot export it.
    """
    from ..models.tracing import trace
    from .graph import load_graph, save_graph, tidy

    pixels = np.zeros((1, 3, image_size, image_size), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        trace(network, image_size, arch, path)
        model = load_graph(path)
        tidy(model, OnnxCard("student", arch, dim, Preprocess(image_size), teacher=None))
        save_graph(model, path)
        seconds = time_file(path, pixels, TIMED_RUNS)
    return 1000 * statistics.median(seconds[TIMED_RUNS // 3 :])
