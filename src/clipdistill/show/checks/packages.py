"""Checks of packages: the base, every extra, and the GPU that torch uses."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement

from ...core.packages import BASE_PACKAGES, EXTRA_PACKAGES, EXTRAS
from ...core.progress import track
from ...core.results import from_json
from ...measure.race.child import environment
from .check import Check, State

BASE, CUDA = "base", "cuda"
GPU_TORCH = "the build of torch for your GPU: https://pytorch.org/get-started/locally"


@dataclass(frozen=True)
class Found:
    """One package.

    Attributes:
        installed: whether it is there.
        version: its version; empty where it states none.
        devices: the devices that it can use.
        error: why it does not work; empty when it does.
    """

    installed: bool = True
    version: str = ""
    devices: tuple[str, ...] = ()
    error: str = ""


def check_packages(parts: Sequence[str]) -> list[Check]:
    """Check the base, extras and "cuda", those that `parts` names, by importing their packages."""
    modules = [module for part in parts for module in _modules(part)]
    found = _import(list(dict.fromkeys(modules)))
    return [
        _cuda(found["torch"]) if part == CUDA else _packages(part, found)
        for part in parts
        if _modules(part)
    ]


def _modules(part: str) -> list[str]:
    """The modules of a part: of an extra those that it brings itself."""
    if part == BASE:
        return list(BASE_PACKAGES)
    if part == CUDA:
        return ["torch"]
    return [module for module, (_, extra) in EXTRA_PACKAGES.items() if extra == part]


def _package(module: str) -> str:
    return BASE_PACKAGES.get(module) or EXTRA_PACKAGES[module][0]


def _import(modules: Sequence[str]) -> dict[str, Found]:
    """Import modules in other processes: a new one after each that a module has ended."""
    found = {module: Found(installed=False) for module in modules}
    left = [module for module in modules if importlib.util.find_spec(module) is not None]
    with track("importing", len(left), "packages") as step:
        while left:
            for answer in _child(left):
                module = left.pop(0)
                found[module] = _with_version(module, answer)
                step(1, module)
    return found


def _child(modules: Sequence[str]) -> Iterator[Found]:
    """Import modules in one process, in order, until one ends it; at least one answer."""
    command = [sys.executable, "-m", f"{__package__}.importing", *modules]
    answered = 0
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield from_json(Found, json.loads(line))
            answered += 1
    if answered < len(modules):
        yield Found(error=_ending(process.returncode))


def _ending(code: int) -> str:
    """Describe how a process ended that imported a package."""
    if code >= 0:
        return f"importing it ended Python with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    reasons = {
        "SIGILL": " (it was built for another processor)",
        "SIGKILL": " (there may be too little memory)",
    }
    return f"importing it ended Python with {name}{reasons.get(name, '')}"


def _with_version(module: str, answer: Found) -> Found:
    """Add the version of the package, and an error where it is older than clipdistill needs."""
    try:
        version = importlib.metadata.version(_package(module))
    except importlib.metadata.PackageNotFoundError:  # JetPack's, or a build of another name
        version = answer.version
    error = answer.error
    needed = _requirement(_package(module))
    if version and not error and needed and not needed.specifier.contains(version, True):
        error = f"version {version} is installed, but clipdistill needs {needed.specifier}"
    return Found(True, version, answer.devices, error)


def _requirement(package: str) -> Requirement | None:
    """The requirement of clipdistill on a package."""
    all_of_them = map(Requirement, importlib.metadata.requires("clipdistill") or ())
    return next((one for one in all_of_them if one.name == package), None)


def _packages(part: str, found: dict[str, Found]) -> Check:
    """The check of the base or of an extra."""
    mine = {_package(module): found[module] for module in _modules(part)}
    missing = [name for name, one in mine.items() if not one.installed]
    broken = [f"{name}: {one.error}" for name, one in mine.items() if one.error]
    there = [_described(name, one) for name, one in mine.items() if one.installed and not one.error]
    gives = "predict, demo in the terminal" if part == BASE else EXTRAS[part]
    wanted = "clipdistill" if part == BASE else f"'clipdistill[{part}]'"
    state: State = "broken" if broken else "missing" if missing else "works"
    notes = [*broken, *([f"not installed: {', '.join(missing)}"] if missing else [])]
    remedy = {"works": "", "missing": f"pip install {wanted}"}.get(
        state, f"pip install --upgrade --force-reinstall {wanted}"
    )
    return Check(part, state, "; ".join([*notes, *filter(None, [", ".join(there)])]), gives, remedy)


def _described(package: str, one: Found) -> str:
    devices = f" ({'; '.join(one.devices)})" if one.devices and package != "torch" else ""
    return f"{package} {one.version}{devices}".strip()


def _cuda(torch: Found) -> Check:
    """The check of the GPU that torch uses."""
    gives = "embed and distill on a GPU, many times faster"
    if torch.devices:
        return Check(CUDA, "works", "; ".join(torch.devices), gives)
    if torch.error:
        return Check(CUDA, "broken", torch.error, gives, f"Install {GPU_TORCH}")
    why = f"torch {torch.version} finds no GPU" if torch.installed else "torch is not installed"
    return Check(
        CUDA, "missing", why, gives, f"On a machine with a GPU and its driver: {GPU_TORCH}"
    )
