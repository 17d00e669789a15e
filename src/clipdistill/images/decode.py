"""Decoding: the bytes of any image file -> an upright 8-bit RGB image."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..core.errors import ImageError
from .budget import PIXEL_BYTES, PIXELS
from .cost import bytes_needed
from .png import bare_png

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
"""The Pillow decoders in use; untrusted files reach no others (JPEG opens MPO too).  AVIF needs a
Pillow that has it, HEIF needs pillow-heif."""

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
)
"""File name endings (any case) of images that can be read everywhere."""
AVIF_ENDINGS = (".avif",)
HEIF_ENDINGS = (".heic", ".heif", ".hif")
"""Endings of images that can be read where their decoder is installed."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""What a HEIF file has at its bytes 8 to 12, after "ftyp"."""

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


STRIP_PIXELS = 1 << 20
"""Pixels that are converted at once, which bounds the memory of a conversion."""


def endings() -> tuple[str, ...]:
    """File name endings (lower case) of images that can be read with what is installed."""
    avif = AVIF_ENDINGS if _installed("PIL._avif") else ()
    return (*ENDINGS, *avif, *(HEIF_ENDINGS if _installed("pillow_heif") else ()))


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image, and nothing more.

    Raises:
        ImageError: the file is empty, not an image, of an unsupported format or too large.
    """
    if not data:
        raise ImageError("the file is empty")
    with _explained(data, max_pixels):
        image = _open(data)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"{image.width}x{image.height} pixels is over the limit of {max_pixels:,}"
            )
        return image


@contextlib.contextmanager
def decoded(
    data: bytes, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Decode an image as `decode` does, and count its memory until the block ends.

    It waits while the threads that decode need more than `budget.PIXEL_BYTES` together.  Do not
    decode another image within the block.

    Raises:
        ImageError: as for `decode`.
    """
    image = open_image(data, max_pixels=max_pixels)
    with _explained(data, max_pixels):
        if at_least is not None:
            image.draft("RGB", (2 * at_least, 2 * at_least))
        need = bytes_needed(image, data)
        if need > PIXEL_BYTES:
            raise ImageError(
                f"{image.width}x{image.height} pixels of {image.format} need "
                f"{need / 2**30:.1f} GiB to decode, the limit is {PIXEL_BYTES / 2**30:.0f} GiB"
            )
    with PIXELS.hold(need):
        with _explained(data, max_pixels):
            image = _loaded(image, data)
            turn = _turn(image)
            # Rebound, so that each image is freed before the next but one is made.
            image = _to_rgb(image)
            image = image if turn is None else image.transpose(turn)
        yield image


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
        ImageError: the file is empty, not an image, of an unsupported format, truncated, too
            large, or a JPEG of too many scans.
    """
    with decoded(data, at_least=at_least, max_pixels=max_pixels) as image:
        return image


@lru_cache(maxsize=4)
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def _open(data: bytes) -> Image.Image:
    try:
        return _identified(data)
    except (UnidentifiedImageError, *DAMAGED):
        bare = bare_png(data)
        if bare is None:
            raise
        return _identified(bare)


def _identified(data: bytes) -> Image.Image:
    _silence_pixel_warning()
    return Image.open(io.BytesIO(data), formats=_formats(data))


def _formats(data: bytes) -> list[str]:
    formats = [one for one in FORMATS if one not in ("AVIF", "HEIF")]
    if _installed("PIL._avif"):
        formats.append("AVIF")
    if _is_heif(data) and _installed("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats.append("HEIF")
    return formats


@lru_cache(maxsize=1)
def _silence_pixel_warning() -> None:
    """Pillow warns above 89 megapixels; `MAX_PIXELS` and the budget are checked instead."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextlib.contextmanager
def _explained(data: bytes, max_pixels: int) -> Iterator[None]:
    """Turn what Pillow raises for a bad image into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if _is_heif(data):
            raise ImageError("a HEIC image; to read it, install pillow-heif") from error
        raise ImageError(
            f"not an image ({', '.join(FORMATS[:6])} or AVIF), it begins with {data[:12]!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {max_pixels:,} pixels") from error
    except MemoryError as error:
        raise ImageError("there is not enough memory to decode it") from error
    except DAMAGED as error:
        raise ImageError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    """Load an opened image; a PNG with damaged or too large texts is loaded without them."""
    try:
        image.load()
    except DAMAGED:
        bare = bare_png(data)
        if bare is None:
            raise
        image = _identified(bare)
        image.load()
    return image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Find the transposition that makes an image upright, by its EXIF; damaged EXIF is ignored.

    (Pillow's own `exif_transpose` also writes the EXIF anew, which fails on damaged EXIF.)
    """
    try:
        orientation = image.getexif().get(ORIENTATION)
    except DAMAGED:
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB, some rows at a time.

    16 bit and float are scaled, alpha is put over white.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    white = _white(image) if image.mode.startswith("I") or image.mode == "F" else 0.0
    result = Image.new("RGB", image.size)
    for top, rows in _strips(image):
        result.paste(_strip_to_rgb(rows, white), (0, top))
    return result


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image in pieces of some rows, each with the row at which it begins."""
    height = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _strip_to_rgb(image: Image.Image, white: float) -> Image.Image:
    if white:
        values = _finite(image) * (255.0 / white) + 0.5
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        # Pillow converts premultiplied modes to RGBA in two steps only.
        straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        background = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def _finite(image: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(image, dtype=np.float64)
    return np.where(np.isfinite(values), values, 0.0)


def _white(image: Image.Image) -> float:
    """The value that becomes 255 in 16-bit, 32-bit and float greys.

    65535 is white in 16-bit images.  Wider integers and floats have no agreed white: it is 1 for
    floats within [0, 1], and else the image's largest value, at least 255.
    """
    if image.mode.startswith("I;16"):
        return 65535.0
    top = max(float(_finite(rows).max(initial=0.0)) for _, rows in _strips(image))
    if image.mode == "I" and 255 < top <= 65535:
        return 65535.0
    if image.mode == "F" and top <= 1.0:
        return 1.0
    return max(top, 255.0)
