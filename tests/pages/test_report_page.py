"""The report in a real browser, opened from disk: quiet, readable on a phone, accessible."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipdistill.formats.run import RunFolder
from clipdistill.stages.report import report
from run_folders import assemble

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

LONG = ("a label that goes on and on without an end", "Donaudampfschifffahrtsgesellschaft" * 3)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module", params=["labelled", "unlabelled", "begun", "many"])
def page_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / request.param
    if request.param == "begun":
        folder = RunFolder(out)
        assemble(out, ("dog", "cat"))
        for path in (folder.evaluation, folder.opinions, folder.benchmark, folder.ceiling):
            path.unlink()
    elif request.param == "many":
        assemble(out, [f"class number {index}" for index in range(60)], a_class=1)
    else:
        assemble(out, ("dog", "cat", "fish", *LONG), labelled=request.param == "labelled")
    return report(out).out


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_page(browser: Any, page_file: Path, scheme: str, width: int) -> None:
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True
    )
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert not complaints
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(one => !one.complete || !one.naturalWidth || !one.alt)"
    assert page.evaluate(f"{broken}.length") == 0
    found = axe.Axe().run(page).response["violations"]
    told = [
        (one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:2]])
        for one in found
    ]
    assert not [one for one in told if one[1] in ("serious", "critical")]
    context.close()


def test_paper_shows_what_is_folded(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    heights = page.evaluate(
        "[...document.querySelectorAll('details')].map(one => one.lastElementChild.offsetHeight)"
    )
    assert all(height > 0 for height in heights)
    page.close()
