"""The folder of `export --target web`: a static page that runs a classifier in the browser."""

from .folder import Runtime, find_runtime, write_page

__all__ = ["Runtime", "find_runtime", "write_page"]
