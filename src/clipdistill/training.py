"""The losses and the one training loop.

Everything random is a function of (seed, epoch, step): the order, the mirroring, and torch's own
generator, which is seeded anew at every step.  So a run that was killed anywhere and resumed from
its last checkpoint takes exactly the same steps, bit for bit on a CPU, and no generator state has
to be saved.
"""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from timm.utils.model_ema import ModelEmaV3
from torch.utils.tensorboard import SummaryWriter

from .compression.sparsity import Masks, hold, hold_gradients
from .errors import TrainingError
from .files import writing
from .formats.cards import StudentCard
from .formats.student import (
    CHECKPOINT,
    LOG,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    write_metrics,
)
from .progress import track
from .recipe import DistillOptions
from .torch_embedder import memory_layout, to_input
from .validation import TrainingData, Validator

FINITE_CHECK_STEPS = 10
"""Steps between checks that the loss is finite (reading it makes a GPU wait); the state is only
saved at such a step, so that nothing bad is ever saved."""

LARGEST_WEIGHT = 1e18
"""Weights beyond this are as good as infinite: their squares overflow float32."""


@dataclass
class TrainingState:
    """Everything that a resumed run needs besides the model.

    Attributes:
        epoch: epochs finished.
        step: steps done of the next epoch.
        loss_sum: of those steps, weighted by images; `seen` images.
        history: a row an epoch.
        best: validation cosine of the best epoch so far.
        best_epoch: which that was; -1 before the first.
        best_model: its weights.
        before: what was measured before training (see `Trainer`).
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = -1
    best_model: dict[str, torch.Tensor] = field(default_factory=dict)
    before: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return [*self.before, *self.history]


def distillation_loss(
    criterion: str, output: torch.Tensor, target: torch.Tensor, fine: torch.Tensor
) -> torch.Tensor:
    """Mean loss over the images of a batch.

    Args:
        criterion: "cosine", "mse", "l1" or "huber" (the last three: torch's definitions, mean over
            dimensions).
        output: float (B, D), the student's.
        target: float32 (B, D), the teacher's.
        fine: float32 (B,), 1 for pictures that could be read, 0 for the others.
    """
    output = output.float()
    if criterion == "cosine":
        each = 1 - F.cosine_similarity(output, target, dim=-1)
    elif criterion == "mse":
        each = F.mse_loss(output, target, reduction="none").mean(dim=-1)
    elif criterion == "l1":
        each = F.l1_loss(output, target, reduction="none").mean(dim=-1)
    else:
        each = F.huber_loss(output, target, reduction="none").mean(dim=-1)
    return (each * fine).sum() / fine.sum().clamp(min=1)


def learning_rate(options: DistillOptions, step: int, total: int) -> float:
    """The learning rate at a step: linear warm-up, then a half cosine to zero, or constant.

    (Loshchilov & Hutter 2017, without restarts; warm-up: Goyal et al. 2017.)
    """
    warm = max(1, round(options.warmup * total)) if options.warmup > 0 else 0
    if step < warm:
        return options.peak_lr * (step + 1) / warm
    if options.schedule == "constant":
        return options.peak_lr
    progress = (step - warm) / max(1, total - warm)
    return options.peak_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def split_rows(
    names: Sequence[str], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split rows into (train, validation) by a hash of their names.

    Exactly round(fraction x N) are held out, at most half; adding pictures moves few others.
    """
    keys = [hashlib.blake2b(f"{seed}\t{name}".encode(), digest_size=8)
            .digest() for name in names]  # fmt: skip
    order = np.array(sorted(range(len(names)), key=lambda row: (keys[row], row)), dtype=np.intp)
    count = min(round(fraction * len(names)), len(names) // 2)
    return np.sort(order[count:]), np.sort(order[:count])


def batch_count(rows: int, batch_size: int, processes: int = 1) -> int:
    """How many batches `rows` make: of `batch_size` at most, but never of less than two rows a
    process, which batch normalisation could not use.
    """
    return max(1, min(math.ceil(rows / batch_size), rows // (2 * processes)))


def epoch_batches(
    rows: NDArray[np.intp], batch_size: int, seed: int, epoch: int, processes: int = 1
) -> tuple[list[NDArray[np.intp]], list[NDArray[np.bool_]]]:
    """Shuffle rows into batches whose sizes differ by one at most, and say which are mirrored.

    Every row comes exactly once.  No small rest is left (see `batch_count`).
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(rows)
    mirrored = random.random(len(rows)) < 0.5
    count = batch_count(len(rows), batch_size, processes)
    return np.array_split(order, count), np.array_split(mirrored, count)


class Trainer:
    """One training run: `Trainer(...).run()`.

    Args:
        accelerator: device, precision and processes.
        network: with its initial weights.
        data: what is learnt from.
        card: what is trained.
        out: the student's folder.
        options: how to train.
        masks: weights that are held at zero (2:4 sparsity).
        before: what was measured before training, a row a state of the network.
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
        masks: Masks | None = None,
        before: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.accelerator = accelerator
        self.data = data
        self.card = card
        self.out = out
        self.options = options
        self.device = accelerator.device
        self.masks = self._here(masks or {})
        self.validator = Validator(accelerator, data, card.preprocess, options.batch_size)
        self.layout = memory_layout(network)
        network = network.to(self.device).to(memory_format=self.layout)
        self.ema = self._make_ema(network)
        optimizer = make_optimizer(network, options)
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.state = TrainingState(before=list(before))
        self.steps = batch_count(len(data.train), options.batch_size, accelerator.num_processes)
        self.writer: SummaryWriter | None = None
        self._saved = time.monotonic()

    def run(self) -> TrainingState:
        """Train to the end (or go on from the checkpoint in the output folder).

        Raises:
            TrainingError: the loss is no longer finite.
        """
        self._resume()
        if self.accelerator.is_main_process:
            with writing(self.out / LOG):
                self.writer = SummaryWriter(str(self.out / LOG), purge_step=self.state.epoch)
        try:
            total = self.options.num_epochs * len(self.data.train)
            before = self.state.epoch * len(self.data.train) + self.state.seen
            with track("distil", total, "images", done=before) as step:
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
        state, options = self.state, self.options
        self.network.train()
        start, first = time.monotonic(), state.seen
        running = torch.zeros((), device=self.device)
        for step, pixels, targets, fine, size in self._batches():
            done, total = state.epoch * self.steps + step, options.num_epochs * self.steps
            rate = learning_rate(options, done, total)
            loss = self._step(step, rate, pixels, targets, fine, size)
            running += loss.detach() * size
            state.step, state.seen = step + 1, state.seen + size
            progress(size, self._note())
            last = state.step == self.steps
            if state.step % FINITE_CHECK_STEPS == 0 or last:
                self._add_finite(running, rate)
                running = torch.zeros((), device=self.device)
                if self._due() and not last:
                    self._check_weights(rate)
                    self._save()
        images = state.seen - first
        self._finish_epoch(images / max(1e-9, time.monotonic() - start), rate)

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
        loss = distillation_loss(self.options.criterion, output, targets, fine)
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
        batches, mirrors = epoch_batches(
            self.data.train, options.batch_size, options.seed, state.epoch, world
        )

        def load(step: int) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, int]:
            rows = np.array_split(batches[step], world)[rank]
            mirror = np.array_split(mirrors[step], world)[rank] & options.flip
            pixels, fine = self.data.pixels.gather(rows)
            pixels[mirror] = pixels[mirror, :, ::-1]
            targets = np.asarray(self.data.targets[rows], dtype=np.float32)
            arrays = (pixels, targets, fine.astype(np.float32))
            tensors = [torch.from_numpy(array) for array in arrays]
            if self.device.type == "cuda":
                tensors = [tensor.pin_memory() for tensor in tensors]
            return step, tensors[0], tensors[1], tensors[2], len(batches[step])

        for step, *tensors, size in _ahead(load, range(state.step, len(batches))):
            pixels, targets, fine = (t.to(self.device, non_blocking=True) for t in tensors)
            ready = to_input(pixels, self.card.preprocess).contiguous(memory_format=self.layout)
            yield step, ready, targets, fine, size

    def _add_finite(self, running: torch.Tensor, rate: float) -> None:
        """Add the losses since the last check, or stop.

        Raises:
            TrainingError: they are not finite.
        """
        value = float(running)
        if not math.isfinite(value):
            raise self._not_finite("The loss", rate)
        self.state.loss_sum += value

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
            f"{what} is no longer finite in epoch {self.state.epoch + 1}, step {self.state.step} "
            f"(learning rate {rate:.2g}, criterion {self.options.criterion}). {where} Try a lower "
            "--lr, --grad-clip 1 or --precision fp32, with another output folder and "
            "--init-checkpoint to start from what was learnt."
        )

    def _finish_epoch(self, rate: float, lr: float) -> None:
        state = self.state
        loss = state.loss_sum / max(1, state.seen)
        row: dict[str, Any] = {
            "epoch": state.epoch + 1, "loss": loss, "lr": lr, "images_per_second": rate
        }  # fmt: skip
        self._check_weights(lr)
        row.update(self.validator(self._kept_network()))
        if not math.isfinite(row.get("val_cosine", 0.0)):
            raise self._not_finite("The network's output", lr)
        # Without held-out pictures the last epoch is the best there is.
        score = row.get("val_cosine", float(state.epoch))
        if score > state.best:
            state.best, state.best_epoch = score, state.epoch
            state.best_model = {
                name: value.detach().to("cpu", copy=True).contiguous()
                for name, value in self._kept_network().state_dict().items()
            }
        state.history.append(row)
        if self.writer is not None:
            with writing(self.out / LOG):
                for name, value in row.items():
                    if name != "epoch":
                        self.writer.add_scalar(name, value, state.epoch)
        state.epoch, state.step, state.loss_sum, state.seen = state.epoch + 1, 0, 0.0, 0
        last = state.epoch == self.options.num_epochs
        if last or self._due():
            self._save()

    def _kept_network(self) -> torch.nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        if self.ema is not None:
            averaged: torch.nn.Module = self.ema.module
            return averaged
        network: torch.nn.Module = self.accelerator.unwrap_model(self.network)
        return network

    def _here(self, masks: Masks) -> Masks:
        return {name: mask.to(self.device) for name, mask in masks.items()}

    def _make_ema(self, network: torch.nn.Module) -> ModelEmaV3 | None:
        if self.options.ema_decay <= 0:
            return None
        return ModelEmaV3(network, decay=self.options.ema_decay, use_warmup=True)

    def _note(self) -> str:
        state = self.state
        parts = [f"epoch {state.epoch + 1}/{self.options.num_epochs}"]
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
        save_checkpoint(self.out, {
            "model": self.accelerator.unwrap_model(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": state.epoch - 1,  # the older scripts': the last finished epoch, from 0
            "step": state.step,
            "loss_sum": state.loss_sum,
            "seen": state.seen,
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": state.history,
            "before": state.before,
            "masks": self.masks,
            "best": {"score": state.best, "epoch": state.best_epoch, "model": state.best_model},
            "card": self.card.to_json(),
        })  # fmt: skip
        write_metrics(self.out, state.rows)

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        saved = load_checkpoint(path)
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
            history=saved["history"],
            best=best["score"],
            best_epoch=best["epoch"],
            best_model=best["model"],
            before=saved.get("before", []),
        )


def make_optimizer(network: torch.nn.Module, options: DistillOptions) -> torch.optim.Optimizer:
    """The optimiser of a recipe; adamw does not decay biases and norms, as timm does."""
    decay = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    if options.optimizer == "adamw":
        groups: list[dict[str, Any]] = [{"params": decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=options.peak_lr, weight_decay=options.weight_decay)
    everything = decay + plain
    if options.optimizer == "adam":
        return torch.optim.Adam(everything, lr=options.peak_lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        everything, lr=options.peak_lr, momentum=options.momentum, weight_decay=options.weight_decay
    )


def _step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    sequence = np.random.SeedSequence((seed, epoch, step, rank))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def _ahead(load: Any, steps: Sequence[int], depth: int = 2) -> Iterator[Any]:
    """Call `load` on each step in one thread, at most `depth` results ahead of the caller."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in steps:
                if not put((load(step), None)):
                    return
            put((None, None))
        except BaseException as error:  # handed to the caller, who raises it
            put((None, error))

    thread = threading.Thread(target=work, name="load-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if error is not None:
                raise error
            if value is None:
                return
            yield value
    finally:
        stop.set()
        thread.join()
