"""TensorRT without TensorRT: building and running on a strict stand-in, version by version."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from clipdistill.core.errors import (
    ClipDistillError,
    FormatError,
    InputError,
    MismatchError,
    MissingExtraError,
)
from clipdistill.deploy.engine import EngineOptions, EngineResult, engine
from clipdistill.deploy.tensorrt_build import read_engaged, version_of
from clipdistill.formats.engine import card_path, load_engine_card
from clipdistill.measure.evaluate import evaluate
from clipdistill.models.open import OnnxEmbedder, kind_of, open_embedder
from clipdistill.models.runtimes.cuda_memory import TorchMemory, open_memory
from clipdistill.show.predict import predict
from fake_tensorrt import VERSIONS, Gpu, fake_tensorrt, install_cuda


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture(params=VERSIONS)
def trt(request, gpu: Gpu, monkeypatch: pytest.MonkeyPatch):
    """The fake of one version, installed with a fake cuda-python."""
    module = fake_tensorrt(request.param, gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    install_cuda(monkeypatch, gpu)
    return module


@pytest.fixture
def newest(gpu: Gpu, monkeypatch: pytest.MonkeyPatch):
    module = fake_tensorrt(VERSIONS[-1], gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    install_cuda(monkeypatch, gpu)
    return module


@pytest.fixture(scope="module")
def quantized(
    tiny_student: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny student with Q/DQ around its input, as a stand-in for an INT8 one."""
    from onnx import helper, numpy_helper

    from clipdistill.deploy.export import export

    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    export(str(tiny_student), path, text=tiny_text, target="tensorrt")
    model = onnx.load(str(path))
    graph = model.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(0.02), "q/scale"),
            numpy_helper.from_array(np.int8(0), "q/zero"),
        ]
    )
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "input":
                node.input[index] = "q/out"
    graph.node.insert(0, helper.make_node("QuantizeLinear", ["input", "q/scale", "q/zero"], ["q"]))
    graph.node.insert(
        1, helper.make_node("DequantizeLinear", ["q", "q/scale", "q/zero"], ["q/out"])
    )
    onnx.save(model, str(path))
    return path


def build(source: Path, out: Path, **options) -> EngineResult:
    result = engine(source, out, options=EngineOptions(**options))
    assert isinstance(result, EngineResult)
    return result


def test_every_version_builds_and_runs(
    trt, tiny_classifier: Path, tmp_path: Path, draw_pixels, labels
) -> None:
    result = build(tiny_classifier, tmp_path / "a.engine", batch="1,2,4")
    assert result.tensorrt == trt.__version__
    assert result.min_cosine > 0.9999
    typed = version_of(trt.__version__) >= (10, 12)
    assert result.strongly_typed == typed
    assert trt.seen["flags"] == []
    flags = {"8.6.1": 1, "10.0.1": 0, "10.12.0.36": 2, "11.0.0.114": 0}
    assert trt.seen["network_flags"] == flags[trt.__version__]
    (profile,) = trt.seen["profiles"]
    assert profile == ("input", (1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))
    embedder = open_embedder(str(tmp_path / "a.engine"))
    assert (embedder.spec.runtime, embedder.spec.precision) == ("tensorrt", "fp32")
    pixels = draw_pixels(11)  # three executions: 4, 4, 3
    expected = OnnxEmbedder(tiny_classifier)
    np.testing.assert_allclose(
        embedder.embed_pixels(pixels), expected.embed_pixels(pixels), atol=1e-6
    )
    np.testing.assert_allclose(
        embedder.classify_pixels(pixels), expected.classify_pixels(pixels), atol=1e-6
    )
    assert embedder.text.labels == labels
    assert embedder.embed_pixels(pixels[:0]).shape == (0, 16)


def test_int8_takes_flags_only_where_they_exist(trt, quantized: Path, tmp_path: Path) -> None:
    result = build(quantized, tmp_path / "a.engine")
    old = version_of(trt.__version__) < (10, 12)
    assert trt.seen["flags"] == (["INT8"] if old else [])
    assert result.precision == "int8"
    assert result.int8_layers == ("conv1 + relu1", "conv2", "head")
    text = "\n".join(str(part) for part in result.summary())
    assert "INT8 engaged in 3 of 4 layers" in text
    assert "conv1 + relu1" in text


def test_sparsity_is_what_the_log_says(trt, tiny_classifier: Path, tmp_path: Path) -> None:
    result = build(tiny_classifier, tmp_path / "a.engine", sparse=True)
    assert trt.seen["flags"] == ["SPARSE_WEIGHTS"]
    assert result.sparse_layers == ("conv2",)
    assert result.eligible == 2
    assert result.int8_layers == ()
    text = "\n".join(str(part) for part in result.summary())
    assert "2:4 sparsity engaged in 1 layer " in text
    assert "TensorRT found 2 layers eligible" in text


