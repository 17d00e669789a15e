"""Comparison of a run's models: one row per model, from all its measurements."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.wording import timed
from ...formats.measurements import BenchmarkRow, ModelEvaluation
from ...formats.run import EXPORTS
from .gather import Gathered
from .naming import ModelName, kinds_in_order, model_name


@dataclass(frozen=True)
class Standing:
    """Measurements of one model.

    Attributes:
        name: name of the model.
        accuracy: share of correct labels, 0 to 1; None without labels.
        agreement: share of images with the teacher's label, 0 to 1; None without a teacher.
        cosine: mean cosine with the teacher's embeddings; None without a teacher.
        size_mb: size of its file, or of its weights, in 10^6 bytes.
        latency_ms: runtime -> milliseconds per image.
        rounds_ms: runtime -> milliseconds per image in each round of `benchmark`.
        chosen: whether it is the student that the settings of the run name.
    """

    name: ModelName
    accuracy: float | None
    agreement: float | None
    cosine: float | None
    size_mb: float | None
    latency_ms: dict[str, float]
    rounds_ms: dict[str, tuple[float, ...]]
    chosen: bool

    @property
    def fastest(self) -> tuple[str, float] | None:
        """The runtime in which it is fastest, and its milliseconds."""
        return min(self.latency_ms.items(), key=lambda pair: pair[1], default=None)

    def time_in(self, runtime: str) -> str:
        """Milliseconds in a runtime, with the spread of the rounds; "-" where it was not timed."""
        return timed(self.latency_ms.get(runtime), self.rounds_ms.get(runtime, ()))

    def share(self, labelled: bool) -> float | None:
        """Accuracy, or without labels agreement."""
        return self.accuracy if labelled else self.agreement


@dataclass(frozen=True)
class _Found:
    """A measurement of one file in one runtime; `source` 0 is `evaluate`, 1 is `benchmark`."""

    name: ModelName
    row: ModelEvaluation | BenchmarkRow
    source: int


def chosen_kind(run: Gathered) -> str:
    """Return the student in `classifier.onnx`, or else the one that the settings name."""
    wanted = [
        name
        for name, key in (("sparse", "sparse"), ("int8", "qat"))
        if run.record.settings.get(key) is True
    ]
    kind = run.classifier_of or "-".join(wanted) or "dense"
    known = [student.name for student in run.students]
    return kind if kind in known or not known else known[-1]


def standings(run: Gathered) -> tuple[Standing, ...]:
    """Return every measured model, the teacher first."""
    found = [
        _Found(model_name(row.model, row.role, run.classifier_of), row, source)
        for source, measured in enumerate((run.evaluated, run.raced))
        if measured is not None
        for row in measured.rows
    ]
    kinds = kinds_in_order({one.name.kind for one in found})
    return tuple(_standing([one for one in found if one.name.kind == kind], run) for kind in kinds)


def shown_student(run: Gathered) -> Standing | None:
    """Return the chosen student, or another one where that was not measured."""
    students = [one for one in standings(run) if one.name.kind != "teacher"]
    return next(iter([one for one in students if one.chosen] or students), None)


def teacher_of(run: Gathered) -> Standing | None:
    """Return the teacher's measurements."""
    return next((one for one in standings(run) if one.name.kind == "teacher"), None)


def _standing(found: list[_Found], run: Gathered) -> Standing:
    """Combine all measurements of one model.

    The file is the one for the device.  Shares are those of `evaluate`, which measures all images,
    where there are some.  Milliseconds are those of `benchmark`, which times more exactly, where
    there are some.
    """
    target = str(run.record.settings.get("target"))
    folders = [EXPORTS.get(target, EXPORTS["onnxruntime"]), *EXPORTS.values(), "", "student"]
    found = sorted(found, key=lambda one: (folders.index(one.name.folder), one.source))
    by_source = sorted(found, key=lambda one: one.source)
    known = (one.row for one in by_source if _share(one.row, run) is not None)
    shares = next(known, found[0].row)
    latency: dict[str, float] = {}
    rounds: dict[str, tuple[float, ...]] = {}
    for one in sorted(found, key=lambda one: -one.source):
        # PyTorch only simulates INT8: its time there is not meaningful.
        simulated = one.row.runtime == "torch" and "int8" in one.name.kind
        if one.row.latency_ms is not None and not simulated:
            latency.setdefault(one.row.runtime, one.row.latency_ms)
            rounds.setdefault(one.row.runtime, getattr(one.row, "round_ms", ()))
    return Standing(
        name=found[0].name,
        accuracy=shares.accuracy,
        agreement=shares.agreement,
        cosine=shares.cosine,
        size_mb=found[0].row.size_mb,
        latency_ms=latency,
        rounds_ms={runtime: held for runtime, held in rounds.items() if held},
        chosen=found[0].name.kind == chosen_kind(run),
    )


def _share(row: ModelEvaluation | BenchmarkRow, run: Gathered) -> float | None:
    return row.accuracy if run.labelled else row.agreement
