"""run: from prompts to a classifier in one command, stopped, started again, and changed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from clipdistill import cli
from clipdistill.core.errors import (
    FormatError,
    InputError,
    ModelNotFoundError,
    OptionError,
    OutputError,
)
from clipdistill.core.progress import Silent, reporting
from clipdistill.core.results import Table
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.measurements import (
    Baseline,
    Evaluation,
    find_measurement,
    load_measurement,
)
from clipdistill.formats.run import RunFolder, load_run
from clipdistill.formats.text import load_text
from clipdistill.models.open import OnnxEmbedder
from clipdistill.pipeline.options import RunOptions
from clipdistill.pipeline.result import RunResult, rows_of
from clipdistill.pipeline.run import _few_images, run
from clipdistill.pipeline.steps import measuring
from clipdistill.pipeline.toy.world import KINDS, prompts, render
from clipdistill.show.predict import predict
from killing import changed, holding, killed_when, run_to_end, soon_after
from stopped import Moment, check_stopped
from terminals import on_terminal

MEASURED = {
    "run.json",
    "probe.json",
    "evaluation.json",
    "checkpoint.pth",
    "metrics.jsonl",
    "report.html",
}
"""Files that hold times."""


class Listener(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tables: list[Table] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def table(self, table: Table) -> None:
        self.tables.append(table)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, 60 pictures without labels, 40 with."""
    folder = tmp_path_factory.mktemp("world")
    render(folder / "photos", 60, seed=31, labelled=False)
    render(folder / "labelled", 40, seed=32, labelled=True)
    lines = [f"{kind}\t{prompt}\n" for kind, prompt in zip(KINDS, prompts(), strict=True)]
    (folder / "prompts.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def options(world: Path) -> RunOptions:
    """A run of seconds."""
    with as_file(files("clipdistill.pipeline.toy") / "toy_teacher") as folder:
        return RunOptions(
            images=world / "photos",
            labelled=world / "labelled",
            teacher=f"local-dir:{folder}",
            student="test_resnet",
            pretrained=False,
            image_size=32,
            num_epochs=1,
            batch_size=16,
            device="cpu",
            num_workers=1,
            benchmark=False,
        )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, world: Path, options: RunOptions
) -> RunResult:
    """A finished run; nobody changes it."""
    return run(world / "prompts.txt", tmp_path_factory.mktemp("runs") / "first", options)


@pytest.fixture
def copied(finished: RunResult, tmp_path: Path) -> Path:
    """A copy of it, to be changed; times of files stay."""
    return Path(shutil.copytree(finished.out, tmp_path / "run", symlinks=True))


def told(world: Path, out: Path, options: RunOptions, **more: object) -> tuple[RunResult, Listener]:
    """Run, and what was said."""
    listener = Listener()
    with reporting(listener):
        result = run(more.pop("prompts", world / "prompts.txt"), out, options, **more)  # type: ignore[arg-type]
    return result, listener


