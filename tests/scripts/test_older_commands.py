"""The older scripts' commands, run as people run them: subprocesses on tiny data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PROMPTS = ("a red disc", "a green square", "a blue triangle")
DIM = 16  # of the tiny teacher


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run one script; its output is kept."""
    return subprocess.run(
        [sys.executable, SCRIPTS / f"{script}.py", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def succeed(script: str, *args: object) -> str:
    """Run one script, which must succeed; returns its stdout."""
    done = run(script, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory, pictures, tiny_teacher_name) -> Path:
    """The older scripts' data folder after embedding and distilling."""
    data = tmp_path_factory.mktemp("data")
    pictures(data / "images", 8)
    (data / "text_prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    teacher = ("--model_name", tiny_teacher_name)
    succeed(
        "compute_openclip_embeddings",
        data / "images",
        data / "embeddings",
        *teacher,
        "--batch_size",
        3,
        "--num_workers",
        2,
        "--device",
        "cpu",
    )
    succeed(
        "compute_openclip_text_embeddings",
        data / "text_prompts.txt",
        data / "text_embeddings.npy",
        *teacher,
    )
    succeed(
        "distil_model_embeddings",
        "test_resnet",
        data / "images",
        data / "embeddings",
        data / "models" / "student",
        "--output_dim",
        DIM,
        "--image_size",
        32,
        "--num_epochs",
        2,
        "--batch_size",
        4,
        "--optimizer",
        "sgd",
        "--momentum",
        0.9,
        "--lr",
        1e-3,
        "--criterion",
        "huber",
        "--weight_decay",
        1e-4,
        "--num_workers",
        2,
        "--device",
        "cpu",
    )
    return data


def test_embeddings_are_one_raw_vector_an_image(data: Path, tiny_teacher) -> None:
    vectors = [np.load(path) for path in sorted((data / "embeddings").glob("*.npy"))]
    assert len(vectors) == 8
    assert all(vector.shape == (DIM,) and vector.dtype == np.float32 for vector in vectors)
    # Not normalised, as the older command wrote them.
    assert np.ptp([np.linalg.norm(vector) for vector in vectors]) > 0.01


def test_embeddings_are_kept_on_a_second_run(data: Path, tiny_teacher_name: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (data / "embeddings").glob("*.npy")}
    out = succeed(
        "compute_openclip_embeddings",
        data / "images",
        data / "embeddings",
        "--model_name",
        tiny_teacher_name,
    )
    assert "0 images embedded" in out
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_text_embeddings_have_a_row_a_prompt(data: Path) -> None:
    assert np.load(data / "text_embeddings.npy").shape == (len(PROMPTS), DIM)


def test_distil_writes_what_was_promised(data: Path) -> None:
    import torch

    out = data / "models" / "student"
    checkpoint = torch.load(out / "checkpoint.pth", weights_only=True)
    assert {"model", "optimizer", "epoch"} <= set(checkpoint)
    args = json.loads((out / "args.json").read_text())
    assert args["model_name"] == "test_resnet"
    assert (args["criterion"], args["optimizer"], args["num_epochs"]) == ("huber", "sgd", 2)
    assert list((out / "log").glob("events.*"))


def test_distil_checks_the_dimension_when_it_is_given(data: Path) -> None:
    done = run(
        "distil_model_embeddings",
        "test_resnet",
        data / "images",
        data / "embeddings",
        data / "models" / "wrong",
        "--output_dim",
        DIM + 1,
    )
    assert done.returncode == 5
    assert done.stderr.startswith("error: ")
    assert not (data / "models" / "wrong").exists()


def test_distil_starts_from_a_checkpoint(data: Path) -> None:
    succeed(
        "distil_model_embeddings",
        "test_resnet",
        data / "images",
        data / "embeddings",
        data / "models" / "second",
        "--image_size",
        32,
        "--num_epochs",
        1,
        "--batch_size",
        4,
        "--init_checkpoint",
        data / "models" / "student" / "checkpoint.pth",
    )
    assert (data / "models" / "second" / "checkpoint.pth").is_file()


def test_predict_ranks_every_prompt(data: Path) -> None:
    out = succeed(
        "predict_pytorch",
        "test_resnet",
        data / "models" / "student" / "checkpoint.pth",
        data / "text_embeddings.npy",
        data / "images" / "picture_0.png",
        "--image_size",
        32,
        "--text_prompts",
        data / "text_prompts.txt",
        "--device",
        "cpu",
    )
    assert all(prompt in out for prompt in PROMPTS)
    assert out.count("%") == len(PROMPTS)


@pytest.fixture(scope="module")
def older(tmp_path_factory, data: Path) -> Path:
    """What the older scripts themselves left behind: bare files that name no teacher."""
    import timm
    import torch

    folder = tmp_path_factory.mktemp("older")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=DIM)
    optimizer = torch.optim.Adam(model.parameters())
    state = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / "checkpoint.pth")
    vectors = np.random.default_rng(0).normal(size=(len(PROMPTS), DIM)).astype(np.float32)
    np.save(folder / "text_embeddings.npy", vectors)
    return folder


def test_predict_takes_older_files(data: Path, older: Path) -> None:
    out = succeed(
        "predict_pytorch",
        "test_resnet",
        older / "checkpoint.pth",
        older / "text_embeddings.npy",
        data / "images" / "picture_1.png",
        "--image_size",
        32,
        "--text_prompts",
        data / "text_prompts.txt",
    )
    assert all(prompt in out for prompt in PROMPTS)


def test_export_takes_older_and_newer_checkpoints(data: Path, older: Path, tmp_path: Path) -> None:
    import onnxruntime

    for index, checkpoint in enumerate((older, data / "models" / "student")):
        out = tmp_path / f"{index}.onnx"
        succeed(
            "export_onnx",
            "test_resnet",
            checkpoint / "checkpoint.pth",
            out,
            "--image_size",
            32,
            "--output_dim",
            DIM,
        )
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        pixels = np.zeros((2, 3, 32, 32), np.float32)
        assert session.run(None, {"input": pixels})[0].shape == (2, DIM)


def test_export_of_the_teacher(tmp_path: Path, tiny_teacher_name: str) -> None:
    out = tmp_path / "teacher.onnx"
    succeed("export_openclip_onnx", out, "--model_name", tiny_teacher_name)
    assert out.stat().st_size > 0


def test_wrong_options_are_refused_before_anything_runs() -> None:
    done = run("distil_model_embeddings", "test_resnet", "a", "b", "c", "--criterion", "cosine")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
