"""run: the whole road, from prompts to a classifier and its report, in one command."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import ClipDistillError, MismatchError, MissingExtraError
from ..core.files import ensure_folder, locked, write_bytes
from ..core.progress import message, show_table
from ..core.results import Result, Table, list_some
from ..core.wording import percent
from ..formats.embeddings import Failure, read_failures
from ..formats.measurements import (
    Baseline,
    ModelEvaluation,
    find_measurement,
    save_measurement,
)
from ..formats.probe import Probe, load_probe, save_probe
from ..formats.run import RunFolder
from ..images.sources import list_images
from ..measure.benchmark import BenchmarkOptions, benchmark
from ..measure.calibration import LEAST_IMAGES
from ..measure.evaluate import EvaluateResult, evaluate
from .baseline import measure, sentence, table, warnings
from .estimate import CostedStep, costed, plan_table, short_of_space, totals
from .fingerprints import of_embedded
from .holdout import hold_out
from .inputs import look_at
from .options import RunOptions
from .plan import Planned, decide, plan
from .probe import probe, what_is_probed
from .record import Recorder, existing_record
from .settings_file import load_settings, save_settings
from .steps import (
    RACE_BATCH,
    RACE_LIMIT,
    Road,
    Step,
    distill_options,
    evaluated_teacher,
    measuring_device,
    models_to_evaluate,
    models_to_race,
    steps_of,
)

REPORT_NEEDS = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class Row:
    """One model in the final table.

    Attributes:
        model: "teacher", or a student.
        runtime: what ran it.
        accuracy: zero-shot top-1 on labelled pictures, 0 to 1; None without labels.
        agreement: share of pictures given the teacher's own label.
        cosine: mean cosine with the teacher's embeddings.
        size_mb: of the weights on disk, 10^6 bytes.
        latency_ms: median time of one picture, batch 1.
    """

    model: str
    runtime: str
    accuracy: float | None
    agreement: float | None
    cosine: float | None
    size_mb: float
    latency_ms: float


def rows_of(result: EvaluateResult) -> tuple[Row, ...]:
    """The final table of what `evaluate` found: the teacher, the dense student, then files."""
    return tuple(
        Row(
            _short_name(one),
            one.runtime,
            one.accuracy,
            one.agreement,
            one.cosine,
            one.size_mb,
            one.latency_ms,
        )
        for one in result.rows
    )


def _short_name(one: ModelEvaluation) -> str:
    if one.role == "teacher":
        return "teacher"
    return Path(one.model).stem if one.model.endswith(".onnx") else "student"


def results_table(title: str, rows: Sequence[Row]) -> Table:
    """Rows for a terminal."""
    labelled = any(row.accuracy is not None for row in rows)
    accuracy = (">accuracy",) if labelled else ()
    lines = tuple(
        (
            row.model,
            row.runtime,
            *((percent(row.accuracy),) if labelled else ()),
            percent(row.agreement),
            "-" if row.cosine is None else f"{row.cosine:.3f}",
            f"{row.size_mb:.1f}",
            f"{row.latency_ms:.1f}",
        )
        for row in rows
    )
    columns = ("model", "runtime", *accuracy, ">agreement", ">cosine", ">MB", ">ms")
    return Table(title, columns, lines)


@dataclass(frozen=True, repr=False)
class RunResult(Result):
    """What `run` did, or with --dry-run would do.

    Attributes:
        out: the run's folder.
        dry_run: whether only the plan was made.
        plan: every step, and what was planned for it.
        estimate: the plan's costs, in sentences.
        done: steps that were done now, with the seconds they took.
        failures: pictures that could not be used, each with its reason.
        baseline: the teacher's; None until it is measured.
        evaluation: the results; None until they are there.
        classifier: the file that was asked for; None until it is there.
        report: the page; None where there is none.
        seconds: of this run.
    """

    out: Path
    dry_run: bool
    plan: tuple[CostedStep, ...]
    estimate: tuple[str, ...]
    done: dict[str, float]
    failures: tuple[Failure, ...]
    baseline: Baseline | None
    evaluation: EvaluateResult | None
    classifier: Path | None
    report: Path | None
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        if self.dry_run:
            return [plan_table(self.plan), *self.estimate, "Without --dry-run this is done."]
        lines: list[str | Table] = []
        if self.evaluation is not None:
            where = "labelled" if self.evaluation.labelled else "held-out"
            title = f"Zero-shot on {self.evaluation.images} {where} pictures"
            lines.append(results_table(title, rows_of(self.evaluation)))
        if self.baseline is not None:
            lines += [sentence(self.baseline), *warnings(self.baseline)]
        title = f"Pictures that could not be used ({len(self.failures)}):"
        lines += list_some(title, [f"{one.image_path}: {one.reason}" for one in self.failures], 5)
        kept = len(self.plan) - len(self.done)
        lines.append(
            f"{len(self.done)} steps done in {self.seconds:.0f} s, {kept} kept from before."
        )
        lines.append(f"Classifier: {self.classifier}")
        if self.report is not None:
            lines.append(f"Report:     {self.report}")
        return [
            *lines,
            "Next:",
            f"  clipdistill predict {self.classifier} IMAGE",
            f"  clipdistill demo {self.classifier} --camera 0",
        ]


def run(
    prompts: Path,
    out: Path,
    options: RunOptions = RunOptions(),
    *,
    config: Path | None = None,
    save_config: Path | None = None,
    dry_run: bool = False,
) -> RunResult:
    """Go the whole road: from prompts and pictures to a classifier and a report.

    First comes the plan: every step, what is done already and kept, what runs again and why, and
    about how much time and disk the rest takes (a probe of some seconds measures the machine).
    Before anything is trained you see how well the teacher itself tells the classes apart on these
    pictures.

    It can be stopped at any time; the same command goes on.  With a changed option, other prompts
    or more pictures exactly the steps that depend on them run again.  What was trained with
    settings that have changed is moved to OUT/replaced, never deleted.

    Args:
        prompts: text file, a prompt a line; `label<TAB>prompt` gives a label several prompts.
        out: folder for everything.
        options: what to make, of what, and how.
        config: TOML file with settings of this command; those given beside it win.
        save_config: write the settings to this TOML file, and go on.
        dry_run: make the plan and stop; only the probe's figures are kept, in OUT/probe.json.

    Raises:
        InputError: prompts, pictures, labels or a setting are missing or wrong.
        OutputError: `out` cannot be written to, or another run is at it.
    """
    start = time.monotonic()
    folder = RunFolder(Path(out))
    if config is not None:
        options = options.over(load_settings(Path(config)))
    options.check()
    inputs = look_at(Path(prompts), folder, options)
    if save_config is not None:
        save_settings(Path(save_config), options)
        message(f"Settings written: {save_config}")
    ensure_folder(folder.out)
    road = Road(Path(prompts), folder, options, inputs, _can_report())
    with contextlib.nullcontext() if dry_run else locked(folder.out, "run"):
        planned = plan(steps_of(road), existing_record(folder), _exists(folder))
        measured = _probed(road, planned)
        steps = costed(planned, measured, inputs, options)
        about = (*totals(steps, measured), *short_of_space(steps, folder.out))
        done: dict[str, float] = {}
        if not dry_run:
            _announce(planned, steps, about)
            done = _walk(road, planned)
    return _result(road, dry_run, steps, about, done, time.monotonic() - start)


def _can_report() -> bool:
    """Whether what reports need is installed."""
    missing = [one for one in REPORT_NEEDS if importlib.util.find_spec(one) is None]
    if missing:
        message(f"Left out: {MissingExtraError(missing[0], 'report', 'The report')}")
    return not missing


def _exists(folder: RunFolder) -> Callable[[str], bool]:
    return lambda path: (folder.out / path).exists()


def _probed(road: Road, planned: list[Planned]) -> Probe | None:
    """What the probe measured: remembered, or measured now if anything takes long."""
    if not any(one.runs for one in planned):
        return None
    path = road.folder.probe
    found = load_probe(path, what_is_probed(road.options))
    if found is None and any(one.runs and one.step.kind in ("embed", "distill") for one in planned):
        message("A short probe of teacher and student, for the estimate")
        found = probe(road.inputs.items, road.options)
        save_probe(path, found)
    return found


def _announce(
    planned: list[Planned], steps: tuple[CostedStep, ...], about: tuple[str, ...]
) -> None:
    if any(one.runs for one in planned):
        show_table(plan_table(steps))
    for line in about:
        message(line)


def _walk(road: Road, planned: list[Planned]) -> dict[str, float]:
    """Do what has to be done; returns the steps that were done, with their seconds."""
    folder = road.folder
    expected = {one.step.name for one in planned if one.runs}
    recorder = Recorder(folder, road.options)
    if expected:
        _copy_prompts(road)
    results: dict[str, str] = {}
    done: dict[str, float] = {}
    steps = steps_of(road)
    number = 0
    while number < len(steps):
        step, number = steps[number], number + 1
        changed = [name for name in step.changes if name in done]
        decision = decide(step, recorder.record, results, _exists(folder), (), changed)
        if decision.runs:
            message(f"{number}/{len(steps)} {step.name}: {step.about}")
            if step.kind == "report":  # it tells of a finished run
                recorder.complete([one.name for one in steps if one.kind != "report"])
            done[step.name] = _do(road, recorder, step, results)
        elif step.name in expected:
            message(f"{number}/{len(steps)} {step.name}: what it uses came out the same; kept")
        results[step.name] = recorder.record.known()[step.name].result
        if step.kind == "download":
            # Only now is it known which pictures there are.
            road = replace(road, inputs=look_at(road.prompts, folder, road.options))
            steps = steps_of(road)
    recorder.complete([step.name for step in steps])
    return done


def _copy_prompts(road: Road) -> None:
    target = road.folder.prompts
    data = road.prompts.read_bytes()
    if not target.is_file() or target.read_bytes() != data:
        write_bytes(target, data)


def _do(road: Road, recorder: Recorder, step: Step, results: dict[str, str]) -> float:
    """Do one step and record it; returns the seconds it took."""
    if step.kind in ANEW and not recorder.goes_on(step, results):
        for path in step.outputs:
            recorder.set_aside(path)
    recorder.begin(step, results)
    start = time.monotonic()
    with _naming(step, recorder, start):
        result = DOING[step.kind](road, recorder, step)
        seconds = time.monotonic() - start
        outputs = [path for path in step.outputs if _exists(road.folder)(path)]
        recorder.finish(step.name, seconds, result, outputs)
    return seconds


@contextlib.contextmanager
def _naming(step: Step, recorder: Recorder, start: float) -> Iterator[None]:
    """Name the step in whatever goes wrong in it, and keep account of its time."""
    try:
        yield
    except KeyboardInterrupt:
        recorder.interrupted(step.name, time.monotonic() - start)
        raise
    except ClipDistillError as error:
        recorder.interrupted(step.name, time.monotonic() - start)
        error.args = (
            f"The step {step.name!r} failed. {error} What was finished is kept; the same command "
            "goes on from there.",
        )
        raise


def _search(road: Road, recorder: Recorder, step: Step) -> str:
    from ..collect.search import search

    if not road.folder.urls.exists():  # it is written last, and was, when the run was stopped
        search(road.prompts, road.folder.urls, road.options.search_options())
    return ""


def _download(road: Road, recorder: Recorder, step: Step) -> str:
    from ..collect.download import download

    download(road.folder.urls, road.folder.images, road.options.download_options())
    return ""


def _embed(road: Road, recorder: Recorder, step: Step) -> str:
    """The result is which pictures are embedded, whatever their files' dates are."""
    from ..distillation.embed import embed
    from ..formats.embeddings import load_embeddings

    labelled = step.name == "embed labelled"
    images = road.options.labelled if labelled else road.images
    out = road.folder.labelled_embeddings if labelled else road.folder.embeddings
    assert images is not None
    model_name, pretrained = road.options.teacher_name()
    more: dict[str, Any] = {
        "model_name": model_name,
        "pretrained": pretrained,
        "device": road.options.device,
        "num_workers": road.options.num_workers,
    }
    try:
        embed(images, out, **more)
    except MismatchError:  # another teacher's
        recorder.set_aside(step.outputs[0])
        embed(images, out, **more)
    stored = load_embeddings(out)
    present = {item.key for item in list_images(images)}
    rows = sorted((row.image_path, row.content) for row in stored.rows if row.image_path in present)
    teacher = f"{stored.teacher} {stored.teacher.fingerprint}"
    return of_embedded([key for key, _ in rows], [content for _, content in rows], teacher)


