"""The page's class list: names from the browser -> models with these classes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...formats.text import TextEmbeddings
from ...models.recognizer import Recognizer

MOST_CLASSES = 300
LONGEST_NAME = 100
LISTS_KEPT = 16
NAMES_KEPT = 5000
"""Class lists, and embedded names, that are remembered: all visitors share them."""

Encode = Callable[[Sequence[str]], TextEmbeddings]
"""Class names -> their text embeddings in the student's space."""


@dataclass(frozen=True)
class Models:
    """The models that answer, all with the same classes.

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
    """Models for any class list, remembered under a key; used by one thread at a time.

    Names that the student came with keep their own embeddings (several prompts may be averaged in
    them), so they are answered as before; only new names are encoded.
    """

    def __init__(self, own: Models, encode: Encode | None) -> None:
        self.own = own
        self._encode = encode
        self._made: OrderedDict[str, Models] = OrderedDict()
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    @property
    def editable(self) -> bool:
        """Whether there is a text encoder."""
        return self._encode is not None

    def use(self, labels: tuple[str, ...]) -> str:
        """Make models for these classes; gives the key to `find` them, "" for the own classes.

        Raises:
            InputError: new names, and no text encoder.
            MismatchError: the text encoder's embeddings are of another space than the model's.
        """
        if labels == self.own.labels:
            return ""
        key = hashlib.sha256("\n".join(labels).encode()).hexdigest()[:32]
        if key not in self._made:
            self._made[key] = self._make(labels)
            _forget(self._made, LISTS_KEPT)
        self._made.move_to_end(key)
        return key

    def find(self, key: str) -> Models | None:
        """The models of a key; None: it is forgotten, or never was."""
        if key in self._made:
            self._made.move_to_end(key)
        return self._made.get(key) if key else self.own

    def _make(self, labels: tuple[str, ...]) -> Models:
        own = self.own.student.text
        vectors = self._known(labels)
        text = own.for_labels(labels, np.stack([vectors[label] for label in labels]))
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
            fresh = dict(zip(new, own.beside(encoded.vectors), strict=True))
            known |= fresh
            self._vectors |= fresh
            _forget(self._vectors, NAMES_KEPT)
        return known


def check_classes(names: Any) -> tuple[str, ...]:
    """The classes of a JSON list: white space made plain, without empty names and repetitions.

    Raises:
        InputError: no list of texts, none in it, too many, or one that is too long or holds
            characters that cannot be shown.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("classes: expected a list of texts.")
    plain = (" ".join(name.split()) for name in names)
    labels = tuple(dict.fromkeys(name for name in plain if name))
    if not labels:
        raise InputError("The list is empty: write at least one class, one per line.")
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
