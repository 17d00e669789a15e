"""clipdistill: prompts in, a small, fast image classifier out, with no labels.

Every verb of the command line is a function here, with the same name and the same words.  Nothing
is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        ClipDistillError,
        FormatError,
        ImageError,
        InputError,
        MismatchError,
        MissingExtraError,
        ModelNotFoundError,
        OutputError,
        TrainingError,
    )
    from .formats.embeddings import load_embeddings
    from .formats.text import load_text
    from .recipe import DistillOptions
    from .runtime import open_embedder
    from .stages.distill import distill
    from .stages.embed import embed
    from .stages.embed_text import embed_text
    from .stages.evaluate import evaluate
    from .stages.export import export
    from .stages.predict import predict
    from .stages.quickstart import quickstart
    from .stages.relabel import relabel

    __version__: str

_HOME = {
    "ClipDistillError": "errors",
    "DistillOptions": "recipe",
    "FormatError": "errors",
    "ImageError": "errors",
    "InputError": "errors",
    "MismatchError": "errors",
    "MissingExtraError": "errors",
    "ModelNotFoundError": "errors",
    "OutputError": "errors",
    "TrainingError": "errors",
    "distill": "stages.distill",
    "embed": "stages.embed",
    "embed_text": "stages.embed_text",
    "evaluate": "stages.evaluate",
    "export": "stages.export",
    "load_embeddings": "formats.embeddings",
    "load_text": "formats.text",
    "open_embedder": "runtime",
    "predict": "stages.predict",
    "quickstart": "stages.quickstart",
    "relabel": "stages.relabel",
}
"""Public name -> the module it lives in."""

__all__ = [
    "ClipDistillError",
    "DistillOptions",
    "FormatError",
    "ImageError",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "ModelNotFoundError",
    "OutputError",
    "TrainingError",
    "__version__",
    "distill",
    "embed",
    "embed_text",
    "evaluate",
    "export",
    "load_embeddings",
    "load_text",
    "open_embedder",
    "predict",
    "quickstart",
    "relabel",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("clipdistill")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
