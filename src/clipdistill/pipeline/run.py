"""run: from prompts and images to a classifier and its report, in one command."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..core.errors import ClipDistillError, MismatchError, MissingExtraError, OptionError
from ..core.files import ensure_folder, write_bytes
from ..core.locks import locked
from ..core.progress import message, show_table
from ..core.wording import many
from ..formats.embeddings import read_failures
from ..formats.measurements import Baseline, Benchmark, find_measurement
from ..formats.probe import Probe, load_probe, save_probe
from ..formats.run import RunFolder
from ..measure.evaluate import EvaluateResult
from .budgets import with_epochs, with_student
from .context import RunContext
from .estimate import CostedStep, costed, plan_table, short_of_space, totals
from .inputs import look_at
from .options import RunOptions
from .plan import Planned, decide, plan
from .probe import measure_student, probe, what_is_probed
from .record import Recorder, existing_record
from .result import RunResult
from .settings_file import load_settings, save_settings, settings_from
from .steps import steps_of
from .steps.step import Step

FEW_IMAGES = 1000
"""Images below which advice is given (benchmarks/recipe-limits-2026-11-28.md)."""
LARGE_SIDE = 160
"""Image size that is advised for so few images, and below which views are: with 300 photos, a
pretrained student had 10 points more at 160 px than at 96, where 3 views gave 2 to 4."""
FEW_EPOCHS = 15
"""Epochs that are advised for so few images from pretrained weights: with 300 photos, 60 epochs
took four times as long and gained nothing (the same report)."""
REPORT_NEEDS = ("jinja2", "matplotlib")


def run(
    prompts: Path,
    out: Path | None = None,
    options: RunOptions = RunOptions(),
    *,
    config: Path | None = None,
    save_config: Path | None = None,
    dry_run: bool = False,
) -> RunResult:
    """Make a classifier and a report from prompts and images.

    First comes the plan: every step, what is done already and kept, what runs again and why, and
    about how much time and disk the rest takes (a probe of some seconds measures the machine).
    Before anything is trained, the teacher's own zero-shot result on these images is shown.

    It can be stopped at any time; the same command resumes.  After a change of options, prompts or
    images exactly the steps that depend on it run again.  What was trained with settings that have
    changed is moved to OUT/replaced, never deleted.

    `clipdistill run OUT`, with the folder of an earlier run alone, takes its prompts and settings;
    options that are given as well are added to them, or replace them.

    Args:
        prompts: text file with one prompt per line; `label<TAB>prompt` gives a label several
            prompts. Or the folder of an earlier run, without OUT.
        out: folder for everything.
        options: what to make, of what, and how.
        config: TOML file with settings of this command; those of the command line win.
        save_config: write the settings to this TOML file as well.
        dry_run: make the plan and stop; only the probe's figures are kept, in OUT/probe.json.

    Raises:
        InputError: prompts, images, labels or a setting are missing or wrong, or OUT is left away
            and PROMPTS is not the folder of a run.
        OutputError: `out` cannot be written to, or another process is writing to it.
    """
    start = time.monotonic()
    if config is not None:
        options = options.over(load_settings(Path(config)))
    folder = RunFolder(Path(prompts if out is None else out))
    if out is None:
        prompts, options = folder.prompts, options.over(earlier(folder))
    options.check()
    inputs = look_at(Path(prompts), folder, options)
    if save_config is not None:
        save_settings(Path(save_config), options)
        message(f"Settings written: {save_config}")
    context = RunContext(Path(prompts), folder, options, inputs, _can_report())
    if dry_run:
        ensure_folder(folder.out)
    with contextlib.nullcontext() if dry_run else locked(folder.out, "run"):
        options = with_student(options, folder.choice, measure_student)
        context = _with_epochs(replace(context, options=options), options.time_budget)
        planned = plan(steps_of(context), existing_record(folder), _exists(folder))
        measured = _probed(context, planned)
        steps = costed(planned, measured)
        about = (*totals(steps, measured), *short_of_space(steps, folder.out))
        done: dict[str, float] = {}
        if not dry_run:
            _announce(planned, steps, (*about, *_few_images(context, planned)))
            done = _do_all(context, planned, options.time_budget)
    return _result(folder, dry_run, steps, about, done, time.monotonic() - start)


def earlier(folder: RunFolder) -> RunOptions:
    """The settings of an earlier run; what it held out stays out, so that nothing trains again.

    Raises:
        OptionError: the folder holds none.
    """
    record = existing_record(folder)
    if record is None:
        raise OptionError(
            "OUT is missing: folder for everything. Expected: PROMPTS and OUT, or the folder of "
            f"an earlier run alone, which {folder.out} is not."
        )
    settings = settings_from(record.settings, folder.record)
    return settings if settings.labelled else RunOptions(holdout=settings.held_out).over(settings)


def _can_report() -> bool:
    """Whether the packages for a report are installed."""
    missing = [one for one in REPORT_NEEDS if importlib.util.find_spec(one) is None]
    if missing:
        message(f"Left out: {MissingExtraError(missing[0], 'report', 'The report')}")
    return not missing


def _exists(folder: RunFolder) -> Callable[[str], bool]:
    return lambda path: (folder.out / path).exists()


def _probed(context: RunContext, planned: list[Planned]) -> Probe | None:
    """What the probe measured: remembered, or measured now if anything takes long."""
    if not any(one.runs for one in planned):
        return None
    needed = any(one.runs and one.step.probed for one in planned)
    found = load_probe(context.folder.probe, what_is_probed(context.options))
    return _probe(context) if found is None and needed else found


def _probe(context: RunContext) -> Probe:
    """Measure, and remember it."""
    message("A short probe of teacher and student, for the estimate")
    found = probe(context.inputs.items, context.options)
    save_probe(context.folder.probe, found)
    return found


def _with_epochs(context: RunContext, time_budget: str | None) -> RunContext:
    """The context with as many epochs as fit into a time budget, by the probe."""
    if time_budget is None:
        return context
    known = load_probe(context.folder.probe, what_is_probed(context.options))
    count = len(context.inputs.items or ()) or context.image_count
    options = replace(context.options, time_budget=time_budget)
    chosen = with_epochs(options, known or _probe(context), count)
    message(f"{many(chosen.num_epochs, 'epoch')} fit into --time-budget {time_budget}")
    return replace(context, options=chosen)


def _few_images(context: RunContext, planned: list[Planned]) -> list[str]:
    """Advice where few images will be embedded: larger ones, views, and a short training."""
    count, options = len(context.inputs.items or ()), context.options
    embeds = any(one.runs and one.step.name == "embed" for one in planned)
    if not embeds or not 0 < count < FEW_IMAGES:
        return []
    advice = []
    starts_pretrained = options.pretrained or options.student_weights is not None
    if options.image_size is not None and options.image_size < LARGE_SIDE:
        if starts_pretrained:
            advice.append(f"larger ones help most. Use: --image-size {LARGE_SIDE}, or more")
        if not options.views:
            advice.append("several views of each usually help. Add: --views 3")
    if starts_pretrained and options.fit_projection and options.num_epochs > FEW_EPOCHS:
        advice.append(f"a pretrained student needs few epochs. Add: --num-epochs {FEW_EPOCHS}")
    return [f"{many(count, 'image')}: with so few, {one}" for one in advice]


def _announce(
    planned: list[Planned], steps: tuple[CostedStep, ...], about: tuple[str, ...]
) -> None:
    if any(one.runs for one in planned):
        show_table(plan_table(steps))
    for line in about:
        message(line)


def _do_all(
    context: RunContext, planned: list[Planned], time_budget: str | None
) -> dict[str, float]:
    """Do what has to be done; returns the steps that were done, with their seconds."""
    folder = context.folder
    expected = {one.step.name for one in planned if one.runs}
    recorder = Recorder(folder, context.options)
    if expected:
        _copy_prompts(context)
    results: dict[str, str] = {}
    done: dict[str, float] = {}
    steps = steps_of(context)
    number = 0
    while number < len(steps):
        step, number = steps[number], number + 1
        changed = [name for name in step.changes if name in done]
        decision = decide(step, recorder.record, results, _exists(folder), (), changed)
        if decision.runs:
            message(f"{number}/{len(steps)} {step.name}: {step.about}")
            if step.describes_run:
                recorder.complete([one.name for one in steps if one is not step])
            done[step.name] = _do(folder, recorder, step, results)
        elif step.name in expected:
            message(f"{number}/{len(steps)} {step.name}: what it uses came out the same; kept")
        results[step.name] = recorder.record.known()[step.name].result
        if step.finds_images:
            inputs = look_at(context.prompts, folder, context.options)
            context = _with_epochs(replace(context, inputs=inputs), time_budget)
            steps = steps_of(context)
    recorder.complete([step.name for step in steps])
    return done


def _copy_prompts(context: RunContext) -> None:
    target = context.folder.prompts
    data = context.prompts.read_bytes()
    if not target.is_file() or target.read_bytes() != data:
        write_bytes(target, data)


def _do(folder: RunFolder, recorder: Recorder, step: Step, results: Mapping[str, str]) -> float:
    """Do one step and record it; returns the seconds it took."""
    if step.leftovers == "move" and not recorder.resumes(step, results):
        recorder.set_aside(step)
    recorder.begin(step, results)
    start = time.monotonic()
    with _naming(step, recorder, start):
        try:
            result = step.run()
        except MismatchError:
            if step.leftovers != "try":
                raise
            recorder.set_aside(step)
            result = step.run()
        seconds = time.monotonic() - start
        outputs = [path for path in step.outputs if _exists(folder)(path)]
        recorder.finish(step.name, seconds, result or "", outputs)
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
            f"The step {step.name!r} failed: {error} Finished steps are kept; the same command "
            "resumes from there.",
        )
        raise


def _result(
    folder: RunFolder,
    dry_run: bool,
    steps: tuple[CostedStep, ...],
    about: tuple[str, ...],
    done: dict[str, float],
    seconds: float,
) -> RunResult:
    return RunResult(
        out=folder.out,
        dry_run=dry_run,
        plan=steps,
        estimate=about,
        done=done,
        failures=(*read_failures(folder.embeddings), *read_failures(folder.labelled_embeddings)),
        baseline=find_measurement(folder.baseline, Baseline),
        evaluation=find_measurement(folder.evaluation, EvaluateResult),
        benchmark=find_measurement(folder.benchmark, Benchmark),
        classifier=folder.classifier if folder.classifier.is_file() else None,
        report=folder.report if folder.report.is_file() else None,
        seconds=seconds,
    )
