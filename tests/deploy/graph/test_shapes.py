"""Sizes that do not depend on the number of images are constants of an exported file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipdistill.core.metrics import cosines
from clipdistill.deploy.export import export
from clipdistill.deploy.graph.links import Graph, inferred_shapes
from clipdistill.deploy.graph.ranges import exact_session
from clipdistill.deploy.graph.shapes import ranks, settle_shapes
from clipdistill.deploy.lint import lint
from clipdistill.models.open import OnnxEmbedder, open_embedder

FAMILIES = {  # student -> side of its input in pixels
    "repvit_m0_9": 64,
    "test_vit": 32,
    "levit_128s": 224,
}


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_shape_of_every_layer_follows_from_the_file(
    arch: str, make_student, draw_pixels, tmp_path: Path
) -> None:
    size = FAMILIES[arch]
    student = make_student(tmp_path / "student", arch, size=size)
    result = export(str(student), tmp_path / "a.onnx")
    assert result.min_cosine >= 0.9999
    report = lint(tmp_path / "a.onnx", target="tensorrt")
    assert report.uncounted == 0
    assert report.macs > 1e6
    kinds = Counter(node.op_type for node in onnx.load(str(tmp_path / "a.onnx")).graph.node)
    assert kinds["Shape"] <= 2  # the number of images
    written, source = OnnxEmbedder(tmp_path / "a.onnx"), open_embedder(str(student))
    pixels = draw_pixels(5, size)
    for part in (pixels[:1], pixels):
        expected = source.embed_pixels(part)
        assert cosines(written.embed_pixels(part), expected).min() > 0.9999


def computed() -> Graph:
    """(N, 3, 4, 4) -> (N, 48) and (2N, 24), the targets computed; and a rank that is hidden."""
    nodes = [
        helper.make_node("Shape", ["input"], ["sides"]),
        helper.make_node("Gather", ["sides", "zero"], ["images"]),
        helper.make_node("Gather", ["sides", "two"], ["height"]),
        helper.make_node("Mul", ["height", "twelve"], ["rest"]),
        helper.make_node("Concat", ["images", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["input", "target"], ["flat"]),
        helper.make_node("Mul", ["images", "two"], ["twice"]),
        helper.make_node("Concat", ["twice", "any"], ["halves"], axis=0),
        helper.make_node("Reshape", ["flat", "halves"], ["out"]),
    ]
    values = {"zero": [0], "two": [2], "twelve": [12], "any": [-1]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return Graph(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_targets_keep_the_number_of_images_open() -> None:
    graph = computed()
    assert ranks(graph, ["input", "flat"], 4) == {"input": 4, "flat": 2}
    settle_shapes(graph, 4)
    assert [node.op_type for node in graph.nodes] == ["Reshape", "Reshape"]
    targets = [graph.array(node.input[1]) for node in graph.nodes]
    assert [list(map(int, target)) for target in targets if target is not None] == [
        [-1, 48],
        [-1, 24],
    ]
    assert inferred_shapes(graph.model)["out"] == (None, 24)
    pixels = np.arange(7 * 48, dtype=np.float32).reshape(7, 3, 4, 4)
    (after,) = exact_session(graph.model.SerializeToString()).run(["out"], {"input": pixels})
    np.testing.assert_array_equal(after, pixels.reshape(14, 24))
