"""Frames per second of `demo --video --every-frame` against the same model on ready tensors.

The video is written for the purpose, from the pictures of a folder.  Ready tensors are the same
frames, preprocessed before the clock starts, given to the same opened model one at a time.
Decoding alone and preprocessing alone are measured too: where one of them takes longer than the
model, the pipeline cannot be as fast as the model.

    python benchmarks/demo.py runs/classifier.onnx --images PHOTOS
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from reporting import interleaved, ratios, write_report

from clipdistill.images.decode import decode
from clipdistill.images.sources import list_images
from clipdistill.models.recognizer import Recognizer, open_recognizer
from clipdistill.show.live.handoff import Handoff
from clipdistill.show.live.loop import Loop
from clipdistill.show.live.opencv import video
from clipdistill.show.live.reader import Reader
from clipdistill.show.live.threads import Pipeline

DEMO, MODEL = "demo --video --every-frame", "model on ready tensors"
DECODE, PREPROCESS = "decoding alone", "preprocessing alone"


def write_video(path: Path, images: Path, count: int, size: tuple[int, int]) -> None:
    """A video of pictures, each of which stays for ten frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, size)
    items = list_images(images)
    for index in range(count):
        if index % 10 == 0:
            image = decode(items[index // 10 % len(items)].read()).resize(size)
            pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
        writer.write(pixels)
    writer.release()


def read(path: Path) -> list[np.ndarray]:
    """Every frame, as the demo reads it."""
    capture = video(str(path), timeout=10).open()
    frames = []
    while (frame := capture.read()) is not None:
        frames.append(frame)
    capture.close()
    return frames


def watch(recognizer: Recognizer, path: Path) -> float:
    """Seconds from the start of the demo's loop to its last answer, without a display."""
    frames = Handoff(2)
    reader = Reader(video(str(path), timeout=10), frames)
    pipeline = Pipeline(recognizer, frames)
    loop = Loop(reader, pipeline, recognizer, threshold=0.0, top_k=5, views=[])
    start = time.perf_counter()
    loop.run()
    return time.perf_counter() - start


def main() -> None:
    """Race, and write the report."""
    asked = parse()
    recognizer = open_recognizer(asked.model, text=asked.text, device=asked.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, asked.images, asked.frames, (asked.width, asked.height))
        frames = read(path)
        prepare = recognizer.preprocess.to_pixels
        ready = [prepare(Image.fromarray(frame))[None].copy() for frame in frames]

        def model() -> None:
            for pixels in ready:
                recognizer.probabilities(pixels)

        def preprocess() -> None:
            for frame in frames:
                prepare(Image.fromarray(frame))

        times = interleaved(
            {
                MODEL: model,
                DEMO: lambda: watch(recognizer, path),
                DECODE: lambda: read(path) and None,
                PREPROCESS: preprocess,
            },
            asked.rounds,
        )
    rows = [
        [
            name,
            f"{len(frames) / statistics.median(seconds):.1f}",
            f"{ratios(times, name, MODEL):.2f}",
        ]
        for name, seconds in times.items()
    ]
    size = recognizer.preprocess.size
    write_report(
        "demo",
        f"Frames per second of the demo, {Path(asked.model).name} at {size} px",
        [
            f"{len(frames)} frames of {asked.width}x{asked.height}, mp4v, {asked.rounds} rounds "
            f"in turns; {recognizer.runtime}, batch 1. Ratios are medians over the rounds.",
            "Where processors are few, the steps share them: a model that keeps all of them busy "
            "leaves no room for the others.",
        ],
        ["", "frames/s", "x model"],
        rows,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="any MODEL of clipdistill predict")
    parser.add_argument("--images", type=Path, required=True, help="what the video shows")
    parser.add_argument("--text", type=Path, help="text embeddings, for a model without labels")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
