"""export_onnx.py --use_asp, --use_qat: the file they give, and flags that are not true."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipdistill.formats.cards import StudentCard
from clipdistill.formats.student import load_card, load_weights
from clipdistill.models.open import OnnxEmbedder

pytest.importorskip("modelopt")
pytest.importorskip("requests")

from int8_students import compress  # needs the extra `compress`
from older_scripts import run


def export(*args: object) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    done = run("export_onnx", *args)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkpoints(make_student, tmp_path_factory) -> dict[str, Path]:
    """Checkpoints as distill leaves them: kind -> path."""
    folder = tmp_path_factory.mktemp("models")
    made = {"dense": make_student(folder / "dense")}
    made["asp"] = compress(make_student(folder / "a"), folder / "asp", sparse=True, int8=False)
    made["both"] = compress(make_student(folder / "b"), folder / "both", sparse=True)
    found = {}
    for kind, student in made.items():
        card: StudentCard = load_card(student)
        found[kind] = student / "checkpoint.pth"
        weights = load_weights(student / "model.safetensors")
        torch.save({"model": weights, "epoch": 0, "card": card.to_json()}, found[kind])
    return found


@pytest.mark.parametrize(
    ("kind", "flags", "target", "precision"),
    [
        ("dense", (), "onnxruntime", "fp32"),
        ("asp", ("--use_asp",), "tensorrt", "fp32"),
        ("both", ("--use_asp", "--use_qat"), "tensorrt", "int8"),
        ("both", ("--use_asp", "--use_qat", "--target", "onnxruntime"), "onnxruntime", "int8"),
    ],
)
def test_flags_that_are_true(
    kind: str, flags: tuple[str, ...], target: str, precision: str, checkpoints, tmp_path: Path
) -> None:
    out = tmp_path / "onnx" / "a.onnx"
    code, said = export("test_resnet", checkpoints[kind], out, "--image_size", 32, *flags)
    assert code == 0, said
    card = OnnxEmbedder(out).card
    assert (card.target, card.precision) == (target, precision)


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("dense", ("--use_qat",), "--use_qat"),
        ("dense", ("--use_asp",), "--use_asp"),
        ("both", ("--use_asp",), "--use_qat"),
        ("both", (), "--use_"),
    ],
)
def test_flags_that_are_not(
    kind: str, flags: tuple[str, ...], message: str, checkpoints, tmp_path: Path
) -> None:
    code, said = export(
        "test_resnet", checkpoints[kind], tmp_path / "a.onnx", "--image_size", 32, *flags
    )
    assert code != 0
    assert message in said
    assert "checkpoint.pth" in said
    assert not (tmp_path / "a.onnx").exists()
