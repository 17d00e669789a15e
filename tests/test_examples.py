"""The examples run, and give what the program itself gives."""

from __future__ import annotations

import ast
import contextvars
import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from clipdistill.images.decode import decode
from clipdistill.images.preprocess import FILTERS, RESIZE_MODES, Preprocess
from clipdistill.pipeline.toy.world import KINDS, prompts, render
from clipdistill.show.pages.classes import classes_of
from clipdistill.show.pages.gather import gather
from clipdistill.show.pages.standing import shown_student
from clipdistill.show.predict import predict
from run_folders import assemble

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    render(photos, 24, seed=11, labelled=False)
    lines = [f"{kind}\t{prompt}\n" for kind, prompt in zip(KINDS, prompts(), strict=True)]
    (tmp_path / "prompts.txt").write_text("".join(lines))
    teacher = f"local-dir:{files('clipdistill.pipeline.toy') / 'toy_teacher'}"
    arguments = [photos, tmp_path / "prompts.txt", teacher, out]
    arguments += ["--student", "test_resnet", "--image-size", "32", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["own_photos.py", *map(str, arguments)])
    script = str(EXAMPLES / "own_photos.py")
    # In a context of its own: the way progress is shown stays in it.
    contextvars.copy_context().run(runpy.run_path, script, run_name="__main__")
    printed = capsys.readouterr().out
    assert "agreement with the teacher: " in printed
    (one,) = predict(str(out / "classifier.onnx"), str(photos / "000000.jpg")).predictions
    label, probability = one.ranked[0]
    assert f"000000.jpg: {label} ({probability:.0%})" in printed


@pytest.mark.parametrize("labelled", [True, False])
def test_look_at_a_run(
    labelled: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = assemble(tmp_path / "runs/quickstart", ("dog", "cat", "fish"), labelled=labelled)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "look_at_a_run.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    drawn = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    plt.close("all")
    assert len(drawn) == 4
    assert all(axes.has_data() for axes in drawn)
    run = gather(folder.out)
    wanted = classes_of(run, shown_student(run))
    assert wanted
    assert wanted.pairs
    confusions = names["confusions"]
    assert confusions == {(truth, answer): count for truth, answer, count in wanted.pairs}
    assert capsys.readouterr().out.count(" taken for ") == len(wanted.pairs)


def test_the_notebook_is_one() -> None:
    notebook = json.loads((EXAMPLES / "look_at_a_run.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    idents = [cell["id"] for cell in notebook["cells"]]
    assert len(set(idents)) == len(idents)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        more = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == keys | more


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    return load("read_classifier.py")


@pytest.fixture(scope="module")
def odd_images(
    tmp_path_factory: pytest.TempPathFactory, pictures: Callable[..., list[Path]]
) -> Path:
    """Images of several sizes, modes and orientations."""
    folder = tmp_path_factory.mktemp("images")
    plain = Image.open(pictures(folder, 1)[0]).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    plain.save(folder / "turned.jpg", exif=turned)
    plain.resize((400, 300), Image.Resampling.BICUBIC).save(folder / "large.jpg", quality=95)
    plain.resize((31, 200)).save(folder / "tall.png")
    plain.convert("L").save(folder / "grey.png")
    plain.quantize(16).save(folder / "palette.gif")
    clear = plain.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    return folder


def test_read_classifier_answers_as_predict(
    reader: ModuleType, odd_images: Path, tiny_classifier: Path
) -> None:
    classifier = reader.Classifier(str(tiny_classifier))
    found = predict(str(tiny_classifier), str(odd_images), top_k=4).predictions
    assert len(found) == len(list(odd_images.iterdir())) == 7
    for one in found:
        ranked = classifier(one.image)
        assert [label for label, _ in ranked] == [label for label, _ in one.ranked]
        shares = [share for _, share in ranked]
        assert shares == pytest.approx([share for _, share in one.ranked], abs=1e-3)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("interpolation", FILTERS)
def test_read_classifier_resizes_as_every_teacher_does(
    reader: ModuleType, odd_images: Path, mode: str, interpolation: str
) -> None:
    ours = Preprocess(48, interpolation=interpolation, resize_mode=mode, fill_color=99)
    for path in odd_images.iterdir():
        wanted = ours.to_pixels(decode(path.read_bytes(), at_least=48))
        pixels = reader.resize(reader.read(str(path), 48), ours.to_json())
        np.testing.assert_array_equal(np.asarray(pixels), wanted)
        values = reader.normalize(pixels, ours.to_json())
        np.testing.assert_allclose(values, ours.normalize(wanted[None]), atol=1e-5)


def test_read_classifier_knows_unknown(
    reader: ModuleType, tiny_classifier: Path, make_text: Callable, tmp_path: Path
) -> None:
    import dataclasses

    from clipdistill.core.zeroshot import Calibration, LogitScale
    from clipdistill.deploy.relabel import relabel
    from clipdistill.formats.text import load_text, save_text

    text = load_text(make_text(tmp_path / "text.npy"))
    fitted = Calibration(
        logits=LogitScale(5.0),
        threshold=0.4,
        method="labels",
        model="student",
        images=60,
        ece_before=0.2,
        ece_after=0.05,
        coverage=0.9,
    )
    save_text(tmp_path / "text.npy", dataclasses.replace(text, calibration=fitted))
    relabel(tiny_classifier, tmp_path / "text.npy", tmp_path / "calibrated.onnx")
    assert reader.Classifier(str(tiny_classifier)).threshold == 0
    assert reader.Classifier(str(tmp_path / "calibrated.onnx")).threshold == 0.4


def test_read_classifier_needs_nothing_else() -> None:
    tree = ast.parse((EXAMPLES / "read_classifier.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert len(names) == 3
    assert all(f"]({name})" in listed for name in names)
