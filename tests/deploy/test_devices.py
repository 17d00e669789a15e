"""docs/devices: the recipes give the answers of `predict`, where they can be run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdistill.deploy.browser.folder import Runtime, write_page
from clipdistill.models.recognizer import Recognizer, open_recognizer
from conftest import draw_picture

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "devices"


@pytest.fixture
def recognizer(tiny_classifier: Path) -> Recognizer:
    """The tiny classifier in ONNX Runtime."""
    return open_recognizer(str(tiny_classifier))


def test_node(tiny_classifier: Path, recognizer: Recognizer, tmp_path: Path) -> None:
    node, modules = shutil.which("node"), ROOT / "node_modules"
    if node is None or not all((modules / one).is_dir() for one in ("onnxruntime-node", "sharp")):
        pytest.skip("needs Node, and: npm install --no-save onnxruntime-node sharp")
    (tmp_path / "node_modules").symlink_to(modules)
    shutil.copy(RECIPES / "classify.mjs", tmp_path)
    write_page(tmp_path / "page", Runtime(None, "https://cdn.example/"))
    shutil.copy(tiny_classifier, tmp_path / "page" / "classifier.onnx")
    for seed in range(3):
        image = draw_picture(seed, (90, 70))
        image.save(tmp_path / "photo.png")
        command = [node, "classify.mjs", "page", "photo.png"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        found = {one["label"]: one["probability"] for one in json.loads(done.stdout)}
        shares = _shares(recognizer, image)
        assert max(found, key=found.__getitem__) == recognizer.labels[shares.argmax()]
        for label, share in zip(recognizer.labels, shares, strict=True):
            assert found[label] == pytest.approx(share, abs=1e-4)


def test_cpp(tiny_classifier: Path, recognizer: Recognizer, tmp_path: Path) -> None:
    compiler, root = shutil.which("g++"), Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr/local"))
    header = next(root.glob("include/**/onnxruntime_cxx_api.h"), None)
    if compiler is None or header is None:
        pytest.skip("needs g++, and ONNXRUNTIME_ROOT with include and lib of ONNX Runtime")
    command = [compiler, "-std=c++17", "-I", str(header.parent), str(RECIPES / "classify.cpp")]
    command += [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-lonnxruntime"]
    subprocess.run([*command, "-o", str(tmp_path / "classify")], check=True)
    for seed in range(3):
        image = draw_picture(seed, (90, 70))
        pixels = recognizer.preprocess.to_pixels(image)
        done = subprocess.run(
            [str(tmp_path / "classify"), str(tiny_classifier)],
            input=pixels.tobytes(),
            capture_output=True,
            check=True,
        )
        number, share = done.stdout.split()
        shares = _shares(recognizer, image)
        assert int(number) == shares.argmax()
        assert float(share) == pytest.approx(shares.max(), abs=1e-4)


def _shares(recognizer: Recognizer, image: Image.Image) -> np.ndarray:
    return recognizer.probabilities(recognizer.preprocess.to_pixels(image)[None])[0]
