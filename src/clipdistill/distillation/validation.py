"""Measure how close a network is to its teacher on held-out images, without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray

from ..core.vectors import Vectors
from ..formats.text import TextEmbeddings
from ..formats.views import Views
from ..images.pixels import PixelCache
from ..images.preprocess import Preprocess
from ..models.torch_embedder import memory_layout, to_input
from .batches import Order


@dataclass(frozen=True)
class TrainingData:
    """What is learnt from.

    Attributes:
        pixels: the images, by row.
        targets: float (N, D), the teacher's embeddings of the same rows, on the disk.
        train: int, rows to learn from.
        val: int, rows held out (may be empty).
        order: of the rows to learn from, in every epoch.
        text: class list for the agreement with the teacher; None: not measured.
        views: of the images, with the teacher's embedding of each; None: none are replayed.
    """

    pixels: PixelCache
    targets: Vectors
    train: NDArray[np.intp]
    val: NDArray[np.intp]
    order: Order
    text: TextEmbeddings | None
    views: Views | None = None


class Validator:
    """Measures networks on the held-out rows: `Validator(...)(network)`."""

    def __init__(
        self, accelerator: Accelerator, data: TrainingData, preprocess: Preprocess, batch_size: int
    ) -> None:
        self.accelerator = accelerator
        self.data = data
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.device = accelerator.device
        self._text: torch.Tensor | None = None
        if data.text is not None:
            self._text = torch.from_numpy(data.text.vectors).to(self.device)

    def __call__(
        self, network: torch.nn.Module, between: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Measure a network, which is put into eval mode; all processes call this.

        Args:
            network: the network.
            between: called before every batch.

        Returns:
            "val_cosine": mean cosine with the teacher's embeddings; with a class list also
            "val_agreement": how often both choose the same label.  Empty without held-out rows.
        """
        if not len(self.data.val):
            return {}
        network.eval()
        if self.accelerator.num_processes > 1:
            # Each process has batch norm statistics of its own; the first one's are kept.
            for buffer in network.buffers():
                broadcast(buffer)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        # Neighbours lie in the same tar, so each process reads its own part.
        parts = np.array_split(self.data.val, self.accelerator.num_processes)
        mine = parts[self.accelerator.process_index]
        size = max(1, self.batch_size)
        for start in range(0, len(mine), size):
            between()
            sums += self._batch(network, mine[start : start + size])
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, "sum")
        count, cosine, same = sums.tolist()
        result = {"val_cosine": cosine / max(1, count)}
        if self._text is not None:
            result["val_agreement"] = same / max(1, count)
        return result

    @torch.inference_mode()
    def _batch(self, network: torch.nn.Module, rows: NDArray[np.intp]) -> torch.Tensor:
        pixels, fine = self.data.pixels.gather(rows)
        inputs = to_input(torch.from_numpy(pixels).to(self.device), self.preprocess)
        with self.accelerator.autocast():
            output = network(inputs.contiguous(memory_format=memory_layout(network)))
        mask = torch.from_numpy(fine).to(self.device)
        student = F.normalize(output.float(), dim=-1)[mask]
        stored = np.asarray(self.data.targets[rows], dtype=np.float32)
        teacher = F.normalize(torch.from_numpy(stored).to(self.device), dim=-1)[mask]
        cosine = (student * teacher).sum(dim=-1).double().sum()
        same = torch.zeros_like(cosine)
        if self._text is not None:
            choices = (student @ self._text.T).argmax(1), (teacher @ self._text.T).argmax(1)
            same = (choices[0] == choices[1]).double().sum()
        return torch.stack([mask.double().sum(), cosine, same])
