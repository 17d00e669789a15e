"""benchmark: speed, memory and accuracy of models in every runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import Parameter

from ..core.charts import check_available
from ..core.errors import ClipDistillError, InputError, OptionError, OutputError
from ..core.files import ensure_folder, write_bytes
from ..core.locks import locked_files
from ..core.model_names import short_names
from ..core.progress import track
from ..core.signatures import NameOrPath
from ..formats.cards import TeacherCard
from ..formats.classifier import OnnxCard
from ..formats.engine import load_engine_card
from ..formats.label_table import is_label_table
from ..formats.litert import read_litert_card
from ..formats.measurements import BenchmarkRow
from ..formats.onnx_wire import read_onnx
from ..formats.text import TextEmbeddings
from ..images.preprocess import Preprocess
from ..images.sources import ImageItem, list_images
from ..models.embedder import EmbedderSpec
from ..models.open import RUNTIMES, installed_runtimes, kind_of, open_embedder, split_runtime
from .race.child import Child, children
from .race.conclusions import Timed, conclusions
from .race.pictures import Pictures, PictureShelf
from .race.race import race
from .race.report import BenchmarkResult, chart, machine
from .task import (
    Embedded,
    Labels,
    Reference,
    against,
    choose_text,
    scores_of,
    share_right,
    true_labels,
)

TIMED_IMAGES = 32
"""Different images that are timed; larger batches repeat them."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of `benchmark`.

    Attributes:
        batch: batch sizes for throughput, 1 to 4096, separated by commas; latency is always
            measured at batch size 1.
        rounds: number of rounds, 1 or more; every round times each model once.
        threads: processor threads that each model may use; the runtime's own number unless given.
        device: auto, cpu, cuda, cuda:1 ...; "auto" lets each runtime choose.
        limit: most images of --images to embed for agreement and cosine, spread evenly over the
            folder.
        out: .md file to write the table to.
        plot: .svg file to draw accuracy (or agreement) against latency into.
        arch: timm's model name, only for checkpoints of the older scripts, which do not contain it.
        image_size: side of the input in pixels, only for checkpoints of the older scripts, which do
            not contain it.
    """

    batch: str = "1,8,32"
    rounds: int = 10
    threads: int | None = None
    device: str = "auto"
    limit: int = 500
    out: Path | None = None
    plot: Path | None = None
    arch: str | None = None
    image_size: int | None = None


@dataclass
class _Entry:
    """A model in a runtime, with its process and its row.

    Attributes:
        model: the model, without the runtime.
        runtime: runtime that it runs in.
        row: results so far; its `reason` is set when the model failed.
        about: description of the opened model from its process; empty when it was not opened.
        held: decoded images, by the name of their list.
        started: process of the model.
    """

    model: str
    runtime: str
    row: BenchmarkRow
    about: dict[str, Any] = field(default_factory=dict)
    held: dict[str, Pictures] = field(default_factory=dict)
    started: Child | None = None

    @property
    def command(self) -> str:
        """The model as an argument of `open_embedder`."""
        return f"{self.runtime}:{self.model}"

    @property
    def child(self) -> Child:
        """The started process."""
        assert self.started is not None, "its process is started with the others"
        return self.started

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that its input expects."""
        return Preprocess.from_json(self.about["preprocess"])

    def spec(self) -> EmbedderSpec:
        """Return the description of the model, from its process."""
        about = self.about
        teacher = None if about["teacher"] is None else TeacherCard.from_json(about["teacher"])
        return EmbedderSpec(
            name=self.model,
            runtime=about["runtime"],
            role=about["role"],
            teacher=teacher,
            dim=about["dim"],
            preprocess=self.preprocess,
            size_bytes=about["size_bytes"],
            arch=about["arch"],
            precision=about["precision"],
            device=about["device"],
        )

    def note(self, **known: Any) -> None:
        """Put results into the row."""
        self.row = replace(self.row, **known)


