"""Preprocess: the one definition of how an image becomes a model's input.

It is stored with every artefact (embeddings, student, ONNX file), so that all steps use the same.
The geometry equals torchvision's and open_clip's evaluation transform to the pixel
(open_clip `image_transform`, torchvision `Resize` and `CenterCrop`); a test compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import FormatError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB in [0, 1]; timm's default for students."""

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
RESIZE_MODES = ("shortest", "longest", "squash")

LONGEST_RATIO = 64
"""Images longer than this many times their width are cropped to their middle before they are
resized: a strip of 1x65000 pixels would otherwise grow to gigabytes only to be cropped."""


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop and normalisation of one model.

    Attributes:
        size: side of the square input, in pixels.
        mean: per-channel mean of RGB in [0, 1].
        std: per-channel standard deviation of RGB in [0, 1].
        interpolation: one of `FILTERS`.
        resize_mode: "shortest" (shortest side to `size`, centre crop), "longest" (longest side to
            `size`, padded with `fill_color`) or "squash" (both sides to `size`).
        fill_color: grey level 0-255 of the padding of "longest".
    """

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 8192:
            raise FormatError(f"preprocessing: size should be 1..8192 pixels, found {self.size}")
        if self.interpolation not in FILTERS:
            raise FormatError(f"preprocessing: unknown interpolation {self.interpolation!r}")
        if self.resize_mode not in RESIZE_MODES:
            raise FormatError(f"preprocessing: unknown resize mode {self.resize_mode!r}")
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise FormatError("preprocessing: mean and std need three values, std above zero")
        if not 0 <= self.fill_color <= 255:
            raise FormatError(
                f"preprocessing: fill_color should be 0..255, found {self.fill_color}"
            )

    def at_size(self, size: int) -> Preprocess:
        """Return the same preprocessing for another input size, in pixels."""
        return replace(self, size=size)

    @property
    def geometry(self) -> str:
        """Name of all settings that decide the uint8 pixels, for cache keys and messages."""
        fill = f"-{self.fill_color}" if self.resize_mode == "longest" else ""
        return f"{self.size}px-{self.interpolation}-{self.resize_mode}{fill}"

    def to_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop an RGB image to uint8 (size, size, 3)."""
        if self.resize_mode == "squash":
            image = image.resize((self.size, self.size), FILTERS[self.interpolation])
        elif self.resize_mode == "longest":
            image = self._fit(image)
        else:
            image = self._cover(image)
        return np.asarray(image)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn uint8 (N, H, W, 3) into normalised, contiguous float32 (N, 3, H, W)."""
        std = np.asarray(self.std, dtype=np.float32)
        scale = np.float32(1 / 255.0) / std
        shift = np.asarray(self.mean, dtype=np.float32) / std
        result = np.empty((len(pixels), 3, *pixels.shape[1:3]), dtype=np.float32)
        for channel in range(3):
            np.multiply(pixels[..., channel], scale[channel], out=result[:, channel])
            result[:, channel] -= shift[channel]
        return result

    def _cover(self, image: Image.Image) -> Image.Image:
        """Resize the shortest side, then crop the centre (torchvision's Resize and CenterCrop)."""
        image = _without_ends(image)
        width, height = image.size
        short, long = min(width, height), max(width, height)
        if short != self.size:
            scaled = max(self.size, int(self.size * long / short))
            target = (self.size, scaled) if width <= height else (scaled, self.size)
            image = image.resize(target, FILTERS[self.interpolation])
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))

    def _fit(self, image: Image.Image) -> Image.Image:
        """Resize the longest side and pad around the centre (open_clip's ResizeKeepRatio, pad)."""
        ratio = max(image.width, image.height) / self.size
        target = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
        image = image.resize(target, FILTERS[self.interpolation])
        canvas = Image.new("RGB", (self.size, self.size), (self.fill_color,) * 3)
        # torchvision's pad puts the smaller half on the left and top.
        canvas.paste(image, ((self.size - target[0]) // 2, (self.size - target[1]) // 2))
        return canvas

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        return {
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": self.fill_color,
        }

    @classmethod
    def from_json(cls, value: Any) -> Preprocess:
        """Make one from the values of `to_json`.

        Raises:
            FormatError: a field is missing or out of range.
        """
        try:
            return cls(
                size=int(value["size"]),
                mean=_triple(value["mean"]),
                std=_triple(value["std"]),
                interpolation=str(value["interpolation"]),
                resize_mode=str(value["resize_mode"]),
                fill_color=int(value.get("fill_color", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"preprocessing cannot be read: {error!r}") from error


def _without_ends(image: Image.Image) -> Image.Image:
    """Crop a strip to its middle, `LONGEST_RATIO` times as long as wide."""
    width, height = image.size
    most = LONGEST_RATIO * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
