"""Steps that write ONNX files, and choose one of them as the classifier."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...core.errors import ClipDistillError
from ...core.files import ensure_folder, write_bytes
from ...core.progress import message
from ...formats.classifier import Target
from ...formats.run import EXPORTS
from ..context import RunContext
from ..options import StudentName
from .command import command
from .embedding import CLASS_VECTORS
from .step import Estimate, Step
from .training import FLOAT_BYTES, distill_step

TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")
RUNTIME_FOR: dict[Target, str] = {"onnxruntime": "onnxruntime", "tensorrt": "openvino"}
"""Target of a file -> the runtime that runs it here if it is installed."""
FOR_PEOPLE: dict[Target, str] = {
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT and OpenVINO",
}
EXPORT_SECONDS, INT8_EXPORT_SECONDS = 2.0, 4.0
"""Measured on the quickstart (2 cores, 2026-11)."""


def export_step(name: StudentName, target: Target) -> str:
    """Name of the step that exports a student for a target."""
    return f"export {name} {EXPORTS[target]}"


def exports(context: RunContext) -> list[tuple[StudentName, Target]]:
    """Every file to export: for the run's target first, then for what else runs here."""
    first = context.options.target
    here = [one for one in TARGETS if RUNTIME_FOR[one] in context.inputs.runtimes]
    targets = [first, *(one for one in here if one != first)]
    return [(name, target) for target in targets for name in context.options.students]


def export(context: RunContext) -> list[Step]:
    """Export every student for every target."""
    return [_export(context, name, target) for name, target in exports(context)]


def _export(context: RunContext, name: StudentName, target: Target) -> Step:
    folder = context.folder
    path, student = folder.export(name, target), folder.student(name)

    def run() -> None:
        from ...deploy.export import export

        ensure_folder(path.parent)
        try:
            with _uncalibrated(folder.text) as text:
                export(str(student), path, text=text, target=target)
        except ClipDistillError as error:
            if target == context.options.target:
                raise
            message(f"Left out, for {target} only: {error}")  # an extra file, which stops nothing

    seconds = INT8_EXPORT_SECONDS if "int8" in name else EXPORT_SECONDS
    flag = None if target == "onnxruntime" else target
    return Step(
        name=export_step(name, target),
        about=f"export the {name} student with labels for {FOR_PEOPLE[target]}",
        run=run,
        estimate=lambda probe: Estimate(seconds, FLOAT_BYTES * probe.parameters),
        after=(distill_step(name), CLASS_VECTORS),
        outputs=(context.below(path),),
        command=command("export", student, path, text=folder.text, target=flag),
    )


@contextlib.contextmanager
def _uncalibrated(path: Path) -> Iterator[Path]:
    """Text embeddings as the teacher made them: a calibration belongs to one student."""
    from ...formats.text import load_text, save_text

    text = load_text(path)
    if text.calibration is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="clipdistill-") as folder:
        yield save_text(Path(folder) / path.name, replace(text, calibration=None))


def classifier(context: RunContext) -> list[Step]:
    """Copy the chosen file to classifier.onnx."""
    folder, name, target = context.folder, context.options.shipped, context.options.target

    def run() -> None:
        write_bytes(folder.classifier, folder.export(name, target).read_bytes())

    path = context.below(folder.classifier)
    return [
        Step(
            name="classifier",
            about=f"copy the {name} file for {target} to {path}",
            run=run,
            settings={"classifier": name, "target": target},
            after=(export_step(name, target),),
            outputs=(path,),
        )
    ]
