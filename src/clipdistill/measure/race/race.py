"""Timing in turns: every round times each model, so that drift of the machine affects all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ...core.errors import ClipDistillError

WARM_UP_RUNS = 3
"""Untimed passes of each batch size, for memory pages, kernels and thread pools."""
TURN_SECONDS = 0.25
"""Duration of one turn of a model, for each batch size."""
MOST_RUNS = 50
"""Most passes in one turn."""


class Racer(Protocol):
    """A model that can be timed."""

    def time(self, batch: int, runs: int) -> list[float]:
        """Return the seconds of each of `runs` passes with `batch` images."""


@dataclass
class Timing:
    """Times of one racer.

    Attributes:
        seconds: batch size -> for each round, the seconds of its passes.
        failure: why it did not finish; empty when it finished.
    """

    seconds: dict[int, list[list[float]]] = field(default_factory=dict)
    failure: str = ""

    def median(self, batch: int) -> float:
        """Return the median seconds of a pass, over all rounds."""
        return float(np.median(self._all(batch)))

    def percentile(self, batch: int, share: float) -> float:
        """Return the seconds that a `share` of all passes stayed below."""
        return float(np.quantile(self._all(batch), share))

    def round_medians(self, batch: int) -> list[float]:
        """Return the median seconds of each round, for paired ratios."""
        return [float(np.median(turn)) for turn in self.seconds.get(batch, [])]

    def _all(self, batch: int) -> list[float]:
        return [second for turn in self.seconds.get(batch, []) for second in turn] or [float("nan")]


def race(
    racers: Sequence[Racer],
    batches: Sequence[int],
    rounds: int,
    step: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Warm all racers up, then time each once per round.

    The order shifts by one each round, so that the first place alternates.

    Args:
        racers: the models to time.
        batches: batch sizes.
        rounds: number of rounds.
        step: called after each turn, including the warm-up.
    """
    timings = [Timing({batch: [] for batch in batches}) for _ in racers]
    runs: list[dict[int, int]] = [{} for _ in racers]
    for number in range(-1, rounds):
        for place in range(len(racers)):
            index = (place + max(number, 0)) % len(racers)
            if not timings[index].failure:
                _turn(racers[index], timings[index], runs[index], number < 0)
            step()
    return timings


def _turn(racer: Racer, timing: Timing, runs: dict[int, int], warm_up: bool) -> None:
    try:
        for batch in timing.seconds:
            if warm_up:
                seconds = float(np.median(racer.time(batch, WARM_UP_RUNS)))
                runs[batch] = int(np.clip(TURN_SECONDS / max(seconds, 1e-9), 1, MOST_RUNS))
            else:
                timing.seconds[batch].append(racer.time(batch, runs[batch]))
    except ClipDistillError as error:
        timing.failure = str(error)
