"""Latency of a student's exports against the older scripts' way, in one race.

The older `predict_pytorch.py` runs the network in torch, eager, FP32, contiguous, under
`torch.no_grad()`: that is 1, and every file in every runtime is told as so many times as fast.
The student is distilled for one epoch only (latency does not depend on what it learnt), then
quantised without training, and exported in every form.

    python benchmarks/latency.py resnet18 --images PHOTOS --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from reporting import write_report

from clipdistill import distill, embed, export, quantize
from clipdistill.core.console import ConsoleReporter
from clipdistill.core.progress import reporting
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images
from clipdistill.measure.race.child import Child, children
from clipdistill.measure.race.pictures import PictureShelf
from clipdistill.measure.race.race import Timing, race
from clipdistill.models.open import installed_runtimes, kind_of, split_runtime
from clipdistill.models.student import load_student

OLDER = "torch eager, as the older predict_pytorch.py"


class OlderWay:
    """The older scripts' forward pass."""

    def __init__(self, student: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.card, embedder = load_student(student, device="cpu", precision="fp32")
        self.network = embedder.module.to(memory_format=torch.contiguous_format).eval()
        side = self.card.preprocess.size
        self.pixels = torch.rand(32, 3, side, side)

    def time(self, batch: int, runs: int) -> list[float]:
        """See `race.Racer.time`."""
        pixels = self.pixels[:batch].contiguous()
        seconds = []
        with torch.no_grad():
            for _ in range(runs):
                started = time.perf_counter()
                self.network(pixels)
                seconds.append(time.perf_counter() - started)
        return seconds


def prepare(asked: argparse.Namespace) -> tuple[Path, list[str]]:
    """The FP32 student's folder, and its exports: FP32, and INT8 for either runtime.

    What an earlier run has made is kept.
    """
    folder = asked.out / f"{asked.arch}-{asked.image_size}"
    embed(asked.images, asked.out / "emb", model_name=asked.teacher)
    student = folder / "student"
    distill(
        asked.arch,
        asked.images,
        asked.out / "emb",
        student,
        image_size=asked.image_size,
        num_epochs=1,
    )
    if not (folder / "student-int8" / "student.json").exists():
        quantize(student, asked.images, folder / "student-int8")
    made = []
    for source, target in (
        ("student", "onnxruntime"),
        ("student-int8", "onnxruntime"),
        ("student-int8", "tensorrt"),
    ):
        file = folder / f"{source}-for-{target}.onnx"
        if not file.exists():
            export(str(folder / source), file, target=target, images=asked.images)
        made.append(str(file))
    return student, made


def commands(models: list[str]) -> list[str]:
    """Every model in every runtime that is installed, as `open_embedder` takes it."""
    found = []
    for model in models:
        runtime, name = split_runtime(model)
        kind = kind_of(name)
        assert kind is not None, f"{model}: no such model"
        found += [f"{one}:{name}" for one in ([runtime] if runtime else installed_runtimes(kind))]
    return found


def open_child(child: Child, threads: int, shelf: PictureShelf, images: Path) -> dict[str, object]:
    """Let a process open its model and load its pictures; returns what it said of itself."""
    about = child.ask(
        "open", model=child.model, device="cpu", threads=threads, arch=None, image_size=None
    )
    pictures = shelf.prepare(
        "images", list_images(images)[:32], Preprocess.from_json(about["preprocess"])
    )
    child.ask("load", path=str(pictures.path), count=len(pictures.rows))
    return about


def row(name: str, precision: str, timing: Timing, older: Timing, same: Timing | None) -> list[str]:
    """A line of the table; ratios are medians over the rounds of paired medians."""

    def times(other: Timing | None) -> str:
        if other is None:
            return "-"
        pairs = zip(timing.round_medians(1), other.round_medians(1), strict=True)
        return f"{statistics.median(theirs / mine for mine, theirs in pairs):.2f}"

    return [
        name,
        precision,
        f"{1000 * timing.median(1):.2f}",
        f"{1000 * timing.percentile(1, 0.9):.2f}",
        times(older),
        times(same),
    ]


def main() -> None:
    """Race, and write the report."""
    asked = parse()
    with reporting(ConsoleReporter()):
        student, models = prepare(asked)
    older = OlderWay(student, asked.threads)
    names = commands(models)
    with (
        tempfile.TemporaryDirectory() as folder,
        children(names, asked.threads) as started,
    ):
        shelf = PictureShelf(Path(folder))
        abouts = [open_child(child, asked.threads, shelf, asked.images) for child in started]
        first, *timings = race([older, *started], (1,), asked.rounds)
    rows = [row(OLDER, "fp32", first, first, None)]
    for name, about, timing in zip(names, abouts, timings, strict=True):
        if timing.failure:
            rows.append([name, timing.failure, "-", "-", "-", "-"])
            continue
        runtime, path = split_runtime(name)
        same = [
            other
            for other, told in zip(timings, abouts, strict=True)
            if told["runtime"] == runtime and told["precision"] == "fp32" and not other.failure
        ]
        label = f"{runtime}: {Path(path).name}"
        rows.append(row(label, str(about["precision"]), timing, first, same[0] if same else None))
    spread = [np.ptp(first.round_medians(1)) / first.median(1)]
    write_report(
        f"latency-{asked.arch}",
        f"Latency of {older.card.arch} at {older.card.preprocess.size} px",
        [
            f"Batch 1, {asked.threads} threads, {asked.rounds} rounds in turns, each model alone "
            "in a process; the network alone, from a normalised picture.",
            f"The older way's rounds spread over {100 * spread[0]:.0f}% of their median.",
        ],
        ["model", "precision", "ms", "p90", "x older way", "x FP32, same runtime"],
        rows,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arch", help="timm's model name")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/latency"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
