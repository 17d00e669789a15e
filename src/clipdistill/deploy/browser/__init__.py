"""The folder of `export --target web`: a static page that runs a classifier in the browser."""

from .folder import CLASSIFIER, Runtime, find_runtime, write_page

__all__ = ["CLASSIFIER", "Runtime", "find_runtime", "write_page"]
