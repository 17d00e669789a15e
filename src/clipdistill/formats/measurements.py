"""Measurements in a run's folder: what `evaluate` and `benchmark` wrote, and the baseline."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import FormatError
from ..core.files import read_json
from .embeddings import Failure


@dataclass(frozen=True)
class Measured:
    """What `evaluate` found of one model; see `stages.evaluate.Evaluation`.

    Attributes:
        model: its name, as it was given.
        runtime: that ran it.
        role: "teacher" or "student".
        accuracy: a share; None without labels.
        top5: likewise.
        agreement: share of pictures with the reference's label; None without one.
        cosine: mean, with the reference; likewise.
        confidence: mean probability of the best label.
        size_mb: 10^6 bytes.
        latency_ms: of one picture.
        images: measured on.
        per_class: label -> accuracy; None for a class without pictures.
        confusion: counts, a row a true class; empty without labels.
    """

    model: str
    runtime: str
    role: str
    accuracy: float | None
    top5: float | None
    agreement: float | None
    cosine: float | None
    confidence: float | None
    size_mb: float | None
    latency_ms: float | None
    images: int
    per_class: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` found of all models.

    Attributes:
        rows: one a model.
        labels: the classes, in order.
        labelled: whether the pictures had labels.
        images: how many there were.
        failures: those that could not be used.
    """

    rows: tuple[Measured, ...]
    labels: tuple[str, ...]
    labelled: bool
    images: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Raced:
    """What `benchmark` found.

    Attributes:
        rows: one a model and runtime.
        conclusions: sentences.
        labelled: on how many labelled pictures accuracy was measured.
        rounds: how often everyone was timed.
        threads: each could use; None: its own choice.
        machine: where.
    """

    rows: tuple[BenchmarkRow, ...]
    conclusions: tuple[str, ...]
    labelled: int
    rounds: int
    threads: int | None
    machine: str


def load_evaluated(path: Path) -> Evaluated | None:
    """Read `evaluation.json`; None where there is none, or nothing in it.

    Raises:
        FormatError: it is something else.
    """
    value = _read(path, "the result of evaluate")
    if not value:
        return None
    with _reading(path, "evaluate"):
        rows = tuple(_measured(row) for row in value["rows"])
        labels = tuple(str(label) for label in value["rows"][0]["labels"]) if rows else ()
        wrong = [row for row in rows if row.confusion and len(row.confusion) != len(labels)]
        if wrong:
            raise ValueError(f"{len(labels)} labels, and {len(wrong[0].confusion)} counted")
        found = Evaluated(
            rows,
            labels,
            bool(value["labelled"]),
            int(value["images"]),
            _failures(value.get("failures", ())),
        )
    return found if rows else None


def load_raced(path: Path) -> Raced | None:
    """Read `benchmark.json`; None where there is none, or nothing in it.

    Raises:
        FormatError: it is something else.
    """
    value = _read(path, "the result of benchmark")
    if not value:
        return None
    with _reading(path, "benchmark"):
        rows = tuple(_raced(row) for row in value["rows"])
        threads = value.get("threads")
        found = Raced(
            rows,
            tuple(str(one) for one in value["conclusions"]),
            int(value["labelled"]),
            int(value["rounds"]),
            None if threads is None else int(threads),
            str(value["machine"]),
        )
    return found if rows else None


def _read(path: Path, what: str) -> dict[str, Any]:
    return read_json(path, what) if path.is_file() else {}


@contextlib.contextmanager
def _reading(path: Path, verb: str) -> Iterator[None]:
    """Turn what a foreign JSON makes go wrong into a `FormatError` that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(
            f"{path}: expected what `clipdistill {verb}` writes, but it cannot be read "
            f"({error!r}). Make it again."
        ) from error


def _measured(row: dict[str, Any]) -> Measured:
    return Measured(
        model=str(row["model"]),
        runtime=str(row["runtime"]),
        role=str(row["role"]),
        accuracy=_share(row["accuracy"]),
        top5=_share(row["top5"]),
        agreement=_share(row["agreement"]),
        cosine=_share(row["cosine"]),
        confidence=_share(row["confidence"]),
        size_mb=_share(row["size_mb"]),
        latency_ms=_share(row["latency_ms"]),
        images=int(row["images"]),
        per_class={str(label): _share(share) for label, share in row["per_class"].items()},
        confusion=tuple(tuple(int(n) for n in line) for line in row["confusion"]),
    )


def _failures(rows: Any) -> tuple[Failure, ...]:
    return tuple(Failure(str(row["image_path"]), str(row["reason"])) for row in rows)


def _share(value: Any) -> float | None:
    """A number; None also for what JSON cannot say (NaN, infinity)."""
    return None if value is None or not math.isfinite(value) else float(value)


def _raced(row: dict[str, Any]) -> BenchmarkRow:
    return BenchmarkRow(
        model=str(row["model"]),
        runtime=str(row["runtime"]),
        role=str(row["role"]),
        arch=str(row["arch"]),
        device=str(row["device"]),
        precision=str(row["precision"]),
        sparse=_share(row["sparse"]),
        size_mb=_share(row["size_mb"]),
        latency_ms=_share(row["latency_ms"]),
        latency_p90_ms=_share(row["latency_p90_ms"]),
        throughput={str(batch): float(rate) for batch, rate in row["throughput"].items()},
        peak_mb=_share(row["peak_mb"]),
        accuracy=_share(row["accuracy"]),
        agreement=_share(row["agreement"]),
        cosine=_share(row["cosine"]),
        images=int(row["images"]),
        round_ms=tuple(float(one) for one in row["round_ms"]),
        reason=str(row["reason"]),
    )


@dataclass(frozen=True)
class BenchmarkRow:
    """One model in one runtime.

    Measures that do not apply, or were not reached, are None.

    Attributes:
        model: as it was given, without a runtime.
        runtime: that ran it.
        device: it ran on.
        role: "teacher" or "student".
        arch: of the network.
        precision: "fp32", "fp16", "int8" ...
        sparse: share of its weights that are 2:4.
        size_mb: of its weights, in 10^6 bytes.
        latency_ms: median of one picture, ready for the network.
        latency_p90_ms: nine in ten were faster.
        throughput: batch -> pictures a second.
        peak_mb: largest resident set of its process, runtime and Python included, before it
            embedded the folders; a GPU's own memory is not in it.
        preprocess_ms: of one picture: read, decode, resize, crop, normalise; one thread.
        accuracy: zero-shot top-1, a share.
        agreement: share of pictures whose best label is the reference's.
        cosine: mean cosine with the reference's embeddings.
        images: on which agreement and cosine were measured.
        round_ms: milliseconds of one picture, a median a round.
        reason: why it was not measured, or not to the end; empty when it was.
    """

    model: str
    runtime: str
    device: str = ""
    role: str = ""
    arch: str = ""
    precision: str = ""
    sparse: float | None = None
    size_mb: float | None = None
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    throughput: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = None
    preprocess_ms: float | None = None
    accuracy: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    images: int = 0
    round_ms: tuple[float, ...] = ()
    reason: str = ""
