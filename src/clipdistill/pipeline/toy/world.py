"""The toy world: small drawings of twenty kinds of objects, each with a caption.

The toy teacher (tools/train_toy_teacher.py) is trained on it, and the quickstart and the tests draw
their images from it, offline and in minutes.  An image is a pure function of (seed, index), so no
images have to be distributed or downloaded.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ...core.files import write_bytes
from .shapes import RGB, SHAPES, Ink, Pen, Rng, mix

# Separate seeds for training the teacher, for measuring it, and for users (10 or more).
TEACHER_TRAINING_SEED = 1
TEACHER_EVALUATION_SEED = 2
FIRST_USER_SEED = 10

KINDS: tuple[str, ...] = tuple(SHAPES)
SIZES: dict[str, tuple[float, float]] = {  # diameter of the object, in widths of the image
    "small": (0.40, 0.50),
    "medium": (0.58, 0.70),
    "large": (0.80, 0.94),
}
COLOURS: dict[str, RGB] = {
    "red": (218, 44, 44),
    "orange": (246, 138, 32),
    "yellow": (250, 212, 52),
    "green": (70, 170, 74),
    "blue": (52, 108, 216),
    "purple": (136, 74, 190),
    "pink": (246, 134, 182),
    "brown": (134, 84, 48),
    "black": (46, 44, 54),
    "white": (250, 248, 244),
}

Pixels = npt.NDArray[np.float32]
_SUPERSAMPLING = 3
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Picture:
    """One drawn image (RGB) and its description."""

    image: Image.Image
    kind: str
    colour: str
    background: str
    background_colour: str
    size: str
    caption: str


@dataclass(frozen=True)
class Row:
    """One rendered file: its name below the folder, its kind and its caption."""

    file: str
    kind: str
    caption: str


def draw(seed: int, index: int, *, pixels: int = 96, kind: str | None = None) -> Picture:
    """Draw image number `index` of the world `seed`: `pixels` x `pixels`, 8-bit RGB.

    Kinds are uniformly distributed unless `kind` names one.  The same arguments give the same image
    on every machine with the same version of Pillow.
    """
    plan, rng = _plan(seed, index, kind)
    ground = _background(plan.background, plan.background_colour, pixels, rng)
    figure, mask = _figure(plan.kind, plan.colour, plan.size, pixels, rng)
    image = _photograph(_compose(ground, figure, mask), rng)
    return Picture(
        image=image,
        kind=plan.kind,
        colour=plan.colour,
        background=plan.background,
        background_colour=plan.background_colour,
        size=plan.size,
        caption=plan.caption,
    )


def prompts() -> list[str]:
    """Return one plain prompt per kind, in the order of `KINDS`."""
    return [_with_article(kind) for kind in KINDS]


def caption(
    kind: str, colour: str, background: str, background_colour: str, size: str, rng: Rng
) -> str:
    """Choose one of many true captions; all name the kind, some also colour and background."""
    # Captions do not mention a medium size.
    sized = {"small": ("small", "little"), "medium": ("", ""), "large": ("large", "big")}[size]
    adjective = _choose(rng, sized)
    coloured = f"{colour} {kind}"
    subject = _choose(
        rng,
        (kind, coloured, coloured, coloured, f"{adjective} {kind}", f"{adjective} {coloured}"),
    ).strip()
    ground = f"{background} background"
    plainly = f" on {_with_article(ground)}"
    fully = f" on {_with_article(f'{background_colour} {ground}')}"
    where = _choose(rng, ("", "", "", plainly, plainly, fully))
    medium = _choose(rng, ("", "", "", "a photo of ", "a picture of ", "a drawing of "))
    return f"{medium}{_with_article(subject)}{where}"


def render(
    folder: Path,
    count: int,
    *,
    seed: int,
    labelled: bool,
    pixels: int = 96,
    on_picture: Callable[[], None] | None = None,
) -> list[Row]:
    """Write the first `count` images of the world `seed` as JPEG files.

    Unlabelled, the files are `folder/000123.jpg`; labelled, `folder/<kind>/000123.jpg` with
    `folder/captions.tsv` (file, kind, caption).  Existing files are kept, so that an interrupted
    call can be resumed.  `on_picture` is called after each image, drawn or found.

    Returns:
        One row per image.
    """
    rows = []
    for index in range(count):
        plan, _ = _plan(seed, index, None)
        name = f"{index:06d}.jpg"
        row = Row(f"{plan.kind}/{name}" if labelled else name, plan.kind, plan.caption)
        path = folder / row.file
        if not path.exists():
            write_bytes(path, jpeg(draw(seed, index, pixels=pixels).image))
        rows.append(row)
        if on_picture is not None:
            on_picture()
    if labelled:
        lines = (f"{row.file}\t{row.kind}\t{row.caption}\n" for row in rows)
        write_bytes(folder / "captions.tsv", "".join(lines).encode())
    return rows


def contact_sheet(rows: int, columns: int, *, seed: int, pixels: int = 96) -> Image.Image:
    """Draw a grid of images on white, kinds in turn; (columns, rows) x `pixels` plus gaps, RGB."""
    gap = max(2, pixels // 16)
    step = pixels + gap
    sheet = Image.new("RGB", (columns * step + gap, rows * step + gap), (255, 255, 255))
    for index in range(rows * columns):
        kind = KINDS[index % len(KINDS)]
        picture = draw(seed, index, pixels=pixels, kind=kind)
        row, column = divmod(index, columns)
        sheet.paste(picture.image, (gap + column * step, gap + row * step))
    return sheet


def jpeg(image: Image.Image) -> bytes:
    """Return the JPEG file that `render` writes for an image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Plan:
    """Content of an image, chosen before it is drawn."""

    kind: str
    colour: str
    background: str
    background_colour: str
    size: str
    caption: str


