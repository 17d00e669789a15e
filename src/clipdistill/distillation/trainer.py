"""The losses and the one training loop.

Everything random is a function of (seed, epoch, step): the order, the mirroring, and torch's own
generator, which is seeded anew at every step.  So a run that was killed anywhere and resumed from
its last checkpoint takes exactly the same steps, bit for bit on a CPU, and no generator state has
to be saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils.model_ema import ModelEmaV3
from torch.utils.tensorboard import SummaryWriter

from ..core.errors import OutputError, TrainingError
from ..core.files import writing
from ..core.progress import track
from ..core.stopping import Stop, postponed
from ..core.wording import many
from ..formats.cards import StudentCard
from ..formats.student import (
    CHECKPOINT,
    LOG,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    write_metrics,
)
from ..models.compression.sparsity import Masks, hold, hold_gradients
from ..models.torch_embedder import memory_layout, to_input
from .augmentation import WHOLE, cropped, draw_crops
from .batches import Share, _ahead, _step_seed
from .losses import LossContext, distillation_loss
from .optimizer import learning_rate, make_optimizer
from .options import DistillOptions
from .validation import TrainingData, Validator

FINITE_CHECK_STEPS = 10
"""Steps between checks that the loss is finite (reading it makes a GPU wait); the state is only
saved at such a step, so that nothing bad is ever saved."""

ANCHORS = 1024
"""Embeddings that the loss "anchors" compares with."""

LARGEST_WEIGHT = 1e18
"""Weights beyond this are as good as infinite: their squares overflow float32."""


@dataclass
class TrainingState:
    """Everything that a resumed run needs besides the model.

    Attributes:
        epoch: epochs finished.
        step: steps done of the next epoch.
        loss_sum: of those steps, weighted by images; `seen` images.
        pending: the same of the steps since the last check; not yet in `loss_sum`.
        history: a row an epoch.
        best: validation cosine of the best state so far.
        best_epoch: its epoch, as an index of `history`; -1: the network before training.
        best_model: its weights.
        before: what was measured before training (see `Start`).
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    pending: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = -1
    best_model: dict[str, torch.Tensor] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return [*self.before, *self.history]

    @property
    def earlier_epochs(self) -> int:
        """Epochs of the training before this one: of 2:4 before INT8."""
        return max((row["epoch"] for row in self.before), default=0)

    @property
    def epochs(self) -> int:
        """Epochs finished, of all trainings."""
        return self.earlier_epochs + self.epoch

    @property
    def kept(self) -> dict[str, Any]:
        """The row of the state that is kept: the best epoch, or the network before training."""
        return self.before[-1] if self.best_epoch < 0 else self.history[self.best_epoch]


@dataclass(frozen=True)
class Start:
    """What a training begins with, besides the network.

    Attributes:
        masks: weights that are held at zero (2:4 sparsity).
        rows: what was measured before, a row per state of the network, the last as it begins; also
            the epochs of an earlier training.
        counts: whether the network as it begins is kept where no epoch is better.
    """

    masks: Masks = field(default_factory=dict)
    rows: Sequence[dict[str, Any]] = ()
    counts: bool = False

    @property
    def score(self) -> float:
        """Validation cosine that an epoch has to exceed to be kept."""
        score = self.rows[-1].get("val_cosine", -math.inf) if self.counts else -math.inf
        return score if math.isfinite(score) else -math.inf


