"""Steps that train: images held out, and the students."""

from __future__ import annotations

from ...core.progress import message
from ...core.wording import many
from ...distillation.options import DistillOptions
from ...formats.probe import Probe
from ...formats.student import CARD, WEIGHTS
from ...images.sources import list_images
from ..context import RunContext
from ..holdout import hold_out as hold_out_images
from ..options import StudentName
from .command import changed, command
from .step import Estimate, Step, fit_seconds

SPARSE_COST, INT8_COST = 0.1, 1.0
"""What masks and quantisers add to the time of a training step, of a dense one (resnet18 and
test_resnet on 2 cores, 2026-11)."""
CHECKPOINT_COPIES = 5
"""Weights, and in the checkpoint the network, two moments of the optimiser and the best weights."""
FLOAT_BYTES = 4
BECOMES = {"sparse": "2:4 sparse", "int8": "INT8", "sparse-int8": "2:4 sparse and INT8"}


def held_out(context: RunContext) -> tuple[str, ...]:
    """Name of the step that holds images out, where some are."""
    return ("hold out",) if context.options.held_out else ()


def distill_step(name: StudentName) -> str:
    """Name of the step that trains a student."""
    return "distill" if name == "dense" else f"distill {name}"


def hold_out(context: RunContext) -> list[Step]:
    """Hold images out of the training: to measure on, where there are no labelled ones."""
    options, folder = context.options, context.folder
    if not options.held_out:
        return []

    def run() -> None:
        items = list_images(context.images)
        count = hold_out_images(items, options.held_out, options.seed, folder)
        message(f"Held out: {many(count, 'image')}")

    return [
        Step(
            name="hold out",
            about="hold images out of the training",
            run=run,
            settings={"holdout": options.held_out, "seed": options.seed},
            after=("embed",),
            outputs=(context.below(folder.training_list), context.below(folder.holdout)),
            leftovers="move",
        )
    ]


def distill(context: RunContext) -> list[Step]:
    """Train the dense student, then the sparse and INT8 ones from it."""
    return [_distill(context, name) for name in context.options.students]


def _distill(context: RunContext, name: StudentName) -> Step:
    folder, dense = context.folder, name == "dense"
    options = context.options.distill_options(
        name,
        dense=folder.student("dense"),
        only=folder.training_list if context.options.held_out else None,
    )
    arch, out = context.options.student, folder.student(name)
    arguments = (arch, context.images, folder.embeddings, out)

    def run() -> None:
        from ...distillation.distill import distill

        distill(*arguments, options)

    def estimate(probe: Probe) -> Estimate:
        count = context.image_count
        training = _epochs(options) * count / probe.training_rate
        training += fit_seconds(probe, options, count)
        decoding = count / probe.decode_rate if dense else 0.0
        pixels = 3 * probe.image_size**2 * count if dense else 0
        weights = CHECKPOINT_COPIES * FLOAT_BYTES * probe.parameters
        return Estimate(training + decoding, weights + pixels)

    about = f"train {arch} to reproduce the teacher's embeddings"
    settings = {"student": arch, "image_size": options.image_size, **options.identity()}
    settings.pop("init_checkpoint")  # the step "distill" stands for it, wherever the folder lies
    student = context.below(out)
    return Step(
        name=distill_step(name),
        about=about if dense else f"make the student {BECOMES[name]}",
        run=run,
        estimate=estimate,
        settings=settings,
        after=("embed", *held_out(context), *(() if dense else (distill_step("dense"),))),
        outputs=(student,),
        markers=(f"{student}/{WEIGHTS}", f"{student}/{CARD}"),
        command=command("distill", *arguments, **changed(options)),
        leftovers="move",
        probed=True,
    )


def _epochs(options: DistillOptions) -> float:
    """How long a student trains, in epochs of a dense one."""
    return sum(
        stage.num_epochs * (1 + SPARSE_COST * stage.sparse + INT8_COST * stage.qat)
        for stage in options.stages()
    )
