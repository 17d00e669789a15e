"""Intake of downloaded images: check them, and shrink them to what is stored."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from ..core.errors import ImageError
from .cost import bytes_needed
from .decode import decode, decoded, open_image

ENDINGS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tiff",
    "GIF": ".gif",
    "AVIF": ".avif",
    "HEIF": ".heic",
}
"""Pillow's format -> file name ending."""
KEEPABLE = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats whose bytes are stored unchanged when the image needs no shrinking."""
END = 1024
"""Bytes at the end of a JPEG in which its end mark is searched for."""
JPEG_QUALITY = 90
"""JPEG quality of shrunk images; teachers use 224 to 384 px of them."""


@dataclass(frozen=True)
class Intake:
    """What is stored of an image.

    Attributes:
        data: the encoded bytes.
        ending: file name ending for the format of the bytes, such as ".jpg".
        width: width in pixels, as stored (before EXIF's orientation is applied).
        height: height in pixels, as stored (before EXIF's orientation is applied).
    """

    data: bytes
    ending: str
    width: int
    height: int


def take_in(data: bytes, *, max_pixels: int, min_size: int, resize: int) -> Intake:
    """Check an image and make what is stored of it.

    The format is read from the bytes.  The limits of size are checked with the header, before
    anything is decoded.  Truncated files are found.

    Args:
        data: the whole encoded file.
        max_pixels: most pixels (width x height).
        min_size: least length of the shorter side, in pixels.
        resize: shrink the shorter side to this many pixels, keep the ratio, and encode as JPEG;
            of animations only the first frame is kept.  Images that are no larger keep their
            bytes.  0: always keep the bytes.

    Raises:
        ImageError: it is not an image, too large, too small or truncated.
    """
    kind, size, frames = _header(data)
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{width}x{height} pixels is over the limit of {max_pixels:,}")
    if min(width, height) < min_size:
        raise ImageError(f"{width}x{height} pixels is below the smallest side of {min_size}")
    fits = min(width, height) <= resize and kind in KEEPABLE and frames == 1
    if resize == 0 or fits:
        if not _has_end(kind, data):
            # Decode at the smallest scale, which still reads the whole file.
            decode(data, at_least=16, max_pixels=max_pixels)
        return Intake(data, ENDINGS[kind], width, height)
    with decoded(data, at_least=resize, max_pixels=max_pixels) as image:
        return _shrunk(image, resize)


def _header(data: bytes) -> tuple[str, tuple[int, int], int]:
    """Format, size and number of frames, without decoding pixels.

    Raises:
        ImageError: it is not an image, or would not be decoded.
    """
    with open_image(data) as image:
        bytes_needed(image, data)
        kind = image.format or ""
        # An MPO's further frames are other views; the first is the image.
        moving = kind in ("GIF", "WEBP", "PNG") and getattr(image, "is_animated", False)
        return kind, image.size, 2 if moving else 1


def _has_end(kind: str, data: bytes) -> bool:
    """Whether a JPEG has its end mark, so that it need not be decoded to find out if it is whole.

    Decoding a JPEG finds no other damage.  Cameras append data, so the mark need not be the last
    bytes.  Files of other formats are decoded, because they have checksums.
    """
    return kind in ("JPEG", "MPO") and data.find(b"\xff\xd9", max(0, len(data) - END)) >= 0


def _shrunk(image: Image.Image, side: int) -> Intake:
    scale = min(1.0, side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return Intake(file.getvalue(), ".jpg", *size)
