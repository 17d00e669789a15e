"""Students that are compressed without training, for tests of files and runtimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from clipdistill.formats.student import save_card, save_samples, save_weights
from clipdistill.models.compression import Compressed, add_int8, add_sparsity
from clipdistill.models.student import load_student
from clipdistill.models.torch_embedder import to_input
from conftest import draw_picture

CALM = 8.0
"""Added to every value of an embedding: random networks amplify whatever is rounded, and what is
left when the mean embedding is taken off is mostly that."""


def compress(
    student: Path,
    out: Path,
    *,
    sparse: bool = False,
    int8: bool = True,
    samples: int = 32,
    calm: float = CALM,
) -> Path:
    """Compress a student of `make_student` and save it as another."""
    card, embedder = load_student(student, precision="fp32", device="cpu")
    side = card.preprocess.size
    network = embedder.module
    linear = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    linear.bias.data += calm
    drawn = np.stack([np.asarray(draw_picture(300 + i, (side, side))) for i in range(samples)])
    done = Compressed(network)
    if sparse:
        done = add_sparsity(done, side)
    if int8:
        batch = to_input(torch.from_numpy(drawn), card.preprocess)
        done = add_int8(done, side, card.arch, [batch], samples, "max")
    out.mkdir(parents=True)
    save_weights(out, done.network.state_dict())
    save_samples(out, drawn)
    save_card(out, replace(card, compression=done.compression))
    return out
