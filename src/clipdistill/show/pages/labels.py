"""Labels as pages display them: "cat" for "a photo of a cat"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...core.wording import shown_labels
from ...formats.measurements import Baseline, Evaluation
from ...formats.predictions import Predictions
from ...formats.text import TextEmbeddings


@dataclass(frozen=True)
class Labelled:
    """The parts of a run that contain labels; None where one is missing.

    Attributes:
        text: the classes.
        evaluated: result of `evaluate`.
        baseline: baseline of the teacher.
        predictions: predictions for each image.
    """

    text: TextEmbeddings | None
    evaluated: Evaluation | None
    baseline: Baseline | None
    predictions: Predictions | None

    def shown(self) -> Labelled:
        """Return the same with all labels as they are displayed (see `shown_labels`)."""
        names = shown_labels(
            label
            for holder in (self.text, self.evaluated, self.predictions)
            if holder is not None
            for label in holder.labels
        )

        def name(label: str) -> str:
            return names.get(label, label)

        return Labelled(
            self.text and replace(self.text, labels=tuple(map(name, self.text.labels))),
            self.evaluated and _evaluated(self.evaluated, name),
            self.baseline and _baseline(self.baseline, name),
            self.predictions
            and replace(self.predictions, labels=tuple(map(name, self.predictions.labels))),
        )


def _evaluated(found: Evaluation, name: Callable[[str], str]) -> Evaluation:
    rows = tuple(
        replace(
            row,
            per_class={name(label): share for label, share in row.per_class.items()},
            counts={name(label): count for label, count in row.counts.items()},
            labels=list(map(name, row.labels)),
        )
        for row in found.rows
    )
    return replace(found, rows=rows)


def _baseline(found: Baseline, name: Callable[[str], str]) -> Baseline:
    return replace(
        found,
        counts={name(label): count for label, count in found.counts.items()},
        per_class={name(label): share for label, share in found.per_class.items()},
        overlapping=tuple((name(a), name(b), near) for a, b, near in found.overlapping),
        empty=tuple(map(name, found.empty)),
    )
