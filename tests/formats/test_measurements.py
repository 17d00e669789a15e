"""Measurements: what one version writes, every later one reads, or says why it cannot."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError
from clipdistill.core.files import write_json
from clipdistill.core.results import to_json
from clipdistill.core.zeroshot import Calibration, LogitScale
from clipdistill.formats.embeddings import Failure
from clipdistill.formats.measurements import (
    Baseline,
    Benchmark,
    BenchmarkRow,
    Evaluation,
    ModelEvaluation,
    load_measurement,
    save_measurement,
)
from clipdistill.measure.evaluate import EvaluateResult

TEXTS = st.text(max_size=8)
SHARES = st.none() | st.floats(0, 1)
NUMBERS = st.floats(0, 1e6)
FAILURES = st.lists(st.builds(Failure, TEXTS, TEXTS), max_size=2).map(tuple)
CALIBRATIONS = st.builds(
    Calibration,
    st.builds(LogitScale, NUMBERS, st.none() | NUMBERS),
    *[st.floats(0, 1), st.sampled_from(["teacher", "labels"]), TEXTS, st.integers(0, 99)],
    *[st.floats(0, 1)] * 3,
)


@st.composite
def model_evaluations(draw: st.DrawFn, labels: list[str], labelled: bool) -> ModelEvaluation:
    size = len(labels)
    line = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    confusion = draw(st.lists(line, min_size=size, max_size=size)) if labelled else []
    if not np.any(confusion):
        confusion = []
    per_class = {label: draw(SHARES) for label in labels} if labelled else {}
    return ModelEvaluation(
        *draw(st.tuples(TEXTS, TEXTS, TEXTS)),
        *draw(st.tuples(*[SHARES] * 4)),
        *draw(st.tuples(*[NUMBERS] * 3)),
        draw(st.integers(0, 99)),
        per_class,
        {label: draw(st.integers(0, 9)) for label in labels},
        confusion,
        labels,
    )


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    labels = draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True))
    labelled = draw(st.booleans())
    rows = draw(st.lists(model_evaluations(labels, labelled), min_size=1, max_size=2))
    return Evaluation(
        rows=tuple(rows),
        reference=draw(st.none() | TEXTS),
        labelled=labelled,
        images=draw(st.integers(0, 99)),
        empty_folders=tuple(draw(st.lists(TEXTS, max_size=2))),
        failures=draw(FAILURES),
        calibration=draw(st.none() | CALIBRATIONS),
        calibrated=tuple(
            Path(one) for one in draw(st.lists(st.sampled_from(["a", "b/c"]), max_size=2))
        ),
    )


@settings(max_examples=60, deadline=None)
@given(evaluations())
def test_an_evaluation_comes_back(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    save_measurement(path, found)
    assert load_measurement(path, Evaluation) == found
    # What `evaluate --json` prints has the whole matrix instead.
    write_json(path, to_json(found))
    assert load_measurement(path, Evaluation) == found


ROWS = st.builds(
    BenchmarkRow,
    model=TEXTS,
    runtime=TEXTS,
    sparse=SHARES,
    throughput=st.dictionaries(TEXTS, NUMBERS, max_size=2),
    accuracy=SHARES,
    images=st.integers(0, 9),
    round_ms=st.lists(NUMBERS, max_size=3).map(tuple),
)
BENCHMARKS = st.builds(
    Benchmark,
    st.lists(ROWS, max_size=3).map(tuple),
    TEXTS,
    st.lists(TEXTS, max_size=2).map(tuple),
    st.integers(0, 9),
    st.integers(0, 9),
    st.lists(st.integers(1, 64), max_size=2).map(tuple),
    st.integers(1, 9),
    st.none() | st.integers(1, 9),
    TEXTS,
    FAILURES,
)
BASELINES = st.builds(
    Baseline,
    TEXTS,
    st.booleans(),
    st.integers(0, 9),
    st.integers(0, 9),
    SHARES,
    NUMBERS,
    NUMBERS,
    st.dictionaries(TEXTS, st.integers(0, 9), max_size=2),
    st.dictionaries(TEXTS, st.floats(0, 1), max_size=2),
    st.lists(st.tuples(TEXTS, TEXTS, st.floats(-1, 1)), max_size=2).map(tuple),
    st.lists(TEXTS, max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(BENCHMARKS | BASELINES)
def test_a_benchmark_and_a_baseline_come_back(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("measurement") / "measurement.json"
    save_measurement(path, found)
    assert load_measurement(path, type(found)) == found


def row(**more: object) -> ModelEvaluation:
    known = ModelEvaluation(
        *["student", "torch", "student", 0.5, 0.5, 0.5, 0.9, 0.8, 1.5, 2.0, 4],
        {"cat": 1.0, "dog": 0.0},
        {"cat": 4, "dog": 0},
        [[2, 0], [2, 0]],
        ["cat", "dog"],
    )
    return replace(known, **more)


def evaluation(*rows: ModelEvaluation) -> Evaluation:
    return Evaluation(rows or (row(),), "the teacher", True, 4, (), ())


BENCHMARK = Benchmark(
    rows=(BenchmarkRow("m", "torch"),),
    reference="m",
    conclusions=("x",),
    images=1,
    labelled=0,
    batches=(1,),
    rounds=3,
    threads=None,
    machine="here",
    failures=(),
)
BASELINE = Baseline(
    teacher="t",
    labelled=False,
    images=3,
    labelled_images=0,
    accuracy=None,
    confidence=0.9,
    margin=0.8,
    counts={"cat": 3},
    per_class={},
    overlapping=(),
    empty=(),
)


@pytest.mark.parametrize("found", [evaluation(), BENCHMARK, BASELINE])
def test_every_file_says_what_it_is(tmp_path, found):
    save_measurement(tmp_path / "x.json", found)
    value = json.loads((tmp_path / "x.json").read_text())
    assert (value["format"], value["version"]) == (found.FORMAT, 1)
    assert list(value)[:2] == ["format", "version"]


def test_a_matrix_of_many_classes_takes_little_room(tmp_path):
    labels = [f"class {index}" for index in range(400)]
    counts = np.diag(np.arange(1, 401)).tolist()
    shares = dict.fromkeys(labels, 1.0)
    wide = row(labels=labels, confusion=counts, per_class=shares, counts=dict.fromkeys(labels, 1))
    save_measurement(tmp_path / "evaluation.json", evaluation(wide))
    assert (tmp_path / "evaluation.json").stat().st_size < 100_000
    assert load_measurement(tmp_path / "evaluation.json", Evaluation).rows[0].confusion == counts


def test_the_verbs_result_can_be_read_as_itself(tmp_path):
    save_measurement(tmp_path / "evaluation.json", evaluation())
    found = load_measurement(tmp_path / "evaluation.json", EvaluateResult)
    assert isinstance(found, EvaluateResult)
    assert found.summary()


def test_what_was_written_before_there_were_versions(tmp_path):
    old = to_json(BENCHMARK)
    del old["format"], old["version"]
    old["verdicts"] = old.pop("conclusions")
    write_json(tmp_path / "benchmark.json", old)
    assert load_measurement(tmp_path / "benchmark.json", Benchmark) == BENCHMARK
    old = to_json(evaluation())
    for gone in ("format", "version", "calibration", "calibrated"):
        del old[gone]
    write_json(tmp_path / "evaluation.json", old)
    assert load_measurement(tmp_path / "evaluation.json", Evaluation) == evaluation()


def test_a_baseline_under_its_former_name(tmp_path):
    write_json(tmp_path / "ceiling.json", to_json(BASELINE) | {"format": "clipdistill.ceiling"})
    assert load_measurement(tmp_path / "ceiling.json", Baseline) == BASELINE


def test_what_json_cannot_say_counts_as_unknown(tmp_path):
    save_measurement(tmp_path / "evaluation.json", evaluation(row(cosine=float("nan"))))
    assert load_measurement(tmp_path / "evaluation.json", Evaluation).rows[0].cosine is None


def changed(path: Path, **more: object) -> Path:
    """An evaluation, of which the first row or the whole is changed; ... deletes."""
    save_measurement(path, evaluation())
    value = json.loads(path.read_text())
    for name, one in more.items():
        place = value["rows"][0] if name in value["rows"][0] else value
        place[name] = one
        if one is ...:
            del place[name]
    write_json(path, value)
    return path


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"latency_ms": ...}, r"rows\[0\]\.latency_ms is missing"),
        ({"labelled": ...}, "labelled is missing"),
        ({"accuracy": "high"}, r"rows\[0\]\.accuracy: expected a number, found 'high'"),
        ({"images": 0.5}, r"images: expected a whole number, found 0\.5"),
        ({"rows": 3}, "rows: expected a list, found 3"),
        ({"rows": [3]}, r"rows\[0\]: expected an object, found 3"),
        ({"rows": []}, "no model"),
        ({"model": None}, r"rows\[0\]\.model: expected a text, found None"),
        ({"per_class": [1]}, "per_class: expected an object"),
        ({"labels": ["cat"]}, "confusion"),
        ({"confusion_entries": [[0, 2, 1]]}, "confusion"),
        ({"confusion_entries": [[0, -1, 1]]}, "confusion"),
        ({"confusion_entries": [[0, 1]]}, "confusion"),
        ({"confusion_entries": "x"}, "confusion"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(tmp_path, more, words):
    path = changed(tmp_path / "evaluation.json", **more)
    with pytest.raises(FormatError, match=rf"evaluation\.json: .*{words}.*`clipdistill run`"):
        load_measurement(path, Evaluation)


def test_a_newer_version_and_another_file_are_refused(tmp_path):
    path = changed(tmp_path / "evaluation.json", version=2)
    with pytest.raises(FormatError, match=r"evaluation\.json: .*version 2 is newer.*Update"):
        load_measurement(path, Evaluation)
    with pytest.raises(FormatError, match=r"expected a 'clipdistill\.benchmark' file"):
        load_measurement(path, Benchmark)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_truncated_file(tmp_path, share):
    path = changed(tmp_path / "evaluation.json")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FormatError, match=r"evaluation\.json: .*JSON.*`clipdistill run`"):
        load_measurement(path, Evaluation)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"baseline\.json"):
        load_measurement(tmp_path / "baseline.json", Baseline)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_is_read_or_refused(tmp_path_factory, data):
    found = data.draw(st.sampled_from([evaluation(), BENCHMARK, BASELINE]))
    path = tmp_path_factory.mktemp("damage") / "x.json"
    save_measurement(path, found)
    value = json.loads(path.read_text())
    place = value
    if "rows" in value and data.draw(st.booleans()):
        place = value["rows"][0]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(VALUES)
    write_json(path, value)
    with contextlib.suppress(FormatError):
        load_measurement(path, type(found))
