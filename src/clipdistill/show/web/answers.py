"""What a model answers about an image, as the page gets it: plain values for JSON."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image

from ...core.zeroshot import top_k
from ...models.recognizer import Recognizer

SHOWN = 5
"""Labels in an answer."""


def answer(recognizer: Recognizer, image: Image.Image) -> dict[str, Any]:
    """Classify one image.

    Args:
        recognizer: the model with its classes.
        image: RGB, of any size.

    Returns:
        "ranked": up to `SHOWN` (label, probability 0 to 1), the likeliest first; "milliseconds":
        what resizing and the model took, decoding excluded.
    """
    start = time.perf_counter()
    pixels = np.stack([recognizer.preprocess.to_pixels(image)])
    shares = recognizer.probabilities(pixels)[0]
    took = 1000 * (time.perf_counter() - start)
    best = top_k(shares[None], SHOWN)[0]
    ranked = [(recognizer.labels[index], float(shares[index])) for index in best]
    return {"ranked": ranked, "milliseconds": round(took, 2)}
