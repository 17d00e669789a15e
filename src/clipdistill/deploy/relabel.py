"""relabel: give an ONNX or LiteRT file other classes, without training and without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.locks import locked_files
from ..core.results import Result, Table, list_some
from ..core.wording import many
from ..formats.classifier import check_output
from ..formats.litert import TFLITE
from ..formats.text import TextEmbeddings, is_prompts_file
from ..models.class_list import load_class_list
from ..models.open import OnnxEmbedder, kind_of
from ..models.runtimes.litert import LiteRtEmbedder

NOW_SINGLE = (
    "Every image now has one label. For several, fit the text embeddings to a pool first: "
    "clipdistill adapt TEXT EMBEDDINGS TEXT --independent"
)


@dataclass(frozen=True, repr=False)
class RelabelResult(Result):
    """What `relabel` wrote.

    Attributes:
        out: new file.
        before: labels of the old file; empty for a bare embedder.
        labels: labels of the new file.
        teacher: teacher of the student and of the text embeddings.
        cautious: labels of independent probabilities that were fitted to too few images.
        now_single: whether an image could have several labels, and now has one.
    """

    out: Path
    before: tuple[str, ...]
    labels: tuple[str, ...]
    teacher: str
    cautious: tuple[str, ...] = ()
    now_single: bool = False

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        had = f"instead of {len(self.before)}" if self.before else "instead of none"
        return [
            f"{self.out} now has {many(len(self.labels), 'label')}, {had}; teacher {self.teacher}.",
            *list_some("Labels:", self.labels),
            *list_some("Their probability was not fitted, so the threshold is 0.9:", self.cautious),
            *([NOW_SINGLE] if self.now_single else []),
            f"Try it: clipdistill predict {self.out} IMAGE",
        ]


def relabel(
    classifier: Path, text: Path, out: Path, /, *, model_name: str | None = None
) -> RelabelResult:
    """Give an ONNX or LiteRT file other classes, without training.

    Works on classifiers and on files that were exported without --text.  The network stays the
    same; only its head and its metadata are replaced.  A text file of prompts is embedded with the
    student's teacher where that is on this machine.  If the classes are independent (see `adapt`),
    those that both lists have stay as they are, and the others get a cautious threshold.  Before
    the new file is kept, it is run and its probabilities are compared with numpy's.

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
        own = before.text
        single = own is not None and own.independent is not None and classes.independent is None
        if own is not None and single and is_prompts_file(text):
            classes, single = _beside(own, classes), False
        change_classes(classifier, classes, out)
    old = () if own is None else own.labels
    cautious = () if classes.independent is None else classes.independent.unmatched
    return RelabelResult(out, old, classes.labels, str(classes.teacher), cautious, single)


def _beside(own: TextEmbeddings, fresh: TextEmbeddings) -> TextEmbeddings:
    """The classes of prompts, with independent probabilities as the classifier has them.

    Classes that it had stay as they were; the others move as they did.
    """
    moved = dict(zip(fresh.labels, own.beside(fresh.vectors), strict=True))
    vectors = moved | dict(zip(own.labels, own.vectors, strict=True))
    result = own.for_labels(fresh.labels, np.stack([vectors[one] for one in fresh.labels]))
    return replace(result, templates=fresh.templates)
