"""The report in a real browser, opened from disk: quiet, readable on a phone, accessible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from browser import opened
from clipdistill.formats.run import RunFolder
from clipdistill.show.report import report
from run_folders import assemble

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

LONG = ("a label that goes on and on without an end", "Donaudampfschifffahrtsgesellschaft" * 3)
BROKEN = "[...document.images].filter(one => !one.complete || !one.naturalWidth || !one.alt).length"


@pytest.fixture(scope="module", params=["labelled", "unlabelled", "begun", "many"])
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / request.param
    if request.param == "begun":
        folder = RunFolder(out)
        assemble(out, ("dog", "cat"))
        for path in (folder.evaluation, folder.predictions, folder.benchmark, folder.baseline):
            path.unlink()
    elif request.param == "many":
        assemble(out, [f"class number {index}" for index in range(60)], a_class=1)
    else:
        assemble(out, ("dog", "cat", "fish", *LONG), labelled=request.param == "labelled")
    return report(out).out


@pytest.mark.parametrize(("dark", "width"), [(False, 360), (True, 1280)])
def test_page(chromium: Any, page_file: Path, dark: bool, width: int) -> None:
    with opened(chromium, page_file.as_uri(), dark=dark, size=(width, 800)) as seen:
        seen.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert seen.page.evaluate(BROKEN) == 0
        assert seen.faults() == []
    assert seen.elsewhere == []
    assert seen.complaints == []


def test_paper_shows_what_is_folded(chromium: Any, page_file: Path) -> None:
    with opened(chromium, page_file.as_uri()) as seen:
        seen.page.emulate_media(media="print")
        assert seen.page.locator("nav").is_hidden()
        heights = seen.page.evaluate(
            "[...document.querySelectorAll('details > :last-child')].map(one => one.offsetHeight)"
        )
        assert all(height > 0 for height in heights)