class Trainer:
    """One training run: `Trainer(...).run()`.

    Args:
        accelerator: device, precision and processes.
        network: with its initial weights.
        data: what is learnt from.
        card: what is trained.
        out: the student's folder.
        options: how to train.
        start: what it begins with; not needed to resume.
        resume: whether the checkpoint in `out`, if any, is of this training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: torch.nn.Module,
        data: TrainingData,
        card: StudentCard,
        out: Path,
        options: DistillOptions,
        *,
        start: Start = Start(),
        resume: bool = True,
    ) -> None:
        self.accelerator = accelerator
        self.data = data
        self.card = card
        self.out = out
        self.options = options
        self.device = accelerator.device
        self.masks = self._here(start.masks)
        self.validator = Validator(accelerator, data, card.preprocess, options.batch_size)
        self.layout = memory_layout(network)
        network = network.to(self.device).to(memory_format=self.layout)
        self.state = TrainingState(before=list(start.rows), best=start.score)
        if start.score > -math.inf:
            self.state.best_model = _copied(network)
        self.resume = resume
        self.ema = self._make_ema(network)
        optimizer = make_optimizer(network, options)
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.steps = data.order.steps(accelerator.num_processes)
        self.anchors = self._anchors() if options.criterion == "anchors" else None
        self.writer: SummaryWriter | None = None
        self._saved = time.monotonic()
        self._stop = Stop()

    def run(self) -> TrainingState:
        """Train to the end (or go on from the checkpoint in the output folder).

        Ctrl-C lets the current step finish, and saves the state.

        Raises:
            TrainingError: the loss is no longer finite.
            KeyboardInterrupt: it was stopped.
        """
        if self.resume:
            self._resume()
        if self.accelerator.is_main_process:
            with writing(self.out / LOG):
                self.writer = SummaryWriter(str(self.out / LOG), purge_step=self.state.epochs)
        try:
            total = self.options.num_epochs * len(self.data.train)
            before = self.state.epoch * len(self.data.train) + self.state.seen
            with (
                postponed() as self._stop,
                track("distil", total, "images", done=before) as step,
            ):
                while self.state.epoch < self.options.num_epochs:
                    self._epoch(step)
        finally:
            if self.writer is not None:
                with writing(self.out / LOG):
                    self.writer.close()
        if self.accelerator.is_main_process:
            save_weights(self.out, self.state.best_model)
            write_metrics(self.out, self.state.rows)
        self.accelerator.wait_for_everyone()
        return self.state

    def _epoch(self, progress: Any) -> None:
        state = self.state
        self.network.train()
        start, first = time.monotonic(), state.seen
        running = torch.tensor(state.pending, device=self.device)
        for step, pixels, targets, fine, size in self._batches():
            rate = self._rate(step)
            loss = self._step(step, rate, pixels, targets, fine, size)
            running += loss.detach() * size
            state.step, state.seen = step + 1, state.seen + size
            progress(size, self._note())
            last = state.step == self.steps
            checked = state.step % FINITE_CHECK_STEPS == 0 or last
            if checked:
                self._add_finite(running, rate)
                running = torch.zeros((), device=self.device)
                if self._due() and not last:
                    self._check_weights(rate)
                    self._save()
            if self._asked_to_stop(checked):
                state.pending = self._finite(running, rate)
                self._save_and_stop(rate)
        images = state.seen - first
        self._finish_epoch(images / max(1e-9, time.monotonic() - start), self._rate(self.steps - 1))

    def _rate(self, step: int) -> float:
        """The learning rate of a step of the current epoch."""
        done = self.state.epoch * self.steps + step
        return learning_rate(self.options, done, self.options.num_epochs * self.steps)

    def _asked_to_stop(self, checked: bool) -> bool:
        """Whether to stop now; several processes do so together, at a step of checks."""
        if self.accelerator.num_processes == 1:
            return self._stop.asked
        if not checked:
            return False
        asked = torch.tensor(float(self._stop.asked), device=self.device)
        return float(self.accelerator.reduce(asked, "sum")) > 0

    def _save_and_stop(self, rate: float) -> None:
        """Save the state as it is after a step.

        Raises:
            KeyboardInterrupt: always.
            TrainingError: the weights are not finite.
        """
        self._check_weights(rate)
        self._save()
        raise KeyboardInterrupt

    def _step(
        self,
        step: int,
        rate: float,
        pixels: torch.Tensor,
        targets: torch.Tensor,
        fine: torch.Tensor,
        size: int,
    ) -> torch.Tensor:
        """One optimiser step; returns this step's mean loss over all processes' images."""
        rank = self.accelerator.process_index
        torch.manual_seed(_step_seed(self.options.seed, self.state.epoch, step, rank))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            output = self.network(pixels)
        context = LossContext(fine, self.anchors)
        loss = distillation_loss(self.options.criterion, output, targets, context)
        # Processes average their gradients; shares of unequal size are weighted to the true mean.
        world = self.accelerator.num_processes
        weighted = loss * (len(pixels) * world / size)
        self.accelerator.backward(weighted)
        plain = self.accelerator.unwrap_model(self.network)
        hold_gradients(plain, self.masks)
        if self.options.grad_clip > 0:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.options.grad_clip)
        self.optimizer.step()
        hold(plain, self.masks)
        if self.ema is not None:
            whole = self.state.epoch * self.steps + step
            self.ema.update(plain, step=whole)
            hold(self.ema.module, self.masks)
        mean: torch.Tensor = weighted.detach()
        return self.accelerator.reduce(mean, "mean") if world > 1 else mean

    def _batches(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, int]]:
        """This process's share of the epoch's remaining batches, loaded ahead in a thread."""
        options, state = self.options, self.state
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        views = self.data.views

        def load(share: Share) -> tuple[Share, list[torch.Tensor]]:
            rows, numbers = share.rows, share.shown
            # Views have been mirrored before the teacher embedded them.
            mirror = share.mirrored & options.flip & (numbers == 0)
            pixels, fine = self.data.pixels.gather(rows, numbers, share.items)
            pixels[mirror] = pixels[mirror, :, ::-1]
            targets = np.asarray(self.data.targets[rows], dtype=np.float32)
            if views is not None:
                seen = np.flatnonzero(numbers)
                every = views.embeddings(rows[seen])
                targets[seen] = every[np.arange(len(seen)), numbers[seen] - 1]
            arrays = (pixels, targets, fine.astype(np.float32))
            tensors = [torch.from_numpy(array) for array in arrays]
            if self.device.type == "cuda":
                tensors = [tensor.pin_memory() for tensor in tensors]
            return share, tensors

        shares = self.data.order.shares(state.epoch, rank, world, state.step)
        for share, tensors in _ahead(load, shares):
            pixels, targets, fine = (t.to(self.device, non_blocking=True) for t in tensors)
            ready = to_input(pixels, self.card.preprocess)
            if options.smallest_crop < 1:
                ready = cropped(ready, self._crops(share))
            ready = ready.contiguous(memory_format=self.layout)
            yield share.step, ready, targets, fine, share.size

    def _crops(self, share: Share) -> torch.Tensor:
        """The crops of a share's images in this epoch, float32 (B, 4); views are shown whole."""
        options = self.options
        crops = draw_crops(share.rows, options.smallest_crop, options.seed, self.state.epoch)
        crops[share.shown > 0] = WHOLE
        return torch.from_numpy(crops).to(self.device)

    def _add_finite(self, running: torch.Tensor, rate: float) -> None:
        """Add the losses since the last check, or stop.

        Raises:
            TrainingError: they are not finite.
        """
        self.state.loss_sum += self._finite(running, rate)
        self.state.pending = 0.0

    def _finite(self, running: torch.Tensor, rate: float) -> float:
        """Return a sum of losses, or stop.

        Raises:
            TrainingError: it is not finite.
        """
        value = float(running)
        if not math.isfinite(value):
            raise self._not_finite("The loss", rate)
        return value

    def _check_weights(self, rate: float) -> None:
        """Check the weights before they are saved: the last step may have spoilt them.

        Raises:
            TrainingError: they are not finite.
        """
        state = self.accelerator.unwrap_model(self.network).state_dict().values()
        # (NaN is not below anything.)
        if not all(bool((value.abs() < LARGEST_WEIGHT).all()) for value in state):
            raise self._not_finite("The network", rate)

    def _not_finite(self, what: str, rate: float) -> TrainingError:
        kept = self.out / CHECKPOINT
        where = f"The last good state is kept in {kept}." if kept.is_file() else "None was saved."
        return TrainingError(
            f"{what} is no longer finite in epoch {self.state.epochs + 1}, step {self.state.step} "
            f"(learning rate {rate:.2g}, criterion {self.options.criterion}). {where} Try a lower "
            "--lr. --grad-clip 1 and --precision fp32 can help as well. Use another output folder; "
            "--init-checkpoint starts from what was learnt."
        )

    def _finish_epoch(self, rate: float, lr: float) -> None:
        state = self.state
        loss = state.loss_sum / max(1, state.seen)
        row: dict[str, Any] = {
            "epoch": state.epochs + 1,
            "loss": loss,
            "lr": lr,
            "images_per_second": rate,
        }
        self._check_weights(lr)
        alone = self.accelerator.num_processes == 1

        def between() -> None:
            if alone and self._stop.asked:
                self._save_and_stop(lr)

        row.update(self.validator(self._kept_network(), between))
        if not math.isfinite(row.get("val_cosine", 0.0)):
            raise self._not_finite("The network's output", lr)
        # Without held-out images the last epoch is the best there is.
        score = row.get("val_cosine", float(state.epoch))
        if score > state.best:
            state.best, state.best_epoch = score, state.epoch
            state.best_model = _copied(self._kept_network())
        state.history.append(row)
        if self.writer is not None:
            with writing(self.out / LOG):
                for name, value in row.items():
                    if name != "epoch":
                        self.writer.add_scalar(name, value, state.epochs)
        state.epoch, state.step, state.loss_sum, state.seen = state.epoch + 1, 0, 0.0, 0
        last = state.epoch == self.options.num_epochs
        if last or self._due():
            self._save()
        if not last and self._asked_to_stop(True):
            self._save_and_stop(lr)

    def _kept_network(self) -> torch.nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        if self.ema is not None:
            averaged: torch.nn.Module = self.ema.module
            return averaged
        network: torch.nn.Module = self.accelerator.unwrap_model(self.network)
        return network

    def _anchors(self) -> torch.Tensor:
        """A seeded sample of the teacher's embeddings: float32 (A, D) of unit length."""
        random = np.random.default_rng((self.options.seed, ANCHORS))
        count = min(ANCHORS, len(self.data.train))
        rows = np.sort(random.choice(self.data.train, count, replace=False))
        vectors = torch.from_numpy(np.asarray(self.data.targets[rows], dtype=np.float32))
        return torch.nn.functional.normalize(vectors, dim=-1).to(self.device)

    def _here(self, masks: Masks) -> Masks:
        return {name: mask.to(self.device) for name, mask in masks.items()}

    def _make_ema(self, network: torch.nn.Module) -> ModelEmaV3 | None:
        if self.options.ema_decay <= 0:
            return None
        return ModelEmaV3(network, decay=self.options.ema_decay, use_warmup=True)

    def _note(self) -> str:
        state = self.state
        total = state.earlier_epochs + self.options.num_epochs
        parts = [f"epoch {state.epochs + 1}/{total}"]
        if state.history:
            row = state.history[-1]
            measured = (("cosine", "val_cosine"), ("agreement", "val_agreement"))
            parts += [f"{name} {row[key]:.3f}" for name, key in measured if key in row]
        return ", ".join(parts)

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self.options.checkpoint_seconds

    def _save(self) -> None:
        """Write checkpoint and metrics; every process calls this."""
        self._saved = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        state = self.state
        scaler = self.accelerator.scaler
        save_checkpoint(
            self.out,
            {
                "model": self.accelerator.unwrap_model(self.network).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": state.epoch - 1,  # the older scripts': the last finished epoch, from 0
                "step": state.step,
                "steps": self.steps,
                "loss_sum": state.loss_sum,
                "seen": state.seen,
                "pending": state.pending,
                "ema": None if self.ema is None else self.ema.module.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "history": state.history,
                "before": state.before,
                "masks": self.masks,
                "best": {"score": state.best, "epoch": state.best_epoch, "model": state.best_model},
                "card": self.card.to_json(),
            },
        )
        write_metrics(self.out, state.rows)

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        saved = load_checkpoint(path)
        if saved.get("steps", self.steps) != self.steps:
            raise OutputError(
                f"{path} was saved in epochs of {saved['steps']} steps; with "
                f"{many(self.accelerator.num_processes, 'process')} and --batch-size "
                f"{self.options.batch_size} an epoch has {self.steps}, because each process needs "
                "two images per step. Start as many processes as before."
            )
        self.accelerator.unwrap_model(self.network).load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None and saved["ema"] is not None:
            self.ema.module.load_state_dict(saved["ema"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.masks = self._here(saved.get("masks", {}))
        best = saved["best"]
        self.state = TrainingState(
            epoch=saved["epoch"] + 1,
            step=saved["step"],
            loss_sum=saved["loss_sum"],
            seen=saved["seen"],
            pending=saved.get("pending", 0.0),
            history=saved["history"],
            best=best["score"],
            best_epoch=best["epoch"],
            best_model=best["model"],
            before=saved.get("before", []),
        )


def _copied(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in network.state_dict().items()
    }
