"""Read classifier.onnx with nothing but ONNX Runtime, numpy and Pillow.

    python examples/read_classifier.py classifier.onnx cat.jpg dog.jpg

A starting point for other languages and programs: everything that is needed lies in the file's
metadata (docs/formats.md).  `clipdistill predict classifier.onnx cat.jpg` gives the same answer,
and also reads damaged EXIF data, 16-bit images and files from strangers with care.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Classifier:
    """An ONNX file that `clipdistill export --text` wrote.

    Attributes:
        labels: names of the classes.
        threshold: probability below which the answer is "unknown"; 0: never.
        preprocess: how an image becomes the network's input.
    """

    def __init__(self, path: str) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        if metadata.get("clipdistill.format") != "clipdistill.onnx":
            raise ValueError(f"{path} was not made by clipdistill")
        classes = json.loads(metadata["clipdistill.labels"])
        self.labels: list[str] = classes["labels"]
        self.threshold: float = (classes.get("calibration") or {"threshold": 0.0})["threshold"]
        self.preprocess: dict[str, Any] = json.loads(metadata["clipdistill.card"])["preprocess"]

    def __call__(self, path: str) -> list[tuple[str, float]]:
        """(label, probability) of one image, the most probable first."""
        pixels = resize(read(path, self.preprocess["size"]), self.preprocess)
        feed = {"input": normalize(pixels, self.preprocess)}
        (probabilities,) = self._session.run(["probabilities"], feed)
        ranked = zip(self.labels, map(float, probabilities[0]), strict=True)
        return sorted(ranked, key=lambda pair: -pair[1])


def read(path: str, size: int) -> Image.Image:
    """Read an upright RGB image, with white behind what is transparent."""
    image = Image.open(path)
    image.draft("RGB", (2 * size, 2 * size))  # large JPEG files are decoded at 1/2, 1/4 or 1/8
    image = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def resize(image: Image.Image, preprocess: dict[str, Any]) -> Image.Image:
    """Resize to size x size pixels, in one of three ways."""
    size: int = preprocess["size"]
    method = Image.Resampling[preprocess["interpolation"].upper()]
    mode, (width, height) = preprocess["resize_mode"], image.size
    if mode == "squash":
        return image.resize((size, size), method)
    if mode == "longest":  # the longest side to size, then grey around it
        ratio = max(width, height) / size
        small = image.resize((max(1, round(width / ratio)), max(1, round(height / ratio))), method)
        canvas = Image.new("RGB", (size, size), (preprocess["fill_color"],) * 3)
        canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
        return canvas
    # "shortest": the shortest side to size, then the centre
    scaled = int(size * max(width, height) / min(width, height))
    image = image.resize((size, scaled) if width <= height else (scaled, size), method)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def normalize(image: Image.Image, preprocess: dict[str, Any]) -> np.ndarray:
    """RGB image -> float32 (1, 3, S, S), normalised with the file's mean and std."""
    values = np.asarray(image, np.float32) / 255
    mean, std = (np.asarray(preprocess[key], np.float32) for key in ("mean", "std"))
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)[None])


def main() -> None:
    """Print the three most probable labels of each image."""
    model, *images = sys.argv[1:]
    classifier = Classifier(model)
    for image in images:
        ranked = classifier(image)
        best = ", ".join(f"{label} {probability:.1%}" for label, probability in ranked[:3])
        unknown = "unknown; " if ranked[0][1] < classifier.threshold else ""
        print(f"{image}: {unknown}{best}")


if __name__ == "__main__":
    main()
