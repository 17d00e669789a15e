"""quickstart: the whole pipeline on drawn images, offline, in minutes."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from ..core.errors import MissingExtraError, OptionError, OutputError
from ..core.files import read_json, write_bytes, write_json
from ..core.locks import locked
from ..core.loopback import LOCALHOST
from ..core.progress import message, track
from ..core.results import Result, Table, to_json
from ..core.wording import percent
from ..formats.measurements import load_measurement
from ..formats.run import EXPORTS, RunFolder
from ..measure.race.report import BenchmarkResult
from .options import RunOptions
from .record import existing_record
from .result import Row, RunResult, results_table, rows_of
from .run import run
from .toy.world import FIRST_USER_SEED, KINDS, prompts, render

ARCH = "test_resnet"
"""0.4 M parameters, timm's smallest ResNet: it trains in a minute on two cores."""
IMAGE_SIZE = 64
LEARNING_RATE = 6e-3
"""Of adamw, from scratch on 4000 pictures for 16 epochs without crops: 98.6% of the teacher's
accuracy, for 12 epochs 97%; 2e-3 gave 93% (2 cores, 2026-11)."""
FINE_TUNING_EPOCHS = 2
ROUNDS = 3
SHOWN = 4
PORT = 17320
"""Tried first, so that URLs, and with them names and order of the pictures, are the same in every
run."""


@dataclass(frozen=True, repr=False)
class QuickstartResult(Result):
    """What `quickstart` did.

    Attributes:
        out: the folder that holds everything.
        seconds: of the whole run.
        rows: teacher, student in torch, student in ONNX Runtime.
        predictions: (image, label, probability) of a few held-out images.
        benchmark: every file in the runtime that it is for.
        report: all results on one page; None where the extra for it is missing.
    """

    out: Path
    seconds: float
    rows: tuple[Row, ...]
    predictions: tuple[tuple[str, str, float], ...]
    benchmark: BenchmarkResult
    report: Path | None

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        out, folder = self.out, RunFolder(self.out)
        exports = ", ".join(str(out / name) for name in EXPORTS.values())
        page = [f"  {self.report}      all results on one page"] if self.report is not None else []
        return [
            results_table(
                f"Zero-shot on held-out images (student: {ARCH}, trained without labels)",
                self.rows,
            ),
            Table(
                f"A few images, classified by {folder.classifier.name}",
                ("image", "label", ">probability"),
                tuple((name, label, percent(p)) for name, label, p in self.predictions),
            ),
            *self.benchmark.summary(),
            f"Everything lies in {out} ({self.seconds:.0f} s):",
            f"  {out / 'world'}             images, served as if they lay on the web",
            f"  {folder.urls}    what a search by the prompts found there",
            f"  {folder.images}            the images that were downloaded, without labels",
            f"  {folder.embeddings}        their embeddings by the teacher",
            f"  {folder.student('dense')}           the distilled network",
            f"  {folder.classifier}   the classifier, with labels and preprocessing",
            f"  {out / 'student-*'}         the same, 2:4 sparse, INT8, and both",
            f"  {exports}   files of all four, for ONNX Runtime and for TensorRT or OpenVINO",
            f"  {folder.record}          how each of these was made, with the commands",
            f"  {out / 'summary.json'}      the tables above",
            *page,
            "Next:",
            f"  clipdistill predict {folder.classifier} {out}/held-out/cat",
            f"  clipdistill evaluate {folder.student('dense')} {folder.classifier} "
            f"--labelled {out}/held-out --text {folder.text}",
            "  clipdistill run YOUR_PROMPTS.txt runs/yours --images YOUR_PHOTOS",
        ]


