"""Calibration: the arithmetic on known cases, and its effect in evaluate and predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clipdistill
from clipdistill.core.errors import FormatError, InputError, OutputError
from clipdistill.core.results import to_json
from clipdistill.core.zeroshot import LogitScale, probabilities
from clipdistill.deploy.export import export
from clipdistill.formats.predictions import load_predictions
from clipdistill.formats.text import load_text
from clipdistill.images.loading import load_one, stack
from clipdistill.images.sources import list_images
from clipdistill.measure.calibration.fitting import calibrate, calibration_error, fit, threshold_for
from clipdistill.measure.evaluate import evaluate
from clipdistill.models.open import open_embedder
from clipdistill.models.recognizer import open_recognizer
from clipdistill.show.predict import predict

FOLDERS = {"red disc": 0, "green square": 1, "blue triangle": 2}
CLIP = LogitScale(100.0)


def cosines(count: int, classes: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.1, 0.4, (count, classes)).astype(np.float32)


def shares(values: np.ndarray, logits: LogitScale) -> np.ndarray:
    return probabilities(values, np.eye(values.shape[1], dtype=np.float32), logits)


@given(st.floats(2, 300), st.floats(2, 300))
@settings(max_examples=40, deadline=None)
def test_a_teachers_temperature_is_found_from_anywhere(true, start):
    values = cosines(200)
    found = fit(values, shares(values, LogitScale(true)), LogitScale(start))
    assert found.scale == pytest.approx(true, rel=1e-3)
    assert found.bias is None


@given(st.floats(5, 150), st.floats(-20, 2), st.floats(5, 150), st.floats(-20, 2))
@settings(max_examples=40, deadline=None)
def test_a_sigmoid_teachers_scale_and_bias_are_found(true, bias, start, start_bias):
    values = cosines(200)
    target = shares(values, LogitScale(true, bias))
    found = fit(values, target, LogitScale(start, start_bias))
    assert np.allclose(shares(values, found), target, atol=0.01)


def test_labels_give_the_temperature_they_were_drawn_with():
    values = cosines(20_000)
    draw = np.random.default_rng(1)
    truth = np.array([draw.choice(6, p=row / row.sum()) for row in shares(values, LogitScale(12))])
    found = calibrate(
        values, np.eye(6, dtype=np.float32)[truth], truth, CLIP, method="labels", model="m"
    )
    assert found.logits.scale == pytest.approx(12, rel=0.05)
    assert found.ece_before > 0.3
    assert found.ece_after < 0.02


def test_the_scale_stays_bounded_when_every_answer_is_right():
    values = cosines(50)
    truth = values.argmax(axis=1)
    found = fit(values, np.eye(6, dtype=np.float32)[truth], CLIP)
    assert found.scale == 1000.0


def test_calibration_error_by_hand():
    # Two of confidence 0.9 of which one is right, two of 0.6 that both are: (0.8 + 0.8) / 4.
    given_shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]], np.float32)
    assert calibration_error(given_shares, np.array([0, 1, 0, 1])) == pytest.approx(0.4)
    assert calibration_error(given_shares[:2], np.array([0, 0])) == pytest.approx(0.1)


def test_the_threshold_lets_95_percent_of_the_right_answers_through():
    sure = np.linspace(0.5, 1, 1000).astype(np.float32)
    given_shares = np.stack([sure, 1 - sure], axis=1)
    least = threshold_for(given_shares, np.zeros(1000, np.intp))
    assert np.mean(sure >= least) == pytest.approx(0.95, abs=0.003)
    assert threshold_for(given_shares, np.ones(1000, np.intp)) == 0.0  # nothing is right


@pytest.fixture
def labelled(tmp_path: Path, pictures) -> Path:
    for index, name in enumerate(FOLDERS):
        pictures(tmp_path / "labelled" / name, 12, seed=40 + index)
    return tmp_path / "labelled"


@pytest.fixture
def own(tmp_path: Path, tiny_text: Path, tiny_classifier: Path) -> tuple[Path, Path]:
    """Text embeddings and a classifier that may be changed."""
    for file in (tiny_text, tiny_text.with_suffix(".json")):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / tiny_text.name, Path(shutil.copy(tiny_classifier, tmp_path / "c.onnx"))


def test_calibrated_against_the_teacher_and_used_by_predict(
    labelled, own, tiny_teacher_name, tmp_path
):
    text, classifier = own
    before = predict(str(classifier), str(labelled))
    result = evaluate(
        str(classifier),
        tiny_teacher_name,
        images=labelled,
        text=text,
        calibrate=True,
        predictions=tmp_path / "predictions.json",
    )
    found = result.calibration
    assert found is not None
    assert (found.method, found.images) == ("teacher", 36)
    assert result.calibrated == (text, classifier)
    assert load_text(text).calibration == found == to_json_round_trip(classifier)
    # The file's own graph answers with the new scale, as numpy does.
    recognizer = open_recognizer(str(classifier))
    pixels = stack([load_one(item, recognizer.preprocess) for item in list_images(labelled)])
    expected = probabilities(
        recognizer.embedder.embed_pixels(pixels), recognizer.text.vectors, found.logits
    )
    assert np.allclose(recognizer.probabilities(pixels), expected, atol=1e-4)
    after = predict(str(classifier), str(labelled))
    assert [one.ranked[0][0] for one in after.predictions] == [
        one.ranked[0][0] for one in before.predictions
    ]
    unknown = [one.unknown for one in after.predictions]
    assert np.mean(unknown) == pytest.approx(1 - found.coverage)
    assert not any(one.unknown for one in before.predictions)
    assert all(
        one.unknown for one in predict(str(classifier), str(labelled), threshold=1).predictions
    )
    assert "unknown" in str(predict(str(classifier), str(labelled), threshold=1).summary()[0])
    # Confidence in the table is the calibrated one; the teacher keeps its own.
    assert result.rows[0].confidence == pytest.approx(float(expected.max(axis=1).mean()), abs=1e-4)
    assert open_recognizer(tiny_teacher_name, text=text).threshold == 0.0


def to_json_round_trip(classifier: Path):
    text = open_embedder(str(classifier)).text
    assert text is not None
    return text.calibration


def test_calibrated_on_labels_and_exported(labelled, own, tiny_student, tmp_path):
    text, _ = own
    first = evaluate(str(tiny_student), labelled=labelled, text=text, calibrate=True)
    assert first.calibration is not None
    assert first.calibration.method == "labels"
    summary = " ".join(part for part in first.summary() if isinstance(part, str))
    assert "expected calibration error" in summary
    assert json.loads(json.dumps(to_json(first)))["calibration"]["method"] == "labels"
    # Again from a calibrated start: the same, not a calibration of the calibration.
    again = evaluate(str(tiny_student), labelled=labelled, text=text, calibrate=True)
    assert again.calibration == first.calibration
    export(str(tiny_student), tmp_path / "new.onnx", text=text)
    assert to_json_round_trip(tmp_path / "new.onnx") == first.calibration


def test_stored_predictions_are_those_of_predict(
    labelled, own, tiny_student, tiny_teacher_name, tmp_path
):
    text, _ = own
    (labelled / "red disc" / "zz_broken.png").write_bytes(b"broken")
    out = tmp_path / "predictions.json"
    evaluate(tiny_teacher_name, str(tiny_student), labelled=labelled, text=text, predictions=out)
    found = load_predictions(out)
    assert [one.role for one in found.models] == ["teacher", "student"]
    predicted = {
        one.image: one for one in predict(str(tiny_student), str(labelled), text=text).predictions
    }
    for picture, ranked, cosine in zip(
        found.pictures, found.models[1].ranked, found.models[1].cosine, strict=True
    ):
        assert picture.truth == FOLDERS[picture.key.partition("/")[0]]
        if "broken" in picture.key:
            assert (ranked, cosine) == (None, None)
            continue
        expected = predicted[str(labelled / picture.key)].ranked[:3]
        assert [found.labels[index] for index, _ in ranked] == [label for label, _ in expected]
        assert ranked[0][1] == pytest.approx(expected[0][1], abs=1e-4)
        assert -1 <= cosine <= 1
    assert found.models[0].cosine[0] == pytest.approx(1, abs=1e-3)


def test_bad_input(labelled, own, tiny_student, tiny_teacher_name, tmp_path):
    text, classifier = own
    student = str(tiny_student)
    with pytest.raises(InputError, match="expected one student among the models, found 2"):
        evaluate(student, str(classifier), labelled=labelled, text=text, calibrate=True)
    with pytest.raises(InputError, match="expected one student among the models, found 0"):
        evaluate(tiny_teacher_name, labelled=labelled, text=text, calibrate=True)
    with pytest.raises(InputError, match="needs labels or the teacher"):
        evaluate(student, images=labelled, text=text, calibrate=True)
    few = tmp_path / "few"
    shutil.copytree(labelled / "red disc", few / "red disc")
    with pytest.raises(InputError, match="expected 20 or more images, found 12"):
        evaluate(student, labelled=few, text=text, calibrate=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        evaluate(student, labelled=few, text=text, predictions=tmp_path / "file" / "o.json")
    with pytest.raises(InputError, match=r"--threshold 2\.0: expected 0 to 1"):
        clipdistill.predict(str(classifier), str(labelled), threshold=2)
    text.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"expected a \.json beside it"):
        evaluate(student, tiny_teacher_name, images=labelled, text=text, calibrate=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 2),
        ("threshold", "x"),
        ("method", "magic"),
        ("logits", None),
        ("logits", {"scale": float("nan"), "bias": None}),
        ("ece_before", -1),
    ],
)
def test_a_damaged_calibration_is_refused(labelled, own, tiny_student, field, value):
    text, _ = own
    evaluate(str(tiny_student), labelled=labelled, text=text, calibrate=True)
    card = text.with_suffix(".json")
    values = json.loads(card.read_text())
    values["calibration"][field] = value
    card.write_text(json.dumps(values))
    with pytest.raises(FormatError, match=r"text\.json"):
        load_text(text)
