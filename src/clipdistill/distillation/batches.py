"""Splitting rows, and the order of batches."""

from __future__ import annotations

import hashlib
import math
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..images.sources import ImageItem


@dataclass(frozen=True)
class Share:
    """One process's share of one batch.

    Attributes:
        step: number of the batch in its epoch.
        rows: int (B,), the images.
        mirrored: bool (B,), which are drawn to be mirrored.
        shown: int (B,), 0 for the image itself, 1 to K for a view.
        size: images of the whole batch.
        items: the images themselves, where their bytes have been read; else None.
    """

    step: int
    rows: NDArray[np.intp]
    mirrored: NDArray[np.bool_]
    shown: NDArray[np.intp]
    size: int
    items: list[ImageItem] | None = None


class Order(Protocol):
    """The order of the images to learn from: a function of seed, epoch and step."""

    def steps(self, processes: int) -> int:
        """How many batches an epoch has."""

    def shares(self, epoch: int, rank: int, processes: int, step: int = 0) -> Iterator[Share]:
        """What process `rank` learns from in each step of an epoch, from `step` on."""


def split_rows(
    names: Iterable[str], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split rows into (train, validation) by a hash of their names.

    Exactly round(fraction x N) are held out, at most half; adding images moves few others.
    """
    digests = (hashlib.blake2b(f"{seed}\t{name}".encode(), digest_size=8) for name in names)
    # Numbers of 8 bytes, the first the most significant, are in the order of the digests.
    keys = np.fromiter((int.from_bytes(one.digest(), "big") for one in digests), np.uint64)
    order = np.argsort(keys, kind="stable")
    count = min(round(fraction * len(order)), len(order) // 2)
    return np.sort(order[count:]), np.sort(order[:count])


def some_rows(rows: NDArray[np.intp], count: int, seed: int) -> NDArray[np.intp]:
    """Choose `count` rows at random (all, if there are fewer), in ascending order."""
    order = np.random.default_rng((seed, len(rows))).permutation(rows)
    return np.sort(order[:count])


def batch_count(rows: int, batch_size: int, processes: int = 1) -> int:
    """How many batches `rows` make: of `batch_size` at most, but never of less than two rows a
    process, which batch normalisation could not use.
    """
    return max(1, min(math.ceil(rows / batch_size), rows // (2 * processes)))


def epoch_batches(
    rows: NDArray[np.intp], batch_size: int, seed: int, epoch: int, processes: int = 1
) -> tuple[list[NDArray[np.intp]], list[NDArray[np.bool_]]]:
    """Shuffle rows into batches whose sizes differ by one at most, and say which are mirrored.

    Every row comes exactly once.  No small rest is left (see `batch_count`).
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(rows)
    mirrored = random.random(len(rows)) < 0.5
    count = batch_count(len(rows), batch_size, processes)
    return np.array_split(order, count), np.array_split(mirrored, count)


def view_numbers(
    rows: int, views: int, seed: int, epoch: int, count: int
) -> list[NDArray[np.intp]]:
    """Choose what each image of an epoch shows: 0 the image itself, 1 to `views` a view.

    Returns:
        int (B,) for each of `count` batches, in the order of `epoch_batches`.
    """
    random = np.random.default_rng((seed, epoch, _VIEWS))
    return np.array_split(random.integers(0, views + 1, rows), count)


class ShuffledOrder:
    """All images shuffled, for every epoch: any image may follow any other.

    Args:
        rows: int (N,), the images to learn from.
        batch_size: images per step, over all processes.
        seed: of every draw.
        views: views per image that can be shown.
    """

    def __init__(
        self, rows: NDArray[np.intp], *, batch_size: int, seed: int, views: int = 0
    ) -> None:
        self.rows, self.batch_size, self.seed, self.views = rows, batch_size, seed, views

    def steps(self, processes: int) -> int:
        """How many batches an epoch has."""
        return batch_count(len(self.rows), self.batch_size, processes)

    def shares(self, epoch: int, rank: int, processes: int, step: int = 0) -> Iterator[Share]:
        """What process `rank` learns from in each step of an epoch, from `step` on."""
        rows, batch_size, seed = self.rows, self.batch_size, self.seed
        batches, mirrors = epoch_batches(rows, batch_size, seed, epoch, processes)
        shown = view_numbers(len(rows), self.views, seed, epoch, len(batches))
        for now in range(step, len(batches)):
            yield Share(
                now,
                np.array_split(batches[now], processes)[rank],
                np.array_split(mirrors[now], processes)[rank],
                np.array_split(shown[now], processes)[rank],
                len(batches[now]),
            )


_VIEWS = 1
"""Sets the choice of views apart from the order of images."""


def _step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    sequence = np.random.SeedSequence((seed, epoch, step, rank))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def _ahead(load: Any, steps: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """Call `load` on each step in one thread, at most `depth` results ahead of the caller."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in steps:
                if not put((load(step), None)):
                    return
            put((None, None))
        except BaseException as error:  # handed to the caller, who raises it
            put((None, error))

    thread = threading.Thread(target=work, name="load-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if error is not None:
                raise error
            if value is None:
                return
            yield value
    finally:
        stop.set()
        thread.join()
