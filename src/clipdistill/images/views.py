"""Several views of an image: seeded crops, mirrorings and mild colour changes, stored and replayed.

With different crops of an image for student and teacher, the embedding to learn does not fit the
student's input.  So the teacher embeds K views of each image, and their parameters are stored
beside the embeddings.  The student is trained with exactly these views, at its own size, and the
teacher's embedding of each (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient
and consistent"; stored and replayed as in Vasu et al. 2024, MobileCLIP).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import FormatError
from .preprocess import FILTERS, Preprocess

PARAMETERS = ("left", "top", "width", "height", "mirrored", "brightness", "contrast", "saturation")
"""Columns of a view's parameters: the crop as shares of the upright image, 1 or 0, and factors."""
AREA = (0.4, 1.0)
"""Share of the image's area in a view.  Beyer et al. use 0.3 to 1; milder crops keep the object."""
RATIO = (3 / 4, 4 / 3)
"""Width to height of a view in pixels, as torchvision's RandomResizedCrop."""
COLOUR = 0.2
"""Brightness, contrast and saturation are multiplied by 1 - COLOUR to 1 + COLOUR."""
TRIES = 10
"""Attempts to fit a crop into the image before the whole image is taken."""
MOST_VIEWS = 64


def draw_views(content: str, size: tuple[int, int], count: int, seed: int) -> NDArray[np.float32]:
    """Draw the parameters of one image's views.

    They depend on the image's bytes and size, the seed and the view's number, so a resumed run,
    another order of images or a renamed file gives the same views.

    Args:
        content: `images.sources.content_id` of the image's bytes.
        size: (width, height) of the upright image in pixels.
        count: number of views.
        seed: seed of all views.

    Returns:
        float32 (count, 8), columns as in `PARAMETERS`.
    """
    rows = []
    for number in range(count):
        digest = hashlib.blake2b(f"{seed}\t{content}\t{number}".encode(), digest_size=16)
        random = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
        crop = _crop(random, *size)
        factors = random.uniform(1 - COLOUR, 1 + COLOUR, 3)
        rows.append([*crop, float(random.random() < 0.5), *factors])
    return np.asarray(rows, dtype=np.float32).reshape(count, len(PARAMETERS))


def _crop(random: np.random.Generator, width: int, height: int) -> tuple[float, ...]:
    """Draw a crop (left, top, width, height) as shares of the image."""
    for _ in range(TRIES):
        area = random.uniform(*AREA) * width * height
        ratio = np.exp(random.uniform(np.log(RATIO[0]), np.log(RATIO[1])))
        wide, high = np.sqrt(area * ratio) / width, np.sqrt(area / ratio) / height
        if wide <= 1 and high <= 1:
            left, top = random.uniform(0, 1 - wide), random.uniform(0, 1 - high)
            return float(left), float(top), float(wide), float(high)
    side = min(width, height)
    wide, high = side / width, side / height
    return (1 - wide) / 2, (1 - high) / 2, wide, high


def view_pixels(
    image: Image.Image, view: Sequence[float] | NDArray[np.float32], preprocess: Preprocess
) -> NDArray[np.uint8]:
    """Make one view of an image: uint8 (size, size, 3).

    Args:
        image: upright image, mode RGB.
        view: parameters, as in `PARAMETERS`.
        preprocess: its size and interpolation are used; the view's crop replaces its crop.
    """
    left, top, wide, high, mirrored, brightness, contrast, saturation = map(float, view)
    box = (
        left * image.width,
        top * image.height,
        min(image.width, (left + wide) * image.width),
        min(image.height, (top + high) * image.height),
    )
    side = preprocess.size
    shown = image.resize((side, side), FILTERS[preprocess.interpolation], box=box)
    if mirrored >= 0.5:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _recoloured(np.asarray(shown), brightness, contrast, saturation)


def _recoloured(
    pixels: NDArray[np.uint8], brightness: float, contrast: float, saturation: float
) -> NDArray[np.uint8]:
    """Change brightness, then contrast about the mean grey, then saturation, as torchvision."""
    values = np.clip(pixels.astype(np.float32) * np.float32(brightness), 0, 255)
    mean = np.float32((values @ _LUMA).mean())
    values = np.clip(mean + (values - mean) * np.float32(contrast), 0, 255)
    grey = (values @ _LUMA)[..., None]
    values = np.clip(grey + (values - grey) * np.float32(saturation), 0, 255)
    result: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return result


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of RGB in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class ViewSpec:
    """How views were drawn.

    Attributes:
        count: number of views per image, 1 to `MOST_VIEWS`.
        seed: seed of all views, 0 or more.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_VIEWS:
            raise FormatError(f"views per image should be 1 to {MOST_VIEWS}, found {self.count}")
        if self.seed < 0:
            raise FormatError(f"the views' seed should be 0 or more, found {self.seed}")

    def draw(self, content: str, image: Image.Image) -> NDArray[np.float32]:
        """Draw the parameters of an image's views; see `draw_views`."""
        return draw_views(content, image.size, self.count, self.seed)


def check_parameters(values: NDArray[np.floating], source: object) -> None:
    """Refuse stored parameters that no view can have.

    Args:
        values: float (N, K, 8).
        source: the file, for the message.

    Raises:
        FormatError: the shape is wrong, or a crop leaves the image.
    """
    fine = values.ndim == 3 and values.shape[2] == len(PARAMETERS)
    if fine and values.size:
        crop = values[..., :4]
        inside = (crop[..., :2] >= 0).all() and (crop[..., :2] + crop[..., 2:] <= 1 + 1e-3).all()
        colour = (values[..., 5:] >= 0).all() and (values[..., 5:] <= 2).all()
        fine = bool(np.isfinite(values).all() and inside and (crop[..., 2:] > 0).all() and colour)
    if not fine:
        raise FormatError(
            f"{source}: expected parameters of views, (images, views, {len(PARAMETERS)}) with "
            f"crops inside the image, found the shape {values.shape} or values out of range."
        )
