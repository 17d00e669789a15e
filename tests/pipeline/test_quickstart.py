"""quickstart: the whole pipeline on drawn images, short, and started again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from clipdistill import OutputError, predict, quickstart
from clipdistill.core.errors import OptionError
from clipdistill.core.wording import timed
from clipdistill.formats.ledger import read_ledger
from clipdistill.formats.run import RunFolder, load_run
from clipdistill.formats.urls import read_urls
from clipdistill.pipeline.quickstart import QuickstartResult


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> QuickstartResult:
    out = tmp_path_factory.mktemp("runs") / "quickstart"
    return quickstart(out=out, num_images=400, num_epochs=4)


def test_the_table_compares_teacher_and_student_in_both_runtimes(run: QuickstartResult) -> None:
    teacher, torch_row, onnx_row = run.rows
    assert (teacher.runtime, torch_row.runtime, onnx_row.runtime) == (
        "torch",
        "torch",
        "onnxruntime",
    )
    assert teacher.accuracy >= 0.95
    assert teacher.agreement == 1.0
    # A few steps only: an untrained network's cosine is near 0, a finished student's above 0.9.
    assert 0.3 < torch_row.cosine < 1
    assert onnx_row.accuracy == pytest.approx(torch_row.accuracy, abs=0.005)
    assert onnx_row.cosine == pytest.approx(torch_row.cosine, abs=1e-4)


def test_it_is_a_run_with_every_student_and_a_search(run: QuickstartResult) -> None:
    record = load_run(RunFolder(run.out))
    names = [step.name for step in record.steps]
    assert names[:4] == ["search", "download", "embed", "embed-text"]
    assert [name for name in names if name.startswith("distill")] == [
        "distill",
        "distill sparse",
        "distill int8",
        "distill sparse-int8",
    ]
    assert record.finished
    assert not record.unfinished


def test_the_summary_on_disk_says_the_same(run: QuickstartResult) -> None:
    summary = json.loads((run.out / "summary.json").read_text())
    assert summary["seconds"] > 0
    assert set(summary["rows"][0]) == {
        "model",
        "runtime",
        "accuracy",
        "mean_average_precision",
        "f1",
        "agreement",
        "cosine",
        "size_mb",
        "latency_ms",
        "rounds_ms",
    }
    assert [row["accuracy"] for row in summary["rows"]] == [row.accuracy for row in run.rows]
    # Table and report show one time for a model, that of the benchmark, with its spread.
    page = (run.out / "report.html").read_text()
    times = [timed(row.latency_ms, row.rounds_ms) for row in run.rows]
    assert all(" to " in one and one in page for one in times)


def test_the_file_it_makes_is_a_classifier_of_its_own(run: QuickstartResult) -> None:
    pictures = sorted((run.out / "held-out" / "cat").glob("*.jpg"))[:3]
    result = predict(str(run.out / "classifier.onnx"), *map(str, pictures))
    assert result.classes == 20
    assert all(one.ranked and not one.reason for one in result.predictions)


def test_the_pictures_were_searched_by_the_prompts_and_downloaded(run: QuickstartResult) -> None:
    rows = read_ledger(run.out / "images")
    found = list(read_urls(run.out / "image_urls.txt"))
    assert {row.url for row in rows} == {row.url for row in found}
    assert len(found) > 350  # of 400
    assert {row.status for row in rows} <= {"ok", "duplicate"}
    assert len({row.prompt for row in rows}) == 20
    world = {path.read_bytes() for path in (run.out / "world").rglob("*.jpg")}
    stored = [run.out / "images" / row.file for row in rows]
    assert all(path.read_bytes() in world for path in stored)


def test_run_again_it_keeps_what_is_finished(run: QuickstartResult) -> None:
    weights = run.out / "student" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = quickstart(out=run.out, num_images=400, num_epochs=4)
    assert again.seconds < 10, "it neither served nor trained"
    assert weights.stat().st_mtime_ns == before
    assert [row.accuracy for row in again.rows] == [row.accuracy for row in run.rows]


@pytest.mark.parametrize("changed", [{"num_images": 500}, {"seed": 11}])
def test_pictures_of_other_settings_are_not_mixed(
    run: QuickstartResult, changed: dict[str, int]
) -> None:
    settings = {"num_images": 400, "num_epochs": 4, **changed}
    with pytest.raises(OutputError, match=next(iter(changed)).replace("_", "-")):
        quickstart(out=run.out, **settings)


def test_without_the_extras_it_leaves_out_what_needs_them(
    run: QuickstartResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra `train` alone there is no ModelOpt, OpenVINO or matplotlib."""
    find = importlib.util.find_spec
    gone = ("matplotlib", "openvino")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n in gone else find(n, *a)
    )
    for name in [*gone, "modelopt"]:
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
    (run.out / "benchmark.svg").unlink()
    again = quickstart(out=run.out, num_images=400, num_epochs=4)
    assert not (run.out / "benchmark.svg").exists()
    measured = {(row.runtime, Path(row.model).name) for row in again.benchmark.rows}
    assert {runtime for runtime, _ in measured} == {"torch", "onnxruntime"}
    assert ("onnxruntime", "sparse.onnx") in measured
    assert ("onnxruntime", "int8.onnx") not in measured


def test_seeds_of_the_teachers_own_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--seed 2"):
        quickstart(out=tmp_path / "out", seed=2)
    assert not (tmp_path / "out").exists()


def test_the_summary_for_people_names_everything_and_what_to_do_next(
    run: QuickstartResult,
) -> None:
    lines = [part for part in run.summary() if isinstance(part, str)]
    text = "\n".join(lines)
    assert str(run.out / "classifier.onnx") in text
    assert len(lines[lines.index("Next:") + 1 :]) == 3
