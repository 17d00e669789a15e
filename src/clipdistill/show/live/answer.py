"""The prediction for a frame as it is shown: the best labels, or "unknown"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.wording import UNKNOWN, percent
from ...core.zeroshot import Floats, judged


@dataclass(frozen=True)
class Prediction:
    """Prediction for one frame.

    Attributes:
        label: best label, or "unknown".
        ranked: (label, probability) pairs, the best first.
        more: other labels that the frame has, of independent classes; they follow the best one in
            `ranked`.
    """

    label: str
    ranked: tuple[tuple[str, float], ...]
    more: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Prediction as text: "dog 93%", "dog 93%, ball 71%" or "unknown (dog 31%)"."""
        shown = self.ranked[: 1 + len(self.more)]
        text = ", ".join(f"{label} {percent(share, 0)}" for label, share in shown)
        return text if self.label == self.ranked[0][0] else f"{self.label} ({text})"

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that the frame has, or "unknown"."""
        return (self.label, *self.more)


def decide(
    scores: NDArray[np.float32], labels: Sequence[str], most: int, least: float | Floats
) -> Prediction:
    """Rank float32 (C,) probabilities; see `zeroshot.judged`."""
    best_first, has = judged(scores, labels, most, least)
    return Prediction(has[0] if has else UNKNOWN, best_first, has[1:])
