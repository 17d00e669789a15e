"""Every setting of a distillation, with its default and why (no heavy imports)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..core.errors import OptionError
from ..core.signatures import check_ranges
from ..formats.cards import Calibration
from .losses import Criterion

NOT_IDENTITY = (
    "num_workers",
    "device",
    "precision",
    "cache_dir",
    "cache_gb",
    "checkpoint_seconds",
    "shuffle_buffer",
    "output_dim",
    "image_size",
    "only",
    "check_export",
)
"""Settings that may change when a training is resumed: they do not change what is learnt.
(`output_dim` only checks; image size and images are compared as preprocessing and as data; the
buffer counts where the images are in tars.)"""
COMPRESSING = ("sparse", "sparse_from", "qat", "calibration_images", "calibration")
"""Settings that are part of the identity of compressed students alone."""
INT8_EPOCHS = "int8_epochs"
"""In the identity of a 2:4 INT8 student: epochs of the INT8 training that follows the 2:4 training.
Students that were trained for both at once, before 2026-11-28, do not have it."""

BEFORE_CROPS = {"crop": 1.0}
"""What is true of cards that have no `crop`, those of before 2026-11-28."""

OptimizerName = Literal["adamw", "muon", "adam", "sgd"]

LR = 2e-3
"""Default peak learning rate where none of the following is the default."""
MUON_LR = 4e-3
"""Default peak of muon; the trials behind docs/students.md used no other."""
CROP = 0.4
"""Default share of the area of a random crop, in a training from random weights; that of stored
views."""
FITTED_LR = 1e-3
"""Default peak of a training that begins with a fitted projection.  Measured 2026-11 on photos
(tf_efficientnet_lite0, 96 px, 2 epochs; agreement with the teacher on held-out photos, 84.8% before
the training): 85.9% with 2e-3, 88.6% with 1e-3, 87.4% with 5e-4."""
SPARSE_LR = 1e-3
"""Default peak of 2:4 training.  Measured 2026-11 on the toy world (test_resnet, 64 px, 3 epochs;
cosine, dense 0.943): 0.927 with 2e-4, 0.936 with 1e-3, 0.941 with 3e-3."""
QAT_LR = 1e-4
"""Default peak of INT8 training.  Measured 2026-11 on the toy world (test_resnet, 64 px; cosine,
dense 0.9505, calibrated 0.9503): one epoch gives 0.9489 with 1e-3, 0.9503 with 1e-4, 0.9504 with
2e-5 and 1e-5; three epochs give 0.9513 with 1e-4."""
FIT_IMAGES = 32768
"""Images to which the projection is fitted at most: 25 for each of the 1,280 features of
EfficientNet-Lite0.  Each costs a forward pass."""
QAT_SHARE = 0.2
"""With 2:4 and INT8, the epochs of the INT8 training per epoch of the 2:4 training before it."""
CALIBRATION: Calibration = "percentile"
"""Cosine of INT8 with the student it was made from, measured 2026-11 at 64 px: resnet18 on photos
0.9997, max 0.9995, entropy 0.9997; mobilenetv3_small_100 on the toy world 0.995, 0.991, 0.995."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a student is trained, by `distill` and by `run`.

    Attributes:
        pretrained: start from timm's ImageNet weights (fetched from the model hub).
        student_weights: start from the weights in this .safetensors or .pth, not from timm's.
        calibration_images: training images that show the ranges of activations before QAT, and on
            which 2:4 pruning compensates.
        calibration: how to take the ranges from them: max, percentile (the 99.99th) or entropy.
        fit_projection: before training pretrained weights, fit the projection to the teacher's
            embeddings by ridge regression, which takes one pass over the images (32,768 at most).
        image_size: side of the student's input in pixels; default: the model's own.
        criterion: cosine (1 - cosine, on the sphere where zero-shot works), relational (cosine, and
            the similarities within a batch), anchors (cosine, and the similarities to some of the
            teacher's embeddings), mse, l1 or huber (on the embeddings as they are stored).
        optimizer: adamw, muon (steps of weight matrices made orthogonal, and adamw for the rest: a
            network with random weights learns faster), adam or sgd; default: from random weights
            muon, otherwise adamw.
        lr: peak learning rate; default: 2e-3, with muon 4e-3, with a fitted projection or --sparse
            1e-3, with --qat 1e-4. With --sparse and --qat, that of the 2:4 training; the INT8
            training has a tenth of it.
        weight_decay: weight decay of adamw (decoupled), adam and sgd (L2).
        momentum: momentum of sgd.
        schedule: of the learning rate after the warm-up: cosine (to zero) or constant.
        warmup: share of all steps in which the learning rate rises linearly.
        ema_decay: decay of the moving average of the weights; the average is kept; 0: none.
        grad_clip: largest gradient norm; 0: no clipping.
        flip: mirror half of the images, anew in every epoch.
        crop: smallest share of an image's area that a random crop shows, drawn anew in every epoch;
            1: the whole image; default: from random weights 0.4, otherwise 1.
        views: views per image to replay from the embeddings of `embed --views`, each with the
            teacher's embedding of it; default: all that are stored; 0: the image itself alone.
        batch_size: images per step, over all processes together.
        shuffle_buffer: images of tars that are shuffled together, over all processes. Tars with
            more images are read from the beginning to the end, in an order that is drawn anew in
            every epoch; docs/scale.md describes it. Files are always shuffled as a whole.
        num_epochs: passes over the images.
        seed: seed of the new weights, the order, the mirroring and the validation split.
        val_fraction: share of the images held out to measure cosine and agreement, without labels.
        num_workers: threads that decode; default: one per processor.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: precision of the training: auto, fp32, bf16 or fp16; auto is bf16 on CUDA and
            fp32 elsewhere.
        cache_dir: where decoded pixels are kept; default: beside the embeddings.
        cache_gb: disk space for decoded pixels, in GB, at most.
        check_export: before training, export an untrained copy and run it, which takes seconds, and
            refuse a student that cannot be exported; --no-check trains it all the same.
        checkpoint_seconds: save the state when this much time has passed since the last save
            (checked every ten steps and after every epoch).
    """

    pretrained: bool = False
    student_weights: Path | None = None
    fit_projection: bool = True
    calibration_images: int = 512
    calibration: Calibration = CALIBRATION
    image_size: int | None = None
    criterion: Criterion = "cosine"
    optimizer: OptimizerName | None = None
    lr: float | None = None
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    ema_decay: float = 0.0
    grad_clip: float = 1.0
    flip: bool = True
    crop: float | None = None
    views: int | None = None
    batch_size: int = 64
    shuffle_buffer: int = 4096
    num_epochs: int = 50
    seed: int = 0
    val_fraction: float = 0.05
    num_workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    cache_dir: Path | None = None
    cache_gb: float = 20.0
    check_export: Annotated[
        bool,
        Parameter(name=("--check", "--check-export"), negative=("--no-check", "--no-check-export")),
    ] = True
    checkpoint_seconds: float = 30.0

    def check(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: one of them is out of range.
        """
        workers = self.num_workers
        ranges = {
            "lr": (self.lr is None or 0 < self.lr < math.inf, "above 0"),
            "calibration_images": (self.calibration_images >= 1, "1 or more"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "momentum": (0 <= self.momentum < 1, "0 to below 1"),
            "grad_clip": (0 <= self.grad_clip < math.inf, "0 (off) or more"),
            "seed": (self.seed >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 2, "2 or more (batch normalisation)"),
            "shuffle_buffer": (self.shuffle_buffer >= 1, "1 or more"),
            "num_epochs": (self.num_epochs >= 1, "1 or more"),
            "val_fraction": (0 <= self.val_fraction <= 0.5, "0 to 0.5"),
            "ema_decay": (0 <= self.ema_decay < 1, "0 (off) to below 1"),
            "warmup": (0 <= self.warmup < 1, "0 to below 1"),
            "crop": (self.crop is None or 0 < self.crop <= 1, "above 0, to 1 (no crops)"),
            "cache_gb": (self.cache_gb >= 0, "0 or more"),
            "image_size": (self.image_size is None or self.image_size >= 16, "16 or more"),
            "num_workers": (workers is None or workers >= 0, "0 or more"),
        }
        check_ranges(self, ranges)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DistillOptions(TrainingOptions):
    """How to distil.

    Attributes:
        only: train on these images alone: the folder of a selection (`select`), or a text file with
            a name a line.
        output_dim: length of the embedding; found from the embeddings, checked when given.
        init_checkpoint: start from this student folder or checkpoint (weights only, fresh
            optimizer), whose preprocessing is kept; --pretrained then has no effect.
        image_size: side of the student's input in pixels; default: that of --init-checkpoint, else
            the model's own.
        sparse: 2:4 sparsity: half of the weights of every layer that sparse tensor cores can use
            become zero and stay so. Needs --init-checkpoint.
        sparse_from: which weights stay: compensated, the two of any four without which the layer's
            outputs on --calibration-images change least, the others' part taken over (SparseGPT);
            or magnitude, the two largest.
        qat: INT8 quantisation-aware training. Needs --init-checkpoint, a student in floating
            point, and the extra `compress`. With --sparse it follows the 2:4 training, with a fifth
            of its epochs (one or more).
        prompts: prompts file, or text embeddings of `embed-text`: report in every epoch how often
            student and teacher choose the same label.
    """

    only: Path | None = None
    output_dim: int | None = None
    init_checkpoint: Path | None = None
    sparse: bool = False
    sparse_from: Literal["compensated", "magnitude"] = "compensated"
    qat: bool = False
    prompts: Path | None = None

    def check(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: one of them is out of range, or a student to start from is missing.
        """
        super().check()
        if self.compresses and self.init_checkpoint is None:
            flags = [flag for flag, on in (("--sparse", self.sparse), ("--qat", self.qat)) if on]
            raise OptionError(
                f"{' '.join(flags)} starts from a student that was distilled before, dense and in "
                "floating point. Distil it first, then add: --init-checkpoint STUDENT"
            )

    @property
    def peak_lr(self) -> float:
        """The peak learning rate: the one given, or the default of this kind of training."""
        if self.lr is not None:
            return self.lr
        if self.sparse:
            return SPARSE_LR
        if self.qat:
            return QAT_LR
        if self.fits_projection:
            return FITTED_LR
        return MUON_LR if self.optimizer_name == "muon" else LR

    @property
    def optimizer_name(self) -> OptimizerName:
        """The optimizer: the one given, or the default of this kind of training."""
        return self.optimizer or ("muon" if self.starts_random else "adamw")

    @property
    def smallest_crop(self) -> float:
        """Smallest share of an image's area in a random crop; 1: no crops."""
        return self.crop if self.crop is not None else CROP if self.starts_random else 1.0

    @property
    def resolved(self) -> dict[str, Any]:
        """The settings whose defaults depend on the kind of training, as they are used."""
        return {
            "lr": self.peak_lr,
            "optimizer": self.optimizer_name,
            "crop": self.smallest_crop,
        }

    def stages(self) -> tuple[DistillOptions, ...]:
        """The trainings, one after the other: with --sparse and --qat first 2:4, then INT8."""
        if not (self.sparse and self.qat):
            return (self,)
        sparse = replace(self, qat=False)
        int8 = replace(
            self,
            sparse=False,
            lr=self.peak_lr * QAT_LR / SPARSE_LR,
            num_epochs=max(1, round(QAT_SHARE * self.num_epochs)),
        )
        return sparse, int8

    @property
    def compresses(self) -> bool:
        """Whether the student becomes sparse, INT8 or both."""
        return self.sparse or self.qat

    @property
    def starts_from_file(self) -> bool:
        """Whether the first weights are those of a file."""
        return self.init_checkpoint is not None or self.student_weights is not None

    @property
    def starts_pretrained(self) -> bool:
        """Whether it starts from pretrained weights with a new projection."""
        pretrained = self.pretrained or self.student_weights is not None
        return pretrained and self.init_checkpoint is None

    @property
    def starts_random(self) -> bool:
        """Whether it starts from random weights."""
        return not (self.pretrained or self.starts_from_file or self.compresses)

    @property
    def fits_projection(self) -> bool:
        """Whether the projection is fitted before the training."""
        return self.fit_projection and self.starts_pretrained

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is learnt: equal for a run and its resumption."""
        left_out = NOT_IDENTITY if self.compresses else (*NOT_IDENTITY, *COMPRESSING)
        if self.views is None:  # which views are stored is part of the data
            left_out = (*left_out, "views")
        if not self.starts_pretrained:
            left_out = (*left_out, "fit_projection")
        settings = {**self.to_json(), **self.resolved}
        if self.sparse and self.qat:
            settings[INT8_EPOCHS] = self.stages()[-1].num_epochs
        return {k: v for k, v in settings.items() if k not in left_out}
