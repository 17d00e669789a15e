"""Everything that needs an NVIDIA GPU, in one command: `make gpu` writes `benchmarks/gpu-DATE.md`.

First the tests that are marked `gpu`.  Then embed and distill on the processor and on the GPU,
training steps in FP32, bf16 and compiled bf16, files of one student (dense and 2:4, FP32, FP16 and
INT8), a TensorRT engine of each, and their latencies in one race.  What this machine lacks
(TensorRT, ONNX Runtime for CUDA, pytest) is left out, and the report says so; a part that fails is
reported and does not stop the others.

    python benchmarks/gpu.py --images PHOTOS --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from reporting import write_report

import clipdistill
from clipdistill.core.console import ConsoleReporter
from clipdistill.core.errors import ClipDistillError, first_line
from clipdistill.core.progress import reporting
from clipdistill.images.synthetic import smooth_pixels

ROOT = Path(__file__).parents[1]
TOY_TEACHER = Path(clipdistill.__file__).parent / "pipeline" / "toy" / "toy_teacher"
DRAWN = 512
STEPS = 20
COLUMNS = ("part", "what", "result")

Row = tuple[str, str, str]


@dataclass
class Bench:
    """What the parts share, and what they have found so far.

    Attributes:
        asked: the command line.
        rows: the table: part, what, result.
        left_out: a sentence for each part that was left out.
        files: ONNX files that were made: name -> file.
        engines: engines that were made.
    """

    asked: argparse.Namespace
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    engines: list[Path] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return Path(self.asked.out)

    @property
    def devices(self) -> list[str]:
        """The processor and the GPU, to compare; once, where it is the processor only."""
        return list(dict.fromkeys(["cpu", str(self.asked.device)]))


def main() -> int:
    """Run every part and write the report."""
    asked = parse()
    missing = no_gpu() if asked.device == "cuda" else ""
    if missing:
        print(missing, file=sys.stderr)
        return 1
    asked.out /= time.strftime("%Y%m%d-%H%M%S")  # nothing of an earlier run is continued
    bench = Bench(asked)
    bench.out.mkdir(parents=True, exist_ok=True)
    asked.images = asked.images or drawn_images(bench.out / "photos")
    with reporting(ConsoleReporter()):
        for part in PARTS:
            attempt(bench, part)
    write(bench)
    return 0


def no_gpu() -> str:
    """One sentence if torch cannot use a GPU here, else an empty text."""
    if importlib.util.find_spec("torch") is None:
        return "There is no PyTorch here: pip install 'clipdistill[train]', with a build for CUDA."
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        f"There is no NVIDIA GPU that PyTorch {torch.__version__} can use, so nothing was run; "
        "`clipdistill doctor cuda tensorrt` says what is missing."
    )


def attempt(bench: Bench, part: Callable[[Bench], None]) -> None:
    """Run a part; if it fails, note why and continue."""
    name = (part.__doc__ or part.__name__).splitlines()[0].rstrip(".")
    print(f"--- {name}", file=sys.stderr)
    try:
        part(bench)
    except ClipDistillError as error:
        bench.left_out.append(f"{name}: {first_line(error)}")
    except Exception as error:  # a fault on a machine that we cannot see must not lose the rest
        bench.left_out.append(f"{name} FAILED: {type(error).__name__}: {first_line(error)}")


def drawn_images(folder: Path) -> Path:
    """Draw images, where none are given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(smooth_pixels(DRAWN, 256)):
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
    return folder


