"""What a model answers about an image, as the page gets it: plain values for JSON."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image

from ...core.zeroshot import judged
from ...models.recognizer import Recognizer

SHOWN = 5
"""Labels in an answer."""
SHOWN_OF_SEVERAL = 12
"""Labels in an answer of independent classes, of which an image may have several."""


def answer(recognizer: Recognizer, image: Image.Image) -> dict[str, Any]:
    """Classify one image.

    Args:
        recognizer: the model with its classes.
        image: RGB, of any size.

    Returns:
        "ranked": up to `SHOWN` (label, probability 0 to 1), the likeliest first, and of independent
        classes (label, probability, threshold of the label); "milliseconds": what resizing and the
        model took, decoding excluded.
    """
    start = time.perf_counter()
    pixels = np.stack([recognizer.preprocess.to_pixels(image)])
    shares = recognizer.probabilities(pixels)[0]
    took = 1000 * (time.perf_counter() - start)
    labels, least = recognizer.labels, recognizer.thresholds
    ranked: list[tuple[Any, ...]]
    if least is None:
        ranked = list(judged(shares, labels, SHOWN, 0.0)[0])
    else:
        known = dict(zip(labels, least.tolist(), strict=True))
        best, _ = judged(shares, labels, SHOWN_OF_SEVERAL, least)
        ranked = [(label, share, known[label]) for label, share in best]
    return {"ranked": ranked, "milliseconds": round(took, 2)}
