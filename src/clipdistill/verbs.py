"""Every verb: its name, the function behind it, its line of help, its examples.

A verb is a command of the shell and a function of `import clipdistill`, with the same words.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        name: as it is typed; two words make it part of a group ("pool search").
        target: "module:function", imported when the verb is used.
        help: one line for the list of commands.
        examples: command lines for the end of its help.
        common: options that most people need; the help lists the others as advanced. Empty: all
            are common.
        words: pairs of texts; in messages the second takes the place of the first (`core.hints`).
        renamed: pairs of options: its name in another verb's messages, its name here.
        rows: whether its result can be printed as CSV (`--format csv`).
    """

    name: str
    target: str
    help: str
    examples: tuple[str, ...]
    common: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    rows: bool = False

    @property
    def function_name(self) -> str:
        """The name in Python: "pool_search" for "pool search"."""
        return self.name.replace(" ", "_").replace("-", "_")

    def function(self) -> Callable[..., Any]:
        """Import the function behind the verb."""
        module, _, name = self.target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def epilogue(self) -> str:
        """The examples as they stand in the help."""
        title = "Example:" if len(self.examples) == 1 else "Examples:"
        return "\n".join([title, "", *(f"    {example}" for example in self.examples)])


OTHER_WEIGHTS = "use --model-name local-dir:FOLDER, or give --pretrained FILE"
"""What messages advise where a teacher's weights cannot be fetched."""
TEACHER_IS_MODEL = ((OTHER_WEIGHTS, "give local-dir:FOLDER as the teacher"),)
TEACHER_OPTION = (
    (OTHER_WEIGHTS, "use --teacher local-dir:FOLDER"),
    ("--model-name NAME --pretrained TAG", "--teacher NAME/TAG"),
    ("--model-name and --pretrained", "--teacher"),
)
GROUPS = {"pool": "Work with a pool of embedded images."}
"""First words of verbs of two words, with their line in the list of commands."""


