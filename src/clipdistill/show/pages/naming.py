"""Names of a run's models, also after the run was moved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.model_names import short_teacher
from ...formats.run import EXPORTS, STUDENTS, RunFolder

FORMS = {"dense": "", "sparse": "2:4 sparse ", "int8": "INT8 ", "sparse-int8": "2:4 sparse INT8 "}
"""Student -> prefix of its architecture in a sentence."""
TITLES = {
    "teacher": "Teacher",
    **{name: f"{form or 'Dense '}student" for name, form in FORMS.items()},
}
"""Model -> its title, in the order in which models are shown."""
RUNTIMES = {
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "litert": "LiteRT",
}


@dataclass(frozen=True)
class ModelName:
    """One model of a run.

    Attributes:
        kind: a key of `TITLES`; of any other model, the name of its file.
        file: path below the run's folder, such as "cpu/int8.onnx"; of any other model, its name.
        folder: "student", or the folder of a classifier ("cpu", "trt"); "" for any other model.
    """

    kind: str
    file: str
    folder: str = ""

    @property
    def title(self) -> str:
        """The title of the model."""
        return TITLES.get(self.kind, self.file)


def model_name(model: str, role: str, classifier_of: str = "") -> ModelName:
    """Find the model of a run that `evaluate` or `benchmark` measured.

    Only the end of its path counts, since a run may have been moved.

    Args:
        model: name in the measurement.
        role: "teacher" or "student".
        classifier_of: name of the student in `classifier.onnx`; empty when unknown.
    """
    if role == "teacher":
        return ModelName("teacher", short_teacher(model))
    path = Path(model.rpartition(":")[2] if ":" in model else model)
    folder = RunFolder(path.parent)
    for name in STUDENTS:
        if path == folder.student(name):
            return ModelName(name, path.name, "student")
        for target in EXPORTS:
            export = RunFolder(path.parent.parent).export(name, target)
            if path.with_suffix(".onnx") == export:
                return ModelName(name, f"{path.parent.name}/{path.name}", path.parent.name)
    if path == folder.classifier and classifier_of:
        return ModelName(classifier_of, path.name)
    return ModelName(path.name, path.name)


def kinds_in_order(kinds: set[str]) -> list[str]:
    """Sort kinds: those of `TITLES` in their order, then others by name."""
    known = [kind for kind in TITLES if kind in kinds]
    return known + sorted(kinds - set(TITLES))
