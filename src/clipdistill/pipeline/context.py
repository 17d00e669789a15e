"""What the steps of a run are made from: prompts, folder, options, inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..formats.run import RunFolder
from .inputs import Inputs
from .options import RunOptions


@dataclass(frozen=True)
class RunContext:
    """A run, as its steps see it.

    Attributes:
        prompts: the prompts file.
        folder: of the run.
        options: of the run.
        inputs: prompts, images and labels, as they are now.
        report: whether the packages for a report are installed.
    """

    prompts: Path
    folder: RunFolder
    options: RunOptions
    inputs: Inputs
    report: bool

    @property
    def images(self) -> Path:
        """Where the images are, or will be downloaded to."""
        return self.options.images or self.folder.images

    @property
    def image_count(self) -> int:
        """How many images there are, or with a search will be at most."""
        if self.options.search is not None:
            return self.options.num_images * sum(map(len, self.inputs.prompts.prompts))
        return len(self.inputs.items or ())

    @property
    def measuring_images(self) -> Path | None:
        """The images without labels that models are measured on; None: labelled ones are."""
        return self.folder.holdout if self.options.labelled is None else None

    @property
    def measuring_device(self) -> str:
        """Where models are measured: the runtime's own choice, unless it has to be the CPU."""
        return "cpu" if self.options.device == "cpu" else "auto"

    @property
    def teacher_flags(self) -> dict[str, Any]:
        """The teacher as `embed` and `embed-text` take it."""
        name, pretrained = self.options.teacher_name()
        return {"model_name": name, "pretrained": pretrained, "device": self.options.device}

    @property
    def teacher(self) -> str:
        """The teacher as `evaluate` and `benchmark` take it."""
        return "/".join(filter(None, self.options.teacher_name()))

    def below(self, path: Path) -> str:
        """A path below the run's folder, as the record keeps it."""
        return path.relative_to(self.folder.out).as_posix()
