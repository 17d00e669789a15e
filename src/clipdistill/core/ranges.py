"""The range of every number that is an option of a verb.

An option of one name means the same in every verb, so its range is here once.  A verb that needs a
narrower one checks that itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import OptionError

LARGEST = 1 << 63
"""Largest whole number of any option."""


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`, both included unless `above` or `below` is set."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number is in the range; NaN and infinity are in none."""
        if isinstance(value, int) and abs(value) > LARGEST:
            return False  # no float can hold it
        enough = value > self.least if self.above else value >= self.least
        little = value < self.most if self.below else value <= self.most
        return math.isfinite(value) and enough and little

    def __str__(self) -> str:
        """The range in words."""
        least = f"above {self.least:g}" if self.above else f"{self.least:g}"
        if math.isinf(self.most):
            return least if self.above else f"{least} or more"
        comma = ", " if self.above else " "
        return f"{least}{comma}to {'below ' if self.below else ''}{self.most:g}"


ANY, SOME, POSITIVE = Range(0), Range(1), Range(0, above=True)
SHARE, FACTOR, HALF = Range(0, 1), Range(0, 1, below=True), Range(0, 0.5)

RANGES = {
    "aesthetic_score": Range(0, 9),
    "aesthetic_weight": SHARE,
    "backoff": ANY,
    "batch_size": SOME,
    "cache_gb": ANY,
    "calibration_images": SOME,
    "camera": ANY,
    "checkpoint_seconds": ANY,
    "crop": Range(0, 1, above=True),
    "duplicates": SHARE,
    "ema_decay": FACTOR,
    "exact_up_to": ANY,
    "fine_tuning_epochs": SOME,
    "fine_tuning_lr": POSITIVE,
    "fps": Range(0, 1000, above=True),
    "grad_clip": ANY,
    "holdout": Range(0, 0.5, above=True),
    "image_size": Range(16),
    "limit": SOME,
    "lr": POSITIVE,
    "max_body": SOME,
    "max_bytes": SOME,
    "max_images": SOME,
    "max_latency": POSITIVE,
    "max_pixels": SOME,
    "max_results": SOME,
    "max_size": POSITIVE,
    "max_workers": SOME,
    "min_score": Range(-1, 1),
    "min_size": ANY,
    "momentum": FACTOR,
    "num_epochs": SOME,
    "num_images": SOME,
    "num_result_ids": ANY,
    "num_workers": ANY,
    "output_dim": SOME,
    "per_host": SOME,
    "port": Range(0, 65535),
    "resize": ANY,
    "retries": ANY,
    "rounds": SOME,
    "searches": SOME,
    "seed": ANY,
    "shard_count": SOME,
    "shard_index": ANY,
    "shard_size": SOME,
    "shuffle_buffer": SOME,
    "threads": SOME,
    "threshold": SHARE,
    "timeout": POSITIVE,
    "top_k": SOME,
    "total_bytes": ANY,
    "total_timeout": POSITIVE,
    "val_fraction": HALF,
    "view_seed": ANY,
    "views": ANY,
    "warmup": FACTOR,
    "weight_decay": ANY,
    "workers": SOME,
    "workspace": SOME,
}
"""Name of an option -> the numbers that it takes."""


def check_numbers(given: Mapping[str, Any]) -> None:
    """Refuse numbers out of range, in the words of the command line.

    Args:
        given: name of an option -> its value; those without a range are not checked.

    Raises:
        OptionError: a number is out of range.
    """
    for name, value in given.items():
        expected = RANGES.get(name)
        if expected is not None and isinstance(value, int | float) and value not in expected:
            option = "--" + name.replace("_", "-")
            raise OptionError(f"{option} {value}: expected {expected}.")
