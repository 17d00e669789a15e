"""A list of classes for a model: text embeddings, or prompts that its teacher has to embed."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from ..core.errors import FormatError, InputError, MissingExtraError, ModelNotFoundError
from ..formats.cards import TeacherCard
from ..formats.prompts import load_prompts
from ..formats.text import TextEmbeddings, is_prompts_file, load_text
from .hub import hub_access
from .open import needs_training_extra


def load_class_list(
    path: Path,
    teacher: TeacherCard | None,
    whose: object,
    *,
    device: str,
    ask_hub: bool,
    model_name: str | None = None,
) -> TextEmbeddings:
    """Load text embeddings, or embed the prompts of a text file with the teacher.

    Args:
        path: text embeddings, or a prompts file.
        teacher: what `whose` was made with; None: unknown.
        whose: file or folder that the classes are for, for messages.
        device: device for the teacher.
        ask_hub: fetch the teacher's weights where they are not on this machine.
        model_name: where the teacher is, as in `embed`; None: the name in its card.

    Raises:
        InputError: no such file, or the teacher is unknown.
        ModelNotFoundError: the teacher is not on this machine.
        MismatchError: the text embeddings were made with another teacher.
    """
    if not is_prompts_file(path):
        text = load_text(path)
        if teacher is not None:
            teacher.check_same(text.teacher, whose, path)
        return text
    classes = load_prompts(path)
    command = f"clipdistill embed-text {shlex.quote(str(path))} TEXT.npy"
    if teacher is None or teacher.fingerprint is None:
        raise InputError(
            f"{whose} does not say which teacher made it, so {path} cannot be embedded. Make text "
            f"embeddings of it with the right one, and give those: {command} --model-name NAME "
            "--pretrained TAG"
        )
    try:
        with needs_training_extra("A teacher"):
            from .teacher import embed_classes, load_teacher
        with contextlib.nullcontext() if ask_hub else hub_access(allowed=False):
            name = model_name or teacher.model_name
            loaded = load_teacher(name, teacher.pretrained, device=device)
    except (ModelNotFoundError, MissingExtraError, InputError, FormatError) as error:
        reason = str(error).partition(". ")[0].rstrip(".")
        tag = f" --pretrained {shlex.quote(teacher.pretrained)}" if teacher.pretrained else ""
        raise ModelNotFoundError(
            f"{path} is a text file, and the teacher that has to embed it cannot be opened here. "
            "Make text embeddings of it where the teacher is, and give those: "
            f"{command} --model-name {shlex.quote(teacher.model_name)}{tag}. ({reason}.)"
        ) from error
    teacher.check_same(loaded.card, whose, f"{loaded.card.model_name} on this machine")
    return embed_classes(loaded, classes)