def stamps(folder: Path) -> dict[str, int]:
    """Every file and when it was written."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, without what is measured by the clock and where the folder lies."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in MEASURED and "log" not in path.parts:
            data = path.read_bytes()
            if path.suffix == ".onnx":
                model = onnx.load_from_string(data)
                cards = "".join(f"{one.key}: {one.value}" for one in model.metadata_props)
                data = model.graph.SerializeToString(deterministic=True) + cards.encode()
            data = re.sub(rb'"images_per_second": ?[0-9.e+]+', b"", data)
            name = path.relative_to(folder).as_posix()
            found[name] = data.replace(str(folder).encode(), b"")
    return found


def test_it_makes_everything_that_the_folder_promises(finished: RunResult) -> None:
    folder = RunFolder(finished.out)
    record = load_run(folder)
    assert [step.name for step in record.steps] == [one.name for one in finished.plan]
    assert all((folder.out / path).exists() for step in record.steps for path in step.outputs)
    assert record.finished
    assert not record.unfinished
    assert record.settings["student"] == "test_resnet"
    assert "torch" in record.versions
    assert all(step.seconds >= 0 for step in record.steps)
    pictures = sorted((Path(record.settings["labelled"]) / "cat").glob("*.jpg"))
    shown = predict(str(folder.classifier), str(pictures[0]))
    assert shown.classes == len(KINDS)
    assert (folder.out / "prompts.txt").is_file()


def test_the_teachers_ceiling_is_measured_on_the_labelled(finished: RunResult) -> None:
    baseline = load_measurement(RunFolder(finished.out).baseline, Baseline)
    assert baseline == finished.baseline
    assert baseline.accuracy is not None
    assert baseline.accuracy > 0.9
    assert baseline.labelled_images == 40
    assert sum(baseline.counts.values()) == baseline.images == 60


def test_the_table_has_the_teacher_first_then_the_dense_student(finished: RunResult) -> None:
    assert finished.evaluation is not None
    rows = rows_of(finished.evaluation)
    assert [row.model for row in rows] == ["teacher", "student", "dense"]
    assert [row.runtime for row in rows] == ["torch", "torch", "onnxruntime"]
    assert rows[0].accuracy == finished.baseline.accuracy  # type: ignore[union-attr]


def test_the_report_tells_of_a_finished_run(finished: RunResult) -> None:
    assert finished.report is not None
    page = finished.report.read_text()
    assert "not finished" not in page
    assert "clipdistill distill test_resnet" in page


def test_the_classifier_and_the_text_are_calibrated_but_the_exports_are_not(
    finished: RunResult,
) -> None:
    from clipdistill.formats.classifier import OnnxCard
    from clipdistill.formats.onnx_wire import read_onnx

    def carried(path: Path):
        return OnnxCard.from_metadata(path, read_onnx(path).metadata).text

    folder = RunFolder(finished.out)
    assert load_text(folder.text).calibration is not None
    assert carried(folder.classifier).calibration == load_text(folder.text).calibration
    assert carried(folder.export("dense", "onnxruntime")).calibration is None


def test_with_nothing_changed_it_ends_at_once_and_touches_nothing(
    finished: RunResult, world: Path, options: RunOptions
) -> None:
    before = stamps(finished.out)
    code = (
        "import sys, time; start = time.monotonic()\n"
        "from clipdistill import cli\n"
        "assert cli.main(sys.argv[1:]) == 0\n"
        "heavy = [m for m in ('torch', 'pyarrow', 'timm', 'matplotlib') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "assert time.monotonic() - start < 3"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line(world, finished.out, options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr
    assert "Classifier:" in done.stdout
    assert stamps(finished.out) == before


def line(world: Path, out: Path, options: RunOptions) -> list[str]:
    """The same run as a command line."""
    words = ["run", str(world / "prompts.txt"), str(out)]
    for name, value in options.to_settings().items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def test_other_prompts_give_other_labels_and_train_nobody(
    copied: Path, world: Path, options: RunOptions, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("cat\tpicture of a cat\ndog\tpicture of a dog\n")
    before = stamps(copied)
    unlabelled = tmp_path / "labelled"
    for kind in ("cat", "dog"):
        shutil.copytree(world / "labelled" / kind, unlabelled / kind)
    changed_options = replace(options, labelled=unlabelled)
    result, said = told(world, copied, changed_options, prompts=fewer)
    after = stamps(copied)
    kept = ("student/model.safetensors", "embeddings/img_emb/img_emb_0.npy")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert "distill" not in result.done
    assert load_text(RunFolder(copied).text).labels == ("cat", "dog")
    plan = {row[0]: row[1] for row in said.tables[0].rows}
    assert plan["embed-text"] == "again: 20 labels became 2 labels"
    assert plan["distill"] == "done, kept"
    shown = predict(str(copied / "classifier.onnx"), str(next((unlabelled / "cat").glob("*.jpg"))))
    assert shown.classes == 2


def test_class_vectors_are_learnt_from_the_images_and_no_adapt_undoes_it(
    copied: Path, world: Path, options: RunOptions
) -> None:
    folder = RunFolder(copied)
    learnt = load_text(folder.text)
    assert learnt.adaptation is not None
    baseline = find_measurement(folder.baseline, Baseline)
    assert baseline is not None
    assert (baseline.text_accuracy is None) == bool(learnt.adaptation.kept_text)
    before = stamps(copied)
    result, _ = told(world, copied, replace(options, adapt=False))
    plain = load_text(folder.text)
    assert plain.adaptation is None
    assert np.allclose(plain.vectors, learnt.adaptation.text)
    assert "distill" not in result.done
    assert stamps(copied)["student/model.safetensors"] == before["student/model.safetensors"]
    again, _ = told(world, copied, options)
    assert "class vectors" in again.done
    assert np.array_equal(load_text(folder.text).vectors, learnt.vectors)


def test_independent_goes_through_all_steps_and_can_be_taken_back(
    copied: Path, world: Path, options: RunOptions
) -> None:
    folder = RunFolder(copied)
    before = load_text(folder.text)
    result, _ = told(world, copied, replace(options, independent=True))
    text = load_text(folder.text)
    assert text.independent is not None
    assert text.independent.method == "pool"
    assert text.calibration is None or text.calibration.independent is not None
    assert "distill" not in result.done
    carried = OnnxEmbedder(folder.classifier).text
    assert carried.independent == text.independent
    assert carried.calibration == text.calibration
    found = find_measurement(folder.evaluation, Evaluation)
    assert all((row.several is not None) == found.labelled for row in found.rows)
    page = folder.report.read_text(encoding="utf-8")
    assert "several labels or none" in page
    told(world, copied, replace(options, independent=True, adapt=False))
    kept = load_text(folder.text)
    assert kept.independent is not None
    assert np.allclose(kept.vectors, before.adaptation.text, atol=1e-6)
    told(world, copied, options)
    again = load_text(folder.text)
    assert again.independent is None
    assert np.allclose(again.vectors, before.vectors, atol=1e-6)


def test_a_table_gives_the_images_of_a_run_several_labels(
    copied: Path, world: Path, options: RunOptions, tmp_path: Path
) -> None:
    folder, shown = RunFolder(copied), tmp_path / "shown"
    keys = [path.name for path in sorted((world / "labelled").rglob("*.jpg"))]
    kinds = [path.parent.name for path in sorted((world / "labelled").rglob("*.jpg"))]
    shown.mkdir()
    for path in [*(world / "labelled").rglob("*.jpg"), *(world / "photos").glob("*0.jpg")]:
        shutil.copy(path, shown / path.name)
    labels = [f"{kind};{kinds[0]}" if index else "" for index, kind in enumerate(kinds)]
    table = shown / "labels.csv"

    def write() -> None:
        rows = [f"{key},{some}" for key, some in zip(keys, labels, strict=True)]
        table.write_text("\n".join(["image_path,labels", *rows]))

    write()
    asked = replace(options, labelled=table)
    with pytest.raises(OptionError, match=r"several labels or none.*--independent"):
        run(world / "prompts.txt", copied, asked)
    asked = replace(asked, independent=True)
    result, _ = told(world, copied, asked)
    assert result.evaluation.images == result.baseline.labelled_images == len(keys)
    assert result.evaluation.rows[0].accuracy == pytest.approx(result.baseline.accuracy)
    assert "distill" not in result.done
    table_shown = next(part for part in result.summary() if isinstance(part, Table))
    _, head, *rows = table_shown.text().split("\n")
    assert head.split()[:6] == ["model", "runtime", "accuracy", "mAP", "F1", "agreement"]
    several = result.evaluation.rows[0].several
    assert f"{100 * several.mean_average_precision:.1f}%" in rows[0].split()
    assert f"{100 * several.f1:.1f}%" in rows[0].split()
    page = folder.report.read_text(encoding="utf-8")
    assert "There are no true labels" not in page
    assert "no label</bdi>" in page  # of the first image
    assert sorted(path.name for path in folder.labelled_images.iterdir()) == sorted(keys)
    labels[0] = kinds[0]
    write()
    again, said = told(world, copied, asked)
    assert set(again.done) == {"baseline", "calibrate", "evaluate", "report"}
    plan = {row[0]: row[1] for row in said.tables[0].rows}
    assert plan["evaluate"] == "again: labels changed"


def test_a_folder_in_the_way_of_the_links_is_not_deleted(
    copied: Path, world: Path, options: RunOptions
) -> None:
    """It may hold the labelled images themselves."""
    folder = RunFolder(copied).labelled_images
    shutil.copytree(world / "labelled", folder)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpg"))]
    rows = [f"{name},{name.partition('/')[0]}" for name in names]
    (folder / "labels.csv").write_text("\n".join(["image_path,labels", *rows]))
    with pytest.raises(OutputError, match="is in the way"):
        run(world / "prompts.txt", copied, replace(options, labelled=folder / "labels.csv"))
    assert all((folder / name).is_file() for name in names)


def test_a_student_of_other_settings_is_moved_away_not_deleted(
    copied: Path, world: Path, options: RunOptions
) -> None:
    weights = (copied / "student" / "model.safetensors").read_bytes()
    result, said = told(world, copied, replace(options, seed=1))
    assert (copied / "replaced" / "student-1" / "model.safetensors").read_bytes() == weights
    assert (copied / "student" / "model.safetensors").read_bytes() != weights
    assert set(result.done) == {
        "distill",
        "export dense cpu",
        "export dense trt",
        "classifier",
        "calibrate",
        "evaluate",
        "report",
    }
    assert any("made with other settings; moved to" in text for text in said.lines)


def test_pictures_that_come_are_embedded_and_learnt_and_touched_ones_are_not(
    copied: Path, world: Path, options: RunOptions, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(world / "photos", tmp_path / "photos"))
    more = replace(options, images=photos)
    for path in photos.rglob("*.jpg"):
        os.utime(path, (1, 1))
    result, said = told(world, copied, more)
    assert set(result.done) == {"embed"}
    assert "distill: what it uses came out the same; kept" in "\n".join(said.lines)
    render(tmp_path / "new", 6, seed=77, labelled=False)
    for path in (tmp_path / "new").rglob("*.jpg"):
        path.rename(photos / f"new-{path.name}")
    whole = (photos / "new-000000.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    result, said = told(world, copied, more)
    assert {"embed", "baseline", "distill"} <= set(result.done)
    assert "embed-text" not in result.done
    assert len(load_embeddings(copied / "embeddings").rows) == 66
    assert dict(row[:2] for row in said.tables[0].rows)["embed"] == (
        "again: 60 pictures became 67 pictures"
    )
    summary = [one for one in result.summary() if isinstance(one, str)]
    place = summary.index("Images that could not be used (1):")
    assert summary[place + 1].startswith("  truncated.jpg: cannot be decoded")


def test_without_labels_some_pictures_are_held_out(
    copied: Path, world: Path, options: RunOptions
) -> None:
    result, _ = told(world, copied, replace(options, labelled=None, holdout=0.4))
    held = {path.name for path in (copied / "holdout").rglob("*.jpg")}
    learnt = (copied / "training.txt").read_text().split()
    assert len(held) + len(learnt) == 60
    assert not held & {Path(name).name for name in learnt}
    assert result.evaluation is not None
    assert result.evaluation.images == len(held)
    assert not result.evaluation.labelled
    predictions = json.loads((copied / "predictions.json").read_text())
    assert all(Path(picture["path"]).is_file() for picture in predictions["pictures"])


def test_views_are_embedded_and_trained_on(copied: Path, world: Path, options: RunOptions) -> None:
    result, _ = told(world, copied, replace(options, views=1, criterion="l1", warmup=0.0))
    views = load_embeddings(copied / "embeddings").views()
    assert views is not None
    assert views.spec.count == 1
    assert (copied / "replaced" / "embeddings-1" / "meta.json").is_file()
    assert {"embed", "distill"} <= set(result.done)
    assert "embed labelled" not in result.done
    card = json.loads((copied / "student" / "student.json").read_text())
    assert '"l1"' in json.dumps(card)
    again, _ = told(world, copied, replace(options, views=1, criterion="l1", warmup=0.0))
    assert not again.done


def test_killed_again_and_again_it_ends_with_the_same_files(
    finished: RunResult, world: Path, options: RunOptions, tmp_path: Path
) -> None:
    out, dice = tmp_path / "run", random.Random(5)
    out.mkdir()
    kills = 0
    for _ in range(4):
        moment = soon_after(changed(out / "run.json"), dice.uniform(0, 0.6))
        kills += killed_when(moment, run, world / "prompts.txt", out, options)
    assert kills >= 2
    run_to_end(run, world / "prompts.txt", out, options)
    mine, theirs = contents(out), contents(finished.out)
    assert set(mine) == set(theirs)
    assert [name for name in mine if mine[name] != theirs[name]] == []
    record = load_run(RunFolder(out))
    assert [step.name for step in record.steps] == [one.name for one in finished.plan]
    assert not record.unfinished


def test_stopped_by_a_signal_in_a_step_it_ends_with_the_same_files(
    finished: RunResult, world: Path, options: RunOptions, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    moment = Moment("clipdistill.distillation.trainer", "Trainer", "_step", 2)
    arguments = (world / "prompts.txt", out, options)
    check_stopped(run, arguments, tmp_path / "log", moment, signal.SIGTERM)
    assert [step.name for step in load_run(RunFolder(out)).unfinished] == ["distill"]
    assert (out / "student" / "checkpoint.pth").is_file()
    run_to_end(run, *arguments)
    mine, theirs = contents(out), contents(finished.out)
    assert set(mine) == set(theirs)
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_a_failure_names_the_step_and_the_same_command_goes_on(
    copied: Path, world: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> str:
        raise OutputError("No space left on the moon.")

    other = replace(options, classifier="dense", calibrate=False)
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure_models", fail)
        with pytest.raises(OutputError) as raised:
            run(world / "prompts.txt", copied, other)
    text = str(raised.value)
    assert text.startswith("The step 'evaluate' failed: No space left on the moon. ")
    assert "the same command resumes" in text
    result, said = told(world, copied, other)
    assert set(result.done) == {"evaluate", "report"}
    assert dict(row[:2] for row in said.tables[0].rows)["evaluate"] == "resume where it stopped"


def test_two_runs_do_not_share_a_folder(
    copied: Path, world: Path, options: RunOptions, tmp_path: Path
) -> None:
    with (
        holding(copied, tmp_path / "ready", folder=True),
        pytest.raises(OutputError, match="is writing it now"),
    ):
        run(world / "prompts.txt", copied, options)


def test_a_dry_run_writes_nothing_but_the_probe(
    world: Path, options: RunOptions, tmp_path: Path, finished: RunResult
) -> None:
    out = tmp_path / "new"
    result = run(world / "prompts.txt", out, options, dry_run=True)
    assert [path.name for path in out.rglob("*")] == ["probe.json"]
    assert {one.action for one in result.plan} == {"new"}
    assert result.estimate[0].startswith("About ")
    assert not result.done
    before = stamps(finished.out)
    again = run(world / "prompts.txt", finished.out, replace(options, num_epochs=3), dry_run=True)
    reasons = {one.name: one.reason for one in again.plan}
    assert reasons["distill"] == "num_epochs was 1, now 3"
    assert stamps(finished.out) == before


def test_a_damaged_evaluation_is_refused_in_a_sentence_whose_remedy_works(
    copied: Path, world: Path, options: RunOptions
) -> None:
    path = RunFolder(copied).evaluation
    whole = path.read_bytes()
    lacking = json.loads(whole)
    del lacking["rows"][0]["agreement"]
    wrong = json.loads(whole)
    wrong["images"] = "many"
    for data, words in (
        (json.dumps(lacking).encode(), r"rows\[0\]\.agreement is missing"),
        (json.dumps(wrong).encode(), "images: expected a whole number, found 'many'"),
        (whole[: len(whole) // 2], "JSON"),
        (whole.replace(b'"version": 1', b'"version": 2', 1), "version 2 is newer"),
    ):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=rf"evaluation\.json: .*{words}"):
            run(world / "prompts.txt", copied, options, dry_run=True)
    path.unlink()
    again = run(world / "prompts.txt", copied, options)
    assert list(again.done) == ["evaluate"]
    assert again.evaluation is not None


def test_settings_go_to_a_file_and_come_from_one(
    world: Path, options: RunOptions, finished: RunResult, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    run(world / "prompts.txt", finished.out, options, save_config=file)
    again = run(world / "prompts.txt", finished.out, config=file)
    assert not again.done
    given = RunOptions(num_epochs=2)
    planned = run(world / "prompts.txt", finished.out, given, config=file, dry_run=True)
    reasons = {one.name: one.reason for one in planned.plan}
    assert reasons["distill"] == "num_epochs was 1, now 2"


def test_the_folder_of_a_run_alone_takes_its_prompts_and_settings(
    finished: RunResult, tmp_path: Path
) -> None:
    assert not run(finished.out).done
    more = run(finished.out, options=RunOptions(num_epochs=2), dry_run=True)
    reasons = {one.name: one.reason for one in more.plan}
    assert reasons["distill"] == "num_epochs was 1, now 2"
    with pytest.raises(InputError, match=r"OUT is missing.*the folder of an earlier run") as raised:
        run(tmp_path)
    assert raised.value.exit_code == 2


def test_epochs_fit_into_a_time_and_stay_when_it_runs_again(
    world: Path, options: RunOptions, tmp_path: Path
) -> None:
    out, listener = tmp_path / "out", Listener()
    timed = replace(options, num_epochs=50, time_budget="1s")
    with reporting(listener):
        run(world / "prompts.txt", out, timed)
    [line] = [line for line in listener.lines if "--time-budget 1s" in line]
    epochs = int(line.split()[0])
    assert len((out / "student" / "metrics.jsonl").read_text().splitlines()) == epochs
    again = run(world / "prompts.txt", out, timed)
    assert not again.done
    # With fewer seconds, fewer epochs: the student is trained again.
    shorter = replace(timed, time_budget="0.5s")
    planned = run(world / "prompts.txt", out, shorter, dry_run=True)
    [reason] = [one.reason for one in planned.plan if one.name == "distill"]
    assert reason.startswith(f"num_epochs was {epochs}, now ")


def test_views_are_advised_for_few_images(world: Path, options: RunOptions, tmp_path: Path) -> None:
    for name, views in (("plain", None), ("views", 1)):
        listener = Listener()
        with reporting(listener):
            run(world / "prompts.txt", tmp_path / name, replace(options, views=views))
        advised = [line for line in listener.lines if "Add: --views 3" in line]
        assert bool(advised) == (views is None)


@pytest.mark.parametrize(
    ("change", "images", "advised"),
    [
        ({}, 300, True),
        ({"num_epochs": 15}, 300, False),
        ({}, 1000, False),
        ({"pretrained": False}, 300, False),
        ({"fit_projection": False}, 300, False),
    ],
)
def test_a_short_training_is_advised_for_few_images(
    change: dict[str, Any], images: int, advised: bool
) -> None:
    options = RunOptions(images=Path("photos"), **change)
    context = SimpleNamespace(inputs=SimpleNamespace(items=range(images)), options=options)
    planned = [SimpleNamespace(runs=True, step=SimpleNamespace(name="embed"))]
    found = [line for line in _few_images(context, planned) if "--num-epochs 15" in line]
    assert bool(found) is advised
    assert all(line.startswith("300 images: with so few, ") for line in found)


@pytest.mark.parametrize(
    ("change", "size", "views"),
    [
        ({}, False, False),
        ({"image_size": 160}, False, False),
        ({"image_size": 96}, True, True),
        ({"image_size": 96, "views": 3}, True, False),
        ({"image_size": 64, "pretrained": False}, False, True),
    ],
)
def test_larger_images_and_views_are_advised_where_few_images_are_small(
    change: dict[str, Any], size: bool, views: bool
) -> None:
    options = RunOptions(images=Path("photos"), **change)
    context = SimpleNamespace(inputs=SimpleNamespace(items=range(300)), options=options)
    planned = [SimpleNamespace(runs=True, step=SimpleNamespace(name="embed"))]
    said = " ".join(_few_images(context, planned))
    assert ("--image-size 160" in said, "--views 3" in said) == (size, views)


def test_a_student_is_chosen_by_size(world: Path, options: RunOptions, tmp_path: Path) -> None:
    chosen = replace(options, student="auto", max_size=6.0)
    planned = run(world / "prompts.txt", tmp_path / "out", chosen, dry_run=True)
    [about] = [one.about for one in planned.plan if one.name == "distill"]
    assert about == "train lcnet_050 to reproduce the teacher's embeddings"


def test_pretrained_weights_that_cannot_be_had_stop_it_before_anything_is_embedded(
    world: Path, options: RunOptions, tmp_path: Path
) -> None:
    """No hub can be reached in tests."""
    asked = replace(options, student="resnet18", pretrained=True)
    with pytest.raises(ModelNotFoundError, match=r"--student-weights FILE.*--no-pretrained"):
        run(world / "prompts.txt", tmp_path / "out", asked)
    assert not (tmp_path / "out" / "embeddings").exists()


def test_whatever_is_wrong_is_said_before_anything_is_done(
    world: Path, options: RunOptions, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    empty, no_label = tmp_path / "empty", tmp_path / "labels"
    empty.mkdir()
    shutil.copytree(world / "labelled" / "cat", no_label / "cta")
    (tmp_path / "blank.txt").write_text("# nothing\n")
    good = world / "prompts.txt"
    cases: list[tuple[Path, RunOptions, str]] = [
        (good, replace(options, images=empty), "no images found"),
        (good, replace(options, images=tmp_path / "none"), "no such folder"),
        (tmp_path / "blank.txt", options, "no prompts in it"),
        (good, replace(options, labelled=no_label), "Did you mean cat"),
        (good, replace(options, images=None), "Give --images FOLDER"),
    ]
    for prompts_file, wrong, said in cases:
        with pytest.raises(InputError) as raised:
            run(prompts_file, out, wrong)
        assert said in str(raised.value)
    assert not out.exists()
    with pytest.raises(ModelNotFoundError, match="test_resnet"):
        run(good, out, replace(options, student="test_resnett"))
    assert [path.name for path in out.rglob("*")] == []


@pytest.mark.parametrize("columns", [80, 120])
def test_the_plan_fits_the_terminal_and_a_pipe_has_no_colours(
    finished: RunResult, world: Path, options: RunOptions, columns: int
) -> None:
    words = [*line(world, finished.out, replace(options, num_epochs=3)), "--dry-run"]
    command = [sys.executable, "-m", "clipdistill", *words]
    table = on_terminal(command, columns, NO_COLOR="1").partition("About ")[0]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", table)
    assert max(map(len, plain.splitlines())) <= columns
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(r"distill +again: num_epochs was 1, now 3", done.stdout)


def test_the_command_prints_one_json_object(
    finished: RunResult, world: Path, options: RunOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*line(world, finished.out, options), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["classifier"].endswith("classifier.onnx")
    assert {one["action"] for one in value["plan"]} == {"kept"}


SHARED = Path(__file__).parents[3] / "shared"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the photos beside the repository are not there")
def test_from_prompts_to_an_int8_classifier_of_real_photos(tmp_path: Path) -> None:
    photos, labelled = tmp_path / "photos", tmp_path / "labelled"
    photos.mkdir()
    for path in sorted((SHARED / "photos" / "unlabelled").glob("*.jpg"))[:80]:
        (photos / path.name).symlink_to(path)
    kinds = sorted(path for path in (SHARED / "photos" / "labelled").iterdir() if path.is_dir())
    for kind in kinds:
        (labelled / kind.name).mkdir(parents=True)
        for path in sorted(kind.iterdir())[:2]:
            (labelled / kind.name / path.name).symlink_to(path)
    words = tmp_path / "prompts.txt"
    words.write_text("".join(f"{kind.name}\n" for kind in kinds))
    options = RunOptions(
        images=photos,
        labelled=labelled,
        student="test_resnet",
        pretrained=False,
        image_size=32,
        num_epochs=1,
        teacher=f"local-dir:{SHARED / 'teachers' / 'lit-efficientnet-lite2'}",
        qat=True,
        fine_tuning_epochs=1,
        benchmark=False,
        device="cpu",
    )
    result = run(words, tmp_path / "out", options)
    assert result.baseline is not None
    assert result.baseline.accuracy is not None
    assert result.baseline.accuracy > 0.6
    assert result.report is not None
    shown = predict(str(result.classifier), str(next(labelled.rglob("*.jpg"))))
    assert shown.classes == len(kinds)
