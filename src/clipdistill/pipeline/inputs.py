"""What the user brought: prompts, images, labelled images, the teacher's files.

They are checked here, before hours of work.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError, MissingExtraError, OptionError
from ..core.wording import many
from ..formats.prompts import Prompts, load_prompts
from ..formats.run import RunFolder
from ..images.sources import ImageItem, list_images
from ..measure.task import Labels, true_labels
from ..models.open import RUNTIMES, installed_runtimes
from . import fingerprints
from .options import RunOptions

LEAST_IMAGES = 4
"""The fewest that `distill` accepts."""


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Attributes:
        prompts: the classes.
        items: the images; None before a search has found them.
        labelled: the labelled images; None without.
        digests: "prompts", "pictures", "labelled", "labels" (of a table), "teacher files" ->
            fingerprint.
        runtimes: those installed here that run ONNX files.
    """

    prompts: Prompts
    items: Sequence[ImageItem] | None
    labelled: Labels | None
    digests: dict[str, str]
    runtimes: tuple[str, ...]

    @property
    def measured(self) -> int:
        """The number of labelled images."""
        return 0 if self.labelled is None else len(self.labelled.items)

    @property
    def label_digests(self) -> dict[str, str]:
        """Fingerprints of the labelled images, and of their labels where the names have none."""
        return {name: self.digests[name] for name in ("labelled", "labels") if name in self.digests}


def look_at(prompts: Path, folder: RunFolder, options: RunOptions) -> Inputs:
    """Read the prompts and list the images.

    Raises:
        InputError: something is missing or empty, or the name of a labelled folder, or a name in
            the table of labels, is no label.
        FormatError: the prompts are not UTF-8 text, or the table of labels cannot be read.
        MissingExtraError: an option needs a package that is not installed.
    """
    if options.qat and importlib.util.find_spec("modelopt") is None:
        raise MissingExtraError("nvidia-modelopt", "compress", "--qat")
    classes = load_prompts(prompts)
    items = _images(folder, options)
    labelled = _labelled(options, classes.labels)
    digests = {
        "prompts": fingerprints.of_prompts(classes),
        "pictures": "" if items is None else fingerprints.of_images(items),
        "labelled": "" if labelled is None else fingerprints.of_images(labelled.items),
        "teacher files": fingerprints.of_teacher(options.teacher_name()[0]),
    }
    if options.label_table is not None and labelled is not None:
        digests["labels"] = fingerprints.of_labels(labelled)
    runtimes = tuple(name for name in RUNTIMES["onnx"] if name in installed_runtimes("onnx"))
    return Inputs(classes, items, labelled, digests, runtimes)


def _images(folder: RunFolder, options: RunOptions) -> Sequence[ImageItem] | None:
    if options.images is None:
        return _downloaded(folder)
    items = list_images(options.images)
    if len(items) < LEAST_IMAGES:
        raise InputError(
            f"{options.images}: only {many(len(items), 'image')} in it; expected {LEAST_IMAGES} or "
            "more, and some hundred per class for a useful student."
        )
    return items


def _downloaded(folder: RunFolder) -> Sequence[ImageItem] | None:
    try:
        return list_images(folder.images)
    except InputError:
        return None  # nothing yet


def _labelled(options: RunOptions, labels: Sequence[str]) -> Labels | None:
    root = options.labelled
    if root is None:
        return None
    found = true_labels(root, root.parent, labels)
    if found.truth is None and options.calibrate and not options.independent:
        raise OptionError(
            f"--labelled {root}: its images have several labels or none, and without --independent "
            "the classifier gives each image one. Add --independent, or --no-calibrate to measure "
            "as it is."
        )
    return found
