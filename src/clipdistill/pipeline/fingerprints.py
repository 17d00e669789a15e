"""Fingerprints of what steps use: settings, prompts, lists of images, embeddings.

Images are compared by name, size and time of change, not by content: a million of them must not be
read to find that nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.prompts import Prompts
from ..images.sources import ImageItem
from ..measure.task import Labels

LENGTH = 8
"""Bytes of a digest: enough for the states of one run."""


def of_value(value: Any) -> str:
    """Of plain JSON values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return _digest([text.encode()])


def of_prompts(prompts: Prompts) -> str:
    """Of classes and their prompts; comments and blank lines do not count."""
    digest = of_value([prompts.labels, prompts.prompts])
    return f"{len(prompts.labels)} labels, {digest}"


def of_images(items: Sequence[ImageItem]) -> str:
    """Of a list of images."""
    lines = (f"{item.key}\t{item.size}\t{item.mtime_ns}\n".encode() for item in items)
    return f"{len(items)} pictures, {_digest(lines)}"


def of_labels(found: Labels) -> str:
    """Of which image has which labels, by their places in the list of classes."""
    pairs = (
        f"{item.key}\t{np.flatnonzero(row).tolist()}\n".encode()
        for item, row in zip(found.items, found.truths, strict=True)
    )
    return _digest(pairs)


def of_teacher(model_name: str) -> str:
    """Of a teacher's files where it is a folder, otherwise of its name."""
    scheme, _, folder = model_name.partition(":")
    if scheme != "local-dir":
        return of_value(model_name)
    return _digest(
        f"{path.name}\t{path.stat().st_size}\t{path.stat().st_mtime_ns}\n".encode()
        for path in sorted(Path(folder).glob("*"))
        if os.path.isfile(path)
    )


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=LENGTH)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def of_embedded(keys: Iterable[str], contents: Iterable[str], teacher: str) -> str:
    """Of embeddings: of the teacher, and of the content of every image."""
    rows = (f"{key}\t{content}\n".encode() for key, content in zip(keys, contents, strict=True))
    return _digest([teacher.encode(), *rows])
