"""The charts of a page, each with its values in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.charts import Bar, Line, Point, bars, heat_map, inline, lines, marks
from ...core.wording import many, percent, short
from ...formats.run import STUDENTS
from .classes import Classes
from .gather import Student
from .naming import RUNTIMES, TITLES
from .reliability import Reliability
from .standing import Standing

SMALL = (4.2, 3.3)
"""Inches: text stays readable on a phone, at a width of 330 px."""
PALETTE = (*STUDENTS, "teacher")
"""Models in the order of their colours, in every chart of a page."""
MOST_BARS = 30
MOST_CELLS = 30
"""Most classes in a bar chart, and in a confusion matrix."""


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        title: title above the chart.
        svg: SVG element to put into a page.
        message: its values in words, for screen readers.
    """

    title: str
    svg: str
    message: str


def trade_off(models: Sequence[Standing], labelled: bool) -> Figure | None:
    """Accuracy (or agreement) against latency, one mark per model and runtime."""
    what = "accuracy" if labelled else "agreement with the teacher"
    points, values = [], []
    for model in models:
        share = model.share(labelled)
        for runtime, latency in model.latency_ms.items() if share is not None else ():
            name = short(model.name.title, 30)
            points.append(
                Point(latency, 100 * (share or 0.0), "", RUNTIMES.get(runtime, runtime), name)
            )
            values.append(
                f"{name} in {RUNTIMES.get(runtime, runtime)}: {model.time_in(runtime)} ms, "
                f"{percent(share)}"
            )
    if len(points) < 2:
        return None
    svg = marks(
        points,
        size=SMALL,
        x_label="milliseconds per image (further left is faster)",
        y_label=f"{'accuracy' if labelled else 'agreement'}, %",
        hues=[TITLES[kind] for kind in PALETTE],
    )
    title = f"{what.capitalize()} against latency"
    return _figure("trade-off", title, svg, "; ".join(values) + ".")


def learning(students: Sequence[Student]) -> tuple[Figure, ...]:
    """Cosine with the teacher, and loss, epoch by epoch."""
    found = []
    for key, title, label, log in (
        ("val_cosine", "Cosine with the teacher on held-out images", "cosine", False),
        ("loss", "Training loss", "loss (logarithmic)", True),
    ):
        curves = [curve for curve in (_curve(student, key, log) for student in students) if curve]
        if not curves:
            continue
        svg = lines(curves, size=SMALL, x_label="epoch", y_label=label, log_y=log, whole_x=True)
        values = (
            f"{curve.name}: {curve.y[0]:.3f} in epoch {curve.x[0]:.0f}, {curve.y[-1]:.3f} in epoch "
            f"{curve.x[-1]:.0f}"
            for curve in curves
        )
        found.append(
            _figure(f"learning-{key.replace('_', '-')}", title, svg, "; ".join(values) + ".")
        )
    return tuple(found)


def _curve(student: Student, key: str, positive: bool) -> Line | None:
    values: dict[int, float] = {}
    for row in student.metrics:
        value = row.get(key)
        # An epoch may occur several times: its last row is the start of the training after it.
        if isinstance(value, (int, float)) and np.isfinite(value) and (value > 0 or not positive):
            values[row["epoch"]] = float(value)
    if not values:
        return None
    epochs = sorted(values)
    return Line(
        TITLES[student.name],
        tuple(map(float, epochs)),
        tuple(values[e] for e in epochs),
        PALETTE.index(student.name),
    )


def per_class(classes: Classes) -> Figure:
    """One bar per class, the weakest first; at most `MOST_BARS`."""
    rows = classes.rows[:MOST_BARS]
    measured = "correct" if classes.truth == "label" else "with the teacher's label"
    teacher = any(row.teacher is not None for row in rows)
    drawn = [
        Bar(
            short(row.label),
            100 * row.student,
            None if row.teacher is None else 100 * row.teacher,
            percent(row.student, 0),
        )
        for row in rows
    ]
    svg = bars(
        drawn,
        width=SMALL[0],
        x_label=f"% {measured}",
        name="student",
        mark_name="teacher" if teacher else "",
    )
    shares = ", ".join(f"{short(row.label)} {percent(row.student, 0)}" for row in rows)
    title = "All classes, the weakest first"
    if len(classes.rows) > len(rows):
        title = f"The {len(rows)} weakest of {many(len(classes.rows), 'class')}"
    best = classes.rows[-1]
    message = f"Share of images {measured}: {shares}."
    if len(classes.rows) > len(rows):
        message += f" The best class is {short(best.label)} with {percent(best.student, 0)}."
    return _figure("per-class", title, svg, message)


def confused(classes: Classes) -> Figure | None:
    """The confusion matrix; None with more than `MOST_CELLS` classes."""
    if len(classes.labels) > MOST_CELLS:
        return None
    by = "true label" if classes.truth == "label" else "teacher's label"
    names = [short(label, 16) for label in classes.labels]
    svg = heat_map(classes.counts, names, x_label="student's label", y_label=by)
    right, total = int(np.trace(classes.counts)), int(classes.counts.sum())
    pairs = ", ".join(f"{short(a)} as {short(b)} ({n})" for a, b, n in classes.pairs[:5])
    message = f"{right:,} of {total:,} images are on the diagonal. " + (
        f"Most often confused: {pairs}." if pairs else "No classes are confused."
    )
    return _figure("confusion", "Confusion matrix", svg, message)


def reliability(found: Reliability) -> Figure | None:
    """Share of correct labels against probability; on the diagonal both are equal."""
    if len(found.said) < 2:
        return None
    line = Line("student", tuple(100 * s for s in found.said), tuple(100 * r for r in found.right))
    right = "% correct" if found.truth == "label" else "% with the teacher's label"
    svg = lines([line], size=SMALL, x_label="probability, %", y_label=right, diagonal=True)
    values = (
        f"at about {percent(said, 0)}, {percent(good, 0)} of {many(n, 'image')}"
        for said, good, n in zip(found.said, found.right, found.images, strict=True)
    )
    message = f"{right.removeprefix('% ').capitalize()}: " + "; ".join(values) + "."
    return _figure("reliability", "Probability and share of correct labels", svg, message)


def _figure(ident: str, title: str, svg: Any, message: str) -> Figure:
    return Figure(title, inline(svg, ident, title, message), message)
