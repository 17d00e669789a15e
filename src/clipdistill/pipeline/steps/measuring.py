"""Steps that measure what was made, and the report of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import MissingExtraError
from ...core.progress import message
from ...core.wording import many, percent
from ...formats.measurements import save_measurement
from ...formats.probe import Probe
from ...images.sources import list_images
from ...measure.benchmark import BenchmarkOptions
from ...measure.benchmark import benchmark as measure_speed
from ...measure.calibration import LEAST_IMAGES
from ...measure.evaluate import evaluate as measure_models
from ..context import RunContext
from .command import command
from .embedding import CLASS_VECTORS
from .exporting import RUNTIME_FOR, export_step, exports
from .step import Estimate, Step, student_seconds, teacher_seconds
from .training import held_out

BATCH, LIMIT = "1,8", 100
"""Of `benchmark`: a device gets images one by one; agreement is measured by `evaluate`."""
OPENING_SECONDS = 1.5
"""Of each model in `evaluate`, with its latency; measured on the quickstart, like all that follows
(2 cores, 2026-11)."""
START_SECONDS, ROUND_SECONDS = 2.0, 0.5
"""Of each model in `benchmark`: starting its process, and a round."""
PAGE_SECONDS = 4.0


def calibrate(context: RunContext) -> list[Step]:
    """Calibrate the classifier, where that is asked for and there are images enough."""
    if not _calibrates(context):
        return []
    folder, models = context.folder, (context.teacher, str(context.folder.classifier))
    flags = {"text": folder.text, "calibrate": True, **_measuring_flags(context)}

    def run() -> None:
        given = context.options.labelled is not None
        count = context.inputs.measured if given else len(list_images(folder.holdout))
        if count < LEAST_IMAGES:
            message(f"Left out: {many(count, 'image')} found, {LEAST_IMAGES} needed.")
            return
        measure_models(*models, num_workers=context.options.num_workers, **flags)

    return [
        Step(
            name="calibrate",
            about="calibrate the classifier's probabilities",
            run=run,
            estimate=lambda probe: _evaluation_cost(context, probe, 1),
            inputs=context.inputs.label_digests,
            after=("classifier", CLASS_VECTORS, *held_out(context)),
            command=command("evaluate", *models, **flags),
            changes=("classifier", "embed-text"),
        )
    ]


def _calibrates(context: RunContext) -> bool:
    """Whether there will be images enough, as far as that is known."""
    if not context.options.calibrate:
        return False
    if context.options.labelled is not None:
        return context.inputs.measured >= LEAST_IMAGES
    items = context.inputs.items
    return items is None or len(items) * context.options.held_out >= LEAST_IMAGES


def evaluate(context: RunContext) -> list[Step]:
    """Measure the teacher, the dense student, and each file for the target."""
    options, folder = context.options, context.folder
    runtime = RUNTIME_FOR[options.target]
    # ONNX Runtime answers as OpenVINO does, only slower, and is always here.
    prefix = f"{runtime}:" if runtime in context.inputs.runtimes else ""
    files = [f"{prefix}{folder.export(name, options.target)}" for name in options.students]
    models = (context.teacher, str(folder.student("dense")), *files)
    flags = {
        "text": folder.text,
        "predictions": folder.predictions,
        **_measuring_flags(context),
    }

    def run() -> None:
        result = measure_models(*models, num_workers=options.num_workers, **flags)
        save_measurement(folder.evaluation, result)

    share = f"{percent(options.held_out, 0)} of the images, held out"
    where = share if options.labelled is None else "labelled images"
    exported = tuple(export_step(name, options.target) for name in options.students)
    calibrated = ("calibrate",) if _calibrates(context) else ()
    return [
        Step(
            name="evaluate",
            about=f"measure teacher and students on {where}",
            run=run,
            estimate=lambda probe: _evaluation_cost(context, probe, 1 + len(options.students)),
            settings={"target": options.target, **_measuring_settings(context)},
            inputs=context.inputs.label_digests,
            after=("distill", *exported, *calibrated, *held_out(context)),
            outputs=(context.below(folder.evaluation), context.below(folder.predictions)),
            command=command("evaluate", *models, **flags),
        )
    ]


def benchmark(context: RunContext) -> list[Step]:
    """Measure the speed of teacher, dense student and every file, if asked for."""
    options, folder = context.options, context.folder
    if not options.benchmark:
        return []
    made = exports(context)
    files = [f"{RUNTIME_FOR[target]}:{folder.export(name, target)}" for name, target in made]
    models = [context.teacher, f"torch:{folder.student('dense')}", *files]
    measured_on = {name: _measuring_flags(context)[name] for name in ("labelled", "images")}

    def run() -> None:
        # The chart needs an extra of its own; without it there is the table all the same.
        plot = folder.chart if importlib.util.find_spec("matplotlib") else None
        result = measure_speed(
            *filter(_exists, models),
            text=folder.text,
            options=BenchmarkOptions(
                batch=BATCH,
                rounds=options.rounds,
                limit=LIMIT,
                plot=plot,
                device=context.measuring_device,
            ),
            **measured_on,
        )
        save_measurement(folder.benchmark, result)

    def estimate(probe: Probe) -> Estimate:
        count = 2 + 2 * len(options.students)
        timing = count * (START_SECONDS + ROUND_SECONDS * options.rounds)
        seconds = teacher_seconds(probe) + count * student_seconds(probe)
        return Estimate(timing + context.inputs.measured * seconds)

    flags = {"rounds": options.rounds, "batch": BATCH, "limit": LIMIT, **_measuring_flags(context)}
    path = context.below(folder.benchmark)
    return [
        Step(
            name="benchmark",
            about="measure the speed of every file in its runtime",
            run=run,
            estimate=estimate,
            settings={"rounds": options.rounds, **_measuring_settings(context)},
            inputs=context.inputs.label_digests,
            after=("distill", *(export_step(*one) for one in made), *held_out(context)),
            outputs=(path, context.below(folder.chart)),
            markers=(path,),
            command=command("benchmark", *models, text=folder.text, **flags),
        )
    ]


def _exists(model: str) -> bool:
    """False for a file that could not be exported."""
    return not model.endswith(".onnx") or Path(model.partition(":")[2]).is_file()


def report(context: RunContext, before: Sequence[Step]) -> list[Step]:
    """Write the report of all steps before, if the packages for it are installed."""
    if not context.report:
        return []
    folder = context.folder

    def run() -> None:
        from ...show.report import report

        try:
            report(folder.out)
        except MissingExtraError as error:
            message(f"Left out: {error}")

    return [
        Step(
            name="report",
            about="write the report",
            run=run,
            estimate=lambda probe: Estimate(PAGE_SECONDS),
            after=tuple(step.name for step in before),
            outputs=(context.below(folder.report),),
            command=command("report", folder.out),
            describes_run=True,
        )
    ]


def _measuring_settings(context: RunContext) -> dict[str, Any]:
    """What figures depend on, besides what is measured."""
    return {
        "students": list(context.options.students),
        "device": context.measuring_device,
        "runtimes": list(context.inputs.runtimes),
    }


def _measuring_flags(context: RunContext) -> dict[str, Any]:
    """On which images models are measured, and where."""
    return {
        "labelled": context.options.labelled,
        "images": context.measuring_images,
        "device": context.measuring_device,
    }


def _evaluation_cost(context: RunContext, probe: Probe, students: int) -> Estimate:
    """Of `evaluate` with the teacher and some students."""
    measured = context.inputs.measured or context.options.held_out * context.image_count
    opening = probe.load_seconds + OPENING_SECONDS * (1 + students)
    seconds = teacher_seconds(probe) + students * student_seconds(probe)
    return Estimate(opening + measured * seconds)
