"""Which steps run when something changes, and what is said about it; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.errors import OutputError
from clipdistill.formats.probe import Probe
from clipdistill.formats.prompts import parse_prompts
from clipdistill.formats.run import RunFolder, RunRecord, StepRecord, load_run, save_run
from clipdistill.images.sources import ImageItem
from clipdistill.measure.task import Labels
from clipdistill.pipeline import fingerprints
from clipdistill.pipeline.context import RunContext
from clipdistill.pipeline.estimate import costed
from clipdistill.pipeline.inputs import Inputs
from clipdistill.pipeline.options import RunOptions
from clipdistill.pipeline.plan import Planned, decide, plan
from clipdistill.pipeline.record import Recorder
from clipdistill.pipeline.run import earlier
from clipdistill.pipeline.steps import steps_of
from clipdistill.pipeline.steps.step import Step

PROMPTS = "cat\na dog\n"
LABELLED = RunOptions(images=Path("photos"), labelled=Path("labelled"), sparse=True, qat=True)
UNLABELLED = RunOptions(images=Path("photos"), sparse=True, qat=True)
SEARCHED = RunOptions(search="commons", contact="me@home.org")
AFTER_DENSE = {
    "distill",
    "distill sparse-int8",
    "export dense cpu",
    "export sparse-int8 cpu",
    "export dense trt",
    "export sparse-int8 trt",
    "classifier",
    "calibrate",
    "evaluate",
    "benchmark",
    "report",
}
AFTER_TEXT = {"embed-text", "class vectors", "baseline", *AFTER_DENSE} - {
    "distill",
    "distill sparse-int8",
}
MEASURED = {"evaluate", "benchmark", "report"}


def items(count: int, *, changed: int = 0) -> list[ImageItem]:
    """Pictures that are never read."""
    return [
        ImageItem(f"{index}.jpg", Path(f"{index}.jpg"), 10 + (index < changed), 5)
        for index in range(count)
    ]


def a_run(
    options: RunOptions,
    *,
    prompts: str = PROMPTS,
    pictures: int = 400,
    changed: int = 0,
    labelled: int = 60,
    out: Path = Path("out"),
) -> RunContext:
    """A run of images that are never read."""
    classes = parse_prompts(prompts)
    shown, known = items(pictures, changed=changed), items(labelled)
    digests = {
        "prompts": fingerprints.of_prompts(classes),
        "pictures": fingerprints.of_images(shown),
        "labelled": fingerprints.of_images(known) if options.labelled else "",
        "teacher files": "files",
    }
    truths = np.eye(2, dtype=bool)[[0] * len(known)]
    measured = Labels(known, truths, truths.argmax(axis=1)) if options.labelled else None
    inputs = Inputs(classes, shown, measured, digests, ("onnxruntime", "openvino"))
    return RunContext(Path("prompts.txt"), RunFolder(out), options, inputs, report=True)


def finished(steps: Iterable[Step]) -> RunRecord:
    """The record of a run in which all steps were done."""
    results: dict[str, str] = {}
    records = []
    for step in steps:
        fingerprint = step.fingerprint(results)
        records.append(
            StepRecord(
                name=step.name,
                command=step.command,
                fingerprint=fingerprint,
                seconds=1.0,
                outputs=step.outputs,
                settings=step.settings,
                inputs=step.all_inputs(results),
                result=fingerprint,
            )
        )
        results[step.name] = fingerprint
    return RunRecord({}, tuple(records), {}, "", "", "now")


def planned(
    now: RunContext, record: RunRecord | None, missing: Iterable[str] = ()
) -> list[Planned]:
    """The plan when everything exists that is not missing."""
    gone = set(missing)
    return plan(steps_of(now), record, lambda path: path not in gone)


def running(steps: Iterable[Planned]) -> set[str]:
    """Names of the steps that run."""
    return {one.step.name for one in steps if one.runs}


def reasons(steps: Iterable[Planned]) -> dict[str, str]:
    """Why each step runs again."""
    return {one.step.name: one.reason for one in steps if one.reason}


def test_at_first_everything_is_new_and_afterwards_kept() -> None:
    now = a_run(LABELLED)
    first = planned(now, None)
    assert {one.action for one in first} == {"new"}
    again = planned(now, finished(steps_of(now)))
    assert {one.action for one in again} == {"kept"}


CHANGES = {
    "num_epochs": ({"num_epochs": 60}, AFTER_DENSE),
    "lr": ({"lr": 0.01}, AFTER_DENSE),
    "image_size": ({"image_size": 96}, AFTER_DENSE),
    "student": ({"student": "resnet34"}, AFTER_DENSE),
    "seed": ({"seed": 1}, AFTER_DENSE),
    "fine_tuning_epochs": (
        {"fine_tuning_epochs": 3},
        AFTER_DENSE - {"distill", "export dense cpu", "export dense trt"},
    ),
    "teacher": (
        {"teacher": "ViT-L-14/openai"},
        AFTER_DENSE | {"embed", "embed labelled", "embed-text", "class vectors", "baseline"},
    ),
    "template": ({"template": ("a photo of {}",)}, AFTER_TEXT),
    "target": ({"target": "tensorrt"}, {"classifier", "calibrate", "evaluate", "report"}),
    "classifier": ({"classifier": "dense"}, {"classifier", "calibrate", "evaluate", "report"}),
    "calibrate": ({"calibrate": False}, {"evaluate", "report"}),
    "rounds": ({"rounds": 9}, {"benchmark", "report"}),
    "device": ({"device": "cpu"}, {"evaluate", "benchmark", "report"}),
    "num_workers": ({"num_workers": 1}, set()),
    "precision": ({"precision": "bf16"}, set()),
    "criterion": ({"criterion": "l1"}, AFTER_DENSE),
    "fine_tuning_lr": (
        {"fine_tuning_lr": 0.01},
        AFTER_DENSE - {"distill", "export dense cpu", "export dense trt"},
    ),
    "views": ({"views": 2}, AFTER_DENSE | {"embed", "class vectors", "baseline"}),
    "adapt": ({"adapt": False}, AFTER_TEXT - {"embed-text"}),
    "independent": ({"independent": True}, AFTER_TEXT - {"embed-text"}),
    "compare": (
        {"compare": True},
        {f"distill {name}" for name in ("sparse", "int8")}
        | {f"export {name} {where}" for name in ("sparse", "int8") for where in ("cpu", "trt")}
        | MEASURED,
    ),
    "less": ({"qat": False, "sparse": False}, {"classifier", "calibrate", *MEASURED}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_option_reruns_what_depends_on_it(name: str) -> None:
    change, expected = CHANGES[name]
    before = finished(steps_of(a_run(LABELLED)))
    again = planned(a_run(replace(LABELLED, **change)), before)
    assert running(again) == expected


def test_other_prompts_never_embed_or_train_again() -> None:
    before = finished(steps_of(a_run(LABELLED)))
    again = planned(a_run(LABELLED, prompts="cat\na dog\nfish\n"), before)
    assert running(again) == AFTER_TEXT
    assert reasons(again)["embed-text"] == "2 labels became 3 labels"


def test_comments_in_the_prompts_change_nothing() -> None:
    before = finished(steps_of(a_run(LABELLED)))
    assert not running(planned(a_run(LABELLED, prompts="# mine\ncat\n\na dog\n"), before))


def test_more_pictures_go_all_the_way() -> None:
    before = finished(steps_of(a_run(UNLABELLED)))
    again = planned(a_run(UNLABELLED, pictures=420), before)
    assert running(again) == {"embed", "class vectors", "baseline", "hold out", *AFTER_DENSE}
    assert reasons(again)["embed"] == "400 pictures became 420 pictures"
    assert reasons(again)["distill"] == "embed and hold out run first"


def test_other_labelled_pictures_only_measure_again() -> None:
    before = finished(steps_of(a_run(LABELLED)))
    again = planned(a_run(LABELLED, labelled=61), before)
    assert running(again) == {"embed labelled", "baseline", "calibrate", *MEASURED}


def test_another_share_held_out_trains_again() -> None:
    before = finished(steps_of(a_run(UNLABELLED)))
    again = planned(a_run(replace(UNLABELLED, holdout=0.2)), before)
    assert running(again) == {"hold out", *AFTER_DENSE}
    assert reasons(again)["hold out"] == "holdout was 0.1, now 0.2"


def test_labelled_images_for_an_earlier_run_train_nothing_again(tmp_path: Path) -> None:
    record = finished(steps_of(a_run(UNLABELLED)))
    folder = RunFolder(tmp_path)
    save_run(folder, replace(record, settings=UNLABELLED.to_settings()))
    now = RunOptions(labelled=Path("labelled")).over(earlier(folder))
    again = planned(a_run(now), record)
    assert running(again) == {"embed labelled", "baseline", "calibrate", *MEASURED}


def test_only_options_that_decide_what_is_kept_download_again() -> None:
    before = finished(steps_of(a_run(SEARCHED)))
    same = planned(a_run(replace(SEARCHED, timeout=3.0, max_workers=1)), before)
    assert not running(same)
    again = planned(a_run(replace(SEARCHED, min_size=100)), before)
    assert "download" in running(again)
    assert reasons(again)["download"] == "min_size was the default, now 100"
    assert "search" not in running(again)


PROBE = Probe(
    of="",
    seconds=1.0,
    load_seconds=2.0,
    decode_rate=100.0,
    teacher_rate=50.0,
    training_rate=30.0,
    dim=512,
    image_size=64,
    parameters=1_000_000,
    device="cpu",
)


def test_every_step_has_its_estimate() -> None:
    now = replace(LABELLED, num_epochs=10)
    costs = {one.name: one for one in costed(planned(a_run(now), None), PROBE)}
    assert costs["embed"].seconds == pytest.approx(2 + 400 * (1 / 50 + 1 / 100))
    assert costs["embed"].disk_bytes == 400 * 512 * 2
    assert costs["distill"].seconds == pytest.approx(
        10 * 400 / 30 + 400 / 100 + 400 / (3 * 30)  # the last: fitting the projection
    )
    both = costs["distill sparse-int8"].seconds  # 2:4 for ten epochs, then INT8 for two
    assert both == pytest.approx((10 * 1.1 + 2 * 2) * 400 / 30)
    assert all((one.seconds or 0) > 0 for one in costs.values())
    searched = {one.name: one for one in costed(planned(a_run(SEARCHED), None), PROBE)}
    assert searched["search"].seconds is searched["download"].seconds is None
    # 200 images for each of two prompts, at most.
    assert searched["embed"].disk_bytes == 2 * 200 * 512 * 2


def test_with_a_search_other_prompts_look_for_other_pictures() -> None:
    before = finished(steps_of(a_run(SEARCHED)))
    again = planned(a_run(SEARCHED, prompts="cat\n"), before)
    assert {"search", "download", "embed", "distill"} <= running(again)


def test_a_reason_names_what_was_and_what_is() -> None:
    before = finished(steps_of(a_run(replace(LABELLED, image_size=64))))
    again = reasons(planned(a_run(replace(LABELLED, image_size=96)), before))
    assert again["distill"] == "image_size was 64, now 96"
    changed = reasons(planned(a_run(replace(LABELLED, image_size=64), changed=1), before))
    assert changed["embed"] == "pictures changed"
    back = reasons(planned(a_run(LABELLED), before))
    assert back["distill"] == "image_size was 64, now the default"


def test_what_is_missing_is_made_again() -> None:
    now = a_run(LABELLED)
    again = planned(now, finished(steps_of(now)), missing=["student/student.json"])
    assert reasons(again)["distill"] == "student/student.json is missing"
    assert running(again) == AFTER_DENSE


def test_a_step_that_writes_into_anothers_files_follows_it() -> None:
    """The calibration lies in text.json: whoever writes that anew has to calibrate anew."""
    now = a_run(LABELLED)
    record = finished(steps_of(now))
    step = next(one for one in steps_of(now) if one.name == "calibrate")
    results = {one.name: one.result for one in record.steps}
    assert not decide(step, record, results, lambda path: True).runs
    again = decide(step, record, results, lambda path: True, (), ["embed-text"])
    assert again.reason == "embed-text runs first"


def test_a_step_whose_inputs_came_out_the_same_is_kept_after_all() -> None:
    """Touched pictures are looked at again; the same embeddings train nobody again."""
    now = a_run(LABELLED, changed=3)
    record = finished(steps_of(a_run(LABELLED)))
    assert "distill" in running(planned(now, record))
    results = {one.name: one.result for one in record.steps}
    step = next(one for one in steps_of(now) if one.name == "distill")
    assert not decide(step, record, results, lambda path: True).runs


def test_an_interrupted_step_goes_on_unless_its_settings_changed(tmp_path: Path) -> None:
    now = a_run(UNLABELLED, out=tmp_path)
    recorder = Recorder(now.folder, now.options)
    results: dict[str, str] = {}
    steps = steps_of(now)
    number = [step.name for step in steps].index("distill")
    for step in steps[:number]:
        recorder.begin(step, results)
        recorder.finish(step.name, 1.0, "", step.outputs)
        results[step.name] = recorder.record.known()[step.name].result
    step = steps[number]
    recorder.begin(step, results)
    recorder.interrupted(step.name, 5.0)
    actions = {one.step.name: one.action for one in planned(now, load_run(now.folder))}
    assert actions["hold out"] == "kept"
    assert actions["distill"] == "resume"
    other = planned(a_run(replace(UNLABELLED, num_epochs=9)), load_run(now.folder))
    assert reasons(other)["distill"] == "num_epochs was 50, now 9"
    again = Recorder(now.folder, now.options)
    assert again.resumes(step, results)
    again.begin(step, results)
    again.finish(step.name, 2.0, "", step.outputs)
    assert load_run(now.folder).known()["distill"].seconds == pytest.approx(7.0)


def test_only_what_a_run_made_is_moved_away(tmp_path: Path) -> None:
    now = a_run(LABELLED, out=tmp_path)
    recorder = Recorder(now.folder, now.options)
    mine = tmp_path / "student"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear diary")
    step = next(one for one in steps_of(now) if one.name == "distill")
    with pytest.raises(OutputError, match="did not make it"):
        recorder.set_aside(step)
    assert (mine / "diary.txt").read_text() == "dear diary"
    results = dict.fromkeys(step.after, "x")
    recorder.begin(step, results)
    for number in (1, 2):
        mine.mkdir(exist_ok=True)
        recorder.set_aside(step)
        assert (tmp_path / "replaced" / f"student-{number}").is_dir()
        assert not mine.exists()


def test_steps_that_are_no_longer_asked_for_are_remembered(tmp_path: Path) -> None:
    now = a_run(LABELLED, out=tmp_path)
    recorder = Recorder(now.folder, now.options)
    results: dict[str, str] = {}
    for step in steps_of(now):
        recorder.begin(step, results)
        recorder.finish(step.name, 1.0, "", step.outputs)
        results[step.name] = recorder.record.known()[step.name].result
    recorder.complete([step.name for step in steps_of(now)])
    less = replace(LABELLED, sparse=False, qat=False)
    recorder = Recorder(now.folder, less)
    recorder.complete([step.name for step in steps_of(a_run(less))])
    record = load_run(now.folder)
    assert "distill sparse-int8" in {step.name for step in record.others}
    assert "distill sparse-int8" not in running(planned(now, record))


@pytest.mark.parametrize("options", [LABELLED, UNLABELLED, SEARCHED], ids=["l", "u", "s"])
def test_every_step_names_what_it_makes_below_the_folder(options: RunOptions) -> None:
    steps = steps_of(a_run(options))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for number, step in enumerate(steps):
        assert set(step.after) <= set(names[:number])
        assert not any(path.startswith(("/", "..")) for path in step.outputs)
        assert step.command or step.name in ("baseline", "hold out", "classifier")
