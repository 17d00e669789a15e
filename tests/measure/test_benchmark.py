"""benchmark: the race in turns, the sentences, and one real run of everything."""

from __future__ import annotations

import json
import sys
import xml.dom.minidom
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.errors import ClipDistillError, InputError, MissingExtraError
from clipdistill.core.model_names import short_names
from clipdistill.core.results import Table, to_json
from clipdistill.deploy.export import export
from clipdistill.measure.benchmark import BenchmarkOptions, BenchmarkResult, benchmark, chart
from clipdistill.measure.evaluate import evaluate
from clipdistill.measure.race.child import Child, children
from clipdistill.measure.race.conclusions import Timed, conclusions
from clipdistill.measure.race.race import MOST_RUNS, TURN_SECONDS, WARM_UP_RUNS, race
from clipdistill.models.open import installed_runtimes

FOLDERS = ("red disc", "green square", "blue triangle")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, pictures) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for index, name in enumerate(FOLDERS):
        pictures(root / name, 3, seed=20 + index)
    (root / FOLDERS[0] / "zz_broken.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def teacher_onnx(tiny_teacher_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher's image tower as a file: a teacher that needs no torch."""
    out = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    export(tiny_teacher_name, out, teacher=True)
    return out


@pytest.fixture(scope="module")
def measured(
    tiny_student: Path,
    tiny_classifier: Path,
    teacher_onnx: Path,
    labelled: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> BenchmarkResult:
    """One run of everything, with its files."""
    out = tmp_path_factory.mktemp("report")
    options = BenchmarkOptions(
        batch="1,4", rounds=2, threads=1, limit=5, out=out / "table.md", plot=out / "chart.svg"
    )
    damaged = out / "damaged.onnx"
    damaged.write_bytes(tiny_classifier.read_bytes()[:5000])
    models = (
        str(tiny_student),
        str(tiny_classifier),
        f"onnxruntime:{damaged}",
        f"onnxruntime:{teacher_onnx}",
    )
    return benchmark(*models, labelled=labelled, options=options)


def test_rows(measured: BenchmarkResult, teacher_onnx: Path) -> None:
    runtimes = installed_runtimes("onnx")
    assert [row.runtime for row in measured.rows] == [
        "torch",
        *runtimes,
        "onnxruntime",
        "onnxruntime",
    ]
    student, *files, damaged, teacher = measured.rows
    assert "truncated" in damaged.reason
    assert damaged.latency_ms is None
    for row in (student, *files):
        assert not row.reason
        assert row.arch == "test_resnet"
        assert (row.precision, row.device, row.role) == ("fp32", "cpu", "student")
        assert 0 < row.latency_ms <= row.latency_p90_ms
        assert set(row.throughput) == {"1", "4"}
        assert len(row.round_ms) == 2
        assert row.peak_mb > 20
        assert row.size_mb > 0.1
        assert row.preprocess_ms > 0
        assert row.images == 4  # of five, one cannot be read
        assert row.cosine == pytest.approx(student.cosine, abs=1e-5)
    assert measured.reference == f"{teacher_onnx} in onnxruntime"
    assert teacher.cosine == pytest.approx(1, abs=1e-6)
    assert (teacher.agreement, teacher.role) == (1.0, "teacher")
    assert student.cosine < 0.99
    assert (measured.images, measured.labelled) == (4, 9)
    assert [failure.image_path for failure in measured.failures] == ["red disc/zz_broken.png"]
    assert files[0].sparse == 0.0


def test_the_figures_are_those_of_evaluate(
    measured: BenchmarkResult, tiny_student: Path, tiny_classifier: Path, labelled: Path
) -> None:
    result = evaluate(str(tiny_student), str(tiny_classifier), labelled=labelled)
    rows = {(row.model, row.runtime): row for row in measured.rows}
    for row in result.rows:
        assert rows[row.model, row.runtime].accuracy == pytest.approx(row.accuracy)


def test_summary_markdown_json_and_plot(measured: BenchmarkResult) -> None:
    tables = [part for part in measured.summary() if isinstance(part, Table)]
    for table in tables:
        assert len(table.rows) == len(measured.rows)
        assert all(len(row) == len(table.columns) for row in table.rows)
    typed = tables[0].rows[1][0]
    assert typed.startswith("onnxruntime:")
    assert typed.endswith("classifier.onnx")
    text = "\n".join(part for part in measured.summary() if isinstance(part, str))
    assert "damaged.onnx in onnxruntime" in text
    assert "2 rounds in turns, 1 thread each" in text
    assert "Preprocessing takes another" in text
    page = measured.out.read_text()
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(measured.rows)
    assert len({line.count("|") for line in lines}) == 1
    assert "| runtime | precision |" in lines[0]
    value = json.loads(json.dumps(to_json(measured)))
    assert value["rows"][0]["throughput"]["4"] > 0
    assert set(value) >= {"rows", "reference", "conclusions", "machine", "rounds", "threads"}
    drawn = measured.plot.read_text()
    xml.dom.minidom.parseString(drawn)
    assert drawn.startswith("<svg")
    for word in ("onnxruntime", "classifier.onnx fp32", "Accuracy against latency"):
        assert word in drawn
    assert chart(measured) == drawn  # the same every time


def test_images_apart_from_labelled_ones(
    tiny_classifier: Path, labelled: Path, pictures, tmp_path: Path
) -> None:
    pictures(tmp_path / "plain", 3)
    result = benchmark(
        f"onnxruntime:{tiny_classifier}",
        images=tmp_path / "plain",
        labelled=labelled,
        options=BenchmarkOptions(batch="1", rounds=1),
    )
    assert (result.images, result.labelled) == (3, 9)
    assert result.reference == f"{tiny_classifier} in onnxruntime"  # the first, without a teacher
    assert result.rows[0].agreement == 1.0


def test_labels_of_a_table_are_those_of_evaluate(
    independent_classifier: Path, pictures, tmp_path: Path
) -> None:
    """Only the images that it names are measured; wrong names are refused before any timing."""
    paths = pictures(tmp_path / "photos", 8)
    table = tmp_path / "photos" / "labels.csv"
    some = ("red disc;green square", "", "blue triangle", "red disc", "yellow stripe;red disc", "")
    rows = [f"{path.name},{labels}" for path, labels in zip(paths, some, strict=False)]
    table.write_text("\n".join(["image_path,labels", *rows]))
    model, options = f"onnxruntime:{independent_classifier}", BenchmarkOptions(batch="1", rounds=1)
    result = benchmark(model, labelled=table, options=options)
    expected = evaluate(model, labelled=table).rows[0]
    assert (result.images, result.labelled) == (6, 6)
    assert result.rows[0].accuracy == pytest.approx(expected.accuracy)
    elsewhere = Path(table.rename(tmp_path / "labels.csv"))
    moved = benchmark(model, labelled=elsewhere, images=tmp_path / "photos", options=options)
    assert (moved.images, moved.labelled) == (8, 6)
    with pytest.raises(InputError, match=r"no image below .*6 of 6.*--images"):
        benchmark(model, labelled=elsewhere, options=options)
    elsewhere.write_text("image_path,labels\npicture_0.png,red disk\n")
    with pytest.raises(InputError, match="Did you mean red disc"):
        benchmark(model, labelled=elsewhere, images=tmp_path / "photos", options=options)
    with pytest.raises(InputError, match=r"folder of images per class, or a table .*\.csv"):
        benchmark(model, labelled=paths[0], options=options)


class FakeRacer:
    """Takes `seconds` a picture, and writes down when it was asked."""

    def __init__(self, name: str, seconds: float, diary: list[tuple[str, int, int]]) -> None:
        self.name, self.seconds, self.diary = name, seconds, diary
        self.dies_at = 10**9

    def time(self, batch: int, runs: int) -> list[float]:
        self.diary.append((self.name, batch, runs))
        if len(self.diary) > self.dies_at:
            raise ClipDistillError("its process ended")
        return [self.seconds * batch] * runs


def test_everyone_is_timed_in_turns() -> None:
    diary: list[tuple[str, int, int]] = []
    racers = [FakeRacer(name, 0.01, diary) for name in "abc"]
    steps: list[None] = []
    timings = race(racers, (1, 8), rounds=3, step=lambda: steps.append(None))
    turns = [name for name, batch, _ in diary if batch == 1]
    assert turns == [*"abc", *"abc", *"bca", *"cab"]  # the warm-up, then three rounds
    assert [batch for _, batch, _ in diary] == [1, 8] * 12
    assert {runs for _, _, runs in diary[:6]} == {WARM_UP_RUNS}
    assert len(steps) == 12
    for timing in timings:
        assert [len(timing.seconds[batch]) for batch in (1, 8)] == [3, 3]
        assert timing.median(8) == pytest.approx(0.08)
        assert timing.round_medians(1) == pytest.approx([0.01] * 3)


def test_a_turn_takes_the_same_time_for_all() -> None:
    diary: list[tuple[str, int, int]] = []
    quick, slow = FakeRacer("quick", 1e-6, diary), FakeRacer("slow", 10.0, diary)
    middle = FakeRacer("middle", TURN_SECONDS / 5.5, diary)
    race([quick, slow, middle], (1,), rounds=1)
    runs = {name: count for name, _, count in diary[3:]}
    assert runs == {"quick": MOST_RUNS, "slow": 1, "middle": 5}


def test_one_that_dies_does_not_stop_the_race() -> None:
    diary: list[tuple[str, int, int]] = []
    racers = [FakeRacer(name, 0.01, diary) for name in "ab"]
    racers[1].dies_at = 4
    first, second = race(racers, (1,), rounds=3)
    assert (first.failure, second.failure) == ("", "its process ended")
    assert len(first.seconds[1]) == 3
    assert np.isnan(second.median(8)) or second.seconds[1]


def raced(name: str, ms: float, precision="fp32", sparse=0.0, runtime="onnxruntime") -> Timed:
    drift = (1.0, 1.5, 0.9)  # the machine's, the same for all
    rounds = tuple(ms * factor for factor in drift)
    return Timed(
        name=name,
        network=("resnet18", "student", 224),
        runtime=runtime,
        device="cpu",
        precision=precision,
        sparse=sparse,
        rounds=rounds,
    )


def test_slower_than_fp32_is_a_conclusion() -> None:
    (line,) = conclusions([raced("a.onnx", 10), raced("b.onnx", 25, "int8")])
    assert line.startswith("b.onnx in onnxruntime is SLOWER than FP32 (a.onnx)")
    assert "25.00 against 10.00 ms, 2.50x the time" in line
    assert "--target onnxruntime" in line
    (line,) = conclusions([raced("a.onnx", 10), raced("b.onnx", 10.1, "int8")])
    assert "as fast as FP32 (a.onnx): it saves no time" in line
    assert conclusions([raced("a.onnx", 10), raced("b.onnx", 4, "int8")]) == []
    (line,) = conclusions(
        [
            raced("a", 10, runtime="torch"),
            raced("b", 14, "int8", runtime="torch"),
        ]
    )
    assert "PyTorch only simulates INT8" in line


def test_only_the_same_network_and_runtime_are_compared() -> None:
    other = Timed(
        name="c.onnx",
        network=("resnet50", "student", 224),
        runtime="onnxruntime",
        device="cpu",
        precision="fp32",
        sparse=0.0,
        rounds=(1.0,),
    )
    models = [raced("a.onnx", 1, runtime="openvino"), other, raced("b.onnx", 25, "int8")]
    assert conclusions(models) == []


def test_the_effect_of_sparsity_is_a_conclusion() -> None:
    dense = raced("dense.onnx", 10)
    (line,) = conclusions([dense, raced("sparse.onnx", 10.2, sparse=0.9)])
    assert "2:4 sparsity had NO effect on speed on this device" in line
    (line,) = conclusions([dense, raced("sparse.onnx", 14, sparse=0.9)])
    assert "2:4 sparsity made it SLOWER" in line
    (line,) = conclusions([dense, raced("sparse.onnx", 8, sparse=0.9)])
    assert "had NO effect" in line  # no kernel for processors uses 2:4, whatever was measured
    assert "no kernel for processors" in line
    on_gpu = [replace(one, device="cuda") for one in (dense, raced("s.onnx", 8, sparse=0.9))]
    (line,) = conclusions(on_gpu)
    assert "2:4 sparsity made it 1.25x as fast" in line
    (line,) = conclusions([raced("sparse.onnx", 8, sparse=0.9)])
    assert "effect of sparsity is unknown" in line
    both = [dense, raced("int8.onnx", 4, "int8"), raced("both.onnx", 4, "int8", sparse=0.9)]
    (line,) = conclusions(both)  # INT8 and sparse is compared with INT8, not with FP32
    assert "both.onnx" in line
    assert "for int8.onnx" in line


def test_rounds_that_disagree_prove_nothing() -> None:
    def timed(name: str, rounds: tuple[float, ...], sparse: float) -> Timed:
        return Timed(
            name=name,
            network=("resnet18",),
            runtime="openvino",
            device="cpu",
            precision="fp32",
            sparse=sparse,
            rounds=rounds,
        )

    dense = timed("dense.onnx", (10, 10, 10, 10, 10), 0.0)
    (line,) = conclusions([dense, timed("sparse.onnx", (8, 8, 11, 8, 12), 0.9)])
    assert "had NO effect" in line
    (line,) = conclusions([dense, timed("sparse.onnx", (13, 9, 12, 12, 9), 0.9)])
    assert "had NO effect" in line


def test_models_are_named_by_as_much_of_their_path_as_tells_them_apart() -> None:
    ends = short_names(
        ["runs/ort/a.onnx", "runs/trt/a.onnx", "local-dir:/x/toy", "runs/ort/a.onnx"]
    )
    assert ends == ["ort/a.onnx", "trt/a.onnx", "toy", "ort/a.onnx"]
    assert short_names(["runs/a.onnx", "student"]) == ["a.onnx", "student"]
    assert short_names(["ViT-B-32/openai (512-d)", "runs/my (1)/s"]) == ["ViT-B-32/openai", "s"]
    twice = short_names(["runs/a.onnx", "runs/a.onnx"], ["onnxruntime", "openvino"])
    assert twice == ["a.onnx (onnxruntime)", "a.onnx (openvino)"]


def test_drift_does_not_touch_paired_ratios() -> None:
    """Twice as slow in every round, on a machine that becomes ten times slower meanwhile."""
    speeds = (1.0, 3.0, 10.0)
    network = ("resnet18", "student", 224)
    one = Timed(
        name="a",
        network=network,
        runtime="torch",
        device="cpu",
        precision="fp32",
        sparse=0.0,
        rounds=speeds,
    )
    two = Timed(
        name="b",
        network=network,
        runtime="torch",
        device="cpu",
        precision="int8",
        sparse=0.0,
        rounds=tuple(2 * speed for speed in speeds),
    )
    assert "2.00x the time" in conclusions([one, two])[0]


def test_a_process_that_dies_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('no more memory', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(sys, "executable", _script(code, monkeypatch))
    with children(["x"], None) as (child,), pytest.raises(ClipDistillError) as caught:
        child.ask("open", model="x")
    assert str(caught.value) == "its process ended (exit code 3: no more memory)"


def _script(code: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An executable that ignores its arguments and runs `code`."""
    import tempfile

    folder = Path(tempfile.mkdtemp())
    path = folder / "python"
    (folder / "code.py").write_text(code)
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {folder / 'code.py'}\n")
    path.chmod(0o755)
    return str(path)


def test_peak_memory_is_the_childs_own(tiny_classifier: Path) -> None:
    """A big parent must not show up in what its child reports."""
    ballast = np.ones(200 << 20, np.uint8)
    child = Child(f"onnxruntime:{tiny_classifier}", 1)
    try:
        child.ask("open", model=child.model, device="cpu", threads=1, arch=None, image_size=None)
        peak = child.ask("memory")["peak_bytes"]
    finally:
        child.close()
    assert ballast.sum() > 0
    if peak is not None:
        assert 20e6 < peak < 190e6


def test_wrong_arguments(tiny_classifier: Path, tiny_student: Path, tmp_path: Path) -> None:
    model = str(tiny_classifier)
    with pytest.raises(InputError, match="No models"):
        benchmark(images=tmp_path)
    with pytest.raises(InputError, match="--images FOLDER"):
        benchmark(model)
    for batch in ("", "0", "1,x", "1,99999"):
        with pytest.raises(InputError, match="--batch"):
            benchmark(model, images=tmp_path, options=BenchmarkOptions(batch=batch))
    with pytest.raises(InputError, match="--rounds"):
        benchmark(model, images=tmp_path, options=BenchmarkOptions(rounds=0))
    with pytest.raises(InputError, match=r"ends in \.md"):
        benchmark(model, images=tmp_path, options=BenchmarkOptions(out=tmp_path / "a.txt"))
    with pytest.raises(InputError, match="no such model"):
        benchmark("nothing", images=tmp_path)
    with pytest.raises(InputError, match="clipdistill export"):
        benchmark(f"openvino:{tiny_student}", images=tmp_path)


def test_nothing_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"None of the models can be opened.*a\.onnx"):
        benchmark(f"onnxruntime:{tmp_path / 'a.onnx'}", images=tmp_path)


def test_a_plot_needs_its_extra(measured: BenchmarkResult, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"clipdistill\[plots\]"):
        chart(measured)
    with pytest.raises(MissingExtraError):  # said before anything is measured
        benchmark("nothing", images=Path(), options=BenchmarkOptions(plot=Path("a.svg")))
