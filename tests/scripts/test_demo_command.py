"""The older demo script, on a video in place of a camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import older_scripts
from conftest import draw_picture

cv2 = pytest.importorskip("cv2", reason="OpenCV (extra demo) is not installed")


@pytest.fixture
def run(monkeypatch):
    """Run the script where there is no display; returns (exit code, out, err)."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: object) -> tuple[int, str, str]:
        done = older_scripts.run("demo_pytorch", *args)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def older(tmp_path_factory, tiny_student: Path, tiny_text: Path) -> tuple[Path, Path, Path]:
    """A bare checkpoint, bare text embeddings and prompts, as the older scripts wrote them."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("older")
    weights = load_file(tiny_student / "model.safetensors")
    torch.save({"model": weights}, folder / "checkpoint.pth")
    np.save(folder / "text.npy", np.load(tiny_text))
    (folder / "prompts.txt").write_text("red disc\ngreen square\nblue triangle\nyellow stripe\n")
    return folder / "checkpoint.pth", folder / "text.npy", folder / "prompts.txt"


def test_it_watches_a_video(run, older, tmp_path: Path) -> None:
    checkpoint, text, prompts = older
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for index in range(10):
        writer.write(np.asarray(draw_picture(index, (64, 48))))
    writer.release()
    code, out, err = run(
        "test_resnet",
        checkpoint,
        text,
        "--text_prompts",
        prompts,
        "--image_size",
        32,
        "--device",
        "cpu",
        "--video",
        tmp_path / "a.mp4",
    )
    assert code == 0, err
    assert "has ended" in out
    assert any(name in out for name in ("red disc", "green square", "blue triangle"))


def test_flags_and_camera_are_checked(run, older) -> None:
    checkpoint, text, prompts = older
    args = ("test_resnet", checkpoint, text, "--text_prompts", prompts, "--image_size", 32)
    code, _, err = run(*args, "--camera_device", 99)
    assert code == 3
    assert "Camera 99 cannot be opened" in err
    code, _, err = run(*args, "--camera_device", 0, "--video", "a.mp4")
    assert code == 2
    assert "exclude each other" in err
    code, _, err = run(*args, "--use_qat")
    assert code == 5
    assert "--use_qat" in err
