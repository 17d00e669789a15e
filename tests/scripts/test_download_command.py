"""The older download command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hostile import HostileServer, jpeg, replies

SCRIPT = Path(__file__).parents[2] / "scripts" / "download_images.py"


def test_the_older_options_are_understood(tmp_path: Path) -> None:
    with HostileServer().running() as server:
        server.answers["a"] = replies(jpeg(1, (900, 700)))
        urls = tmp_path / "image_urls.txt"
        urls.write_text(f"{server.url('a')}\n{server.url('gone')}\n")
        command = [
            sys.executable,
            str(SCRIPT),
            str(urls),
            str(tmp_path / "images"),
            "--max_workers",
            "32",
            "--timeout",
            "2",
        ]
        careful = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert careful.returncode == 3
        assert "not a public address" in careful.stderr
        done = subprocess.run(
            [*command, "--allow_private"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert "1 image downloaded" in done.stdout
    assert "http 404" in done.stdout
    pictures = list((tmp_path / "images").glob("*.jpg"))
    assert [path.read_bytes() for path in pictures] == [jpeg(1, (900, 700))]
