"""Opening models: what MODEL may be, what is refused, and what is not imported."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import clipdistill
from clipdistill.core.errors import FormatError, InputError, MismatchError, ModelNotFoundError
from clipdistill.models.open import OnnxEmbedder, kind_of, open_embedder

Draw = Callable[..., np.ndarray]
SOURCES = str(Path(clipdistill.__path__[0]).parent)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_onnx_file_needs_nothing_heavy(tiny_classifier: Path) -> None:
    code = (
        "import sys, json, numpy\n"
        "from clipdistill.models.open import open_embedder\n"
        "import clipdistill.show.predict\n"
        "e = open_embedder(sys.argv[1])\n"
        "e.classify_pixels(numpy.zeros((1, 32, 32, 3), numpy.uint8))\n"
        "heavy = 'torch', 'torchvision', 'timm', 'open_clip', 'pyarrow', 'onnx', 'safetensors'\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = run_python(code, str(tiny_classifier))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_without_torch_the_extra_is_named(tiny_student: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # as if it were not installed
        "from clipdistill.core.errors import MissingExtraError\n"
        "from clipdistill.models.open import open_embedder\n"
        "for model in sys.argv[1], 'local-dir:somewhere':\n"
        "    try:\n"
        "        open_embedder(model)\n"
        "    except MissingExtraError as error:\n"
        "        print(error)"
    )
    done = run_python(code, str(tiny_student))
    assert done.stdout.count("pip install 'clipdistill[train]'") == 2, done.stderr


def test_student_folder_and_onnx_agree(
    tiny_student: Path, tiny_classifier: Path, draw_pixels: Draw
) -> None:
    torch_one, onnx_one = open_embedder(str(tiny_student)), open_embedder(str(tiny_classifier))
    assert (torch_one.spec.runtime, onnx_one.spec.runtime) == ("torch", "onnxruntime")
    assert onnx_one.spec.teacher == torch_one.spec.teacher
    assert onnx_one.spec.preprocess == torch_one.spec.preprocess
    mine, theirs = onnx_one.embed_pixels(draw_pixels(3)), torch_one.embed_pixels(draw_pixels(3))
    np.testing.assert_allclose(mine, theirs, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-5)
    assert np.abs(mine[0] - mine[1]).max() > 0.05  # the comparison is not trivial


def test_onnx_embedder_carries_its_classes(
    tiny_classifier: Path, tiny_bare_onnx: Path, draw_pixels: Draw, labels: tuple[str, ...]
) -> None:
    classifier = OnnxEmbedder(tiny_classifier)
    assert classifier.text is not None
    assert classifier.text.labels == labels
    scores = classifier.classify_pixels(draw_pixels(5))
    assert scores.shape == (5, len(labels))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    bare = OnnxEmbedder(tiny_bare_onnx)
    assert bare.text is None
    with pytest.raises(InputError, match="--text"):
        bare.classify_pixels(draw_pixels(1))


def test_wrong_picture_size(tiny_classifier: Path, draw_pixels: Draw) -> None:
    with pytest.raises(MismatchError, match=r"\(N, 3, 32, 32\)"):
        OnnxEmbedder(tiny_classifier).embed_pixels(draw_pixels(1, side=48))


def test_teachers(tiny_teacher_dir: Path, tiny_teacher_name: str) -> None:
    for name in (tiny_teacher_name, str(tiny_teacher_dir)):
        assert kind_of(name) == "teacher"
        assert open_embedder(name, device="cpu").spec.role == "teacher"


def test_teacher_names_are_checked() -> None:
    assert kind_of("ViT-B-32/laion2b_s34b_b79k") == "teacher"
    with pytest.raises(ModelNotFoundError, match="laion2b_s34b_b79k"):
        open_embedder("ViT-B-32/laion2b_s34b_b79")
    with pytest.raises(ModelNotFoundError, match="ViT-B-32/PRETRAINED"):
        open_embedder("ViT-B-32")
    with pytest.raises(InputError, match="Did you mean ViT-B-32/openai"):
        open_embedder("vit-b-32/openai")


@pytest.mark.parametrize("model", ["nothing", "cat.jpg", "runs/student", "."])
def test_no_model_there(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="MODEL may be"):
        open_embedder(model)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.pth", "a.pt"):
        with pytest.raises(InputError, match="no such"):
            open_embedder(str(tmp_path / name))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_onnx(tiny_classifier: Path, tmp_path: Path, keep: float) -> None:
    data = tiny_classifier.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(FormatError, match=r"cut\.onnx") as caught:
        open_embedder(str(cut))
    assert "\n" not in str(caught.value)


def test_random_bytes_as_onnx(tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(FormatError, match="truncated or of another kind"):
        open_embedder(str(path))


def test_somebody_elses_onnx(tmp_path: Path) -> None:
    shape = ["N", 3, 32, 32]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"])],
        "foreign",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "foreign.onnx"
    onnx.save(model, str(path))
    with pytest.raises(FormatError, match="clipdistill export"):
        open_embedder(str(path))


def test_metadata_of_another_network(tiny_classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_classifier))
    for entry in model.metadata_props:
        if entry.key == "clipdistill.card":
            card = json.loads(entry.value)
            card["preprocess"]["size"] = 64
            entry.value = json.dumps(card)
    path = tmp_path / "mixed.onnx"
    onnx.save(model, str(path))
    with pytest.raises(FormatError, match="does not fit its metadata"):
        open_embedder(str(path))


def test_a_file_over_two_gib(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with open(path, "wb") as handle:
        handle.truncate(2**31)  # sparse
    with pytest.raises(FormatError, match="2 GiB"):
        open_embedder(str(path))


def test_a_device_that_is_not_there(tiny_classifier: Path, tiny_student: Path) -> None:
    for model in (tiny_classifier, tiny_student):
        with pytest.raises(InputError, match="--device cpu"):
            open_embedder(str(model), device="warp9")


class _Session:
    """A session of ONNX Runtime that starts only the providers in `starts`."""

    starts: tuple[str, ...] = ()
    asked: tuple[tuple[str, dict[str, str]], ...] = ()

    def __init__(self, path: str, options: object, providers: list) -> None:
        type(self).asked = tuple(providers)
        self.real = _REAL_SESSION(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.asked if name in self.starts]

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


_REAL_SESSION = onnxruntime.InferenceSession
_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("device", "chain", "number"),
    [
        ("cuda", _GPU[1:], "0"),
        ("cuda:1", _GPU[1:], "1"),
        ("tensorrt", _GPU, "0"),
        ("tensorrt:2", _GPU, "2"),
    ],
)
def test_providers_of_onnx_runtime(
    device: str,
    chain: tuple[str, ...],
    number: str,
    tiny_classifier: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(_GPU))
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Session)
    monkeypatch.setattr(_Session, "starts", _GPU)
    assert OnnxEmbedder(tiny_classifier, device=device).spec.device == device
    assert tuple(name for name, _ in _Session.asked) == chain
    assert _Session.asked[0][1] == {"device_id": number}
    # A provider that is installed but cannot start: ONNX Runtime would run on the CPU, silently.
    monkeypatch.setattr(_Session, "starts", _GPU[2:])
    with pytest.raises(InputError, match="did not start"):
        OnnxEmbedder(tiny_classifier, device=device)


def test_runtimes_stand_before_the_model(
    tiny_classifier: Path, tiny_student: Path, draw_pixels: Draw
) -> None:
    for model, runtime in ((tiny_classifier, "onnxruntime"), (tiny_student, "torch")):
        named = open_embedder(f"{runtime}:{model}", threads=1)
        assert named.spec.runtime == runtime
        assert named.spec.arch == "test_resnet"
        assert named.spec.precision == "fp32"
        assert kind_of(f"{runtime}:{model}") == kind_of(str(model))
        alone = open_embedder(str(model)).embed_pixels(draw_pixels(2))
        np.testing.assert_allclose(named.embed_pixels(draw_pixels(2)), alone, atol=1e-5)
    with pytest.raises(InputError, match=r"cannot run this file; onnxruntime or openvino can"):
        open_embedder(f"torch:{tiny_classifier}")


def test_older_checkpoint(tiny_student: Path, tmp_path: Path, draw_pixels: Draw) -> None:
    from clipdistill.formats.student import load_weights

    path = tmp_path / "checkpoint.pth"
    weights = load_weights(tiny_student / "model.safetensors")
    torch.save({"model": weights, "optimizer": {"state": {}}, "epoch": 3}, path)
    with pytest.raises(InputError, match="--arch"):
        open_embedder(str(path))
    with pytest.raises(ModelNotFoundError, match="Did you mean"):
        open_embedder(str(path), arch="test_resnett")
    with pytest.raises(MismatchError, match="another architecture"):
        open_embedder(str(path), arch="test_efficientnet")
    embedder = open_embedder(str(path), arch="test_resnet", image_size=32)
    assert embedder.spec.teacher is None
    assert embedder.embed_pixels(draw_pixels(2)).shape == (2, 16)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize("kind", ["pickle", "torch", "truncated", "text"])
def test_bad_checkpoints(
    kind: str, tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"model": _Evil()}, protocol=2))
    elif kind == "torch":
        torch.save({"model": _Evil()}, path)
    elif kind == "truncated":
        torch.save({"model": {"weight": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:2000])
    else:
        path.write_text("not a checkpoint")
    with pytest.raises(FormatError, match=r"bad\.pth"):
        open_embedder(str(path), arch="test_resnet")
    assert not (tmp_path / "evil-was-here").exists()


def test_unfinished_and_damaged_students(tiny_student: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "student"
    shutil.copytree(tiny_student, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(FormatError, match="damaged or was replaced"):
        open_embedder(str(folder))
    (folder / "student.json").unlink()
    torch.save({"model": {}}, folder / "checkpoint.pth")
    with pytest.raises(InputError, match="not finished"):
        open_embedder(str(folder))
