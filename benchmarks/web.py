"""The page of `export --target web` in headless Chromium against `predict`, on photos.

    python benchmarks/web.py --student runs/student --text runs/text.npy --npm FOLDER \
        --images photos more-photos

The page's own script classifies every file, from its bytes: decoding, resizing, normalisation and
onnxruntime-web are the visitor's.  Photos are also enlarged (--enlarge) and saved as JPEG again, as
a camera's are, of which `predict` decodes a fraction.  FOLDER is one in which `npm install
onnxruntime-web` was run; Chromium and the package playwright are needed.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import itertools
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from reporting import write_report

import clipdistill
from clipdistill.images.sources import list_images

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")
LIMIT = 1e-3
"""Difference of a probability up to which the answers count as the same."""
SUBSAMPLINGS = (0, 1, 2)
"""Of the colours of enlarged photos, in turns: 4:4:4, 4:2:2 and 4:2:0."""
COLUMNS = [
    *("student", "photos", "enlarged", "labels that differ", "median difference"),
    *("99th percentile", "largest", f"photos above {LIMIT:g}"),
]
ASK = """async (text) => {
    const source = await import("./source.js");
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const [answer] = await source.classify(new Blob([bytes]), false, new AbortController().signal);
    return answer.ranked;
}"""


def main() -> None:
    """Export, ask both, and write the report."""
    asked = parse()
    rows = []
    versions = set()
    with tempfile.TemporaryDirectory() as name:
        pages = {}
        for number, student in enumerate(asked.student):
            page = pages[student.name] = Path(name) / f"page-{number}"
            clipdistill.export(
                str(student), page, text=asked.text, target="web", runtime_dir=asked.npm
            )
        for folder, times in itertools.product(asked.images, asked.enlarge):
            files = photos(folder, asked.count, times, Path(name) / "photos")
            for student, page in pages.items():
                with visited(page) as (seen, version):
                    versions.add(version)
                    rows.append([student, *compared(page, seen, files, folder, times)])
                print(rows[-1], file=sys.stderr)
    notes = [
        f"`predict` in ONNX Runtime on one side; on the other the exported page in headless "
        f"Chromium {', '.join(sorted(versions))}, asked through its own script with the bytes of "
        "each file, in WebAssembly.",
        "",
        "The difference of a photo is the largest among the probabilities of the page's five best "
        "labels. Enlarged photos were resized by that factor (bicubic) and saved as JPEG of "
        "quality 90, every second one progressive, with the colours at full size, half the width, "
        "and half of both in turns.",
    ]
    write_report("web", "The browser against ONNX Runtime", notes, COLUMNS, rows)


def photos(folder: Path, count: int, times: int, out: Path) -> list[Path]:
    """Files evenly spread over a folder, or copies of them that are `times` as large."""
    items = list_images(folder)
    places = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    found = [items[int(place)].path for place in places]
    if times == 1:
        return found
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    made = []
    for number, path in enumerate(found):
        with Image.open(path) as image:
            large = image.convert("RGB").resize((times * image.width, times * image.height), 3)
        made.append(out / f"{number:05d}.jpg")
        colours = SUBSAMPLINGS[number % len(SUBSAMPLINGS)]
        large.save(made[-1], quality=90, subsampling=colours, progressive=number % 2 == 1)
    return made


def compared(page: Path, seen: Page, files: list[Path], folder: Path, times: int) -> list[str]:
    """A row of the table: both answers to every file."""
    found = clipdistill.predict(str(page / "classifier.onnx"), *map(str, files), top_k=10**6)
    other, differences = 0, []
    for path, one in zip(files, found.predictions, strict=True):
        shares = dict(one.ranked)
        ranked = seen.evaluate(ASK, base64.b64encode(path.read_bytes()).decode())
        other += ranked[0][0] != one.ranked[0][0]
        differences.append(max(abs(share - shares[label]) for label, share in ranked))
    with Image.open(files[0]) as image:
        sides = f"{image.width}x{image.height}"
    return [
        f"{len(files)} of {folder.name} (the first: {sides})",
        str(times),
        str(other),
        f"{statistics.median(differences):.1e}",
        f"{float(np.quantile(differences, 0.99)):.1e}",
        f"{max(differences):.1e}",
        str(sum(one > LIMIT for one in differences)),
    ]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static host that logs nothing."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def visited(folder: Path) -> Iterator[tuple[Page, str]]:
    """The page of a folder, once its classifier is loaded, and Chromium's version."""
    from playwright.sync_api import sync_playwright

    handler = functools.partial(Quiet, directory=str(folder))
    program = next(filter(None, map(shutil.which, CHROMIUM)))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as play,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(executable_path=program, args=list(FLAGS))
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("#count:not(:empty)")
        yield page, browser.version
        browser.close()
        server.shutdown()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--student", type=Path, nargs="+", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--npm", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--enlarge", type=int, nargs="+", default=[1])
    return parser.parse_args()


if __name__ == "__main__":
    main()
