"""The watch that other tests rely on sees what it should see."""

from browser import opened

PAGE = """<!doctype html><html><head><title>t</title></head><body>
<img src="http://example.invalid/a.png">
<script>console.error("said"); throw Error("thrown")</script>
"""


def test_a_page_with_faults_is_told_on(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    with opened(chromium, path.as_uri()) as seen:
        assert seen.elsewhere == ["http://example.invalid/a.png"]
        complaints = "".join(seen.complaints)
        faults = "".join(seen.faults())
    assert "error: said" in complaints
    assert "exception: thrown" in complaints
    assert "image-alt (critical)" in faults
    assert "html-has-lang (serious)" in faults
