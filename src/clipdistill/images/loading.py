"""Reading many images: decode and resize in threads, in order, with bounded memory.

It uses threads, not processes: Pillow releases the interpreter lock while it decodes and resizes,
nothing is pickled, and Ctrl-C needs no clean-up.
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
from .budget import FILES
from .decode import decoded
from .preprocess import Preprocess
from .sources import ImageItem, content_id
from .views import ViewSpec, view_pixels


@dataclass(frozen=True)
class Loaded:
    """One image, ready for a model, or the reason why it is not.

    Attributes:
        item: the image that was loaded.
        pixels: uint8 (S, S, 3); None when loading failed.
        reason: why loading failed; empty when it did not fail.
        content: `content_id` of its bytes; empty when they could not be read.
        views: uint8 (K, S, S, 3), when views were requested.
        parameters: float32 (K, 8), the parameters of the views.
    """

    item: ImageItem
    pixels: NDArray[np.uint8] | None
    reason: str = ""
    content: str = ""
    views: NDArray[np.uint8] | None = None
    parameters: NDArray[np.float32] | None = None


def default_workers() -> int:
    """Number of threads for decoding: the processors this process may use, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, usable or 1))


ViewsToShow = ViewSpec | NDArray[np.float32]
"""How to draw views, or the parameters (K, 8) of one image's views."""


def load_one(item: ImageItem, preprocess: Preprocess, views: ViewsToShow | None = None) -> Loaded:
    """Read and decode one image once, then resize and crop it, and make its views.

    A bad image is returned with its reason.
    """
    content = ""
    try:
        with FILES.hold(item.size):
            data = item.read()
            content = content_id(data)
            with decoded(data, at_least=preprocess.size) as image:
                pixels = preprocess.to_pixels(image)
                if views is None:
                    return Loaded(item, pixels, "", content)
                drawn = views.draw(content, image) if isinstance(views, ViewSpec) else views
                shown = np.stack([view_pixels(image, view, preprocess) for view in drawn])
                return Loaded(item, pixels, "", content, shown, drawn)
    except ImageError as error:
        return Loaded(item, None, str(error), content)
    except (MemoryError, RecursionError) as error:
        reason = f"there is not enough memory to use it ({type(error).__name__})"
        return Loaded(item, None, reason, content)


def load_pixels(
    items: Iterable[ImageItem],
    preprocess: Preprocess,
    *,
    workers: int,
    ahead: int = 256,
    views: ViewSpec | Iterable[NDArray[np.float32]] | None = None,
) -> Iterator[Loaded]:
    """Load images in threads and yield them in order.

    Args:
        items: the images.
        preprocess: how to resize and crop them.
        workers: number of threads; 0 loads in the calling thread.
        ahead: most images that wait decoded, which bounds the memory.
        views: views to make of each image: how to draw them, or each image's parameters (K, 8).
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
    """Yield (good, failed) groups of images, `size` good ones each (the last may be smaller)."""
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
    """Stack the pixels of the good images to uint8 (N, S, S, 3)."""
    return np.stack([one.pixels for one in loaded if one.pixels is not None])
