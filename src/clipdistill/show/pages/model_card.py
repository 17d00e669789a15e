"""A run as a model card in markdown, in the format of Hugging Face.

Unknown facts, such as a licence or the source of the images, are marked as unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from ...core.wording import (
    clean,
    listed,
    many,
    megabytes,
    moment,
    percent,
    web_address,
)
from ...models.teachers import restriction
from .classes import classes_of
from .gather import Gathered
from .naming import RUNTIMES
from .standing import Standing, chosen_kind, shown_student, standings, teacher_of
from .summary import WEAK, findings_of, sentence_of, teacher_name, title_of

MOST_CLASSES = 60
"""Most labels that are listed."""
CODE_LICENSE = "Apache-2.0"
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def render(run: Gathered) -> str:
    """Render the model card; the same run gives the same text."""
    parts = [
        _front_matter(run),
        f"# {title_of(run)}",
        plain(sentence_of(run)),
        *_findings(run),
        "## Intended use",
        *_use(run),
        "## How to use it",
        *_commands(run),
        "## Results",
        *_results(run),
        "## How it was made",
        *_making(run),
        "## Limits",
        *_limits(run),
        "## Licences",
        *_licenses(run),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Escape an untrusted string for one line of markdown."""
    return SPECIAL.sub(r"\\\1", clean(text)).strip()


def _front_matter(run: Gathered) -> str:
    kind = chosen_kind(run)
    tags = ["clip", "open_clip", "knowledge-distillation", "zero-shot", "timm"]
    tags += ["onnx"] if run.classifier_of else []
    tags += ["2:4-sparse"] if "sparse" in kind else []
    tags += ["int8"] if "int8" in kind else []
    teacher = "" if run.teacher is None else run.teacher.model_name
    hub = teacher.removeprefix("hf-hub:") if teacher.startswith("hf-hub:") else ""
    lines = [
        "license: unknown",
        "library_name: clipdistill",
        "pipeline_tag: zero-shot-image-classification",
        f"tags: {json.dumps(tags)}",
    ]
    # A JSON string is a YAML string.
    if hub:
        lines.append(f"base_model: {json.dumps(clean(hub), ensure_ascii=False)}")
    else:
        lines.append("# base_model: has no name on the hub; see below")
    lines.append("# datasets: unknown; see below")
    return "\n".join(["---", *lines, "---"])


def _findings(run: Gathered) -> Iterator[str]:
    shown, models = shown_student(run), standings(run)
    found = findings_of(run, shown, teacher_of(run), models, classes_of(run, shown))
    if found:
        yield "\n".join(f"- {plain(one.text)}" for one in found)


def _use(run: Gathered) -> Iterator[str]:
    if run.labels:
        labels = ", ".join(f"“{plain(label)}”" for label in run.labels[:MOST_CLASSES])
        more = len(run.labels) - MOST_CLASSES
        tail = f" and {more:,} more" if more > 0 else ""
        yield (
            f"It classifies images like those it was trained on into these "
            f"{many(len(run.labels), 'class')}: {labels}{tail}."
        )
        several = run.text is not None and run.text.independent is not None
        gives = (
            "It gives an image several of these labels or none: each whose probability reaches its "
            "threshold."
            if several
            else "It gives every image one of these labels, even if it shows none of them, unless "
            "the probability is below the threshold for “unknown”."
        )
        yield (
            f"{gives} Other classes do not need training: `clipdistill relabel` puts other text "
            "embeddings of the same teacher into the file."
        )
    yield (
        "Do not use it for decisions about people, or where a wrong answer does harm, without "
        "measurements on images from the place where it is used."
    )


def _commands(run: Gathered) -> Iterator[str]:
    folder = run.folder
    model = (folder.classifier if run.classifier_of else folder.student("dense")).name
    text = "" if run.classifier_of else f" --text {folder.text.name}"
    argument = "" if run.classifier_of else f', text="{folder.text.name}"'
    yield f"```sh\npip install clipdistill\nclipdistill predict {model} image.jpg{text}\n```"
    yield (
        "```python\nimport clipdistill\n\n"
        f'result = clipdistill.predict("{model}", "image.jpg"{argument})\n'
        "label, probability = result.predictions[0].ranked[0]\n```"
    )


