"""The summary of a run: one sentence, key figures, findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...core.metrics import lost_nothing
from ...core.model_names import short_teacher
from ...core.wording import clean, listed, many, megabytes, milliseconds, percent, short, times
from ...measure.assessment import Assessment, assess_evaluation
from ...measure.race.conclusions import outcome
from .classes import Classes
from .gather import Gathered
from .naming import FORMS, RUNTIMES, model_name
from .standing import Standing, chosen_kind

ALIKE = 0.5
"""Percentage points; shares nearer than this are equal: one or two of some hundred images."""
MUCH = 5.0
"""Percentage points of loss above which a finding is a warning."""
WEAK = 0.8
"""Share of correct labels below which a class is weak."""


@dataclass(frozen=True)
class Tile:
    """A key figure.

    Attributes:
        name: name of the figure.
        value: the figure, as text.
        unit: its unit; may be empty.
        note: a comparison; may be empty.
    """

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class Finding:
    """Something to consider before using the model.

    Attributes:
        warns: whether it is a warning.
        text: one or two sentences.
    """

    warns: bool
    text: str


def title_of(run: Gathered) -> str:
    """Return the headline of a run."""
    return f"A classifier for {many(len(run.labels), 'class')}" if run.labels else "A student"


def sentence_of(run: Gathered) -> str:
    """Describe the student of a run in one sentence."""
    student = next((one for one in run.students if one.name == chosen_kind(run)), None)
    of = f" for {listed(run.labels, 5)}" if run.labels else ""
    if student is None:
        return f"No student has been trained yet{of}."
    form = FORMS[student.name]
    article = "An" if form.startswith("INT8") else "A"
    size = student.card.preprocess.size
    teacher = "" if run.teacher is None else f" from {teacher_name(run)}"
    count = _training_images(run)
    on = "" if count is None else f" on {many(count, 'unlabelled image')}"
    return (
        f"{article} {form}{short(student.card.arch, 60)} at {size} px{of}, distilled{teacher}{on}."
    )


def assessment_of(run: Gathered) -> Assessment | None:
    """Assess the chosen student of a run; None where nothing was measured."""
    if run.evaluated is None:
        return None
    kind = chosen_kind(run)
    named = [
        one.model
        for one in run.evaluated.rows
        if model_name(one.model, one.role, run.classifier_of).kind == kind
    ]
    # Of a student and its exported file, the file is what is shipped.
    return assess_evaluation(run.evaluated, _training_images(run) or 0, named[-1] if named else "")


def teacher_name(run: Gathered) -> str:
    """Return the short name of the teacher."""
    if run.teacher is None:
        return "an unknown teacher"
    return clean(short_teacher(str(run.teacher)))


def tiles_of(run: Gathered, shown: Standing | None, teacher: Standing | None) -> tuple[Tile, ...]:
    """Return the key figures of the shown student."""
    tiles = [] if shown is None else [*_quality(run, shown, teacher), *_cost(shown, teacher)]
    count = _training_images(run)
    if count is not None:
        tiles.append(Tile("Trained on", f"{count:,}", "images", "without labels"))
    return tuple(tiles)


def _quality(run: Gathered, shown: Standing, teacher: Standing | None) -> Iterator[Tile]:
    if shown.accuracy is not None:
        note = "" if teacher is None else f"teacher {percent(teacher.accuracy)}"
        yield Tile("Accuracy", percent(shown.accuracy).removesuffix("%"), "%", note)
    elif shown.agreement is not None:
        yield Tile(
            "Agreement",
            percent(shown.agreement).removesuffix("%"),
            "%",
            "with the teacher",
        )


def _cost(shown: Standing, teacher: Standing | None) -> Iterator[Tile]:
    if shown.size_mb:
        note = ""
        if teacher is not None and teacher.size_mb:
            note = _than_teacher(teacher.size_mb, shown.size_mb, "smaller")
        yield Tile("Size", megabytes(shown.size_mb), "MB", note)
    if shown.fastest is not None:
        runtime, latency = shown.fastest
        note = f"in {RUNTIMES.get(runtime, runtime)}"
        if teacher is not None and teacher.fastest is not None:
            note += f", {_than_teacher(teacher.fastest[1], latency, 'faster')}"
        yield Tile("Time per image", milliseconds(latency), "ms", note)


def _against(theirs: float, ours: float, word: str) -> str:
    """Compare, as in "3.1 times smaller" or "as fast"; `word` is "smaller" or "faster"."""
    ratio = theirs / ours if ours else 1.0
    if 0.95 <= ratio <= 1.05:
        return {"smaller": "as large", "faster": "as fast"}[word]
    if ratio < 1:
        word = {"smaller": "larger", "faster": "slower"}[word]
        ratio = 1 / ratio
    return f"{times(ratio)} {word}"


def _than_teacher(theirs: float, ours: float, word: str) -> str:
    text = _against(theirs, ours, word)
    return f"{text} {'as' if text.startswith('as ') else 'than'} the teacher"


def findings_of(
    run: Gathered,
    shown: Standing | None,
    teacher: Standing | None,
    models: Sequence[Standing],
    classes: Classes | None,
) -> tuple[Finding, ...]:
    """Return the findings, the most important first."""
    return (
        *_against_teacher(shown, teacher),
        *_compressed(run, models),
        *_weak_classes(classes),
        *_baseline(run),
        *_calibration(run),
    )


def _against_teacher(shown: Standing | None, teacher: Standing | None) -> Iterator[Finding]:
    if shown is None or teacher is None or shown.accuracy is None or teacher.accuracy is None:
        return
    lost = 100 * (teacher.accuracy - shown.accuracy)
    if abs(lost) <= ALIKE:
        yield Finding(False, "The student is as accurate as its teacher.")
        return
    more = "higher" if lost < 0 else "lower"
    yield Finding(
        lost > MUCH,
        f"The student's accuracy is {abs(lost):.1f} points {more} than that of its teacher, "
        f"{percent(teacher.accuracy)}.",
    )


def _compressed(run: Gathered, models: Sequence[Standing]) -> Iterator[Finding]:
    dense = next((one for one in models if one.name.kind == "dense"), None)
    if dense is None:
        return
    for one in models:
        before, after = dense.share(run.labelled), one.share(run.labelled)
        if one.name.kind in ("sparse", "int8", "sparse-int8") and None not in (before, after):
            assert before is not None
            assert after is not None
            change = 100 * (after - before)
            facts = [f"{change:+.1f} points".replace("-", "\u2212")]
            if dense.size_mb and one.size_mb:
                facts.append(_against(dense.size_mb, one.size_mb, "smaller"))
            facts += _speed(one, dense)
            yield Finding(
                change < -MUCH,
                f"{one.name.title} against the dense student: {', '.join(facts)}."
                f"{_without_training(run, one.name.kind)}",
            )


def _without_training(run: Gathered, kind: str) -> str:
    """Say where INT8 by calibration alone was as good, so that it needed no training."""
    for student in run.students:
        before = student.card.training.get("before") or []
        if student.name == kind and [row.get("state") for row in before][1:][-1:] == ["calibrated"]:
            start, calibrated = (row.get("val_cosine") for row in before[-2:])
            if lost_nothing(start, calibrated):
                return " INT8 by calibration alone (clipdistill quantize) lost nothing."
    return ""


def _speed(one: Standing, dense: Standing) -> Iterator[str]:
    """Compare speed by the rounds of the benchmark, whose conclusions cover 2:4 weights."""
    if one.name.kind == "sparse":
        return
    for name in RUNTIMES:
        ours, theirs = one.rounds_ms.get(name), dense.rounds_ms.get(name)
        if ours and theirs:
            gain = _against(dense.latency_ms[name], one.latency_ms[name], "faster")
            same = outcome(ours, theirs) == "same"
            yield f"{'no faster' if same else gain} in {RUNTIMES[name]}"


def _weak_classes(classes: Classes | None) -> Iterator[Finding]:
    if classes is None or not classes.rows:
        return
    right = "correct" if classes.truth == "label" else "the teacher's"
    weak = [row for row in classes.rows if row.student < WEAK]
    if not weak:
        row = classes.rows[0]
        yield Finding(
            False,
            f"In every class, at least {percent(row.student, 0)} of the labels are {right}; the "
            f"weakest class is “{short(row.label, 40)}”.",
        )
        return
    named = [
        f"“{short(row.label, 40)}” {percent(row.student, 0)}"
        + (f" (confused with “{short(row.taken_for, 40)}”)" if row.taken_for else "")
        for row in weak[:3]
    ]
    more = f" {many(len(weak), 'class')} are below {percent(WEAK, 0)}." if weak[3:] else ""
    yield Finding(True, f"Weak classes: {', '.join(named)}.{more}")


def _baseline(run: Gathered) -> Iterator[Finding]:
    if run.baseline is None:
        return
    if run.baseline.empty:
        yield Finding(
            True,
            f"The teacher gives no image the label {listed(run.baseline.empty)}: the student was "
            "trained without such images.",
        )
    if run.baseline.overlapping:
        pairs = [
            f"“{short(a, 40)}” and “{short(b, 40)}”" for a, b, _ in run.baseline.overlapping[:3]
        ]
        yield Finding(
            True,
            f"The teacher hardly separates these classes: {', '.join(pairs)}. Change their "
            "prompts, or make them one class.",
        )


def _calibration(run: Gathered) -> Iterator[Finding]:
    found = None if run.text is None else run.text.calibration
    if found is not None:
        yield Finding(
            found.ece_after > 0.1,
            f"The mean error of the probabilities is {percent(found.ece_after)} "
            f"({percent(found.ece_before)} before calibration). "
            + (
                f"Below a probability of {percent(found.threshold, 0)} the answer is “unknown”: for"
                if found.independent is None
                else "An image may have several labels or none: none is given to"
            )
            + f" {percent(1 - found.coverage, 0)} of the images.",
        )


def _training_images(run: Gathered) -> int | None:
    """Number of training images of the dense student."""
    for student in run.students:
        if student.name == "dense":
            count = student.card.training.get("train_images")
            return count if isinstance(count, int) else run.data.embedded
    return run.data.embedded
