"""How the models of a run compare: one row a model, from whatever measured it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...formats.measurements import BenchmarkRow, ModelEvaluation
from ...formats.run import EXPORTS
from .gather import Gathered
from .naming import ModelName, kinds_in_order, model_name


@dataclass(frozen=True)
class Standing:
    """One model.

    Attributes:
        name: which one.
        accuracy: a share; None without labels.
        agreement: share of pictures with the teacher's label; None without a teacher.
        cosine: mean, with the teacher's embeddings; likewise.
        size_mb: of its file, or its weights, 10^6 bytes.
        latency_ms: runtime -> milliseconds a picture.
        rounds_ms: runtime -> the same of every round of the benchmark; only of what it timed.
        chosen: whether it is the one that was asked for.
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

    def share(self, labelled: bool) -> float | None:
        """Accuracy, or without labels agreement."""
        return self.accuracy if labelled else self.agreement


@dataclass(frozen=True)
class _Found:
    """A measurement of one file in one runtime.

    The lower its `place`, the nearer the file is to the device; `source` 0 is `evaluate`, 1
    `benchmark`.
    """

    name: ModelName
    runtime: str
    place: int
    source: int
    accuracy: float | None
    agreement: float | None
    cosine: float | None
    size_mb: float | None
    latency_ms: float | None
    rounds_ms: tuple[float, ...]


def chosen_kind(run: Gathered) -> str:
    """The student that was asked for: the classifier's, else what the settings say."""
    wanted = [
        name
        for name, key in (("sparse", "sparse"), ("int8", "qat"))
        if run.record.settings.get(key) is True
    ]
    kind = run.classifier_of or "-".join(wanted) or "dense"
    known = [student.name for student in run.students]
    return kind if kind in known or not known else known[-1]


def standings(run: Gathered) -> tuple[Standing, ...]:
    """Every measured model, the teacher first."""
    found = sorted(_found(run), key=lambda one: (one.place, one.source))
    kinds = kinds_in_order({one.name.kind for one in found})
    return tuple(_standing([one for one in found if one.name.kind == kind], run) for kind in kinds)


def shown_student(run: Gathered) -> Standing | None:
    """The student that was asked for; another one where that was not measured."""
    students = [one for one in standings(run) if one.name.kind != "teacher"]
    asked = [one for one in students if one.chosen]
    return next(iter(asked or students), None)


def teacher_of(run: Gathered) -> Standing | None:
    """The teacher's row."""
    return next((one for one in standings(run) if one.name.kind == "teacher"), None)


def _standing(found: list[_Found], run: Gathered) -> Standing:
    """One row of all that was measured of one kind.

    The file is the one that goes to the device.  Shares are those that `evaluate` measured, on all
    pictures, where it did; milliseconds are the benchmark's, whose clock is the better one.
    """
    by_source = sorted(found, key=lambda one: one.source)
    shares = next((one for one in by_source if _share(one, run) is not None), found[0])
    latency: dict[str, float] = {}
    rounds: dict[str, tuple[float, ...]] = {}
    for one in sorted(found, key=lambda one: -one.source):
        # PyTorch only plays INT8; what that takes says nothing.
        played = one.runtime == "torch" and "int8" in one.name.kind
        if one.latency_ms is not None and not played:
            latency.setdefault(one.runtime, one.latency_ms)
            rounds.setdefault(one.runtime, one.rounds_ms)
    return Standing(
        name=found[0].name,
        accuracy=shares.accuracy,
        agreement=shares.agreement,
        cosine=shares.cosine,
        size_mb=found[0].size_mb,
        latency_ms=latency,
        rounds_ms={runtime: held for runtime, held in rounds.items() if held},
        chosen=found[0].name.kind == chosen_kind(run),
    )


def _share(one: _Found, run: Gathered) -> float | None:
    return one.accuracy if run.labelled else one.agreement


def _found(run: Gathered) -> Iterator[_Found]:
    for source, rows in enumerate((run.evaluated, run.raced)):
        for row in () if rows is None else rows.rows:
            yield _one(row, source, run)


def _one(row: ModelEvaluation | BenchmarkRow, source: int, run: Gathered) -> _Found:
    name = model_name(row.model, row.role, run.classifier_of)
    target = str(run.record.settings.get("target"))
    folders = [EXPORTS.get(target, EXPORTS["onnxruntime"]), *EXPORTS.values(), "", "student"]
    return _Found(
        name=name,
        runtime=row.runtime,
        place=folders.index(name.folder),
        source=source,
        accuracy=row.accuracy,
        agreement=row.agreement,
        cosine=row.cosine,
        size_mb=row.size_mb,
        latency_ms=row.latency_ms,
        rounds_ms=getattr(row, "round_ms", ()),
    )
