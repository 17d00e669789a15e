"""The older scripts' --use_asp and --use_qat: what they make, and when they are not true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdistill.models.compression.sparsity import is_sparse
from older_scripts import run

pytest.importorskip("modelopt")
pytest.importorskip("requests")

PROMPTS = ("a red disc", "a green square", "a blue triangle")
FLAGS = {
    "dense": (),
    "asp": ("--use_asp",),
    "qat": ("--use_qat",),
    "both": ("--use_asp", "--use_qat"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, pictures) -> Path:
    """Pictures, the older scripts' embeddings, and a student of each kind in `models`."""
    data = tmp_path_factory.mktemp("data")
    paths = pictures(data / "images", 8)
    (data / "embeddings").mkdir()
    random = np.random.default_rng(0)
    for path in paths:
        np.save(data / "embeddings" / f"{path.stem}.npy", random.normal(size=16).astype("float32"))
    (data / "text_prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    np.save(data / "text.npy", random.normal(size=(3, 16)).astype("float32"))
    for kind, flags in FLAGS.items():
        start = ("--init_checkpoint", data / "models/dense/checkpoint.pth") if flags else ()
        done = run(
            "distil_model_embeddings",
            "test_resnet",
            data / "images",
            data / "embeddings",
            data / "models" / kind,
            "--image_size",
            32,
            "--num_epochs",
            1,
            "--batch_size",
            4,
            "--device",
            "cpu",
            *start,
            *flags,
        )
        assert done.returncode == 0, done.stderr
    return data


def predict(data: Path, kind: str, flags: tuple[str, ...]):
    return run(
        "predict_pytorch",
        "test_resnet",
        data / "models" / kind / "checkpoint.pth",
        data / "text.npy",
        data / "images/picture_0.png",
        "--image_size",
        32,
        "--text_prompts",
        data / "text_prompts.txt",
        "--device",
        "cpu",
        *flags,
    )


@pytest.mark.parametrize("kind", FLAGS)
def test_the_flags_make_what_they_say(data, kind):
    folder = data / "models" / kind
    state = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    assert is_sparse(state["layer1.0.conv1.weight"]) == (kind in ("asp", "both"))
    assert any(name.endswith("_amax") for name in state) == (kind in ("qat", "both"))
    args = json.loads((folder / "args.json").read_text())
    assert (args["use_asp"], args["use_qat"]) == (kind in ("asp", "both"), kind in ("qat", "both"))


@pytest.mark.parametrize("kind", FLAGS)
def test_predict_with_the_right_flags(data, kind):
    done = predict(data, kind, FLAGS[kind])
    assert done.returncode == 0, done.stderr
    assert all(prompt in done.stdout for prompt in PROMPTS)


@pytest.mark.parametrize(
    ("kind", "flags", "flag"),
    [
        ("dense", ("--use_asp",), ": leave --use_asp away"),
        ("dense", ("--use_qat",), ": leave --use_qat away"),
        ("asp", (), ": add --use_asp,"),
        ("asp", ("--use_qat",), ": add --use_asp and leave --use_qat away"),
        ("qat", (), ": add --use_qat,"),
        ("both", (), ": add --use_asp and add --use_qat"),
        ("both", ("--use_qat",), ": add --use_asp,"),
        ("both", ("--use_asp",), ": add --use_qat,"),
    ],
)
def test_a_flag_that_disagrees_with_the_checkpoint_names_both(data, kind, flags, flag):
    done = predict(data, kind, flags)
    assert done.returncode == 5
    said = " ".join(done.stderr.split())
    assert flag in said
    assert "checkpoint.pth" in said.replace(" ", "")


@pytest.mark.parametrize("flag", ["--use_asp", "--use_qat"])
def test_without_a_checkpoint_to_start_from(data, flag):
    done = run(
        "distil_model_embeddings",
        "test_resnet",
        data / "images",
        data / "embeddings",
        data / "models/none",
        "--image_size",
        32,
        flag,
    )
    assert done.returncode == 2
    assert "then add: --init_checkpoint STUDENT" in done.stderr
    assert done.stderr.startswith(f"error: {flag} starts")
