"""Small copies of images as data URIs."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ...core.errors import ClipDistillError, ImageError
from ...formats.predictions import Picture
from ...formats.run import RunFolder
from ...images.decode import decode
from ...images.sources import ImageItem, list_images, read_file

SIDE = 160
"""Longest side in pixels: sharp at 80 CSS pixels on a phone."""
QUALITY = 78
"""JPEG quality; a thumbnail has about 5 kB, measured on photographs."""


def thumbnail(picture: Picture, folder: RunFolder) -> str:
    """Return an image as "data:image/jpeg;base64,..."; empty where it cannot be read.

    An image that is no longer at its path is searched among the run's downloaded images.
    """
    try:
        return _shrunk(_bytes(picture, folder))
    except (ImageError, OSError):
        return ""


def _bytes(picture: Picture, folder: RunFolder) -> bytes:
    path = Path(picture.path)
    if path.suffix.lower() == ".tar" and path.is_file():
        return _from_tar(path, picture.key)
    if not path.exists():
        path = folder.images / Path(picture.key).name
    return read_file(path)


def _from_tar(path: Path, key: str) -> bytes:
    read = _members(path).get(_member(path, key))
    if read is None:
        raise ImageError("not in the tar")
    return read.read()


@lru_cache(maxsize=8)
def _members(path: Path) -> dict[str, ImageItem]:
    try:
        return {_member(path, item.key): item for item in list_images(path)}
    except ClipDistillError:
        return {}


def _member(path: Path, key: str) -> str:
    """Name of an image inside its tar; its key begins with the path of the tar."""
    return key.rpartition(f"{path.name}/")[2]


def _shrunk(data: bytes) -> str:
    image = decode(data, at_least=SIDE)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
