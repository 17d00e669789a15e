"""The steps of a run, each described in one function.

To add a step, write a function that takes the `RunContext` and returns its `Step` (or several, or
none where the options do not ask for it), and put it in its place in `ORDER`.  Plan, estimate,
record and `run` follow by themselves.
"""

from __future__ import annotations

from collections.abc import Callable

from ..context import RunContext
from .collecting import download, search
from .embedding import baseline, class_vectors, embed, embed_labelled, embed_text
from .exporting import classifier, export
from .measuring import benchmark, calibrate, evaluate, report
from .step import Step
from .training import distill, hold_out

ORDER: tuple[Callable[[RunContext], list[Step]], ...] = (
    search,
    download,
    embed,
    embed_text,
    embed_labelled,
    class_vectors,
    baseline,
    hold_out,
    distill,
    export,
    classifier,
    calibrate,
    evaluate,
    benchmark,
)
"""The report comes last: it shows what all others made."""


def steps_of(context: RunContext) -> list[Step]:
    """All steps in order."""
    steps = [step for make in ORDER for step in make(context)]
    return [*steps, *report(context, steps)]