def quickstart(
    *,
    out: Path = Path("runs/quickstart"),
    num_images: int = 4000,
    num_epochs: int = 16,
    seed: int = FIRST_USER_SEED,
) -> QuickstartResult:
    """Distil a classifier for drawn images, offline, from the search to the ONNX file.

    Images are drawn and served on loopback; the rest is `clipdistill run` with a search, which
    keeps what an earlier run of it finished.

    Args:
        out: folder for everything.
        num_images: images to draw, among which those to train on are searched.
        num_epochs: passes over them.
        seed: of the toy world; 10 or more (the toy teacher was trained on other seeds).

    Raises:
        OptionError: the seed is below 10.
        OutputError: `out` cannot be written to, holds a run with other settings, or another process
            is writing to it.
    """
    start = time.monotonic()
    out = Path(out)
    if seed < FIRST_USER_SEED:
        raise OptionError(
            f"--seed {seed}: expected {FIRST_USER_SEED} or more; lower seeds drew the pictures the "
            "toy teacher was trained and measured on."
        )
    with locked(out, "quickstart"):
        _check_settings(out / "settings.json", {"num_images": num_images, "seed": seed})
        world, held_out = out / "world", out / "held-out"
        _draw(world, num_images, seed, labelled=False)
        _draw(held_out, 25 * len(KINDS), seed + 1, labelled=True)
        lines = [f"{kind}\t{prompt}\n" for kind, prompt in zip(KINDS, prompts(), strict=True)]
        folder = RunFolder(out)
        write_bytes(folder.prompts, "".join(lines).encode())
        with as_file(files("clipdistill.pipeline.toy") / "toy_teacher") as place:
            teacher = f"local-dir:{place}"
            with _served(folder, teacher, world) as url:
                done = run(
                    folder.prompts, out, _options(url, teacher, held_out, num_images, num_epochs)
                )
        result = QuickstartResult(
            out=out,
            seconds=time.monotonic() - start,
            rows=_first_rows(done),
            predictions=_classify(folder, held_out),
            benchmark=load_measurement(folder.benchmark, BenchmarkResult),
            report=done.report,
        )
        write_json(out / "summary.json", to_json(result))
    return result


def _options(
    url: str, teacher: str, held_out: Path, num_images: int, num_epochs: int
) -> RunOptions:
    """Options of `run`; without ModelOpt what needs it is left out."""
    qat = importlib.util.find_spec("modelopt") is not None
    if not qat:
        message(f"Left out: {MissingExtraError('nvidia-modelopt', 'compress', 'INT8 training')}")
    return RunOptions(
        search="knn",
        url=url,
        num_images=max(1, num_images // len(KINDS)),
        # Images of one kind look alike to this teacher, and are wanted all the same.
        deduplicate=False,
        allow_private=True,
        teacher=teacher,
        student=ARCH,
        pretrained=False,
        image_size=IMAGE_SIZE,
        num_epochs=num_epochs,
        optimizer="adamw",
        lr=LEARNING_RATE,
        crop=1.0,
        sparse=True,
        qat=qat,
        compare=True,
        fine_tuning_epochs=FINE_TUNING_EPOCHS,
        classifier="dense",
        labelled=held_out,
        rounds=ROUNDS,
    )


def _check_settings(path: Path, settings: dict[str, int]) -> None:
    """Remember what is drawn; images of other settings are not mixed with these.

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
    with track("draw held-out" if labelled else "draw", count, "images") as step:
        render(folder, count, seed=seed, labelled=labelled, on_picture=step)


@contextlib.contextmanager
def _served(folder: RunFolder, teacher: str, world: Path) -> Iterator[str]:
    """The drawn images behind a search service on loopback; yields its address.

    Once everything is downloaded, the address that they came from is enough.
    """
    from ..collect.pool import open_pool
    from ..collect.serve import ServeOptions, build_service
    from ..core.serving import running_service
    from ..distillation.embed import embed

    record = existing_record(folder)
    known = {} if record is None else record.known()
    if "download" in known:
        yield str(known["search"].settings["url"])
        return
    message("serve: embed the drawn images and serve them on loopback")
    embed(world, folder.out / "pool", model_name=teacher)
    service = build_service(open_pool(folder.out / "pool"), world, ServeOptions(device="cpu"))
    with running_service(service, port=_free_port()) as url:
        yield url


def _free_port() -> int:
    """`PORT`, or 0 (any) when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, PORT))
        except OSError:
            return 0
    return PORT


def _first_rows(done: RunResult) -> tuple[Row, ...]:
    """Teacher, student in torch, student in ONNX Runtime; the others are in the benchmark."""
    if done.evaluation is None:
        raise AssertionError("run measured nothing although labels and teacher were given")
    return rows_of(done.evaluation, done.benchmark)[:3]


def _classify(folder: RunFolder, held_out: Path) -> tuple[tuple[str, str, float], ...]:
    """Classify the first image of a few kinds with the finished file alone."""
    from ..show.predict import predict

    some = [next(iter(sorted((held_out / kind).glob("*.jpg")))) for kind in _spread(KINDS, SHOWN)]
    result = predict(str(folder.classifier), *[str(path) for path in some], top_k=1)
    return tuple(
        (path.relative_to(folder.out).as_posix(), *row.ranked[0])
        for path, row in zip(some, result.predictions, strict=True)
    )


def _spread(names: Sequence[str], count: int) -> list[str]:
    """`count` names, evenly over the list."""
    return [names[index * len(names) // count] for index in range(count)]
