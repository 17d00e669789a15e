"""doctor: what of clipdistill works on this machine, and what the rest would take."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import MissingExtraError, OptionError, did_you_mean
from ..core.packages import EXTRAS
from ..core.results import Result, Table
from .checks.check import Check
from .checks.machine import MACHINE
from .checks.packages import BASE, CUDA, check_packages

PARTS = ("python", BASE, *EXTRAS, CUDA, *(part for part in MACHINE if part != "python"))
"""Everything that can be checked, in the order of the table."""


@dataclass(frozen=True, repr=False)
class DoctorResult(Result):
    """What `doctor` found.

    Attributes:
        checks: one check per part, in the order of the table.
        strict: whether a part that does not work changes the exit code.
    """

    checks: tuple[Check, ...]
    strict: bool

    @property
    def exit_code(self) -> int:
        """Exit code: 0; with `strict` that of a `MissingExtraError` unless all parts work."""
        failed = any(one.state in ("missing", "broken") for one in self.checks)
        return MissingExtraError.exit_code if self.strict and failed else 0

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        rows = tuple((one.part, one.state, one.found) for one in self.checks)
        lines = [f"  {one.part}: {one.gives}. {one.remedy}" for one in self.checks if one.remedy]
        title = ["What the other parts are for, and how to get them:"] if lines else []
        return [Table("What works here", ("part", "state", "found"), rows), *title, *lines]


def doctor(*parts: str, hub: bool = False, strict: bool = False) -> DoctorResult:
    """Check what works on this machine: packages, GPU, runtimes, cameras, model hub, disks.

    Every installed package is imported, in a process of its own, so that one that does not fit the
    machine is found. Nothing is written, no camera is opened, and nothing is sent to the network
    unless --hub is given. The exit code is 0 whatever is found, unless --strict is given.

    Args:
        parts: what to check: python, base (the packages of every installation), an extra (web,
            train, compress, siglip, openvino, litert, litert-convert, tensorrt, plots, report, ray,
            demo), cuda (the GPU of torch), camera, hub, cache (of the model hub), temporary
            (files), disk. Default: all.
        hub: send one request to the model hub.
        strict: exit with code 9 unless every part that was checked works.

    Raises:
        OptionError: there is no such part.
    """
    for part in parts:
        if part not in PARTS:
            raise OptionError(
                f"PARTS {part}: there is no such part.{did_you_mean(part, PARTS)} "
                f"Known: {', '.join(PARTS)}."
            )
    wanted = [part for part in PARTS if part in (parts or PARTS)]
    packages = {one.part: one for one in check_packages(wanted)}
    checks = tuple(packages.get(part) or MACHINE[part](hub) for part in wanted)
    return DoctorResult(checks, strict)
