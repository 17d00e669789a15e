"""The Dockerfiles: what they copy and start is there; the image is built where Docker runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clipdistill.core.packages import EXTRAS
from clipdistill.show.doctor import PARTS

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
JETSON = re.findall(
    r"```dockerfile\n(.*?)```", (ROOT / "docs/deploy.md").read_text(encoding="utf-8"), re.S
)


def docker_runs() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def test_one_recipe_is_a_file_and_one_is_text() -> None:
    assert len(JETSON) == 1


@pytest.mark.parametrize("text", [DOCKERFILE.read_text(), *JETSON], ids=["cpu", "jetson"])
def test_a_recipe_names_what_is_there(text: str) -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", text, re.M)]
    assert copied
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert f"!{name}" in kept, name
    for extras in re.findall(r"'\.\[([\w,]+)\]'", text):
        assert set(extras.split(",")) <= set(EXTRAS)
    (checked,) = re.findall(r"clipdistill doctor ([\w ]+?) --strict", text)
    assert set(checked.split()) <= set(PARTS)
    assert re.search(r"^USER \w+$", text, re.M)


@pytest.mark.interop
@pytest.mark.skipif(not os.environ.get("INTEROP"), reason="needs a network; run: make interop")
@pytest.mark.skipif(not docker_runs(), reason="Docker does not run here")
def test_the_image_predicts(tiny_classifier: Path, pictures, tmp_path: Path) -> None:
    shutil.copy(tiny_classifier, tmp_path / "classifier.onnx")
    pictures(tmp_path / "photos", 2)
    (tmp_path / "photos").chmod(0o755)
    tmp_path.chmod(0o755)
    subprocess.run(["docker", "build", "-q", "-t", "clipdistill-test", str(ROOT)], check=True)
    start = ["docker", "run", "--rm", "--network", "none", "-v", f"{tmp_path}:/data:ro"]
    for model in ("classifier.onnx", "openvino:classifier.onnx"):
        done = subprocess.run(
            [*start, "clipdistill-test", "predict", model, "photos", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "photos/picture_0.png" in done.stdout
