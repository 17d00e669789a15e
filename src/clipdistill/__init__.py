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
        ServiceError,
        TrainingError,
    )
    from .formats.embeddings import load_embeddings
    from .formats.selection import load_selection
    from .formats.text import load_text
    from .pool import open_pool
    from .recipe import DistillOptions
    from .road.options import RunOptions
    from .runtime import open_embedder
    from .sources.options import SearchOptions
    from .stages.benchmark import BenchmarkOptions, benchmark
    from .stages.demo import DemoOptions, demo
    from .stages.distill import distill
    from .stages.download import download
    from .stages.embed import embed
    from .stages.embed_text import embed_text
    from .stages.engine import EngineOptions, engine
    from .stages.evaluate import evaluate
    from .stages.export import export
    from .stages.lint import lint
    from .stages.pool_search import pool_search
    from .stages.predict import predict
    from .stages.quantize import quantize
    from .stages.quickstart import quickstart
    from .stages.relabel import relabel
    from .stages.report import report
    from .stages.run import run
    from .stages.search import search
    from .stages.select import select
    from .stages.serve import ServeOptions, serve
    from .web.policy import DownloadOptions

    __version__: str

_HOME = {
    "BenchmarkOptions": "stages.benchmark",
    "ClipDistillError": "errors",
    "DemoOptions": "stages.demo",
    "DistillOptions": "recipe",
    "DownloadOptions": "web.policy",
    "EngineOptions": "stages.engine",
    "FormatError": "errors",
    "ImageError": "errors",
    "InputError": "errors",
    "MismatchError": "errors",
    "MissingExtraError": "errors",
    "ModelNotFoundError": "errors",
    "OutputError": "errors",
    "RunOptions": "road.options",
    "SearchOptions": "sources.options",
    "ServeOptions": "stages.serve",
    "ServiceError": "errors",
    "TrainingError": "errors",
    "benchmark": "stages.benchmark",
    "demo": "stages.demo",
    "distill": "stages.distill",
    "download": "stages.download",
    "embed": "stages.embed",
    "embed_text": "stages.embed_text",
    "engine": "stages.engine",
    "evaluate": "stages.evaluate",
    "export": "stages.export",
    "lint": "stages.lint",
    "load_embeddings": "formats.embeddings",
    "load_selection": "formats.selection",
    "load_text": "formats.text",
    "open_embedder": "runtime",
    "open_pool": "pool",
    "pool_search": "stages.pool_search",
    "predict": "stages.predict",
    "quantize": "stages.quantize",
    "quickstart": "stages.quickstart",
    "relabel": "stages.relabel",
    "report": "stages.report",
    "run": "stages.run",
    "search": "stages.search",
    "select": "stages.select",
    "serve": "stages.serve",
}
"""Public name -> the module it lives in."""

__all__ = [
    "BenchmarkOptions",
    "ClipDistillError",
    "DemoOptions",
    "DistillOptions",
    "DownloadOptions",
    "EngineOptions",
    "FormatError",
    "ImageError",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "ModelNotFoundError",
    "OutputError",
    "RunOptions",
    "SearchOptions",
    "ServeOptions",
    "ServiceError",
    "TrainingError",
    "__version__",
    "benchmark",
    "demo",
    "distill",
    "download",
    "embed",
    "embed_text",
    "engine",
    "evaluate",
    "export",
    "lint",
    "load_embeddings",
    "load_selection",
    "load_text",
    "open_embedder",
    "open_pool",
    "pool_search",
    "predict",
    "quantize",
    "quickstart",
    "relabel",
    "report",
    "run",
    "search",
    "select",
    "serve",
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