def test_workspace_cache_and_compatibility(trt, tiny_classifier: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    build(tiny_classifier, tmp_path / "a.engine", workspace=64, timing_cache=cache, any_gpu=True)
    assert trt.seen["pools"] == {"WORKSPACE": 64 << 20}
    assert cache.read_bytes() == b"+measured"
    build(tiny_classifier, tmp_path / "b.engine", timing_cache=cache)
    assert trt.seen["caches"] == [b"", b"+measured"]
    cache.write_bytes(b"another machine's")
    build(tiny_classifier, tmp_path / "b.engine", timing_cache=cache)
    assert trt.seen["caches"][2:] == [b"another machine's", b""]
    assert load_engine_card(tmp_path / "a.engine").any_gpu


def test_a_fixed_batch_is_filled_up(
    newest, tiny_classifier: Path, tmp_path: Path, draw_pixels
) -> None:
    build(tiny_classifier, tmp_path / "a.engine", batch="4")
    embedder = open_embedder(f"tensorrt:{tmp_path / 'a.engine'}", device="cuda:0")
    expected = OnnxEmbedder(tiny_classifier).embed_pixels(draw_pixels(5))
    np.testing.assert_allclose(embedder.embed_pixels(draw_pixels(5)), expected, atol=1e-6)


def test_buffers_are_kept_and_grow(
    newest, gpu: Gpu, tiny_classifier: Path, tmp_path: Path, draw_pixels
) -> None:
    build(tiny_classifier, tmp_path / "a.engine")
    embedder = open_embedder(str(tmp_path / "a.engine"))
    embedder.embed_pixels(draw_pixels(1))
    embedder.embed_pixels(draw_pixels(4))
    gpu.calls.clear()
    for count in (1, 2, 4):
        embedder.embed_pixels(draw_pixels(count))
    assert "cudaMalloc" not in gpu.calls
    assert gpu.calls.count("cudaMemcpyAsync") == 6  # one up, one down each


def test_the_older_cuda_python(
    newest, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path, tmp_path: Path
) -> None:
    install_cuda(monkeypatch, gpu, legacy=True)
    assert build(tiny_classifier, tmp_path / "a.engine").gpu.name == "Orin"


def test_without_cuda_python_torch_provides_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch finds 0 GPU"):
            open_memory("cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"clipdistill\[tensorrt\]"):
        open_memory("auto")


def test_predict_and_evaluate_take_an_engine(
    newest, tiny_classifier: Path, pictures, tmp_path: Path
) -> None:
    path = tmp_path / "a.engine"
    build(tiny_classifier, path)
    photos = pictures(tmp_path / "photos", 3)
    mine = predict(str(path), *map(str, photos)).predictions
    theirs = predict(str(tiny_classifier), *map(str, photos)).predictions
    assert [one.ranked[0][0] for one in mine] == [one.ranked[0][0] for one in theirs]
    rows = evaluate(str(path), str(tiny_classifier), images=tmp_path / "photos").rows
    assert [row.runtime for row in rows] == ["tensorrt", "onnxruntime"]
    assert rows[0].counts == rows[1].counts


def test_no_torch_for_an_engine(tiny_classifier: Path, tmp_path: Path) -> None:
    """In a process of its own: TensorRT and cuda-python are there, torch is not imported."""
    import os
    import subprocess

    code = (
        "import sys, pathlib, numpy\n"
        "import pytest, fake_tensorrt as fake\n"
        "gpu = fake.Gpu()\n"
        "patch = pytest.MonkeyPatch()\n"
        "sys.modules['tensorrt'] = fake.fake_tensorrt('10.3.0', gpu)\n"
        "fake.install_cuda(patch, gpu)\n"
        "from clipdistill.deploy.engine import engine\n"
        "from clipdistill.models.open import open_embedder\n"
        "source, out = map(pathlib.Path, sys.argv[1:])\n"
        "engine(source, out)\n"
        "open_embedder(str(out)).classify_pixels(numpy.zeros((1, 32, 32, 3), numpy.uint8))\n"
        "print([n for n in ('torch', 'onnx', 'pyarrow', 'matplotlib') if n in sys.modules])"
    )
    source = Path(sys.modules["clipdistill"].__path__[0]).parent
    paths = os.pathsep.join([str(source), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_classifier), str(tmp_path / "a.engine")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_card(newest, tiny_classifier: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    build(tiny_classifier, path)
    value = json.loads(card_path(path).read_text())
    assert value["format"] == "clipdistill.engine"
    assert value["gpu"] == {"name": "Orin", "capability": "8.7"}
    assert value["onnx"]["clipdistill.format"] == "clipdistill.onnx"
    card = load_engine_card(path)
    source = OnnxEmbedder(tiny_classifier).card
    assert card.onnx.teacher == source.teacher
    assert card.onnx.preprocess == source.preprocess
    assert card.batch == (1, 8, 32)


def test_only_with_its_card(newest, tiny_classifier: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    assert kind_of(str(path)) == "engine"
    with pytest.raises(InputError, match="clipdistill engine"):
        open_embedder(str(path))
    build(tiny_classifier, path)
    before = newest.seen["deserialized"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(FormatError, match="damaged or was replaced"):
        open_embedder(str(path))
    path.unlink()
    with pytest.raises(InputError, match="no such engine"):
        open_embedder(str(path))
    path.write_bytes(whole)
    kept = card_path(path).read_text()
    for damage in ("", "{}", kept[:-40], kept.replace('"clipdistill.engine"', '"other"')):
        card_path(path).write_text(damage)
        with pytest.raises(FormatError, match=r"a\.engine\.json"):
            open_embedder(str(path))
    card_path(path).write_text(kept.replace('"version": 1', '"version": 2', 1))
    with pytest.raises(FormatError, match="newer"):
        open_embedder(str(path))
    card_path(path).unlink()
    with pytest.raises(InputError, match="card of the engine is missing"):
        open_embedder(str(path))
    assert newest.seen["deserialized"] == before  # TensorRT saw none of these


def test_every_missing_field_of_a_card_is_named(
    newest, tiny_classifier: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.engine"
    build(tiny_classifier, path)
    whole = json.loads(card_path(path).read_text())
    for name in set(whole) - {"format", "version"}:
        for value in (None, [], 3, "?"):
            card_path(path).write_text(json.dumps({**whole, name: value}))
            with contextlib.suppress(ClipDistillError):
                open_embedder(str(path))
        card_path(path).write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(FormatError, match="card cannot be read"):
            open_embedder(str(path))


def test_another_version_or_gpu_is_explained(
    newest, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.engine"
    build(tiny_classifier, path)
    gpu.name, gpu.minor = b"NVIDIA RTX A2000", 6
    with pytest.raises(MismatchError, match=r"built for a Orin.*NVIDIA RTX A2000 \(8\.6\)"):
        open_embedder(str(path))
    build(tiny_classifier, tmp_path / "b.engine", any_gpu=True)
    gpu.name, gpu.major, gpu.minor = b"NVIDIA H100", 9, 0
    open_embedder(str(tmp_path / "b.engine"))
    gpu.name, gpu.major, gpu.minor = b"Tesla T4", 7, 5
    with pytest.raises(MismatchError, match="Ampere GPUs and newer"):
        open_embedder(str(tmp_path / "b.engine"))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("10.3.0", gpu))
    with pytest.raises(MismatchError, match=r"TensorRT 11\.0\.0\.114, but this machine has 10\.3"):
        open_embedder(str(path))


def test_devices(newest, gpu: Gpu, tiny_classifier: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    build(tiny_classifier, path)
    for device in ("cpu", "warp9", "cuda:x"):
        with pytest.raises(InputError, match="NVIDIA's GPUs only"):
            open_embedder(str(path), device=device)
    with pytest.raises(InputError, match=r"cuda:3 does not exist"):
        open_embedder(str(path), device="cuda:3")
    gpu.count = 0
    with pytest.raises(InputError, match="cudaErrorNoDevice"):
        open_embedder(str(path))
    gpu.driver = False
    with pytest.raises(InputError, match=r"CUDA cannot be used here: .*Failed to dlopen libcuda"):
        open_embedder(str(path))


def test_a_tensorrt_that_cannot_start(
    newest, gpu: Gpu, tiny_classifier: Path, tmp_path: Path
) -> None:
    gpu.supported = False
    with pytest.raises(InputError, match=r"TensorRT 11.* cannot start here .*nullptr.*nvidia-smi"):
        build(tiny_classifier, tmp_path / "a.engine")
    assert list(tmp_path.iterdir()) == []


def test_without_tensorrt(
    monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"clipdistill\[tensorrt\]"):
        build(tiny_classifier, tmp_path / "a.engine")
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_runtime(tiny_classifier: Path, tiny_student: Path) -> None:
    with pytest.raises(InputError, match="clipdistill engine"):
        open_embedder(f"tensorrt:{tiny_classifier}")
    with pytest.raises(InputError, match="clipdistill export"):
        open_embedder(f"tensorrt:{tiny_student}")


def test_an_engine_of_another_network_is_not_kept(
    newest,
    monkeypatch: pytest.MonkeyPatch,
    tiny_classifier: Path,
    make_student,
    tiny_text: Path,
    tmp_path: Path,
) -> None:
    from clipdistill.deploy.export import export

    other = tmp_path / "other.onnx"
    export(str(make_student(tmp_path / "student", seed=9)), other, text=tiny_text)
    real = Path.read_bytes

    def swapped(path: Path) -> bytes:
        return real(other if path.name == "classifier.onnx" else path)

    monkeypatch.setattr(Path, "read_bytes", swapped)
    with pytest.raises(ClipDistillError, match=r"differ from ONNX Runtime's.*not kept"):
        build(tiny_classifier, tmp_path / "a.engine")
    assert not (tmp_path / "a.engine").exists()


def test_onnx_runtimes_form_of_int8(newest, quantized: Path, tmp_path: Path) -> None:
    model = onnx.load(str(quantized))
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"target":"tensorrt"', '"target":"onnxruntime"')
    onnx.save(model, str(tmp_path / "ort.onnx"))
    with pytest.raises(InputError, match="--target tensorrt"):
        build(tmp_path / "ort.onnx", tmp_path / "a.engine")


def test_what_tensorrt_cannot_read(newest, tiny_classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_classifier))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    with pytest.raises(FormatError, match="No importer registered"):
        build(tmp_path / "odd.onnx", tmp_path / "a.engine")


def test_a_failed_build_says_the_builders_reason(
    newest, monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path, tmp_path: Path
) -> None:
    import fake_tensorrt as fake

    monkeypatch.setattr(fake, "_refusal", lambda *_: "Could not find any implementation for node")
    with pytest.raises(ClipDistillError, match="Could not find any implementation"):
        build(tiny_classifier, tmp_path / "a.engine")


def test_an_old_card_does_not_outlive_its_engine(
    newest, monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path, tmp_path: Path
) -> None:
    """A writer that is killed between engine and card leaves an engine that is not loaded."""
    from clipdistill.formats import engine as formats

    path = tmp_path / "a.engine"
    build(tiny_classifier, path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        build(tiny_classifier, path, batch="2")
    with pytest.raises(InputError, match="card of the engine is missing"):
        open_embedder(str(path))


def test_reading_the_log() -> None:
    new = "(Sparsity) Found 39 layer(s) eligible to use sparse tactics"
    none = "(Sparsity) Chose 0 layer(s) using sparse tactics"
    engaged = read_engaged(["a", "b"], [new, none], detailed=True)
    assert (engaged.eligible, engaged.sparse, engaged.layers) == (39, (), 2)
    assert not engaged.detailed  # names only
    empty = "(Sparsity) Layers eligible for sparse math:"
    engaged = read_engaged([], [empty], detailed=True)
    assert (engaged.eligible, engaged.sparse) == (0, ())
    unnamed = "(Sparsity) Chose 2 layer(s) using sparse tactics"
    assert len(read_engaged([], [unnamed], detailed=True).sparse) == 2
    assert read_engaged([], [], detailed=False).eligible is None


def test_int8_by_weights_then_tactic_then_inputs() -> None:
    def layer(name: str, **more: object) -> dict[str, object]:
        return {"Name": name, "LayerType": "CaskConvolution", **more}

    both = [{"Format/Datatype": "Int8"}, {"Format/Datatype": "Int8"}]
    layers = [
        layer("quantised input only", Weights={"Type": "Float"}, Inputs=both),
        layer("weights", Weights={"Type": "Int8"}),
        layer("tactic", TacticName="sm80_xmma_gemm_i8i8_i8i32_f32"),
        layer("inputs", Inputs=both),
        layer("one input", Inputs=[both[0], {"Format/Datatype": "Half"}]),
        {"Name": "pooling", "LayerType": "CaskPooling", "Inputs": both},
    ]
    assert read_engaged(layers, [], detailed=True).int8 == ("weights", "tactic", "inputs")


@pytest.mark.gpu
def test_on_a_real_gpu(tiny_classifier: Path, tmp_path: Path, draw_pixels) -> None:
    """The real thing, where it is: builds, reloads, and agrees with ONNX Runtime."""
    pytest.importorskip("tensorrt")
    try:
        open_memory("cuda")
    except ClipDistillError as error:
        pytest.skip(str(error))
    path = tmp_path / "a.engine"
    result = build(tiny_classifier, path, batch="1,2,4", sparse=True)
    assert result.layers > 0
    embedder, expected = open_embedder(str(path)), OnnxEmbedder(tiny_classifier)
    pixels = draw_pixels(7)
    np.testing.assert_allclose(
        embedder.embed_pixels(pixels), expected.embed_pixels(pixels), atol=5e-3
    )
    copy = tmp_path / "copy.engine"
    shutil.copy(path, copy)
    with pytest.raises(InputError, match="card of the engine is missing"):
        open_embedder(str(copy))


@pytest.mark.gpu
def test_torch_memory_on_a_real_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    memory = TorchMemory(0)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    memory.buffer("x", values.nbytes)
    memory.upload("x", values)
    back = np.empty_like(values)
    memory.download("x", back)
    np.testing.assert_array_equal(back, values)
