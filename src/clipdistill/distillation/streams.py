"""The order of images in tars: tars are read from the beginning to the end, and in part shuffled.

The tars of an epoch follow one another in an order that is drawn anew, and are cut into as many
streams as `stream_count` says, each of the same number of images.  A stream is read in runs of
consecutive images, and every run is shuffled.  Image p of an epoch comes from stream p modulo the
number of streams, and batches are stretches of that order.

All this follows from the seed and the epoch.  A process reads the streams whose number, modulo the
number of processes, is its rank.  So any number of processes takes the same batches, all of them
take the same number of steps, and a training that was killed can continue with another number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..images.runs import read_run
from ..images.sources import ImageItem
from .batches import Share, batch_count

MOST_STREAMS = 240
"""A number with many divisors; more streams would only make their runs shorter."""
EVEN_STREAMS = 12
"""Larger numbers of streams are multiples of this, so that 2, 3, 4, 6 and 12 processes have the
same number of streams each."""
BUFFER_BYTES = 1 << 30
"""Most bytes of encoded images that a process holds; images beyond it are read when needed."""
READERS = 4
"""Threads that read ahead."""
_RUNS = 2
"""Sets the draws within runs apart from those of the order of tars."""


def stream_count(rows: int, batch_size: int) -> int:
    """How many streams `rows` images are read in: two images of each in every batch, or more."""
    most = min(MOST_STREAMS, rows // batch_count(rows, batch_size) // 2)
    return max(1, most if most <= EVEN_STREAMS else most // EVEN_STREAMS * EVEN_STREAMS)


@dataclass(frozen=True)
class _Run:
    """Consecutive images of one stream, in the order in which they are used.

    Attributes:
        first: place of the first of them in the stream.
        rows: int (n,), shuffled.
        places: int (n,), where each lies in the run as it is stored.
        mirrored: bool (n,).
        shown: int (n,), 0 for the image itself, 1 to K for a view.
    """

    first: int
    rows: NDArray[np.intp]
    places: NDArray[np.intp]
    mirrored: NDArray[np.bool_]
    shown: NDArray[np.intp]

    @property
    def last(self) -> int:
        """Place in the stream behind the last image."""
        return self.first + len(self.rows)

    def in_order(self, start: int) -> NDArray[np.intp]:
        """The rows from place `start` of the stream on, in the order in which they are stored."""
        left = slice(start - self.first, None)
        return self.rows[left][np.argsort(self.places[left])]


class StreamedOrder:
    """The order of images in tars, for every epoch.

    Args:
        rows: int (N,), the images to learn from, sorted by key.
        files: int (N,), which tar each is in.
        offsets: int (N,), where it lies in its tar.
        items: all images; None: their bytes are not read here.
        batch_size: images per step, over all processes.
        buffer: images that are shuffled together, over all streams.
        seed: of every draw.
        views: views per image that can be shown.
    """

    def __init__(
        self,
        rows: NDArray[np.intp],
        files: NDArray[np.integer],
        offsets: NDArray[np.integer],
        items: Sequence[ImageItem] | None,
        *,
        batch_size: int,
        buffer: int,
        seed: int,
        views: int = 0,
    ) -> None:
        starts = np.flatnonzero(np.diff(files)) + 1
        tars = np.zeros(len(rows), np.int32)
        tars[starts] = 1
        self._rows = rows[np.lexsort((offsets, np.cumsum(tars)))]
        self._bounds = np.concatenate([[0], starts, [len(rows)]])
        self._items = items
        self.batch_size, self.seed, self.views = batch_size, seed, views
        self.streams = stream_count(len(rows), batch_size)
        self.run = max(1, buffer // self.streams)

    def steps(self, processes: int) -> int:
        """How many batches an epoch has.

        Raises:
            InputError: there are more processes than streams.
        """
        if processes > self.streams:
            raise InputError(
                f"{processes} processes, but with --batch-size {self.batch_size} the tars are read "
                f"in {self.streams} streams. Start at most {self.streams} processes, or raise "
                "--batch-size."
            )
        return batch_count(len(self._rows), self.batch_size)

    def shares(self, epoch: int, rank: int, processes: int, step: int = 0) -> Iterator[Share]:
        """What process `rank` learns from in each step of an epoch, from `step` on."""
        steps, streams = self.steps(processes), self.streams
        mine = range(rank, streams, processes)
        with _Reader(self._items, len(mine)) as reader:
            tars = _Epoch(self, epoch)
            cursors = [_Stream(tars, number, reader) for number in mine]
            for now in range(step, steps):
                start, stop = (_bound(len(self._rows), steps, at) for at in (now, now + 1))
                parts = [
                    cursor.take(-((number - start) // streams), -((number - stop) // streams))
                    for number, cursor in zip(mine, cursors, strict=True)
                ]
                rows, mirrored, shown, items = zip(*parts, strict=True)
                read = None if self._items is None else [one for some in items for one in some]
                yield Share(
                    now,
                    np.concatenate(rows),
                    np.concatenate(mirrored),
                    np.concatenate(shown),
                    stop - start,
                    read,
                )


def _bound(count: int, parts: int, number: int) -> int:
    """Where part `number` begins when `count` is divided as evenly as possible."""
    return number * (count // parts) + min(number, count % parts)


class _Epoch:
    """The tars of one epoch, one after the other, and the streams that they are cut into."""

    def __init__(self, order: StreamedOrder, epoch: int) -> None:
        self.order, self.epoch = order, epoch
        bounds = order._bounds
        self._tars = np.random.default_rng((order.seed, epoch)).permutation(len(bounds) - 1)
        self._ends = np.concatenate([[0], np.cumsum(np.diff(bounds)[self._tars])])

    def length(self, stream: int) -> int:
        """The number of images of a stream."""
        return self._start(stream + 1) - self._start(stream)

    def run_at(self, stream: int, place: int) -> _Run:
        """The run that holds one place of a stream."""
        size = self.order.run
        # The first runs differ in length, so that not all streams begin a new one at once.
        ahead = stream * size // self.order.streams
        number = (place + ahead) // size
        first = max(0, number * size - ahead)
        last = min(self.length(stream), (number + 1) * size - ahead)
        start = self._start(stream)
        rows = self._stored(start + first, start + last)
        random = np.random.default_rng((self.order.seed, self.epoch, _RUNS, stream, number))
        places = random.permutation(len(rows))
        mirrored = random.random(len(rows)) < 0.5
        shown = random.integers(0, self.order.views + 1, len(rows))
        return _Run(first, rows[places], places, mirrored, shown)

    def _start(self, stream: int) -> int:
        return _bound(int(self._ends[-1]), self.order.streams, stream)

    def _stored(self, first: int, last: int) -> NDArray[np.intp]:
        """The rows from place `first` to `last` of the epoch, in the order of the tars."""
        parts = [self.order._rows[:0]]
        tar = int(np.searchsorted(self._ends, first, "right")) - 1
        while first < last:
            count = min(last, int(self._ends[tar + 1])) - first
            start = int(self.order._bounds[self._tars[tar]]) + first - int(self._ends[tar])
            parts.append(self.order._rows[start : start + count])
            first, tar = first + count, tar + 1
        return np.concatenate(parts)


class _Stream:
    """One stream, from which images are taken in order."""

    def __init__(self, epoch: _Epoch, number: int, reader: _Reader) -> None:
        self._epoch, self._number, self._reader = epoch, number, reader
        self._run: _Run | None = None
        self._next: tuple[_Run, Future[dict[int, ImageItem]]] | None = None
        self._items: dict[int, ImageItem] = {}

    def take(
        self, start: int, stop: int
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.intp], list[ImageItem]]:
        """Rows, mirroring, views, and images (empty without a reader), at places of the stream."""
        parts: list[tuple[_Run, slice]] = []
        items: list[ImageItem] = []
        while start < stop:
            run = self._at(start)
            some = slice(start - run.first, min(stop, run.last) - run.first)
            parts.append((run, some))
            if self._reader.active:
                items += [self._items.pop(row) for row in run.rows[some].tolist()]
            start = run.first + some.stop
        empty = np.zeros(0, np.intp)
        return (
            np.concatenate([empty, *(run.rows[some] for run, some in parts)]),
            np.concatenate([empty.astype(bool), *(run.mirrored[some] for run, some in parts)]),
            np.concatenate([empty, *(run.shown[some] for run, some in parts)]),
            items,
        )

    def _at(self, place: int) -> _Run:
        """The run that holds a place, read; the run behind it is read meanwhile."""
        if self._run is None or not self._run.first <= place < self._run.last:
            self._run, future = self._next or self._begin(place)
            self._items = future.result()
            more = self._run.last < self._epoch.length(self._number)
            self._next = self._begin(self._run.last) if more else None
        return self._run

    def _begin(self, place: int) -> tuple[_Run, Future[dict[int, ImageItem]]]:
        run = self._epoch.run_at(self._number, place)
        return run, self._reader.read(run.in_order(place))


class _Reader:
    """Reads runs in threads, for a number of streams."""

    def __init__(self, items: Sequence[ImageItem] | None, streams: int) -> None:
        self._items = items
        self._limit = BUFFER_BYTES // (2 * max(1, streams))  # a run in use, and the next one
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read")

    @property
    def active(self) -> bool:
        """Whether anything is read."""
        return self._items is not None

    def read(self, rows: NDArray[np.intp]) -> Future[dict[int, ImageItem]]:
        """Read images, by row."""
        if self._items is None:
            done: Future[dict[int, ImageItem]] = Future()
            done.set_result({})
            return done
        items, numbers = self._items, rows.tolist()

        def run() -> dict[int, ImageItem]:
            read = read_run((items[row] for row in numbers), self._limit)
            return dict(zip(numbers, read, strict=True))

        return self._pool.submit(run)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