def _results(run: Gathered) -> Iterator[str]:
    models = standings(run)
    if not models:
        yield "The models have not been measured."
        return
    runtimes = [name for name in RUNTIMES if any(name in one.latency_ms for one in models)]
    accuracy = ["Accuracy"] if run.labelled else []
    heads = ["Model", *accuracy, "Agreement", "Cosine", "MB"]
    heads += [f"{RUNTIMES[name]}, ms" for name in runtimes]
    rows = [_row(one, run, runtimes) for one in models]
    rule = ["---", *(["---:"] * (len(heads) - 1))]
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
    images = run.evaluated.images if run.evaluated else None
    on = "" if images is None else f" on {many(images, 'image')}"
    labels = "with labels, which were not used in training" if run.labelled else "without labels"
    yield (
        f"Measured{on} {labels}. Agreement is the share of images with the teacher's label, and "
        "cosine the mean cosine with the teacher's embeddings. Milliseconds are the time of one "
        f"preprocessed image on {plain(run.raced.machine if run.raced else run.record.machine)} "
        "(the least and the largest of several rounds)."
    )


def _row(one: Standing, run: Gathered, runtimes: Sequence[str]) -> list[str]:
    teacher = one.name.kind == "teacher"
    title = f"**{plain(one.name.title)}**" if one.chosen else plain(one.name.title)
    return [
        title,
        *([percent(one.accuracy)] if run.labelled else []),
        "-" if teacher else percent(one.agreement),
        "-" if teacher or one.cosine is None else f"{one.cosine:.3f}",
        megabytes(one.size_mb),
        *(one.time_in(name) for name in runtimes),
    ]


def _making(run: Gathered) -> Iterator[str]:
    yield (
        f"By knowledge distillation with clipdistill: the teacher, {plain(teacher_name(run))}, "
        "embedded unlabelled images, and a small network was trained to give the same embeddings. "
        "The teacher's text embeddings make it a classifier. No labels were used in training."
    )
    if run.record.steps:
        commands = "\n".join(clean(step.command) for step in run.record.steps)
        fence = "`" * max(3, max(map(len, re.findall("`+", commands)), default=0) + 1)
        yield f"{fence}sh\n{commands}\n{fence}"
    versions = ", ".join(f"{plain(a)} {plain(b)}" for a, b in run.record.versions.items())
    yield f"Made {plain(moment(run.record.started))}" + (f" with {versions}." if versions else ".")


def _limits(run: Gathered) -> Iterator[str]:
    lines = [
        "It inherits errors and biases of its teacher, which was trained on images with captions.",
        "It was trained on one collection of images; on other images it may be worse.",
    ]
    if not run.labelled:
        lines.append("Its accuracy is unknown, since there were no labelled images.")
    if run.text is None or run.text.calibration is None:
        lines.append("Its probabilities are not calibrated.")
    classes = classes_of(run, shown_student(run))
    weak = [row for row in classes.rows if row.student < WEAK] if classes else []
    if weak:
        worst = listed([f"{row.label} ({percent(row.student, 0)})" for row in weak], 8)
        lines.append(f"Weak classes: {plain(worst)}.")
    if run.baseline is not None and run.baseline.empty:
        lines.append(f"No training image has the label {plain(listed(run.baseline.empty, 8))}.")
    yield "\n".join(f"- {line}" for line in lines)


def _licenses(run: Gathered) -> Iterator[str]:
    dense = next((one for one in run.students if one.name == "dense"), None)
    options = dense.card.training.get("options", {}) if dense else {}
    start = "random weights"
    if options.get("pretrained") or options.get("student_weights"):
        start = "pretrained weights of unknown licence"
    lines = [
        f"Teacher ({plain(teacher_name(run))}): {_license_of_teacher(run)}",
        f"Student: trained from {start}; whoever publishes it chooses its licence.",
        f"Code (clipdistill): {CODE_LICENSE}.",
        f"Images: {_of_images(run)}",
    ]
    yield "\n".join(f"- {line}" for line in lines)
    if run.data.credits:
        authors = many(len(run.data.credits), "author")
        yield f"The report and the ledger of the download name {authors}."


def _license_of_teacher(run: Gathered) -> str:
    license = "" if run.teacher is None else run.teacher.license
    if not license:
        return "unknown; see the source of its weights."
    bound = restriction(license)
    return f"{plain(license)}{f' ({bound})' if bound else ''}."


def _of_images(run: Gathered) -> str:
    if not run.data.licenses:
        return "unknown, since this run did not download them."
    found = []
    for one in run.data.licenses[:20]:
        name = plain(one.name or one.url or "unknown")
        address = web_address(one.url)
        link = f"[{name}](<{address}>)" if address and not re.search(r"[<>\s]", address) else name
        found.append(f"{link} ({one.images:,})")
    more = len(run.data.licenses) - 20
    return ", ".join(found) + (f" and {more:,} more" if more > 0 else "") + "."