def run_tests(bench: Bench) -> None:
    """Tests that are marked gpu."""
    if importlib.util.find_spec("pytest") is None:
        bench.left_out.append("Tests that are marked gpu: pytest is not installed")
        return
    line = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run([*line, "tests"], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    bench.rows.append(("tests", "pytest -m gpu", lines[-1].strip("= ") if lines else "no output"))
    bench.left_out += [one for one in lines if one.startswith(("SKIPPED", "FAILED", "ERROR"))]


def run_embed(bench: Bench) -> None:
    """Embedding with the teacher."""
    for device in bench.devices:
        found = clipdistill.embed(
            bench.asked.images,
            bench.out / f"emb-{device}",
            model_name=bench.asked.teacher,
            device=device,
        )
        rate = found.embedded / found.seconds
        bench.rows.append(("embed", device, f"{rate:.0f} images/s ({found.embedded} images)"))


def run_distill(bench: Bench) -> None:
    """Training with distill, one epoch."""
    wanted = [(device, "fp32") for device in bench.devices]
    if bench.asked.device == "cuda":
        wanted.append(("cuda", "bf16"))
    for device, precision in wanted:
        found = train(bench, f"student-{device}-{precision}", device=device, precision=precision)
        rate = found.train_images / found.seconds
        bench.rows.append(("distill", f"{device}, {precision}", f"{rate:.0f} images/s"))


def train(bench: Bench, name: str, **options: Any) -> Any:
    """Distill a student for one epoch."""
    return clipdistill.distill(
        bench.asked.arch,
        bench.asked.images,
        bench.out / f"emb-{bench.asked.device}",
        bench.out / name,
        image_size=bench.asked.image_size,
        num_epochs=1,
        **options,
    )


def run_steps(bench: Bench) -> None:
    """Training steps of the network alone: precision, compiled or not."""
    device = bench.asked.device
    for precision, compiled in (("fp32", False), ("bf16", False), ("bf16", True)):
        if compiled and device == "cpu":  # takes minutes
            continue
        what = f"{precision}, {'compiled' if compiled else 'eager'}"
        rate, memory = steps_per_second(bench.asked, device, precision, compiled)
        used = f", {memory / 1e9:.2f} GB at most" if memory else ""
        bench.rows.append(("training step", what, f"{rate:.0f} images/s{used}"))


def steps_per_second(
    asked: argparse.Namespace, device: str, precision: str, compiled: bool
) -> tuple[float, int]:
    """Median images per second of a step, and the GPU memory at most in bytes (0: unknown)."""
    import torch

    from clipdistill.models.architecture import build_student

    network: Any = build_student(asked.arch, 512).to(device, memory_format=torch.channels_last)
    run: Any = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.rand(asked.batch_size, 3, asked.image_size, asked.image_size, device=device)
    target = torch.nn.functional.normalize(torch.rand(asked.batch_size, 512, device=device), dim=-1)
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(3 + asked.steps):  # the first three are not counted: kernels, compilation
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            output = torch.nn.functional.normalize(run(images).float(), dim=-1)
        (1 - (output * target).sum(-1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() if cuda else 0
    return asked.batch_size / statistics.median(seconds[3:]), memory


def make_files(bench: Bench) -> None:
    """Files for TensorRT: dense and 2:4, FP32, FP16 and INT8."""
    dense = f"student-{bench.asked.device}-fp32"
    train(
        bench, "sparse", device=bench.asked.device, init_checkpoint=bench.out / dense, sparse=True
    )
    for name, folder in (("dense", dense), ("sparse", "sparse")):
        student, int8 = bench.out / folder, bench.out / f"{name}-int8"
        if importlib.util.find_spec("modelopt") is None:
            bench.left_out.append(f"INT8, {name}: pip install 'clipdistill[compress]'")
        elif not (int8 / "student.json").exists():
            clipdistill.quantize(student, bench.asked.images, int8, device="cpu")
        for form, source, fp16 in (
            ("fp32", student, False),
            ("fp16", student, True),
            ("int8+fp16", int8, True),
        ):
            file = bench.out / f"{name}-{form}.onnx"
            if source.is_dir():
                clipdistill.export(source, file, target="tensorrt", fp16=fp16)
                bench.files[f"{name}-{form}"] = file


def build_engines(bench: Bench) -> None:
    """TensorRT engines."""
    if importlib.util.find_spec("tensorrt") is None:
        why = "TensorRT is not installed (pip install 'clipdistill[tensorrt]')"
        bench.left_out.append(f"TensorRT engines: {why}")
        return
    for name, file in bench.files.items():
        out = file.with_suffix(".engine")
        try:
            found: Any = clipdistill.engine(
                file,
                out,
                sparse=name.startswith("sparse"),
                timing_cache=bench.out / "timing.cache",
            )
        except ClipDistillError as error:
            bench.left_out.append(f"engine of {name}: {first_line(error)}")
            continue
        bench.engines.append(out)
        engaged = "; ".join(str(one) for one in found.summary() if "engage" in str(one))
        bench.rows.append(("engine", name, f"TensorRT {found.tensorrt}. {engaged}".strip()))


def run_latency(bench: Bench) -> None:
    """Latency and throughput, in one race."""
    import onnxruntime

    device = bench.asked.device
    models: list[Path | str] = [*bench.engines, bench.out / f"student-{device}-fp32"]
    if device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        plain = (file for name, file in bench.files.items() if "int8" not in name)
        models += [f"onnxruntime:{file}" for file in plain]
    else:
        bench.left_out.append(
            "ONNX Runtime on the GPU: pip uninstall -y onnxruntime; pip install onnxruntime-gpu"
        )
    prompts, text = bench.out / "prompts.txt", bench.out / "text.npy"
    prompts.write_text("a red image\na green image\na blue image\n")
    clipdistill.embed_text(prompts, text, model_name=bench.asked.teacher, device=device)
    found = clipdistill.benchmark(
        *map(str, models),
        images=bench.asked.images,
        text=text,
        device=device,
        rounds=bench.asked.rounds,
        limit=200,
    )
    for row in found.rows:
        what = f"{row.runtime}: {Path(row.model).name}, {row.precision}"
        if row.latency_ms is None:
            bench.left_out.append(f"latency of {what}: {row.reason}")
            continue
        rates = ", ".join(f"{rate:.0f} at batch {size}" for size, rate in row.throughput.items())
        cosine = "-" if row.cosine is None else f"{row.cosine:.4f}"
        result = f"{row.latency_ms:.3f} ms at batch 1; images/s: {rates}; cosine {cosine}"
        bench.rows.append(("latency", what, result))


PARTS: tuple[Callable[[Bench], None], ...] = (
    run_tests,
    run_embed,
    run_distill,
    run_steps,
    make_files,
    build_engines,
    run_latency,
)


def write(bench: Bench) -> Path:
    """Write the report; of a trial on the processor, into the folder of the run."""
    left = [f"- {one}" for one in bench.left_out] or ["- nothing"]
    about = [
        gpu_line() if bench.asked.device == "cuda" else "A trial of this script without a GPU.",
        "",
        f"{bench.asked.arch} at {bench.asked.image_size} px; batch {bench.asked.batch_size} in "
        "training; one epoch per student, as speed does not depend on what it learnt.",
        "",
        "Left out or failed:",
        "",
        *left,
    ]
    name = "gpu" if bench.asked.device == "cuda" else str(bench.out.resolve() / "trial")
    return write_report(name, "On a GPU", about, COLUMNS, bench.rows)


def gpu_line() -> str:
    """The GPU, its memory, and the versions of the driver's libraries."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return (
        f"GPU: {found.name}, compute capability {found.major}.{found.minor}, "
        f"{found.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}."
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="photos; drawn ones unless given")
    parser.add_argument("--teacher", default=f"local-dir:{TOY_TEACHER}")
    parser.add_argument("--arch", default="resnet18", help="timm's model name")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
