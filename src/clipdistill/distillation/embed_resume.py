"""Which images are embedded already: by name, size and time, or by content where those changed.

The rows are streamed: 37 bytes per image are in memory at most, beside 36 of each that moved or is
new.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ImageError
from ..core.texts import Index
from ..formats.embeddings import EmbeddingStore, Failure, npy_path
from ..formats.row_finder import RowFinder
from ..formats.rows import CONTENT_BYTES, Row, Rows
from ..images.sources import Listing, content_id

LOOKED_UP_AT_ONCE = 1 << 20
"""Files whose content is read before the rows are searched for it: 50 MB."""


@dataclass(frozen=True)
class Moved:
    """Images that were embedded before under other names.

    Attributes:
        items: n images.
        contents: uint8 (n, 16), what is in their files.
        sources: int64 (n,), the row that has the vector of each.
    """

    items: Listing
    contents: NDArray[np.uint8]
    sources: NDArray[np.int64]


@dataclass(frozen=True)
class Resumption:
    """What is to be done: decided from names, sizes and times, or from content where those moved.

    Attributes:
        todo: images to embed.
        kept: number of those that are embedded.
        moves: those that are embedded under other names.
        failures: those that cannot be embedded.
    """

    todo: Listing
    kept: int
    moves: list[Moved]
    failures: list[Failure]

    @property
    def moved(self) -> int:
        """Number of images that are embedded under other names."""
        return sum(len(part.items) for part in self.moves)


def gone_images(items: Listing, store: EmbeddingStore) -> int:
    """How many of the embedded images are not among `items`."""
    finder = RowFinder(items.keys, store.count, count_others=True)
    for start, rows in store.rows():
        finder.add(np.arange(start, start + len(rows)), rows.keys)
    return finder.others()


def plan_resume(items: Listing, store: EmbeddingStore, recheck: bool) -> Resumption:
    """Sort out what is embedded already.

    Reads only files whose name, size or time is new; with `recheck`, all of them.
    """
    wanted = np.ones(len(items), bool)
    failures: list[Failure] = []
    if store.header.layout == "npy":
        places, failures = _without_collisions(items, store)
        wanted[:] = False
        wanted[places] = True
    rows, same = _stored(items, store)
    kept = 0
    if not recheck:
        kept = int((same & wanted).sum())
        wanted &= ~same
    todo: list[NDArray[np.integer]] = []
    moved: list[Moved] = []
    left = np.flatnonzero(wanted)
    for start in range(0, len(left), LOOKED_UP_AT_ONCE):
        some = left[start : start + LOOKED_UP_AT_ONCE]
        if not store.count:
            todo.append(some)
            continue
        contents = _contents(items, some)
        own, sources = _by_content(contents, rows[some], store)
        kept += int(own.sum())
        todo.append(some[~own & (sources < 0)])
        found = np.flatnonzero(~own & (sources >= 0))
        moved.append(Moved(items.take(some[found]), contents[found], sources[found]))
    todo_places = np.concatenate([np.empty(0, np.intp), *todo])
    rest = items if len(todo_places) == len(items) else items.take(todo_places)
    return Resumption(rest, kept, moved, failures)


def _stored(items: Listing, store: EmbeddingStore) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
    """The last row of each image, -1 without one, and whether its size and time are the file's."""
    finder = RowFinder(items.keys, store.count)
    same = np.zeros(len(items), bool)
    for start, rows in store.rows():
        places = finder.add(np.arange(start, start + len(rows)), rows.keys)
        there = places >= 0
        at = places[there]
        same[at] = (rows.sizes[there] == items.sizes[at]) & (rows.times[there] == items.times[at])
    return finder.rows(), same


def _contents(items: Listing, places: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The contents of some images, uint8 (n, 16); zeros where one cannot be read."""
    found = np.zeros((len(places), CONTENT_BYTES), np.uint8)
    for number, place in enumerate(places.tolist()):
        with contextlib.suppress(ImageError):
            content = content_id(items[place].read())
            found[number] = np.frombuffer(bytes.fromhex(content), np.uint8)
    return found


def _by_content(
    contents: NDArray[np.uint8], own: NDArray[np.integer], store: EmbeddingStore
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Look for images among all rows by what is in their files.

    Args:
        contents: uint8 (n, 16); zeros where unknown.
        own: int (n,), row of the image of the same name; -1 without one.
        store: the rows.

    Returns:
        bool (n,), whether that row has this content; int64 (n,), the last row that has it, or -1.
    """
    known = contents.any(axis=1)
    different, group = np.unique(contents, axis=0, return_inverse=True)
    heads = _heads(different)
    order = np.argsort(heads)
    same = np.zeros(len(own), bool)
    found = np.full(len(different), -1, np.int64)
    holding = _holding(store)
    alike = int(np.unique(heads, return_counts=True)[1].max())  # agree in 8 bytes: nearly always 1
    for start, rows in store.rows():
        packed = rows.contents.packed()
        here = np.flatnonzero((own >= start) & (own < start + len(rows)) & known)
        same[here] = (packed[own[here] - start] == contents[here]).all(axis=1)
        theirs = _heads(packed)
        first = np.searchsorted(heads, theirs, side="left", sorter=order)
        for further in range(alike):
            place = order[np.minimum(first + further, len(order) - 1)]
            hits = (packed == different[place]).all(axis=1)
            if holding is not None:
                hits &= holding[start : start + len(rows)]
            found[place[hits]] = start + np.flatnonzero(hits)
    return same, np.where(known, found[group.reshape(-1)], -1)


def _heads(contents: NDArray[np.uint8]) -> NDArray[np.int64]:
    return contents[:, :8].copy().view(np.int64)[:, 0]


def _holding(store: EmbeddingStore) -> NDArray[np.bool_] | None:
    """Whether each row has its own vector, bool (N,); None: all.

    In layout "npy", which is for small sets, the vector of an image that changed is the new one's.
    """
    if store.header.layout != "npy":
        return None
    latest = Index(Rows.joined(part for _, part in store.rows()).keys).latest()
    holding = np.full(store.count, latest is None)
    if latest is not None:
        holding[latest] = True
    return holding


def _without_collisions(
    items: Listing, store: EmbeddingStore
) -> tuple[NDArray[np.intp], list[Failure]]:
    """The places of images whose vectors get a file of their own, and the other images."""
    taken: dict[Path, str] = {}
    places: list[int] = []
    failures: list[Failure] = []
    for place, key in enumerate(items.keys):
        first = taken.setdefault(npy_path(store.root, key), key)
        if first == key:
            places.append(place)
        else:
            reason = f"{first} has the same name, and layout npy keeps one file a name"
            failures.append(Failure(key, reason))
    return np.array(places, np.intp), failures


def append_moved(store: EmbeddingStore, moved: Sequence[Moved], shard_size: int) -> None:
    """Give renamed images the vectors their content already has."""
    if not any(len(part.sources) for part in moved):
        return
    vectors, views = store.stored()
    for part in moved:
        for start in range(0, len(part.sources), shard_size):
            some = slice(start, start + shard_size)
            places = part.sources[some]
            rows = [
                Row(item.key, content.tobytes().hex(), item.size, item.mtime_ns)
                for item, content in zip(part.items[some], part.contents[some], strict=True)
            ]
            seen = None
            if views is not None:
                seen = (views.embeddings(places), views.parameters(places))
            store.append(rows, vectors[places], seen)
