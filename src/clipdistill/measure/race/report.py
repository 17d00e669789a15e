"""The result of a benchmark as tables, as a markdown page and as a chart."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.charts import Point, scatter
from ...core.model_names import short_names
from ...core.results import Result, Table, list_some, scalars
from ...core.wording import many, percent
from ...formats.measurements import Benchmark, BenchmarkRow


@dataclass(frozen=True, repr=False)
class BenchmarkResult(Result, Benchmark):
    """Result of `benchmark`, with the attributes of `Benchmark`."""

    def records(self) -> list[dict[str, Any]]:
        """See `Result.records`: a row per model and runtime."""
        return [
            scalars(row)
            | {f"images_per_second_at_{one}": row.throughput.get(str(one)) for one in self.batches}
            for row in self.rows
        ]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        failed = self._failed()
        written = [f"Written: {path}" for path in (self.out, self.plot) if path is not None]
        return [
            *_narrow_tables(self),
            *self.notes(),
            *list_some("Conclusions:", self.conclusions, most=40),
            *list_some("Not measured completely:", failed),
            *list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures]),
            *written,
        ]

    def _failed(self) -> list[str]:
        return [f"{row.model} in {row.runtime}: {row.reason}" for row in self.rows if row.reason]

    def notes(self) -> list[str]:
        """Return sentences about how the figures were measured."""
        threads = (
            "their own number of threads" if self.threads is None else many(self.threads, "thread")
        )
        apart = {f"{row.preprocess_ms:.1f}" for row in self.rows if row.preprocess_ms is not None}
        return [
            f"Agreement and cosine compare with {self.reference}, on {many(self.images, 'image')}."
            + (
                f" Accuracy is measured on {self.labelled} labelled images."
                if self.labelled
                else ""
            ),
            f"Latency is the time of one preprocessed image: median and 90th percentile of "
            f"{many(self.rounds, 'round')} in turns, {threads} each. Preprocessing takes another "
            f"{' or '.join(sorted(apart, key=float)) or '-'} ms per image on one thread.",
            "Memory is the largest resident set of a process with only this model, including "
            "Python and the runtime, without the memory of a GPU.",
            f"Machine: {self.machine}.",
        ]

    def markdown(self) -> str:
        """Return the table and its notes as a markdown page."""
        table = _table(self)
        rule = ["---:" if column.startswith(">") else "---" for column in table.columns]
        rows = [[cell.replace("|", r"\|") for cell in row] for row in table.rows]
        lines = ["| " + " | ".join(cells) + " |" for cells in (table.heads, rule, *rows)]
        failed = self._failed()
        parts = ["# Benchmark", "", *lines, ""]
        for line in (*self.conclusions, *(f"Not measured completely: {one}" for one in failed)):
            parts.append(f"- {line}")
        return "\n".join([*parts, "", *(f"{note}  " for note in self.notes()), ""])


def chart(result: BenchmarkResult) -> str:
    """Draw accuracy (or agreement) against latency, as SVG text.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    what = "accuracy" if result.labelled else "agreement"
    points = []
    for name, row in zip(_names(result), result.rows, strict=True):
        share = row.accuracy if result.labelled else row.agreement
        if share is not None and row.latency_ms is not None:
            label = f"{name} {row.kind}".strip()
            points.append(Point(row.latency_ms, 100 * share, label, row.runtime))
    return scatter(
        points,
        title=f"{what.capitalize()} against latency",
        log_x=True,
        x_label="milliseconds per image, batch size 1 (left is better)",
        y_label=f"{what}, %",
    )


def machine() -> str:
    """Describe this machine in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text(errors="replace").splitlines()
            if line.startswith("model name")
        ]
        name = found[0] if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {platform.system()}, Python {platform.python_version()}"


def _table(result: BenchmarkResult) -> Table:
    accuracy = (">accuracy",) if result.labelled else ()
    speeds = tuple(f">img/s @{batch}" for batch in result.batches)
    columns = (
        "model",
        "runtime",
        "precision",
        ">MB",
        ">ms",
        ">p90",
        *speeds,
        ">peak MB",
        *accuracy,
        ">agreement",
        ">cosine",
    )
    lines = []
    for name, row in zip(_names(result), result.rows, strict=True):
        share = (percent(row.accuracy),) if accuracy else ()
        lines.append(
            (
                name,
                row.runtime,
                row.kind or "-",
                _figure(row.size_mb, 1),
                *_speeds(row, result.batches),
                _figure(row.peak_mb, 0),
                *share,
                percent(row.agreement),
                _figure(row.cosine, 4),
            )
        )
    return Table("Models in their runtimes", columns, tuple(lines))


def _narrow_tables(result: BenchmarkResult) -> list[Table]:
    """Two tables that fit a terminal; models are written as in a command."""
    names = [f"{row.runtime}:{name}" for name, row in zip(_names(result), result.rows, strict=True)]
    speeds = tuple(f">@{batch}/s" for batch in result.batches)
    quick = tuple(
        (name, *_speeds(row, result.batches), _figure(row.peak_mb, 0))
        for name, row in zip(names, result.rows, strict=True)
    )
    good = tuple(
        (
            name,
            row.kind or "-",
            _figure(row.size_mb, 1),
            *((percent(row.accuracy),) if result.labelled else ()),
            percent(row.agreement),
            _figure(row.cosine, 4),
        )
        for name, row in zip(names, result.rows, strict=True)
    )
    accuracy = (">accuracy",) if result.labelled else ()
    return [
        Table(
            "Milliseconds per image (median, 90th percentile), images per second at batch size N",
            ("model", ">ms", ">p90", *speeds, ">peak MB"),
            quick,
        ),
        Table(
            "Size and quality",
            ("model", "precision", ">MB", *accuracy, ">agreement", ">cosine"),
            good,
        ),
    ]


def _names(result: BenchmarkResult) -> list[str]:
    return short_names([row.model for row in result.rows])


def _speeds(row: BenchmarkRow, batches: Sequence[int]) -> tuple[str, ...]:
    return (
        _figure(row.latency_ms, 2),
        _figure(row.latency_p90_ms, 2),
        *(_figure(row.throughput.get(str(batch)), 0) for batch in batches),
    )


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
