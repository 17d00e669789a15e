"""Keeping `run.json` up to date during a run, so that a killed run can be resumed."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..core.errors import OutputError
from ..core.files import writing
from ..core.progress import message
from ..formats.run import RunFolder, RunRecord, StepRecord, load_run, save_run
from ..measure.race.report import machine
from .options import RunOptions
from .steps.step import Step

PACKAGES = (
    "clipdistill",
    "torch",
    "timm",
    "open_clip_torch",
    "nvidia-modelopt",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "numpy",
    "pillow",
)
"""Packages whose versions are recorded, if they are installed."""


def existing_record(folder: RunFolder) -> RunRecord | None:
    """The record of a run; None without one.

    Raises:
        FormatError: it cannot be read.
    """
    return load_run(folder) if folder.record.is_file() else None


class Recorder:
    """Writes `run.json` before and after every step.

    Args:
        folder: of the run.
        options: its settings.

    Attributes:
        record: what is written.
    """

    def __init__(self, folder: RunFolder, options: RunOptions) -> None:
        self.folder = folder
        self._settings = options.used_settings()
        known = existing_record(folder)
        self.record = known or RunRecord(self._settings, (), {}, "", _now(), "")

    def resumes(self, step: Step, results: Mapping[str, str]) -> bool:
        """Whether the same step, with the same inputs, was begun and interrupted."""
        begun = self.record.begun().get(step.name)
        return begun is not None and begun.fingerprint == step.fingerprint(results)

    def begin(self, step: Step, results: Mapping[str, str]) -> None:
        """Record that a step begins: from now on this run owns its outputs."""
        seconds = self.record.begun()[step.name].seconds if self.resumes(step, results) else 0.0
        begun = StepRecord(
            step.name,
            step.command,
            step.fingerprint(results),
            seconds,
            step.outputs,
            step.settings,
            step.all_inputs(results),
        )
        without = self._without(step.name)
        finished = without.finished if step.describes_run else ""
        self._write(replace(without, unfinished=(*without.unfinished, begun), finished=finished))

    def interrupted(self, name: str, seconds: float) -> None:
        """Record that a step stopped after some seconds, unfinished."""
        begun = self.record.begun()[name]
        without = self._without(name)
        longer = replace(begun, seconds=begun.seconds + seconds)
        self._write(replace(without, unfinished=(*without.unfinished, longer)))

    def finish(self, name: str, seconds: float, result: str, outputs: Collection[str]) -> None:
        """Record that a step is done.

        Args:
            name: of the step.
            seconds: that it took this time.
            result: identifies its outcome; empty: its fingerprint does.
            outputs: those of its outputs that exist.
        """
        begun = self.record.begun()[name]
        done = replace(
            begun,
            seconds=begun.seconds + seconds,
            result=result or begun.fingerprint,
            outputs=tuple(outputs),
        )
        without = self._without(name)
        self._write(replace(without, steps=(*without.steps, done)))

    def _without(self, name: str) -> RunRecord:
        """The record without anything about one step."""
        record = self.record
        return replace(
            record,
            steps=tuple(one for one in record.steps if one.name != name),
            others=tuple(one for one in record.others if one.name != name),
            unfinished=tuple(one for one in record.unfinished if one.name != name),
        )

    def complete(self, names: Sequence[str]) -> None:
        """Record that all steps `names` are done; others that were done once are kept apart."""
        known = self.record.known()
        steps = tuple(known[name] for name in names if name in known)
        others = tuple(known[name] for name in known if name not in names)
        done = replace(self.record, settings=self._settings, steps=steps, others=others)
        if done == self.record and self.record.finished:
            return  # nothing has changed, and nothing is written
        self._write(replace(done, finished=_now()))

    def set_aside(self, step: Step) -> None:
        """Move the outputs of a step to replaced/, so that it can make them anew.

        Raises:
            OutputError: one of them exists, but no run of this folder made it.
        """
        for path in step.outputs:
            source = self.folder.out / path
            if not (source.exists() or source.is_symlink()):
                continue
            self._check_owned(path)
            target = _free_name(self.folder.replaced, Path(path))
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
            message(f"{source} was made with other settings; moved to {target}.")

    def _check_owned(self, path: str) -> None:
        record = self.record
        if not any(path in one.outputs for one in (*record.known().values(), *record.unfinished)):
            raise OutputError(
                f"{self.folder.out / path} is in the way, and this run did not make it. Move it "
                "elsewhere, or choose another output folder."
            )

    def _write(self, record: RunRecord) -> None:
        self.record = replace(
            record, settings=self._settings, versions=_versions(), machine=machine()
        )
        save_run(self.folder, self.record)


def _free_name(folder: Path, path: Path) -> Path:
    number = 1
    while (folder / f"{path.stem}-{number}{path.suffix}").exists():
        number += 1
    return folder / f"{path.stem}-{number}{path.suffix}"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
