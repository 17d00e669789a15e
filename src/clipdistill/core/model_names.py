"""Names of models as people read them: without the folders before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DIMENSION = re.compile(r" \(\d+-d\)$")
"""What a teacher's card puts behind its name."""


def short_teacher(name: str) -> str:
    """A teacher's name without its folders, its hub and its dimension.

    "local-dir:/models/b" -> "b", "hf-hub:org/repo" -> "org/repo", "ViT-B-32/openai (512-d)" ->
    "ViT-B-32/openai".
    """
    name = DIMENSION.sub("", name)
    scheme, _, rest = name.partition(":")
    return {"local-dir": Path(rest).name, "hf-hub": rest}.get(scheme, name)


def short_name(name: str) -> str:
    """A model's name without the folders before it; a hub's or open_clip's name as it is."""
    prefix, colon, rest = name.partition(":")
    if colon and not prefix.endswith("dir"):
        return name
    path = rest if colon else prefix
    if colon or path.startswith(("/", ".")) or path.endswith((".onnx", ".engine", ".pth")):
        return path.rstrip("/").rsplit("/", 1)[-1]
    return name


def short_names(models: Sequence[str], runtimes: Sequence[str] = ()) -> list[str]:
    """The ends of models' names, as short as they are distinct, one per model.

    Args:
        models: paths or teachers' names.
        runtimes: of each; with them, a model that ran in several has its runtime behind it.
    """
    parts = [_parts(model) for model in models]
    ends = ["/".join(some) for some in parts]
    for length in range(1, max(map(len, parts), default=0)):
        shorter = ["/".join(some[-length:]) for some in parts]
        if len(set(shorter)) == len(set(parts)):
            ends = shorter
            break
    if runtimes and len(set(ends)) < len(ends):
        return [f"{end} ({runtime})" for end, runtime in zip(ends, runtimes, strict=True)]
    return ends


def _parts(model: str) -> tuple[str, ...]:
    """What a name may be cut between."""
    if model.startswith(("local-dir:", "hf-hub:")) or DIMENSION.search(model):
        return (short_teacher(model),)
    return Path(model).parts
