"""What 2:4 sparsity is: of any four consecutive input channels at most two weights are not zero.

NVIDIA's sparse tensor cores take this pattern, where the channels are aligned as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 4
KEPT = 2
INPUT_CHANNELS, OUTPUT_CHANNELS = 16, 8
"""What sparse kernels want the channels to be multiples of: the rule of NVIDIA's ASP and ModelOpt
(`modelopt/torch/sparsity/weight_sparsity/magnitude.py`), which prune nothing else."""
SPARSE = 0.2
"""Share of 2:4 weights that makes a model a sparse one; a dense one has none but by accident."""


def is_two_four(weight: NDArray[Any], axis: int) -> bool:
    """Whether of any four consecutive values along `axis` at most two are not zero.

    A last group of fewer than four counts as filled up with zeros.
    """
    lines = np.moveaxis(weight, axis, -1) != 0
    missing = -lines.shape[-1] % GROUP
    padded = np.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(0, missing)])
    return bool((padded.reshape(-1, GROUP).sum(axis=-1) <= KEPT).all())


def obstacle(inputs: int, outputs: int, groups: int = 1) -> str:
    """Why sparse kernels cannot take a layer, 2:4 or not; empty when they can.

    Args:
        inputs: channels of its weight.
        outputs: channels of its weight.
        groups: of a convolution.
    """
    if groups > 1:
        return f"{groups} groups"
    if inputs % INPUT_CHANNELS:
        return f"{inputs} input channels, not a multiple of {INPUT_CHANNELS}"
    if outputs % OUTPUT_CHANNELS:
        return f"{outputs} output channels, not a multiple of {OUTPUT_CHANNELS}"
    return ""


def is_sparse(share: float | None) -> bool:
    """Whether a share of 2:4 weights makes a sparse model."""
    return share is not None and share >= SPARSE
