"""The steps of a run: what each depends on, what it makes, and the command that does it alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..distillation.options import DistillOptions
from ..formats.classifier import Target
from ..formats.embeddings import META
from ..formats.ledger import INDEX
from ..formats.run import EXPORTS, RunFolder
from ..formats.student import CARD, WEIGHTS
from ..measure.calibration import LEAST_IMAGES
from .fingerprints import of_value
from .inputs import Inputs
from .options import RunOptions, StudentName

TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")
RUNTIME_FOR: dict[Target, str] = {"onnxruntime": "onnxruntime", "tensorrt": "openvino"}
"""What a file is for -> what runs it here if it is installed."""
RACE_BATCH, RACE_LIMIT = "1,8", 100
"""Of `benchmark`: a device sees pictures one by one; agreement is measured by `evaluate`."""


@dataclass(frozen=True)
class Step:
    """Something that has to be done once.

    Attributes:
        name: such as "embed" or "distill sparse"; unique.
        kind: which stage does it, such as "distill".
        about: what happens, for people.
        settings: those that its outcome depends on.
        inputs: name -> fingerprint of what it reads that no step makes.
        after: the steps whose outcome it uses.
        outputs: files and folders that it makes, below the run's folder.
        markers: files that are there when it is done, likewise.
        command: that does it alone; empty: only `run` does it.
        changes: steps whose outputs it writes into, so that it is done again when they are.
        student: of which it is about, for "distill" and "export".
        target: likewise, for "export".
    """

    name: str
    kind: str
    about: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    command: str = ""
    changes: tuple[str, ...] = ()
    student: StudentName = "dense"
    target: Target = "onnxruntime"

    def all_inputs(self, results: Mapping[str, str]) -> dict[str, str]:
        """Everything it uses with its fingerprint; `results` are those of the steps before."""
        return {**self.inputs, **{name: results[name] for name in self.after}}

    def fingerprint(self, results: Mapping[str, str]) -> str:
        """Of its settings and everything it uses."""
        return of_value([self.name, self.settings, self.all_inputs(results)])


@dataclass(frozen=True)
class Road:
    """What the steps are made from.

    Attributes:
        prompts: the file.
        folder: of the run.
        options: of the run.
        inputs: what the user brought.
        report: whether what reports need is installed.
    """

    prompts: Path
    folder: RunFolder
    options: RunOptions
    inputs: Inputs
    report: bool

    @property
    def images(self) -> Path:
        """Where the pictures are, or will be."""
        return self.options.images or self.folder.images

    @property
    def measuring_images(self) -> Path | None:
        """The pictures without labels that models are measured on; None: labelled ones are."""
        return self.folder.holdout if self.options.labelled is None else None

    def below(self, path: Path) -> str:
        """A path below the run's folder, as the record keeps it."""
        return path.relative_to(self.folder.out).as_posix()


def steps_of(road: Road) -> list[Step]:
    """All steps in order."""
    options = road.options
    steps = [*_search(road)] if options.search is not None else []
    steps += [_embed(road), _embed_text(road)]
    if options.labelled is not None:
        steps.append(_embed_labelled(road))
    steps.append(_baseline(road))
    if options.held_out:
        steps.append(_hold_out(road))
    steps += [_distill(road, name) for name in options.students]
    steps += [_export(road, name, target) for target in _targets(road) for name in options.students]
    steps.append(_classifier(road))
    if options.calibrate and _enough_to_calibrate(road):
        steps.append(_calibrate(road))
    steps.append(_evaluate(road))
    if options.benchmark:
        steps.append(_benchmark(road))
    if road.report:
        steps.append(_report(road, steps))
    return steps


def distill_options(road: Road, name: StudentName) -> DistillOptions:
    """As `distill` takes them."""
    options, folder = road.options, road.folder
    dense = name == "dense"
    return DistillOptions(
        only=folder.training_list if options.held_out else None,
        pretrained=options.pretrained and dense,
        init_checkpoint=None if dense else folder.student("dense"),
        sparse=name in ("sparse", "sparse-int8"),
        qat=name in ("int8", "sparse-int8"),
        image_size=options.image_size,
        lr=options.lr if dense else None,
        batch_size=options.batch_size,
        num_epochs=options.num_epochs if dense else options.fine_tuning_epochs,
        seed=options.seed,
        num_workers=options.num_workers,
        device=options.device,
    )


