"""A student pruned to 2:4 in several ways, without any training: how near it stays to its teacher.

    python benchmarks/pruning.py runs/student photos runs/embeddings [--prompts refined.npy]

Measured on the images that were held out when the student was trained, with `--seed`: the mean
cosine with the teacher's embeddings and, with class vectors, how often both choose the same label.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from reporting import write_report
from torch.nn.functional import normalize

from clipdistill.distillation.batches import split_rows
from clipdistill.formats.matched import match_embeddings
from clipdistill.formats.text import load_text
from clipdistill.images.loading import load_pixels, stack
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import Listing, list_images
from clipdistill.models.compression import reconstruction
from clipdistill.models.compression.sparsity import prune
from clipdistill.models.student import load_student
from clipdistill.models.torch_embedder import to_input

BATCH = 64


def main() -> None:
    """Prune, measure, report."""
    asked = parse()
    card, embedder = load_student(asked.student, device="cpu", precision="fp32")
    pairs = match_embeddings(list_images(asked.images), asked.embeddings)
    train, held_out = split_rows(list(pairs.items.keys), asked.val_fraction, asked.seed)
    shown = np.random.default_rng(asked.seed).choice(train, asked.calibration_images, replace=False)
    sample = inputs(pairs.items, shown, card.preprocess)
    seen = inputs(pairs.items, held_out, card.preprocess)
    targets = normalize(torch.tensor(pairs.targets[held_out].astype(np.float32)), dim=1)
    classes = None if asked.prompts is None else torch.tensor(load_text(asked.prompts).vectors)
    size = card.preprocess.size

    def batches() -> Iterable[torch.Tensor]:
        return sample.split(BATCH)

    def smaller(network: torch.nn.Module) -> None:
        prune(network, size)

    def smaller_and_norms(network: torch.nn.Module) -> None:
        prune(network, size)
        reconstruction._estimate_norms(network, batches())

    def compensated(network: torch.nn.Module) -> None:
        norms = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
        prune(network, size, batches)
        network.load_state_dict(norms, strict=False)

    def both(network: torch.nn.Module) -> None:
        prune(network, size, batches)

    ways = {
        "dense": lambda _: None,
        "the smaller half": smaller,
        "the smaller half, batch norms estimated again": smaller_and_norms,
        "compensated": compensated,
        "compensated, batch norms estimated again (`distill --sparse`)": both,
    }
    lines = []
    for name, way in ways.items():
        network = copy.deepcopy(embedder.module).eval()
        way(network)
        cosine, agreement = measured(network, seen, targets, classes)
        lines.append([name, f"{cosine:.3f}", "" if agreement is None else f"{agreement:.1%}"])
        print(lines[-1], flush=True)
    notes = [
        f"{card.arch} at {size} px; {len(held_out)} held-out images; {len(shown)} to look at.",
    ]
    columns = ["pruned", "cosine with the teacher", "same label"]
    write_report("pruning", "2:4 without training", notes, columns, lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("student", "images", "embeddings"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--val-fraction", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def inputs(items: Listing, rows: NDArray[np.intp], preprocess: Preprocess) -> torch.Tensor:
    """The pixels of some images as the network takes them, float32 (n, 3, S, S)."""
    loaded = list(load_pixels([items[int(row)] for row in rows], preprocess, workers=1))
    found = to_input(torch.from_numpy(stack(loaded)), preprocess)
    return found.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def measured(
    network: torch.nn.Module,
    seen: torch.Tensor,
    targets: torch.Tensor,
    classes: torch.Tensor | None,
) -> tuple[float, float | None]:
    """Mean cosine with unit targets (n, D), and the share of equal labels."""
    found = torch.cat([normalize(network(some), dim=1) for some in seen.split(BATCH)])
    cosine = float((found * targets).sum(1).mean())
    if classes is None:
        return cosine, None
    same = (found @ classes.T).argmax(1) == (targets @ classes.T).argmax(1)
    return cosine, float(same.float().mean())


if __name__ == "__main__":
    main()
