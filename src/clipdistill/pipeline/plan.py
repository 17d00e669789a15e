"""Which steps are done, which run again, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..formats.run import RunRecord, StepRecord
from .steps.step import Step

Action = Literal["kept", "new", "resume", "again"]
"""A step is done, was never begun, was interrupted, or has to run again."""
MOST_REASONS = 3


@dataclass(frozen=True)
class Planned:
    """A step and what is to be done with it.

    Attributes:
        step: the step.
        action: what is to be done.
        reason: why it runs again; empty when it does not.
    """

    step: Step
    action: Action
    reason: str = ""

    @property
    def runs(self) -> bool:
        """Whether anything is to be done."""
        return self.action != "kept"


def plan(
    steps: Sequence[Step], record: RunRecord | None, exists: Callable[[str], bool]
) -> list[Planned]:
    """Decide about every step before anything is done.

    Args:
        steps: in order.
        record: of what was done; None: nothing was.
        exists: whether a path below the run's folder exists.
    """
    results: dict[str, str] = {}
    planned: list[Planned] = []
    for step in steps:
        running = [one.step.name for one in planned if one.runs]
        waiting = [name for name in running if name in step.after]
        changed = [name for name in running if name in step.changes]
        decision = decide(step, record, results, exists, waiting, changed)
        planned.append(decision)
        # What runs again may turn out the same; until then it counts as different.
        known = {} if record is None else record.known()
        results[step.name] = "" if decision.runs else known[step.name].result
    return planned


def decide(
    step: Step,
    record: RunRecord | None,
    results: Mapping[str, str],
    exists: Callable[[str], bool],
    waiting: Collection[str] = (),
    changed: Collection[str] = (),
) -> Planned:
    """Decide about one step.

    Args:
        step: the step.
        record: of what was done.
        results: of the steps before it; those of steps in `waiting` do not count.
        exists: as in `plan`.
        waiting: steps whose outcome it uses and that run first.
        changed: steps that run again and into whose outputs it writes.
    """
    begun = None if record is None else record.begun().get(step.name)
    if begun is not None:
        reason = _difference(begun, step, results, waiting)
        return Planned(step, "again", reason) if reason else Planned(step, "resume")
    before = None if record is None else record.known().get(step.name)
    if before is None:
        return Planned(step, "new")
    reason = _difference(before, step, results, waiting)
    gone = [path for path in step.evidence if _made(path, before) and not exists(path)]
    if not reason and gone:
        reason = f"{gone[0]} is missing"
    if not reason and changed:
        reason = _first(changed)
    return Planned(step, "again", reason) if reason else Planned(step, "kept")


def _made(path: str, record: StepRecord) -> bool:
    """Whether a step made a file, or the folder that it lies in."""
    return any(path == output or path.startswith(f"{output}/") for output in record.outputs)


def _difference(
    before: StepRecord, step: Step, results: Mapping[str, str], waiting: Collection[str]
) -> str:
    """Why a step would now have another outcome; empty when it would not.

    Of several reasons only those of the first kind: settings, then what it reads, then steps.
    """
    settings = [
        f"{name} was {_shown(before.settings.get(name))}, now {_shown(step.settings.get(name))}"
        for name in {**before.settings, **step.settings}
        if before.settings.get(name) != step.settings.get(name)
    ]
    inputs = {**step.inputs, **{name: results.get(name, "") for name in step.after}}
    read = [
        _changed(name, before.inputs.get(name), inputs.get(name))
        for name in {**before.inputs, **inputs}
        if name not in waiting and before.inputs.get(name) != inputs.get(name)
    ]
    reasons = settings or read or [_first(waiting)]
    more = len(reasons) - MOST_REASONS
    shown = [*reasons[:MOST_REASONS], *([f"and {more} more"] if more > 0 else [])]
    return "; ".join(filter(None, shown))


def _first(names: Collection[str]) -> str:
    """The steps that run before this one, as a reason."""
    shown = [*list(names)[:MOST_REASONS], *(["others"] if len(names) > MOST_REASONS else [])]
    return f"{' and '.join(shown)} run{'s' if len(shown) == 1 else ''} first" if shown else ""


def _changed(name: str, before: str | None, now: str | None) -> str:
    """How an input differs: by its count if that is known."""
    if not before or not now:
        return f"{name} {'is new' if now else 'is no longer used'}"
    was, comma, _ = before.partition(", ")
    count = now.partition(", ")[0]
    if comma and was != count:
        return f"{was} became {count}"
    return f"{name} changed"


def _shown(value: Any) -> str:
    if value is None:
        return "the default"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) or "none"
