"""Random crops of the images to learn from, drawn anew in every epoch.

The teacher has not embedded them, so the embedding to learn is that of the whole image.  They cost
next to nothing; `embed --views` stores crops with the teacher's embedding of each.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, grid_sample

RATIO = 0.2
"""Largest difference of the logarithm of a crop's width to height from that of the image."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The crop that is the whole image."""
_CROPS = 2
"""Sets these draws apart from those of the order (see `batches`)."""
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of SplitMix64 (Steele et al. 2014)."""


def draw_crops(rows: NDArray[np.intp], least: float, seed: int, epoch: int) -> NDArray[np.float32]:
    """Draw a crop for each image, anew in every epoch.

    A crop depends on seed, epoch and row alone, not on the order or the number of processes.

    Args:
        rows: int (B,), the images.
        least: smallest share of the image's area in a crop, above 0; the largest is 1.
        seed: of every draw.
        epoch: from 0.

    Returns:
        float32 (B, 4): middle (x, y) and half of width and height, where the image reaches from
        -1 to 1 in both directions.
    """
    where, shape = _uniform(rows, 4, seed, epoch).reshape(-1, 2, 2).transpose(1, 0, 2)
    area = least + (1 - least) * shape[:, 0]
    ratio = np.exp(RATIO * (2 * shape[:, 1] - 1))
    sides = np.sqrt(np.stack([area * ratio, area / ratio], axis=1)).clip(max=1)
    middles = (2 * where - 1) * (1 - sides)
    return np.concatenate([middles, sides], axis=1).astype(np.float32)


def cropped(pixels: torch.Tensor, crops: torch.Tensor) -> torch.Tensor:
    """Crop images and enlarge the crops to the images' size, bilinearly.

    Beyond the middle of the outermost pixels their colour goes on, as with the padding "border",
    which torch before 2.13 does not have on MPS.

    Args:
        pixels: float32 (B, C, H, W).
        crops: float32 (B, 4), as `draw_crops` gives them; `WHOLE` changes nothing.

    Returns:
        float32 (B, C, H, W).
    """
    middles, sides = crops[:, :2], crops[:, 2:]
    boxes = torch.cat([torch.diag_embed(sides), middles[:, :, None]], dim=2)
    grid = affine_grid(boxes, list(pixels.shape), align_corners=False)
    height, width = pixels.shape[2:]
    outermost = torch.tensor([1 - 1 / width, 1 - 1 / height], device=grid.device)
    grid = torch.minimum(torch.maximum(grid, -outermost), outermost)
    return grid_sample(pixels, grid, align_corners=False)


def _uniform(rows: NDArray[np.intp], count: int, seed: int, epoch: int) -> NDArray[np.float64]:
    """Numbers from 0 to below 1, float64 (B, count): those of SplitMix64 at the rows' places."""
    state = np.random.SeedSequence((seed, epoch, _CROPS)).generate_state(1, np.uint64)
    starts = rows.astype(np.uint64)[:, None] * np.uint64(count)
    bits: NDArray[np.uint64] = starts + np.array(range(1, count + 1), np.uint64)
    bits = bits * np.uint64(_GOLDEN) + state  # modulo 2^64, as all of these
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    bits = bits ^ (bits >> np.uint64(31))
    result: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) / (1 << 53)
    return result