def benchmark(
    *models: NameOrPath,
    images: Path | None = None,
    labelled: Path | None = None,
    text: Path | None = None,
    options: BenchmarkOptions = BenchmarkOptions(),
) -> BenchmarkResult:
    """Measure speed, memory and accuracy of models in every installed runtime.

    An ONNX file runs in ONNX Runtime and in OpenVINO, a .tflite file in LiteRT, an engine in
    TensorRT, a student or a teacher in PyTorch; "openvino:FILE.onnx" selects one runtime.  Each
    model runs in its own process.  The models are timed in turns, so that a change of the machine's
    speed affects all of them.  The conclusions name what is slower than FP32, and where sparsity
    has no effect on this device.

    Agreement and cosine compare with the first teacher among MODELS, otherwise with the first
    MODEL.

    Args:
        models: .onnx, .engine or .tflite files, students' folders or checkpoints (.pth), teachers
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER).
        images: folder of images; the images of --labelled unless given. The names in a table of
            labels count from it, or without it from the table's folder.
        labelled: folder with one folder of images per class, or a table of labels (.csv, .tsv,
            .jsonl; see `evaluate`), to measure accuracy.
        text: text embeddings from `clipdistill embed-text`; not needed when a MODEL contains its
            own.
        options: see `BenchmarkOptions`.

    Raises:
        InputError: there is nothing to measure, a class folder is no label, or none of the models
            can be opened.
        MismatchError: the models are of different teachers.
        OutputError: --out or --plot cannot be written, or another process is writing it.
    """
    batches = _check_arguments(models, images, labelled, options)
    with locked_files("benchmark", options.out, options.plot):
        entries = _entries(models)
        names = [entry.command for entry in entries]
        with (
            tempfile.TemporaryDirectory(prefix="clipdistill-") as folder,
            children(names, options.threads) as started,
        ):
            for entry, child in zip(entries, started, strict=True):
                entry.started = child
            _open_all(entries, options)
            opened = [entry for entry in entries if entry.about]
            classes = choose_text([(entry.spec(), _carried(entry.model)) for entry in opened], text)
            found = _labels(labelled, images, classes)
            shelf = PictureShelf(Path(folder))
            plain = found.items if images is None and found else list_images(images or Path())
            _prepare_all(opened, shelf, "images", _spread(plain, options.limit))
            _time_all(opened, batches, options.rounds)
            reference = _compare_all(opened, classes, shelf)
            if found is not None:
                _add_accuracy(opened, classes, shelf, found)
        result = BenchmarkResult(
            rows=tuple(entry.row for entry in entries),
            reference=reference,
            conclusions=tuple(_conclusions(opened)),
            images=shelf.count.get("images", 0),
            labelled=shelf.count.get("labelled", 0),
            batches=batches,
            rounds=options.rounds,
            threads=options.threads,
            machine=machine(),
            failures=tuple(shelf.failures.values()),
            out=options.out,
            plot=options.plot,
        )
        _write(result)
    return result


def _check_arguments(
    models: Sequence[str], images: Path | None, labelled: Path | None, options: BenchmarkOptions
) -> tuple[int, ...]:
    """Return the batch sizes, ascending, 1 among them."""
    if not models:
        raise OptionError("No models given. Run: clipdistill benchmark MODEL ... --images FOLDER")
    if images is None and labelled is None:
        raise OptionError("No images given. Add --images FOLDER, or --labelled FOLDER.")
    if options.rounds < 1 or options.limit < 1 or (options.threads or 1) < 1:
        raise OptionError("--rounds, --limit and --threads: expected 1 or more.")
    parts = options.batch.replace(" ", "").split(",")
    if not all(part.isdecimal() and 0 < int(part[:6]) <= 4096 for part in parts):
        raise OptionError(f"--batch {options.batch!r}: expected numbers like 1,8,32, up to 4096.")
    for path, ending in ((options.out, ".md"), (options.plot, ".svg")):
        if path is not None:
            if path.suffix.lower() != ending:
                raise InputError(f"{path}: expected a name that ends in {ending}.")
            ensure_folder(path.parent)
            if path.is_dir():
                raise OutputError(
                    f"{path} should be a file, but a folder of that name is in the way. Choose "
                    "another output, or move that folder."
                )
    if options.plot is not None:
        check_available()
    return tuple(sorted({1, *map(int, parts)}))


