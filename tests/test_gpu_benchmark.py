"""make gpu: what it does where something is missing; its measurements need a GPU."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from clipdistill.core.errors import MissingExtraError

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(gpu, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    assert gpu.main() == 1
    text = capsys.readouterr().err
    assert text.startswith("There is no NVIDIA GPU that PyTorch ")
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_left_out_and_the_rest_is_measured(gpu, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    asked = {"device": "cpu", "out": tmp_path, "arch": "test_resnet", "image_size": 64}
    bench = gpu.Bench(argparse.Namespace(**asked, batch_size=4, steps=1))

    def missing(bench) -> None:
        """Part one."""
        raise MissingExtraError("a", "train", "This")

    def fails(bench) -> None:
        """Part two."""
        raise RuntimeError("CUDA out of memory")

    for part in (missing, fails, gpu.build_engines, gpu.run_steps):
        gpu.attempt(bench, part)
    assert bench.left_out[0].startswith("Part one: This needs the package 'a'")
    assert bench.left_out[1] == "Part two FAILED: RuntimeError: CUDA out of memory"
    assert bench.left_out[2].startswith("TensorRT engines: TensorRT is not installed")
    assert [row[:2] for row in bench.rows] == [
        ("training step", "fp32, eager"),
        ("training step", "bf16, eager"),
    ]
    text = gpu.write(bench).read_text()
    assert all(f"- {one}" in text for one in bench.left_out)
    assert "| training step | fp32, eager |" in text
