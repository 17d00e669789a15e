"""What decoding an image will cost, from its header: bytes of memory, scans of a JPEG."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..core.errors import ImageError

MAX_SCANS = 100
"""Scans of a JPEG above which it is not decoded: each is a pass over all pixels.  Encoders write
about ten; libtiff has the same limit."""
RGB_BYTES = 4
"""Bytes per pixel of Pillow's RGB."""
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes per pixel of Pillow's modes; the others take 4."""
DECODER_BYTES = {"WEBP": 18, "AVIF": 20, "HEIF": 20}
"""Bytes per pixel while an image of the format is decoded, the result included.  Measured at 25
megapixels with Pillow 12.3: WebP 16 to 17, AVIF 9 to 12 with 8 bits per sample, and up to 8 more
with 12 bits.  libheif has the same buffers as libavif."""

SEGMENT = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)
"""A JPEG's marker that has content after it; the others are stuffing, restarts and starts."""
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""A JPEG's markers that begin a frame header."""
TILE_WIDTH, TILE_LENGTH = 322, 323
BITS_PER_SAMPLE, SAMPLES_PER_PIXEL, ROWS_PER_STRIP = 258, 277, 278
"""TIFF's tags of the sizes of its pieces."""


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG's markers say.

    Attributes:
        samples: samples (of all components) in the image at full size.
        buffered: whether all coefficients are held in memory until the last scan.
        scans: number of scans.
    """

    samples: int
    buffered: bool
    scans: int


def read_frame(data: bytes) -> JpegFrame:
    """Read the markers of a JPEG up to the end of its first image."""
    width = height = scans = position = 0
    factors: list[tuple[int, int]] = []
    buffered = False
    while found := SEGMENT.search(data, position):
        marker, start = data[found.start() + 1], found.end()
        if marker == END_OF_IMAGE:
            break
        content = data[start + 2 : start + 64]
        if marker in FRAMES and len(content) >= 6 and not factors:
            height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            both = content[7 : 6 + 3 * content[5] : 3]
            factors = [(max(1, one >> 4), max(1, one & 15)) for one in both]
            buffered = marker % 4 == 2  # progressive
        elif marker == START_OF_SCAN:
            scans += 1
            buffered |= bool(content) and content[0] < len(factors)
        position = start + int.from_bytes(data[start : start + 2], "big")
    across, down = (max((one[side] for one in factors), default=1) for side in (0, 1))
    shares = sum(one * other for one, other in factors) / (across * down)
    return JpegFrame(int(width * height * shares), buffered, scans)


def bytes_needed(image: Image.Image, data: bytes) -> int:
    """Bytes of memory to decode an image and to make it RGB and upright.

    Args:
        image: as it was opened, not yet loaded; a JPEG already at its reduced size (`draft`).
        data: the whole encoded file.

    Raises:
        ImageError: a JPEG has more than `MAX_SCANS` scans.
    """
    pixels = image.width * image.height
    own = PIXEL_BYTES.get(image.mode, 4)
    decoder = DECODER_BYTES.get(image.format or "", own)
    more = 0
    if image.format in ("JPEG", "MPO"):
        frame = read_frame(data)
        if frame.scans > MAX_SCANS:
            raise ImageError(f"a JPEG of {frame.scans:,} scans is over the limit of {MAX_SCANS}")
        more = 2 * frame.samples if frame.buffered else 0
    elif image.format == "TIFF":
        more = _piece_of_tiff(image)
    # The RGB image is made beside the first one, and turned beside itself.
    return max(pixels * decoder + more, pixels * (own + RGB_BYTES), 2 * pixels * RGB_BYTES)


def _piece_of_tiff(image: Any) -> int:
    """Bytes of a tile or strip of a TIFF, which is decoded as a whole."""
    tags = image.tag_v2

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        largest = max(value) if isinstance(value, tuple) and value else value
        return max(0, int(largest)) if isinstance(largest, int | float) else default

    bits = number(SAMPLES_PER_PIXEL, 1) * number(BITS_PER_SAMPLE, 1)
    if TILE_WIDTH in tags:
        return number(TILE_WIDTH, 0) * number(TILE_LENGTH, 0) * bits // 8
    height = int(image.height)
    return int(image.width) * min(number(ROWS_PER_STRIP, height), height) * bits // 8