def _entries(models: Sequence[str]) -> list[_Entry]:
    """Every model in every runtime that can run it and is installed."""
    entries = []
    for model in models:
        runtime, name = split_runtime(model)
        kind = kind_of(name)
        if kind is None or (runtime and runtime not in RUNTIMES[kind]):
            open_embedder(model)  # raises the error that describes what is wrong
            raise InputError(f"{model}: there is no such model.")
        able = (runtime,) if runtime else installed_runtimes(kind) or RUNTIMES[kind][:1]
        entries += [_Entry(name, one, BenchmarkRow(name, one)) for one in able]
    return entries


def _open_all(entries: Sequence[_Entry], options: BenchmarkOptions) -> None:
    """Let all processes open their models at the same time.

    Raises:
        InputError: no model could be opened.
    """
    for entry in entries:
        entry.child.send(
            "open",
            model=entry.command,
            device=options.device,
            threads=options.threads,
            arch=options.arch,
            image_size=options.image_size,
        )
    with track("opening", len(entries), "models") as step:
        for entry in entries:
            try:
                about = entry.child.receive()
                entry.about = about
                entry.note(
                    device=about["device"],
                    role=about["role"],
                    arch=about["arch"],
                    precision=about["precision"],
                    sparse=about["sparse"],
                    size_mb=about["size_bytes"] / 1e6,
                )
            except ClipDistillError as error:
                entry.note(reason=str(error))
            step()
    if not any(entry.about for entry in entries):
        raise InputError(f"None of the models can be opened: {_reasons(entries)}")


def _reasons(entries: Sequence[_Entry]) -> str:
    # A file that several runtimes cannot open is named once.
    reasons = dict.fromkeys(f"{entry.model}: {entry.row.reason}" for entry in entries)
    return "; ".join(list(reasons)[:3])


def _carried(model: str) -> TextEmbeddings | None:
    """Read the classes in a file, without a runtime."""
    path = Path(model)
    kind = kind_of(model)
    if kind == "onnx":
        return OnnxCard.from_metadata(path, read_onnx(path).metadata).text
    if kind == "litert":
        return read_litert_card(path).text
    return load_engine_card(path).onnx.text if kind == "engine" else None


def _spread(items: Sequence[ImageItem], most: int) -> Sequence[ImageItem]:
    """Choose at most `most` items, spread evenly over the list."""
    if len(items) <= most:
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, most).astype(int)]


def _prepare_all(
    entries: Sequence[_Entry], shelf: PictureShelf, what: str, items: Sequence[ImageItem]
) -> None:
    for entry in entries:
        pictures = shelf.prepare(what, items, entry.preprocess)
        entry.held[what] = pictures
        if what == "images":
            entry.note(preprocess_ms=pictures.prepare_ms)


def _time_all(entries: Sequence[_Entry], batches: Sequence[int], rounds: int) -> None:
    """Time all models; then read the peak memory of each process."""
    for entry in entries:
        pictures = entry.held["images"]
        count = min(TIMED_IMAGES, len(pictures.rows))
        _ask(entry, "load", path=str(pictures.path), count=count)
    ready = [entry for entry in entries if not entry.row.reason]
    with track("timing", len(ready) * (rounds + 1), "turns") as step:
        timings = race([entry.child for entry in ready], batches, rounds, step)
    for entry, timing in zip(ready, timings, strict=True):
        if timing.failure:
            entry.note(reason=timing.failure)
            continue
        entry.note(
            latency_ms=1000 * timing.median(1),
            latency_p90_ms=1000 * timing.percentile(1, 0.9),
            throughput={str(batch): batch / timing.median(batch) for batch in batches},
            round_ms=tuple(1000 * second for second in timing.round_medians(1)),
        )
        peak = _ask(entry, "memory").get("peak_bytes")
        entry.note(peak_mb=None if peak is None else peak / 1e6)


