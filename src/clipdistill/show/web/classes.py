"""The page's class list: lines of a text box -> models that know these classes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...formats.text import TextEmbeddings
from ...models.recognizer import Recognizer

MOST_CLASSES = 300
LONGEST_NAME = 100
LONGEST_TEXT = MOST_CLASSES * (LONGEST_NAME + 2)
"""Characters that the text box takes."""
LISTS_KEPT = 16
NAMES_KEPT = 5000
"""Class lists, and embedded names, that are remembered: all visitors share them."""

Encode = Callable[[Sequence[str]], TextEmbeddings]
"""Class names -> their text embeddings in the student's space."""


@dataclass(frozen=True)
class Models:
    """Who answers, and of which classes.

    Attributes:
        student: the model.
        teacher: beside it, if there is one.
    """

    student: Recognizer
    teacher: Recognizer | None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return self.student.labels


class ClassLists:
    """Models for any class list, remembered; safe to ask from several threads.

    Names that the student came with keep their own embeddings (several prompts may be averaged in
    them), so they are answered as before; only new names are encoded.
    """

    def __init__(self, own: Models, encode: Encode | None) -> None:
        self.own = own
        self._encode = encode
        self._made: OrderedDict[tuple[str, ...], Models] = OrderedDict()
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def editable(self) -> bool:
        """Whether there is a text encoder."""
        return self._encode is not None

    def models(self, labels: tuple[str, ...]) -> Models:
        """The models with these classes; their own list gives the models as they were opened.

        Raises:
            InputError: new names, and no text encoder.
            MismatchError: the text encoder speaks another model's space.
        """
        if labels == self.own.labels:
            return self.own
        with self._lock:
            if labels not in self._made:
                self._made[labels] = self._make(labels)
                _forget(self._made, LISTS_KEPT)
            self._made.move_to_end(labels)
            return self._made[labels]

    def _make(self, labels: tuple[str, ...]) -> Models:
        own = self.own.student.text
        vectors = self._known(labels)
        prompts = dict(zip(own.labels, own.prompts, strict=True))
        text = replace(
            own,
            vectors=np.stack([vectors[label] for label in labels]),
            labels=labels,
            prompts=tuple(prompts.get(label, (label,)) for label in labels),
        )
        student, teacher = self.own.student, self.own.teacher
        return Models(student.with_text(text), None if teacher is None else teacher.with_text(text))

    def _known(self, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Label -> float32 (D,), encoding the new ones."""
        own = self.own.student.text
        known = {**self._vectors, **dict(zip(own.labels, own.vectors, strict=True))}
        new = [label for label in labels if label not in known]
        if new:
            if self._encode is None:
                raise InputError("New classes need a text encoder, and there is none here.")
            encoded = self._encode(new)
            self.own.student.embedder.spec.check_space(encoded.teacher, "the new classes")
            fresh = dict(zip(new, encoded.vectors, strict=True))
            known |= fresh
            self._vectors |= fresh
            _forget(self._vectors, NAMES_KEPT)
        return known


def parse_classes(text: str) -> tuple[str, ...]:
    """The classes of a text box: a line each; blank lines and repetitions are left out.

    Raises:
        InputError: none, too many, or one that is too long or holds what is no text.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    labels = tuple(dict.fromkeys(line for line in lines if line))
    if not labels:
        raise InputError("The list is empty: write at least one class, one a line.")
    if len(labels) > MOST_CLASSES:
        raise InputError(f"{len(labels)} classes are too many: at most {MOST_CLASSES} fit here.")
    for label in labels:
        if len(label) > LONGEST_NAME:
            raise InputError(
                f"The class {label[:30]!r}... has {len(label)} characters; at most "
                f"{LONGEST_NAME} are allowed."
            )
        if not label.isprintable():
            raise InputError(f"The class {label!r} holds characters that cannot be shown.")
    return labels


def _forget(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
