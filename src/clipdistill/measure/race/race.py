"""Timing in turns: a round asks everyone, so that a machine that drifts hurts all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ...core.errors import ClipDistillError

WARM_UP_RUNS = 3
"""Passes of each batch before the clock counts: pages, kernels and thread pools."""
TURN_SECONDS = 0.25
"""How long a model is asked for at a time, for each batch."""
MOST_RUNS = 50
"""Passes in one turn, however fast they are."""


class Racer(Protocol):
    """Something that can be timed."""

    def time(self, batch: int, runs: int) -> list[float]:
        """Seconds of each of `runs` passes of `batch` pictures."""


@dataclass
class Timing:
    """What the clock said of one racer.

    Attributes:
        seconds: batch -> a list of passes for each round.
        failure: why it did not finish; empty when it did.
    """

    seconds: dict[int, list[list[float]]] = field(default_factory=dict)
    failure: str = ""

    def median(self, batch: int) -> float:
        """Median seconds of a pass, over all rounds."""
        return float(np.median(self._all(batch)))

    def percentile(self, batch: int, share: float) -> float:
        """Seconds that a `share` of all passes stayed below."""
        return float(np.quantile(self._all(batch), share))

    def round_medians(self, batch: int) -> list[float]:
        """Median seconds of each round: what paired ratios are made of."""
        return [float(np.median(turn)) for turn in self.seconds.get(batch, [])]

    def _all(self, batch: int) -> list[float]:
        return [second for turn in self.seconds.get(batch, []) for second in turn] or [float("nan")]


def race(
    racers: Sequence[Racer],
    batches: Sequence[int],
    rounds: int,
    step: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Warm everyone up, then time everyone once a round.

    The order moves on by one each round: nobody always follows the same neighbour.

    Args:
        racers: who is timed.
        batches: pictures at once.
        rounds: how often everyone is asked.
        step: called after each turn, warm-ups included.
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
