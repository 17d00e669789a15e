"""The prediction for a frame as it is shown: the best labels, or "unknown"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.wording import percent
from ...core.zeroshot import ranked
from ...models.recognizer import UNKNOWN


@dataclass(frozen=True)
class Prediction:
    """Prediction for one frame.

    Attributes:
        label: best label, or "unknown".
        ranked: (label, probability) pairs, the best first.
    """

    label: str
    ranked: tuple[tuple[str, float], ...]

    @property
    def headline(self) -> str:
        """Prediction as text, such as "dog 93%" or "unknown (dog 31%)"."""
        best, share = self.ranked[0]
        text = f"{best} {percent(share, 0)}"
        return text if self.label == best else f"{self.label} ({text})"


def decide(
    scores: NDArray[np.float32], labels: Sequence[str], most: int, threshold: float
) -> Prediction:
    """Rank float32 (C,) probabilities; below `threshold` the label is "unknown"."""
    best_first = ranked(scores, labels, most)
    best, share = best_first[0]
    return Prediction(best if share >= threshold else UNKNOWN, best_first)
