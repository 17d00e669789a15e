"""Students as ExecuTorch files (.pte, XNNPACK) against the same in ONNX Runtime: why there is none.

    pip install executorch
    python benchmarks/pte.py --student runs/student --images photos --other more-photos

FP32, and INT8 on the same --images: ExecuTorch's by XNNPACK's own quantiser, ONNX Runtime's by
`clipdistill quantize`.  Cosines are with the student in torch on --other.  All files run on one
core, one image at a time, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from reporting import write_report
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

import clipdistill
from clipdistill.images.loading import load_one
from clipdistill.images.sources import list_images
from clipdistill.models.student import load_student
from clipdistill.models.torch_embedder import to_input

ROUNDS, RUNS = 20, 20
COLUMNS = ["student", "file", "MB", "mean cosine", "least", "ms", "against ONNX Runtime FP32"]
REST = "ONNX Runtime FP32"

Model = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Make the files of every student, compare them, and write the report."""
    asked = parse()
    torch.set_num_threads(1)
    rows, left = [], Counter[str]()
    for student in asked.student:
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(student, Path(folder), asked, left)
    outside = ", ".join(f"{name} ({count})" for name, count in left.items()) or "none"
    notes = [
        f"INT8 ranges from {asked.count} images; cosines on {asked.count} others; milliseconds are "
        f"medians of {ROUNDS} rounds of {RUNS} runs in turns. ExecuTorch's include the conversion "
        "of its tensors to torch's.",
        f"Operators that XNNPACK did not take: {outside}.",
    ]
    write_report("executorch", "ExecuTorch against ONNX Runtime", notes, COLUMNS, rows)


def rows_of(
    student: Path, folder: Path, asked: argparse.Namespace, left: Counter[str]
) -> list[list[str]]:
    """A row per file of one student."""
    card, embedder = load_student(student, device="cpu")
    network = embedder.module.to(memory_format=torch.contiguous_format)
    shown, others = (
        inputs(root, asked.count, card.preprocess) for root in (asked.images, asked.other)
    )
    files = {
        "ExecuTorch FP32": lowered(network, shown[:1], folder / "fp32.pte", left),
        "ExecuTorch INT8": lowered(quantised(network, shown), shown[:1], folder / "int8.pte", left),
        REST: folder / "fp32.onnx",
        "ONNX Runtime INT8": folder / "int8.onnx",
    }
    clipdistill.export(str(student), files[REST])
    clipdistill.quantize(student, asked.images, folder / "int8", calibration_images=asked.count)
    clipdistill.export(str(folder / "int8"), files["ONNX Runtime INT8"])
    models = {name: opened(path) for name, path in files.items()}
    pixels = others.numpy()
    with torch.no_grad():
        truth = unit(network(others).numpy())
    found = {
        name: (unit(np.concatenate([run(one[None]) for one in pixels])) * truth).sum(axis=1)
        for name, run in models.items()
    }
    times = raced(models, pixels[:1])
    ratios = {
        name: statistics.median(a / b for a, b in zip(own, times[REST], strict=True))
        for name, own in times.items()
    }
    return [
        [
            *(student.name, name, f"{path.stat().st_size / 1e6:.1f}"),
            *(f"{found[name].mean():.5f}", f"{found[name].min():.5f}"),
            f"{1000 * statistics.median(times[name]):.2f}",
            f"{ratios[name]:.2f}",
        ]
        for name, path in files.items()
    ]


def inputs(root: Path, count: int, preprocess: Any) -> torch.Tensor:
    """Images evenly spread over a folder, as the network takes them."""
    items = list_images(root)
    places = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    loaded = (load_one(items[int(place)], preprocess).pixels for place in places)
    pixels = np.stack([one for one in loaded if one is not None])
    return to_input(torch.from_numpy(pixels), preprocess).contiguous()


def quantised(network: torch.nn.Module, shown: torch.Tensor) -> torch.nn.Module:
    """The network in INT8, with ranges of images."""
    rules = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(network, (shown[:1],)).module(), rules)
    with torch.no_grad():
        for one in shown:
            prepared(one[None])
    return convert_pt2e(prepared)


def lowered(network: torch.nn.Module, one: torch.Tensor, out: Path, left: Counter[str]) -> Path:
    """Write a .pte file; count the operators that stay outside of XNNPACK."""
    program = to_edge_transform_and_lower(
        torch.export.export(network, (one,)), partitioner=[XnnpackPartitioner()]
    )
    for node in program.exported_program().graph.nodes:
        name = str(node.target).partition(":")[0]
        if node.op == "call_function" and "aten" in str(node.target):
            left[name] += 1
    out.write_bytes(program.to_executorch().buffer)
    return out


def opened(path: Path) -> Model:
    """A file as a function of normalised images (1, 3, S, S)."""
    if path.suffix == ".pte":
        method = Runtime.get().load_program(str(path)).load_method("forward")
        return lambda pixels: method.execute([torch.from_numpy(pixels)])[0].numpy().copy()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["embeddings"], {"input": pixels})[0]


def raced(models: dict[str, Model], pixels: np.ndarray) -> dict[str, list[float]]:
    """Seconds per image of every model in every round; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(-1, ROUNDS):
        for name, run in models.items():
            started = time.perf_counter()
            for _ in range(RUNS):
                run(pixels)
            if number >= 0:
                times[name].append((time.perf_counter() - started) / RUNS)
    return times


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--student", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=Path, required=True, help="for INT8 ranges")
    parser.add_argument("--other", type=Path, required=True, help="that are compared")
    parser.add_argument("--count", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