def _embed_text(road: Road, recorder: Recorder, step: Step) -> str:
    from ..distillation.embed_text import embed_text

    model_name, pretrained = road.options.teacher_name()
    embed_text(
        road.prompts,
        road.folder.text,
        model_name=model_name,
        pretrained=pretrained,
        template=road.options.template,
        device=road.options.device,
    )
    return ""


def _measure_baseline(road: Road, recorder: Recorder, step: Step) -> str:
    folder = road.folder
    found = measure(
        folder.embeddings, folder.text, road.options.labelled, folder.labelled_embeddings
    )
    save_measurement(folder.baseline, found)
    show_table(table(found))
    for line in (sentence(found), *warnings(found)):
        message(line)
    return ""


def _hold_out(road: Road, recorder: Recorder, step: Step) -> str:
    options = road.options
    count = hold_out(list_images(road.images), options.held_out, options.seed, road.folder)
    message(f"{count} pictures are held out")
    return ""


def _distill(road: Road, recorder: Recorder, step: Step) -> str:
    from ..distillation.distill import distill

    folder = road.folder
    distill(
        road.options.student,
        road.images,
        folder.embeddings,
        folder.student(step.student),
        distill_options(road, step.student),
    )
    return ""


def _export(road: Road, recorder: Recorder, step: Step) -> str:
    """A file that was not asked for may be impossible; that stops nothing."""
    from ..deploy.export import export

    folder = road.folder
    path = folder.export(step.student, step.target)
    ensure_folder(path.parent)
    try:
        with _uncalibrated(folder.text) as text:
            export(str(folder.student(step.student)), path, text=text, target=step.target)
    except ClipDistillError as error:
        if step.target == road.options.target:
            raise
        message(f"Left out, for {step.target} only: {error}")
    return ""


