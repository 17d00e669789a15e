"""Choosing the images of a class list: relevant, balanced, without near-duplicates (numpy).

Each image belongs to its most similar label.  Then the labels take turns in their order.  In its
turn, a label takes its best remaining image that is no near-duplicate of an image taken before (by
any label), until it has enough.  So the result is balanced wherever it is cut, and of two
near-duplicates the one that ranks higher stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

TAKEN = "taken"
NEAR_DUPLICATE = "near-duplicate"
BELOW_THRESHOLD = "below-threshold"
OVER_COUNT = "over-count"
OVER_MAX = "over-max"

LOOK_AHEAD = 1024
"""Candidates per comparison with the taken images, over all labels."""
KEPT_AT_ONCE = 8192
"""Taken vectors per comparison; 16 MB of 512 dimensions."""


@dataclass(frozen=True)
class Choice:
    """The outcome for each of N images.

    Attributes:
        order: int64, the taken images in the order in which they were taken.
        rank: int64 (N,), place among the images of its label by score, from 1.
        status: N words: taken, near-duplicate, below-threshold, over-count, over-max.
        duplicate_of: int64 (N,), the taken image of which it is a near-duplicate, or -1.
    """

    order: Numbers
    rank: Numbers
    status: list[str]
    duplicate_of: Numbers


def choose(
    labels: Numbers,
    scores: Floats,
    vectors: Callable[[Numbers], Floats],
    *,
    num_labels: int,
    min_score: float | None = None,
    per_label: int | None = None,
    most: int | None = None,
    duplicates: float = 1.0,
) -> Choice:
    """Choose among N images.

    Args:
        labels: int64 (N,), the label of each.
        scores: float32 (N,), its similarity with that label.
        vectors: returns the unit vectors float32 (n, D) of some of the images.
        num_labels: number of labels.
        min_score: least score of a taken image.
        per_label: most taken images per label.
        most: most taken images, over all labels.
        duplicates: cosine from which two images are near-duplicates; 1 or more: none are.
    """
    queues, rank = _ranked(labels, scores, num_labels)
    status = np.full(len(labels), OVER_COUNT, dtype=object)
    duplicate_of = np.full(len(labels), -1, np.int64)
    if min_score is not None:
        below = scores < np.float32(min_score)
        status[below] = BELOW_THRESHOLD
        queues = [queue[~below[queue]] for queue in queues]
    taken = Taken(vectors, duplicates)
    ahead = max(16, LOOK_AHEAD // max(1, num_labels))
    turns = [_Turn(queue, taken, ahead, status, duplicate_of) for queue in queues]
    counts = [0] * num_labels
    waiting = list(range(num_labels))
    while waiting and (most is None or len(taken.items) < most):
        for label in list(waiting):
            if most is not None and len(taken.items) >= most:
                break
            full = per_label is not None and counts[label] >= per_label
            if full or not turns[label].take():
                waiting.remove(label)
            else:
                counts[label] += 1
    for label in waiting:  # these stopped at `most`
        rest = turns[label].rest()
        room = len(rest) if per_label is None else per_label - counts[label]
        status[rest[:room]] = OVER_MAX
    order = np.asarray(taken.items, np.int64)
    return Choice(order, rank, status.tolist(), duplicate_of)


def _ranked(labels: Numbers, scores: Floats, num_labels: int) -> tuple[list[Numbers], Numbers]:
    """The images of each label, best first (ties: the lower number), and the rank of each image."""
    order = np.lexsort((np.arange(len(labels)), -scores, labels))
    bounds = np.searchsorted(labels[order], np.arange(num_labels + 1))
    rank = np.empty(len(labels), np.int64)
    queues = []
    for label in range(num_labels):
        queue = order[bounds[label] : bounds[label + 1]]
        rank[queue] = np.arange(1, len(queue) + 1)
        queues.append(queue)
    return queues, rank


class Taken:
    """The images taken so far, and the search for near-duplicates of them.

    Args:
        vectors: returns the unit vectors of some images.
        threshold: cosine from which two images are near-duplicates; 1 or more: none are.
    """

    def __init__(self, vectors: Callable[[Numbers], Floats], threshold: float) -> None:
        self.items: list[int] = []
        self.vectors = vectors
        self.threshold = threshold
        self._kept = np.empty((0, 0), np.float32)

    @property
    def looks(self) -> bool:
        """Whether near-duplicates are searched for."""
        return self.threshold < 1

    def add(self, item: int, vector: Floats | None) -> None:
        """Add a taken image; `vector` may be None when near-duplicates are not searched for."""
        if vector is not None:
            if len(self._kept) <= len(self.items):
                grown = np.empty((max(1024, 2 * len(self.items)), len(vector)), np.float32)
                if self.items:
                    grown[: len(self.items)] = self._kept[: len(self.items)]
                self._kept = grown
            self._kept[len(self.items)] = vector
        self.items.append(item)

    def first_match(self, vectors: Floats, since: int = 0) -> Numbers:
        """Find near-duplicates: for each of (n, D) vectors the place of a taken image, or -1.

        It is the first such image from place `since` on.
        """
        found = np.full(len(vectors), -1, np.int64)
        for start in range(since, len(self.items), KEPT_AT_ONCE):
            open_ones = np.flatnonzero(found < 0)
            if not len(open_ones):
                break
            kept = self._kept[start : min(start + KEPT_AT_ONCE, len(self.items))]
            alike = vectors[open_ones] @ kept.T >= self.threshold
            hit = alike.any(axis=1)
            found[open_ones[hit]] = start + alike[hit].argmax(axis=1)
        return found


class _Turn:
    """One label's images, best first, compared with the taken images in blocks."""

    def __init__(
        self,
        queue: Numbers,
        taken: Taken,
        ahead: int,
        status: NDArray[np.object_],
        duplicate_of: Numbers,
    ) -> None:
        self.queue, self.taken, self.ahead = queue, taken, ahead
        self.status, self.duplicate_of = status, duplicate_of
        self.place = 0
        self.candidates = self._candidates()

    def rest(self) -> Numbers:
        """The images that were not considered yet."""
        return self.queue[self.place :]

    def take(self) -> bool:
        """Take the best remaining image that is no near-duplicate; False when there is none."""
        for item, vector, match in self.candidates:
            self.place += 1
            if match < 0:
                self.taken.add(item, vector)
                self.status[item] = TAKEN
                return True
            self.status[item] = NEAR_DUPLICATE
            self.duplicate_of[item] = self.taken.items[match]
        return False

    def _candidates(self) -> Iterator[tuple[int, Floats | None, int]]:
        """Yield each image, its vector, and the place of the image that it repeats (-1: none)."""
        if not self.taken.looks:
            yield from ((item, None, -1) for item in self.queue.tolist())
            return
        for start in range(0, len(self.queue), self.ahead):
            items = self.queue[start : start + self.ahead]
            vectors = self.taken.vectors(items)
            seen = len(self.taken.items)
            matches = self.taken.first_match(vectors)
            for number, item in enumerate(items.tolist()):
                match = int(matches[number])
                if match < 0:
                    later = self.taken.first_match(vectors[number : number + 1], since=seen)
                    match = int(later[0])
                yield item, vectors[number], match


def without_repeats(vectors: Floats, threshold: float) -> Numbers:
    """The places of (n, D) unit vectors that are no near-duplicates of earlier ones, ascending."""
    labels = np.zeros(len(vectors), np.int64)
    scores = -np.arange(len(vectors), dtype=np.float32)
    picked = choose(
        labels, scores, lambda items: vectors[items], num_labels=1, duplicates=threshold
    )
    return picked.order
