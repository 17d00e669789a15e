"""How long the steps of a plan will take, and how much disk: rough, from a probe's rates."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.results import Table
from ..core.wording import duration, size
from ..formats.probe import Probe
from .inputs import Inputs
from .options import RunOptions
from .plan import Action, Planned
from .steps import Step

COST = {"dense": 1.0, "sparse": 1.1, "int8": 2.0, "sparse-int8": 2.1}
"""Of a training step; quantisers double it (resnet18 and test_resnet on 2 cores, 2026-11)."""
INFERENCE = 3.0
"""A training step is forward and backward: three times the forward pass."""
EXPORT_SECONDS, INT8_EXPORT_SECONDS, PAGE_SECONDS = 2.0, 4.0, 4.0
"""Measured on the quickstart, like all that follows (2 cores, 2026-11)."""
OPENING_SECONDS = 1.5
"""Of each model in `evaluate`, with its latency."""
RACE_SECONDS, ROUND_SECONDS = 2.0, 0.5
"""Of each model in `benchmark`: starting its process, and a round."""
CHECKPOINT_COPIES = 5
"""Weights, and in the checkpoint the network, two moments of the optimiser and the best weights."""
FLOAT_BYTES, HALF_BYTES = 4, 2
SHORT_OF_SPACE = 0.9


@dataclass(frozen=True)
class Estimate:
    """Of one step.

    Attributes:
        seconds: it takes; None: unknown (what a network gives).
        disk_bytes: it needs in the run's folder; likewise.
    """

    seconds: float | None
    disk_bytes: float | None


@dataclass(frozen=True)
class CostedStep:
    """A step of a plan, for people and programs.

    Attributes:
        name: of the step.
        about: what happens.
        action: "kept", "new", "on" (it goes on) or "again".
        reason: why again.
        seconds: it will take, roughly; None: unknown, or it is kept.
        disk_bytes: likewise.
        command: that does it alone; empty: only `run` does it.
    """

    name: str
    about: str
    action: Action
    reason: str
    seconds: float | None
    disk_bytes: float | None
    command: str


def estimate(step: Step, probe: Probe, inputs: Inputs, options: RunOptions) -> Estimate:
    """Time and disk of one step, done from its beginning."""
    count = _pictures(inputs, options)
    weights = FLOAT_BYTES * probe.parameters
    measured = inputs.measured or options.held_out * count
    looked = 1 / probe.teacher_rate + 1 / probe.decode_rate
    guessed = 1 / (INFERENCE * probe.training_rate) + 1 / probe.decode_rate
    if step.kind == "embed":
        some = inputs.measured if step.name == "embed labelled" else count
        vectors = some * probe.dim * HALF_BYTES
        return Estimate(probe.load_seconds + some * looked, vectors)
    if step.kind == "embed-text":
        return Estimate(1.0 + len(inputs.prompts.labels) / probe.teacher_rate, None)
    if step.kind == "distill":
        dense = step.student == "dense"
        epochs = options.num_epochs if dense else options.fine_tuning_epochs
        learning = COST[step.student] * epochs * count / probe.training_rate
        pixels = 3 * probe.image_size**2 * count
        decoding = count / probe.decode_rate if dense else 0.0
        disk = CHECKPOINT_COPIES * weights + (pixels if dense else 0.0)
        return Estimate(learning + decoding, disk)
    if step.kind == "export":
        int8 = "int8" in step.student
        return Estimate(INT8_EXPORT_SECONDS if int8 else EXPORT_SECONDS, weights)
    if step.kind in ("evaluate", "calibrate"):
        models = 1 + len(options.students) if step.kind == "evaluate" else 1
        opening = probe.load_seconds + OPENING_SECONDS * (1 + models)
        return Estimate(opening + measured * (looked + models * guessed), None)
    if step.kind == "benchmark":
        models = 2 + 2 * len(options.students)
        racing = models * (RACE_SECONDS + ROUND_SECONDS * options.rounds)
        accuracy = inputs.measured * (looked + models * guessed)
        return Estimate(racing + accuracy, None)
    if step.kind == "report":
        return Estimate(PAGE_SECONDS, None)
    unknown = step.kind in ("search", "download")
    return Estimate(None if unknown else 1.0, None)


def _pictures(inputs: Inputs, options: RunOptions) -> int:
    """How many there are, or will be at most."""
    if options.search is not None:
        return options.num_images * sum(map(len, inputs.prompts.prompts))
    return len(inputs.items or ())


def costed(
    planned: Sequence[Planned], probe: Probe | None, inputs: Inputs, options: RunOptions
) -> tuple[CostedStep, ...]:
    """A plan with its costs; without a probe they are unknown."""
    rows = []
    for one in planned:
        step, cost = one.step, Estimate(None, None)
        if one.runs and probe is not None:
            cost = estimate(step, probe, inputs, options)
        rows.append(
            CostedStep(
                step.name,
                step.about,
                one.action,
                one.reason,
                cost.seconds,
                cost.disk_bytes,
                step.command,
            )
        )
    return tuple(rows)


def plan_table(steps: Sequence[CostedStep]) -> Table:
    """The plan for people; times and sizes of steps that run."""
    rows = tuple(
        (
            step.name,
            _what(step),
            "" if step.seconds is None else duration(step.seconds),
            "" if step.disk_bytes is None else size(step.disk_bytes),
        )
        for step in steps
    )
    return Table("The plan", ("step", "what", ">time", ">disk"), rows)


def _what(step: CostedStep) -> str:
    return {
        "kept": "done, kept",
        "new": step.about,
        "on": "goes on where it stopped",
        "again": f"again: {step.reason}",
    }[step.action]


def totals(steps: Sequence[CostedStep], probe: Probe | None) -> list[str]:
    """The sums, and where they come from, in a sentence."""
    running = [step for step in steps if step.action != "kept"]
    if not running:
        return [f"Nothing to do: all {len(steps)} steps are done, and nothing has changed."]
    if probe is None:
        return []
    seconds = sum(step.seconds or 0.0 for step in running)
    disk = sum(step.disk_bytes or 0.0 for step in running)
    network = any(step.seconds is None for step in running)
    return [
        f"About {duration(seconds)} and {size(disk)}, as a probe of {duration(probe.seconds)} on "
        f"{probe.device} suggests{'; the network comes on top' if network else ''}."
    ]


def short_of_space(steps: Sequence[CostedStep], out: Path) -> list[str]:
    """A warning where the disk will not do."""
    need = sum(step.disk_bytes or 0.0 for step in steps)
    free = shutil.disk_usage(out).free
    if need < SHORT_OF_SPACE * free:
        return []
    return [f"Warning: {out} has {size(free)} left, and this run needs about {size(need)}."]
