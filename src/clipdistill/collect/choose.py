"""Choosing the images of a class list: relevant, balanced, without near-duplicates (numpy).

Each image belongs to its most similar label.  Then the labels take turns in their order.  In its
turn, a label takes its best remaining image that is no near-duplicate of an image taken before (by
any label), until it has enough.  So the result is balanced wherever it is cut, and of two
near-duplicates the one that ranks higher stays.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Numbers = NDArray[np.integer]

TAKEN = "taken"
NEAR_DUPLICATE = "near-duplicate"
BELOW_THRESHOLD = "below-threshold"
OVER_COUNT = "over-count"
OVER_MAX = "over-max"
STATUSES = (TAKEN, NEAR_DUPLICATE, BELOW_THRESHOLD, OVER_COUNT, OVER_MAX)
"""The outcomes by their codes."""
_CODES = {status: code for code, status in enumerate(STATUSES)}

LOOK_AHEAD = 1024
"""Candidates per comparison with the taken images, over all labels."""
KEPT_AT_ONCE = 8192
"""Taken vectors per comparison; 16 MB of 512 dimensions."""


@dataclass(frozen=True)
class Choice:
    """The outcome for each of N images.

    Attributes:
        order: int64, the taken images in the order in which they were taken.
        rank: uint32 (N,), place among the images of its label by score, from 1.
        codes: uint8 (N,), places in `STATUSES`.
        duplicate_of: int32 or int64 (N,), the taken image of which it is a near-duplicate, or -1;
            where they were found before, the image that stays.
    """

    order: Numbers
    rank: NDArray[np.uint32]
    codes: NDArray[np.uint8]
    duplicate_of: Numbers

    @property
    def status(self) -> list[str]:
        """N words: taken, near-duplicate, below-threshold, over-count, over-max."""
        return [STATUSES[code] for code in self.codes.tolist()]

    def are(self, places: Numbers, *statuses: str) -> NDArray[np.bool_]:
        """Whether each of some images has one of these outcomes, bool (n,)."""
        codes = self.codes[places]
        found = np.zeros(len(codes), bool)
        for status in statuses:  # `np.isin` takes 8 bytes and more of each
            found |= codes == _CODES[status]
        return found


def choose(
    labels: NDArray[np.integer],
    scores: Floats,
    vectors: Callable[[Numbers], Floats],
    *,
    num_labels: int,
    min_score: float | None = None,
    per_label: int | None = None,
    most: int | None = None,
    duplicates: float = 1.0,
    repeats: Numbers | None = None,
) -> Choice:
    """Choose among N images.

    Args:
        labels: int (N,), the label of each.
        scores: float32 (N,), its similarity with that label.
        vectors: returns the unit vectors float32 (n, D) of some of the images.
        num_labels: number of labels.
        min_score: least score of a taken image.
        per_label: most taken images per label.
        most: most taken images, over all labels.
        duplicates: cosine from which two images are near-duplicates; 1 or more: none are.
        repeats: int32 or int64 (N,), near-duplicates that were found before (see `clusters`): the
            image that stays, or -1; they are left out.
    """
    queues, rank = _ranked(labels, scores, num_labels)
    codes = np.full(len(labels), _CODES[OVER_COUNT], np.uint8)
    kind = np.int32 if len(labels) < 1 << 31 else np.int64
    duplicate_of: Numbers = np.full(len(labels), -1, kind) if repeats is None else repeats
    if min_score is not None:
        below = scores < np.float32(min_score)
        codes[below] = _CODES[BELOW_THRESHOLD]
        queues = [queue[~below[queue]] for queue in queues]
    if repeats is not None:
        codes[repeats >= 0] = _CODES[NEAR_DUPLICATE]
        queues = [queue[repeats[queue] < 0] for queue in queues]
    taken = Taken(vectors, duplicates)
    ahead = max(16, LOOK_AHEAD // max(1, num_labels))
    turns = [_Turn(queue, taken, ahead, codes, duplicate_of) for queue in queues]
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
        codes[rest[:room]] = _CODES[OVER_MAX]
    order = np.asarray(taken.items, np.int64)
    return Choice(order, rank, codes, duplicate_of)


def _ranked(
    labels: NDArray[np.integer], scores: Floats, num_labels: int
) -> tuple[list[Numbers], NDArray[np.uint32]]:
    """The images of each label, best first (ties: the lower number), and the rank of each image."""
    order = np.lexsort((-scores, labels))  # which is stable
    order = order.astype(np.uint32 if len(order) < 1 << 32 else np.int64)
    bounds = np.searchsorted(labels[order], np.arange(num_labels + 1))
    rank = np.empty(len(labels), np.uint32)
    queues: list[Numbers] = []
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
        self.items = array("q")
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
        codes: NDArray[np.uint8],
        duplicate_of: Numbers,
    ) -> None:
        self.queue, self.taken, self.ahead = queue, taken, ahead
        self.codes, self.duplicate_of = codes, duplicate_of
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
                self.codes[item] = _CODES[TAKEN]
                return True
            self.codes[item] = _CODES[NEAR_DUPLICATE]
            self.duplicate_of[item] = self.taken.items[match]
        return False

    def _candidates(self) -> Iterator[tuple[int, Floats | None, int]]:
        """Yield each image, its vector, and the place of the image that it repeats (-1: none)."""
        if not self.taken.looks:
            for item in self.queue:
                yield int(item), None, -1
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
