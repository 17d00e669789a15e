"""A picture that just arrived: is it one, is it whole, is it fit, and what of it is stored."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from ..core.errors import ImageError
from .decode import FORMATS, decode

ENDINGS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tiff",
    "GIF": ".gif",
}
"""Pillow's format -> file name ending."""
KEEPABLE = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats whose bytes are stored as they came when the picture needs no shrinking."""
END = 1024
"""Bytes at the end of a JPEG in which its end mark is looked for."""
JPEG_QUALITY = 90
"""Of shrunk pictures; teachers see 224 to 384 px of them."""


@dataclass(frozen=True)
class Intake:
    """What is stored of a picture.

    Attributes:
        data: the encoded bytes.
        ending: file name ending of the type they are, such as ".jpg".
        width: in pixels, as stored (before EXIF's turn).
        height: likewise.
    """

    data: bytes
    ending: str
    width: int
    height: int


def take_in(data: bytes, *, max_pixels: int, min_size: int, resize: int) -> Intake:
    """Check a picture and make what is stored of it.

    The type is told by the bytes; size limits are checked from the header, before anything is
    decoded; a truncated file is found now.

    Args:
        data: the whole encoded file.
        max_pixels: refuse larger pictures (width x height).
        min_size: refuse pictures whose shorter side is below, in pixels.
        resize: shrink the shorter side to this, keeping the ratio, and encode as JPEG; animations
            keep their first frame.  Pictures that are no larger keep their bytes.  0: the bytes as
            they came, always.

    Raises:
        ImageError: not a picture, too large, too small, truncated.
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
            # At the smallest scale: that walks over the whole file.
            decode(data, at_least=16, max_pixels=max_pixels)
        return Intake(data, ENDINGS[kind], width, height)
    image = decode(data, at_least=resize, max_pixels=max_pixels)
    return _shrunk(image, resize)


def _header(data: bytes) -> tuple[str, tuple[int, int], int]:
    """Format, size and number of frames, without decoding pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kind = image.format or ""
            # An MPO's further frames are other views; the first is the picture.
            moving = kind in ("GIF", "WEBP", "PNG") and getattr(image, "is_animated", False)
            return kind, image.size, 2 if moving else 1
    except UnidentifiedImageError as error:
        raise ImageError(f"not a picture, it begins with {data[:12]!r}") from error
    except Image.DecompressionBombError as error:
        raise ImageError("more pixels than any limit") from error
    # As in `decode`: what Pillow's parsers raise on damaged files.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        LookupError,
        TypeError,
        ArithmeticError,
        MemoryError,
        AttributeError,
        AssertionError,
        RuntimeError,
    ) as error:
        raise ImageError(f"damaged header: {str(error) or type(error).__name__}") from error


def _has_end(kind: str, data: bytes) -> bool:
    """Whether a JPEG shows its end (decoding it would tell no more: damage within is not noticed).

    Cameras append things, so the mark need not be the very last; where it is not near the end, and
    for other kinds, whose sums are worth checking, only decoding tells.
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