def export_step(name: StudentName, target: Target) -> str:
    """Name of the step that exports a student for a target."""
    return f"export {name} {EXPORTS[target]}"


def models_to_evaluate(road: Road) -> list[str]:
    """The teacher, the dense student, then each file for the target, in a runtime that is here."""
    target = road.options.target
    runtime = RUNTIME_FOR[target]
    # ONNX Runtime answers as OpenVINO does, only slower, and is always here.
    prefix = f"{runtime}:" if runtime in road.inputs.runtimes else ""
    files = [road.folder.export(name, target) for name in road.options.students]
    dense = str(road.folder.student("dense"))
    return [evaluated_teacher(road), dense, *(f"{prefix}{file}" for file in files)]


def models_to_race(road: Road) -> list[str]:
    """Teacher and dense student in torch, and every file in the runtime that it is for."""
    return [
        evaluated_teacher(road),
        f"torch:{road.folder.student('dense')}",
        *(
            f"{RUNTIME_FOR[target]}:{road.folder.export(name, target)}"
            for target in _targets(road)
            for name in road.options.students
        ),
    ]


def evaluated_teacher(road: Road) -> str:
    """The teacher as a MODEL."""
    return "/".join(filter(None, road.options.teacher_name()))


def _targets(road: Road) -> list[Target]:
    """What files are made for: the target first, and whatever else runs here."""
    first = road.options.target
    here = [one for one in TARGETS if RUNTIME_FOR[one] in road.inputs.runtimes]
    return [first, *(one for one in here if one != first)]


def _enough_to_calibrate(road: Road) -> bool:
    """Whether there will be pictures enough, as far as that is known."""
    if road.options.labelled is not None:
        return road.inputs.measured >= LEAST_IMAGES
    items = road.inputs.items
    return items is None or len(items) * road.options.held_out >= LEAST_IMAGES


def _teacher_flags(road: Road) -> dict[str, Any]:
    name, pretrained = road.options.teacher_name()
    return {"model_name": name, "pretrained": pretrained, **_device(road)}


def _device(road: Road) -> dict[str, Any]:
    return {} if road.options.device == "auto" else {"device": road.options.device}


def measuring_device(road: Road) -> str:
    """Where models are measured: every runtime's own choice, unless it has to be the processor."""
    return "cpu" if road.options.device == "cpu" else "auto"


def _measuring_settings(road: Road) -> dict[str, Any]:
    """What figures depend on, besides what is measured."""
    return {
        "students": list(road.options.students),
        "device": measuring_device(road),
        "runtimes": list(road.inputs.runtimes),
    }


def _measured_on(road: Road) -> dict[str, Any]:
    return {"labelled": road.options.labelled, "images": road.measuring_images}


def _measuring_flags(road: Road) -> dict[str, Any]:
    return {} if measuring_device(road) == "auto" else {"device": "cpu"}


def _search(road: Road) -> list[Step]:
    options, folder = road.options.search_options(), road.folder
    downloading = road.options.download_options()
    urls = road.below(folder.urls)
    table = road.below(folder.urls.with_suffix(".parquet"))
    index = f"{road.below(folder.images)}/{INDEX}"
    search = Step(
        "search",
        "search",
        f"pictures that fit the prompts are looked for ({options.source})",
        {**options.identity(), "num_images": options.num_images},
        {"prompts": road.inputs.digests["prompts"]},
        (),
        (urls, table),
        (urls, table),
        command("search", road.prompts, folder.urls, **changed(options)),
    )
    download = Step(
        "download",
        "download",
        "the pictures are fetched",
        {"resize": downloading.resize, "allow_private": downloading.allow_private},
        {},
        ("search",),
        (road.below(folder.images),),
        (index,),
        command("download", folder.urls, folder.images, **changed(downloading)),
    )
    return [search, download]


