"""Every runtime on the same students: torch, ONNX Runtime, OpenVINO, LiteRT, the browser's WASM.

    python benchmarks/runtimes.py resnet18 tf_efficientnet_lite0 --images photos \
        --weights tf_efficientnet_lite0=weights.safetensors --npm FOLDER

Students in FP32, 2:4 and INT8, not trained: what is compared is the file with its student.
Networks without --weights are random, which makes INT8 unsteady (docs/decisions.md).  All files of
a network are timed in one race.  LiteRT's columns need `make litert`; the browser's need Node and a
folder in which `npm install onnxruntime-web` was run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from reporting import write_report
from students import settle

import clipdistill
from clipdistill.core.errors import ClipDistillError, first_line
from clipdistill.core.zeroshot import LogitScale
from clipdistill.formats.cards import StudentCard, TeacherCard
from clipdistill.formats.student import save_card, save_samples, save_weights
from clipdistill.formats.text import TextEmbeddings, save_text
from clipdistill.images.loading import load_one
from clipdistill.images.sources import list_images
from clipdistill.models.compression import Compressed, add_int8, add_sparsity
from clipdistill.models.open import open_embedder
from clipdistill.models.student import build_student, default_preprocess, load_backbone_weights
from clipdistill.models.torch_embedder import to_input

DIM = 64
CALIBRATION, SAMPLES = 64, 32
"""Images for INT8 calibration, and those of them that a student keeps."""
PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "torch": "torch",
}
"""Runtime -> its package."""
COLUMNS = [
    *("network", "student", "runtime", "file MB", "mean cosine", "ms", "against ONNX Runtime FP32"),
    "first answer, s",
]
FIRST = """
import sys, time
started = time.perf_counter()
import numpy as np
from clipdistill.models.open import open_embedder
model = open_embedder(sys.argv[1], device="cpu")
side = model.spec.preprocess.size
model.embed_pixels(np.zeros((1, side, side, 3), np.uint8))
print(time.perf_counter() - started)
"""
IN_NODE = """
import { readFileSync, writeFileSync } from "node:fs";
const started = performance.now();
const ort = await import("onnxruntime-web");
const [file, input, output, count, side] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(file));
const pixels = new Float32Array(readFileSync(input).buffer.slice(0));
const each = 3 * side * side, found = [], taken = [];
let first = 0;
for (let i = 0; i < count; i++) {
  const values = pixels.slice(i * each, (i + 1) * each);
  const one = new ort.Tensor("float32", values, [1, 3, +side, +side]);
  const begun = performance.now();
  found.push(...(await session.run({ input: one })).embeddings.data);
  taken.push(performance.now() - begun);
  first ||= (performance.now() - started) / 1000;
}
writeFileSync(output, Buffer.from(new Float32Array(found).buffer));
console.log(JSON.stringify({ ms: taken.sort((a, b) => a - b)[taken.length >> 1], first }));
"""


def main() -> None:
    """Make the files of every network, race them, and write the report."""
    asked = parse()
    torch.set_num_threads(1)
    lines = []
    for arch in asked.arch:
        with tempfile.TemporaryDirectory() as folder:
            lines += rows_of(arch, Path(folder), asked)
    sizes = [f"{name} {installed_mb(package):.0f} MB" for name, package in PACKAGES.items()]
    notes = [
        f"{asked.image_size} px, one image at a time, {asked.threads} threads (WASM: 1). Cosines "
        "are with the student in torch on the images; ratios are of times in one race.",
        "Networks without --weights are random, which makes their INT8 cosines unsteady.",
        "",
        "First answer: import, load and one image in a fresh process, median of 3.",
        f"Installed, with what it requires: {', '.join(sizes)}; clipdistill's base "
        f"{installed_mb('clipdistill'):.0f} MB.",
    ]
    write_report(
        f"runtimes{asked.suffix}", "Every runtime on the same students", notes, COLUMNS, lines
    )


def rows_of(arch: str, folder: Path, asked: argparse.Namespace) -> list[list[str]]:
    """A row per student and runtime of one network."""
    lines = []
    base = 0.0
    for state, student in make_students(arch, folder, asked).items():
        files = make_files(state, student, folder)
        models = [str(student), *files.values()]
        found = clipdistill.benchmark(
            *models,
            images=asked.images,
            text=made_up_classes(folder),
            threads=asked.threads,
            limit=asked.limit,
        )
        if state == "FP32":
            base = next(row.latency_ms or 0 for row in found.rows if row.runtime == "onnxruntime")
        for row in found.rows:
            if row.latency_ms is None:
                lines.append([arch, state, row.runtime, row.reason, "", "", "", ""])
                continue
            lines.append(
                [
                    *(arch, state, row.runtime, f"{row.size_mb:.1f}", f"{row.cosine or 1:.5f}"),
                    *(f"{row.latency_ms:.2f}", f"{row.latency_ms / base:.2f}" if base else ""),
                    f"{first_answer(row.model):.2f}",
                ]
            )
        if asked.npm is not None:
            lines.append([arch, state, *in_node(student, files["onnxruntime"], base, asked)])
    return lines


def make_students(arch: str, folder: Path, asked: argparse.Namespace) -> dict[str, Path]:
    """The states of a student: FP32, 2:4, INT8."""
    torch.manual_seed(0)
    side = asked.image_size
    network = build_student(arch, DIM, image_size=side).eval()
    weights = dict(pair.split("=", 1) for pair in asked.weights).get(arch)
    if weights is None:
        settle(network, side)
    else:
        load_backbone_weights(network, Path(weights))
    preprocess = default_preprocess(arch, side, None)
    loaded = (load_one(item, preprocess).pixels for item in list_images(asked.images)[:CALIBRATION])
    pixels = np.stack([one for one in loaded if one is not None])
    batch = to_input(torch.from_numpy(pixels), preprocess)
    made = {}
    for state in ("FP32", "2:4", "INT8"):
        done = Compressed(build_student(arch, DIM, image_size=side).eval())
        done.network.load_state_dict(network.state_dict())
        if state == "2:4":
            done = add_sparsity(done, side)
        if state == "INT8":
            done = add_int8(done, side, arch, [batch], len(pixels), "max")
        out = folder / re.sub(r"\W", "", state)
        out.mkdir()
        save_weights(out, done.network.state_dict())
        save_samples(out, pixels[:SAMPLES])
        card = StudentCard(arch, DIM, preprocess, None)
        compressed = done.compression if state != "FP32" else None
        save_card(out, replace(card, compression=compressed))
        made[state] = out
    return made


def made_up_classes(folder: Path) -> Path:
    """Text embeddings of two classes, which a race asks for; nothing that is reported uses them."""
    preprocess = default_preprocess("resnet18", 64, None)
    teacher = TeacherCard("made up", "", None, DIM, LogitScale(100.0), preprocess)
    vectors = np.eye(2, DIM, dtype=np.float32)
    classes = TextEmbeddings(vectors, ("a", "b"), (("a",), ("b",)), ("{}",), teacher)
    return save_text(folder / "text.npy", classes)


def make_files(state: str, student: Path, folder: Path) -> dict[str, str]:
    """Runtime -> MODEL, of those that can be made."""
    made = {}
    target_of = {"onnxruntime": "onnxruntime", "openvino": "onnxruntime", "litert": "litert"}
    if state == "INT8":
        target_of["openvino"] = "tensorrt"
    for runtime, target in target_of.items():
        ending = "tflite" if target == "litert" else "onnx"
        out = folder / f"{student.name}-{runtime}.{ending}"
        try:
            clipdistill.export(str(student), out, target=target)
        except ClipDistillError as error:
            print(f"{state} for {runtime}: {first_line(error)}")
        else:
            made[runtime] = f"{runtime}:{out}"
    return made


def first_answer(model: str) -> float:
    """Seconds to the first embedding in a fresh process, the median of three."""
    command = [sys.executable, "-c", FIRST, model]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(3)]
    taken = [float(run.stdout.splitlines()[-1]) for run in runs if run.returncode == 0]
    return statistics.median(taken) if taken else float("nan")


def in_node(student: Path, model: str, base: float, asked: argparse.Namespace) -> list[str]:
    """The cells of onnxruntime-web in Node."""
    file = Path(model.partition(":")[2])
    embedder = open_embedder(str(student), device="cpu")
    preprocess = embedder.spec.preprocess
    loaded = (
        load_one(item, preprocess).pixels for item in list_images(asked.images)[: asked.limit]
    )
    pixels = np.stack([one for one in loaded if one is not None])
    inside, out = file.with_suffix(".in"), file.with_suffix(".out")
    preprocess.normalize(pixels).tofile(inside)
    script = asked.npm / "clipdistill-runtimes.mjs"
    script.write_text(IN_NODE)
    command = [str(shutil.which("node")), script.name, str(file.resolve())]
    command += [str(inside.resolve()), str(out.resolve()), str(len(pixels)), str(preprocess.size)]
    run = subprocess.run(command, cwd=asked.npm, capture_output=True, text=True)
    script.unlink()
    if run.returncode:
        return ["web (WASM)", first_line(RuntimeError(run.stderr)), "", "", "", ""]
    answer = json.loads(run.stdout.splitlines()[-1])
    found = np.fromfile(out, np.float32).reshape(len(pixels), -1)
    cosine = float((found * embedder.embed_pixels(pixels)).sum(axis=1).mean())
    cells = [f"{file.stat().st_size / 1e6:.1f}", f"{cosine:.5f}", f"{answer['ms']:.2f}"]
    return ["web (WASM)", *cells, f"{answer['ms'] / base:.2f}", f"{answer['first']:.2f}"]


def installed_mb(package: str) -> float:
    """Size of a package and all that it requires, in 10^6 bytes; NaN where it is missing."""
    seen: set[str] = set()
    todo, total, started = [package], 0, time.monotonic()
    while todo and time.monotonic() - started < 60:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name == package:
                return float("nan")
            continue
        total += sum(one.size or 0 for one in found.files or [])
        for wanted in found.requires or []:
            if "extra ==" not in wanted:
                todo.append(re.split(r"[ ;<>=!~\[(]", wanted, maxsplit=1)[0])
    return total / 1e6


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arch", nargs="+", help="timm's model names")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--weights", nargs="*", default=[], help="NAME=FILE of backbones' weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=100, help="images that are compared")
    parser.add_argument("--npm", type=Path, help="folder with node_modules/onnxruntime-web")
    parser.add_argument("--suffix", default="", help="of the report's name")
    return parser.parse_args()


if __name__ == "__main__":
    main()