def _plan(seed: int, index: int, kind: str | None) -> tuple[_Plan, Rng]:
    """Choose the content of an image; return it and the generator for drawing the image."""
    rng = np.random.default_rng((seed, index))
    drawn = _choose(rng, KINDS)
    kind = drawn if kind is None else kind
    if kind not in SHAPES:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}.")
    colour = _choose(rng, tuple(COLOURS))
    background_colour = _choose(rng, tuple(name for name in COLOURS if name != colour))
    background = _choose(rng, BACKGROUNDS)
    size = _choose(rng, tuple(SIZES))
    words = caption(kind, colour, background, background_colour, size, rng)
    return _Plan(kind, colour, background, background_colour, size, words), rng


def _choose(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _jitter(colour: RGB, rng: Rng, spread: int = 14) -> RGB:
    r, g, b = (min(255, max(0, c + int(rng.integers(-spread, spread + 1)))) for c in colour)
    return r, g, b


# --- backgrounds: each is a field (H, W) float32 in [0, 1], 0 the first tone and 1 the second ---


@functools.lru_cache(maxsize=4)
def _grid(pixels: int) -> tuple[Pixels, Pixels]:
    """x and y of the pixel centres, in widths of the image from its centre: (H, W) float32."""
    axis = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) / np.float32(pixels)
    x, y = np.meshgrid(axis - np.float32(0.5), axis - np.float32(0.5))
    return x, y


def _turned(pixels: int, angle: float) -> tuple[Pixels, Pixels]:
    x, y = _grid(pixels)
    c, s = np.float32(round(math.cos(angle), 4)), np.float32(round(math.sin(angle), 4))
    return c * x + s * y, c * y - s * x


def _wave(position: Pixels) -> Pixels:
    """A triangle wave of period 1 in [-1, 1]."""
    return np.abs((position - np.floor(position)) * 4 - 2) - 1


def _edge(signed: Pixels, period: float, pixels: int) -> Pixels:
    """An antialiased step of a wave of `period` (in widths of the image), one pixel wide."""
    step: Pixels = np.clip(signed * np.float32(period * pixels / 4) + np.float32(0.5), 0, 1)
    return step


def _plain(pixels: int, rng: Rng) -> Pixels:
    return np.zeros((pixels, pixels), dtype=np.float32)


def _striped(pixels: int, rng: Rng) -> Pixels:
    u, _ = _turned(pixels, math.pi * rng.random())
    period = 0.13 + 0.14 * rng.random()
    return _edge(_wave(u / np.float32(period) + np.float32(rng.random())), period, pixels)


def _checkered(pixels: int, rng: Rng) -> Pixels:
    u, v = _turned(pixels, rng.choice((0.0, 0.785)) + 0.2 * (rng.random() - 0.5))
    period = 0.24 + 0.16 * rng.random()
    a = _edge(_wave(u / np.float32(period) + np.float32(rng.random())), period, pixels)
    b = _edge(_wave(v / np.float32(period) + np.float32(rng.random())), period, pixels)
    return a + b - 2 * a * b


def _dotted(pixels: int, rng: Rng) -> Pixels:
    u, v = _turned(pixels, math.pi * rng.random())
    period = 0.15 + 0.09 * rng.random()
    radius = 0.24 + 0.08 * rng.random()
    u, v = u / np.float32(period), v / np.float32(period)
    row = np.floor(v)
    u = u + np.float32(0.5) * (row - 2 * np.floor(row / 2))
    du, dv = u - np.floor(u) - np.float32(0.5), v - row - np.float32(0.5)
    distance = np.sqrt(du * du + dv * dv)
    dots: Pixels = np.clip(
        (np.float32(radius) - distance) * np.float32(period * pixels) + np.float32(0.5), 0, 1
    )
    return dots


def _wavy(pixels: int, rng: Rng) -> Pixels:
    u, v = _turned(pixels, math.pi * rng.random())
    t = _wave(v / np.float32(0.28 + 0.12 * rng.random()) + np.float32(rng.random()))
    swing = t * (2 - np.abs(t))  # parabolas approximate a sine
    period = 0.17 + 0.08 * rng.random()
    u = u / np.float32(period) + np.float32(0.42) * swing
    return _edge(_wave(u), period, pixels)


