"""The feeding alone: read, decode, resize and crop JPEGs, without a model, in one thread each.

    pip install --target DECODERS simplejpeg
    PYTHONPATH=DECODERS python benchmarks/decoding.py --images PHOTOS --size 224

Every way makes uint8 (S, S, 3) of every image.  "Pillow alone" decodes the whole image, resizes it
and does nothing else; the others are shares of its rate.  With --side the photos are first saved
anew with that many pixels on the longer side, as cameras and large pools have them.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import interleaved, ratios, write_report

from clipdistill.images.loading import load_one
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images

QUALITY = 90
Make = Callable[[bytes], np.ndarray]


def main() -> None:
    """Measure every way on the same images and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=224, help="side of the model's input, pixels")
    parser.add_argument("--side", type=int, nargs="+", default=[0, 1024, 4000])
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    preprocess = Preprocess(asked.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    items = [
        item for item in list_images(asked.images) if item.path.suffix.lower() in (".jpg", ".jpeg")
    ]
    rows = []
    for side in asked.side:
        count = max(10, asked.count // max(1, side // 500))
        photos = [saved(item.path.read_bytes(), side) for item in items[:count]]
        rows += measured(photos, side, preprocess, asked.repeats)
    notes = [
        "One thread. Each figure is the median over rounds in which every way runs once.",
        '"Reduced" decodes at an eighth to the half of the size, which JPEG allows, where that is',
        "not smaller than the input. Ours checks an image's cost before decoding, and hashes it.",
    ]
    columns = ["photos", "way", "images per second", "times Pillow alone"]
    write_report("decoding", "Decoding JPEGs for a model", notes, columns, rows)


def saved(data: bytes, side: int) -> bytes:
    """The photo with `side` pixels on its longer side, as a JPEG; 0: as it is."""
    if not side:
        return data
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = side / max(image.size)
    image = image.resize(
        [max(1, round(scale * one)) for one in image.size], Image.Resampling.BICUBIC
    )
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


class InMemory:
    """An image as `load_one` takes it, without the disk."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self) -> bytes:
        """Its bytes."""
        return self.data


def measured(
    photos: list[bytes], side: int, preprocess: Preprocess, repeats: int
) -> list[list[str]]:
    """Rows of the table for photos of one size."""
    ways = {
        "Pillow alone": pillow(preprocess, reduced=False),
        "Pillow alone, reduced": pillow(preprocess, reduced=True),
        "clipdistill": lambda data: load_one(InMemory(data), preprocess).pixels,
        **others(preprocess),
    }
    for make in ways.values():
        assert make(photos[0]).shape == (preprocess.size, preprocess.size, 3)

    def run(make: Make) -> Callable[[], None]:
        return lambda: [make(data) for data in photos] and None

    times = interleaved({name: run(make) for name, make in ways.items()}, repeats)
    first = f"{len(photos)} of {side} px" if side else f"{len(photos)} as they are"
    return [
        [
            first,
            name,
            f"{len(photos) / float(np.median(seconds)):.0f}",
            f"{ratios(times, name, 'Pillow alone'):.2f}",
        ]
        for name, seconds in times.items()
    ]


def pillow(preprocess: Preprocess, *, reduced: bool) -> Make:
    """Decode, and resize and crop as the product does."""

    def make(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data))
        if reduced:
            image.draft("RGB", (preprocess.size, preprocess.size))
        return preprocess.to_pixels(image.convert("RGB"))

    return make


def others(preprocess: Preprocess) -> dict[str, Make]:
    """Other libraries' decoders, as far as they are installed; Pillow resizes."""
    ways: dict[str, Make] = {}
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        def by_torchvision(data: bytes) -> np.ndarray:
            raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels = decode_jpeg(raw, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()
            return preprocess.to_pixels(Image.fromarray(pixels))

        ways["torchvision's decode_jpeg"] = by_torchvision
    except ImportError:
        print("torchvision is not installed")
    try:
        import simplejpeg

        def by_turbo(least: int) -> Make:
            def make(data: bytes) -> np.ndarray:
                pixels = simplejpeg.decode_jpeg(data, min_height=least, min_width=least)
                return preprocess.to_pixels(Image.fromarray(pixels))

            return make

        ways["simplejpeg"] = by_turbo(0)
        ways["simplejpeg, reduced"] = by_turbo(preprocess.size)
    except ImportError:
        print("simplejpeg is not installed")
    return ways


if __name__ == "__main__":
    main()
