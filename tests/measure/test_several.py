"""evaluate where an image may have several labels or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.errors import InputError, OptionError
from clipdistill.core.results import to_json
from clipdistill.core.zeroshot import probabilities
from clipdistill.deploy.relabel import relabel
from clipdistill.formats.measurements import Evaluation, load_measurement, save_measurement
from clipdistill.formats.text import load_text
from clipdistill.measure.evaluate import evaluate
from clipdistill.measure.several import several_labels
from clipdistill.models.open import OnnxEmbedder
from clipdistill.show.predict import predict
from conftest import LABELS

COUNT = 30


@pytest.fixture
def photos(tmp_path: Path, pictures) -> Path:
    """Drawn images, and `labels.csv` with two labels, one or none of each."""
    folder = tmp_path / "photos"
    paths = pictures(folder, COUNT)
    lines = ["image_path,labels"]
    for index, path in enumerate(paths):
        some = [LABELS[index % 3], LABELS[(index // 3) % 4]][: index % 3]
        lines.append(f"{path.name},{';'.join(some)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_every_label_is_scored(photos: Path, independent_classifier: Path) -> None:
    result = evaluate(str(independent_classifier), labelled=photos / "labels.csv")
    (row,) = result.rows
    found = row.several
    assert found is not None
    predicted = {
        Path(one.image).name: set(one.labels)
        for one in predict(str(independent_classifier), str(photos)).predictions
    }
    table = dict(line.split(",") for line in (photos / "labels.csv").read_text().splitlines()[1:])
    truth = {name: set(filter(None, some.split(";"))) for name, some in table.items()}
    for label, scores in found.per_label.items():
        given = {name for name, some in predicted.items() if label in some}
        there = {name for name, some in truth.items() if label in some}
        assert (scores.given, scores.images) == (len(given), len(there))
        assert row.counts[label] == len(given)
        both = len(given & there)
        assert scores.precision == (pytest.approx(both / len(given)) if given else None)
        assert scores.recall == (pytest.approx(both / len(there)) if there else None)
    assert found.per_label["red disc"].threshold == 0.5
    assert found.exact == pytest.approx(np.mean([predicted[n] == truth[n] for n in truth]))
    assert 0 <= found.none <= 1
    assert row.confusion == []
    text = "\n".join(part.text() for part in result.summary() if not isinstance(part, str))
    assert "mAP" in text
    assert "average precision" in text
    save_measurement(photos / "evaluation.json", result)
    again = load_measurement(photos / "evaluation.json", Evaluation)
    assert again.rows[0].several == found
    json.dumps(to_json(result), allow_nan=False)


def test_folders_and_single_labels_are_measured_as_before(
    photos: Path, tiny_classifier: Path, independent_classifier: Path, tmp_path: Path
) -> None:
    """A folder per class scores every label of independent classes, and only of those."""
    for label in LABELS:
        (tmp_path / "by-class" / label).mkdir(parents=True)
        for index in range(3):
            shutil.copy(photos / f"picture_{index}.png", tmp_path / "by-class" / label)
    single = evaluate(str(tiny_classifier), labelled=tmp_path / "by-class").rows[0]
    several = evaluate(str(independent_classifier), labelled=tmp_path / "by-class").rows[0]
    assert single.several is None
    assert several.several is not None
    assert [one.images for one in several.several.per_label.values()] == [3] * 4
    assert several.confusion
    # Classes of which an image has one are scored on a table by the one they give.
    other = evaluate(str(tiny_classifier), labelled=photos / "labels.csv").rows[0].several
    assert sum(one.given for one in other.per_label.values()) == COUNT


def test_calibrating_to_labels_chooses_thresholds(
    photos: Path, tiny_bare_onnx: Path, independent_text: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.npy"
    for ending in (".npy", ".json"):
        shutil.copy(independent_text.with_suffix(ending), text.with_suffix(ending))
    classifier = tmp_path / "classifier.onnx"
    relabel(tiny_bare_onnx, text, classifier)
    result = evaluate(str(classifier), labelled=photos / "labels.csv", text=text, calibrate=True)
    fitted = load_text(text)
    assert fitted.calibration.method == fitted.calibration.independent.method == "labels"
    assert fitted.calibration.images == COUNT
    assert fitted.calibration.independent.source == "photos"
    assert fitted.independent == load_text(independent_text).independent  # the teacher's stays
    assert result.calibration == fitted.calibration
    assert 0 <= result.calibration.ece_after <= 1
    after = OnnxEmbedder(classifier)
    assert after.text.logits == fitted.calibration.independent
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    expected = probabilities(after.embed_pixels(pixels), fitted.vectors, fitted.logits)
    np.testing.assert_allclose(after.classify_pixels(pixels), expected, atol=1e-5)
    assert any("get no label" in line for line in result.summary() if isinstance(line, str))


def test_calibrating_to_the_teacher_needs_no_labels(
    photos: Path, tiny_student: Path, tiny_teacher_name, independent_text: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.npy"
    for ending in (".npy", ".json"):
        shutil.copy(independent_text.with_suffix(ending), text.with_suffix(ending))
    result = evaluate(
        tiny_teacher_name, str(tiny_student), images=photos, text=text, calibrate=True
    )
    found = result.calibration
    assert (found.method, found.independent.thresholds) == ("teacher", (0.5, 0.6, 0.4, 0.9))
    assert found.ece_after <= found.ece_before + 0.05
    assert load_text(text).teacher_logits == load_text(independent_text).independent


def test_bad_tables_and_options_get_a_sentence(
    photos: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    model = str(tiny_classifier)
    with pytest.raises(OptionError, match=r"several labels or none.*adapt TEXT"):
        evaluate(model, labelled=photos / "labels.csv", calibrate=True)
    table = photos / "other.csv"
    table.write_text("image_path,labels\npicture_0.png,red disk\n")
    with pytest.raises(InputError, match=r"'red disk' .of picture_0.*Did you mean red disc"):
        evaluate(model, labelled=table)
    table.write_text("image_path,labels\nnowhere.png,\npicture_0.png,\n")
    with pytest.raises(InputError, match=r"nowhere.png is no image .*1 of 2 images.*--images"):
        evaluate(model, labelled=table)
    shutil.copy(photos / "labels.csv", tmp_path / "labels.csv")
    assert evaluate(model, labelled=tmp_path / "labels.csv", images=photos).images == COUNT
    with pytest.raises(OptionError, match="exclude each other"):
        evaluate(model, labelled=photos, images=photos)


def test_golden_scores() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    scores = np.array([[0.9, 0.2], [0.4, 0.8], [0.6, 0.1], [0.1, 0.3]], np.float32)
    found = several_labels(scores, scores >= 0.5, truth, ("a", "b"), np.array([0.5, 0.5]))
    a, b = found.per_label.values()
    assert (a.precision, a.recall, a.f1) == (0.5, 0.5, 0.5)
    assert (b.precision, b.recall, b.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert a.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert b.average_precision == 1
    assert found.mean_average_precision == pytest.approx((5 / 6 + 1) / 2)
    assert (found.exact, found.none) == (0.25, 0.0)
