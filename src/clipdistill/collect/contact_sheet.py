"""Contact sheets: many small images in one, in titled sections, each with a caption."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..core.files import atomic_path

THUMBNAIL = 112
"""Side of a small image, in pixels."""
COLUMNS = 8
GAP = 10
MARGIN = 24
LINE = 20
HEADING = 40
SECTION_GAP = 18
WIDTH = 2 * MARGIN + COLUMNS * THUMBNAIL + (COLUMNS - 1) * GAP

PAPER = (250, 250, 248)
INK = (38, 40, 46)
FAINT = (120, 124, 132)
MISSING = (222, 223, 226)

SPELLED = {
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "–": "-",
    "—": "-",
    "’": "'",
}
"""ASCII spellings of letters that Unicode does not decompose."""

RGB = tuple[int, int, int]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        pixels: uint8 (S, S, 3) with S = `THUMBNAIL`; None draws a placeholder.
        caption: short text below the image.
        problem: text in the placeholder.
    """

    pixels: Pixels | None
    caption: str
    problem: str = "missing"


@dataclass(frozen=True)
class Section:
    """A group of images under a title.

    Attributes:
        title: the line above them.
        colour: colour of the title's bar and the frames.
        tiles: the images.
        dim: whether they are drawn pale, as images that were left out.
    """

    title: str
    colour: RGB
    tiles: Sequence[Tile]
    dim: bool = False

    @property
    def height(self) -> int:
        """Height in pixels."""
        rows = -(-len(self.tiles) // COLUMNS)
        return HEADING + rows * (THUMBNAIL + LINE + GAP)


def draw_sheet(title: str, subtitle: str, sections: Sequence[Section]) -> Image.Image:
    """Draw a sheet, mode RGB; sections without images are left out."""
    shown = [section for section in sections if section.tiles]
    top = MARGIN + 58
    height = top + sum(section.height + SECTION_GAP for section in shown) + MARGIN - SECTION_GAP
    sheet = Image.new("RGB", (WIDTH, max(height, top + MARGIN)), PAPER)
    pen = ImageDraw.Draw(sheet)
    _line(pen, (MARGIN, MARGIN - 4), title, 26, INK, WIDTH - 2 * MARGIN)
    _line(pen, (MARGIN, MARGIN + 30), subtitle, 14, FAINT, WIDTH - 2 * MARGIN)
    for section in shown:
        _draw_section(sheet, pen, section, top)
        top += section.height + SECTION_GAP
    return sheet


def save_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet as a PNG of 256 colours: a third of the size, with hardly a visible difference.

    Raises:
        OutputError: it cannot be written.
    """
    # The colours are chosen from a ninth of the pixels, which is four times as fast.
    sample = sheet.resize((sheet.width // 3, sheet.height // 3), Image.Resampling.NEAREST)
    palette = sample.quantize(256, method=Image.Quantize.MEDIANCUT)
    small = sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    with atomic_path(path) as temporary:
        small.save(temporary, "PNG")


def _draw_section(sheet: Image.Image, pen: ImageDraw.ImageDraw, section: Section, top: int) -> None:
    pen.rectangle((MARGIN, top + 4, MARGIN + 4, top + 22), fill=section.colour)
    _line(pen, (MARGIN + 14, top + 4), section.title, 15, INK, WIDTH - 2 * MARGIN - 14)
    for number, tile in enumerate(section.tiles):
        row, column = divmod(number, COLUMNS)
        left = MARGIN + column * (THUMBNAIL + GAP)
        upper = top + HEADING - 6 + row * (THUMBNAIL + LINE + GAP)
        _draw_tile(sheet, pen, section, tile, left, upper)


def _draw_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    section: Section,
    tile: Tile,
    left: int,
    top: int,
) -> None:
    box = (left, top, left + THUMBNAIL, top + THUMBNAIL)
    if tile.pixels is None:
        pen.rectangle(box, fill=MISSING)
        _line(pen, (left + 8, top + THUMBNAIL // 2 - 8), tile.problem, 12, FAINT, THUMBNAIL - 16)
    else:
        picture = Image.fromarray(tile.pixels)
        if section.dim:
            picture = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.35)
        sheet.paste(picture, (left, top))
    frame = (left - 2, top - 2, left + THUMBNAIL + 1, top + THUMBNAIL + 1)
    pen.rectangle(frame, outline=section.colour, width=2)
    _line(pen, (left, top + THUMBNAIL + 4), tile.caption, 12, FAINT, THUMBNAIL)


def _line(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: RGB, width: int
) -> None:
    """Draw one line, cut where it would be wider than `width` pixels."""
    font = ImageFont.load_default(size)
    shown = drawable(text, font)
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = shown[: max(1, int(len(shown) * 0.9) - 1)].rstrip() + "…"
    pen.text(at, shown, font=font, fill=colour)


def drawable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    r"""Replace letters that the font lacks by ones without accents, or else by \uXXXX.

    Pillow's own font, which is the same everywhere, has little more than ASCII.
    """
    missing = bytes(font.getmask("\uffff"))

    def known(letters: str) -> bool:
        return all(
            one == " " or (one.isprintable() and bytes(font.getmask(one)) != missing)
            for one in letters
        )

    def draw(letter: str) -> str:
        plain = unicodedata.normalize("NFKD", letter)
        plain = "".join(one for one in plain if not unicodedata.combining(one))
        for spelling in (letter, SPELLED.get(letter, plain)):
            if spelling and known(spelling):
                return spelling
        return letter.encode("unicode_escape").decode()

    return "".join(draw(letter) for letter in text)
