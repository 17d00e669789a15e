"""Writing the page and its runtime, onnxruntime-web, beside a classifier.

    index.html, page.css, page.js       the page of `demo --web`, with a Content-Security-Policy
    source.js, worker.js, offline.js    its answers, from the file beside it; its copy for offline
    preprocess.js, onnx.js              preprocessing and metadata, as in Python
    runtime.js                          where onnxruntime-web is
    runtime/                            onnxruntime-web, unless its URL was given
    classifier.onnx                     network, labels, preprocessing, threshold

The page reads everything about the classifier from `classifier.onnx`, so `relabel` needs to change
that file only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...core.errors import InputError, OptionError
from ...core.files import write_bytes
from ...core.page import page_file

RUNTIME_VERSION = "1.30.0"
"""onnxruntime-web that the page was tested with; its files have had these names since 1.24."""
RUNTIME_FILES = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
"""What the page loads of onnxruntime-web: the first three with WebGPU, else the other three."""
PLACES = ("", "dist", "node_modules/onnxruntime-web/dist")
"""Where they may be within the folder that was given."""
SCRIPTS = ("source.js", "worker.js", "preprocess.js", "onnx.js", "offline.js")
URL = re.compile(
    r"(https://[A-Za-z0-9.-]+|http://(localhost|127\.0\.0\.1))(:[0-9]{1,5})?/[A-Za-z0-9@._~/+-]*"
)
"""Addresses of the runtime: it is code, so it has to come encrypted, or from this machine."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; form-action 'none'; "
    "base-uri 'none'"
)
"""Policy of the page; its worker, which alone loads the runtime, obeys the headers of its host."""


@dataclass(frozen=True)
class Runtime:
    """Where the page gets onnxruntime-web.

    Attributes:
        folder: folder with `RUNTIME_FILES`, to be copied; None: the page loads them from `url`.
        url: address of a folder with them, ending in "/", or relative to the page.
    """

    folder: Path | None
    url: str


def find_runtime(folder: Path | None, url: str | None) -> Runtime:
    """Find onnxruntime-web in a folder, or check its address; nothing is downloaded.

    Args:
        folder: the package onnxruntime-web of npm, its `dist`, or a folder it is installed in.
        url: https address of its `dist`.

    Raises:
        InputError: none or both are given, files are missing, or the address cannot be used.
    """
    if folder is not None and url is None:
        return Runtime(_with_files(folder), "./runtime/")
    if url is not None and folder is None:
        address = url if url.endswith("/") else url + "/"
        if not URL.fullmatch(address):
            raise InputError(
                f"--runtime-url {url}: expected an address that begins with https:// and has no "
                f"query, such as https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME_VERSION}/dist/"
            )
        return Runtime(None, address)
    if folder is not None:
        raise OptionError("--runtime-dir and --runtime-url exclude each other. Give one of them.")
    raise OptionError(
        "--target web needs onnxruntime-web, which runs the classifier in the browser. Install it "
        f"with `npm install onnxruntime-web@{RUNTIME_VERSION}` and add --runtime-dir . to have it "
        "copied, or let visitors load it from a host that you name with --runtime-url."
    )


def write_page(out: Path, runtime: Runtime) -> int:
    """Write everything but the classifier into `out`.

    Returns:
        Size of all files in `out` that the page consists of, in bytes, without the classifier.

    Raises:
        OutputError: the folder cannot be written to.
    """
    own = files(__package__) / "static"
    contents = {name: (own / name).read_bytes() for name in SCRIPTS}
    contents["page.css"] = page_file("page.css")
    contents["page.js"] = page_file("page.js")
    contents["runtime.js"] = f"export const RUNTIME = {json.dumps(runtime.url)};\n".encode()
    if runtime.folder is not None:
        for name in RUNTIME_FILES:
            contents[f"runtime/{name}"] = (runtime.folder / name).read_bytes()
    contents["index.html"] = _with_policy(page_file("index.html"))
    for name, content in contents.items():
        write_bytes(out / name, content)
    return sum(map(len, contents.values()))


def _with_files(folder: Path) -> Path:
    for place in PLACES:
        found = folder / place
        missing = [name for name in RUNTIME_FILES if not (found / name).is_file()]
        if not missing:
            return found
        if len(missing) < len(RUNTIME_FILES):
            break
    else:
        raise InputError(
            f"--runtime-dir {folder}: onnxruntime-web is not in it. Install it with: npm install "
            f"--prefix {folder} onnxruntime-web@{RUNTIME_VERSION}"
        )
    raise InputError(
        f"--runtime-dir {folder}: {found} has no {', '.join(missing)}. It is another version of "
        f"onnxruntime-web, or incomplete; expected {RUNTIME_VERSION}."
    )


def _with_policy(page: bytes) -> bytes:
    """Put the policy into the page, for static hosts send none."""
    charset = b'<meta charset="utf-8">'
    meta = f'{charset.decode()}\n  <meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return page.replace(charset, meta.encode(), 1)