def _embed(road: Road) -> Step:
    folder = road.below(road.folder.embeddings)
    return Step(
        "embed",
        "embed",
        "the teacher looks at the pictures",
        {"teacher": road.options.teacher},
        {name: road.inputs.digests[name] for name in ("pictures", "teacher files")},
        ("download",) if road.options.search is not None else (),
        (folder,),
        (f"{folder}/{META}",),
        command("embed", road.images, road.folder.embeddings, **_teacher_flags(road)),
    )


def _embed_text(road: Road) -> Step:
    text = road.below(road.folder.text)
    card = road.below(road.folder.text.with_suffix(".json"))
    options = road.options
    return Step(
        "embed-text",
        "embed-text",
        "the prompts become the class list",
        {"teacher": options.teacher, "template": list(options.template)},
        {name: road.inputs.digests[name] for name in ("prompts", "teacher files")},
        (),
        (text, card),
        (text, card),
        command(
            "embed-text",
            road.prompts,
            road.folder.text,
            template=options.template,
            **_teacher_flags(road),
        ),
    )


def _embed_labelled(road: Road) -> Step:
    folder = road.below(road.folder.labelled_embeddings)
    return Step(
        "embed labelled",
        "embed",
        "the teacher looks at the labelled pictures",
        {"teacher": road.options.teacher},
        {name: road.inputs.digests[name] for name in ("labelled", "teacher files")},
        (),
        (folder,),
        (f"{folder}/{META}",),
        command(
            "embed", road.options.labelled, road.folder.labelled_embeddings, **_teacher_flags(road)
        ),
    )


def _baseline(road: Road) -> Step:
    labelled = road.options.labelled is not None
    baseline = road.below(road.folder.baseline)
    return Step(
        "baseline",
        "baseline",
        "how well the teacher itself tells the classes apart",
        {},
        {},
        ("embed", "embed-text", *(("embed labelled",) if labelled else ())),
        (baseline,),
        (baseline,),
    )


def _hold_out(road: Road) -> Step:
    outputs = (road.below(road.folder.training_list), road.below(road.folder.holdout))
    return Step(
        "hold out",
        "hold out",
        "some pictures are kept aside, to measure on",
        {"holdout": road.options.held_out, "seed": road.options.seed},
        {},
        ("embed",),
        outputs,
        outputs,
    )


def _distill(road: Road, name: StudentName) -> Step:
    options = distill_options(road, name)
    folder = road.below(road.folder.student(name))
    what = "to give the teacher's embeddings (no labels, no prompts)"
    becomes = {"sparse": "2:4 sparse", "int8": "INT8", "sparse-int8": "2:4 sparse and INT8 at once"}
    about = f"{road.options.student} learns {what}"
    before: tuple[str, ...] = ("embed", *(("hold out",) if road.options.held_out else ()))
    if name != "dense":
        about, before = f"the student becomes {becomes[name]}", (*before, "distill")
    settings = {"student": road.options.student, "image_size": options.image_size}
    settings |= options.identity()
    settings.pop("init_checkpoint")  # the step "distill" stands for it, wherever the folder lies
    flags = changed(options)
    return Step(
        "distill" if name == "dense" else f"distill {name}",
        "distill",
        about,
        settings,
        {},
        before,
        (folder,),
        tuple(f"{folder}/{file}" for file in (WEIGHTS, CARD)),
        command(
            "distill",
            road.options.student,
            road.images,
            road.folder.embeddings,
            road.folder.student(name),
            **flags,
        ),
        student=name,
    )


def _export(road: Road, name: StudentName, target: Target) -> Step:
    path = road.folder.export(name, target)
    runtime = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT and OpenVINO"}[target]
    flags: dict[str, Any] = {} if target == "onnxruntime" else {"target": target}
    return Step(
        export_step(name, target),
        "export",
        f"one file with labels for {runtime}",
        {},
        {},
        ("distill" if name == "dense" else f"distill {name}", "embed-text"),
        (road.below(path),),
        (road.below(path),),
        command("export", road.folder.student(name), path, text=road.folder.text, **flags),
        student=name,
        target=target,
    )


