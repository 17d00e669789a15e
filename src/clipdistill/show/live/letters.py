"""Drawing text into images.

Pillow's built-in font has only ASCII.  OpenCV 5 has a font with Latin, Greek, Cyrillic, Chinese,
Japanese and Korean letters; it draws other letters (Thai and Indian scripts, for example) as "?",
and does not join Arabic letters.  Older OpenCVs have only ASCII, so a font of the system is used
there.  Pillow draws with a font file that the user names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...core.errors import InputError
from .frames import Pixels
from .opencv import load_cv2

SYSTEM_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "segoeui.ttf",
    "arial.ttf",
)
"""System fonts to try, in this order, if OpenCV has no font."""
WHITE = (255, 255, 255)
ELLIPSIS = "..."


class Letters(Protocol):
    """A way to draw text."""

    def width(self, text: str, size: int) -> int:
        """Measure a text's width in pixels; `size` is the height of a line in pixels."""

    def draw(self, canvas: Pixels, text: str, left: int, top: int, size: int) -> None:
        """Draw white text into an RGB canvas; `left`, `top` and `size` are in pixels."""


class OpenCvLetters:
    """Text in OpenCV 5's own font."""

    def __init__(self, cv2: Any) -> None:
        self._cv2, self._face = cv2, cv2.FontFace("uni")

    def width(self, text: str, size: int) -> int:
        """See `Letters.width`."""
        box = self._cv2.getTextSize((0, 0), text, (0, 0), self._face, int(0.8 * size))
        return int(box[0] + box[2])

    def draw(self, canvas: Pixels, text: str, left: int, top: int, size: int) -> None:
        """See `Letters.draw`."""
        place = (left, top + int(0.78 * size))  # of the base line
        self._cv2.putText(canvas, text, place, WHITE, self._face, int(0.8 * size))


class PillowLetters:
    """Text in a font file, drawn by Pillow; None: Pillow's built-in font."""

    def __init__(self, file: Path | str | None) -> None:
        self._file = file
        self._fonts: dict[int, Any] = {}

    def width(self, text: str, size: int) -> int:
        """See `Letters.width`."""
        return int(self._font(size).getlength(text) + 0.5)

    def draw(self, canvas: Pixels, text: str, left: int, top: int, size: int) -> None:
        """See `Letters.draw`."""
        right = min(canvas.shape[1], left + self.width(text, size) + size)
        area = canvas[top : top + size + size // 3, left:right]
        if area.size:
            image = Image.fromarray(area)
            ImageDraw.Draw(image).text((0, 0), text, font=self._font(size), fill=WHITE)
            area[:] = np.asarray(image)

    def _font(self, size: int) -> Any:
        if size not in self._fonts:
            points = max(6, int(0.8 * size))
            self._fonts[size] = (
                ImageFont.load_default(points)
                if self._file is None
                else ImageFont.truetype(str(self._file), points)
            )
        return self._fonts[size]


def find_letters(font: Path | None = None) -> Letters:
    """Choose the best available way to draw text.

    Args:
        font: font file (.ttf, .otf, .ttc); None: OpenCV's font, else a system font.

    Raises:
        InputError: the file does not exist, or is not a font.
    """
    if font is not None:
        try:
            ImageFont.truetype(str(font), 12)
        except OSError as error:
            raise InputError(
                f"--font {font}: expected a font file (.ttf, .otf or .ttc), but it cannot be read "
                f"({error}). Give another --font."
            ) from error
        return PillowLetters(font)
    cv2 = load_cv2()
    if hasattr(cv2, "FontFace"):
        return OpenCvLetters(cv2)
    return PillowLetters(_system_font())


def shorten(letters: Letters, text: str, size: int, most: int) -> str:
    """Cut a text to at most `most` pixels; a cut text ends with dots."""
    if letters.width(text, size) <= most:
        return text
    while text and letters.width(text + ELLIPSIS, size) > most:
        text = text[:-1]
    return text + ELLIPSIS


def _system_font() -> str | None:
    for name in SYSTEM_FONTS:
        try:
            ImageFont.truetype(name, 12)
        except OSError:
            continue
        return name
    return None
