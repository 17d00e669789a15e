"""relabel: give an ONNX file other classes, without training and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.results import Result, Table, list_some
from ..formats.classifier import check_output
from ..formats.text import load_text
from ..models.open import OnnxEmbedder


@dataclass(frozen=True, repr=False)
class RelabelResult(Result):
    """What `relabel` wrote.

    Attributes:
        out: the new file.
        before: the labels it had; empty for a bare embedder.
        labels: the labels it has now.
        teacher: whose embedding space both speak.
    """

    out: Path
    before: tuple[str, ...]
    labels: tuple[str, ...]
    teacher: str

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        had = f"instead of {len(self.before)}" if self.before else "where it had none"
        return [
            f"{self.out} now tells {len(self.labels)} labels apart, {had}; teacher {self.teacher}.",
            *list_some("Labels:", self.labels),
            f"Try it: clipdistill predict {self.out} IMAGE",
        ]


def relabel(classifier: Path, text: Path, out: Path, /) -> RelabelResult:
    """Give an ONNX file other classes, without training.

    Works on classifiers and on files that were exported without --text.  The network stays the
    same; its head and its metadata are replaced, and the new file is run and compared with numpy
    before it takes its name.

    Args:
        classifier: an .onnx file made by `clipdistill export`.
        text: text embeddings of the same teacher, from `clipdistill embed-text`.
        out: the new .onnx file (may be the old one).

    Raises:
        FormatError: the classifier is damaged or foreign.
        MismatchError: the text embeddings are another teacher's.
    """
    from .graph import change_classes

    check_output(out)
    before = OnnxEmbedder(classifier, device="cpu")
    classes = load_text(text)
    before.spec.check_space(classes.teacher, text)
    change_classes(classifier, classes, out)
    old = () if before.text is None else before.text.labels
    return RelabelResult(out, old, classes.labels, str(classes.teacher))