@contextlib.contextmanager
def _uncalibrated(path: Path) -> Iterator[Path]:
    """Text embeddings as the teacher made them: a calibration is one student's alone."""
    from ..formats.text import load_text, save_text

    text = load_text(path)
    if text.calibration is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="clipdistill-") as folder:
        yield save_text(Path(folder) / path.name, replace(text, calibration=None))


def _classifier(road: Road, recorder: Recorder, step: Step) -> str:
    source = road.folder.export(step.student, step.target)
    write_bytes(road.folder.classifier, source.read_bytes())
    return ""


def _calibrate(road: Road, recorder: Recorder, step: Step) -> str:
    count = len(list_images(road.options.labelled or road.folder.holdout))
    if count < LEAST_IMAGES:
        message(f"Left out: {count} pictures are too few; {LEAST_IMAGES} are needed.")
        return ""
    evaluate(
        evaluated_teacher(road),
        str(road.folder.classifier),
        text=road.folder.text,
        calibrate=True,
        num_workers=road.options.num_workers,
        device=measuring_device(road),
        labelled=road.options.labelled,
        images=road.measuring_images,
    )
    return ""


def _evaluate(road: Road, recorder: Recorder, step: Step) -> str:
    folder = road.folder
    result = evaluate(
        *models_to_evaluate(road),
        text=folder.text,
        predictions=folder.predictions,
        num_workers=road.options.num_workers,
        device=measuring_device(road),
        labelled=road.options.labelled,
        images=road.measuring_images,
    )
    save_measurement(folder.evaluation, result)
    return ""


