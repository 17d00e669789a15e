"""clipdistill: prompts in, a small, fast image classifier out, with no labels.

Every verb of the command line is a function here, with the same name and the same words.  Nothing
is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collect.download import download
    from .collect.pool import open_pool
    from .collect.pool_search import pool_search
    from .collect.search import search
    from .collect.select import select
    from .collect.serve import ServeOptions, serve
    from .collect.sources.options import SearchOptions
    from .collect.web.options import DownloadOptions
    from .core.errors import (
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
    from .deploy.engine import EngineOptions, engine
    from .deploy.export import export
    from .deploy.lint import lint
    from .deploy.relabel import relabel
    from .distillation.distill import distill
    from .distillation.embed import embed
    from .distillation.embed_text import embed_text
    from .distillation.options import DistillOptions
    from .distillation.quantize import quantize
    from .formats.embeddings import load_embeddings
    from .formats.selection import load_selection
    from .formats.text import load_text
    from .measure.benchmark import BenchmarkOptions, benchmark
    from .measure.evaluate import evaluate
    from .models.open import open_embedder
    from .pipeline.options import RunOptions
    from .pipeline.quickstart import quickstart
    from .pipeline.run import run
    from .show.demo import DemoOptions, demo
    from .show.predict import predict
    from .show.report import report

    __version__: str

_HOME = {
    "BenchmarkOptions": "measure.benchmark",
    "ClipDistillError": "core.errors",
    "DemoOptions": "show.demo",
    "DistillOptions": "distillation.options",
    "DownloadOptions": "collect.web.options",
    "EngineOptions": "deploy.engine",
    "FormatError": "core.errors",
    "ImageError": "core.errors",
    "InputError": "core.errors",
    "MismatchError": "core.errors",
    "MissingExtraError": "core.errors",
    "ModelNotFoundError": "core.errors",
    "OutputError": "core.errors",
    "RunOptions": "pipeline.options",
    "SearchOptions": "collect.sources.options",
    "ServeOptions": "collect.serve",
    "ServiceError": "core.errors",
    "TrainingError": "core.errors",
    "benchmark": "measure.benchmark",
    "demo": "show.demo",
    "distill": "distillation.distill",
    "download": "collect.download",
    "embed": "distillation.embed",
    "embed_text": "distillation.embed_text",
    "engine": "deploy.engine",
    "evaluate": "measure.evaluate",
    "export": "deploy.export",
    "lint": "deploy.lint",
    "load_embeddings": "formats.embeddings",
    "load_selection": "formats.selection",
    "load_text": "formats.text",
    "open_embedder": "models.open",
    "open_pool": "collect.pool",
    "pool_search": "collect.pool_search",
    "predict": "show.predict",
    "quantize": "distillation.quantize",
    "quickstart": "pipeline.quickstart",
    "relabel": "deploy.relabel",
    "report": "show.report",
    "run": "pipeline.run",
    "search": "collect.search",
    "select": "collect.select",
    "serve": "collect.serve",
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
