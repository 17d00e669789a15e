"""Every setting of `run`, with its default and why (no heavy imports)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..collect.sources.options import SearchOptions, SourceName
from ..collect.web.options import USER_AGENT, DownloadOptions
from ..core.errors import InputError
from ..formats.classifier import Target
from ..models.teachers import DEFAULT_TEACHER

StudentName = Literal["dense", "sparse", "int8", "sparse-int8"]

DEFAULT_HOLDOUT = 0.1
"""Share of the pictures that is held out where there are none with labels."""
EXCLUSIVE = {"images": "search", "search": "images", "labelled": "holdout", "holdout": "labelled"}
"""A setting -> the one that it stands against."""
WHICH_PICTURES = (
    "Give --images FOLDER with pictures to learn from, or --search SOURCE to look for some "
    "(commons, openverse, parquet, pool, knn; `clipdistill search --help` tells what each needs)."
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to make, of what, and how.

    Attributes:
        images: folder of pictures to learn from, without labels.
        search: look for pictures instead: knn, commons, openverse, parquet or pool.
        num_images: URLs a prompt that a search shall find.
        url: knn: address of the service.
        contact: commons: an e-mail address or URL of yours; servers are told it as well.
        tables: parquet: file, glob, or URL of tables with URLs and captions; repeatable.
        pool: pool: folder of embeddings with URLs.
        license: openverse: only these, such as by,by-sa,cc0,pdm.
        deduplicate: knn: leave out near-duplicates.
        resize: shrink downloaded pictures' shortest side to this many pixels; 0: keep their bytes.
        allow_private: also download from private and loopback addresses.
        teacher: NAME/PRETRAINED of open_clip, hf-hub:ORG/REPO or local-dir:FOLDER.
        template: text with {} for the prompt, such as "a photo of {}"; repeatable; or openai or
            simple, for a set.
        student: timm's name of the network to train.
        pretrained: start the student from timm's ImageNet weights.
        image_size: side of the student's input in pixels; default: the model's own.
        num_epochs: passes over the pictures.
        lr: peak learning rate of the dense student; default: that of `distill`.
        batch_size: pictures a step.
        sparse: make it 2:4 sparse.
        qat: make it INT8; with --sparse both at once.
        compare: with --sparse and --qat: also make one that is only sparse, and one only INT8, to
            see what each costs.
        fine_tuning_epochs: passes over the pictures for each of these.
        labelled: folder with one folder of pictures a class, for measuring only.
        holdout: share of the pictures to hold out and measure on, against the teacher; default:
            0.1 without --labelled, otherwise none.
        target: what classifier.onnx is for: onnxruntime, or tensorrt (also for OpenVINO).
        classifier: the student in it: dense, sparse, int8 or sparse-int8; default: the last made.
        calibrate: fit the classifier's temperature and its threshold for "unknown".
        benchmark: race all files in the runtimes that are installed.
        rounds: of the race.
        device: auto, cpu, cuda, cuda:1, mps.
        seed: of weights, order and mirroring, and of what is held out.
        num_workers: threads that decode; default: one a processor.
    """

    images: Path | None = None
    search: SourceName | None = None
    num_images: Annotated[int, Parameter(name=("--num-images", "-n"))] = 200
    url: str | None = None
    contact: str | None = None
    tables: tuple[str, ...] = ()
    pool: Path | None = None
    license: str = ""
    deduplicate: bool = True
    resize: int = 512
    allow_private: bool = False
    teacher: str = DEFAULT_TEACHER
    template: tuple[str, ...] = ()
    student: str = "resnet18"
    pretrained: bool = False
    image_size: int | None = None
    num_epochs: int = 50
    lr: float | None = None
    batch_size: int = 64
    sparse: bool = False
    qat: bool = False
    compare: bool = False
    fine_tuning_epochs: int = 10
    labelled: Path | None = None
    holdout: float | None = None
    target: Target = "onnxruntime"
    classifier: StudentName | None = None
    calibrate: bool = True
    benchmark: bool = True
    rounds: int = 5
    device: str = "auto"
    seed: int = 0
    num_workers: int | None = None

    def __new__(cls, **given: Any) -> RunOptions:
        """Remember which settings were given, so that a file may decide the others."""
        self = object.__new__(cls)
        object.__setattr__(self, "_given", frozenset(given))
        return self

    def over(self, file: RunOptions) -> RunOptions:
        """These settings where they were given, those of a file elsewhere."""
        mine: frozenset[str] = getattr(self, "_given", frozenset())
        overruled = {other for name, other in EXCLUSIVE.items() if name in mine}
        given = mine | (getattr(file, "_given", frozenset()) - overruled)
        return RunOptions(**{name: getattr(self if name in mine else file, name) for name in given})

    def to_settings(self) -> dict[str, Any]:
        """As plain values, as in a TOML file; what is None or empty is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        there = {name: value for name, value in values.items() if value not in (None, "", ())}
        return {name: _plain(value) for name, value in there.items()}

    @property
    def students(self) -> tuple[StudentName, ...]:
        """What is made, in order; the dense student is what the others start from."""
        both = self.sparse and self.qat
        wanted: dict[StudentName, bool] = {
            "dense": True,
            "sparse": self.sparse and (self.compare or not both),
            "int8": self.qat and (self.compare or not both),
            "sparse-int8": both,
        }
        return tuple(name for name, asked in wanted.items() if asked)

    @property
    def shipped(self) -> StudentName:
        """The student that becomes classifier.onnx."""
        return self.classifier or self.students[-1]

    @property
    def held_out(self) -> float:
        """Share of the pictures that is held out."""
        if self.labelled is not None:
            return 0.0
        return DEFAULT_HOLDOUT if self.holdout is None else self.holdout

    def search_options(self) -> SearchOptions:
        """As `search` takes them."""
        ranks = self.search == "parquet"
        model_name, pretrained = self.teacher_name() if ranks else (None, None)
        return SearchOptions(
            source=self.search,
            num_images=self.num_images,
            url=self.url,
            contact=self.contact,
            tables=self.tables,
            pool=self.pool,
            license=self.license,
            deduplicate=self.deduplicate,
            model_name=model_name,
            pretrained=pretrained or None,
            device=self.device,
        )

    def download_options(self) -> DownloadOptions:
        """As `download` takes them."""
        agent = f"{USER_AGENT} ({self.contact})" if self.contact else USER_AGENT
        return DownloadOptions(
            resize=self.resize, allow_private=self.allow_private, user_agent=agent
        )

    def teacher_name(self) -> tuple[str, str]:
        """The teacher as `embed` takes it: model name and weights tag (empty: none needed).

        Raises:
            InputError: the weights are not named.
        """
        if self.teacher.startswith(("local-dir:", "hf-hub:")):
            return self.teacher, ""
        if Path(self.teacher).is_dir():
            return f"local-dir:{self.teacher}", ""
        name, _, pretrained = self.teacher.partition("/")
        if not pretrained:
            raise InputError(
                f"--teacher {self.teacher}: expected NAME/PRETRAINED, such as "
                f"{DEFAULT_TEACHER}, hf-hub:ORG/REPO or local-dir:FOLDER."
            )
        return name, pretrained

    def check(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: one of them is out of range, or two exclude each other.
        """
        if (self.images is None) == (self.search is None):
            both = "--images and --search exclude each other. " if self.images else ""
            raise InputError(both + WHICH_PICTURES)
        if self.labelled is not None and self.holdout is not None:
            raise InputError("--labelled and --holdout exclude each other: measure on one of them.")
        if self.shipped not in self.students:
            raise InputError(
                f"--classifier {self.shipped}: this run makes {', '.join(self.students)}. Add "
                "--sparse, --qat or both (and --compare), or choose one of these."
            )
        share = self.holdout
        ranges = {
            "num_epochs": (self.num_epochs >= 1, "1 or more"),
            "fine_tuning_epochs": (self.fine_tuning_epochs >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 2, "2 or more (batch normalisation)"),
            "image_size": (self.image_size is None or self.image_size >= 16, "16 or more"),
            "lr": (self.lr is None or 0 < self.lr < math.inf, "above 0"),
            "holdout": (share is None or 0 < share <= 0.5, "above 0, to 0.5"),
            "rounds": (self.rounds >= 1, "1 or more"),
            "seed": (self.seed >= 0, "0 or more"),
            "num_workers": (self.num_workers is None or self.num_workers >= 0, "0 or more"),
        }
        for name, (fine, expected) in ranges.items():
            if not fine:
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option} {getattr(self, name)}: expected {expected}.")
        self.teacher_name()
        if self.search is not None:
            self.search_options().check()
            self.download_options().check()


def _plain(value: Any) -> Any:
    """As TOML can hold it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
