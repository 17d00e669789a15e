"""How long the steps of a plan will take, and how much disk: rough, from a probe's speeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.results import Table
from ..core.wording import duration, size
from ..formats.probe import Probe
from .plan import Action, Planned
from .steps.step import Estimate

SHORT_OF_SPACE = 0.9
"""Share of the free disk above which there is a warning."""


@dataclass(frozen=True)
class CostedStep:
    """A step of a plan with its costs.

    Attributes:
        name: of the step.
        about: what it does.
        action: "kept", "new", "resume" or "again".
        reason: why it runs again.
        seconds: that it will take, roughly; None: unknown, or it is kept.
        disk_bytes: that it will need, roughly; None: unknown, or it is kept.
        command: the command line that does it alone; empty: only `run` does it.
    """

    name: str
    about: str
    action: Action
    reason: str
    seconds: float | None
    disk_bytes: float | None
    command: str


def costed(planned: Sequence[Planned], probe: Probe | None) -> tuple[CostedStep, ...]:
    """A plan with its costs; without a probe they are unknown."""
    rows = []
    for one in planned:
        step, cost = one.step, Estimate(None, None)
        if one.runs and probe is not None:
            cost = step.estimate(probe)
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
    """The plan, with times and sizes of the steps that run."""
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
        "resume": "resume where it stopped",
        "again": f"again: {step.reason}",
    }[step.action]


def totals(steps: Sequence[CostedStep], probe: Probe | None) -> list[str]:
    """The sums in a sentence, with the probe that they come from."""
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
        f"{probe.device} suggests{'; search and download come on top' if network else ''}."
    ]


def short_of_space(steps: Sequence[CostedStep], out: Path) -> list[str]:
    """A warning when the free disk is too small."""
    need = sum(step.disk_bytes or 0.0 for step in steps)
    free = shutil.disk_usage(out).free
    if need < SHORT_OF_SPACE * free:
        return []
    return [f"Warning: {out} has {size(free)} left, and this run needs about {size(need)}."]