def _benchmark(road: Road, recorder: Recorder, step: Step) -> str:
    folder = road.folder
    # The chart needs an extra of its own; without it the table is there all the same.
    plot = folder.chart if importlib.util.find_spec("matplotlib") else None
    options = BenchmarkOptions(
        batch=RACE_BATCH,
        rounds=road.options.rounds,
        limit=RACE_LIMIT,
        plot=plot,
        device=measuring_device(road),
    )
    models = [model for model in models_to_race(road) if _is_there(model)]
    result = benchmark(
        *models,
        text=folder.text,
        options=options,
        labelled=road.options.labelled,
        images=road.measuring_images,
    )
    save_measurement(folder.benchmark, result)
    return ""


def _is_there(model: str) -> bool:
    """Whether a file that could not be exported is asked for."""
    return not model.endswith(".onnx") or Path(model.partition(":")[2]).is_file()


def _report(road: Road, recorder: Recorder, step: Step) -> str:
    from ..show.report import report

    try:
        report(road.folder.out)
    except MissingExtraError as error:
        message(f"Left out: {error}")
    return ""


DOING: dict[str, Callable[[Road, Recorder, Step], str]] = {
    "search": _search,
    "download": _download,
    "embed": _embed,
    "embed-text": _embed_text,
    "baseline": _measure_baseline,
    "hold out": _hold_out,
    "distill": _distill,
    "export": _export,
    "classifier": _classifier,
    "calibrate": _calibrate,
    "evaluate": _evaluate,
    "benchmark": _benchmark,
    "report": _report,
}
"""Kind of a step -> what does it; returns what tells its outcome from another one, or nothing."""
ANEW = ("search", "hold out", "distill")
"""Kinds whose outputs must not be there when they begin anew."""


def _result(
    road: Road,
    dry_run: bool,
    steps: tuple[CostedStep, ...],
    about: tuple[str, ...],
    done: dict[str, float],
    seconds: float,
) -> RunResult:
    folder = road.folder
    return RunResult(
        out=folder.out,
        dry_run=dry_run,
        plan=steps,
        estimate=about,
        done=done,
        failures=(*read_failures(folder.embeddings), *read_failures(folder.labelled_embeddings)),
        baseline=find_measurement(folder.baseline, Baseline),
        evaluation=find_measurement(folder.evaluation, EvaluateResult),
        classifier=folder.classifier if folder.classifier.is_file() else None,
        report=folder.report if folder.report.is_file() else None,
        seconds=seconds,
    )