def _compare_all(entries: Sequence[_Entry], classes: TextEmbeddings, shelf: PictureShelf) -> str:
    """Measure agreement and cosine of all models; return the name of the reference.

    Raises:
        InputError: no model could be measured.
    """
    embedded: dict[int, Embedded] = {}
    with track("embedding", len(entries), "models") as step:
        for index, entry in enumerate(entries):
            own = _embed(entry, shelf, "images", index)
            if own is not None:
                embedded[index] = own
            step()
    if not embedded:
        raise InputError(f"None of the models could be measured: {_reasons(entries)}")
    teachers = [index for index in embedded if entries[index].about["role"] == "teacher"]
    chosen = (teachers or list(embedded))[0]
    name = f"{entries[chosen].model} in {entries[chosen].runtime}"
    for index, own in embedded.items():
        scores = scores_of(own.vectors, classes)
        agreement, cosine = against(own, scores, Reference(name, embedded[chosen]), classes)
        entries[index].note(agreement=agreement, cosine=cosine, images=len(own.rows))
    return name


def _labels(labelled: Path | None, images: Path | None, classes: TextEmbeddings) -> Labels | None:
    """Read the labels before anything is timed; None without."""
    if labelled is None:
        return None
    return true_labels(labelled, images if is_label_table(labelled) else None, classes.labels)


def _add_accuracy(
    entries: Sequence[_Entry], classes: TextEmbeddings, shelf: PictureShelf, found: Labels
) -> None:
    _prepare_all(entries, shelf, "labelled", found.items)
    for index, entry in enumerate(entries):
        own = _embed(entry, shelf, "labelled", index)
        if own is not None:
            scores = scores_of(own.vectors, classes)
            entry.note(accuracy=share_right(scores, found.truths[own.rows]))


def _embed(entry: _Entry, shelf: PictureShelf, what: str, index: int) -> Embedded | None:
    """Let a process embed its images; None, and the reason in its row, where it cannot."""
    pictures, out = entry.held[what], shelf.folder / f"{what}-{index}.npy"
    _ask(entry, "embed", path=str(pictures.path), count=len(pictures.rows), out=str(out))
    if entry.row.reason:
        return None
    return Embedded(pictures.rows, np.load(out, allow_pickle=False))


def _ask(entry: _Entry, do: str, **arguments: Any) -> dict[str, Any]:
    """Send a request to its process, unless it failed; a failure is put into its row."""
    if entry.row.reason:
        return {}
    try:
        return entry.child.ask(do, **arguments)
    except ClipDistillError as error:
        entry.note(reason=str(error))
        return {}


def _conclusions(entries: Sequence[_Entry]) -> list[str]:
    measured = [entry for entry in entries if entry.row.round_ms]
    names = short_names([entry.model for entry in measured])  # sentences include the runtime
    return conclusions(
        [
            Timed(
                name=name,
                network=(entry.about["arch"], entry.about["role"], entry.preprocess.size),
                runtime=entry.runtime,
                device=entry.about["device"],
                precision=entry.about["precision"],
                sparse=entry.about["sparse"],
                rounds=entry.row.round_ms,
            )
            for name, entry in zip(names, measured, strict=True)
        ]
    )


def _write(result: BenchmarkResult) -> None:
    if result.out is not None:
        write_bytes(result.out, result.markdown().encode())
    if result.plot is not None:
        write_bytes(result.plot, chart(result).encode())