def _gradient(pixels: int, rng: Rng) -> Pixels:
    u, _ = _turned(pixels, 2 * math.pi * rng.random())
    ramp: Pixels = np.clip(u * np.float32(1.1) + np.float32(0.5), 0, 1)
    return ramp


_FIELDS: dict[str, Callable[[int, Rng], Pixels]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "wavy": _wavy,
    "gradient": _gradient,
}
BACKGROUNDS: tuple[str, ...] = tuple(_FIELDS)


def _background(background: str, colour: str, pixels: int, rng: Rng) -> Pixels:
    """(H, W, 3) float32 in [0, 255]: pastel, so that the object in front stands out."""
    base = _jitter(COLOURS[colour], rng, 10)
    white: RGB = (255, 255, 255)
    if colour == "white":
        first, second = base, mix(base, (90, 96, 120), 0.24 + 0.1 * rng.random())
    elif colour == "black":
        first, second = mix(base, white, 0.12), mix(base, white, 0.36)
    else:
        first = mix(base, white, 0.36 + 0.12 * rng.random())
        second = mix(base, white, 0.76 + 0.12 * rng.random())
    if background == "gradient":
        # A ramp is visible only if it is steeper than the lighting.
        first = mix(first, (30, 24, 60), 0.25)
        second = mix(second, white, 0.4)
    elif background != "plain" and rng.random() < 0.5:
        first, second = second, first
    share = _FIELDS[background](pixels, rng)[..., None]
    low, high = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return low + (high - low) * share


# --- the object in front, and the camera ---


def _figure(kind: str, colour: str, size: str, pixels: int, rng: Rng) -> tuple[Pixels, Image.Image]:
    """The object alone: colours (H, W, 3) float32 in [0, 255], and its coverage as an L image."""
    side = pixels * _SUPERSAMPLING
    low, high = SIZES[size]
    diameter = low + (high - low) * rng.random()
    # The square of the object is inside the image; turned, its corners may be slightly outside.
    room = max(0.0, (0.98 - diameter) / 2)
    x, y = (0.5 + room * (2 * rng.random() - 1) for _ in range(2))
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = Pen(
        ImageDraw.Draw(canvas),
        Ink.of(_jitter(COLOURS[colour], rng)),
        centre=(x * side, y * side),
        radius=diameter * side / 2,
        turn=math.radians(24) * (rng.random() + rng.random() - 1),
        mirror=rng.random() < 0.5,
    )
    SHAPES[kind](pen, rng)
    small = canvas.reduce(_SUPERSAMPLING)
    figure = np.asarray(small.convert("RGB"), dtype=np.float32)
    return figure, small.getchannel("A")


def _compose(ground: Pixels, figure: Pixels, mask: Image.Image) -> Pixels:
    """The object on its background with a soft shadow and a lit upper left rim: (H, W, 3)."""
    pixels = mask.width
    reach = max(1, pixels // 40)
    soft = _share(mask.filter(ImageFilter.GaussianBlur(pixels / 40)))
    away, towards = np.zeros_like(soft), np.zeros_like(soft)
    away[reach:, reach:] = soft[:-reach, :-reach]
    towards[:-reach, :-reach] = soft[reach:, reach:]
    cover = _share(mask)[..., None]
    lit = figure + ((towards - away) * np.float32(-70))[..., None]
    shaded = ground * (1 - np.float32(0.38) * away)[..., None]
    scene: Pixels = shaded + (lit - shaded) * cover
    return scene


def _share(mask: Image.Image) -> Pixels:
    """An 8-bit mask as (H, W) float32 in [0, 1]."""
    share: Pixels = np.asarray(mask, dtype=np.float32) / np.float32(255)
    return share


def _photograph(scene: Pixels, rng: Rng) -> Image.Image:
    """Add light, tint, noise and blur like those of a cheap camera."""
    pixels = scene.shape[0]
    u, _ = _turned(pixels, 2 * math.pi * rng.random())
    exposure = 0.86 + 0.24 * rng.random()
    tint = 1 + 0.05 * (2 * rng.random(3, dtype=np.float32) - 1)
    light = np.float32(exposure) + np.float32(0.24 * rng.random()) * u
    scene = scene * light[..., None] * tint
    noise = max(0.0, 12 * rng.random() - 4)
    if noise > 0:
        # The difference of two uniform draws: close enough to Gaussian, and exactly reproducible.
        grain = rng.random((2, pixels, pixels, 3), dtype=np.float32)
        scene = scene + (grain[0] - grain[1]) * np.float32(2 * noise)
    image = Image.fromarray(np.clip(scene + np.float32(0.5), 0, 255).astype(np.uint8))
    blur = 1.6 * rng.random() - 0.8
    return image.filter(ImageFilter.GaussianBlur(blur * pixels / 96)) if blur > 0 else image
