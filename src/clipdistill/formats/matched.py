"""Which stored embedding each image has, found by streaming the rows: they are never all loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.vectors import Vectors
from ..images.sources import Listing
from .cards import TeacherCard
from .embeddings import (
    Embeddings,
    Header,
    check_finite,
    counted,
    embeddings_at_hand,
    find_rows,
    iter_rows,
    load_embeddings,
    map_vectors,
    open_views,
    read_header,
    shard_files,
)
from .row_finder import RowFinder
from .rows import CONTENT_BYTES, Contents
from .views import Views

COMPARED_AT_ONCE = 1 << 16
"""Rows that are compared at once, which bounds the temporary memory."""


@dataclass(frozen=True)
class Matched:
    """N images and the embeddings that they have.

    Attributes:
        root: folder of the embeddings.
        header: teacher and layout.
        items: the images that have an embedding.
        contents: the content of each, as it was embedded; empty where unknown.
        targets: float16 or float32 (N, D) on the disk, the embedding of each.
        views: the stored views of each; None without views.
        not_embedded: images without an embedding, which are left out.
        gone: embeddings without an image.
        example: name of an embedded image; empty where there is none.
    """

    root: Path
    header: Header
    items: Listing
    contents: Contents
    targets: Vectors
    views: Views | None
    not_embedded: int
    gone: int
    example: str

    @property
    def teacher(self) -> TeacherCard:
        """The teacher that made the embeddings."""
        return self.header.teacher

    def fingerprint(self) -> str:
        """Fingerprint of the images and of the teacher of their embeddings: 32 hex digits."""
        digest = hashlib.blake2b(str(self.teacher.fingerprint).encode(), digest_size=16)
        for key, content in zip(self.items.keys, self.contents, strict=True):
            digest.update(f"\n{key}\t{content}".encode())
        # A sample of the vectors tells raw ones from normalised ones, and other unnamed teachers.
        some = self.targets[:: max(1, len(self.targets) // 64)]
        digest.update(np.ascontiguousarray(some).tobytes())
        if self.views is not None:
            digest.update(f"{self.views.spec}".encode())
        return digest.hexdigest()


def match_embeddings(items: Listing, root: Path) -> Matched:
    """Bring images and embeddings together by name.

    Beside the images it keeps 20 bytes per image, and 12 more while it works.

    Raises:
        InputError: there is no such folder, or no embeddings in it.
        MismatchError: its shards are of different teachers.
        FormatError: a shard is damaged, or the embedding of an image is not finite.
    """
    root = embeddings_at_hand(root)
    header = read_header(root) if root.is_dir() else None
    if header is None or header.layout == "npy" or header.teacher.fingerprint is None:
        return _of_loaded(items, load_embeddings(root))
    shards = counted(shard_files(root), header)
    stored = sum(shard.count for shard in shards)
    if not stored:
        return _of_loaded(items, load_embeddings(root))  # says what is missing
    finder = RowFinder(items.keys, stored, count_others=True)
    packed = np.zeros((len(items), CONTENT_BYTES), np.uint8)
    example = ""
    for start, rows in iter_rows(shards, header):
        places = finder.add(np.arange(start, start + len(rows)), rows.keys)
        there = places >= 0
        packed[places[there]] = rows.contents.packed()[there]
        example = example or (rows.keys[0] if rows else "")
    found, gone = finder.rows(), finder.others()
    del finder
    missing = int((found < 0).sum())
    contents = Contents(packed)
    if missing:
        kept = np.flatnonzero(found >= 0)
        items, contents, found = items.take(kept), contents.take(kept), found[kept]
    vectors = map_vectors(shards, header.teacher.dim)
    views = open_views(header, shards)
    if not _in_order(found, stored):
        vectors = vectors.take(found)
        views = None if views is None else views.of(found)
    check_finite(root, items.keys, vectors)
    return Matched(root, header, items, contents, vectors, views, missing, gone, example)


def _of_loaded(items: Listing, loaded: Embeddings) -> Matched:
    """The same for folders of few images, and those without a card."""
    rows = find_rows(loaded, items.keys)
    there = np.flatnonzero(rows >= 0)
    order = rows[there]
    views = loaded.views()
    return Matched(
        root=loaded.root,
        header=loaded.header,
        items=items.take(there),
        contents=loaded.rows.contents.take(order),
        targets=loaded.mapped.take(order),
        views=None if views is None else views.of(order),
        not_embedded=len(items) - len(there),
        gone=len(loaded.rows) - len(np.unique(order)),
        example=loaded.rows[0].image_path,
    )


def _in_order(rows: NDArray[np.integer], stored: int) -> bool:
    """Whether rows are 0, 1, ... to the last one."""
    if len(rows) != stored:
        return False
    for start in range(0, stored, COMPARED_AT_ONCE):
        stop = min(start + COMPARED_AT_ONCE, stored)
        if not np.array_equal(rows[start:stop], np.arange(start, stop)):
            return False
    return True
