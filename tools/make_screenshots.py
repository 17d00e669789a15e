"""Take the README's screenshots: docs/images/report.png and docs/images/web_demo.png.

python tools/make_screenshots.py runs/quickstart

From the folder of a quickstart run, with its report (clipdistill report RUN makes it).  Needs the
extras dev and demo, and Chromium.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from clipdistill.core.files import atomic_path
from clipdistill.formats.prompts import Prompts
from clipdistill.formats.run import RunFolder
from clipdistill.formats.text import TextEmbeddings
from clipdistill.images.sources import list_images
from clipdistill.models.recognizer import Recognizer, open_recognizer
from clipdistill.models.teacher import embed_classes, load_teacher
from clipdistill.show.web.class_lists import Encode
from clipdistill.show.web.server import running_page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browser import launched, opened  # noqa: E402 (lies with the tests)

IMAGES = ROOT / "docs/images"
MOST = 200_000
"""Bytes of a screenshot."""
PAGE = (1180, 1020)
REPORT = (1180, 1100)
SHOWN = 6
"""Examples on the page."""


def main() -> None:
    """Take both."""
    run = RunFolder(Path(sys.argv[1]))
    report = run.out / "report.html"
    with launched() as browser:
        if report.is_file():
            with opened(browser, report.resolve().as_uri(), size=REPORT) as seen:
                save(seen.page.screenshot(), "report.png")
        else:
            print(f"{report}: not there; make it with: clipdistill report {run.out}")
        student, teacher, encode, examples = models(run)
        with (
            running_page(student, teacher=teacher, encode=encode, examples=examples) as url,
            opened(browser, url, size=PAGE) as seen,
        ):
            seen.page.get_by_role("button", name="Example 2").click()
            seen.page.wait_for_selector("#answer .card")
            # The second time no model waits for the browser that shows the picture.
            seen.page.get_by_role("button", name="Example 3").click()
            seen.page.wait_for_timeout(2000)
            save(seen.page.screenshot(), "web_demo.png")


def models(run: RunFolder) -> tuple[Recognizer, Recognizer, Encode, list[Path]]:
    """The run's classifier, its teacher and text encoder, and held-out pictures of some kinds."""
    student = open_recognizer(str(run.out / "classifier.onnx"))
    card = student.embedder.spec.teacher
    if card is None:
        sys.exit(f"{student.name} does not say who its teacher is.")
    teacher = load_teacher(card.model_name, card.pretrained, device="cpu")
    files = [item.path for item in list_images(run.out / "held-out")]

    def encode(names: Sequence[str]) -> TextEmbeddings:
        prompts = Prompts(tuple(names), tuple((name,) for name in names))
        return embed_classes(teacher, prompts, student.text.templates)

    beside = Recognizer(teacher.images, student.text, own=False)
    return student, beside, encode, spread(files)


def spread(files: Sequence[Path]) -> list[Path]:
    """One picture each of a few kinds."""
    kinds = sorted({path.parent for path in files})
    step = max(1, len(kinds) // SHOWN)
    return [next(path for path in files if path.parent == kind) for kind in kinds[::step][:SHOWN]]


def save(shot: bytes, name: str) -> None:
    """Write a screenshot as a palette PNG, with as many colours as `MOST` allows."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    for colours in (256, 128, 64, 32):
        kept = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(kept, "PNG", optimize=True)
        if kept.tell() <= MOST:
            break
    with atomic_path(IMAGES / name) as temporary:
        temporary.write_bytes(kept.getvalue())
    print(f"{IMAGES / name}: {kept.tell() / 1e3:.0f} kB, {colours} colours")


if __name__ == "__main__":
    main()
