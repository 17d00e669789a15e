"""An answer as it is shown: the best labels, or "unknown"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.wording import percent
from ...core.zeroshot import top_k
from ...models.recognizer import UNKNOWN


@dataclass(frozen=True)
class Prediction:
    """What is said of a frame.

    Attributes:
        label: the best, or "unknown".
        ranked: (label, probability), the likeliest first.
    """

    label: str
    ranked: tuple[tuple[str, float], ...]

    @property
    def headline(self) -> str:
        """Such as "dog 93%", or "unknown (dog 31%)"."""
        best, share = self.ranked[0]
        text = f"{best} {percent(share, 0)}"
        return text if self.label == best else f"{self.label} ({text})"


def decide(
    scores: NDArray[np.float32], labels: Sequence[str], most: int, threshold: float
) -> Prediction:
    """Rank float32 (C,) probabilities; below `threshold` the answer is "unknown"."""
    order = top_k(scores[None], most)[0]
    ranked = tuple((labels[index], float(scores[index])) for index in order)
    best, share = ranked[0]
    return Prediction(best if share >= threshold else UNKNOWN, ranked)
