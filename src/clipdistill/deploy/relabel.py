"""relabel: give an ONNX or LiteRT file other classes, without training and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.locks import locked_files
from ..core.results import Result, Table, list_some
from ..core.wording import many
from ..formats.classifier import check_output
from ..formats.litert import TFLITE
from ..models.class_list import load_class_list
from ..models.open import OnnxEmbedder, kind_of
from ..models.runtimes.litert import LiteRtEmbedder


@dataclass(frozen=True, repr=False)
class RelabelResult(Result):
    """What `relabel` wrote.

    Attributes:
        out: new file.
        before: labels of the old file; empty for a bare embedder.
        labels: labels of the new file.
        teacher: teacher of the student and of the text embeddings.
    """

    out: Path
    before: tuple[str, ...]
    labels: tuple[str, ...]
    teacher: str

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        had = f"instead of {len(self.before)}" if self.before else "instead of none"
        return [
            f"{self.out} now has {many(len(self.labels), 'label')}, {had}; teacher {self.teacher}.",
            *list_some("Labels:", self.labels),
            f"Try it: clipdistill predict {self.out} IMAGE",
        ]


def relabel(
    classifier: Path, text: Path, out: Path, /, *, model_name: str | None = None
) -> RelabelResult:
    """Give an ONNX or LiteRT file other classes, without training.

    Works on classifiers and on files that were exported without --text.  The network stays the
    same; only its head and its metadata are replaced.  A text file of prompts is embedded with the
    student's teacher where that is on this machine.  Before the new file is kept, it is run and
    its probabilities are compared with numpy's.

    Args:
        classifier: .onnx or .tflite file made by `clipdistill export`.
        text: text embeddings of the same teacher, from `clipdistill embed-text`, or a text file of
            prompts, one per line.
        out: file of the same kind to write; may be CLASSIFIER itself.
        model_name: teacher that embeds a text file, such as local-dir:FOLDER; default: the one that
            the classifier names, whose folder a file does not name.

    Raises:
        ModelNotFoundError: TEXT is a text file, and the teacher is not on this machine.
        FormatError: the classifier is damaged, or was not made by `clipdistill export`.
        MismatchError: the text embeddings were made with another teacher.
        OutputError: OUT cannot be written, or another process is writing it.
    """
    litert = kind_of(str(classifier)) == "litert"
    if litert:
        from .litert import change_litert_classes as change_classes
    else:
        from .graph import change_classes

    check_output(out, TFLITE if litert else ".onnx")
    with locked_files("relabel", out):
        before = (LiteRtEmbedder if litert else OnnxEmbedder)(classifier, device="cpu")
        teacher = before.spec.teacher
        classes = load_class_list(
            text, teacher, classifier, device="auto", ask_hub=False, model_name=model_name
        )
        before.spec.check_space(classes.teacher, text)
        change_classes(classifier, classes, out)
    old = () if before.text is None else before.text.labels
    return RelabelResult(out, old, classes.labels, str(classes.teacher))
