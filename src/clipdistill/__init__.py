"""Prompts in, a small, fast image classifier out, with no labels.

Every verb of the command line is a function here, with the same name and the same words: the
command `clipdistill embed photos emb --device cpu` is `clipdistill.embed("photos", "emb",
device="cpu")`.  Paths are texts or `pathlib.Path`s.  A verb returns a frozen dataclass with a
`summary()`, and raises a `ClipDistillError` that says what to do.  Nothing is imported before it is
used.

Verbs:

{verbs}

Also here: `progress` (how progress is shown), `open_embedder`, `open_pool`, `load_embeddings`,
`load_text`, `load_selection`, and the errors.
"""

from __future__ import annotations

import importlib
from typing import Any

from .core.privacy import switch_telemetry_off
from .verbs import VERBS

switch_telemetry_off()  # the one thing that importing does: it has to come before the others

_OTHERS = {
    "ClipDistillError": "core.errors",
    "FormatError": "core.errors",
    "ImageError": "core.errors",
    "InputError": "core.errors",
    "MismatchError": "core.errors",
    "MissingExtraError": "core.errors",
    "ModelNotFoundError": "core.errors",
    "OutputError": "core.errors",
    "ServiceError": "core.errors",
    "TrainingError": "core.errors",
    "load_embeddings": "formats.embeddings",
    "load_selection": "formats.selection",
    "load_text": "formats.text",
    "open_embedder": "models.open",
    "open_pool": "collect.pool",
    "progress": "core.reporters",
}
"""Public name -> the module it lives in; the verbs' are in `verbs`."""

_VERBS = {verb.function_name: verb for verb in VERBS}

__all__ = ["__version__", *_VERBS, *_OTHERS]
__doc__ = __doc__.format(  # `help(clipdistill)` starts with the verbs
    verbs="\n".join(f"    {name:<12} {verb.help}" for name, verb in _VERBS.items())
)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("clipdistill")
    if name in _VERBS:
        from .core.reporters import with_progress
        from .core.signatures import public

        value = with_progress(public(_VERBS[name].function()))
    elif name in _OTHERS:
        value = getattr(importlib.import_module(f".{_OTHERS[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
