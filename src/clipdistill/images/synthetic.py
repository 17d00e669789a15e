"""Synthetic images, for measurements and checks without real ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth_pixels(count: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw smooth, seeded random images: uint8 (N, S, S, 3)."""
    random = np.random.default_rng(seed)
    waves = random.uniform(-6, 6, (count, 2, 1, 1, 3))
    line = np.linspace(0, 1, side)
    down, across = waves[:, 0] * line[None, :, None, None], waves[:, 1] * line[None, None, :, None]
    values = 0.5 + 0.4 * np.sin(down + across) + random.normal(0, 0.08, (count, side, side, 3))
    return np.clip(255 * values, 0, 255).astype(np.uint8)
