"""Budgets: the student that `run --student auto` chooses, and the epochs of --time-budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from clipdistill.core.errors import InputError, OptionError
from clipdistill.formats.choice import Candidate
from clipdistill.formats.probe import Probe
from clipdistill.models.students import KNOWN
from clipdistill.pipeline.budgets import with_epochs, with_student
from clipdistill.pipeline.options import RunOptions
from clipdistill.pipeline.probe import measure_student

PROBE = Probe("", 1.0, 1.0, 1000.0, 50.0, 100.0, 512, 224, 10**7, "cpu")


def auto(**budget: float) -> RunOptions:
    return RunOptions(images=Path("photos"), student="auto", holdout=0.1, **budget)


def measured(arch: str, image_size: int | None, weight_bytes: float) -> Candidate:
    """Milliseconds as large as the network: the order of latencies is that of sizes."""
    [known] = [one for one in KNOWN if one.arch == arch]
    return Candidate(arch, known.parameters, known.parameters * weight_bytes)


@pytest.mark.parametrize(
    ("budget", "arch"),
    [
        ({"max_latency": 1000.0}, "resnet50"),
        ({"max_latency": 10.0}, "mobilenetv4_conv_medium"),
        ({"max_latency": 5.0}, "efficientnet_lite0"),
        ({"max_size": 12.0}, "lcnet_100"),
        ({"max_latency": 5.0, "max_size": 8.0}, "lcnet_050"),
    ],
)
def test_the_most_accurate_student_within_the_budget(
    budget: dict[str, float], arch: str, tmp_path: Path
) -> None:
    options = with_student(auto(**budget), tmp_path / "choice.json", measured)
    assert options.student == arch


def test_int8_counts_one_byte_per_weight(tmp_path: Path) -> None:
    options = replace(auto(max_size=6.0), qat=True)
    assert with_student(options, tmp_path / "choice.json", measured).student == (
        "mobilenetv3_large_100"
    )


def test_a_resumed_run_keeps_its_student(tmp_path: Path) -> None:
    options, path = auto(max_latency=5.0), tmp_path / "choice.json"
    first = with_student(options, path, measured)

    def disturbed(*_: object) -> Candidate:
        raise AssertionError("measured again")

    assert with_student(options, path, disturbed) == first
    other = with_student(auto(max_latency=2.0), path, measured)
    assert other.student == "lcnet_050"


def test_a_budget_that_no_student_keeps_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--max-latency 0.1: none of 13 .*mobilenetv3_small_050"):
        with_student(auto(max_latency=0.1), tmp_path / "choice.json", measured)


def test_a_student_is_measured_in_onnx_runtime() -> None:
    found = measure_student("lcnet_050", 32, 4)
    assert found.latency_ms is not None
    assert 0 < found.latency_ms < 1000
    assert 5 < found.size_mb < 8


def test_what_is_timed_is_the_file_that_export_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the traced one, in which each computed padding is a node of its own."""
    kinds: list[str] = []

    def look(path: Path, _: object, runs: int) -> list[float]:
        kinds.extend(node.op_type for node in onnx.load(str(path)).graph.node)
        return [1.0] * runs

    monkeypatch.setattr("clipdistill.deploy.latency.time_file", look)
    assert measure_student("tf_efficientnet_lite0", 32, 4).latency_ms == 1000
    assert "Conv" in kinds
    assert "Pad" not in kinds


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"student": "auto"}, "--student auto chooses by latency or size. Add --max-latency"),
        ({"max_size": 3.0}, "--max-size chooses a student. Add: --student auto"),
        (
            {"student": "auto", "max_size": 3.0, "student_weights": Path("w")},
            "one architecture",
        ),
        ({"time_budget": "soon"}, "--time-budget soon: expected a duration"),
        ({"time_budget": "10m", "num_epochs": 5}, "only one of them"),
    ],
)
def test_budgets_that_make_no_sense(given: dict[str, object], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        RunOptions(images=Path("photos"), **given).check()  # type: ignore[arg-type]


def test_epochs_that_fit_into_a_time() -> None:
    options = RunOptions(images=Path("photos"), time_budget="11m", labelled=Path("known"))
    chosen = with_epochs(options, PROBE, 10_000)  # 43 s before, 100 s per epoch
    assert (chosen.num_epochs, chosen.time_budget) == (6, None)
    with pytest.raises(InputError, match=r"one epoch of .* takes about 20 min on cpu"):
        with_epochs(options, PROBE, 100_000)
    assert with_epochs(replace(options, time_budget=None), PROBE, 100_000).num_epochs == 50
