"""quickstart: the whole road on a toy world, offline, in minutes."""

from __future__ import annotations

import importlib.util
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from ..benchmarking.report import BenchmarkResult
from ..errors import MissingExtraError, OutputError
from ..files import ensure_folder, read_json, write_bytes, write_json
from ..formats.classifier import Target
from ..formats.ledger import INDEX
from ..progress import message, track
from ..recipe import DistillOptions
from ..results import Table, to_json
from ..sources.options import SearchOptions
from ..toy.world import FIRST_USER_SEED, KINDS, prompts, render
from ..web.policy import DownloadOptions

ARCH = "test_resnet"
"""0.4 M parameters, timm's smallest ResNet: it trains in a minute on two cores."""
IMAGE_SIZE = 64
LEARNING_RATE = 6e-3
"""From scratch on 4000 pictures for 16 epochs: 98.6% of the teacher's accuracy, for 12 epochs 97%;
2e-3 gave 93% (2 cores, 2026-11)."""
COMPRESSED = {"sparse": (True, False), "int8": (False, True), "sparse-int8": (True, True)}
"""The small and fast students -> whether they are trained with --sparse and with --qat."""
FOLDERS: dict[Target, str] = {"onnxruntime": "cpu", "tensorrt": "trt"}
RUNTIME_FOR: dict[Target, str] = {"onnxruntime": "onnxruntime", "tensorrt": "openvino"}
"""What a file is for -> where it lies, and what runs it here if it is installed."""
FINE_TUNING_EPOCHS = 2
SHOWN = 4
PORT = 17320
"""Tried first, so that URLs, and with them names and order of the pictures, are the same in every
run."""


@dataclass(frozen=True)
class Row:
    """One model in the final table.

    Attributes:
        model: teacher or student.
        runtime: what ran it.
        accuracy: zero-shot top-1 on held-out labelled pictures, 0 to 1.
        agreement: share of pictures given the teacher's own label.
        cosine: mean cosine with the teacher's embeddings.
        size_mb: of the weights on disk.
        latency_ms: median time of one picture, batch 1.
    """

    model: str
    runtime: str
    accuracy: float
    agreement: float
    cosine: float
    size_mb: float
    latency_ms: float


@dataclass(frozen=True)
class QuickstartResult:
    """What `quickstart` did.

    Attributes:
        out: the folder that holds everything.
        seconds: of the whole run.
        rows: teacher, student in torch, student in ONNX Runtime.
        predictions: (picture, label, probability) of a few held-out pictures.
        benchmark: every file in the runtime that it is for.
    """

    out: Path
    seconds: float
    rows: tuple[Row, ...]
    predictions: tuple[tuple[str, str, float], ...]
    benchmark: BenchmarkResult

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        out = self.out
        return [
            Table(
                f"Zero-shot on held-out pictures (student: {ARCH}, trained without labels)",
                ("model", "runtime", ">accuracy", ">agreement", ">cosine", ">MB", ">ms"),
                tuple(
                    (row.model, row.runtime, f"{100 * row.accuracy:.1f}%",
                     f"{100 * row.agreement:.1f}%", f"{row.cosine:.3f}", f"{row.size_mb:.1f}",
                     f"{row.latency_ms:.1f}")
                    for row in self.rows
                ),
            ),
            Table(
                "A few pictures, classified by classifier.onnx",
                ("picture", "label", ">probability"),
                tuple((name, label, f"{100 * p:.1f}%") for name, label, p in self.predictions),
            ),
            *self.benchmark.summary(),
            f"Everything lies in {out} ({self.seconds:.0f} s):",
            f"  {out / 'world'}             pictures, as if they lay somewhere on the web",
            f"  {out / 'image_urls.txt'}    what a search by the prompts found there",
            f"  {out / 'images'}            the pictures that were downloaded, without labels",
            f"  {out / 'embeddings'}        what the teacher said of them",
            f"  {out / 'student'}           the distilled network",
            f"  {out / 'classifier.onnx'}   the classifier, with labels and preprocessing",
            f"  {out / 'student-*'}         the same, 2:4 sparse, INT8, and both",
            f"  {out / 'cpu'}, {out / 'trt'}   files of all four, for ONNX Runtime and for "
            "TensorRT or OpenVINO",
            f"  {out / 'summary.json'}      the tables above",
            "Next:",
            f"  clipdistill predict {out}/classifier.onnx {out}/held-out/cat",
            f"  clipdistill evaluate {out}/student {out}/classifier.onnx --labelled {out}/held-out "
            f"--text {out}/text.npy",
            "  clipdistill embed YOUR_PHOTOS embeddings    # then embed-text, distill, export",
        ]  # fmt: skip


