"""The older search command, run as people run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_services import FakeService, fake_knn

SCRIPT = Path(__file__).parents[2] / "scripts" / "search_clip_images.py"


@pytest.fixture
def knn() -> Iterator[FakeService]:
    with fake_knn().running() as one:
        yield one


def run(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    (data / "text_prompts.txt").write_text("a cat\na dog\n")
    return subprocess.run(
        [sys.executable, SCRIPT, "data/text_prompts.txt", "data/image_urls.txt", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def test_the_older_command_line(knn: FakeService, tmp_path: Path) -> None:
    args = ("-n", 5000, "-m", 10000, "--max_workers", 2, "--append", "--url", knn.url)
    done = run(tmp_path, *args)
    assert done.returncode == 0, done.stderr
    assert "200 URLs for 2 prompts" in done.stdout
    bodies = [asked.body for asked in knn.asked if asked.body]
    assert {body["num_images"] for body in bodies} == {10000}
    assert {body["num_result_ids"] for body in bodies} == {10000}
    urls = tmp_path / "data" / "image_urls.txt"
    assert len(set(urls.read_text().splitlines())) == 200
    assert urls.with_suffix(".parquet").is_file()
    again = run(tmp_path, *args)
    assert "0 URLs" in again.stdout
    assert len(urls.read_text().splitlines()) == 200


def test_an_existing_file_without_append(knn: FakeService, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "image_urls.txt").write_text("http://x/1\n")
    done = run(tmp_path, "--url", knn.url)
    assert done.returncode == 7
    assert "--append" in done.stderr
    assert knn.asked == []


def test_without_an_address_it_says_why(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", 10)
    assert done.returncode == 2
    assert done.stderr.startswith("error: The search needs --url")
    assert "knn.laion.ai" in done.stderr
    assert "clipdistill serve" in done.stderr
    assert "--source" not in done.stderr
    assert not (tmp_path / "data" / "image_urls.txt").exists()
