"""Reading images that lie one after the other in tars, before they are decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..core.errors import ClipDistillError
from .sources import ImageItem, open_regular


@dataclass(frozen=True)
class ReadImage(ImageItem):
    """An image whose bytes are in memory.

    Attributes:
        data: the encoded bytes.
    """

    data: bytes = b""

    def read(self) -> bytes:
        """Return `data`."""
        return self.data


def read_run(items: Iterable[ImageItem], limit: int) -> list[ImageItem]:
    """Read images in the order given, with each tar open once while its images follow.

    Args:
        items: images; those of one tar should come in the order of the tar.
        limit: most bytes that are kept.

    Returns:
        A `ReadImage` for each image.  What is beyond the limit, lies outside tars or cannot be read
        is returned as it is: it is read, or gives its reason, when it is used.
    """
    found: list[ImageItem] = []
    left = limit
    path: Path | None = None
    with contextlib.ExitStack() as stack:
        handle: BinaryIO | None = None
        for item in items:
            if item.offset is not None and item.path != path:
                stack.close()
                path, handle = item.path, None
                with contextlib.suppress(ClipDistillError, OSError):
                    handle = stack.enter_context(open_regular(path))
            data = None
            if handle is not None and item.size <= left:
                data = _member(handle, item)
            if data is None:
                found.append(item)
                continue
            left -= len(data)
            about = (item.key, item.path, item.size, item.mtime_ns, item.offset)
            found.append(ReadImage(*about, data=data))
    return found


def _member(handle: BinaryIO, item: ImageItem) -> bytes | None:
    """The bytes of an image in an open tar; None where they cannot be read."""
    if item.offset is None or item.problem:
        return None
    try:
        handle.seek(item.offset)
        data = handle.read(item.size)
    except (ClipDistillError, OSError, MemoryError, OverflowError):
        return None
    return data if len(data) == item.size else None