def _classifier(road: Road) -> Step:
    name, target = road.options.shipped, road.options.target
    path = road.below(road.folder.classifier)
    return Step(
        "classifier",
        "classifier",
        f"the {name} file for {target} becomes {path}",
        {"classifier": name, "target": target},
        {},
        (export_step(name, target),),
        (path,),
        (path,),
        student=name,
        target=target,
    )


def _calibrate(road: Road) -> Step:
    folder = road.folder
    return Step(
        "calibrate",
        "calibrate",
        "the classifier learns how sure it is",
        {},
        {"labelled": road.inputs.digests["labelled"]},
        ("classifier", "embed-text", *_measuring(road)),
        command=command(
            "evaluate",
            evaluated_teacher(road),
            folder.classifier,
            text=folder.text,
            calibrate=True,
            **_measured_on(road),
            **_measuring_flags(road),
        ),
        changes=("classifier", "embed-text"),
    )


def _evaluate(road: Road) -> Step:
    options, folder = road.options, road.folder
    files = tuple(export_step(name, options.target) for name in options.students)
    outputs = (road.below(folder.evaluation), road.below(folder.predictions))
    models = models_to_evaluate(road)
    calibrated = options.calibrate and _enough_to_calibrate(road)
    return Step(
        "evaluate",
        "evaluate",
        f"teacher and students are measured{_on(road)}",
        {"target": options.target, **_measuring_settings(road)},
        {"labelled": road.inputs.digests["labelled"]},
        ("distill", *files, *(("calibrate",) if calibrated else ()), *_measuring(road)),
        outputs,
        outputs,
        command(
            "evaluate",
            *models,
            text=folder.text,
            predictions=folder.predictions,
            **_measured_on(road),
            **_measuring_flags(road),
        ),
    )


def _benchmark(road: Road) -> Step:
    options, folder = road.options, road.folder
    files = tuple(
        export_step(name, target) for target in _targets(road) for name in options.students
    )
    path = road.below(folder.benchmark)
    return Step(
        "benchmark",
        "benchmark",
        "every file races in the runtime that it is for",
        {"rounds": options.rounds, **_measuring_settings(road)},
        {"labelled": road.inputs.digests["labelled"]},
        ("distill", *files, *_measuring(road)),
        (path, road.below(folder.chart)),
        (path,),
        command(
            "benchmark",
            *models_to_race(road),
            text=folder.text,
            rounds=options.rounds,
            batch=RACE_BATCH,
            limit=RACE_LIMIT,
            **_measured_on(road),
            **_measuring_flags(road),
        ),
    )


def _report(road: Road, before: list[Step]) -> Step:
    path = road.below(road.folder.report)
    return Step(
        "report",
        "report",
        "all of it on one page",
        {},
        {},
        tuple(step.name for step in before),
        (path,),
        (path,),
        command("report", road.folder.out),
    )


def _measuring(road: Road) -> tuple[str, ...]:
    """The step that puts pictures aside, where that is what is measured on."""
    return ("hold out",) if road.options.held_out else ()


def _on(road: Road) -> str:
    held_out = f" on {100 * road.options.held_out:.0f}% of the pictures, held out"
    return held_out if road.options.labelled is None else " on labelled pictures"


def command(verb: str, *positional: object, **options: Any) -> str:
    """A command line; options that are None or empty are left out."""
    words = ["clipdistill", *verb.split(), *map(str, positional)]
    for name, value in options.items():
        words += _words(name, value)
    return shlex.join(words)


def changed(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that have not their default."""
    usual = type(options)()
    return {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != getattr(usual, field.name)
    }


def _words(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if value is True:
        return [option]
    if value is False:
        return ["--no-" + name.replace("_", "-")]
    if value is None or value == "":
        return []
    if isinstance(value, tuple):
        return [word for item in value for word in (option, str(item))]
    return [option, str(value)]
