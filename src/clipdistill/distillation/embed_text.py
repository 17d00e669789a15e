"""embed-text: prompts -> text embeddings, the class list of a zero-shot classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..core.errors import OptionError
from ..core.independent import THRESHOLD
from ..core.locks import locked_files
from ..core.results import Result, Table, list_some
from ..core.wording import many
from ..core.zeroshot import Independent
from ..formats.prompts import load_prompts
from ..formats.text import MOST_PAIRS, TextEmbeddings, save_text, text_path
from ..models.teachers import DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED

NO_TEMPLATE = ("{}",)


@dataclass(frozen=True, repr=False)
class EmbedTextResult(Result):
    """What `embed_text` did.

    Attributes:
        out: the `.npy`; its description lies beside it as `.json`.
        teacher: whose text tower was used.
        labels: the classes.
        prompts: how many prompts they have together.
        templates: how many templates each prompt was put into.
        overlapping: pairs of labels whose embeddings are nearly the same, and their cosine, the
            nearest first; at most 1000, see `formats.text.ALIKE`.
    """

    out: Path
    teacher: str
    labels: tuple[str, ...]
    prompts: int
    templates: int
    overlapping: tuple[tuple[str, str, float], ...]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        pairs = [f"{one} ~ {other} (cosine {near:.3f})" for one, other, near in self.overlapping]
        first = f" (the nearest {MOST_PAIRS} pairs)" if len(pairs) == MOST_PAIRS else ""
        return [
            f"{many(len(self.labels), 'label')} from {many(self.prompts, 'prompt')} x "
            f"{many(self.templates, 'template')}; teacher {self.teacher}.",
            *list_some(f"The teacher hardly tells these labels apart{first}:", pairs, 5),
            f"Text embeddings: {self.out}",
        ]


def embed_text(
    prompts: Path,
    out: Path,
    *,
    model_name: str = DEFAULT_MODEL_NAME,
    pretrained: str = DEFAULT_PRETRAINED,
    template: Sequence[str] = (),
    independent: bool = False,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> EmbedTextResult:
    """Embed prompts with the teacher's text tower.

    All prompts of a label, in all templates, are embedded, normalised, averaged and normalised
    again (prompt ensembling: Radford et al. 2021, section 3.1.4).

    Args:
        prompts: text file, a prompt a line; `label<TAB>prompt` gives a label several prompts.
        out: file to write (.npy; a .json is written beside it).
        model_name: open_clip's name of the teacher, hf-hub:ORG/REPO or local-dir:FOLDER.
        pretrained: open_clip's weights tag or a weights file (not for hf-hub and local-dir).
        template: text with {} for the prompt, such as "a photo of {}"; repeatable; or the name of
            one of OpenAI's sets: openai (80 templates) or simple (7).
        independent: a probability for each class on its own, for images of several things, as the
            teacher was trained (SigLIP); other teachers need images: see `adapt --independent`.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the forward pass; auto is fp16 on CUDA, fp32 elsewhere.

    Raises:
        InputError: no prompts, a template without {}, or --independent with a teacher that was not
            trained so.
        FormatError: the prompts file is not text in UTF-8, or has NUL bytes.
        ModelNotFoundError: the teacher is unknown or cannot be fetched.
        OutputError: `out` cannot be written, or another process is writing it.
    """
    prompts, out = Path(prompts), Path(out)
    classes = load_prompts(prompts)
    templates = resolve_templates(template)
    with locked_files("embed-text", text_path(out)):
        from ..models.teacher import embed_classes, load_teacher

        teacher = load_teacher(model_name, pretrained, device=device, precision=precision)
        text = embed_classes(teacher, classes, templates)
        if independent:
            text = replace(text, independent=_own_probabilities(text))
        path = save_text(out, text)
    return EmbedTextResult(
        out=path,
        teacher=str(teacher.card),
        labels=text.labels,
        prompts=sum(len(some) for some in classes.prompts),
        templates=len(templates),
        overlapping=text.overlapping(),
    )


def _own_probabilities(text: TextEmbeddings) -> Independent:
    """The teacher's own probabilities of each class.

    Raises:
        OptionError: it was trained to choose one of several texts.
    """
    scale, bias, count = text.teacher.logits.scale, text.teacher.logits.bias, len(text.labels)
    if bias is None:
        raise OptionError(
            f"--independent: the teacher {text.teacher} compares texts and has no probability for "
            "one alone. Leave --independent away, and fit the probabilities to images: clipdistill "
            "adapt TEXT.npy EMBEDDINGS TEXT.npy --independent"
        )
    return Independent(
        scales=(scale,) * count,
        biases=(bias,) * count,
        thresholds=(THRESHOLD,) * count,
        method="scale",
        source="",
        images=0,
        matched=(0,) * count,
        unmatched=(),
    )


def resolve_templates(template: Sequence[str]) -> tuple[str, ...]:
    """Turn template texts and set names into templates, each with one `{}`.

    Raises:
        OptionError: one has no `{}` and is not the name of a set.
    """
    result: list[str] = []
    for one in template:
        if "{}" in one:
            result.append(one)
        elif one in ("openai", "simple"):
            result += _openai_set(one)
        else:
            raise OptionError(
                f"Template {one!r}: expected a text with {{}} where the prompt goes, such as "
                "'a photo of {}', or one of the sets: openai, simple."
            )
    return tuple(dict.fromkeys(result)) or NO_TEMPLATE


def _openai_set(name: str) -> list[str]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    functions = OPENAI_IMAGENET_TEMPLATES if name == "openai" else SIMPLE_IMAGENET_TEMPLATES
    return [function("{}") for function in functions]