VERBS = (
    Verb(
        "quickstart",
        "clipdistill.pipeline.quickstart:quickstart",
        "Run the whole pipeline offline on drawn images, in minutes.",
        ("clipdistill quickstart --out runs/quickstart",),
    ),
    Verb(
        "doctor",
        "clipdistill.show.doctor:doctor",
        "Check what works on this machine: packages, GPU, runtimes, cameras, disks.",
        ("clipdistill doctor", "clipdistill doctor base train --strict"),
    ),
    Verb(
        "run",
        "clipdistill.pipeline.run:run",
        "Make a classifier and a report from prompts and images.",
        (
            "clipdistill run prompts.txt runs/pets --images photos",
            "clipdistill run prompts.txt runs/pets --images photos --time-budget 20m",
            "clipdistill run prompts.txt out --images photos --student auto --max-size 20",
            "clipdistill run prompts.txt runs/pets --images photos --sparse --qat --dry-run",
            "clipdistill run prompts.txt runs/street --images photos --independent",
            "clipdistill run prompts.txt runs/pets --search commons --contact me@home.org",
            "clipdistill run runs/pets --labelled photos-by-class",
        ),
        (
            "images",
            "search",
            "num_images",
            "contact",
            "teacher",
            "template",
            "independent",
            "student",
            "pretrained",
            "student_weights",
            "max_latency",
            "max_size",
            "image_size",
            "num_epochs",
            "time_budget",
            "sparse",
            "qat",
            "labelled",
            "target",
            "device",
            "dry_run",
        ),
        words=(
            *TEACHER_OPTION,
            (" Use another output folder; --init-checkpoint starts from what was learnt.", ""),
        ),
        renamed=(("--source", "--search"),),
    ),
    Verb(
        "search",
        "clipdistill.collect.search:search",
        "Search images for prompts and write a list of URLs.",
        (
            "clipdistill search prompts.txt urls.txt --source commons --contact me@home.org",
            "clipdistill search prompts.txt urls.txt --source knn --url http://server:1234",
            'clipdistill search prompts.txt urls.txt --source parquet --tables "laion/*"',
        ),
        ("source", "num_images", "append", "url", "contact", "license", "tables", "pool"),
    ),
    Verb(
        "download",
        "clipdistill.collect.download:download",
        "Download the images of a list of URLs.",
        (
            "clipdistill download image_urls.txt images",
            "clipdistill download image_urls.parquet images --resize 0 --max-workers 128",
        ),
        ("resize", "max_workers", "timeout", "user_agent", "allow_private"),
    ),
    Verb(
        "embed",
        "clipdistill.distillation.embed:embed",
        "Embed images with an OpenCLIP teacher.",
        (
            "clipdistill embed photos runs/embeddings",
            "clipdistill embed photos runs/embeddings --model-name local-dir:teacher",
            "clipdistill embed photos runs/embeddings --shard-index 3 --shard-count 8",
        ),
        ("model_name", "pretrained", "batch_size", "num_workers", "device"),
    ),
    Verb(
        "status",
        "clipdistill.distillation.status:status",
        "Show how far an embedding is, from its files alone.",
        ("clipdistill status runs/embeddings", "clipdistill status /shared/embeddings"),
    ),
    Verb(
        "embed-text",
        "clipdistill.distillation.embed_text:embed_text",
        "Embed prompts with the teacher's text tower.",
        (
            "clipdistill embed-text prompts.txt runs/text.npy",
            'clipdistill embed-text names.txt runs/text.npy --template "a photo of a {}"',
        ),
    ),
    Verb(
        "adapt",
        "clipdistill.distillation.adapt:adapt",
        "Learn class vectors from an unlabelled pool.",
        (
            "clipdistill adapt runs/text.npy runs/embeddings runs/adapted.npy",
            "clipdistill adapt text.npy runs/emb out.npy --student runs/s --images photos",
            "clipdistill adapt runs/text.npy runs/embeddings runs/text.npy --independent",
        ),
        ("independent", "student", "images", "device"),
        words=(
            *TEACHER_IS_MODEL,
            ("Add --arch, for example: --arch resnet18", "Give a student's folder."),
        ),
    ),
    Verb(
        "pool search",
        "clipdistill.collect.pool_search:pool_search",
        "Find the images of a pool that fit words or images best.",
        (
            'clipdistill pool search runs/embeddings "a red fish" "a boat at night"',
            "clipdistill pool search runs/embeddings --image fish.jpg --top-k 20",
        ),
    ),
    Verb(
        "pool merge",
        "clipdistill.collect.pool_merge:pool_merge",
        "Make one pool of several folders of embeddings, without copying.",
        (
            "clipdistill pool merge runs/all runs/part-*",
            "clipdistill pool merge runs/all runs/a runs/b --prefix 2025 --prefix 2026",
        ),
    ),
    Verb(
        "select",
        "clipdistill.collect.select:select",
        "Select relevant, balanced images for a class list.",
        (
            "clipdistill select photos runs/embeddings runs/text.npy runs/selection -n 500",
            "clipdistill select photos runs/emb runs/text.npy runs/sel --min-score 0.25",
        ),
    ),
    Verb(
        "serve",
        "clipdistill.collect.serve:serve",
        "Serve a pool over HTTP, in clip-retrieval's protocol.",
        ("clipdistill serve runs/embeddings --images photos --port 1234",),
        ("images", "host", "port", "model_name", "device"),
    ),
    Verb(
        "distill",
        "clipdistill.distillation.distill:distill",
        "Train a small timm student on the teacher's embeddings.",
        (
            "clipdistill distill resnet18 photos runs/embeddings runs/student --pretrained",
            "clipdistill distill resnet18 photos runs/emb runs/student --num-epochs 20",
            "clipdistill distill resnet18 photos runs/emb q --init-checkpoint runs/s --qat",
        ),
        (
            "only",
            "pretrained",
            "student_weights",
            "init_checkpoint",
            "sparse",
            "qat",
            "image_size",
            "num_epochs",
            "batch_size",
            "lr",
            "prompts",
            "seed",
            "device",
        ),
    ),
    Verb(
        "quantize",
        "clipdistill.distillation.quantize:quantize",
        "Make a student INT8 without training.",
        ("clipdistill quantize runs/student photos runs/student_int8",),
        ("calibration_images", "calibration", "text", "embeddings", "device"),
    ),
    Verb(
        "evaluate",
        "clipdistill.measure.evaluate:evaluate",
        "Measure teachers, students and ONNX files, with or without labels.",
        (
            "clipdistill evaluate runs/student --labelled photos --text runs/text.npy",
            "clipdistill evaluate runs/street.onnx --labelled photos/labels.csv",
        ),
        ("labelled", "images", "embeddings", "text", "calibrate", "predictions", "device"),
        words=TEACHER_IS_MODEL,
        rows=True,
    ),
    Verb(
        "predict",
        "clipdistill.show.predict:predict",
        "Classify images with a student or an ONNX file.",
        (
            "clipdistill predict runs/classifier.onnx cat.jpg",
            "clipdistill predict runs/student photos --text runs/text.npy",
        ),
        ("text", "top_k", "threshold", "device"),
        words=TEACHER_IS_MODEL,
        rows=True,
    ),
    Verb(
        "demo",
        "clipdistill.show.demo:demo",
        "Show a model's answers live: a camera, a video, a folder, or a page in the browser.",
        (
            "clipdistill demo runs/classifier.onnx --camera 0 --window",
            "clipdistill demo runs/classifier.onnx --video clip.mp4 --save annotated.mp4",
            "clipdistill demo runs/classifier.onnx --web --teacher local-dir:teacher",
        ),
        ("camera", "video", "images", "web", "port", "window", "save", "text", "teacher"),
        words=TEACHER_OPTION,
    ),
    Verb(
        "export",
        "clipdistill.deploy.export:export",
        "Write a student as an ONNX file; with labels, as a whole classifier.",
        (
            "clipdistill export runs/student runs/classifier.onnx --text runs/text.npy",
            "clipdistill export runs/student-int8 runs/int8.onnx --target tensorrt",
        ),
        ("text", "target", "fp16", "images"),
        words=TEACHER_IS_MODEL,
    ),
    Verb(
        "lint",
        "clipdistill.deploy.lint:lint",
        "Check whether an ONNX file is ready for a runtime.",
        ("clipdistill lint runs/classifier.onnx --target tensorrt",),
    ),
    Verb(
        "engine",
        "clipdistill.deploy.engine:engine",
        "Build a TensorRT engine from an ONNX file.",
        ("clipdistill engine runs/classifier.onnx runs/classifier.engine --sparse",),
    ),
    Verb(
        "benchmark",
        "clipdistill.measure.benchmark:benchmark",
        "Measure speed, memory and accuracy in every runtime, in one table.",
        ("clipdistill benchmark runs/student runs/classifier.onnx --images photos",),
        ("images", "labelled", "text", "batch", "rounds", "threads", "out", "plot"),
        words=TEACHER_IS_MODEL,
        rows=True,
    ),
    Verb(
        "relabel",
        "clipdistill.deploy.relabel:relabel",
        "Give an ONNX classifier other classes, without training.",
        (
            "clipdistill relabel runs/classifier.onnx runs/other_text.npy runs/other.onnx",
            "clipdistill relabel runs/classifier.onnx prompts.txt runs/other.onnx",
        ),
    ),
    Verb(
        "report",
        "clipdistill.show.report:report",
        "Show the results of a run in one HTML file or as a model card.",
        (
            "clipdistill report runs/quickstart",
            "clipdistill report runs/pets --format markdown",
        ),
    ),
)
