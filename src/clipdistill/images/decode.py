"""Decoding: the bytes of any image file -> an upright 8-bit RGB image."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..core.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The Pillow decoders in use; untrusted files reach no others (JPEG opens MPO too)."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""File name endings (any case) that count as images."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation tag, and the transposition that makes an image of each value upright."""

MAX_PIXELS = 178_956_970
"""Pixels (width x height) above which an image is not decoded; Pillow's own hard limit."""

DAMAGED = (
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
    struct.error,
    zlib.error,
)
"""Exceptions that Pillow's decoders raise for damaged files."""


def decode(
    data: bytes, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image to mode RGB: EXIF orientation applied, first frame, alpha over white.

    Args:
        data: the whole encoded file.
        at_least: the shortest side that is needed, in pixels.  A JPEG whose sides are at least
            twice that is decoded at 1/2, 1/4 or 1/8 of its size, which is never below
            2 x `at_least`.  None decodes it at full size.
        max_pixels: most pixels (width x height), checked before anything is decoded.

    Raises:
        ImageError: the file is empty, not an image, of an unsupported format, truncated or too
            large.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"{image.width}x{image.height} pixels is over the limit of {max_pixels:,}"
            )
        if at_least is not None:
            image.draft("RGB", (2 * at_least, 2 * at_least))
        image.load()
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not a {', '.join(FORMATS[1:])} or JPEG image") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {max_pixels:,} pixels") from error
    except DAMAGED as error:
        raise ImageError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation; damaged EXIF is ignored.

    (Pillow's own `exif_transpose` also writes the EXIF anew, which fails on damaged EXIF.)
    """
    try:
        orientation = image.getexif().get(ORIENTATION)
    except DAMAGED:
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: 16 bit and float are scaled, alpha is put over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_grey(image).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        # Pillow converts premultiplied modes to RGBA in two steps only.
        straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Convert 16-bit, 32-bit and float greys to 8 bit.

    65535 is white in 16-bit images.  Wider integers and floats have no agreed white: it is 1 for
    floats within [0, 1], and else the image's largest value, at least 255.
    """
    values = np.asarray(image, dtype=np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < top <= 65535):
        white = 65535.0
    elif image.mode == "F" and top <= 1.0:
        white = 1.0
    else:
        white = max(top, 255.0)
    return Image.fromarray(np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))
