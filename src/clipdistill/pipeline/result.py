"""What `run` returns, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.results import Result, Table, list_some
from ..core.wording import many, percent, timed
from ..formats.embeddings import Failure
from ..formats.measurements import Baseline, Benchmark, BenchmarkRow, Evaluation, ModelEvaluation
from ..measure.assessment import assess_evaluation
from ..measure.evaluate import EvaluateResult
from .baseline import sentence, warnings
from .estimate import CostedStep, plan_table


@dataclass(frozen=True)
class Row:
    """One model in the final table.

    Attributes:
        model: "teacher", or a student.
        runtime: what ran it.
        accuracy: zero-shot top-1 on labelled images, 0 to 1; None without labels.
        agreement: share of images given the teacher's own label, 0 to 1.
        cosine: mean cosine with the teacher's embeddings.
        size_mb: of the weights on disk, 10^6 bytes.
        latency_ms: median time of one image, batch 1: that of `benchmark`, as in the report; where
            it did not measure the model, the rougher one of `evaluate`.
        rounds_ms: the same in each round of `benchmark`.
        mean_average_precision: of the labels, 0 to 1, where an image may have several; else None.
        f1: the same of F1.
    """

    model: str
    runtime: str
    accuracy: float | None
    agreement: float | None
    cosine: float | None
    size_mb: float
    latency_ms: float
    rounds_ms: tuple[float, ...] = ()
    mean_average_precision: float | None = None
    f1: float | None = None


def rows_of(result: Evaluation, raced: Benchmark | None = None) -> tuple[Row, ...]:
    """The rows of the final table: the teacher, the dense student, then files.

    Args:
        result: of `evaluate`.
        raced: of `benchmark`, whose milliseconds are more exact; None without one.
    """
    races = {} if raced is None else {_key(row): row for row in raced.rows}
    rows = []
    for one in result.rows:
        shares, race = (one.accuracy, one.agreement, one.cosine), races.get(_key(one))
        row = Row(_short_name(one), one.runtime, *shares, one.size_mb, one.latency_ms)
        if one.several is not None:
            mean = one.several.mean_average_precision
            row = replace(row, mean_average_precision=mean, f1=one.several.f1)
        if race is not None and race.latency_ms is not None:
            row = replace(row, latency_ms=race.latency_ms, rounds_ms=race.round_ms)
        rows.append(row)
    return tuple(rows)


def _key(row: ModelEvaluation | BenchmarkRow) -> tuple[str, str]:
    """What `evaluate` and `benchmark` call the same; there is one teacher."""
    return ("teacher" if row.role == "teacher" else row.model), row.runtime


def _short_name(one: ModelEvaluation) -> str:
    if one.role == "teacher":
        return "teacher"
    return Path(one.model).stem if one.model.endswith(".onnx") else "student"


def results_table(title: str, rows: Sequence[Row]) -> Table:
    """Rows for a terminal."""
    labelled = any(row.accuracy is not None for row in rows)
    several = any(row.f1 is not None for row in rows)
    shares = (*((">accuracy",) if labelled else ()), *((">mAP", ">F1") if several else ()))
    lines = tuple(
        (
            row.model,
            row.runtime,
            *((percent(row.accuracy),) if labelled else ()),
            *((percent(row.mean_average_precision), percent(row.f1)) if several else ()),
            percent(row.agreement),
            "-" if row.cosine is None else f"{row.cosine:.3f}",
            f"{row.size_mb:.1f}",
            timed(row.latency_ms, row.rounds_ms),
        )
        for row in rows
    )
    columns = ("model", "runtime", *shares, ">agreement", ">cosine", ">MB", ">ms")
    return Table(title, columns, lines)


@dataclass(frozen=True, repr=False)
class RunResult(Result):
    """What `run` did, or with --dry-run would do.

    Attributes:
        out: the run's folder.
        dry_run: whether only the plan was made.
        plan: every step, with its action.
        estimate: the plan's costs, in sentences.
        done: steps that were done now, with the seconds they took.
        failures: images that could not be used, each with its reason.
        baseline: the teacher's; None until it is measured.
        evaluation: the results; None until they are there.
        benchmark: the speed of the models; None without one.
        classifier: the file that was asked for; None until it is there.
        report: the page; None without one.
        seconds: of this run.
    """

    out: Path
    dry_run: bool
    plan: tuple[CostedStep, ...]
    estimate: tuple[str, ...]
    done: dict[str, float]
    failures: tuple[Failure, ...]
    baseline: Baseline | None
    evaluation: EvaluateResult | None
    benchmark: Benchmark | None
    classifier: Path | None
    report: Path | None
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        if self.dry_run:
            return [plan_table(self.plan), *self.estimate, "Nothing was done: --dry-run."]
        lines: list[str | Table] = []
        if self.evaluation is not None:
            where = "labelled" if self.evaluation.labelled else "held-out"
            title = f"Zero-shot on {many(self.evaluation.images, f'{where} image')}"
            lines.append(results_table(title, rows_of(self.evaluation, self.benchmark)))
            images = 0 if self.baseline is None else self.baseline.images
            assessed = assess_evaluation(self.evaluation, images)
            lines = [*([] if assessed is None else [assessed.line]), *lines]
        if self.baseline is not None:
            lines += [sentence(self.baseline), *warnings(self.baseline)]
        title = f"Images that could not be used ({len(self.failures)}):"
        lines += list_some(title, [f"{one.image_path}: {one.reason}" for one in self.failures], 5)
        kept = len(self.plan) - len(self.done)
        lines.append(
            f"{many(len(self.done), 'step')} done in {self.seconds:.0f} s, {kept} kept from before."
        )
        lines.append(f"Classifier: {self.classifier}")
        if self.report is not None:
            lines.append(f"Report:     {self.report}")
        return [
            *lines,
            "Next:",
            f"  clipdistill predict {self.classifier} IMAGE",
            f"  clipdistill demo {self.classifier} --camera 0",
        ]
