"""Reading many pictures: decode and resize in threads, in order, with bounded memory.

Threads, not processes: Pillow releases the interpreter lock while it decodes and resizes, nothing
is pickled, and Ctrl-C needs no clean-up.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ImageError
from .decode import decode
from .preprocess import Preprocess
from .sources import ImageItem, content_id
from .views import ViewSpec, view_pixels


@dataclass(frozen=True)
class Loaded:
    """One picture, ready for a model, or the reason why not.

    Attributes:
        item: which.
        pixels: uint8 (S, S, 3); None when it failed.
        reason: why it failed; empty when it did not.
        content: `content_id` of its bytes; empty when it could not be read.
        views: uint8 (K, S, S, 3), where views were asked for.
        parameters: float32 (K, 8), what they show.
    """

    item: ImageItem
    pixels: NDArray[np.uint8] | None
    reason: str = ""
    content: str = ""
    views: NDArray[np.uint8] | None = None
    parameters: NDArray[np.float32] | None = None


def default_workers() -> int:
    """Threads for decoding: the processors this process may use, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, usable or 1))


ViewsToShow = ViewSpec | NDArray[np.float32]
"""Views to be drawn, or the parameters (K, 8) of one image's views."""


def load_one(item: ImageItem, preprocess: Preprocess, views: ViewsToShow | None = None) -> Loaded:
    """Read and decode one image once, then resize and crop it, and show its views.

    A bad image comes back with its reason.
    """
    content = ""
    try:
        data = item.read()
        content = content_id(data)
        image = decode(data, at_least=preprocess.size)
        pixels = preprocess.to_pixels(image)
        if views is None:
            return Loaded(item, pixels, "", content)
        drawn = views.draw(content, image) if isinstance(views, ViewSpec) else views
        shown = np.stack([view_pixels(image, view, preprocess) for view in drawn])
        return Loaded(item, pixels, "", content, shown, drawn)
    except ImageError as error:
        return Loaded(item, None, str(error), content)


def load_pixels(
    items: Iterable[ImageItem],
    preprocess: Preprocess,
    *,
    workers: int,
    ahead: int = 256,
    views: ViewSpec | Iterable[NDArray[np.float32]] | None = None,
) -> Iterator[Loaded]:
    """Load pictures in threads and yield them in order.

    Args:
        items: which.
        preprocess: resize and crop.
        workers: threads; 0 loads in the calling thread.
        ahead: pictures that may wait decoded, which bounds the memory.
        views: also show these views of each: how to draw them, or each image's parameters (K, 8).
    """
    shown: Iterable[ViewsToShow | None] = itertools.repeat(None)
    if views is not None:
        shown = itertools.repeat(views) if isinstance(views, ViewSpec) else views
    jobs = zip(items, shown)  # noqa: B905  (one of them may be endless)
    if workers <= 0:
        for item, view in jobs:
            yield load_one(item, preprocess, view)
        return
    waiting: collections.deque[Future[Loaded]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item, view in jobs:
            waiting.append(pool.submit(load_one, item, preprocess, view))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batched(loaded: Iterable[Loaded], size: int) -> Iterator[tuple[list[Loaded], list[Loaded]]]:
    """Group into (good ones, failed ones) with `size` good ones each (the last may have fewer)."""
    good: list[Loaded] = []
    failed: list[Loaded] = []
    for one in loaded:
        (failed if one.pixels is None else good).append(one)
        if len(good) == size:
            yield good, failed
            good, failed = [], []
    if good or failed:
        yield good, failed


def stack(loaded: Sequence[Loaded]) -> NDArray[np.uint8]:
    """The pixels of good pictures as uint8 (N, S, S, 3)."""
    return np.stack([one.pixels for one in loaded if one.pixels is not None])
