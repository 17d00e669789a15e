"""Every setting of `run`, with its default and why (no heavy imports)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..collect.sources.options import SearchOptions, SourceName, SourceOptions
from ..collect.web.options import USER_AGENT, DownloadOptions, FetchOptions
from ..core.durations import parse_duration
from ..core.errors import InputError, OptionError
from ..core.signatures import check_ranges, field_names
from ..distillation.options import DistillOptions, TrainingOptions
from ..formats.classifier import Target
from ..formats.label_table import is_label_table
from ..models.students import AUTO, DEFAULT_STUDENT
from ..models.teachers import DEFAULT_TEACHER

StudentName = Literal["dense", "sparse", "int8", "sparse-int8"]

DEFAULT_HOLDOUT = 0.1
"""Share of the images that is held out where there are none with labels."""
EXCLUSIVE = {
    "images": "search",
    "search": "images",
    "time_budget": "num_epochs",
    "num_epochs": "time_budget",
}
"""A setting -> the one that it excludes."""
WHICH_PICTURES = (
    "Give --images FOLDER with images to train on, or --search SOURCE to search for some "
    "(commons, openverse, parquet, pool, knn; `clipdistill search --help` lists what each needs)."
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(SourceOptions, FetchOptions, TrainingOptions):
    """What to make, of what, and how.

    Options of `search`, `download` and `distill` come from those verbs, with their defaults and
    descriptions where no other ones stand here.

    Attributes:
        images: folder of images to train on, without labels.
        search: search for images instead: knn, commons, openverse, parquet or pool.
        num_images: URLs per prompt that the search looks for, at most.
        url: knn: address of the service.
        contact: commons: your e-mail address or URL, which image servers get as well; default: the
            environment variable CLIPDISTILL_CONTACT.
        query: knn: search by text, or by the teacher's embedding of the prompt; auto: by text.
        teacher: NAME/PRETRAINED of open_clip, hf-hub:ORG/REPO or local-dir:FOLDER.
        template: text with {} for the prompt, such as "a photo of {}"; repeatable; or openai or
            simple, for a set.
        adapt: learn class vectors from the images before training (see the verb adapt);
            --no-adapt keeps those of the text.
        independent: a probability for each class on its own, fitted to the images without labels:
            an image may have several labels or none.
        student: timm's name of the network to train; auto: the most accurate one of a list that
            keeps to --max-latency and --max-size.
        max_latency: with --student auto: milliseconds per image, in ONNX Runtime on this machine's
            CPU, FP32, at most.
        max_size: with --student auto: size of classifier.onnx in MB, at most.
        pretrained: start from timm's ImageNet weights (fetched from the model hub, unless
            --student-weights has them); --no-pretrained starts from random ones, which costs many
            points of accuracy.
        time_budget: duration of the dense student's training, such as 10m or 2h; a short probe of
            this machine chooses --num-epochs.
        lr: peak learning rate of the dense student; default: 1e-3, with --no-pretrained 4e-3.
        views: views per image for the teacher to embed and the student to train on as well: seeded
            crops, mirrorings and mild colour changes; default: none.
        seed: of the new weights, the order, the mirroring and the images that are held out.
        sparse: also make a student that is 2:4 sparse.
        qat: also make a student in INT8; with --sparse one that is both.
        compare: with --sparse and --qat: also make one that is only sparse and one that is only
            INT8, to measure what each costs.
        fine_tuning_epochs: passes over the images for each sparse or INT8 student. One that is both
            is trained 2:4 for as many, then INT8 for a fifth of them.
        fine_tuning_lr: peak learning rate of the sparse and INT8 students; default: 1e-3 for sparse
            ones, 1e-4 for INT8. One that is both is trained INT8 with a tenth of it.
        labelled: folder with one folder of images per class, or a table of labels (.csv, .tsv,
            .jsonl; see the verb evaluate) in the folder of its images; for measuring only.
        holdout: share of the images to hold out of the training and, without --labelled, to measure
            on, against the teacher; default: 0.1 without --labelled, otherwise none.
        target: runtime of classifier.onnx: onnxruntime, or tensorrt (also for OpenVINO).
        classifier: student in classifier.onnx: dense, sparse, int8 or sparse-int8; default: the
            last one made.
        calibrate: fit the classifier's temperature and its threshold for "unknown".
        benchmark: measure the speed of all files in the runtimes that are installed.
        rounds: of the benchmark.
    """

    images: Path | None = None
    search: SourceName | None = None
    num_images: Annotated[int, Parameter(name=("--num-images", "-n"))] = 200
    teacher: str = DEFAULT_TEACHER
    template: tuple[str, ...] = ()
    adapt: bool = True
    independent: bool = False
    student: str = DEFAULT_STUDENT
    max_latency: float | None = None
    max_size: float | None = None
    pretrained: bool = True
    time_budget: str | None = None
    sparse: bool = False
    qat: bool = False
    compare: bool = False
    fine_tuning_epochs: int = 10
    fine_tuning_lr: float | None = None
    labelled: Path | None = None
    holdout: float | None = None
    target: Target = "onnxruntime"
    classifier: StudentName | None = None
    calibrate: bool = True
    benchmark: bool = True
    rounds: int = 5

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
        values = {name: getattr(self, name) for name in field_names(type(self))}
        there = {name: value for name, value in values.items() if value not in (None, "", ())}
        if self.time_budget is not None:
            there.pop("num_epochs")  # chosen anew from the probe
        return {name: _plain(value) for name, value in there.items()}

    def used_settings(self) -> dict[str, Any]:
        """Those of `to_settings` that have an effect: without a search none of a search."""
        unused = {*self._of(SourceOptions), *self._of(FetchOptions)} if self.search is None else ()
        return {name: value for name, value in self.to_settings().items() if name not in unused}

    @property
    def students(self) -> tuple[StudentName, ...]:
        """The students to make, in order; the others start from the dense one."""
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
    def label_table(self) -> Path | None:
        """The table of labels; None where folders name the classes, or without labels."""
        given = self.labelled
        return given if given is not None and is_label_table(given) else None

    @property
    def held_out(self) -> float:
        """Share of the images that is held out."""
        if self.holdout is not None:
            return self.holdout
        return DEFAULT_HOLDOUT if self.labelled is None else 0.0

    def search_options(self) -> SearchOptions:
        """As `search` takes them."""
        embeds = self.search == "parquet" or self.query == "embedding"
        model_name, pretrained = self.teacher_name() if embeds else (None, None)
        return SearchOptions(
            **self._of(SourceOptions),
            source=self.search,
            model_name=model_name,
            pretrained=pretrained or None,
            device=self.device,
        )

    def download_options(self) -> DownloadOptions:
        """As `download` takes them."""
        shared = self._of(FetchOptions)
        if self.contact and self.user_agent == USER_AGENT:
            shared["user_agent"] = f"{USER_AGENT} ({self.contact})"
        return DownloadOptions(**shared)

    def distill_options(
        self, name: StudentName, *, dense: Path | None = None, only: Path | None = None
    ) -> DistillOptions:
        """As `distill` takes them.

        Args:
            name: of the student to train.
            dense: folder of the dense student, which the others start from.
            only: list of the images to train on; None: all.
        """
        shared = self._of(TrainingOptions)
        if name == "dense":
            return DistillOptions(**shared, only=only)
        shared |= {
            "pretrained": False,
            "student_weights": None,
            "lr": self.fine_tuning_lr,
            "num_epochs": self.fine_tuning_epochs,
        }
        return DistillOptions(
            **shared,
            only=only,
            init_checkpoint=dense,
            sparse=name in ("sparse", "sparse-int8"),
            qat=name in ("int8", "sparse-int8"),
        )

    def _of(self, shared: type) -> dict[str, Any]:
        """The options that a class shares with the verb whose options these are."""
        return {field.name: getattr(self, field.name) for field in fields(shared)}

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
            raise OptionError(
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
            raise OptionError(both + WHICH_PICTURES)
        if self.shipped not in self.students:
            raise OptionError(
                f"--classifier {self.shipped}: this run makes {', '.join(self.students)}. Add "
                "--sparse, --qat or both (and --compare), or choose one of these."
            )
        self._check_budgets()
        self.teacher_name()
        share, lr = self.holdout, self.fine_tuning_lr
        ranges = {
            "fine_tuning_epochs": (self.fine_tuning_epochs >= 1, "1 or more"),
            "fine_tuning_lr": (lr is None or 0 < lr < math.inf, "above 0"),
            "holdout": (share is None or 0 < share <= 0.5, "above 0, to 0.5"),
            "rounds": (self.rounds >= 1, "1 or more"),
        }
        check_ranges(self, ranges)
        self.distill_options("dense").check()
        if self.search is not None:
            self.download_options().check()
            self._check_search()

    def _check_budgets(self) -> None:
        budgets = {"--max-latency": self.max_latency, "--max-size": self.max_size}
        given = [option for option, value in budgets.items() if value is not None]
        if given and self.student != AUTO:
            raise OptionError(f"{given[0]} chooses a student. Add: --student {AUTO}")
        if self.student == AUTO and not given:
            raise OptionError(
                f"--student {AUTO} chooses by latency or size. Add --max-latency MILLISECONDS, "
                "--max-size MB, or both."
            )
        if self.student == AUTO and self.student_weights is not None:
            raise OptionError(
                f"--student-weights belong to one architecture: name it, not --student {AUTO}."
            )
        if self.time_budget is not None:
            parse_duration(self.time_budget, "--time-budget")
            if self.num_epochs != TrainingOptions.num_epochs:
                raise OptionError("--time-budget chooses --num-epochs: give only one of them.")

    def _check_search(self) -> None:
        try:
            self.search_options().check()
        except InputError as error:  # what `search` calls --source
            raise OptionError(str(error).replace("--source", "--search")) from error


def _plain(value: Any) -> Any:
    """As TOML can hold it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