def quickstart(
    *,
    out: Path = Path("runs/quickstart"),
    num_images: int = 4000,
    num_epochs: int = 16,
    seed: int = FIRST_USER_SEED,
) -> QuickstartResult:
    """Distil a classifier for a toy world, offline, from a search for pictures to the ONNX file.

    Every stage runs for real, through the same functions as the other verbs, and keeps what an
    earlier run of it finished.

    Args:
        out: folder for everything.
        num_images: pictures to draw, among which those to learn from are searched.
        num_epochs: passes over them.
        seed: of the toy world; 10 or more (the toy teacher was trained on other seeds).

    Raises:
        OutputError: `out` cannot be written to, or holds a run with other settings.
    """
    start = time.monotonic()
    out = ensure_folder(Path(out))
    if seed < FIRST_USER_SEED:
        raise OutputError(
            f"--seed {seed}: expected {FIRST_USER_SEED} or more; lower seeds drew the pictures the "
            "toy teacher was trained and measured on."
        )
    _check_settings(out / "settings.json", {"num_images": num_images, "seed": seed})
    world, held_out = out / "world", out / "held-out"
    _draw(world, num_images, seed, labelled=False)
    _draw(held_out, 25 * len(KINDS), seed + 1, labelled=True)
    lines = [f"{kind}\t{prompt}\n" for kind, prompt in zip(KINDS, prompts(), strict=True)]
    write_bytes(out / "prompts.txt", "".join(lines).encode())
    with as_file(files("clipdistill.toy") / "toy_teacher") as folder:
        teacher = f"local-dir:{folder}"
        _collect(out, teacher, world, max(1, num_images // len(KINDS)))
        _make(out, teacher, num_epochs)
        rows = _measure(out, teacher, held_out)
        measured = _compress(out, teacher, held_out)
    shown = _classify(out, held_out)
    result = QuickstartResult(out, time.monotonic() - start, rows, shown, measured)
    write_json(out / "summary.json", to_json(result))
    return result


def _check_settings(path: Path, settings: dict[str, int]) -> None:
    """Remember what is drawn; pictures of other settings are not mixed with these.

    Raises:
        OutputError: the folder holds a run with other settings.
    """
    if path.is_file():
        found = read_json(path, "the quickstart's settings")
        for name, value in settings.items():
            if found.get(name) != value:
                raise OutputError(
                    f"{path.parent} holds a run with --{name.replace('_', '-')} {found.get(name)}, "
                    f"not {value}. Choose another --out, or delete that folder."
                )
    write_json(path, settings)


def _draw(folder: Path, count: int, seed: int, *, labelled: bool) -> None:
    with track("draw held-out" if labelled else "draw", count, "pictures") as step:
        render(folder, count, seed=seed, labelled=labelled, on_picture=step)


def _collect(out: Path, teacher: str, world: Path, per_prompt: int) -> None:
    """From prompts to a folder of pictures: a pool, a service, search, download."""
    from ..pool import open_pool
    from ..service import running_service
    from .embed import embed
    from .serve import ServeOptions, build_service

    if (out / "images" / INDEX).is_file():
        message("1/10 serve, search, download: kept from before")
        return
    message("1/10 serve: the world's pictures become a pool that can be searched, on loopback")
    embed(world, out / "pool", model_name=teacher)
    service = build_service(open_pool(out / "pool"), world, ServeOptions(device="cpu"))
    with running_service(service, port=_free_port()) as url:
        _fetch(out, url, per_prompt)


def _free_port() -> int:
    """`PORT`, or 0 (any) when somebody else is at it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return 0
    return PORT


def _fetch(out: Path, url: str, per_prompt: int) -> None:
    from .download import download
    from .search import search

    urls = out / "image_urls.txt"
    for path in (urls, urls.with_suffix(".parquet")):
        path.unlink(missing_ok=True)  # of a run that was stopped; the port may be another
    message("2/10 search, download: pictures that fit the prompts are found and fetched")
    # Pictures of one kind look alike to this teacher, and are wanted all the same.
    search(
        out / "prompts.txt",
        urls,
        SearchOptions(source="knn", url=url, num_images=per_prompt, deduplicate=False),
    )
    download(urls, out / "images", DownloadOptions(allow_private=True, per_host=16))


def _make(out: Path, teacher: str, num_epochs: int) -> None:
    """From pictures to a classifier: embed, embed-text, distill, export."""
    from .distill import distill
    from .embed import embed
    from .embed_text import embed_text
    from .export import export

    images = out / "images"
    message("3/10 embed: the teacher looks at the pictures")
    embed(images, out / "embeddings", model_name=teacher)
    message("4/10 embed-text: prompts become the class list")
    embed_text(out / "prompts.txt", out / "text.npy", model_name=teacher)
    message(f"5/10 distill: {ARCH} learns to give the teacher's embeddings (no labels, no prompts)")
    options = DistillOptions(image_size=IMAGE_SIZE, lr=LEARNING_RATE, num_epochs=num_epochs)
    distill(ARCH, images, out / "embeddings", out / "student", options)
    message("6/10 export: one ONNX file with labels and preprocessing")
    export(str(out / "student"), out / "classifier.onnx", text=out / "text.npy")


def _measure(out: Path, teacher: str, held_out: Path) -> tuple[Row, ...]:
    from .evaluate import evaluate

    message("7/10 evaluate: teacher and student on held-out, labelled pictures")
    models = (teacher, str(out / "student"), str(out / "classifier.onnx"))
    result = evaluate(*models, labelled=held_out, text=out / "text.npy")
    names = ("teacher", "student", "student")
    return tuple(
        Row(name, row.runtime, _known(row.accuracy), _known(row.agreement), _known(row.cosine),
            row.size_mb, row.latency_ms)
        for name, row in zip(names, result.rows, strict=True)
    )  # fmt: skip


def _compress(out: Path, teacher: str, held_out: Path) -> BenchmarkResult:
    """Small and fast: sparse and INT8 students, files for both targets, one honest table."""
    from .benchmark import BenchmarkOptions, benchmark

    students = [out / "student", *_fine_tune(out)]
    models = [teacher, f"torch:{students[0]}", *_export_all(out, students)]
    message("10/10 benchmark: every file in the runtime that it is for")
    # The chart needs an extra of its own; without it the table is there all the same.
    plot = out / "benchmark.svg" if importlib.util.find_spec("matplotlib") else None
    options = BenchmarkOptions(rounds=3, limit=100, batch="1,8", plot=plot)
    return benchmark(*models, labelled=held_out, text=out / "text.npy", options=options)


def _fine_tune(out: Path) -> list[Path]:
    """Make the dense student sparse, INT8, and both; a few epochs each."""
    from .distill import distill

    message("8/10 distill --sparse, --qat, and both, from the dense student")
    made = []
    for name, (sparse, qat) in COMPRESSED.items():
        options = DistillOptions(
            image_size=IMAGE_SIZE,
            num_epochs=FINE_TUNING_EPOCHS,
            init_checkpoint=out / "student",
            sparse=sparse,
            qat=qat,
        )
        try:
            distill(ARCH, out / "images", out / "embeddings", out / f"student-{name}", options)
        except MissingExtraError as error:
            message(f"Left out: {error}")
        else:
            made.append(out / f"student-{name}")
    return made


def _export_all(out: Path, students: Sequence[Path]) -> list[str]:
    """Export for both targets; returns the files as `benchmark` takes them."""
    from ..runtime import installed_runtimes
    from .export import export

    message("9/10 export: each for ONNX Runtime, and for TensorRT and OpenVINO")
    models = []
    for target, runtime in RUNTIME_FOR.items():
        for student in students:
            name = student.name.removeprefix("student").removeprefix("-") or "dense"
            path = ensure_folder(out / FOLDERS[target]) / f"{name}.onnx"
            export(str(student), path, text=out / "text.npy", target=target)
            if runtime in installed_runtimes("onnx"):
                models.append(f"{runtime}:{path}")
    return models


def _known(value: float | None) -> float:
    if value is None:
        raise AssertionError("evaluate measured nothing although labels and teacher were given")
    return value


def _classify(out: Path, held_out: Path) -> tuple[tuple[str, str, float], ...]:
    """Classify the first picture of a few kinds with the finished file alone."""
    from .predict import predict

    some = [next(iter(sorted((held_out / kind).glob("*.jpg")))) for kind in _spread(KINDS, SHOWN)]
    result = predict(str(out / "classifier.onnx"), *[str(path) for path in some], top_k=1)
    return tuple(
        (path.relative_to(out).as_posix(), *row.ranked[0])
        for path, row in zip(some, result.predictions, strict=True)
    )


def _spread(names: Sequence[str], count: int) -> list[str]:
    """`count` names, evenly over the list."""
    return [names[index * len(names) // count] for index in range(count)]
