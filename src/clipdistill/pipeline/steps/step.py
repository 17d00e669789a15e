"""A step of a run: everything that plan, estimate, record and `run` need to know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...distillation.options import FIT_IMAGES, DistillOptions
from ...formats.probe import Probe
from ..fingerprints import of_value

INFERENCE = 3.0
"""A training step is forward and backward: three times the forward pass."""


@dataclass(frozen=True)
class Estimate:
    """What a step costs, roughly.

    Attributes:
        seconds: that it takes; None: unknown, since it depends on a network.
        disk_bytes: that it needs in the run's folder; None: unknown, or next to nothing.
    """

    seconds: float | None = 1.0
    disk_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something that has to be done once.

    Attributes:
        name: such as "embed" or "distill sparse"; unique.
        about: what it does, in the imperative.
        run: do it. The value identifies the outcome for the steps that use it; empty: the step's
            fingerprint does.
        estimate: what it costs from its beginning, at a probe's speeds.
        settings: that its outcome depends on.
        inputs: name -> fingerprint of what it reads that no step makes.
        after: the steps whose outcome it uses.
        outputs: files and folders that it makes, below the run's folder.
        markers: files below the run's folder that exist when it is done; default: the outputs.
        command: the command line that does it alone; empty: only `run` does it.
        changes: steps whose outputs it writes into, so that it follows when they are done again.
        leftovers: what becomes of outputs that are there when it begins anew: it can "use" them;
            they have to "move" away; or it is to "try" them, and they move when they do not fit
            (`MismatchError`).
        probed: whether it takes so long that a probe has to tell how long.
        finds_images: whether only its outcome tells which images there are.
        describes_run: whether it shows the finished run, which is recorded as finished before.
    """

    name: str
    about: str
    run: Callable[[], str | None]
    estimate: Callable[[Probe], Estimate] = lambda probe: Estimate()
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    command: str = ""
    changes: tuple[str, ...] = ()
    leftovers: Literal["use", "move", "try"] = "use"
    probed: bool = False
    finds_images: bool = False
    describes_run: bool = False

    @property
    def evidence(self) -> tuple[str, ...]:
        """Files that exist when it is done."""
        return self.markers or self.outputs

    def all_inputs(self, results: Mapping[str, str]) -> dict[str, str]:
        """Everything it uses with its fingerprint; `results` are those of the steps before."""
        return {**self.inputs, **{name: results[name] for name in self.after}}

    def fingerprint(self, results: Mapping[str, str]) -> str:
        """Of its settings and everything it uses."""
        return of_value([self.name, self.settings, self.all_inputs(results)])


def teacher_seconds(probe: Probe) -> float:
    """Of the teacher, to read and embed an image."""
    return 1 / probe.teacher_rate + 1 / probe.decode_rate


def student_seconds(probe: Probe) -> float:
    """Of a student, to read and embed an image."""
    return 1 / (INFERENCE * probe.training_rate) + 1 / probe.decode_rate


def fit_seconds(probe: Probe, options: DistillOptions, image_count: int) -> float:
    """Of fitting the projection of a pretrained student to this many images."""
    count = min(image_count, FIT_IMAGES) if options.fits_projection else 0
    return count / (INFERENCE * probe.training_rate)
